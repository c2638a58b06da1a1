"""What comes out of an agent's log folder, and what does not."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.isolation.confinement import copy_logs

LIMIT = 10_000


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    return source, target


def test_files_and_folders_come_out(folders: tuple[Path, Path]):
    source, target = folders
    (source / "a" / "b").mkdir(parents=True)
    (source / "a" / "b" / "log").write_bytes(b"\0x")
    assert copy_logs(source, target, LIMIT) == []
    assert (target / "a" / "b" / "log").read_bytes() == b"\0x"


def test_links_pipes_and_huge_files_stay(folders: tuple[Path, Path], tmp_path: Path):
    source, target = folders
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (source / "link").symlink_to(secret)
    (source / "folder").symlink_to(tmp_path)
    os.mkfifo(source / "pipe")
    with (source / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    (source / "small").write_text("kept")
    told = copy_logs(source, target, LIMIT)
    assert [path.name for path in target.iterdir()] == ["small"]
    assert len(told) == 3 and any("sparse" in line for line in told)


def test_what_the_runner_wrote_is_not_replaced(folders: tuple[Path, Path]):
    source, target = folders
    (source / "stdout.txt").write_text("forged")
    (target / "stdout.txt").write_text("real")
    assert "stdout.txt" in copy_logs(source, target, LIMIT)[0]
    assert (target / "stdout.txt").read_text() == "real"


@given(st.lists(st.integers(0, 6000), max_size=8))
def test_no_more_than_the_limit_comes_out(tmp_path_factory: pytest.TempPathFactory, sizes: list[int]):
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("target")
    for number, size in enumerate(sizes):
        (source / str(number)).write_bytes(b"x" * size)
    told = copy_logs(source, target, LIMIT)
    kept = [path.stat().st_size for path in target.iterdir()]
    assert sum(kept) <= LIMIT and len(kept) + len(told) == len(sizes)
