"""Runs trials in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from runner.environments import EnvironmentKind
from runner.jobs.context import ClusterUse, JobContext, TrialEnd, TrialPlan, TrialProgress
from runner.jobs.limiter import Limiter
from runner.relay import RelayListener
from runner.trials import Trial


@dataclass(frozen=True)
class LocalExecutor:
    """Runs each trial in this process's event loop. Jobs of one program may share it."""

    environment_kind: EnvironmentKind
    limiter: Limiter
    relay_socket: Path | None = None
    relay_listener: RelayListener | None = None
    cluster_use: Callable[[], ClusterUse] | None = None

    async def run(self, context: JobContext, plan: TrialPlan, progress: TrialProgress) -> TrialEnd:
        """See Executor.run."""
        return await Trial(context, plan, progress).run()
