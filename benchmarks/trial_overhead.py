"""What the runner costs besides agent and tests: `.venv/bin/python benchmarks/trial_overhead.py`.

Needs Docker. One machine, one run, one image (examples/tasks/repair-config): a trial of ours with
the nop and the oracle agent beside the floor (create, start, three execs and removal of a container
by the SDK), and beside Harbor's where `.venv-harbor` and the compose plugin are; one exec's round
trip over our channel beside `docker exec` by the SDK and beside Harbor's way (`docker compose
exec`); the runner's memory at 20 trials.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import docker

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from runner.environments import DockerSettings, EnvironmentSpec  # noqa: E402
from runner.environments.docker import DockerEnvironment, ensure_image, shared_engine  # noqa: E402
from runner.tasks import load_task  # noqa: E402
from runner.trials.environment import environment_spec  # noqa: E402

TASK = ROOT / "examples" / "tasks" / "repair-config"
HARBOR = ROOT / ".venv-harbor" / "bin" / "harbor"


def median_ms(seconds: list[float]) -> float:
    return 1000 * statistics.median(seconds)


def spec_of_task() -> EnvironmentSpec:
    return environment_spec(load_task(TASK), "overhead", build_multiplier=1.0, labels={})


def floor_once(image: str) -> float:
    """The least that any runner does with a container."""
    client = docker.from_env()
    begin = time.perf_counter()
    container = client.containers.create(image, ["sleep", "1000"], network_mode="none")
    container.start()
    for _ in range(3):
        container.exec_run("true")
    container.remove(force=True)
    seconds = time.perf_counter() - begin
    client.close()
    return seconds


def floor(image: str, trials: int, at_once: int) -> float:
    """Median seconds of one."""
    with ThreadPoolExecutor(at_once) as pool:
        return statistics.median(pool.map(lambda _: floor_once(image), range(trials)))


def seconds_of(result: Path) -> float:
    """The whole time of a trial, as its result says (ours and Harbor's have the same form)."""
    from datetime import datetime

    data: dict[str, Any] = json.loads(result.read_text())
    begin, end = (
        datetime.fromisoformat(data[key].replace("Z", "+00:00")) for key in ("started_at", "finished_at")
    )
    return (end - begin).total_seconds()


def ours(agent: str, trials: int, at_once: int) -> tuple[float, float]:
    """Median seconds of a trial, and the runner's memory in MiB."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "runner",
            "run",
            str(TASK),
            "-a",
            agent,
            "-e",
            "docker",
            "-k",
            str(trials),
        ]
        command += ["-n", str(at_once), "--jobs-dir", folder]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        assert status == 0, "the job failed"
        times = [seconds_of(path) for path in Path(folder).glob("*/*__*/result.json")]
        assert len(times) == trials
        return statistics.median(times), usage.ru_maxrss / 1024


def harbors(agent: str, trials: int, at_once: int) -> float:
    """Median seconds of a trial of Harbor's."""
    with tempfile.TemporaryDirectory() as folder:
        command = [HARBOR, "run", "-a", agent, "-p", TASK, "-k", str(trials), "-n", str(at_once)]
        command += ["--jobs-dir", folder, "--quiet"]
        environ = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "true"}
        subprocess.run(command, check=True, env=environ, capture_output=True)
        return statistics.median(seconds_of(path) for path in Path(folder).glob("*/*__*/result.json"))


async def round_trips(image: str, times: int) -> dict[str, float]:
    """Milliseconds of one exec of `true`, measured in turn."""
    environment = DockerEnvironment(spec_of_task(), DockerSettings.from_environment(os.environ))
    await environment.start()
    client = docker.from_env()
    with tempfile.TemporaryDirectory() as folder:
        compose = Path(folder) / "compose.yaml"
        compose.write_text(
            f"services:\n  main:\n    image: {image}\n    command: [sleep, '1000']\n    network_mode: none\n"
        )
        has_compose = subprocess.run(["docker", "compose", "version"], capture_output=True).returncode == 0
        base = ["docker", "compose", "-f", str(compose), "-p", "capstan-overhead"]
        if has_compose:
            subprocess.run([*base, "up", "-d"], check=True, capture_output=True)
        try:
            container = client.containers.get(environment._container.id)
            taken: dict[str, list[float]] = {"ours": [], "sdk": [], "compose": []}
            await environment.exec("true")
            for number in range(times):
                begin = time.perf_counter()
                await environment.exec("true")
                taken["ours"].append(time.perf_counter() - begin)
                begin = time.perf_counter()
                await asyncio.to_thread(container.exec_run, "true")
                taken["sdk"].append(time.perf_counter() - begin)
                if has_compose and number % 4 == 0:
                    begin = time.perf_counter()
                    process = await asyncio.create_subprocess_exec(
                        *base, "exec", "-T", "main", "bash", "-c", "true", stdout=subprocess.DEVNULL
                    )
                    await process.wait()
                    taken["compose"].append(time.perf_counter() - begin)
            return {name: median_ms(values) for name, values in taken.items() if values}
        finally:
            client.close()
            await environment.stop()
            if has_compose:
                subprocess.run([*base, "down", "-t", "0"], capture_output=True)


async def image_of_task() -> str:
    image = await ensure_image(shared_engine(), spec_of_task(), DockerSettings.from_environment(os.environ))
    return image.id


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=8)
    trials: int = parser.parse_args().trials
    image = asyncio.run(image_of_task())
    trips = asyncio.run(round_trips(image, 60))
    print("exec round trip, ms:", ", ".join(f"{name} {value:.1f}" for name, value in trips.items()))
    with_harbor = HARBOR.exists() and "compose" in trips
    for at_once in (1, 8):
        lowest = floor(image, trials, at_once)
        row = [f"{at_once} at once: floor {lowest:.2f} s"]
        for agent in ("nop", "oracle"):
            mine, _ = ours(agent, trials, at_once)
            row.append(f"our {agent} {mine:.2f} s = {mine / lowest:.2f} x floor")
            if with_harbor:
                theirs = harbors(agent, max(2, trials // 4), at_once)
                row.append(f"Harbor's {theirs:.2f} s (ours is {mine / theirs:.2f} of it)")
        print("; ".join(row))
    _, memory = ours("oracle", 20, 20)
    print(f"memory of the runner with 20 trials at once: {memory:.0f} MiB")
    print(f"memory of this process: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    main()
