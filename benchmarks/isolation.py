"""What `--isolation dind` costs, with a scripted model: `python benchmarks/isolation.py`.

Start: from the command to the first trial, for a run without the runner's image and without an
image store (cold), and for one that finds both (warm). Overhead of a trial: the same three tasks
with the same scripts in both isolations in turn, one at a time; the difference of the trials' own
times, paired by task and round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TASKS = ("fix-log-rotation", "repair-config", "sales-report")


@dataclass(frozen=True)
class Run:
    """Seconds to the first trial, seconds in all, and of each trial by its task."""

    start: float
    whole: float
    trials: dict[str, float]


def run(isolation: str, jobs: Path) -> Run:
    chosen = [part for name in TASKS for part in ("--task", name)]
    command = [sys.executable, "-m", "runner", "run", "examples/tasks", *chosen, "--agent", ".", "-n", "1"]
    command += ["--model", "script:examples/scripts", "--env", "docker", "--isolation", isolation]
    command += ["--jobs-dir", str(jobs), "--json"]
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stderr is not None
    start = 0.0
    for line in process.stderr:
        if not start and "started (attempt 1)" in line:
            start = time.perf_counter() - began
    document = json.loads(process.stdout.readline())
    process.wait()
    whole = time.perf_counter() - began
    trials = {trial["task_name"]: _seconds(trial) for trial in document["trials"]}
    assert len(trials) == len(TASKS) and all(trial["reward"] == 1 for trial in document["trials"])
    return Run(start, whole, trials)


def _seconds(trial: dict[str, str]) -> float:
    from datetime import datetime

    times = [
        datetime.fromisoformat(trial[name].replace("Z", "+00:00")) for name in ("started_at", "finished_at")
    ]
    return (times[1] - times[0]).total_seconds()


def forget_everything() -> None:
    """The runner's image, its layers and the image stores, as if it had never run here."""
    listed = subprocess.run(
        ["docker", "volume", "ls", "-q", "--filter", "label=capstan.kind=store"],
        capture_output=True,
        text=True,
    )
    for name in listed.stdout.split():
        subprocess.run(["docker", "volume", "rm", name], capture_output=True)
    listed = subprocess.run(["docker", "images", "-q", "capstan-runner"], capture_output=True, text=True)
    for image in set(listed.stdout.split()):
        subprocess.run(["docker", "rmi", "--force", image], capture_output=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--warm-only", action="store_true", help="leave the image and the stores where they are"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        jobs = Path(folder)
        if not options.warm_only:
            forget_everything()
            cold = run("dind", jobs)
            print(f"cold start to the first trial   {cold.start:6.1f} s")
        process, dind = [], []
        for _ in range(options.rounds):
            process.append(run("process", jobs))
            dind.append(run("dind", jobs))
    for name, runs in (("process", process), ("dind", dind)):
        show(f"{name}: warm start to the first trial", [one.start for one in runs])
        show(f"{name}: a trial", [one.trials[task] for one in runs for task in TASKS])
    pairs = zip(process, dind, strict=True)
    show("added to a trial", [two.trials[task] - one.trials[task] for one, two in pairs for task in TASKS])


def show(what: str, seconds: list[float]) -> None:
    print(f"{what:40} median {statistics.median(seconds):6.2f} s, longest {max(seconds):6.2f} s")


if __name__ == "__main__":
    main()
