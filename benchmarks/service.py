"""The evaluation service under load: `.venv/bin/python benchmarks/service.py [TASKS]`.

Posts so many tasks at once (50), each a trial of the nop agent in the sandbox. Prints how long all
of them take, beside the same trials in one `capstan run`; what the service's memory grows by; and
how fast it answers meanwhile.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import httpx  # noqa: E402

from tests.runner.job_helpers import write_task  # noqa: E402
from tests.runner.service.service_helpers import running  # noqa: E402

WORKERS = 4


async def post_all(url: str, count: int) -> tuple[float, list[float]]:
    """Seconds until the last is answered, and the seconds that /health takes meanwhile."""
    pings: list[float] = []
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:

        async def ping() -> None:
            while True:
                begun = time.perf_counter()
                await client.get("/health")
                pings.append(time.perf_counter() - begun)
                await asyncio.sleep(0.1)

        watch = asyncio.create_task(ping())
        begun = time.perf_counter()
        answers = await asyncio.gather(
            *(client.post("/api/tasks", json={"params": {"task_id": "easy"}}) for _ in range(count))
        )
        seconds = time.perf_counter() - begun
        watch.cancel()
    lost = [answer.text for answer in answers if answer.status_code != 200]
    assert not lost, lost[0]
    return seconds, pings


def run_all(folder: Path, count: int) -> float:
    """Seconds of one job of as many trials."""
    command = [sys.executable, "-m", "runner", "run", "tasks", "--agent", "nop", "--env", "sandbox"]
    command += ["-k", str(count), "-n", str(WORKERS), "-o", "alone"]
    begun = time.perf_counter()
    subprocess.run(
        command, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, check=True
    )
    return time.perf_counter() - begun


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_task(folder / "tasks" / "easy")
        (folder / "agents").mkdir()
        with running(folder, "--agent", "nop", "--env", "sandbox", LOG_LEVEL="warning") as service:
            before = service.resident_mb()
            seconds, pings = asyncio.run(post_all(service.url, count))
            after = service.resident_mb()
        alone = run_all(folder, count)
    cores = len(os.sched_getaffinity(0))
    print(f"{count} tasks posted at once, {cores} cores: all answered after {seconds:.1f} s, none lost")
    print(f"the same trials in one `capstan run`: {alone:.1f} s; the service takes {seconds / alone:.2f} ×")
    print(f"memory of the service: {before:.0f} MiB at rest, {after:.0f} MiB after")
    median, longest = statistics.median(pings) * 1e3, max(pings) * 1e3
    print(f"/health meanwhile: median {median:.1f} ms, longest {longest:.0f} ms")


if __name__ == "__main__":
    main()
