"""Who may speak to the service, and how much."""

from __future__ import annotations

import base64
import json
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.runner.service.service_helpers import Service, furnish, running

TOKEN = "a-token-of-the-operator"
EVERYWHERE = (
    "/",
    "/docs",
    "/openapi.json",
    "/api/jobs",
    "/api/jobs/x",
    "/docs/static/swagger-ui.css",
    "/nothing",
)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = furnish(tmp_path_factory.mktemp("guarded"))
    with running(
        folder, "--agent", "nop", "--env", "sandbox", "--token", TOKEN, "--host", "0.0.0.0"
    ) as service:
        yield service


@pytest.mark.parametrize("path", EVERYWHERE)
def test_with_a_token_every_route_but_health_wants_it(guarded: Service, path: str) -> None:
    with guarded.client() as client:
        answer = client.get(path)
        assert answer.status_code == 401 and answer.json()["error"]["code"] == "token_needed"
        assert answer.headers["www-authenticate"].startswith("Basic")
        assert client.get("/health").status_code == 200
        assert client.get(path, headers={"Authorization": f"Bearer {TOKEN}"}).status_code != 401


@pytest.mark.parametrize(
    "value",
    [
        "Bearer wrong",
        f"Bearer {TOKEN}x",
        "Bearer",
        TOKEN,
        f"Digest {TOKEN}",
        "Basic !!!",
        "Basic " + base64.b64encode(b"me:wrong").decode(),
        "Basic " + base64.b64encode(TOKEN.encode()).decode(),
    ],
)
def test_a_wrong_token_is_none(guarded: Service, value: str) -> None:
    with guarded.client() as client:
        assert client.get("/api/jobs", headers={"Authorization": value}).status_code == 401
        assert client.delete("/api/jobs/x", headers={"Authorization": value}).status_code == 401


def test_a_browser_gives_the_token_as_a_password(guarded: Service) -> None:
    with guarded.client(auth=("anybody", TOKEN)) as client:
        assert client.get("/api/jobs").status_code == 200


def test_the_schema_says_which_routes_want_the_token(guarded: Service, service: Service) -> None:
    with guarded.client(headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        schema = client.get("/openapi.json").json()
    wanted = {path: "security" in next(iter(item.values())) for path, item in schema["paths"].items()}
    assert wanted.pop("/health") is False and all(wanted.values())
    with service.client() as client:
        assert "security" not in client.get("/openapi.json").text


def test_the_token_is_in_no_file_and_no_log(guarded: Service) -> None:
    with guarded.client(headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        client.post("/api/tasks", json={"params": {"task_id": "easy"}})
    assert TOKEN not in "\n".join(guarded.lines)
    assert not any(
        TOKEN.encode() in path.read_bytes() for path in guarded.folder.rglob("*") if path.is_file()
    )


def test_bound_elsewhere_without_a_token_the_service_warns(tmp_path: Path) -> None:
    furnish(tmp_path)
    with running(tmp_path, "--agent", "nop", "--env", "sandbox", "--host", "0.0.0.0") as service:
        assert any(line.startswith("WARNING:") and "SERVICE_TOKEN" in line for line in service.lines)


def test_on_loopback_it_neither_warns_nor_listens_elsewhere(service: Service) -> None:
    assert not any("WARNING" in line for line in service.lines)
    assert service.url.startswith("http://127.0.0.1:")


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[", "8.8.8.8"]
)
def test_a_name_that_only_points_here_is_refused(service: Service, host: str) -> None:
    with service.client() as client:
        answer = client.get("/api/jobs", headers={"Host": host})
    assert answer.status_code in (400, 403)


def test_pages_of_other_sites_can_start_nothing(service: Service) -> None:
    body = json.dumps({"tasks": ["easy"], "agent": "nop"})
    with service.client() as client:
        before = client.get("/api/jobs").json()["jobs"]
        for headers in (
            {"Origin": "https://evil.example"},
            {"Origin": "null"},
            {"Sec-Fetch-Site": "cross-site"},
        ):
            answer = client.post("/api/jobs", content=body, headers=headers)
            assert answer.status_code == 403 and answer.json()["error"]["code"] == "origin_refused"
        assert client.get("/api/jobs").json()["jobs"] == before
        own = {"Origin": service.url, "Content-Type": "application/json"}
        assert client.post("/api/jobs", content=body, headers=own).status_code == 202


def test_a_body_is_bounded_whatever_it_claims(service: Service) -> None:
    with service.client() as client:
        answer = client.post("/api/jobs", content=b" " * (5 * 2**20))
        assert answer.status_code == 413 and answer.json()["error"]["code"] == "body_too_large"

        def chunks() -> Iterator[bytes]:
            for _ in range(80):
                yield b" " * 2**16

        answer = client.post("/api/tasks", content=chunks(), headers={"Content-Type": "application/json"})
        assert answer.status_code == 413


@pytest.mark.parametrize(
    "raw",
    [
        b"GET /api/jobs/../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /api/jobs/%2e%2e%2f%2e%2e/trials/x/trajectory HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /docs/static/../../../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /docs/static/%2e%2e/%2e%2e/core.py HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
)
def test_paths_lead_nowhere_else(service: Service, raw: bytes) -> None:
    url = httpx.URL(service.url)
    with socket.create_connection((url.host, url.port or 80), timeout=10) as connection:
        connection.sendall(raw.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.split(b" ", 2)[1] in (b"404", b"400"), answer[:200]


def test_nonsense_is_answered_in_the_services_own_form(service: Service) -> None:
    with service.client() as client:
        for answer in (
            client.post("/api/tasks", content=b"{", headers={"Content-Type": "application/json"}),
            client.post("/api/jobs", content=b"\xff\xfe", headers={"Content-Type": "application/json"}),
            client.post("/api/jobs", content=b"x", headers={"Content-Type": "text/plain"}),
            client.post("/api/jobs", content=b"x", headers={"Content-Type": "multipart/form-data"}),
            client.post(
                "/api/jobs", content=b"x", headers={"Content-Type": "multipart/form-data; boundary=b"}
            ),
            client.get("/nothing"),
            client.put("/api/jobs"),
            client.get("/api/jobs?limit=0"),
            client.get("/api/jobs/x/events", headers={"Last-Event-ID": "-1"}),
        ):
            assert 400 <= answer.status_code < 500
            assert set(answer.json()["error"]) >= {"code", "message"}, answer.text


@pytest.mark.parametrize(
    "body",
    [
        b'{"params": {"task_id": "easy", "problem_statement": "\\ud800"}}',
        b'{"params": {"task_id": "\\udfff"}}',
        b'{"params": {"task_id": "easy"}, "llm_config": {"model_name": "\\ud800"}}',
        b'{"params": {"task_id": "easy"}, "llm_config": {"model_infer_params": {"temperature": NaN}}}',
        b'{"params": {"task_id": "easy"}, "llm_config": {"model_infer_params": {"a": [1e999]}}}',
        b'{"params": {"task_id": "easy"}, "llm_config": {"api_key": "k\\u00e9y"}}',
        b'{"params": {"task_id": "easy"}, "llm_config": {"api_key": "a\\nb"}}',
        b'{"params": {"task_id": "easy", "metadata": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
        b"[" * 100_000,
    ],
)
def test_json_that_is_none_is_refused_and_never_a_failure_of_the_service(
    service: Service, body: bytes
) -> None:
    with service.client() as client:
        for path in ("/api/tasks", "/api/jobs"):
            answer = client.post(path, content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code in (400, 404, 422), answer.text
            assert set(answer.json()["error"]) >= {"code", "message"}
    assert not [line for line in service.lines if " ERROR " in line]
