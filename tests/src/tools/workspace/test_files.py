"""Files as bytes, by chunks and by native transfers, in every kind of container."""

from __future__ import annotations

import asyncio
import os
import random
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from src.config import Settings
from src.tools.workspace import FileStat, ForbiddenPath, Workspace, WorkspaceError, files
from src.tools.workspace.paths import is_forbidden, resolve
from tests.src.tools.workspace.conftest import opened
from tests.src.tools.workspace.doubles import ProcessEnvironment

CONTAINERS = ("full", "dash", "busybox", "bare")
BIG = random.Random(1).randbytes(3_000_000)
ODD_NAMES = [
    "-n", " a  b ", "q'uo\"te", "$HOME", "`x`", "new\nline\n", "\\", "é中", "\udcff\udc80",
    "*", "a|b;c&d", "%s%%",
]  # fmt: skip

examples = hypothesis_settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
names = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=40
).filter(lambda name: name not in (".", ".."))


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@dataclass
class FileEnvironment(ProcessEnvironment):
    """An environment with Harbor's transfers. `damage` truncates them or makes them fail."""

    transfers: list[str] = field(default_factory=list)
    damage: str = ""

    async def upload_file(self, source_path: Path | str, target_path: str) -> None:
        self.transfers.append("up")
        self._carry(Path(source_path), Path(target_path))

    async def download_file(self, source_path: str, target_path: Path | str) -> None:
        self.transfers.append("down")
        self._carry(Path(source_path), Path(target_path))

    def _carry(self, source: Path, target: Path) -> None:
        if self.damage == "raise":
            raise RuntimeError("no space left on device")
        data = source.read_bytes()
        target.write_bytes(data[:1000] if self.damage == "cut" else data)


@pytest.fixture
def file_environment(task_folder: Path) -> FileEnvironment:
    return FileEnvironment(task_folder)


@pytest.fixture
async def file_workspace(file_environment: FileEnvironment, settings: Settings) -> AsyncIterator[Workspace]:
    async for workspace in opened(file_environment, settings):
        yield workspace


@given(name=names, data=st.binary(max_size=500))
@examples
async def test_any_bytes_under_any_name(any_workspace: Workspace, name: str, data: bytes) -> None:
    if len(name.encode()) > 200:
        name = name[:50]
    await any_workspace.write_bytes(name, data)
    assert await any_workspace.read_bytes(name) == data
    found = await any_workspace.stat(name)
    assert found is not None
    assert (found.kind, found.size) == ("file", len(data))
    await any_workspace.remove(name)
    assert await any_workspace.stat(name) is None


async def test_odd_names(any_workspace: Workspace, task_folder: Path) -> None:
    for name in ODD_NAMES:
        path = f"{name}/{name}"
        await any_workspace.write_bytes(path, b"1")
        assert (task_folder / name / name).read_bytes() == b"1"
    listed = [entry.path for entry in await any_workspace.list_dir(".", depth=2)]
    assert listed == sorted(path for name in ODD_NAMES for path in (name, f"{name}/{name}"))


async def test_sizes_around_every_boundary(any_workspace: Workspace, task_folder: Path) -> None:
    for size in (0, 1, 4095, 4096, 22_000, 23_000, 68_000, 72_000, 300_000):
        await any_workspace.write_bytes("f", BIG[:size])
        assert (task_folder / "f").read_bytes() == BIG[:size]
        assert await any_workspace.read_bytes("f") == BIG[:size]


async def test_big_files_by_chunks(workspace: Workspace, environment: ProcessEnvironment) -> None:
    text = b"all work and no play\n" * 2_000_000
    await workspace.write_bytes("text", text)
    assert await workspace.read_bytes("text") == text
    await workspace.write_bytes("big", BIG)
    assert await workspace.read_bytes("big") == BIG
    assert max(len(command) for command in environment.commands) <= 96 * 1024


@pytest.mark.parametrize("damage", ["", "cut", "raise"])
async def test_big_files_by_the_environments_own_transfer(
    file_workspace: Workspace,
    file_environment: FileEnvironment,
    task_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: str,
) -> None:
    monkeypatch.setattr(files, "NATIVE_MINIMUM", 1 << 20)
    file_environment.damage = damage
    await file_workspace.write_bytes("big", BIG)
    assert (task_folder / "big").read_bytes() == BIG
    assert await file_workspace.read_bytes("big") == BIG
    assert file_environment.transfers == ["up", "down"]
    assert names_in(task_folder) == ["big"]


@given(offset=st.integers(0, 700_000), limit=st.integers(0, 200_000))
@examples
async def test_a_part_is_that_part(
    any_workspace: Workspace, task_folder: Path, offset: int, limit: int
) -> None:
    (task_folder / "f").write_bytes(BIG[:600_000])
    assert (
        await any_workspace.read_bytes("f", offset=offset, limit=limit)
        == BIG[:600_000][offset : offset + limit]
    )


async def test_a_part_transfers_little(workspace: Workspace, task_folder: Path) -> None:
    (task_folder / "f").write_bytes(BIG)
    seen: list[int] = []
    workspace._rpc._exec._function = counting(workspace._rpc._exec._function, seen)  # type: ignore[attr-defined]
    assert await workspace.read_bytes("f", offset=2_345_678, limit=100) == BIG[2_345_678:2_345_778]
    assert len(seen) == 1
    assert seen[0] < 20_000


def counting(function, seen: list[int]):  # type: ignore[no-untyped-def]
    async def counted(command: str, timeout_sec: int | None = None):  # type: ignore[no-untyped-def]
        result = await function(command, timeout_sec=timeout_sec)
        seen.append(len(result.stdout or ""))
        return result

    return counted


async def test_files_that_hide_their_size(any_workspace: Workspace) -> None:
    assert (await any_workspace.read_bytes("/proc/self/status")).startswith(b"Name:")
    assert await any_workspace.read_bytes("/proc/version", limit=5) == b"Linux"


async def test_mode_is_kept_or_set(any_workspace: Workspace, task_folder: Path) -> None:
    target = task_folder / "script"
    target.write_bytes(b"old")
    for mode in (0o755, 0o4750, 0o600, 0o444):
        target.chmod(mode)
        await any_workspace.write_bytes("script", b"new")
        assert target.stat().st_mode & 0o7777 == mode
    await any_workspace.write_bytes("script", b"new", mode=0o711)
    assert target.stat().st_mode & 0o7777 == 0o711
    await any_workspace.write_bytes("fresh", b"")
    assert (task_folder / "fresh").stat().st_mode & 0o7777 == 0o644
    await any_workspace.write_bytes("tool", BIG[:200_000], mode=0o755)
    assert (task_folder / "tool").stat().st_mode & 0o7777 == 0o755


async def test_links_are_followed(any_workspace: Workspace, task_folder: Path) -> None:
    (task_folder / "deep").mkdir()
    (task_folder / "deep/real").write_bytes(b"old")
    (task_folder / "deep/link -> 2").symlink_to("real")
    (task_folder / "link").symlink_to("deep/link -> 2")
    (task_folder / "dangling").symlink_to("deep/made\n")
    await any_workspace.write_bytes("link", b"new")
    await any_workspace.write_bytes("dangling", b"made")
    assert (task_folder / "deep/real").read_bytes() == b"new"
    assert (task_folder / "deep/made\n").read_bytes() == b"made"
    assert (task_folder / "link").is_symlink()
    assert await any_workspace.read_bytes("link") == b"new"
    found = await any_workspace.stat("link")
    assert found is not None
    assert (found.kind, found.target, found.target_kind, found.target_size) == (
        "link",
        "deep/link -> 2",
        "file",
        3,
    )
    (task_folder / "a").symlink_to("b")
    (task_folder / "b").symlink_to("a")
    with pytest.raises(WorkspaceError, match="too many symbolic links"):
        await any_workspace.write_bytes("a", b"")


async def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    workspace: Workspace, environment: ProcessEnvironment, task_folder: Path
) -> None:
    """The file-size limit stands in for a full disk."""
    environment.shell = ("bash", "-c", 'ulimit -f 100; eval "$0"')
    (task_folder / "f").write_bytes(b"old")
    for size in (110_000, 2_000_000):
        with pytest.raises(WorkspaceError, match=r"could not write all of|scratch folder"):
            await workspace.write_bytes("f", BIG[:size])
    environment.shell = ("bash", "-c")
    assert (task_folder / "f").read_bytes() == b"old"
    assert names_in(task_folder) == ["f"]


async def test_a_cancelled_write_leaves_the_old_file(workspace: Workspace, task_folder: Path) -> None:
    (task_folder / "f").write_bytes(b"old")
    for delay in (0.0, 0.02, 0.05):
        task = asyncio.create_task(workspace.write_bytes("f", BIG))
        await asyncio.sleep(delay)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (task_folder / "f").read_bytes() in (b"old", BIG)
    await asyncio.sleep(0.2)
    assert names_in(task_folder) == ["f"]


async def test_errors_say_what_is_wrong(any_workspace: Workspace, task_folder: Path) -> None:
    (task_folder / "file").write_bytes(b"")
    (task_folder / "folder").mkdir()
    os.mkfifo(task_folder / "pipe")
    cases = [
        (any_workspace.read_bytes("nothing"), "no such file or directory: .*/nothing"),
        (any_workspace.read_bytes("folder"), "folder is a directory"),
        (any_workspace.read_bytes("pipe"), "pipe is not a regular file"),
        (any_workspace.write_bytes("folder", b""), "folder is a directory"),
        (any_workspace.write_bytes("pipe", b""), "pipe is not a regular file"),
        (any_workspace.write_bytes("file/below", b""), "cannot make the folder of"),
        (any_workspace.remove("folder"), "folder is a directory"),
        (any_workspace.remove("nothing"), "no such file or directory"),
        (any_workspace.list_dir("file", depth=1), "file is not a directory"),
        (any_workspace.list_dir("nothing", depth=1), "no such file or directory"),
        (any_workspace.read_bytes(""), "the path is empty"),
        (any_workspace.read_bytes("a\0b"), "NUL"),
    ]
    for work, message in cases:
        with pytest.raises(WorkspaceError, match=message):
            await work
    assert await any_workspace.stat("nothing") is None
    assert await any_workspace.stat("folder/none/at/all") is None


async def test_list_dir(any_workspace: Workspace, task_folder: Path) -> None:
    (task_folder / "a/b/c/d").mkdir(parents=True)
    (task_folder / "a/.hidden").write_bytes(b"12")
    (task_folder / "a/..odd").write_bytes(b"123")
    (task_folder / "link").symlink_to("a")
    os.mkfifo(task_folder / "pipe")
    entries = await any_workspace.list_dir(".", depth=3)
    assert [(e.path, e.kind) for e in entries] == [
        ("a", "dir"), ("a/..odd", "file"), ("a/.hidden", "file"), ("a/b", "dir"), ("a/b/c", "dir"),
        ("link", "link"), ("pipe", "other"),
    ]  # fmt: skip
    assert {e.path: e.size for e in entries if e.kind == "file"} == {"a/.hidden": 2, "a/..odd": 3}
    assert [e.path for e in await any_workspace.list_dir("a/b", depth=1)] == ["c"]
    assert await any_workspace.list_dir("a/b/c/d", depth=5) == []


async def test_stat_of_kinds(any_workspace: Workspace, task_folder: Path) -> None:
    (task_folder / "d").mkdir(mode=0o1777)
    (task_folder / "d").chmod(0o1777)
    found = await any_workspace.stat("d")
    assert found is not None
    assert (found.kind, found.mode) == ("dir", 0o1777)
    (task_folder / "gone").symlink_to("/no/where")
    assert await any_workspace.stat("gone") == FileStat("link", 9, 0o777, "/no/where")
    found = await any_workspace.stat("/dev/null")
    assert found is not None
    assert found.kind == "other"


OFF_LIMITS = ["/tests", "/tests/x", "/solution", "/workspace/agent/agent.py", "/logs/verifier/reward.txt"]


@pytest.mark.parametrize("path", [*OFF_LIMITS, "//tests//x", "/app/../tests", "/./logs/x/../verifier"])
def test_off_limits(path: str) -> None:
    with pytest.raises(ForbiddenPath, match="off limits"):
        resolve(path, "/app")


@given(st.lists(st.sampled_from(["tests", "solution", "..", ".", "app", "logs", "verifier", ""]), max_size=8))
def test_resolve_gives_an_absolute_path_that_is_not_off_limits(parts: list[str]) -> None:
    try:
        path = resolve("/".join(parts) or ".", "/app")
    except ForbiddenPath:
        return
    assert path.startswith("/") and not path.startswith("//")
    assert ".." not in path.split("/")
    assert not is_forbidden(path)


NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "bash", "-c")
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to take another user or touch /")


@as_root
async def test_a_folder_that_takes_no_new_file(settings: Settings) -> None:
    """An existing file can be written even so, as /etc/hosts in Docker, which is a mount."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:  # some machines keep /tmp for its owner
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "theirs").write_bytes(b"old content")
        (folder / "theirs").chmod(0o666)
        (folder / "locked").write_bytes(b"secret")
        (folder / "locked").chmod(0o600)
        workspace = Workspace(ProcessEnvironment(folder, shell=NOBODY), settings=settings)
        await workspace.open()
        await workspace.write_bytes("theirs", b"new")
        assert (folder / "theirs").read_bytes() == b"new"
        for work in (
            workspace.write_bytes("locked", b"x"),
            workspace.write_bytes("fresh", b"x"),
            workspace.write_bytes("sub/fresh", b"x"),
            workspace.read_bytes("locked"),
            workspace.remove("theirs"),
        ):
            with pytest.raises(WorkspaceError, match=r"permission denied|cannot make the folder"):
                await work
        assert names_in(folder) == ["locked", "theirs"]
        await workspace.close()


@as_root
async def test_a_link_to_what_is_off_limits_is_refused(any_workspace: Workspace, task_folder: Path) -> None:
    root = Path("/solution")
    existed = root.exists()
    root.mkdir(exist_ok=True)
    try:
        (task_folder / "way").symlink_to(root)
        (task_folder / "file").symlink_to(root / "solve.sh")
        for work in (
            any_workspace.read_bytes("way/x"),
            any_workspace.read_bytes("file"),
            any_workspace.write_bytes("way/x", b""),
            any_workspace.write_bytes("file", b""),
            any_workspace.list_dir("way", depth=1),
            any_workspace.stat("way/x"),
        ):
            with pytest.raises((ForbiddenPath, WorkspaceError)):
                await work
        assert list(root.iterdir()) == [] or existed
    finally:
        if not existed:
            root.rmdir()
