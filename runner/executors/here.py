"""Run trials on this machine: in this process, or in an isolated container."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager

from runner.config import RunConfig
from runner.environments import (
    DockerSettings,
    EnvironmentKind,
    EnvironmentLost,
    EnvironmentStartError,
    Selection,
    select_environment,
)
from runner.environments.docker import shared_engine
from runner.executors.cleanup import remove_leftovers
from runner.executors.isolated import IsolatedExecutor
from runner.executors.local import LocalExecutor
from runner.jobs.context import Executor
from runner.jobs.errors import JobError
from runner.jobs.limiter import Capacity, Limiter, Resources, machine_resources, oversized
from runner.jobs.tasks import JobTask
from runner.trials.environment import environment_spec


@asynccontextmanager
async def open_here(
    config: RunConfig,
    tasks: Sequence[JobTask],
    docker: DockerSettings,
    note: Callable[..., None],
    *,
    limiter: Limiter | None = None,
) -> AsyncGenerator[Executor]:
    """Open the executor that the settings ask for, and remove what killed runners left there.

    Args:
        limiter: Bounds the trials of several jobs together; None: the job has one of its own.

    Raises:
        JobError: No environment can run all of the tasks. One line says why, and what to do.
    """
    if config.isolation == "dind" and config.allow_task_network and docker.network_mode == "host":
        # Its engine, started without a bridge, removes the docker0 of the network that it is in.
        raise JobError(
            "CONTAINER_NETWORK_MODE=host cannot go with --isolation dind: the inner engine would remove "
            "the host's bridge docker0. Leave it out (bridge), or name a network of your own"
        )
    selected = await _select(config, tasks, docker)
    note(selected.reason, warning=False)
    if line := oversized([item.task for item in tasks if item.task], await _machine(selected.kind)):
        note(line)
    for thing in await remove_leftovers((selected.kind,)):
        note(f"left behind by a runner that was killed, now removed: {thing}", warning=False)
    limiter = limiter or Limiter(Capacity.of_machine(config.concurrency))
    if config.isolation == "process":
        yield LocalExecutor(selected.kind, limiter)
        return
    async with IsolatedExecutor(tasks, limiter, docker, note) as executor:
        yield executor


async def _select(config: RunConfig, tasks: Sequence[JobTask], docker: DockerSettings) -> Selection:
    isolated = config.isolation == "dind"
    if isolated and config.environment in ("sandbox", "proot"):
        raise JobError(
            f"--isolation dind runs tasks in a Docker engine of its own: leave out --env {config.environment}"
        )
    specs = await asyncio.to_thread(
        lambda: [environment_spec(t.task, force_build=config.force_build) for t in tasks if t.task]
    )
    try:
        return await select_environment("docker" if isolated else config.environment, specs, docker)
    except EnvironmentStartError as error:
        raise JobError(str(error)) from None


async def _machine(kind: EnvironmentKind) -> Resources:
    """Return what the machine has that tasks run on."""
    if kind != "docker":
        return machine_resources()
    try:
        return Resources(*await shared_engine().capacity())
    except EnvironmentLost as error:
        raise JobError(str(error)) from None
