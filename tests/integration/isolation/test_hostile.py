"""A hostile agent in isolation: one run tries everything, and each attempt is asserted."""

from __future__ import annotations

import hashlib
import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.integration.isolation.conftest import ROOT, Ended, run, scripted_model
from tests.runner.job_helpers import write_task

pytestmark = [pytest.mark.docker, pytest.mark.timeout(280)]

HOSTILE = Path(__file__).parent / "hostile"
ATTACKS = ("look", "forks", "memory", "logs", "line", "channel", "reward", "spend")
MARKER = "only-the-verifier-knows-this"
COST_LIMIT = 0.004
OTHERS = ("honest", *ATTACKS)
PUBLIC = ("1.1.1.1:443", "8.8.8.8:53")
PRIVATE = ("10.0.0.1:80", "172.17.0.1:22", "169.254.169.254:80", "192.168.1.1:80")
SCRIPT = f'name = "spend"\nclosing = "{"word " * 380}"\n'
TEST = f"""#!/bin/sh
# {MARKER}
sleep 1
if [ -f /app/done ]; then echo 1 > /logs/verifier/reward.txt; else echo 0 > /logs/verifier/reward.txt; fi
"""


@pytest.fixture(scope="module")
def hostile(work: Path) -> Ended:
    """The job, with a live model that is scripted, behind a key that must not be found."""
    tasks = work / "tasks"
    for name in OTHERS:
        task = write_task(
            tasks / name, test=TEST, agent_sec=60.0, toml='[environment]\nnetwork_mode = "no-network"\n'
        )
        (task / "instruction.md").write_text(f"{name} is what you do\n")
    script = work / "spend.toml"
    script.write_text(SCRIPT)
    with scripted_model(script) as variables:
        port = variables["DEEPSEEK_BASE_URL"].rpartition(":")[2]
        facts = {
            "addresses": [*PUBLIC, *PRIVATE, f"127.0.0.1:{port}", f"{_own_address()}:{port}"],
            "engine_sockets": ["/var/run/docker.sock", "/run/docker.sock", "/run/capstan/docker.sock"],
            "host_paths": [
                str(ROOT),
                str(work),
                str(tasks),
                "/run/capstan",
                "/etc/shadow",
                "/root",
                "/home",
                "/var",
            ],
            "marker": MARKER,
        }
        ended = run(
            tasks,
            *("--agent", HOSTILE, "--ak", f"facts={json.dumps(facts)}", "--isolation", "dind", "-n", "3"),
            *("--model", "live", "--cost-limit", str(COST_LIMIT), "--max-retries", "0", "-o", work / "jobs"),
            variables=variables,
        )
        ended.document["key"] = variables["DEEPSEEK_API_KEY"]
    assert ended.document.get("trials"), ended.stderr
    return ended


@pytest.fixture(scope="module")
def found(hostile: Ended) -> dict[str, Any]:
    """What the agent that looks around has found."""
    return attempts(hostile, "look")


def attempts(ended: Ended, task: str) -> dict[str, Any]:
    return json.loads((ended.log_dir(task) / "attempts.json").read_text())


def test_other_trials_go_on(hostile: Ended):
    honest = hostile.trials["honest"]
    assert honest["reward"] == 1 and honest["error"] is None
    assert set(hostile.trials) == set(OTHERS)


@pytest.mark.parametrize("where", (*PUBLIC, *PRIVATE, "the host's loopback", "the host's address"))
def test_no_socket_goes_out(found: dict[str, Any], where: str):
    tried = found["connections"]
    if where.startswith("the host's"):
        (where,) = [
            name
            for name in tried
            if name.startswith("127.") == (where == "the host's loopback") and name not in (*PUBLIC, *PRIVATE)
        ]
    assert tried[where] != "connected"


def test_there_is_no_network_but_loopback(found: dict[str, Any]):
    assert found["interfaces"] == ["lo"]


def test_no_name_is_resolved(found: dict[str, Any]):
    assert found["names"] is None


def test_the_engine_is_out_of_reach(found: dict[str, Any]):
    assert (
        set(found["engine"].values()) == {"No such file or directory"}
        or "connected" not in found["engine"].values()
    )
    assert "docker" not in found["abstract_sockets"] and "containerd" not in found["abstract_sockets"]


def test_no_process_of_others_is_seen(found: dict[str, Any]):
    seen = " ".join(found["processes"].values())
    assert len(found["processes"]) < 8
    for name in ("dockerd", "runner.isolation", "containerd", "guard.py"):
        assert name not in seen


def test_nothing_of_the_host_is_seen(found: dict[str, Any]):
    assert set(found["host_paths"].values()) == {"No such file or directory"}


def test_the_system_cannot_be_written(found: dict[str, Any]):
    assert "written" not in found["written"].values()


def test_it_is_nobody_and_stays_nobody(found: dict[str, Any]):
    user, effective, group, groups = found["ids"]
    assert user == effective >= 20_000 and group >= 20_000 and groups == []
    assert "done" not in found["root"].values()
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert re.search(rf"^{kind}:\s+0+$", found["status"], re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\s+1$", found["status"], re.MULTILINE)


def test_the_kernels_doors_are_shut(found: dict[str, Any]):
    assert not [name for name, opened in found["kernel"].items() if opened]


def test_its_environment_is_what_the_contract_says(found: dict[str, Any]):
    four = {"DEEPSEEK_API_KEY", "DEEPSEEK_BASE_URL", "LLM_MODEL", "LLM_COST_LIMIT"}
    assert set(found["environ"]) == {"PATH", "HOME", "LANG"} | four


def test_the_tests_are_not_there_before_the_verifier(found: dict[str, Any]):
    assert found["markers"] == 0
    assert MARKER not in found["tests_in_container"]
    assert found["tests_in_container"].count("No such file") == 2


def test_no_other_trials_folder_is_seen(hostile: Ended, found: dict[str, Any]):
    assert str(hostile.job_dir.parent.parent) in found["host_paths"]
    assert all(told == "No such file or directory" for told in found["host_paths"].values())


def test_the_real_key_is_nowhere(hostile: Ended, found: dict[str, Any]):
    key = hostile.document["key"]
    assert found["environ"]["DEEPSEEK_API_KEY"] != key
    assert hashlib.sha256(key.encode()).hexdigest() not in found["secrets"]
    assert found["secrets"] == []  # nor any token of another trial
    assert key not in found["task_container"]
    for file in hostile.job_dir.rglob("*"):
        assert not file.is_file() or key.encode() not in file.read_bytes(), file
    assert key not in hostile.stdout.replace(json.dumps(key), "") and key not in hostile.stderr


def test_the_task_container_has_no_network(found: dict[str, Any]):
    assert re.findall(r"^\s*(\w+):", found["task_container"].partition("Inter-")[2], re.MULTILINE) == ["lo"]


def test_ten_thousand_processes_are_not_made(hostile: Ended):
    forks = hostile.trials["forks"]
    told = attempts(hostile, "forks")
    assert told.get("forked", 0) < 256
    assert "refused" in told or "processes" in forks["error"]


def test_twenty_gigabytes_are_not_had(hostile: Ended):
    memory = hostile.trials["memory"]
    assert attempts(hostile, "memory").get("gib", 0) < 3
    assert memory["status"] == "errored" or memory["reward"] == 0
    assert "memory" in json.dumps(memory).lower()


def test_the_disk_is_not_filled_with_logs(hostile: Ended):
    told = attempts(hostile, "logs")
    assert told["written"] <= 513 << 20 and "refused" in told
    kept = [file for file in hostile.log_dir("logs").rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in kept) <= 512 << 20
    assert not any(file.is_symlink() for file in hostile.log_dir("logs").rglob("*"))


def test_an_endless_line_on_stdout_is_cut(hostile: Ended):
    line = hostile.trials["line"]
    assert line["reward"] == 1  # it harmed nobody, the trial included
    assert (hostile.log_dir("line") / "stdout.txt").stat().st_size < 2 << 20


def test_an_endless_line_to_the_runner_ends_that_trial(hostile: Ended):
    channel = hostile.trials["channel"]
    assert channel["status"] == "errored" and channel["reward"] is None


def test_a_reward_of_its_own_does_not_count(hostile: Ended):
    reward = hostile.trials["reward"]
    assert reward["reward"] in (0, None) and not reward["passed"]


def test_the_result_line_cannot_be_forged(hostile: Ended):
    lines = [
        line
        for line in hostile.stdout.splitlines()
        if "BASE_BENCHMARK_RESULT" in line and line.startswith("BASE")
    ]
    assert lines == [hostile.stdout.splitlines()[-1]]
    assert hostile.result["total"] == len(OTHERS) and hostile.result["resolved"] == 2


def test_no_more_is_spent_than_the_limit(hostile: Ended):
    spend = hostile.trials["spend"]
    statuses = attempts(hostile, "spend")["statuses"]
    assert statuses["402"] >= 30 and statuses["401"] == 1 and statuses["200"] >= 2
    one_call = spend["metered"]["cost_usd"] / spend["metered"]["calls"]
    assert spend["metered"]["cost_usd"] <= COST_LIMIT + 2 * one_call


def _own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # nothing is sent: it only chooses an interface
            return probe.getsockname()[0]
        except OSError:
            return "127.0.0.2"
