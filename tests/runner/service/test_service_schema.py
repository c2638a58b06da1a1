"""Requests that the schema allows, and others, get the schema's responses and never a 5xx."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from hypothesis import HealthCheck, given
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.fuzz import cases
from tests.needs import TASK_ENVIRONMENT
from tests.runner.service.service_helpers import Service, running, write_tasks_and_agents

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = write_tasks_and_agents(tmp_path_factory.mktemp("schema"))
    with running(folder, "--agent", "nop", "--env", TASK_ENVIRONMENT, LOG_LEVEL="warning") as service:
        yield service


@pytest.mark.fuzz
@pytest.mark.timeout(300)
def test_no_request_is_a_server_error(probed: Service) -> None:
    schema = schemathesis.openapi.from_url(f"{probed.url}/openapi.json")
    known = probed.run_task().headers["X-Capstan-Job"]
    tested: set[str] = set()
    for result in schema.get_all_operations():
        operation = result.ok()

        @cases(120, suppress_health_check=list(HealthCheck), derandomize=True)
        @given(case=operation.as_strategy())
        def probe(case: schemathesis.Case) -> None:
            case.call_and_validate(checks=CHECKS, timeout=60)
            if case.method == "GET" and "job_id" in (case.path_parameters or {}):
                case.path_parameters["job_id"] = known
                case.call_and_validate(checks=CHECKS, timeout=60)

        probe()
        tested.add(operation.label)
    assert len(tested) == 9


def test_service_logged_no_error(probed: Service) -> None:
    assert not [line for line in probed.lines if "Traceback" in line or " ERROR " in line]
