"""How long building and checking the ZIP takes: `python benchmarks/build_zip_seconds.py`."""

from __future__ import annotations

import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from runner.agents.dry_run import check_submission  # noqa: E402
from runner.submission import build_zip  # noqa: E402

ROUNDS = 5


def timed(work: Callable[[], object], rounds: int) -> str:
    seconds: list[float] = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return f"median {statistics.median(seconds):6.2f} s   longest {max(seconds):6.2f} s   of {rounds}"


def main() -> None:
    report = build_zip(ROOT)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "agent.zip"
        path.write_bytes(report.data)
        print(f"{len(report.members)} files, {len(report.data):,} bytes")
        print("build             ", timed(lambda: build_zip(ROOT), ROUNDS))
        print(
            "static checks     ",
            timed(lambda: asyncio.run(check_submission(path, {}, with_dry_runs=False)), ROUNDS),
        )
        print("all, with two runs", timed(lambda: asyncio.run(check_submission(path, {})), 3))


if __name__ == "__main__":
    main()
