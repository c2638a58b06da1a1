"""Each row of contracts.md 8, over HTTP."""

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
from tests.runner.service.service_helpers import ROOT, Service, furnish, running

WORK = "touch the file"


def told(service: Service, job: str) -> str:
    (file,) = (service.jobs / job).glob("*/agent/told.txt")
    return file.read_text()


def test_health_says_the_old_services_words(service: Service) -> None:
    with service.client() as client:
        answer = client.get("/health")
    assert answer.status_code == 200
    assert answer.json() == {"status": "healthy", "service": "Terminal-Bench"}


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
        answer = client.post("/api/tasks", json={"params": place(name), "unknown": {"is": "ignored"}})
    assert answer.status_code == 200, answer.text
    (folder,) = (service.jobs / answer.headers["X-Capstan-Job"]).glob("*__*")
    assert folder.name.startswith("known-as__")


def test_the_answer_has_the_old_services_form_and_says_true_for_a_reward_of_1(service: Service) -> None:
    answer = service.run_task(params={"task_id": "easy", "problem_statement": WORK}).json()
    assert set(answer) == {"final_answer", "trajectory", "call_stat"}
    assert answer["final_answer"] == "True"
    last = answer["trajectory"][-1]
    assert last.keys() == {"step", "action", "output"} and last["action"] == "evaluation"
    assert last["output"].startswith("reward: 1")
    assert answer["call_stat"] == {"model": "deepseek-v4-pro", "api_calls": 0, "total_cost": 0.0}


def test_what_is_null_is_as_if_it_were_missing(service: Service) -> None:
    params = {"task_id": "easy", "metadata": None, "problem_statement": None, "max_steps": None}
    for config in (None, {"model_name": None, "api_key": None, "url": None, "model_infer_params": None}):
        answer = service.run_task(params=params, llm_config=config, max_steps=None)
        assert answer.status_code == 200, answer.text


def test_a_task_that_is_not_solved_is_false(service: Service) -> None:
    answer = service.run_task().json()
    assert answer["final_answer"] == "False"
    assert answer["trajectory"][-1]["output"].startswith("reward: 0")


@pytest.mark.parametrize(
    "params",
    [{"problem_statement": WORK}, {"metadata": {"problem_statement": WORK}}],
    ids=["params", "metadata"],
)
def test_a_statement_of_the_clients_own_replaces_the_instruction(
    service: Service, params: dict[str, Any]
) -> None:
    answer = service.run_task(params={"task_id": "easy", **params})
    assert answer.json()["final_answer"] == "True"
    assert told(service, answer.headers["X-Capstan-Job"]) == WORK


def test_without_a_statement_the_agent_is_told_instruction_md(service: Service) -> None:
    answer = service.run_task()
    assert "Create the file /app/done." in told(service, answer.headers["X-Capstan-Job"])


@pytest.mark.parametrize("body", [{"max_steps": 7}, {"params": {"task_id": "easy", "max_steps": 7}}])
def test_max_steps_reaches_the_agent_from_both_places(service: Service, body: dict[str, Any]) -> None:
    answer = service.run_task(**body)
    (file,) = (service.jobs / answer.headers["X-Capstan-Job"]).glob("*/agent/extra.txt")
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
def test_a_wrong_request_is_answered_with_a_sentence_and_a_code(
    service: Service, body: dict[str, Any], status: int, code: str
) -> None:
    with service.client() as client:
        answer = client.post("/api/tasks", json=body)
    assert answer.status_code == status
    error = answer.json()["error"]
    assert error["code"] == code and "\n" not in error["message"] and "Traceback" not in answer.text


def test_a_misspelt_task_is_told_what_may_be_meant(service: Service) -> None:
    assert "did you mean easy?" in service.run_task("easi").json()["error"]["message"]


def test_a_task_that_cannot_be_run_has_no_verdict(service: Service) -> None:
    broken = service.folder / "tasks" / "broken"
    broken.mkdir()
    (broken / "task.toml").write_text('[agent]\ntimeout_sec = "fast"\n')
    (broken / "tests").mkdir()
    answer = service.run_task("broken")
    assert answer.status_code == 502
    assert "timeout_sec" in answer.json()["error"]["message"]


class Overheard(Upstream):
    """Passes calls on, and remembers them."""

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
    """The service as it comes: Capstan's own agent and a live model."""
    folder = tmp_path_factory.mktemp("capstan")
    with running(
        folder,
        "--env",
        "sandbox",
        "--tasks",
        str(ROOT / "examples" / "tasks"),
        LLM_URL_LOOPBACK="true",
        LOG_LEVEL="debug",
    ) as service:
        yield service


async def test_llm_config_reaches_the_model_through_the_relay_and_the_key_stays_nowhere(
    capstan: Service,
) -> None:
    upstream = Overheard(ScriptUpstream(ROOT / "examples" / "scripts"))
    async with Relay(upstream, allowed_models=("deepseek-v4-pro",)) as relay:
        account = relay.open_run("the provider")  # its token is what a provider's key is: without it, 401
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
        answer = await asyncio.to_thread(lambda: capstan.run_task(**body))
        used = relay.usage(account.token)
    assert answer.status_code == 200, answer.text
    told = answer.json()
    assert told["final_answer"] == "True"
    assert told["call_stat"]["model"] == "deepseek-v4-pro"
    assert told["call_stat"]["api_calls"] == used.calls == len(upstream.requests) > 0
    assert told["call_stat"]["total_cost"] == pytest.approx(used.cost_usd)
    roles = [turn["role"] for turn in told["trajectory"][:-1]]
    assert roles[:2] == ["system", "user"] and {"assistant", "tool"} <= set(roles)
    assert [turn["step"] for turn in told["trajectory"]] == list(range(1, len(roles) + 2))
    for request in upstream.requests:
        sent = {name: request.get(name) for name in ("temperature", "top_p", "max_tokens", "model")}
        assert sent == {"temperature": 0.25, "top_p": 0.5, "max_tokens": 9000, "model": "deepseek-v4-pro"}
    for path in capstan.folder.rglob("*"):
        if path.is_file():
            assert account.token.encode() not in path.read_bytes(), path
    assert account.token not in "\n".join(capstan.lines)
    with capstan.client() as client:
        job = answer.headers["X-Capstan-Job"]
        for url in (f"/api/jobs/{job}", "/api/jobs", f"/api/jobs/{job}/events", f"/api/tasks/{job}"):
            assert account.token not in client.get(url).text


async def test_a_key_that_the_provider_refuses_ends_the_task_and_is_not_repeated(capstan: Service) -> None:
    wrong = "sk-0123456789abcdef"
    async with Relay(ScriptUpstream(ROOT / "examples" / "scripts")) as relay:
        config = {"api_key": wrong, "url": relay.base_url}
        answer = await asyncio.to_thread(lambda: capstan.run_task("sales-report", llm_config=config))
    assert answer.status_code == 200 and answer.json()["final_answer"] == "False"
    assert wrong not in answer.text + "\n".join(capstan.lines)


def test_without_any_key_a_task_is_refused_before_it_is_queued(capstan: Service) -> None:
    answer = capstan.run_task("sales-report")
    assert answer.status_code == 422 and answer.json()["error"]["code"] == "key_missing"


def test_the_services_own_key_goes_to_no_address_of_a_request(service: Service) -> None:
    answer = service.run_task(llm_config={"url": "http://127.0.0.1:9"})
    assert answer.status_code == 422
    assert answer.json()["error"] == {
        "code": "key_missing",
        "message": "llm_config.api_key: must be given where url is given",
    }


def test_settings_are_read_from_dotenv_and_the_variables_win(tmp_path: Path) -> None:
    furnish(tmp_path)
    (tmp_path / ".env").write_text(
        "SERVICE_TOKEN=from-dotenv\nTB2_DIR=elsewhere\nLOG_LEVEL=warning\nTHREAD_POOL_MAX_WORKERS=2\n"
        "CAPSTAN_AGENT=nop\n"
    )
    arguments = ("--env", "sandbox")
    with running(tmp_path, *arguments) as service, service.client() as client:  # TB2_DIR=tasks is a variable
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
        (("--port", "99999"), {}, "--port"),
        (("--host", "no.such.host.invalid"), {}, "--host"),
        (("--model", "script:nowhere", "--isolation", "moon"), {}, "--isolation"),
        (("--model", "record:tape"), {}, "--model record"),
    ],
)
def test_a_wrong_setting_is_one_line_and_an_exit_code(
    tmp_path: Path, arguments: tuple[str, ...], variables: dict[str, str], words: str
) -> None:
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
