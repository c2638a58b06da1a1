"""Measure the agent over a long scripted run: `.venv/bin/python benchmarks/agent_loop.py`.

A scripted model in a process of its own requests 400 commands (`--steps`) with outputs of about
2,500 tokens each, so that the history exceeds the window many times. Printed are the cache-hit rate
that the model's server metered, the best rate possible for the same prompts, the largest prompt,
the number of compactions, the overhead of a step besides model and command, the longest time that
the event loop was blocked, and the memory.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import inspect
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from agent import Agent  # noqa: E402
from src.config import Settings  # noqa: E402
from src.context.exact import ExactCounter  # noqa: E402
from src.llm import client as client_module  # noqa: E402
from src.llm.transport import Chunk, Transport  # noqa: E402

OUTPUT = (
    "awk 'BEGIN {{ srand({seed}); for (i = 0; i < 118; i++) printf \"%04d src/part%02d.c:%d: note: value %d"
    " of item %d\\n\", i, int(rand()*99), int(rand()*9999), int(rand()*99999), int(rand()*999) }}'"
)
SUMMARY = "The parts up to the present one were looked at, one command each; nothing was changed. Go on. "
THOUGHT = "The notes of the last part name items and values; none of them matters, so I keep none of them. "


def script(steps: int) -> str:
    """Return the script of a model that looks at one part after another."""
    rows = ['closing = "All parts have been looked at."', ""]
    for step in range(steps):
        command = json.dumps(OUTPUT.format(seed=step))
        rows += [
            "[[turn]]",
            f"reasoning = {json.dumps(f'Part {step} comes next. ' + THOUGHT * 12)}",
            f'content = "Looking at part {step}."',
            "[[turn.tool_calls]]",
            'name = "shell_command"',
            f"arguments = {{ command = {command} }}",
            "",
        ]
    rows += ["[[rule]]", 'when = "(?i)summary"', f"content = {json.dumps(SUMMARY * 40)}", ""]
    return "\n".join(rows)


@asynccontextmanager
async def scripted_model(folder: Path, steps: int) -> AsyncIterator[dict[str, str]]:
    (folder / "long.toml").write_text(script(steps), encoding="utf-8")
    server = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "runner", "model", "--script", str(folder / "long.toml")),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
    )
    assert server.stdout is not None
    variables = {"LLM_MODEL": "deepseek-v4-pro"}
    while "DEEPSEEK_API_KEY" not in variables:
        line = (await server.stdout.readline()).decode()
        if not line:
            raise SystemExit("the scripted model did not start")
        name, _, value = line.strip().partition("=")
        if name.startswith("DEEPSEEK_"):
            variables[name] = value
    try:
        yield variables
    finally:
        server.terminate()
        await server.wait()


@dataclass(frozen=True)
class Result:
    stdout: str
    stderr: None
    return_code: int


@dataclass
class Meter:
    """For each model call its start, the seconds in it, and those in the commands after it."""

    bodies: Path
    begins: list[float] = field(default_factory=list)
    model: list[float] = field(default_factory=list)
    command: list[float] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    longest_hold: float = 0.0

    def overheads(self) -> list[float]:
        """Return the seconds of each step besides model and command.

        The first step, which loads libraries, and the last one are left out.
        """
        spans = zip(self.begins[1:-1], self.begins[2:], self.model[1:-1], self.command[1:-1], strict=True)
        return [after - begin - model - command for begin, after, model, command in spans]

    async def watch(self) -> None:
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.01)
            self.longest_hold = max(self.longest_hold, time.perf_counter() - before - 0.01)


class Environment:
    """Runs commands on this machine, as a driver does."""

    def __init__(self, folder: Path, meter: Meter) -> None:
        self._folder, self._meter = folder, meter

    async def exec(
        self,
        command: str,
        cwd: str | None = None,
        env: dict[str, str] | None = None,
        timeout_sec: float | None = None,
        user: str | None = None,
    ) -> Result:
        begin = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", command), cwd=cwd or self._folder, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
        if self._meter.command:
            self._meter.command[-1] += time.perf_counter() - begin
        return Result(output.decode(), None, process.returncode or 0)


class MeteredTransport:
    """Measures the time of the model, and keeps each request on disk."""

    def __init__(self, inner: Transport, meter: Meter) -> None:
        self.name, self._inner, self._meter = inner.name, inner, meter

    async def stream(self, body: bytes) -> AsyncGenerator[Chunk, None]:
        meter = self._meter
        meter.begins.append(time.perf_counter())
        (meter.bodies / f"{len(meter.begins):05}.json").write_bytes(body)
        meter.model.append(time.perf_counter() - meter.begins[-1])
        meter.command.append(0.0)
        chunks = self._inner.stream(body)
        while True:
            begin = time.perf_counter()
            chunk = await anext(chunks, None)
            meter.model[-1] += time.perf_counter() - begin
            if chunk is None:
                return
            yield chunk

    async def aclose(self) -> None:
        await self._inner.aclose()


def best_hit_rate(bodies: Path) -> tuple[float, int]:
    """Return the best possible share of cached prompt tokens, and the number of requests.

    A prompt hits a perfect cache up to its first difference from an earlier prompt with its answer.
    Whole messages are compared, and the tools count as the first of them.
    """
    counter = ExactCounter()
    sizes: dict[str, int] = {}
    known: set[str] = set()
    hit = total = 0
    paths = sorted(bodies.iterdir())
    for path in paths:
        request: dict[str, Any] = json.loads(path.read_bytes())
        prefix = hashlib.sha256()
        cached = True
        for part in (request.get("tools"), *request["messages"]):
            text = json.dumps(part, sort_keys=True, ensure_ascii=False)
            prefix.update(text.encode())
            key = prefix.hexdigest()
            size = sizes.setdefault(text, 0) or counter.count(text)
            sizes[text] = size
            total += size
            # The model's answer is new in this prompt, but the provider has it in its cache.
            answer = isinstance(part, dict) and part.get("role") == "assistant"
            cached = cached and (key in known or answer)
            hit += size if cached else 0
            known.add(key)
    return hit / total, len(paths)


def inject(meter: Meter) -> None:
    """Insert the metering transport between the client and its own one."""
    load = client_module.load_transport

    async def metered(settings: Settings) -> Transport:
        return MeteredTransport(await load(settings), meter)

    assert inspect.iscoroutinefunction(load)
    client_module.load_transport = metered


async def run(folder: Path, steps: int) -> tuple[Meter, str]:
    meter = Meter(folder / "bodies")
    meter.bodies.mkdir()
    (folder / "app").mkdir()
    inject(meter)
    async with scripted_model(folder, steps) as variables:
        agent = Agent(
            logs_dir=folder / "logs",
            model_name=None,
            extra_env=variables,
            max_steps=steps + 10,
            repeat_limit=10**6,
        )
        environment = Environment(folder / "app", meter)
        watcher = asyncio.create_task(meter.watch())
        await agent.setup(environment)
        line = await agent.run("Look at every part, one after another.", environment, None)
        watcher.cancel()
    return meter, line


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=400)
    steps: int = parser.parse_args().steps
    with tempfile.TemporaryDirectory(prefix="capstan-loop-") as name:
        folder = Path(name)
        begin = time.perf_counter()
        meter, line = asyncio.run(run(folder, steps))
        seconds = time.perf_counter() - begin
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        trajectory = json.loads((folder / "logs" / "trajectory.json").read_bytes())
        best, requests = best_hit_rate(meter.bodies)
    metrics = [step["metrics"] for step in trajectory["steps"] if step.get("metrics")]
    prompts = [entry["prompt_tokens"] for entry in metrics]
    final = trajectory["final_metrics"]
    hits = final["total_cached_tokens"] / final["total_prompt_tokens"]
    marks = (step.get("extra", {}).get("context_management") for step in trajectory["steps"])
    kinds = [mark["strategy"] for mark in marks if mark]
    window = Settings(api_key="none").usable_tokens  # type: ignore[arg-type]
    overheads = sorted(1000 * value for value in meter.overheads())
    print(f"scripted model, {requests} requests in {seconds:.0f} s: {line}")
    print(f"cache hits          {100 * hits:.2f} % of prompt tokens; the best for these {100 * best:.2f} %")
    print(f"largest prompt      {max(prompts):,} tokens of {window:,} usable")
    print(f"compactions         {', '.join(f'{kinds.count(k)} {k}' for k in sorted(set(kinds))) or 'none'}")
    print(
        f"overhead of a step  median {statistics.median(overheads):.2f} ms, "
        f"95 % {overheads[int(0.95 * len(overheads))]:.2f} ms, longest {overheads[-1]:.1f} ms"
    )
    print(f"event loop blocked  {1000 * meter.longest_hold:.0f} ms at the longest")
    print(f"memory              {memory:.0f} MiB at the most")


if __name__ == "__main__":
    main()
