"""The folders that travel between the head of a cluster and its nodes."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner.environments import TransferError
from runner.executors.ray import folders
from runner.executors.ray.folders import (
    FolderTooLarge,
    IncomingTrial,
    OutgoingFiles,
    archive_parts,
    pack_folder,
    unpack_folder,
)
from runner.results.layout import TrialFiles
from runner.tasks import content_digest

FILES = st.dictionaries(st.from_regex(r"[a-z]{1,5}(/[a-z]{1,5})?", fullmatch=True), st.binary(), max_size=5)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(FILES)
def test_a_task_has_the_same_digest_on_a_node(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]
):
    root = tmp_path_factory.mktemp("task")
    source, target = root / "source", root / "target"
    source.mkdir()
    for name, content in files.items():
        path = source / name
        if path.parent.is_file() or path.is_dir():
            continue
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    unpack_folder(pack_folder(source), target)
    assert content_digest(source) == content_digest(target)


def incoming(root: Path) -> IncomingTrial:
    trial = IncomingTrial(TrialFiles(root / "job" / "trial"))
    trial.begin()
    return trial


def test_a_folder_replaces_what_came_while_the_trial_ran(tmp_path: Path):
    source = tmp_path / "node" / "trial"
    (source / "agent").mkdir(parents=True)
    (source / "result.json").write_text("{}")
    (source / "agent" / "large").write_bytes(os.urandom(9 * 1024 * 1024))
    trial = incoming(tmp_path)
    trial.write_part("trial.log", 0, b"one\n")
    trial.write_part("trial.log", 4, b"two\n")
    assert (tmp_path / "job/trial/trial.log").read_bytes() == b"one\ntwo\n"
    for part in archive_parts(source):
        trial.add(part)
    trial.finish()
    found = sorted(path.relative_to(tmp_path / "job").as_posix() for path in (tmp_path / "job").rglob("*"))
    assert found == ["trial", "trial/agent", "trial/agent/large", "trial/result.json"]
    assert (tmp_path / "job/trial/agent/large").stat().st_size == 9 * 1024 * 1024


@pytest.mark.parametrize("name", ["../out", "/etc/out", "result.json", "agent/../../out", "agent/other"])
def test_only_the_log_and_the_trajectory_come_early(tmp_path: Path, name: str):
    incoming(tmp_path).write_part(name, 0, b"x")
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert written == [] and not Path("/etc/out").exists()


def archive(*members: tuple[str, bytes, str]) -> bytes:
    """An archive with members of the given types: file, link to, or device."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.mode = kind, content, 0o6777
            if kind == tarfile.REGTYPE:
                info.linkname, info.size = "", len(content)
            tar.addfile(info, io.BytesIO(content.encode()) if kind == tarfile.REGTYPE else None)
    return buffer.getvalue()


def test_a_hostile_archive_writes_nothing_outside_and_no_device(tmp_path: Path):
    outside = tmp_path / "outside"
    outside.mkdir()
    trial = incoming(tmp_path)
    trial.add(
        archive(
            ("../../escaped", tarfile.REGTYPE, "x"),
            ("/escaped", tarfile.REGTYPE, "x"),
            ("link", tarfile.SYMTYPE, str(outside)),
            ("link/escaped", tarfile.REGTYPE, "x"),
            ("device", tarfile.CHRTYPE, ""),
            ("pipe", tarfile.FIFOTYPE, ""),
            ("program", tarfile.REGTYPE, "x"),
        )
    )
    trial.finish()
    root = tmp_path / "job" / "trial"
    assert (
        not list(outside.iterdir()) and not (tmp_path / "escaped").exists() and not Path("/escaped").exists()
    )
    files = {path.name for path in root.rglob("*") if path.is_file()}
    assert "program" in files and not {"device", "pipe"} & {path.name for path in root.rglob("*")}
    assert (root / "program").stat().st_mode & 0o7022 == 0


@pytest.mark.parametrize("data", [b"", b"no archive", gzip.compress(b"no archive"), gzip.compress(b"x")[:-3]])
def test_a_broken_archive_leaves_the_folder_as_it_was(tmp_path: Path, data: bytes):
    trial = incoming(tmp_path)
    trial.write_part("trial.log", 0, b"kept")
    trial.add(data)
    with pytest.raises(TransferError):
        trial.finish()
    assert (tmp_path / "job/trial/trial.log").read_bytes() == b"kept"
    assert [path.name for path in (tmp_path / "job").iterdir()] == ["trial"]


def test_a_short_archive_of_a_long_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(folders, "MAX_FOLDER_BYTES", 1 << 20)
    trial = incoming(tmp_path)
    trial.add(archive(("zeros", tarfile.REGTYPE, "0" * (2 << 20))))
    with pytest.raises(FolderTooLarge):
        trial.finish()
    with pytest.raises(FolderTooLarge):
        incoming(tmp_path / "other").add(bytes(2 << 20))


def test_what_is_new_is_sent_once(tmp_path: Path):
    (tmp_path / "agent").mkdir()
    log, trajectory = tmp_path / "trial.log", tmp_path / "agent" / "trajectory.json"
    files = OutgoingFiles(tmp_path)
    assert list(files.parts(0)) == []
    log.write_text("one")
    trajectory.write_text("[1]")
    assert list(files.parts(1)) == [("trial.log", 0, b"one"), ("agent/trajectory.json", 0, b"[1]")]
    assert list(files.parts(2)) == []
    log.write_text("one two")
    trajectory.write_text("[1,2]")
    assert list(files.parts(3)) == [("trial.log", 3, b" two"), ("agent/trajectory.json", 0, b"[1,2]")]


def test_a_long_trajectory_is_sent_less_often(tmp_path: Path):
    (tmp_path / "agent").mkdir()
    trajectory = tmp_path / "agent" / "trajectory.json"
    files = OutgoingFiles(tmp_path)
    sent = 0
    for second in range(60):
        trajectory.write_bytes(b"x" * (1 << 20) + b"%d" % second)
        sent += sum(len(data) for _, _, data in files.parts(float(second)))
    assert sent <= 60 * 64 * 1024 + (1 << 20) + 100


def test_a_link_that_an_agent_made_is_not_followed(tmp_path: Path):
    secret = tmp_path / "secret"
    secret.write_text("of the node")
    folder = tmp_path / "trial"
    (folder / "agent").mkdir(parents=True)
    for name in ("trial.log", "agent/agent.log", "agent/trajectory.json"):
        (folder / name).symlink_to(secret)
    assert list(OutgoingFiles(folder).parts(0)) == []
