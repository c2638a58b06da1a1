"""Jobs on a Ray cluster of three nodes: the same results as here, and what nodes may do to them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.relay.cassette import Cassette
from tests.integration.isolation.conftest import ROOT, Ended, command, run, scripted_model, start
from tests.integration.ray.conftest import OFFERS_DOCKER, Nodes, node_folders, start_job, until
from tests.needs import small_disk
from tests.runner.job_helpers import write_agent, write_task
from tests.runner.service.service_helpers import running

pytestmark = [pytest.mark.ray, pytest.mark.sandbox, pytest.mark.timeout(280)]

TALKER = ROOT / "tests" / "integration" / "isolation" / "talker"
SCRIPTS = f"script:{ROOT / 'examples' / 'scripts'}"
METERED = ("calls", "errors", "prompt_tokens", "cache_hit_tokens", "completion_tokens", "cost_usd")
KEY = "sk-real-key-0123456789abcdef"


def on(nodes: Nodes) -> tuple[str, str]:
    return "--on", f"ray={nodes.address}"


def talk(work: Path, model: str, *arguments: str, **variables: str) -> Ended:
    task = work / "equal" / "talk"
    if not task.exists():
        write_task(task, toml='[environment]\nnetwork_mode = "no-network"\n')
    where = (task, "--agent", TALKER, "--model", model, "-o", work / "equal-jobs")
    ended = run(*where, *arguments, variables=variables)
    assert ended.trials["talk"]["reward"] == 1, ended.stderr
    return ended


def figures(ended: Ended) -> dict[str, object]:
    trial = ended.trials["talk"]
    steps = json.loads((ended.log_dir("talk") / "steps.json").read_text())
    return {"steps": steps, **{name: trial["metered"][name] for name in METERED}}


def digests(tape: Path) -> list[str]:
    return [exchange.digest for exchange in Cassette.load(tape).calls]


@pytest.fixture(scope="module")
def tape(work: Path) -> Path:
    """A recording of a run on this machine."""
    tape = work / "talk.jsonl"
    with scripted_model(TALKER / "script.toml") as variables:
        talk(work, f"record:{tape}", "--env", "sandbox", **variables)
    return tape


@pytest.mark.parametrize(
    "arguments",
    [
        ("--env", "sandbox"),
        pytest.param(("--env", "docker"), marks=pytest.mark.docker),
        pytest.param(("--isolation", "dind"), marks=pytest.mark.docker),
    ],
)
def test_the_same_recording_gives_the_same_run(
    nodes: Nodes, work: Path, tape: Path, arguments: tuple[str, ...]
):
    here = figures(talk(work, f"replay:{tape}", *(arguments or ()), "--replay", "strict"))
    there = talk(work, f"replay:{tape}", *arguments, *on(nodes), "--replay", "strict")
    assert figures(there) == here
    assert there.trials["talk"]["node"]


def test_requests_are_the_same(nodes: Nodes, work: Path, tape: Path):
    again = work / "talk-ray.jsonl"
    with scripted_model(TALKER / "script.toml") as variables:
        talk(work, f"record:{again}", "--env", "sandbox", *on(nodes), **variables)
    assert digests(again) == digests(tape)


def test_the_folder_is_that_of_a_run_here(nodes: Nodes, work: Path, tape: Path):
    """Paths, records and modes: nothing in it names a place on a node."""
    there = talk(work, f"replay:{tape}", "--env", "sandbox", *on(nodes))
    here = talk(work, f"replay:{tape}", "--env", "sandbox")
    trials = [ended.job_dir / ended.trials["talk"]["trial_name"] for ended in (there, here)]
    assert shape(trials[0]) == shape(trials[1])
    for path in trials[0].rglob("*"):
        assert not path.is_file() or b"capstan-node-" not in path.read_bytes(), path
    assert json.loads((trials[0] / "config.json").read_text())["trials_dir"] == str(there.job_dir)
    assert not list(there.job_dir.glob(".arriving*"))


def shape(folder: Path) -> dict[str, int]:
    found = sorted(folder.rglob("*"))
    return {path.relative_to(folder).as_posix(): path.stat().st_mode & 0o777 for path in found}


def test_the_key_is_nowhere_on_a_node(nodes: Nodes, work: Path):
    """Not in the environment, files or arguments of a process of Ray's or of a node runner."""
    task = write_task(work / "key" / "key", agent_sec=60)
    agent = write_agent(work / "key-agent", "await environment.exec('sleep 4')\nreturn 'deepseek'")
    jobs = work / "key-jobs"
    job = start_job(
        *(task, "--agent", agent, "--model", "live", "--env", "sandbox", *on(nodes)),
        *("-o", jobs),
        DEEPSEEK_API_KEY=KEY,
        DEEPSEEK_BASE_URL="http://127.0.0.1:9",
    )
    until(lambda: list(jobs.glob("*/key__*/trial.log")))
    assert not set(holders(KEY.encode())) - {job.pid}
    folders = [*node_folders(jobs), Path("/tmp/ray/session_latest/logs")]
    assert len(folders) == 4
    for folder in folders:
        assert subprocess.run(["grep", "-rqF", KEY, str(folder)]).returncode != 0, folder
    stdout, stderr = job.communicate(timeout=60)
    assert KEY not in stdout + stderr
    assert job.returncode == 0, stderr


def holders(text: bytes) -> list[int]:
    """The processes of this machine with a text in their environment or arguments."""
    found: list[int] = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if text in (process / "environ").read_bytes() + (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return found


def slow_task(work: Path, name: str, count: int = 1) -> tuple[list[Path], Path, Path]:
    """Tasks whose agent waits until the file `go` is there, that file, and the agent."""
    go = work / f"{name}-go"
    body = (
        "(self.logs_dir / 'agent.log').write_text('begun\\n')\n"
        f"while not Path({str(go)!r}).exists():\n    await asyncio.sleep(0.1)\n"
        "await environment.exec('touch /app/done')\nreturn 'done'"
    )
    tasks = [write_task(work / name / f"{name}-{n}", agent_sec=100) for n in range(count)]
    return tasks, go, write_agent(work / f"{name}-agent", body)


def begun(jobs: Path, count: int) -> list[Path]:
    """The logs of agents that have begun, as they are at the head."""
    logs = list(jobs.glob("*/*__*/agent/agent.log"))
    return logs if len(logs) >= count else []


def records(jobs: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text()) for path in sorted(jobs.glob("*/*__*/capstan.json"))]


def test_trials_of_a_node_that_dies_run_elsewhere(nodes: Nodes, work: Path):
    """Also: its log has come while the trial ran, and nothing that ended is run twice."""
    doomed = nodes.add(num_cpus=1, resources={"doomed": 1, **OFFERS_DOCKER})
    tasks, go, agent = slow_task(work, "dies", 7)
    jobs = work / "dies-jobs"
    job = start_job(
        *(*tasks, "--agent", agent, "--model", SCRIPTS, "--env", "sandbox", *on(nodes), "-o", jobs)
    )
    until(lambda: begun(jobs, 7), 90)  # seven CPUs, and a trial takes one
    nodes.kill(doomed)
    until(lambda: list(jobs.glob("*/set-aside/*")), 60)
    go.touch()
    _, stderr = job.communicate(timeout=120)
    assert job.returncode == 0, stderr
    ended = records(jobs)
    assert [record["reward"] for record in ended] == [1.0] * 7
    retried = [record for record in ended if record["retries"]]
    assert len(retried) == 1 and "was lost" in stderr
    aside = json.loads(next(jobs.glob("*/set-aside/*/capstan.json")).read_text())
    assert aside["error_type"] == "NodeLost" and aside["node"] != retried[0]["node"]


def test_trials_of_a_killed_node_runner_run_again(nodes: Nodes, work: Path):
    tasks, go, agent = slow_task(work, "runner", 6)
    jobs = work / "runner-jobs"
    job = start_job(
        *(*tasks, "--agent", agent, "--model", SCRIPTS, "--env", "sandbox", *on(nodes), "-o", jobs)
    )
    until(lambda: begun(jobs, 6), 90)  # on every node
    folder = node_folders(jobs)[0]
    os.kill(int((folder / "owner").read_text().split("/")[2]), signal.SIGKILL)
    until(lambda: list(jobs.glob("*/set-aside/*")), 60)
    go.touch()
    _, stderr = job.communicate(timeout=120)
    assert job.returncode == 0, stderr
    assert [record["reward"] for record in records(jobs)] == [1.0] * 6
    until(lambda: not node_folders(jobs), 60)


def test_a_killed_job_goes_on_and_nodes_clean_up(nodes: Nodes, work: Path):
    tasks, go, agent = slow_task(work, "killed", 3)
    jobs = work / "killed-jobs"
    arguments = ("--agent", agent, "--model", SCRIPTS, "--env", "sandbox", *on(nodes))
    job = start_job(*tasks, *arguments, "-o", jobs, "--job-name", "killed")
    until(lambda: begun(jobs, 3), 90)
    assert len(node_folders(jobs)) == 3
    job.kill()
    job.communicate()
    until(lambda: not node_folders(jobs), 60)
    go.touch()
    resumed = subprocess.run(
        command("resume", jobs / "killed", "--json"), cwd=ROOT, capture_output=True, text=True
    )
    assert resumed.returncode == 0, resumed.stderr
    assert [record["reward"] for record in records(jobs)] == [1.0] * 3


@pytest.mark.docker
def test_nodes_remove_the_containers_of_a_killed_job(nodes: Nodes, work: Path):
    tasks, _, agent = slow_task(work, "left")
    jobs = work / "left-jobs"
    job = start_job(*tasks, "--agent", agent, "--model", SCRIPTS, *on(nodes), "-o", jobs)
    until(lambda: begun(jobs, 1), 90)
    found = containers_of("left-0")
    assert found
    job.kill()
    job.communicate()
    until(lambda: not containers_of("left-0"), 60)


def containers_of(trial: str) -> list[str]:
    listed = subprocess.run(
        ["docker", "ps", "--all", "--format", '{{.Label "capstan.trial"}} {{.Names}}'],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return [line for line in listed.splitlines() if line.startswith(trial)]


def test_ctrl_c_ends_all_trials(nodes: Nodes, work: Path):
    tasks, _, agent = slow_task(work, "ctrl", 3)
    jobs = work / "ctrl-jobs"
    job = start_job(
        *(*tasks, "--agent", agent, "--model", SCRIPTS, "--env", "sandbox", *on(nodes), "-o", jobs)
    )
    until(lambda: begun(jobs, 3), 90)
    asked = time.monotonic()
    job.send_signal(signal.SIGINT)
    stdout, stderr = job.communicate(timeout=60)
    assert job.returncode == 130 and time.monotonic() - asked < 30, stderr
    assert "BASE_BENCHMARK_RESULT=" in stdout.splitlines()[-1]
    assert [record["status"] for record in records(jobs)] == ["cancelled"] * 3
    until(lambda: not node_folders(jobs), 60)


def test_a_node_with_another_version_takes_no_trials(nodes: Nodes, work: Path, tape: Path):
    other = work / "other-version"
    info = other / "capstan-0.0.1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: capstan\nVersion: 0.0.1\n")
    node = nodes.add(env_vars={"PYTHONPATH": str(other)})
    try:
        ended = talk(work, f"replay:{tape}", "--env", "sandbox", *on(nodes))
        assert re.search(r"takes no trials now: Capstan is 0\.0\.1 there, and [\d.]+ here", ended.stderr)
    finally:
        nodes.kill(node)


@pytest.fixture
def full_node(nodes: Nodes) -> Iterator[Path]:
    """A node with plenty of CPUs whose disk has no space."""
    short = Path(tempfile.mkdtemp(prefix="cs-"))  # a socket's name is 107 bytes at most
    with small_disk(short / "small", 64) as disk:
        node = nodes.add(num_cpus=8, env_vars={"TMPDIR": str(disk)})
        try:
            yield disk
        finally:
            nodes.kill(node)


def test_a_node_without_disk_takes_no_trials_and_says_why(
    nodes: Nodes, work: Path, full_node: Path, tmp_path: Path
):
    tasks, go, agent = slow_task(work, "full", 8)  # six CPUs are elsewhere
    go.touch()
    ended = run(
        *(*tasks, "--agent", agent, "--model", SCRIPTS, "--env", "sandbox", *on(nodes)),
        *("-o", tmp_path / "jobs"),
    )
    assert ended.code == 0, ended.stderr
    assert "GiB of disk free, and 2 are needed" in ended.stderr
    assert {trial["retries"] for trial in ended.document["trials"]} == {0}


@pytest.mark.docker
def test_a_node_without_an_engine_takes_no_trials_and_says_why(nodes: Nodes, tmp_path: Path):
    node = nodes.add(num_cpus=8, resources=OFFERS_DOCKER, env_vars={"DOCKER_HOST": "unix:///nowhere.sock"})
    try:
        task = write_task(tmp_path / "one", toml='[environment]\nnetwork_mode = "no-network"\n')
        ended = run(task, "--agent", "oracle", "-k", "8", *on(nodes), "-o", tmp_path / "jobs")
    finally:
        nodes.kill(node)
    assert ended.code == 0, ended.stderr
    assert "no engine answers at unix:///nowhere.sock" in ended.stderr
    assert [(trial["reward"], trial["retries"]) for trial in ended.document["trials"]] == [(1.0, 0)] * 8


@pytest.mark.parametrize("secure", [False, True], ids=["plain", "tls"])
def test_the_relay_listens_where_it_is_told(
    nodes: Nodes, work: Path, tape: Path, tmp_path: Path, secure: bool
):
    arguments = ["--relay-listen", "127.0.0.1:0"]
    if secure:
        certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
        making = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "1",
            "-subj",
            "/CN=head",
        ]
        making += ["-keyout", str(key), "-out", str(certificate)]
        subprocess.run(making, check=True, capture_output=True)
        arguments += ["--relay-cert", str(certificate), "--relay-key", str(key)]
    talk(work, f"replay:{tape}", "--env", "sandbox", *on(nodes), *arguments)


def test_settings_that_cannot_work_are_refused_in_one_line(work: Path):
    task = write_task(work / "refused" / "refused")
    for place, said in (
        ("ray=127.0.0.1:1", "no Ray cluster answers at 127.0.0.1:1"),
        ("ray=ray://127.0.0.1:1", "cannot be a ray:// address"),
        ("rays", "must be here, ray, ray=HOST:PORT or ray=local"),
    ):
        ended = run(task, "--agent", "nop", "--on", place, "-o", work / "refused-jobs")
        assert ended.code != 0 and said in ended.stderr, (place, ended.stderr)
        assert "Traceback" not in ended.stderr


def test_a_cluster_that_is_lost_ends_the_job_as_interrupted(work: Path):
    nodes = Nodes()
    try:
        tasks, go, agent = slow_task(work, "lost")
        jobs = work / "lost-jobs"
        arguments = ("--agent", agent, "--model", SCRIPTS, "--env", "sandbox", "--job-name", "lost")
        job = start_job(*tasks, *arguments, *on(nodes), "--cluster-timeout", "5", "-o", jobs)
        until(lambda: begun(jobs, 1), 90)
        nodes.kill_head()
        stdout, stderr = job.communicate(timeout=90)
    finally:
        nodes.stop()
    assert job.returncode == 1 and "did not answer for 5 s" in stderr
    assert json.loads(stdout.splitlines()[-1].partition("=")[2])["reason_code"] == "harbor_cancelled_error"
    assert json.loads((jobs / "lost" / "capstan.json").read_text())["status"] == "interrupted"
    go.touch()
    again = start(command("resume", jobs / "lost", "--on", "here", "--json"))
    assert again.wait(60) == 0 and records(jobs)[0]["reward"] == 1


def test_a_private_cluster_is_gone_when_the_job_is(work: Path, tape: Path):
    mark = f"CAPSTAN_TEST_MARK={work}"
    variables = dict([mark.split("=", 1)])
    ended = talk(work, f"replay:{tape}", "--env", "sandbox", "--on", "ray=local", **variables)
    assert ended.trials["talk"]["node"]
    until(lambda: not holders(mark.encode()))


def test_the_service_runs_jobs_on_the_cluster(nodes: Nodes, work: Path):
    tasks = work / "served"
    for name in ("one", "two"):
        write_task(tasks / name)
    arguments = ("--tasks", str(tasks), "--agent", "oracle", "--env", "sandbox", *on(nodes))
    with running(work, *arguments, TB2_DIR="") as service:
        answers = [service.run_task(name) for name in ("one", "two")]
    assert [answer.json()["final_answer"] for answer in answers] == ["True", "True"]
    found = [json.loads(path.read_text()) for path in work.glob("jobs/*/*__*/capstan.json")]
    assert len(found) == 2 and all(record["node"] for record in found)


@pytest.mark.docker
def test_trials_wait_for_a_node_that_offers_docker(work: Path):
    """As an autoscaler brings one, once it is asked for."""
    nodes = Nodes(others=0, resources={})
    try:
        task = write_task(work / "waits" / "waits", toml='[environment]\nnetwork_mode = "no-network"\n')
        arguments = ("--agent", "oracle", "--env", "docker", *on(nodes), "-o", work / "waits-jobs")
        job = start_job(task, *arguments)
        assert job.stderr is not None
        while "trials wait for one" not in (line := job.stderr.readline()):
            assert line, "the job ended"
        nodes.add(resources=OFFERS_DOCKER)
        _, stderr = job.communicate(timeout=120)
    finally:
        nodes.stop()
    assert job.returncode == 0, stderr
    assert [record["reward"] for record in records(work / "waits-jobs")] == [1.0]
