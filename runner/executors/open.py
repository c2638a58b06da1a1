"""Open the executor that the settings ask for: on this machine or on a cluster."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import sys
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TYPE_CHECKING

from runner.config import LOCAL_CLUSTER, RunConfig
from runner.environments import DockerSettings
from runner.executors.here import open_here
from runner.jobs.context import Executor
from runner.jobs.errors import JobError
from runner.jobs.limiter import Limiter
from runner.jobs.tasks import JobTask

if TYPE_CHECKING:
    from runner.executors.ray.cluster import Cluster

INSTALL_RAY = "pip install 'capstan[ray]', or scripts/setup ray in a checkout"
_STATUS_SEC = 30.0  # for all nodes to say how they are


def open_executor(
    config: RunConfig,
    tasks: Sequence[JobTask],
    docker: DockerSettings,
    note: Callable[..., None],
    *,
    limiter: Limiter | None = None,
) -> AbstractAsyncContextManager[Executor]:
    """Open the executor that `config.on` names.

    Args:
        limiter: Bounds the trials of several jobs on this machine together; None: the job has one
            of its own. On a cluster, Ray bounds them.

    Raises:
        JobError: No environment can run all of the tasks, or the cluster cannot be had. One line
            says why, and what to do.
    """
    if config.cluster is not None:
        # Here and not above: Ray is an extra, and takes seconds to import.
        with _importing_ray(config):
            from runner.executors.ray.executor import open_on_ray
        return open_on_ray(config, tasks, docker, note)
    return open_here(config, tasks, docker, note, limiter=limiter)


@asynccontextmanager
async def open_nodes(config: RunConfig) -> AsyncGenerator[Cluster]:
    """Open the cluster that `config.on` names, to look at its nodes or to have them do something.

    Each node has a node runner that has given its status, or a problem.

    Raises:
        JobError: The cluster cannot be had. One line says why, and what to do.
    """
    with _importing_ray(config):
        from runner.executors.ray.cluster import open_cluster
    async with open_cluster(config.cluster or "", config.cluster_timeout_sec) as cluster:
        with contextlib.suppress(TimeoutError):  # those that are slow have no status
            await cluster.wait_ready()
            async with asyncio.timeout(_STATUS_SEC):
                await cluster.refresh()
        yield cluster


@contextlib.contextmanager
def _importing_ray(config: RunConfig) -> Generator[None]:
    """Prepare for the first import of Ray. Raises JobError if it is not installed."""
    if "ray" not in sys.modules:
        os.environ |= _ray_variables(config.cluster or "")
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise JobError(f"--on {config.on} needs Ray: {INSTALL_RAY}") from None


def _ray_variables(cluster: str) -> dict[str, str]:
    """Return the variables that Ray reads when it is imported."""
    # It sends no reports, and a process that loses its cluster lives on, to end its job in order.
    variables = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_gcs_rpc_server_reconnect_timeout_s": "86400"}
    if cluster == LOCAL_CLUSTER:
        # A private Ray is for this process alone.
        variables |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    return variables
