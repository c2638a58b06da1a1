"""The proot environment: a root like the sandbox's, through ptrace, without namespaces.

It isolates nothing: commands have the host's network, see the host's processes and, as an ordinary
user, may do all that the user may. A runner that is root runs them as an unprivileged user.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from runner.environments.base import (
    EnvironmentSpec,
    EnvironmentStartError,
    ExecResult,
    GuardedResult,
    GuardedRun,
)
from runner.environments.proot import launcher
from runner.environments.rootfs.environment import UNPRIVILEGED_ID, RootfsEnvironment, credentials
from runner.environments.rootfs.tree import read_only_binds
from runner.environments.watched import SETUP_LIMIT_SEC, WatchedRun
from runner.processes import start_process

_log = logging.getLogger(__name__)

_STOP_LIMIT_SEC = 5.0
_PIPE_LIMIT = 1024 * 1024


class ProotEnvironment(RootfsEnvironment):
    """One root folder per trial, and proot to make programs see it as their root.

    Each shell session and each transfer of files has a proot of its own. Its parent is a
    launcher.py, which kills it and all its descendants when the pipe `_life` is closed. The kernel
    closes it if the runner is killed.
    """

    kind = "proot"
    what = "proot, which isolates nothing"

    def __init__(self, spec: EnvironmentSpec) -> None:
        super().__init__(spec)
        # By its path, because `_enter` has the task's PATH.
        self._program = Path(shutil.which("proot") or "").resolve()
        self._life: tuple[int, int] | None = None
        self._launched: set[asyncio.subprocess.Process] = set()

    async def _start_processes(self, base: Path) -> None:
        if shutil.which("proot") is None:
            raise EnvironmentStartError("proot is not installed: apt-get install proot")
        if not launcher.is_supported():
            raise EnvironmentStartError("proot is supported on x86_64 and aarch64 only")
        temporary = base / "tmp"  # for the program that proot puts there to load others
        temporary.mkdir()
        if credentials():
            os.chown(temporary, UNPRIVILEGED_ID, UNPRIVILEGED_ID)
        self._life = os.pipe()

    @property
    def _running(self) -> bool:
        return self._life is not None

    async def _enter(
        self, command: Sequence[str], env: Mapping[str, str], **streams: int
    ) -> asyncio.subprocess.Process:
        assert self._life is not None and self._base is not None
        own = {"PROOT_TMP_DIR": str(self._base / "tmp"), "PROOT_NO_SECCOMP": "1"}
        inside = ["env", *(f"--unset={name}" for name in own), *command]
        uid = UNPRIVILEGED_ID if credentials() else -1
        process = await start_process(
            *(sys.executable, "-I", "-S", launcher.__file__, str(self._life[0]), str(uid)),
            *(*self._proot(self._base / "root"), *inside),
            pass_fds=(self._life[0],),
            start_new_session=True,
            cwd="/",
            env={**env, **own},
            limit=_PIPE_LIMIT,
            **streams,
        )
        self._launched = {one for one in self._launched if one.returncode is None} | {process}
        return process

    def _proot(self, root: Path) -> list[str]:
        command = [str(self._program), "-v", "-1", "-0", "-r", str(root), "-w", "/"]
        command += ["-b", "/proc", "-b", "/dev"]
        for source, target in read_only_binds():
            command += ["-b", f"{source}:{target}"]
        return command

    async def _stop_processes(self) -> None:
        if self._life is None:
            return
        (read_end, write_end), self._life = self._life, None
        os.close(write_end)
        os.close(read_end)
        waits = [asyncio.ensure_future(process.wait()) for process in self._launched]
        if waits:
            _, late = await asyncio.wait(waits, timeout=_STOP_LIMIT_SEC)
            for wait in late:
                _log.warning("a process of proot may still run: it did not end within %g s", _STOP_LIMIT_SEC)
                wait.cancel()

    async def exec_guarded(self, run: GuardedRun) -> GuardedResult:
        async def as_root(command: str) -> ExecResult:
            return await self.exec(command, "/", timeout_sec=SETUP_LIMIT_SEC)

        self._check_user(run.user)
        return await WatchedRun(self, as_root).run(run)
