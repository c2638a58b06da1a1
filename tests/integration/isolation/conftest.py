"""The isolated runner as a person runs it: `capstan run … --isolation dind`, on the real engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[3]
RUN_SEC = 240
STARTED: set[int] = set()
"""The processes of runners that these tests started."""


@dataclass
class Ended:
    """The end of one run."""

    code: int
    stdout: str
    stderr: str
    document: dict[str, Any] = field(default_factory=dict)

    @property
    def job_dir(self) -> Path:
        return Path(self.document["job_dir"])

    @property
    def trials(self) -> dict[str, dict[str, Any]]:
        """By the task's name."""
        return {trial["task_name"]: trial for trial in self.document["trials"]}

    @property
    def result(self) -> dict[str, Any]:
        line = self.stdout.splitlines()[-1]
        return json.loads(line.removeprefix("BASE_BENCHMARK_RESULT="))

    def log_dir(self, task: str) -> Path:
        return self.job_dir / self.trials[task]["trial_name"] / "agent"


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "runner", *map(str, arguments)]


def environment(**variables: str) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("DEEPSEEK_", "LLM_", "CAPSTAN_"))
    }
    return kept | variables


def run(*arguments: str | Path, variables: Mapping[str, str] | None = None) -> Ended:
    process = start(command("run", *arguments, "--json"), **(variables or {}))
    try:
        stdout, stderr = process.communicate(timeout=RUN_SEC)
    finally:
        process.kill()
    lines = stdout.splitlines()
    document = json.loads(lines[0]) if len(lines) > 1 else {}
    return Ended(process.returncode, stdout, stderr, document)


def start(arguments: list[str], **variables: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        arguments,
        cwd=ROOT,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    STARTED.add(process.pid)
    return process


@contextmanager
def scripted_model(script: Path) -> Iterator[dict[str, str]]:
    """Run a scripted model server on loopback. Yield the variables that point to it."""
    server = subprocess.Popen(
        [sys.executable, "-m", "runner", "model", "--script", str(script)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    try:
        variables: dict[str, str] = {}
        while len(variables) < 2:
            name, _, value = server.stdout.readline().strip().partition("=")
            if name in ("DEEPSEEK_BASE_URL", "DEEPSEEK_API_KEY"):
                variables[name] = value
        yield variables
    finally:
        server.terminate()
        server.wait(10)
        server.stdout.close()


def containers() -> list[str]:
    """Ids of the isolated containers that these tests started."""
    command = ["docker", "ps", "--all", "--filter", "label=capstan.kind=isolated-run"]
    listed = subprocess.run(
        [*command, "--format", '{{.ID}} {{.Label "capstan.owner"}}'],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    owners = (line.split() for line in listed.splitlines())
    return [name for name, owner in owners if int(owner.split("/")[2]) in STARTED]


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("dind")
