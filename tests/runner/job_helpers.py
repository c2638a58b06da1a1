"""Tasks and agents on disk for tests of trials, jobs and the command line."""

from __future__ import annotations

import stat
from pathlib import Path

from runner.environments import DockerSettings
from runner.executors.open import open_executor
from runner.jobs import JobHost

HOST = JobHost(open_executor=open_executor, docker=DockerSettings())

DOCKERFILE = "FROM debian:bookworm-slim\nWORKDIR /app\n"
PASS_WHEN_DONE = """#!/bin/sh
if [ -f /app/done ]; then echo 1 > /logs/verifier/reward.txt; else echo 0 > /logs/verifier/reward.txt; fi
"""
SOLVE = "#!/bin/sh\ntouch /app/done\n"


def write_task(
    folder: Path,
    *,
    test: str = PASS_WHEN_DONE,
    solution: str = SOLVE,
    toml: str = "",
    agent_sec: float = 20.0,
    verifier_sec: float = 20.0,
    dockerfile: str = DOCKERFILE,
) -> Path:
    """A task that the sandbox can run. `toml` is put at the end of its task.toml."""
    files = {
        "task.toml": (
            f'version = "1.0"\n[agent]\ntimeout_sec = {agent_sec}\n'
            f"[verifier]\ntimeout_sec = {verifier_sec}\n{toml}"
        ),
        "instruction.md": "Create the file /app/done.\n",
        "environment/Dockerfile": dockerfile,
        "tests/test.sh": test,
        "solution/solve.sh": solution,
    }
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        if path.suffix == ".sh":
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return folder


def write_agent(folder: Path, run_body: str, *, before: str = "", extra: str = "") -> Path:
    """A submission whose `run` is `run_body` (lines of Python, not indented)."""
    folder.mkdir(parents=True, exist_ok=True)
    body = "\n".join(f"        {line}" for line in run_body.strip().splitlines())
    (folder / "agent.py").write_text(
        f"""import asyncio
import os
from pathlib import Path

{before}

class Agent:
    def __init__(self, logs_dir, model_name=None, **extra):
        self.logs_dir = Path(logs_dir)
        self.model_name = model_name
        self.extra = extra

    async def setup(self, environment):
        pass

    async def run(self, instruction, environment, context):
{body}
{extra}
"""
    )
    return folder
