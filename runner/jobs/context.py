"""What a job and its executor share: the context, a planned trial, and its end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from uuid import UUID

from runner.agents import AgentFactory
from runner.config import RunConfig
from runner.environments import DockerSettings, EnvironmentKind
from runner.jobs.layout import JobDirectory
from runner.jobs.limiter import Limiter
from runner.jobs.lock import JobLock
from runner.jobs.model import JobModel
from runner.jobs.tasks import JobTask
from runner.relay import RelayListener
from runner.results import ModelUse, TrialRecord

PHASE_WAITING = "waiting"


@dataclass(frozen=True, kw_only=True)
class JobContext:
    """Everything that the trials of one job share.

    Attributes:
        lock: What exactly the job runs; its settings are `config`.
        docker: Where images come from and how containers reach the network.
        redact: Removes the real API key from text before it is written.
        recorded_root: The job's folder as records name it, where trials run on another machine.
    """

    directory: JobDirectory
    lock: JobLock
    agent: AgentFactory
    model: JobModel
    docker: DockerSettings
    redact: Callable[[str], str]
    recorded_root: Path | None = None

    @property
    def job_id(self) -> UUID:
        """The job's identity in Harbor's files."""
        return self.lock.job_id

    @property
    def config(self) -> RunConfig:
        """The job's settings."""
        return self.lock.config

    @property
    def environment_kind(self) -> EnvironmentKind:
        """What the job's tasks run in."""
        return self.lock.environment_kind


@dataclass(frozen=True, kw_only=True)
class TrialPlan:
    """One attempt at one task."""

    trial_name: str
    attempt: int
    task: JobTask


@dataclass
class TrialProgress:
    """The state of a running trial, for the live table.

    Attributes:
        node: The machine of the cluster that it runs on. None on this one, and while it waits.
        usage: Returns the usage so far.
        on_placed: Called whenever it begins on a node of a cluster.
    """

    plan: TrialPlan
    phase: str = PHASE_WAITING
    node: str | None = None
    started: float = field(default_factory=time.monotonic)
    retries: int = 0
    usage: Callable[[], ModelUse | None] = lambda: None
    on_placed: Callable[[TrialProgress], None] = lambda _: None

    def place(self, node: str) -> None:
        """Take note that the trial begins on a node of a cluster, now."""
        self.node, self.started = node, time.monotonic()
        self.on_placed(self)

    @property
    def elapsed_sec(self) -> float:
        """Seconds since the trial began."""
        return time.monotonic() - self.started


@dataclass(frozen=True)
class TrialEnd:
    """The end of one try of a trial. `infrastructure`: another try may succeed."""

    record: TrialRecord
    infrastructure: bool = False


@dataclass(frozen=True, kw_only=True)
class ClusterUse:
    """How much of a cluster is used, by this job and by others.

    Attributes:
        nodes: The nodes that are there.
        open_nodes: Those of them that take trials of this job.
        cpus: The CPUs of all nodes.
        used_cpus: How many of them are taken.
    """

    nodes: int
    open_nodes: int
    cpus: float
    used_cpus: float


class Executor(Protocol):
    """Where the trials of a job run.

    Attributes:
        environment_kind: What tasks run in there.
        limiter: How many trials fit at once. The job asks it before it hands over a trial.
        relay_socket: A unix socket on which the job's relay must listen as well, or None.
        relay_listener: A TCP address on which it must listen as well, or None.
        cluster_use: Returns how much of the cluster is used. None where trials run on this machine.
    """

    @property
    def environment_kind(self) -> EnvironmentKind: ...

    @property
    def limiter(self) -> Limiter: ...

    @property
    def relay_socket(self) -> Path | None: ...

    @property
    def relay_listener(self) -> RelayListener | None: ...

    @property
    def cluster_use(self) -> Callable[[], ClusterUse] | None: ...

    async def run(self, context: JobContext, plan: TrialPlan, progress: TrialProgress) -> TrialEnd:
        """Run one try of a trial to its end and keep `progress` up to date.

        Raises:
            CancelledError: After the trial has been stopped and its record written.
            JobError: The executor itself is gone; no other trial can run either.
            OSError: The trial's files cannot be written.
        """
        ...
