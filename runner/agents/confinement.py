"""The interface to the confinement of an agent's process. `runner.isolation` has a real one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from runner.agents.limits import AgentLimits
from runner.agents.package import AgentPackage

_CHILD = Path(__file__).with_name("child.py")


@dataclass(frozen=True)
class AgentWorkdir:
    """The folders and the command of a running agent.

    Attributes:
        root, home, logs_dir: The submission, HOME and the log folder, as the agent sees them.
        host_logs_dir: The log folder as the runner sees it.
        command: Starts the agent's program (child.py). The first part is an absolute path.
        cwd: The working directory to start it in, as the runner sees it.
    """

    root: Path
    home: Path
    logs_dir: Path
    host_logs_dir: Path
    command: tuple[str, ...]
    cwd: Path


class Confinement(Protocol):
    """Prepares an agent's folders, and the command that confines its process."""

    def workdir(
        self, package: AgentPackage, *, work_dir: Path, logs_dir: Path, limits: AgentLimits
    ) -> AbstractAsyncContextManager[AgentWorkdir]:
        """Open the folders of one agent. At the end they are gone, and the logs are in `logs_dir`.

        `work_dir` is an empty folder for this trial, which the caller removes.
        """
        ...


class Unconfined:
    """Fresh folders for the submission and for HOME, and no confinement."""

    @asynccontextmanager
    async def workdir(
        self, package: AgentPackage, *, work_dir: Path, logs_dir: Path, limits: AgentLimits
    ) -> AsyncGenerator[AgentWorkdir]:
        """Unpack the submission into `work_dir`. The agent writes its logs to `logs_dir` itself."""
        root, home = work_dir / "agent", work_dir / "home"
        await asyncio.to_thread(package.unpack, root)
        home.mkdir()
        yield AgentWorkdir(
            root=root,
            home=home,
            logs_dir=logs_dir,
            host_logs_dir=logs_dir,
            command=(str(package.interpreter), "-I", str(_CHILD)),
            cwd=root,
        )
