"""Paths from outside, which may lead through links that an agent created."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.results import regular_file_inside


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "root"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "file").write_text("inside")
    (tmp_path / "secret").write_text("outside")
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "folder").symlink_to(tmp_path)
    (folder / "own").symlink_to(folder / "a")
    return folder


def test_a_regular_file_is_returned(root: Path) -> None:
    assert regular_file_inside(root, "a/b/file") == root / "a" / "b" / "file"


@pytest.mark.parametrize(
    "relative",
    [
        "",
        ".",
        "..",
        "a",
        "a/b",
        "a/b/",
        "a//b/file",
        "./a/b/file",
        "a/../a/b/file",
        "../secret",
        "/etc/passwd",
        "link",
        "folder/secret",
        "own/b/file",
        "a/b/file/",
        "a/b/file\0",
        "\0",
        "nothing",
        "x" * 5000,
    ],
)
def test_anything_else_is_refused(root: Path, relative: str) -> None:
    assert regular_file_inside(root, relative) is None


@given(st.text(alphabet="a./\\\0bé link", max_size=20))
def test_no_returned_file_is_outside(relative: str) -> None:
    root = Path(__file__).parent
    path = regular_file_inside(root, relative)
    assert path is None or path.resolve().is_relative_to(root.resolve())
