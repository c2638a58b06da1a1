"""Job folders for tests of the pages: from real runs, and written directly."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from runner.config import RunConfig
from runner.jobs import JobDirectory
from runner.jobs.lock import JobLock, PlannedTask, PlannedTrial
from runner.jobs.results import JobResultWriter, JobStatus
from runner.results import AgentRecord, ModelSource, ModelUse, Timing, TrialRecord, write_model
from tests.needs import TASK_ENVIRONMENT
from tests.runner.service.service_helpers import wait_until

ROOT = Path(__file__).parents[3]
START = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
SCRIPTED = ModelSource(label="scripted (examples/scripts)", canned=True, name="deepseek-v4-pro")


def run_real_job(jobs_dir: Path, *arguments: str) -> Path:
    """Run Capstan's agent with the scripted model. Return the job's folder."""
    command = [
        sys.executable,
        "-m",
        "runner",
        "run",
        str(ROOT / "examples" / "tasks"),
        "--env",
        TASK_ENVIRONMENT,
    ]
    command += [
        "--env",
        TASK_ENVIRONMENT,
        "--agent",
        str(ROOT),
        "--model",
        f"script:{ROOT / 'examples' / 'scripts'}",
        "-o",
        str(jobs_dir),
    ]
    done = subprocess.run(
        [*command, *arguments], cwd=ROOT, env=clean_environ(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return max(jobs_dir.iterdir(), key=lambda path: path.stat().st_mtime)


def clean_environ() -> dict[str, str]:
    """Return the environment without the variables of Capstan."""
    foreign = {k: v for k, v in os.environ.items() if not k.startswith(("CAPSTAN_", "DEEPSEEK_", "LLM_"))}
    return {**foreign, "PYTHONPATH": str(ROOT)}


def write_job(
    folder: Path,
    tasks: Sequence[str] = ("one",),
    *,
    attempts: int = 1,
    ended: int | None = None,
    status: JobStatus = "completed",
    steps: Sequence[dict[str, Any]] = (),
    record: dict[str, Any] | None = None,
    output: str = "",
) -> Path:
    """Write a job's folder like a run. `ended` of its trials have ended, each with these steps."""
    folder.mkdir(parents=True)
    directory = JobDirectory(folder)
    trials = [
        PlannedTrial(trial_name=f"trial-{task}-{attempt}__abcdefg", task=task, attempt=attempt)
        for attempt in range(1, attempts + 1)
        for task in range(len(tasks))
    ]
    config = RunConfig(
        tasks=("tasks",), agent="agents/mine.zip", attempts=attempts, jobs_dir=str(folder.parent)
    )
    lock = JobLock(
        config=config,
        config_digest=config.identity_digest(),
        environment_kind=TASK_ENVIRONMENT,
        tasks=[
            PlannedTask(name=name, path=f"/tasks/{number}", dataset="set")
            for number, name in enumerate(tasks)
        ],
        trials=trials,
    )
    write_model(directory.lock, lock)
    results = JobResultWriter(directory, lock, SCRIPTED)
    for number, trial in enumerate(trials[:ended]):
        values: dict[str, Any] = {
            "trial_name": trial.trial_name,
            "task_name": tasks[trial.task],
            "task_path": f"/tasks/{trial.task}",
            "attempt": trial.attempt,
            "rules": "validator",
            "status": "completed",
            "reward": float(number % 2 == 0),
            "passed": number % 2 == 0,
            "agent": AgentRecord(source="agents/mine.zip", name="mine", version="1.0", ended="completed"),
            "model": SCRIPTED,
            "metered": ModelUse(
                calls=3,
                prompt_tokens=3000,
                cache_hit_tokens=1500,
                completion_tokens=90,
                cost_usd=0.01 * (number + 1),
            ),
            "phases": {
                "agent_execution": Timing(started_at=START, finished_at=START + timedelta(seconds=5 + number))
            },
            "started_at": START,
            "finished_at": START + timedelta(seconds=9 + number),
        }
        trial_record = TrialRecord(**(values | (record or {})))
        write_trial(folder / trial.trial_name, trial_record, steps, output)
        results.add(trial_record)
    results.write_config()
    results.write(status, n_running=0)
    return folder


def write_trial(folder: Path, record: TrialRecord, steps: Sequence[dict[str, Any]], output: str) -> None:
    for name in ("agent", "verifier", "artifacts"):
        (folder / name).mkdir(parents=True)
    write_model(folder / "capstan.json", record)
    (folder / "result.json").write_text("{}")
    (folder / "agent" / "trajectory.json").write_text(
        json.dumps({"schema_version": "ATIF-v1.8", "steps": list(steps)})
    )
    (folder / "verifier" / "test-stdout.txt").write_bytes(output.encode("utf-8", "surrogatepass"))


def model_call(number: int, text: str, output: str, **more: Any) -> dict[str, Any]:
    """Return an agent's step with one tool call."""
    return {
        "step_id": number,
        "source": "agent",
        "message": text,
        "reasoning_content": f"I think about {text}",
        "tool_calls": [
            {"tool_call_id": f"c{number}", "function_name": "shell_command", "arguments": {"command": text}}
        ],
        "observation": {"results": [{"source_call_id": f"c{number}", "content": output}]},
        "metrics": {
            "prompt_tokens": 1000 * number,
            "completion_tokens": 20,
            "cached_tokens": 500 * number,
            "cost_usd": 0.001,
        },
        **more,
    }


@contextmanager
def running_viewer(*arguments: str | Path) -> Iterator[str]:
    """Run `capstan view` and yield its address."""
    command = [sys.executable, "-m", "runner", "view", "--port", "0", *map(str, arguments)]
    process = subprocess.Popen(command, env=clean_environ(), stderr=subprocess.PIPE, text=True)
    lines: list[str] = []
    assert process.stderr is not None
    threading.Thread(target=lambda s=process.stderr: lines.extend(s), daemon=True).start()
    try:
        wait_until(lambda: lines or process.poll() is not None, "the pages are not served")
        match = re.search(r"http://\S+", "".join(lines))
        assert match is not None, lines
        yield match[0]
    finally:
        process.terminate()
        assert process.wait(20) == 0
