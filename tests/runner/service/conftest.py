"""One service for the tests that leave no traces for one another."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.runner.service.service_helpers import KEY, Service, furnish, running


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """In the sandbox, with the obedient agent and a script for agents that call a model."""
    folder = furnish(tmp_path_factory.mktemp("service"))
    with running(
        folder,
        "--agent",
        "agents/obedient",
        "--env",
        "sandbox",
        LLM_URL_LOOPBACK="true",
        **KEY,
    ) as service:
        yield service
