"""Jobs over HTTP: queued, followed, cancelled, repeated, and with agents that come by upload."""

from __future__ import annotations

import asyncio
import io
import json
import threading
import zipfile
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.runner.job_helpers import write_agent
from tests.runner.service.service_helpers import (
    KEY,
    OBEDIENT,
    Service,
    events,
    furnish,
    running,
    wait_until,
)


def post(service: Service, body: dict[str, Any], **headers: str) -> httpx.Response:
    with service.client() as client:
        return client.post("/api/jobs", json=body, headers=headers)


def ended(service: Service, job: str) -> dict[str, Any]:
    """The job once it is over."""
    with service.client() as client:
        client.get(f"/api/jobs/{job}/events")  # ends when the job does
        return client.get(f"/api/jobs/{job}").json()


def zipped(tmp_path: Path, body: str = OBEDIENT, **more: str) -> bytes:
    folder = write_agent(tmp_path / "made", body)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.write(folder / "agent.py", "agent.py")
        for name, text in more.items():
            file.writestr(name, text)
    return archive.getvalue()


def test_a_job_is_answered_at_once_and_its_results_are_found_by_its_id(service: Service) -> None:
    answer = post(service, {"tasks": ["easy", "na*"], "attempts": 2, "agent": "oracle"})
    assert answer.status_code == 202
    told = answer.json()
    assert answer.headers["location"] == f"/api/jobs/{told['id']}"
    assert told["state"] in ("queued", "running") and (told["tasks"], told["attempts"]) == (2, 2)
    job = ended(service, told["id"])
    assert job["state"] == "completed" and job["summary"]["score"] == 1.0 and job["agent"] == "oracle"
    assert [(t["task"], t["attempt"], t["passed"]) for t in job["trials"]] == [
        ("easy", 1, True),
        ("known-as", 1, True),
        ("easy", 2, True),
        ("known-as", 2, True),
    ]
    with service.client() as client:
        listed = client.get("/api/jobs", params={"limit": 1}).json()
        assert [j["id"] for j in listed["jobs"]] == [told["id"]]
        older = client.get("/api/jobs", params={"limit": 500, "before": listed["next"]}).json()
        assert told["id"] not in [j["id"] for j in older["jobs"]]


def test_events_come_in_order_and_can_be_taken_up_again(service: Service) -> None:
    job = post(service, {"tasks": ["easy"], "agent": "nop"}).json()["id"]
    with service.client() as client:
        whole = events(client.get(f"/api/jobs/{job}/events").text)
        rest = events(client.get(f"/api/jobs/{job}/events", headers={"Last-Event-ID": "2"}).text)
        none = events(client.get(f"/api/jobs/{job}/events", headers={"Last-Event-ID": "99"}).text)
    assert [number for number, _, _ in whole] == list(range(1, len(whole) + 1))
    kinds = [kind for _, kind, _ in whole]
    assert kinds[0] == "queued" and kinds[-1] == "job_ended" and "trial_started" in kinds
    assert rest == whole[2:] and none == []
    (trial,) = [json.loads(data) for _, kind, data in whole if kind == "trial_ended"]
    assert trial["reward"] == 0 and trial["passed"] is False


def test_events_are_sent_while_the_job_runs(service: Service) -> None:
    body = {"params": {"task_id": "easy", "problem_statement": "sleep 4 touch"}}
    with service.client() as client:
        thread = threading.Thread(target=lambda: client.post("/api/tasks", json=body))
        thread.start()
        with service.client() as other:
            wait_until(lambda: other.get("/api/jobs").json()["jobs"][0]["state"] == "running", "it never ran")
            job = other.get("/api/jobs").json()["jobs"][0]["id"]
            with other.stream("GET", f"/api/jobs/{job}/events") as stream:
                assert stream.headers["content-type"].startswith("text/event-stream")
                for line in stream.iter_lines():
                    if line == "event: trial_started":
                        assert other.get(f"/api/jobs/{job}").json()["state"] == "running"
                    if line.startswith("event: "):
                        last = line
        thread.join()
    assert last == "event: job_ended"


def test_a_cancelled_job_stops_its_trials_and_starts_no_more(service: Service) -> None:
    write_agent(service.folder / "agents" / "sleepy", 'await environment.exec("sleep 15"); return "ok"')
    job = post(service, {"agent": "sleepy", "attempts": 5}).json()["id"]
    with service.client() as client:
        with client.stream("GET", f"/api/jobs/{job}/events") as stream:
            for line in stream.iter_lines():
                if line == "event: trial_started":
                    break
        answer = client.delete(f"/api/jobs/{job}")
        assert answer.status_code == 200 and answer.json()["state"] == "cancelled"
        trials = answer.json()["trials"]
        assert trials and all(trial["status"] == "cancelled" for trial in trials)
        again = client.delete(f"/api/jobs/{job}")
        assert again.json()["state"] == "cancelled" and len(again.json()["trials"]) == len(trials)
        assert client.delete("/api/jobs/no-such").json()["error"]["code"] == "job_unknown"


def test_a_repeated_request_with_its_key_is_the_same_job(service: Service) -> None:
    body = {"tasks": ["easy"], "agent": "oracle"}
    first = post(service, body, **{"Idempotency-Key": "abc"}).json()["id"]
    assert post(service, body, **{"Idempotency-Key": "abc"}).json()["id"] == first
    assert ended(service, first)["state"] == "completed"
    assert post(service, body, **{"Idempotency-Key": "abc"}).json()["state"] == "completed"
    other = post(service, {"tasks": ["easy"]}, **{"Idempotency-Key": "abc"})
    assert other.status_code == 422 and other.json()["error"]["code"] == "idempotency_key_reused"


def test_the_same_task_asked_for_twice_at_once_with_one_key_is_run_once(service: Service) -> None:
    body = {"params": {"task_id": "easy", "problem_statement": "sleep 1 touch"}}

    async def both() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
            headers = {"Idempotency-Key": "twice"}
            return await asyncio.gather(
                *(client.post("/api/tasks", json=body, headers=headers) for _ in range(2))
            )

    one, two = asyncio.run(both())
    assert one.json() == two.json() and one.json()["final_answer"] == "True"
    assert one.headers["X-Capstan-Job"] == two.headers["X-Capstan-Job"]


def test_a_client_that_hangs_up_finds_its_result_by_id(service: Service) -> None:
    body = {"params": {"task_id": "easy", "problem_statement": "sleep 2 touch"}}
    with service.client() as client:
        with pytest.raises(httpx.ReadTimeout):
            client.post("/api/tasks", json=body, timeout=0.5, headers={"Idempotency-Key": "gone"})
        job = client.get("/api/jobs").json()["jobs"][0]["id"]
        answer = client.get(f"/api/tasks/{job}")
        assert answer.json()["final_answer"] == "True"
        repeated = client.post("/api/tasks", json=body, headers={"Idempotency-Key": "gone"})
        assert repeated.json() == answer.json() and repeated.headers["X-Capstan-Job"] == job


def test_the_trajectory_of_a_trial_is_given_as_it_was_written(service: Service) -> None:
    written = '{"schema_version": "ATIF-v1.8", "steps": []}'
    write_agent(
        service.folder / "agents" / "writer",
        f'(self.logs_dir / "trajectory.json").write_text({written!r}); return "ok"',
    )
    job = post(service, {"tasks": ["easy"], "agent": "writer"}).json()["id"]
    trial = ended(service, job)["trials"][0]["trial"]
    with service.client() as client:
        answer = client.get(f"/api/jobs/{job}/trials/{trial}/trajectory")
        assert answer.text == written and answer.headers["content-type"] == "application/json"
        for wrong in ("nothing", "..", "%2e%2e", f"..%2f{job}%2f{trial}", "%00"):
            refused = client.get(f"/api/jobs/{job}/trials/{wrong}/trajectory")
            assert refused.status_code == 404, wrong


def test_a_link_that_an_agent_left_leads_nowhere(service: Service) -> None:
    secret = service.folder / "secret.json"
    secret.write_text('{"secret": 1}')
    write_agent(
        service.folder / "agents" / "linker",
        f'(self.logs_dir / "trajectory.json").symlink_to({str(secret)!r}); return "ok"',
    )
    job = post(service, {"tasks": ["easy"], "agent": "linker"}).json()["id"]
    trial = ended(service, job)["trials"][0]["trial"]
    with service.client() as client:
        assert client.get(f"/api/jobs/{job}/trials/{trial}/trajectory").status_code == 404


def test_an_agent_comes_by_upload_and_can_be_named_by_its_digest_later(
    service: Service, tmp_path: Path
) -> None:
    archive = zipped(tmp_path)
    with service.client() as client:
        answer = client.post(
            "/api/jobs",
            data={"job": json.dumps({"tasks": ["easy"]})},
            files={"agent": ("agent.zip", archive, "application/zip")},
        )
        assert answer.status_code == 202, answer.text
        job = ended(service, answer.json()["id"])
        assert job["state"] == "completed" and job["trials"][0]["status"] == "completed"
    (kept,) = (service.jobs / ".service" / "agents").glob("*.zip")
    named = post(service, {"tasks": ["easy"], "agent": f"sha256:{kept.stem}"})
    assert ended(service, named.json()["id"])["state"] == "completed"


@pytest.mark.parametrize(
    ("archive", "status", "code"),
    [
        (b"no zip at all", 422, "agent_refused"),
        (b"PK\x05\x06" + b"\0" * 18, 422, "agent_refused"),
        (b"x" * (2**20 + 1), 413, "zip_too_large"),
    ],
)
def test_an_upload_is_checked_as_a_submission_is(
    service: Service, archive: bytes, status: int, code: str
) -> None:
    with service.client() as client:
        answer = client.post("/api/jobs", data={"job": "{}"}, files={"agent": ("a.zip", archive)})
    assert answer.status_code == status and answer.json()["error"]["code"] == code
    assert not list((service.jobs / ".service").glob("agents/*.part"))


def test_an_upload_that_reads_the_tests_is_told_which_rule_it_breaks(
    service: Service, tmp_path: Path
) -> None:
    archive = zipped(tmp_path, 'open("/app/tests/test_outputs.py").read(); return "ok"')
    with service.client() as client:
        answer = client.post("/api/jobs", files={"agent": ("a.zip", archive)})
    assert answer.status_code == 422
    assert answer.json()["error"]["findings"] and "refuse" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "name", ["../jobs", "/etc", "nobody", "", ".", "a\x00b", "x" * 400, "sha256:" + "0" * 64]
)
def test_an_agent_lies_in_its_folder_and_nowhere_else(service: Service, name: str) -> None:
    answer = post(service, {"tasks": ["easy"], "agent": name})
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "agent_unknown"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"tasks": ["easy"], "exclude": ["*"]}, "exclude"),
        ({"tasks": "easy"}, "tasks"),
        ({"tasks": ["easy"], "attempts": 0}, "attempts"),
        ({"tasks": ["easy"], "atempts": 2}, "atempts"),
        ({"tasks": ["easy"], "cost_limit_usd": -1}, "cost_limit_usd"),
        ({"tasks": ["nothing-like-*"]}, "nothing-like-*"),
    ],
)
def test_a_wrong_job_says_what_is_wrong_with_it(service: Service, body: dict[str, Any], words: str) -> None:
    answer = post(service, body)
    assert answer.status_code in (404, 422) and words in answer.json()["error"]["message"]


def test_a_full_queue_says_when_to_come_again(tmp_path: Path) -> None:
    furnish(tmp_path)
    variables = {"QUEUE_LIMIT": "1", "THREAD_POOL_MAX_WORKERS": "1", **KEY}
    with running(tmp_path, "--agent", "agents/obedient", "--env", "sandbox", **variables) as service:
        write_agent(tmp_path / "agents" / "sleepy", 'await environment.exec("sleep 20"); return "ok"')
        body = {"tasks": ["easy"], "agent": "sleepy"}
        kept = [post(service, body, **{"Idempotency-Key": str(i)}) for i in range(2)]
        assert [answer.status_code for answer in kept] == [202, 202]
        assert kept[1].json()["state"] == "queued" and kept[1].json()["place"] == 0
        full = post(service, body)
        assert full.status_code == 429 and int(full.headers["retry-after"]) > 0
        assert full.json()["error"]["code"] == "queue_full"
        assert post(service, body, **{"Idempotency-Key": "1"}).status_code == 202  # it has its place already
        with service.client() as client:
            for answer in reversed(kept):
                assert client.delete(answer.headers["location"]).json()["state"] == "cancelled"
        assert post(service, {"tasks": ["easy"], "agent": "nop"}).status_code == 202
