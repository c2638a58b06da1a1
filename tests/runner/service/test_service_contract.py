"""Each rule of docs/contract.md, The evaluation service, over HTTP."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.relay import ModelRequest, Relay, Upstream, UpstreamResponse
from runner.scripted import ScriptUpstream
from tests.needs import TASK_ENVIRONMENT
from tests.runner.job_helpers import write_agent, write_task
from tests.runner.service.service_helpers import (
    KEY,
    ROOT,
    Service,
    events,
    running,
    write_tasks_and_agents,
)

TOUCH = "touch the file"


def received_instruction(service: Service, job: str) -> str:
    (file,) = (service.jobs / job).glob("*/agent/instruction.txt")
    return file.read_text()


def test_health(service: Service) -> None:
    with service.client() as client:
        response = client.get("/health")
    assert response.status_code == 200
    assert response.json() == {"status": "healthy", "service": "Terminal-Bench"}


@pytest.mark.parametrize("name", ["named", "known-as", "terminal-bench/known-as"])
@pytest.mark.parametrize(
    "place",
    [
        lambda name: {"task_id": name},
        lambda name: {"task_name": name},
        lambda name: {"instance_id": name},
        lambda name: {"terminal_bench_task_id": name},
        lambda name: {"metadata": {"task_id": name}},
        lambda name: {"metadata": {"task_name": name}},
        lambda name: {"metadata": {"instance_id": name}, "unknown": 1},
        lambda name: {"metadata": {"terminal_bench_task_id": name, "more": []}, "task_id": "a-session-0815"},
    ],
)
def test_a_task_is_found_by_every_form_of_its_id(service: Service, place: Any, name: str) -> None:
    with service.client() as client:
        response = client.post("/api/tasks", json={"params": place(name), "unknown": {"is": "ignored"}})
    assert response.status_code == 200, response.text
    (folder,) = (service.jobs / response.headers["X-Capstan-Job"]).glob("*__*")
    assert folder.name.startswith("known-as__")


def test_answer_has_terminal_bench_servers_form(service: Service) -> None:
    response = service.run_task(params={"task_id": "easy", "problem_statement": TOUCH}).json()
    assert set(response) == {"final_answer", "trajectory", "call_stat"}
    assert response["final_answer"] == "True"
    last = response["trajectory"][-1]
    assert last.keys() == {"step", "action", "output"} and last["action"] == "evaluation"
    assert last["output"] == "reward: 1"
    assert response["trajectory"][:-1] == [{"step": 1, "role": "user", "content": TOUCH}]
    assert response["call_stat"] == {"model": "deepseek-v4-pro", "api_calls": 0, "total_cost": 0.0}


def test_last_step_has_the_reward_the_error_and_the_end_of_the_tests(service: Service) -> None:
    write_task(service.folder / "tasks" / "loud", test="#!/bin/sh\necho 2 failed\nfalse\n")
    trajectory = service.run_task("loud").json()["trajectory"]
    assert trajectory[0] == {"step": 1, "role": "user", "content": "Create the file /app/done.\n"}
    lines = trajectory[1]["output"].splitlines()
    assert lines[0] == "reward: none" and lines[1].startswith("error: ") and lines[2:] == ["", "2 failed"]


def test_system_prompt_is_no_step(service: Service) -> None:
    sources = ["system", "user", "agent", "system"]
    steps = [
        {"step_id": number, "source": source, "message": f"{source} {number}"}
        for number, source in enumerate(sources, 1)
    ]
    write_agent(
        service.folder / "agents" / "atif",
        f'(self.logs_dir / "trajectory.json").write_text({json.dumps({"steps": steps})!r})',
    )
    with running(
        service.folder, "--agent", "agents/atif", "--env", TASK_ENVIRONMENT, "-o", "other", **KEY
    ) as atif:
        turns = atif.run_task().json()["trajectory"][:-1]
    assert [(turn["step"], turn["role"], turn["content"]) for turn in turns] == [
        (1, "user", "user 2"),
        (2, "assistant", "agent 3"),
        (3, "system", "system 4"),
    ]


@pytest.mark.parametrize(
    "content_type",
    [None, "text/plain", "text/plain; charset=utf-8", "application/x-www-form-urlencoded", "*/*"],
)
@pytest.mark.parametrize("path", ["/api/tasks", "/api/jobs"])
def test_body_of_any_type_is_read_as_json(service: Service, path: str, content_type: str | None) -> None:
    body = b'{"params": {"task_id": "easi"}}' if path == "/api/tasks" else b'{"tasks": ["easi"]}'
    headers = {"Content-Type": content_type} if content_type else {}
    with service.client() as client:
        response = client.post(path, content=body, headers=headers)
    assert response.status_code == 404 and "did you mean easy?" in response.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/api/tasks", "/api/jobs"])
@pytest.mark.parametrize("body", [b"[]", b"7", b"null"])
def test_other_json_than_an_object_is_refused(service: Service, path: str, body: bytes) -> None:
    with service.client() as client:
        response = client.post(path, content=body)
    assert response.status_code == 422
    assert response.json()["error"]["message"] == "the request: must be a JSON object"


@pytest.mark.parametrize("path", ["/api/tasks", "/api/jobs"])
@pytest.mark.parametrize("body", [b"{", b"nonsense", b'{"a": 1,}'])
def test_invalid_json_is_called_so(service: Service, path: str, body: bytes) -> None:
    with service.client() as client:
        response = client.post(path, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 422
    message = response.json()["error"]["message"]
    assert re.fullmatch(r"the request is no valid JSON: .* at line 1 column \d+", message), message


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/api/jobs", "GET, POST"),
        ("/api/jobs/some", "GET, DELETE"),
        ("/api/tasks", "POST"),
        ("/health", "GET"),
        ("/docs/static/swagger-ui.css", "GET"),
    ],
)
def test_wrong_method_gets_every_right_one(service: Service, path: str, allowed: str) -> None:
    with service.client() as client:
        response = client.patch(path)
    assert response.status_code == 405 and response.headers["Allow"] == allowed
    error = response.json()["error"]
    assert error["code"] == "method_not_allowed"
    assert error["message"] == f"this address takes {allowed.replace(', ', ' and ')} only"


def test_null_means_missing(service: Service) -> None:
    params = {"task_id": "easy", "metadata": None, "problem_statement": None, "max_steps": None}
    for config in (None, {"model_name": None, "api_key": None, "url": None, "model_infer_params": None}):
        response = service.run_task(params=params, llm_config=config, max_steps=None)
        assert response.status_code == 200, response.text


def test_unsolved_task_is_false(service: Service) -> None:
    response = service.run_task().json()
    assert response["final_answer"] == "False"
    assert response["trajectory"][-1]["output"].startswith("reward: 0")


@pytest.mark.parametrize(
    "params",
    [{"problem_statement": TOUCH}, {"metadata": {"problem_statement": TOUCH}}],
    ids=["params", "metadata"],
)
def test_problem_statement_replaces_the_instruction(service: Service, params: dict[str, Any]) -> None:
    response = service.run_task(params={"task_id": "easy", **params})
    assert response.json()["final_answer"] == "True"
    assert received_instruction(service, response.headers["X-Capstan-Job"]) == TOUCH


def test_default_instruction_is_instruction_md(service: Service) -> None:
    response = service.run_task()
    assert "Create the file /app/done." in received_instruction(service, response.headers["X-Capstan-Job"])


@pytest.mark.parametrize("body", [{"max_steps": 7}, {"params": {"task_id": "easy", "max_steps": 7}}])
def test_max_steps_reaches_the_agent_from_both_places(service: Service, body: dict[str, Any]) -> None:
    response = service.run_task(**body)
    (file,) = (service.jobs / response.headers["X-Capstan-Job"]).glob("*/agent/extra.txt")
    assert "('max_steps', 7)" in file.read_text()


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 422, "task_missing"),
        ({"params": {"task_id": "easi"}}, 404, "task_unknown"),
        ({"params": {"task_id": "../tasks/easy"}}, 404, "task_unknown"),
        ({"params": {"task_id": "easy\x00"}}, 404, "task_unknown"),
        ({"params": {"task_id": ["easy"]}}, 422, "invalid_request"),
        ({"params": {"task_id": "easy"}, "max_steps": 0}, 422, "invalid_request"),
        (
            {"params": {"task_id": "easy"}, "llm_config": {"url": "file:///etc/passwd"}},
            422,
            "llm_url_refused",
        ),
    ],
)
def test_invalid_request_gets_a_sentence_and_a_code(
    service: Service, body: dict[str, Any], status: int, code: str
) -> None:
    with service.client() as client:
        response = client.post("/api/tasks", json=body)
    assert response.status_code == status
    error = response.json()["error"]
    assert error["code"] == code and "\n" not in error["message"] and "Traceback" not in response.text


def test_misspelt_task_gets_a_suggestion(service: Service) -> None:
    assert "did you mean easy?" in service.run_task("easi").json()["error"]["message"]


def test_a_task_that_cannot_be_run_has_no_verdict(service: Service) -> None:
    broken = service.folder / "tasks" / "broken"
    broken.mkdir()
    (broken / "task.toml").write_text('[agent]\ntimeout_sec = "fast"\n')
    (broken / "tests").mkdir()
    response = service.run_task("broken")
    assert response.status_code == 502
    assert "timeout_sec" in response.json()["error"]["message"]
    toml = '[verifier.env]\nJUDGE = "${NO_SUCH_KEY}"\n'
    write_task(service.folder / "tasks" / "judged", toml=toml)
    response = service.run_task("judged")
    assert response.status_code == 502
    assert "NO_SUCH_KEY, which is not set" in response.json()["error"]["message"]


class RequestLog(Upstream):
    """Passes calls on and records their requests."""

    mode = "script"

    def __init__(self, inner: Upstream) -> None:
        self.inner = inner
        self.requests: list[dict[str, Any]] = []

    def describe(self) -> str:
        return self.inner.describe()

    async def send(self, request: ModelRequest) -> UpstreamResponse:
        self.requests.append(dict(request.payload))
        return await self.inner.send(request)


@pytest.fixture(scope="module")
def capstan(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Run the service with its defaults: Capstan's own agent and a live model."""
    folder = tmp_path_factory.mktemp("capstan")
    with running(
        folder,
        "--env",
        TASK_ENVIRONMENT,
        "--tasks",
        str(ROOT / "examples" / "tasks"),
        LLM_URL_LOOPBACK="true",
        LOG_LEVEL="debug",
    ) as service:
        yield service


async def test_llm_config_reaches_the_model_and_the_key_is_not_stored(
    capstan: Service,
) -> None:
    upstream = RequestLog(ScriptUpstream(ROOT / "examples" / "scripts"))
    async with Relay(upstream, allowed_models=("deepseek-v4-pro",)) as relay:
        account = relay.open_run("the provider")  # its token stands for the provider's key
        body = {
            "params": {"task_id": "sales-report"},
            "llm_config": {
                "model_name": "deepseek/deepseek-v4-pro",
                "api_key": account.token,
                "url": f"{account.base_url}/v1/chat/completions",
                "model_infer_params": {
                    "temperature": 0.25,
                    "top_p": 0.5,
                    "max_tokens": 9000,
                    "model": "gpt-9",
                },
            },
        }
        response = await asyncio.to_thread(lambda: capstan.run_task(**body))
        used = relay.usage(account.token)
    assert response.status_code == 200, response.text
    result = response.json()
    assert result["final_answer"] == "True"
    assert result["call_stat"]["model"] == "deepseek-v4-pro"
    assert result["call_stat"]["api_calls"] == used.calls == len(upstream.requests) > 0
    assert result["call_stat"]["total_cost"] == pytest.approx(used.cost_usd)
    roles = [turn["role"] for turn in result["trajectory"][:-1]]
    assert roles[0] == "user" and set(roles) == {"user", "assistant", "tool"}
    assert "/app/orders" in result["trajectory"][0]["content"]
    assert [turn["step"] for turn in result["trajectory"]] == list(range(1, len(roles) + 2))
    for request in upstream.requests:
        sent = {name: request.get(name) for name in ("temperature", "top_p", "max_tokens", "model")}
        assert sent == {"temperature": 0.25, "top_p": 0.5, "max_tokens": 9000, "model": "deepseek-v4-pro"}
    for path in capstan.folder.rglob("*"):
        if path.is_file():
            assert account.token.encode() not in path.read_bytes(), path
    assert account.token not in "\n".join(capstan.lines)
    with capstan.client() as client:
        job = response.headers["X-Capstan-Job"]
        for url in (f"/api/jobs/{job}", "/api/jobs", f"/api/jobs/{job}/events", f"/api/tasks/{job}"):
            assert account.token not in client.get(url).text


async def test_refused_key_ends_the_task_and_is_not_shown(capstan: Service) -> None:
    wrong = "sk-0123456789abcdef"
    async with Relay(ScriptUpstream(ROOT / "examples" / "scripts")) as relay:
        config = {"api_key": wrong, "url": relay.base_url}
        response = await asyncio.to_thread(lambda: capstan.run_task("sales-report", llm_config=config))
    assert response.status_code == 200 and response.json()["final_answer"] == "False"
    assert "error: the last model call failed: 401 " in response.json()["trajectory"][-1]["output"]
    assert wrong not in response.text + "\n".join(capstan.lines)


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("http://no-such-host.invalid", "no-such-host.invalid: no connection to the model: the host's name"),
        ("http://127.0.0.1:9", "127.0.0.1: no connection to the model: Connection refused"),
    ],
)
def test_model_that_is_never_reached_ends_the_task_without_a_verdict(
    capstan: Service, url: str, cause: str
) -> None:
    response = capstan.run_task("sales-report", llm_config={"api_key": "sk-mine", "url": url})
    assert response.status_code == 502
    error = response.json()["error"]
    assert error["code"] == "model_unreachable" and cause in error["message"]
    (record,) = (capstan.jobs / response.headers["X-Capstan-Job"]).glob("*__*/capstan.json")
    # The agent would go on retrying for minutes: it is ended after its third call.
    assert json.loads(record.read_text())["metered"]["errors"] == 3


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Run a service that plays scripts to Capstan's own agent."""
    arguments = ("--env", TASK_ENVIRONMENT, "--model", f"script:{ROOT / 'examples' / 'scripts'}")
    tasks = ("--tasks", str(ROOT / "examples" / "tasks"))
    with running(tmp_path_factory.mktemp("scripted"), *arguments, *tasks) as service:
        yield service


@pytest.mark.parametrize(
    "config",
    [
        {"api_key": "sk-mine"},
        {"model_name": "deepseek-flash"},
        {"url": "https://api.deepseek.com"},
        {"model_infer_params": {"temperature": 0.6}},
    ],
)
@pytest.mark.parametrize("path", ["/api/tasks", "/api/jobs"])
def test_scripted_service_refuses_llm_config(scripted: Service, path: str, config: dict[str, Any]) -> None:
    named = {"params": {"task_id": "sales-report"}} if path == "/api/tasks" else {"tasks": ["sales-report"]}
    with scripted.client() as client:
        response = client.post(path, json={**named, "llm_config": config})
        assert client.get("/api/jobs").json()["jobs"] == []
    assert response.status_code == 422, response.text
    assert response.json()["error"]["code"] == "llm_config_refused"
    assert "scripted" in response.json()["error"]["message"]


def test_scripted_answer_says_so(scripted: Service) -> None:
    empty = {"model_name": None, "api_key": "", "model_infer_params": {}}
    response = scripted.run_task("sales-report", llm_config=empty)
    assert response.headers["X-Capstan-Model"] == "scripted"
    answer = response.json()
    assert answer["final_answer"] == "True"
    assert answer["call_stat"].pop("api_calls") > 0
    assert answer["call_stat"] == {"model": "scripted", "total_cost": 0.0}
    assert "No LLM was called: the responses are scripted." in answer["trajectory"][-1]["output"]
    with scripted.client() as client:
        job = client.get(f"/api/jobs/{response.headers['X-Capstan-Job']}").json()
        followed = events(client.get(f"/api/jobs/{job['id']}/events").text)
    assert job["canned"] is True and job["model"].startswith("scripted")
    (started,) = [json.loads(data) for _, kind, data in followed if kind == "job_started"]
    assert started["model"].startswith("scripted")


def test_live_answer_has_no_such_mark(service: Service) -> None:
    assert "X-Capstan-Model" not in service.run_task().headers


def test_task_without_a_key_is_not_queued(capstan: Service) -> None:
    response = capstan.run_task("sales-report")
    assert response.status_code == 422 and response.json()["error"]["code"] == "key_missing"


def test_an_agent_that_calls_no_model_needs_no_key(tmp_path: Path) -> None:
    write_task(tmp_path / "tasks" / "one")
    write_agent(tmp_path / "agents" / "plain", 'await environment.exec("true"); return "ok"')
    with running(tmp_path, "--agent", "agents/plain", "--env", TASK_ENVIRONMENT) as service:
        response = service.run_task("one")
    assert response.status_code == 200, response.text


def test_services_own_key_is_not_sent_to_a_requests_address(service: Service) -> None:
    response = service.run_task(llm_config={"url": "http://127.0.0.1:9"})
    assert response.status_code == 422
    assert response.json()["error"] == {
        "code": "key_missing",
        "message": "llm_config.api_key: must be given where url is given",
    }


def test_settings_are_read_from_dotenv_and_the_variables_win(tmp_path: Path) -> None:
    write_tasks_and_agents(tmp_path)
    (tmp_path / ".env").write_text(
        "SERVICE_TOKEN=from-dotenv\nTB2_DIR=elsewhere\nLOG_LEVEL=warning\nTHREAD_POOL_MAX_WORKERS=2\n"
        "CAPSTAN_AGENT=nop\n"
    )
    arguments = ("--env", TASK_ENVIRONMENT)
    with running(tmp_path, *arguments) as service, service.client() as client:  # with TB2_DIR=tasks
        assert client.get("/api/jobs").status_code == 401
        client.headers["authorization"] = "Bearer from-dotenv"
        assert client.post("/api/tasks", json={"params": {"task_id": "easy"}}).status_code == 200
        assert client.get("/api/jobs").json()["jobs"][0]["agent"] == "nop"
        assert not any(" INFO " in line for line in service.lines)


@pytest.mark.parametrize(
    ("arguments", "variables", "words"),
    [
        ((), {"THREAD_POOL_MAX_WORKERS": "many"}, "THREAD_POOL_MAX_WORKERS"),
        ((), {"PULL_IF_NOT_EXISTS": "perhaps"}, "PULL_IF_NOT_EXISTS"),
        ((), {"TASK_IMAGES": "one"}, "TASK_IMAGES: must be task=image"),
        (("--port", "99999"), {}, "--port"),
        (("--host", "no.such.host.invalid"), {}, "--host"),
        (("--model", "script:nowhere", "--isolation", "moon"), {}, "--isolation"),
        (("--model", "record:tape"), {}, "--model record"),
    ],
)
def test_invalid_setting_prints_one_line(
    tmp_path: Path, arguments: tuple[str, ...], variables: dict[str, str], words: str
) -> None:
    write_tasks_and_agents(tmp_path)
    service = Service(tmp_path, arguments, variables)
    with pytest.raises(AssertionError, match=re.escape(words)):
        service.start()
    assert service.stop() in (1, 2)
    (line,) = service.lines
    assert line.startswith("error: ")


def test_openapi_has_every_route_with_examples_and_the_docs_need_no_other_host(service: Service) -> None:
    with service.client() as client:
        schema = client.get("/openapi.json").json()
        page = client.get("/docs").text
        files = re.findall(r'(?:src|href)="([^"]+)"', page)
        assert len(files) == 3 and all(client.get(file).status_code == 200 for file in files)
    assert "http" not in page.lower().replace("<!doctype html>", "")
    assert set(schema["paths"]) == {
        "/health",
        "/api/tasks",
        "/api/tasks/{job_id}",
        "/api/jobs",
        "/api/jobs/{job_id}",
        "/api/jobs/{job_id}/events",
        "/api/jobs/{job_id}/trials/{trial}/trajectory",
    }
    text = json.dumps(schema)
    assert schema["components"]["schemas"]["TaskRequest"]["examples"] and '"429"' in text
