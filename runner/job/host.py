"""What a job takes from the program that it runs in, where several jobs share that program."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from runner.config import RunConfig, Secrets
from runner.environments.docker import DockerSettings
from runner.job.gate import Gate
from runner.job.model import make_upstream
from runner.relay import Upstream


@dataclass(frozen=True)
class JobHost:
    """The defaults are those of a job that has the program to itself.

    Attributes:
        gate: bounds the trials of all jobs together; None: each job bounds its own. An isolated job has a
            gate inside, and takes no part in this one.
        docker: where images come from and how containers reach the network; None: as the process environment
            says.
        make_upstream: where the relay's answers come from. Raises JobError.
    """

    gate: Gate | None = None
    docker: DockerSettings | None = None
    make_upstream: Callable[[RunConfig, Secrets], Upstream] = make_upstream


ALONE = JobHost()
