"""A Ray cluster of several nodes on this machine, and jobs on it as a person runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.executors.cleanup import NODE_PREFIX
from tests.integration.isolation.conftest import command, start

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
OFFERS_DOCKER: dict[str, float] = {"docker": 1}


class Nodes:
    """The cluster: its address, and nodes that come and go."""

    def __init__(self, *, others: int = 2, resources: dict[str, float] = OFFERS_DOCKER) -> None:
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": 2, "resources": resources, "include_dashboard": False},
        )
        for _ in range(others):
            self.add(resources=resources)
        self.address: str = self._cluster.address

    def add(self, **arguments: Any) -> Any:
        return self._cluster.add_node(**{"num_cpus": 2, **arguments})

    def kill(self, node: Any) -> None:
        self._cluster.remove_node(node, allow_graceful=False)

    def stop(self) -> None:
        self._cluster.shutdown()

    def kill_head(self) -> None:
        """Kill the process that knows the cluster's state."""
        for process in self._cluster.head_node.all_processes["gcs_server"]:
            os.kill(process.process.pid, signal.SIGKILL)


@pytest.fixture(scope="package")
def nodes() -> Iterator[Nodes]:
    pytest.importorskip("ray")
    found = Nodes()
    try:
        yield found
    finally:
        found.stop()


@pytest.fixture(scope="package")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ray")


def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.1)


def start_job(*arguments: str | Path, **variables: str) -> subprocess.Popen[str]:
    return start(command("run", *arguments, "--json"), **variables)


def node_folders(jobs: Path) -> list[Path]:
    """The folders of node runners on this machine that have the job in the folder `jobs`."""
    lock = json.loads(next(jobs.glob("*/lock.json")).read_text())
    key = f"job-{lock['job_id'].replace('-', '')[:12]}"
    return [path.parent for path in Path(tempfile.gettempdir()).glob(f"{NODE_PREFIX}*/{key}")]
