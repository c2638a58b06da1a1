"""A service that is shared by the tests that do not affect each other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.needs import TASK_ENVIRONMENT
from tests.runner.service.service_helpers import KEY, Service, running, write_tasks_and_agents


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Run a service with the sandbox and the obedient agent."""
    folder = write_tasks_and_agents(tmp_path_factory.mktemp("service"))
    with running(
        folder,
        "--agent",
        "agents/obedient",
        "--env",
        TASK_ENVIRONMENT,
        LLM_URL_LOOPBACK="true",
        **KEY,
    ) as service:
        yield service
