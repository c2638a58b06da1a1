"""How an agent's process is confined. Inside the isolated runner it is `runner.isolation.confinement`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from runner.agents.limits import AgentLimits
from runner.agents.package import AgentPackage

__all__ = ["AgentWorkdir", "Confinement", "Unconfined"]

_CHILD = Path(__file__).with_name("child.py")


@dataclass(frozen=True)
class AgentWorkdir:
    """The folders and the command of one agent while it runs.

    Attributes:
        root, home, logs_dir: the unpacked submission, HOME and the log folder, as the agent sees them.
        kept_logs: the log folder as the runner sees it, to be watched.
        command: what starts the agent's program (child.py); the first part is an absolute path.
        cwd: the working directory to start it from, as the runner sees it.
    """

    root: Path
    home: Path
    logs_dir: Path
    kept_logs: Path
    command: tuple[str, ...]
    cwd: Path


class Confinement(Protocol):
    """Makes an agent's working folders. At the end they are removed and the logs are in `logs_dir`."""

    def workdir(
        self, package: AgentPackage, *, work_dir: Path, logs_dir: Path, limits: AgentLimits
    ) -> AbstractAsyncContextManager[AgentWorkdir]:
        """`work_dir` is an empty folder of the runner's for this trial; `logs_dir` is the trial's agent/."""
        ...


class Unconfined:
    """No confinement: a fresh folder for the submission and another for HOME.

    Args:
        prefix: a command that the agent's own is appended to, such as a change of user.
    """

    def __init__(self, prefix: Sequence[str] = ()) -> None:
        self._prefix = tuple(prefix)

    @asynccontextmanager
    async def workdir(
        self, package: AgentPackage, *, work_dir: Path, logs_dir: Path, limits: AgentLimits
    ) -> AsyncIterator[AgentWorkdir]:
        """Unpack the submission into `work_dir`; the logs stay where they are written."""
        root, home = work_dir / "agent", work_dir / "home"
        await asyncio.to_thread(package.unpack, root)
        home.mkdir()
        yield AgentWorkdir(
            root=root,
            home=home,
            logs_dir=logs_dir,
            kept_logs=logs_dir,
            command=(*self._prefix, str(package.interpreter.executable), "-I", str(_CHILD)),
            cwd=root,
        )
