"""The inner Docker engine: dockerd on a unix socket, with no network of its own."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from docker.errors import DockerException

from runner.environments.docker import shared_engine
from runner.isolation.shared_dir import SharedDir
from runner.processes import start_process

START_SEC = 45.0
STOP_SEC = 5.0
_POLL_SEC = 0.05
_GROUPS = Path("/sys/fs/cgroup")
_COMMAND = (
    "/usr/sbin/dockerd",
    # Task containers have no network, or share the isolated container's.
    *("--bridge=none", "--iptables=false", "--ip6tables=false", "--ip-forward=false", "--ip-masq=false"),
    # dockerd lowers its score by default, which takes a capability that some hosts withhold.
    "--oom-score-adjust=0",
)


class EngineFailed(Exception):
    """The inner engine does not answer. The message is one line."""


@asynccontextmanager
async def running_engine(shared: SharedDir, *, group: int) -> AsyncGenerator[None]:
    """Run the engine. The group with the gid `group` may use its socket. Raises EngineFailed."""
    delegate_groups()
    with shared.engine_log.open("ab") as log:
        process = await start_process(
            *_COMMAND,
            f"--host=unix://{shared.engine}",
            f"--group={group}",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        await _answers(process)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), STOP_SEC)


async def _answers(process: asyncio.subprocess.Process) -> None:
    loop = asyncio.get_running_loop()
    until = loop.time() + START_SEC
    while not await _answers_now():
        if process.returncode is not None:
            raise EngineFailed(f"dockerd ended with exit code {process.returncode}")
        if loop.time() > until:
            raise EngineFailed(f"dockerd does not answer after {START_SEC:g} s")
        await asyncio.sleep(_POLL_SEC)


async def _answers_now() -> bool:
    try:
        return await shared_engine().answers(2.0)
    except DockerException:  # its socket is not there yet
        return False


def delegate_groups() -> None:
    """Move all processes out of the root control group, so that it can delegate its controllers.

    In version 2 of control groups, a group that holds processes cannot enable controllers below it.
    """
    controllers = _GROUPS / "cgroup.controllers"
    if not controllers.is_file():
        return
    first = _GROUPS / "init"
    first.mkdir(exist_ok=True)
    for pid in (_GROUPS / "cgroup.procs").read_text().split():
        with contextlib.suppress(OSError):  # the process has ended, or belongs to the kernel
            (first / "cgroup.procs").write_text(pid)
    for name in controllers.read_text().split():
        with contextlib.suppress(OSError):
            (_GROUPS / "cgroup.subtree_control").write_text(f"+{name}")
