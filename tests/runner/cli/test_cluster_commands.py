"""Commands on a Ray cluster of two nodes, as processes of their own."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runner.jobs.layout import JobDirectory
from tests.needs import TASK_ENVIRONMENT, missing
from tests.runner.cli.test_cli import environ, runner, start, verdict, wait_until
from tests.runner.job_helpers import write_task

pytest.importorskip("ray")
pytestmark = [pytest.mark.ray, pytest.mark.sandbox, pytest.mark.timeout(240)]

QUIET = {"RAY_USAGE_STATS_ENABLED": "0"}


@pytest.fixture(scope="module")
def place() -> Iterator[str]:
    """The value of --on for a cluster of two nodes, of which the first offers Docker if it can."""
    os.environ.update(QUIET)
    from ray.cluster_utils import Cluster

    docker = {} if missing("docker") else {"docker": 1}
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 2, "resources": docker, "include_dashboard": False}
    )
    try:
        cluster.add_node(num_cpus=1)
        yield f"ray={cluster.address}"
    finally:
        cluster.shutdown()


def capstan(folder: Path, *arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    return runner(folder, *arguments, **QUIET, **more)


def slow_tasks(folder: Path, names: str, seconds: float = 60.0) -> Path:
    for name in names.split():
        write_task(folder / name, solution=f"#!/bin/sh\nsleep {seconds}\ntouch /app/done\n", agent_sec=90.0)
    return folder


def nodes_of(job: Path) -> list[str | None]:
    """The nodes of the trials that have ended."""
    found = [JobDirectory(job).read(path.parent.name) for path in sorted(job.glob("*__*/capstan.json"))]
    return [record.node for record in found if record is not None]


def test_cluster_shows_the_nodes(tmp_path: Path, place: str) -> None:
    done = capstan(tmp_path, "cluster", "--json", CAPSTAN_ON=place)
    assert done.returncode == 0, done.stderr
    view = json.loads(done.stdout)
    assert view["on"] == place and len(view["nodes"]) == 2
    for node in view["nodes"]:
        assert node["versions"] == view["versions"] and node["problem"] is None
        assert node["sandbox"] and node["free_disk_bytes"] > 0 and node["memory_mb"] > 0
        assert node["free_cpus"] == node["cpus"] and node["trials"] == []
    assert sorted(node["cpus"] for node in view["nodes"]) == [1, 2]

    done = capstan(tmp_path, "cluster", "--on", place, "--images")
    lines = done.stdout.splitlines()
    assert [word for word in ("Capstan", "Python", "Ray", "free CPUs", "problem") if word in lines[0]]
    assert lines[3].startswith("2 nodes, 2 of them for trials; 0 of 3 CPUs used; 0 trials running")
    assert all(node["name"] in done.stdout for node in view["nodes"])
    assert done.stdout.count("images on ") == 2


def test_doctor_says_what_nodes_lack(tmp_path: Path, place: str) -> None:
    write_task(tmp_path / "set" / "fits")
    write_task(tmp_path / "set" / "large", toml="[environment]\ncpus = 64\n")
    done = capstan(tmp_path, "doctor", "set", "--on", place, "--json")
    checks = json.loads(done.stdout)
    assert done.returncode == 0, done.stdout
    by_name: dict[str, list[dict[str, Any]]] = {}
    for check in checks:
        by_name.setdefault(check["name"], []).append(check)
    assert by_name["ray"][0]["state"] == "ok" and "2 nodes" in by_name["ray"][0]["found"]
    assert by_name["tasks"][0]["state"] == "ok"
    assert "1 of 2 tasks: large (64 CPUs, 1024 MiB)" in by_name["resources"][0]["found"]
    assert sum("runs tasks in" in check["found"] for check in checks) == 2
    if missing("docker") is None:
        (offer,) = [check for check in checks if "does not offer it" in check["found"]]
        assert offer["state"] == "note" and """--resources='{"docker": 1}'""" in offer["remedy"]


def test_a_cluster_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    write_task(tmp_path / "task")
    nowhere = ("--on", "ray=127.0.0.1:1")
    for arguments in (("cluster",), ("images", "pull", "task"), ("run", "task", "-a", "oracle")):
        done = capstan(tmp_path, *arguments, *nowhere)
        assert done.returncode == 1 and "Traceback" not in done.stderr
        assert "no Ray cluster answers at 127.0.0.1:1" in done.stderr.splitlines()[-1]
    done = capstan(tmp_path, "doctor", *nowhere)
    assert done.returncode == 1 and "missing ray " in done.stdout and "127.0.0.1:1" in done.stdout


@pytest.mark.docker
def test_images_are_built_on_each_node_that_offers_docker(tmp_path: Path, place: str) -> None:
    write_task(tmp_path / "set" / "builds", dockerfile="FROM debian:bookworm-slim\nWORKDIR /app\nENV A=1\n")
    write_task(tmp_path / "set" / "breaks", dockerfile="FROM debian:bookworm-slim\nRUN false\n")
    done = capstan(tmp_path, "images", "build", "set", "--on", place, "-i", "builds")
    assert done.returncode == 0, done.stderr
    line, last = done.stdout.splitlines()
    image = re.fullmatch(r"\S+-\w{6}: builds: built: (capstan-task/builds:\w+) \(.*\)", line)
    assert image and last == "1 of 1 built"
    try:
        shown = capstan(tmp_path, "cluster", "--on", place, "--json")
        holders = [node for node in json.loads(shown.stdout)["nodes"] if node["offers_docker"]]
        assert len(holders) == 1 and image[1] in holders[0]["images"]
        pulled = capstan(tmp_path, "images", "pull", "set", "--on", place, "-i", "builds")
        assert pulled.returncode == 0 and f"builds: there: {image[1]}" in pulled.stdout
        both = capstan(tmp_path, "images", "build", "set", "--on", place)
        assert both.returncode == 1 and "1 of 2 built" in both.stdout
        assert ": breaks: " in both.stderr and "Traceback" not in both.stderr
    finally:
        subprocess.run(["docker", "rmi", image[1]], capture_output=True)


def test_a_job_begun_here_goes_on_there_and_names_the_nodes(tmp_path: Path, place: str) -> None:
    write_task(tmp_path / "set" / "a-quick")
    slow_tasks(tmp_path / "set", "b-slow", 8.0)
    begin = ("run", "set", "-a", "oracle", "-e", TASK_ENVIRONMENT, "--job-name", "job", "-n", "1")
    job = tmp_path / "jobs" / "job"
    process = start(tmp_path, *begin)
    wait_until(lambda: any("phase: agent" in p.read_text() for p in job.glob("b-slow__*/trial.log")))
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) and process.returncode == 130

    wrong = capstan(tmp_path, "resume", job, "--on", "there")
    assert wrong.returncode == 2 and "error: --on: must be here, ray" in wrong.stderr
    done = capstan(tmp_path, "resume", job, "--on", place)
    assert done.returncode == 0, done.stderr
    assert verdict(done.stdout)["resolved"] == 2
    first, second = nodes_of(job)
    assert first is None and second
    assert f"placed on {second} (attempt 1)" in done.stdout and f", on {second})" in done.stdout
    assert re.search(rf"nodes +{second} 1\b", done.stdout)

    shown = capstan(tmp_path, "show", job, "--trials").stdout
    assert re.search(r"^ *trial .* node +why not", shown, re.M)
    assert re.search(rf"^ *b-slow__\w+ .* {second}\b", shown, re.M)


def test_a_name_that_exists_is_resumed_where_the_flag_says(tmp_path: Path, place: str) -> None:
    write_task(tmp_path / "set" / "a-quick")
    slow_tasks(tmp_path / "set", "b-slow", 5.0)
    arguments = ("run", "set", "-a", "oracle", "-e", TASK_ENVIRONMENT, "--job-name", "job")
    job = tmp_path / "jobs" / "job"
    process = start(tmp_path, *arguments, "--on", place, **QUIET)
    wait_until(lambda: any("phase: agent" in p.read_text() for p in job.glob("b-slow__*/trial.log")), 60)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30) and process.returncode == 130
    done = capstan(tmp_path, *arguments)
    assert done.returncode == 0 and verdict(done.stdout)["resolved"] == 2, done.stderr
    first, second = nodes_of(job)
    assert first and second is None


def test_what_runs_and_waits_is_seen(tmp_path: Path, place: str) -> None:
    """The live table, the job's files and `capstan cluster` agree, while two trials wait."""
    slow_tasks(tmp_path / "set", "a b c d e")
    command = [sys.executable, "-m", "runner", "run", "set", "-a", "oracle", "-e", TASK_ENVIRONMENT]
    command += ["--job-name", "job", "--on", place]
    job = tmp_path / "jobs" / "job"
    terminal, inner = pty.openpty()
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environ(COLUMNS="160", LINES="50", **QUIET), stdout=inner, stderr=inner
    )
    os.close(inner)
    printed: list[bytes] = []

    def read() -> None:
        while True:
            try:
                printed.append(os.read(terminal, 65536))
            except OSError:
                return

    reader = threading.Thread(target=read)
    reader.start()

    def screen() -> str:
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", b"".join(printed).decode())

    def figures() -> dict[str, Any]:
        try:
            return json.loads((job / "result.json").read_text())["stats"]
        except (OSError, ValueError):
            return {}

    try:
        wait_until(lambda: figures().get("n_running_trials") == 3, 60)
        wait_until(lambda: "3 trials running, 2 waiting" in screen(), 30)
        assert figures()["n_pending_trials"] == 2
        wait_until(lambda: "cluster: 3 of 3 CPUs used on 2 nodes   3 trials running" in screen())
        record = json.loads((job / "capstan.json").read_text())
        assert len(record["nodes"]) == 3
        rows = [
            line for line in screen().splitlines() if any(f" {n}" in line for n in record["nodes"].values())
        ]
        assert rows and "node" in screen()
        shown = json.loads(capstan(tmp_path, "cluster", "--on", place, "--json").stdout)
        running = {trial: node["name"] for node in shown["nodes"] for trial in node["trials"]}
        assert running == record["nodes"]
        assert [node["free_cpus"] for node in shown["nodes"]] == [0, 0]
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(30)
        reader.join(10)
        os.close(terminal)
    assert code == 130
