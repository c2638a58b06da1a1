"""A running service: a process of its own, spoken to over HTTP."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from tests.runner.job_helpers import write_agent, write_task

ROOT = Path(__file__).parents[3]
_OURS = (
    "CAPSTAN_",
    "DEEPSEEK_",
    "LLM_",
    "SERVICE_",
    "DOCKER_REGISTRY",
    "PULL_",
    "CONTAINER_",
    "TB2_",
    "AGENTS_",
)
# A key of the service's own, for agents that could call a model.
KEY = {"DEEPSEEK_API_KEY": "sk-the-services-own"}
# An agent that calls no model, and whose verdict depends on what it is told and given.
OBEDIENT = """
(self.logs_dir / "told.txt").write_text(instruction)
(self.logs_dir / "extra.txt").write_text(repr(sorted(self.extra.items())))
words = instruction.split()
if "sleep" in words:
    await environment.exec("sleep " + words[words.index("sleep") + 1])
if "touch" in words:
    await environment.exec("touch /app/done")
return "done"
"""


@dataclass
class Service:
    """`folder` is where it runs: tasks in tasks/, agents in agents/, jobs in jobs/."""

    folder: Path
    arguments: tuple[str, ...] = ()
    variables: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[str] | None = None
    url: str = ""
    lines: list[str] = field(default_factory=list)

    @property
    def jobs(self) -> Path:
        return self.folder / "jobs"

    def start(self) -> Service:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        command = [sys.executable, "-m", "runner", "serve", "--port", "0", *self.arguments]
        self.process = subprocess.Popen(
            command,
            cwd=self.folder,
            env={**kept, "PYTHONPATH": str(ROOT), "TB2_DIR": "tasks", **self.variables},
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        assert self.process.stderr is not None
        threading.Thread(target=self._read, args=(self.process.stderr, self.lines), daemon=True).start()
        wait_until(lambda: self._up() or self._dead(), "the service does not start")
        if self._dead():
            raise AssertionError("\n".join(self.lines))
        return self

    @staticmethod
    def _read(stream: Any, lines: list[str]) -> None:
        for line in stream:
            lines.append(line.rstrip("\n"))

    def _dead(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def _up(self) -> bool:
        found = [m[1] for line in list(self.lines) if (m := re.search(r"service: (http://\S+)", line))]
        if not found:
            return False
        self.url = found[-1].replace("0.0.0.0", "127.0.0.1")
        try:
            return httpx.get(f"{self.url}/health", timeout=2).status_code == 200
        except httpx.HTTPError:
            return False

    def stop(self, number: signal.Signals = signal.SIGTERM, *, seconds: float = 40.0) -> int:
        """Signal it; its exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(seconds)

    def kill(self) -> None:
        """kill -9."""
        self.stop(signal.SIGKILL)

    def client(self, **more: Any) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=90, **more)

    def run_task(self, name: str = "easy", **body: Any) -> httpx.Response:
        with self.client() as client:
            return client.post("/api/tasks", json={"params": {"task_id": name}, **body})

    def resident_mb(self) -> float:
        """MiB of memory that the service's process has now."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        match = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert match is not None
        return int(match[1]) / 1024


@contextmanager
def running(folder: Path, *arguments: str, **variables: str) -> Iterator[Service]:
    """A service in `folder`, stopped at the end."""
    service = Service(folder, arguments, variables).start()
    try:
        yield service
    finally:
        service.stop()


def furnish(folder: Path) -> Path:
    """Tasks and agents for a service that needs no model: `obedient` does what it is told."""
    write_task(folder / "tasks" / "easy")
    write_task(folder / "tasks" / "named", toml='[task]\nname = "terminal-bench/known-as"\n')
    write_agent(folder / "agents" / "obedient", OBEDIENT)
    return folder


def wait_until(condition: Callable[[], object], why: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, why
        time.sleep(0.05)


def events(text: str) -> list[tuple[int, str, str]]:
    """Number, type and data of each event of a stream of server-sent events."""
    found: list[tuple[int, str, str]] = []
    for block in re.split(r"\r?\n\r?\n", text):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line and line[0] != ":")
        if "event" in fields:
            found.append((int(fields["id"]), fields["event"], fields["data"]))
    return found
