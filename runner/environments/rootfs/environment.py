"""What the sandbox and proot have in common: this machine's programs under a root of their own.

Both use the host's programs, read-only, and a new root folder for each trial. The Dockerfile's FROM
is not used, and limits of cpus, memory and storage are not enforced: `image` says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import tempfile
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any, BinaryIO, ClassVar, Generic, Protocol, TypeVar

from runner.environments import archive
from runner.environments.base import (
    Environment,
    EnvironmentLost,
    EnvironmentSpec,
    EnvironmentStartError,
    EnvironmentStartTimeout,
    EnvironmentUnsupported,
    ExecResult,
    FileMissing,
    TransferError,
)
from runner.environments.dockerfile import Recipe, parse_dockerfile
from runner.environments.owner import PREFIX, orphaned_directories, owned_directory
from runner.environments.rootfs.tree import build_rootfs, hand_over, remove_tree
from runner.environments.shell_session import ShellSessionClosed, ShellSessionPool

UNPRIVILEGED_ID = 64613
"""uid and gid of processes that root starts, in the range that Debian and systemd leave unused."""

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MISSING = 44
_ROOT_NAMES = (None, "root", "0", 0)
_DIRECTORY_PREFIXES = (f"{PREFIX}sandbox-", f"{PREFIX}proot-")


def credentials() -> dict[str, Any]:
    """Return the arguments for a subprocess that runs as the unprivileged user, if the runner is
    root."""
    if os.geteuid() != 0:
        return {}
    return {"user": UNPRIVILEGED_ID, "group": UNPRIVILEGED_ID, "extra_groups": []}


def rootfs_refusal(spec: EnvironmentSpec) -> str | None:
    """Return why no trial of this task can run in the sandbox or proot, in one line; None if it
    can."""
    try:
        _recipe(spec)
    except EnvironmentUnsupported as error:
        return str(error)
    except EnvironmentStartError:
        pass  # broken for every kind of environment; the trial says so
    return None


def _recipe(spec: EnvironmentSpec) -> Recipe:
    """Return what to build. Raises EnvironmentUnsupported, EnvironmentStartError."""
    if spec.default_user not in _ROOT_NAMES:
        raise EnvironmentUnsupported(
            f"{spec.task_name}: user {spec.default_user!r} needs Docker; without it only root exists"
        )
    if spec.network != "none":
        raise EnvironmentUnsupported(f"{spec.task_name}: the task opts in to network, which needs Docker")
    context = spec.context_dir
    if context is not None and (context / "Dockerfile").is_file():
        if (context / ".dockerignore").exists():
            raise EnvironmentUnsupported(f"{context}/.dockerignore needs Docker; it is read by Docker alone")
        return parse_dockerfile(context / "Dockerfile")
    if spec.docker_image:
        return Recipe(spec.docker_image, "/app", {}, (), ())
    raise EnvironmentStartError(f"{context}: there is neither a Dockerfile nor a docker_image")


class Processes(Protocol):
    """The running processes of one environment, and the way to start more."""

    @property
    def alive(self) -> bool:
        """Whether more can be started."""
        ...

    async def start(self) -> None:
        """Make it ready. Raises EnvironmentStartError."""
        ...

    async def enter(
        self, command: Sequence[str], env: Mapping[str, str], *, stdin: int, stdout: int, stderr: int
    ) -> asyncio.subprocess.Process:
        """Start a process in the environment. The streams are as for `subprocess`."""
        ...

    async def stop(self) -> None:
        """Kill every process and wait until all are gone."""
        ...


class PipeStream:
    """A ByteStream over a process's pipes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._process = process
        self._stdin, self._stdout = process.stdin, process.stdout

    async def read(self) -> bytes:
        return await self._stdout.read(256 * 1024)

    async def write(self, data: bytes) -> None:
        self._stdin.write(data)
        await self._stdin.drain()

    def close(self) -> None:
        self._stdin.close()


P = TypeVar("P", bound=Processes)


class RootfsEnvironment(Environment, Generic[P]):
    """One root folder per trial. Everything in it ends with `stop` or with the runner."""

    what: ClassVar[str]
    """How the record names it, before the words about the image."""

    def __init__(self, spec: EnvironmentSpec) -> None:
        super().__init__(spec)
        self._base: Path | None = None
        self._processes: P | None = None
        self._sessions: ShellSessionPool | None = None
        self._env: dict[str, str] = {}
        self._workdir = "/app"

    @abstractmethod
    def _make_processes(self, base: Path, root: Path) -> P:
        """Return its processes, not started. `base` is a folder of this environment that holds
        `root`."""

    async def start(self) -> None:
        recipe = _recipe(self.spec)
        self._workdir = self.spec.workdir or recipe.workdir
        self._env = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", **recipe.env, **self.spec.env}
        self.image = f"{self.what}: this host's programs in place of {recipe.base_image}; no resource limits"
        try:
            async with asyncio.timeout(self.spec.build_timeout_sec):
                base, root = await asyncio.to_thread(self._build, recipe)
                self._processes = self._make_processes(base, root)
                await self._processes.start()
                self._sessions = ShellSessionPool(self._open_session)
                await self._sessions.run("true", cwd="/", env={}, timeout_sec=None, user=None)
        except TimeoutError:
            await self.stop()
            limit = self.spec.build_timeout_sec
            raise EnvironmentStartTimeout(f"{self.kind} did not start within {limit:g} s") from None
        except ShellSessionClosed as error:
            why = await self._first_words()
            await self.stop()
            raise EnvironmentStartError(f"no command can be run in {self.kind}: {why}") from error
        except BaseException:
            await self.stop()
            raise

    def _build(self, recipe: Recipe) -> tuple[Path, Path]:
        self._base = base = owned_directory(f"{PREFIX}{self.kind}-", place=_open_directory())
        base.chmod(0o711)
        root = base / "root"
        root.mkdir()
        build_rootfs(root, self.spec.context_dir, recipe)
        if credentials():
            hand_over(root, UNPRIVILEGED_ID, UNPRIVILEGED_ID)
        return base, root

    async def _open_session(self, user: str | None) -> PipeStream:
        process = await self._alive().enter(["sh", "-s"], self._env, stdin=PIPE, stdout=PIPE, stderr=DEVNULL)
        return PipeStream(process)

    async def _first_words(self) -> str:
        """Return what a process prints that cannot be started, for the error."""
        process = await self._alive().enter(["true"], self._env, stdin=DEVNULL, stdout=DEVNULL, stderr=PIPE)
        _, said = await process.communicate()
        lines = said.decode("utf-8", errors="replace").strip().splitlines()
        return lines[0] if lines else f"its first process ended with {process.returncode}"

    def _alive(self) -> P:
        if self._processes is None or not self._processes.alive:
            raise EnvironmentLost(f"{self.kind} is not running")
        return self._processes

    async def stop(self) -> None:
        processes, self._processes = self._processes, None  # first: pending commands see that it has ended
        if self._sessions is not None:
            await self._sessions.aclose()
            self._sessions = None
        if processes is not None:
            await processes.stop()
        if self._base is not None:
            await asyncio.to_thread(remove_tree, self._base)
            self._base = None

    async def exec(
        self,
        command: str,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout_sec: float | None = None,
        user: str | int | None = None,
    ) -> ExecResult:
        self._check_user(user)
        self._alive()
        assert self._sessions is not None
        try:
            return await self._sessions.run(
                command, cwd=cwd or self._workdir, env=env or {}, timeout_sec=timeout_sec, user=None
            )
        except ShellSessionClosed as closed:
            # The command killed its own supervisor (`kill -9 -1`): in a container that is exit code
            # 137.
            if not await self.is_alive() or not closed.started:
                raise EnvironmentLost(f"{self.kind} ended during a command") from closed
            return ExecResult(closed.output.text(), None, 137)

    def _check_user(self, user: str | int | None) -> None:
        if user not in _ROOT_NAMES:
            raise ValueError(f"user {user!r}: only root exists without Docker")

    async def upload_file(self, source_path: Path | str, target_path: str) -> None:
        target = self._absolute(target_path)
        folder, _, name = target.rpartition("/")
        with tempfile.TemporaryFile() as spool:
            await asyncio.to_thread(archive.pack_file, Path(source_path), spool, name)
            await self._extract(spool, folder or "/")

    async def upload_dir(self, source_dir: Path | str, target_dir: str) -> None:
        with tempfile.TemporaryFile() as spool:
            await asyncio.to_thread(archive.pack_dir, Path(source_dir), spool)
            await self._extract(spool, self._absolute(target_dir))

    async def download_file(self, source_path: str, target_path: Path | str) -> None:
        source = self._absolute(source_path)
        folder, _, name = source.rpartition("/")
        with tempfile.TemporaryFile() as spool:
            await self._create(spool, folder or "/", name, source)
            try:
                await asyncio.to_thread(archive.unpack_file, spool, Path(target_path))
            except TransferError as error:
                raise TransferError(f"{source}: {error}") from None

    async def download_dir(self, source_dir: str, target_dir: Path | str) -> None:
        source = self._absolute(source_dir)
        with tempfile.TemporaryFile() as spool:
            await self._create(spool, source, ".", source)
            await asyncio.to_thread(archive.unpack_dir, spool, Path(target_dir))

    def _absolute(self, path: str) -> str:
        return path if path.startswith("/") else f"{self._workdir}/{path}"

    async def _extract(self, spool: BinaryIO, folder: str) -> None:
        spool.seek(0)
        script = 'mkdir -p -- "$1" && exec tar -x -p -f - -C "$1"'
        await self._transfer(script, [folder], stdin=spool.fileno(), stdout=DEVNULL, what=folder)

    async def _create(self, spool: BinaryIO, folder: str, name: str, what: str) -> None:
        follow = "" if name == "." else "-h"
        script = f'[ -e "$1/$2" ] || exit {_MISSING}; cd -- "$1" && exec tar -c {follow} -f - -- "$2"'
        await self._transfer(script, [folder, name], stdin=DEVNULL, stdout=spool.fileno(), what=what)
        spool.seek(0)

    async def _transfer(self, script: str, words: list[str], *, stdin: int, stdout: int, what: str) -> None:
        process = await self._alive().enter(
            ["sh", "-c", script, "sh", *words], self._env, stdin=stdin, stdout=stdout, stderr=PIPE
        )
        try:
            assert process.stderr is not None
            complaint = await process.stderr.read()
            code = await process.wait()
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            raise
        if code == _MISSING:
            raise FileMissing(f"{what}: there is no such file")
        if code != 0:
            self._alive()
            words_of_tar = complaint.decode("utf-8", errors="replace").strip().splitlines()
            raise TransferError(f"{what}: {words_of_tar[0] if words_of_tar else f'tar ended with {code}'}")

    async def is_alive(self) -> bool:
        return self._processes is not None and self._processes.alive


def _open_directory() -> str:
    """Return a place for temporary folders that the unprivileged user can reach."""
    places = [tempfile.gettempdir(), "/var/tmp", "/tmp"]
    if credentials():
        for place in places:
            path = Path(place).resolve()
            if path.is_dir() and is_open(path):
                return str(path)
    return places[0]


def is_open(path: Path) -> bool:
    """Return whether every user can go into the folder."""
    return all(folder.stat().st_mode & 0o001 for folder in (path, *path.parents))


def remove_stale_roots() -> list[str]:
    """Remove the folders of runners that are dead; their processes died with them. Return the
    folders."""
    removed: list[str] = []
    places = (tempfile.gettempdir(), _open_directory(), "/var/tmp", "/tmp")
    for prefix in _DIRECTORY_PREFIXES:
        for base in orphaned_directories(prefix, places):
            remove_tree(base)
            removed.append(str(base))
    return removed
