"""What comes out of an environment is hostile until proven otherwise."""

import io
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner.environments.archive import pack_dirs, pack_file, unpack_dir, unpack_file
from runner.environments.base import TransferError


def archive_of(*members: tuple[tarfile.TarInfo, bytes]) -> io.BytesIO:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    buffer.seek(0)
    return buffer


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode = kind, link, mode
    return info


names = st.text(
    st.characters(blacklist_characters="/\0", blacklist_categories=["Cs"]), min_size=1, max_size=12
)


@settings(max_examples=40, deadline=None)
@given(
    files=st.dictionaries(names.filter(lambda n: n not in (".", "..")), st.binary(max_size=50), max_size=5)
)
def test_a_folder_comes_back_as_it_was(tmp_path_factory, files):
    source = tmp_path_factory.mktemp("source")
    for name, content in files.items():
        (source / name).write_bytes(content)
    target = tmp_path_factory.mktemp("target")
    buffer = io.BytesIO()
    pack_dirs({"": source}, buffer)
    buffer.seek(0)
    unpack_dir(buffer, target)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == files


def test_nothing_leaves_the_target(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("host")
    target = tmp_path / "target"
    hostile = archive_of(
        (member("../escaped"), b"x"),
        (member("/absolute"), b"x"),
        (member("out", tarfile.SYMTYPE, "../secret"), b""),
        (member("etc", tarfile.SYMTYPE, "/etc"), b""),
        (member("etc/passwd"), b"x"),
        (member("a/b/c", tarfile.DIRTYPE), b""),
        (member("a/b/c/top", tarfile.SYMTYPE, "../../.."), b""),
        (member("a/b/c/top/up", tarfile.SYMTYPE, "../secret"), b""),
        (member("hard", tarfile.LNKTYPE, "../secret"), b""),
        (member("pipe", tarfile.FIFOTYPE), b""),
        (member("null", tarfile.CHRTYPE), b""),
        (member("suid", mode=0o4777), b"x"),
        (member("fine/link", tarfile.SYMTYPE, "../suid"), b""),
    )
    unpack_dir(hostile, target)
    assert secret.read_text() == "host"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["secret", "target"]
    for path in target.rglob("*"):
        assert path.resolve().is_relative_to(target.resolve())
    assert (target / "absolute").read_text() == "x"
    assert (target / "suid").stat().st_mode & 0o7777 == 0o755
    assert (target / "fine/link").read_text() == "x"
    assert not any((target / name).exists() for name in ("out", "hard", "pipe", "null"))


def test_only_what_lies_below_the_folder_is_unpacked(tmp_path):
    tar = archive_of((member("logs/verifier/reward.txt"), b"1"), (member("logs/agent/x"), b"2"))
    unpack_dir(tar, tmp_path, "/logs/verifier")
    assert [path.name for path in tmp_path.iterdir()] == ["reward.txt"]


def test_packing_says_what_is_missing(tmp_path):
    with pytest.raises(TransferError, match="is not a folder"):
        pack_dirs({"": tmp_path / "nope"}, io.BytesIO())
    with pytest.raises(TransferError, match="cannot read"):
        pack_file(tmp_path / "nope", io.BytesIO(), "x")


def test_a_file_keeps_its_mode_and_belongs_to_root(tmp_path):
    source = tmp_path / "run.sh"
    source.write_text("#!/bin/sh\n")
    source.chmod(0o750)
    buffer = io.BytesIO()
    pack_file(source, buffer, "other")
    buffer.seek(0)
    with tarfile.open(fileobj=buffer) as tar:
        info = tar.getmembers()[0]
        assert (info.name, info.uid, info.gname, info.mode & 0o777) == ("other", 0, "root", 0o750)
    buffer.seek(0)
    unpack_file(buffer, tmp_path / "deep/copy")
    assert (tmp_path / "deep/copy").stat().st_mode & 0o777 == 0o750
    folder = io.BytesIO()
    pack_dirs({"a": tmp_path / "deep"}, folder)
    folder.seek(0)
    with pytest.raises(TransferError, match="not a regular file"):
        unpack_file(folder, tmp_path / "x")


def test_a_broken_archive_is_one_error(tmp_path):
    with pytest.raises(TransferError, match="broken"):
        unpack_dir(io.BytesIO(b"no tar at all" * 100), tmp_path / "t")
