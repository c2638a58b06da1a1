"""The sandbox environment: bubblewrap, no daemon, no image; as root and as an ordinary user.

It has the host's programs (read-only), a fresh root of its own and loopback as its only network. The
Dockerfile's FROM is not used, and cpus, memory and storage limits are not enforced: `image` says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import BinaryIO

from runner.environments import archive
from runner.environments.base import (
    Environment,
    EnvironmentLost,
    EnvironmentSpec,
    EnvironmentStartError,
    EnvironmentStartTimeout,
    EnvironmentUnsupported,
    ExecResult,
    GuardedResult,
    GuardedRun,
    TransferError,
)
from runner.environments.channel import ChannelClosed, ChannelPool
from runner.environments.guard import guarded_script, run_guarded_session
from runner.environments.owner import PREFIX, orphaned_directories, owned_directory
from runner.environments.sandbox.dockerfile import SandboxRecipe, parse_dockerfile
from runner.environments.sandbox.process import (
    CAPABILITIES,
    PROGRAMS,
    UNPRIVILEGED_ID,
    ProcessSession,
    ProcessStream,
    SandboxProcess,
    credentials,
    missing_programs,
)
from runner.environments.sandbox.rootfs import build_rootfs, hand_over, remove_tree

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DIRECTORY_PREFIX = f"{PREFIX}sandbox-"
_ROOT_NAMES = (None, "root", "0", 0)


class SandboxEnvironment(Environment):
    """One bubblewrap sandbox per trial. Everything in it dies with `stop` or with the runner."""

    kind = "sandbox"

    def __init__(self, spec: EnvironmentSpec) -> None:
        super().__init__(spec)
        self._base: Path | None = None
        self._process: SandboxProcess | None = None
        self._channels: ChannelPool | None = None
        self._env: dict[str, str] = {}
        self._workdir = "/app"

    async def start(self) -> None:
        if missing := missing_programs():
            packages = " ".join(sorted({PROGRAMS[name] for name in missing}))
            raise EnvironmentStartError(
                f"the sandbox needs {', '.join(missing)}, which this host lacks: apt-get install {packages}"
            )
        if self.spec.default_user not in _ROOT_NAMES:
            raise EnvironmentUnsupported(
                f"user {self.spec.default_user!r}: the sandbox has only root; use Docker"
            )
        if self.spec.network != "none":
            raise EnvironmentUnsupported(
                "the task opts in to network, which the sandbox does not have; use Docker"
            )
        recipe = self._recipe()
        self._workdir = self.spec.workdir or recipe.workdir
        self._env = {"PATH": _PATH, "HOME": "/root", "LANG": "C.UTF-8", **recipe.env, **self.spec.env}
        self.image = f"sandbox: this host's programs in place of {recipe.base_image}; no resource limits"
        try:
            async with asyncio.timeout(self.spec.build_timeout_sec):
                root = await asyncio.to_thread(self._build, recipe)
                self._process = SandboxProcess(root)
                await self._process.start()
                self._channels = ChannelPool(self._open_channel)
                await self._channels.run("true", cwd="/", env={}, timeout_sec=None, user=None)
        except TimeoutError:
            await self.stop()
            limit = self.spec.build_timeout_sec
            raise EnvironmentStartTimeout(f"the sandbox did not start within {limit:g} s") from None
        except ChannelClosed as error:
            await self.stop()
            raise EnvironmentStartError(
                "no command can be run in the sandbox: nsenter or setpriv failed"
            ) from error
        except BaseException:
            await self.stop()
            raise

    def _recipe(self) -> SandboxRecipe:
        context = self.spec.context_dir
        if context is not None and (context / "Dockerfile").is_file():
            if (context / ".dockerignore").exists():
                raise EnvironmentUnsupported(
                    f"{context}/.dockerignore needs Docker; the sandbox does not read it"
                )
            return parse_dockerfile(context / "Dockerfile")
        if self.spec.docker_image:
            return SandboxRecipe(self.spec.docker_image, "/app", {}, (), ())
        raise EnvironmentStartError(f"{context}: there is neither a Dockerfile nor a docker_image")

    def _build(self, recipe: SandboxRecipe) -> Path:
        self._base = owned_directory(_DIRECTORY_PREFIX, place=_open_directory())
        self._base.chmod(0o711)
        root = self._base / "root"
        root.mkdir()
        build_rootfs(root, self.spec.context_dir, recipe)
        if credentials():
            hand_over(root, UNPRIVILEGED_ID, UNPRIVILEGED_ID)
        return root

    async def _open_channel(self, user: str | None) -> ProcessStream:
        process = await self._alive().enter(["sh", "-s"], self._env, stdin=PIPE, stdout=PIPE, stderr=DEVNULL)
        return ProcessStream(process)

    def _alive(self) -> SandboxProcess:
        if self._process is None or not self._process.alive:
            raise EnvironmentLost("the sandbox is not running")
        return self._process

    async def stop(self) -> None:
        process, self._process = self._process, None  # first of all: commands under way see that it has ended
        if self._channels is not None:
            await self._channels.aclose()
            self._channels = None
        if process is not None:
            await process.stop()
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
        assert self._channels is not None
        try:
            return await self._channels.run(
                command, cwd=cwd or self._workdir, env=env or {}, timeout_sec=timeout_sec, user=None
            )
        except ChannelClosed as closed:
            # The command killed its own supervisor (`kill -9 -1`): in a container that is exit code 137.
            if not await self.is_alive() or not closed.started:
                raise EnvironmentLost("the sandbox ended in the middle of a command") from closed
            return ExecResult(closed.output.text(), None, 137)

    def _check_user(self, user: str | int | None) -> None:
        if user not in _ROOT_NAMES:
            raise ValueError(f"user {user!r}: the sandbox has only root; use Docker")

    async def exec_guarded(self, run: GuardedRun) -> GuardedResult:
        self._check_user(run.user)
        cwd = run.cwd or self._workdir
        run = replace(run, env={**self._env, **run.env})
        script = guarded_script(run, cwd=cwd, capabilities=CAPABILITIES, no_new_privs=True)
        process = await self._alive().enter(
            ["unshare", "--mount", "sh", "-c", script.text],
            {"PATH": _PATH},
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            privileged=True,
        )
        assert self._channels is not None
        return await run_guarded_session(ProcessSession(process), script, run, self._channels)

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
        script = f'cd -- "$1" && exec tar -c {follow} -f - -- "$2"'
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
                process.kill()
            raise
        if code != 0:
            self._alive()
            words_of_tar = complaint.decode("utf-8", errors="replace").strip().splitlines()
            raise TransferError(f"{what}: {words_of_tar[0] if words_of_tar else f'tar ended with {code}'}")

    async def is_alive(self) -> bool:
        return self._process is not None and self._process.alive


def _open_directory() -> str:
    """Where temporary folders may lie so that the sandbox's user gets at them."""
    places = [tempfile.gettempdir(), "/var/tmp", "/tmp"]
    if credentials():
        for place in places:
            path = Path(place).resolve()
            if path.is_dir() and all(folder.stat().st_mode & 0o001 for folder in (path, *path.parents)):
                return str(path)
    return places[0]


def remove_stale_sandboxes() -> list[str]:
    """Remove the folders of sandboxes whose runner is dead (their processes died with it). Returns them."""
    removed: list[str] = []
    for base in orphaned_directories(
        _DIRECTORY_PREFIX, (tempfile.gettempdir(), _open_directory(), "/var/tmp", "/tmp")
    ):
        remove_tree(base)
        removed.append(str(base))
    return removed
