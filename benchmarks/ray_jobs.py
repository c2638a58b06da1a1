"""What Ray adds to a job: `python benchmarks/ray_jobs.py`. It needs Ray and bubblewrap.

A cluster of several Ray nodes on this machine, beside the local executor in the same run. All nodes
share this machine's cores, so more nodes cannot be faster here: what is added can be told, what
more machines bring cannot.

Overhead: the nop agent on one example task in the sandbox, here and on Ray in turn, one trial at a
time; the wall time of `Executor.run`. The first trial on each side is left out.

Jobs: many trials with the nop agent in the sandbox. Each node offers as many CPUs as the local
executor has. From the first trial's start to the last one's end, with the start of Ray's workers;
opening the cluster comes before that and is shown by itself.

Calls: milliseconds of a model call by the head's relay alone (direct), and by a node's relay to the
head's, each in a process of its own; calls in turn, the median of the paired differences; and calls
per second with 16 at once. The upstream is in the head's process and answers at once.

Bytes: the frames of a trial that reach the head, and what the head sends for it; and what each
node gets once for a job. Model calls come besides.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from ray_head import make_certificate  # noqa: E402
from relay_latency import Door, Times, child, conversation, one_call, paired, throughput  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from runner.config import RunConfig, Secrets  # noqa: E402
from runner.environments import DockerSettings, EnvironmentKind  # noqa: E402
from runner.executors.open import open_executor  # noqa: E402
from runner.jobs import JobContext, JobHost, TrialProgress, create_job  # noqa: E402
from runner.jobs.context import ClusterUse, Executor, TrialEnd, TrialPlan  # noqa: E402
from runner.jobs.limiter import Limiter  # noqa: E402
from runner.jobs.tasks import JobTask  # noqa: E402
from runner.relay import (  # noqa: E402
    ModelRequest,
    OuterRelay,
    Relay,
    RelayListener,
    Upstream,
    UpstreamResponse,
)
from runner.scripted.reply import Envelope, Reply, stream_chunks  # noqa: E402

TASK = ROOT / "examples" / "tasks" / "sales-report"
SCRIPTS = ROOT / "examples" / "scripts"
CPUS = os.cpu_count() or 1
MODEL = "deepseek-v4-pro"

# Jobs


class Timed:
    """Measures each trial of an executor. Trials that share a `turn` run one after another."""

    def __init__(self, inner: Executor, seconds: list[float], turn: asyncio.Lock | None) -> None:
        self._inner = inner
        self._seconds = seconds
        self._turn = turn

    @property
    def environment_kind(self) -> EnvironmentKind:
        return self._inner.environment_kind

    @property
    def limiter(self) -> Limiter:
        return self._inner.limiter

    @property
    def relay_socket(self) -> Path | None:
        return self._inner.relay_socket

    @property
    def relay_listener(self) -> RelayListener | None:
        return self._inner.relay_listener

    @property
    def cluster_use(self) -> Callable[[], ClusterUse] | None:
        return self._inner.cluster_use

    async def run(self, context: JobContext, plan: TrialPlan, progress: TrialProgress) -> TrialEnd:
        """See Executor.run."""
        async with AsyncExitStack() as stack:
            if self._turn is not None:
                await stack.enter_async_context(self._turn)
            begun = time.perf_counter()
            end = await self._inner.run(context, plan, progress)
            self._seconds.append(time.perf_counter() - begun)
        assert end.record.reward is not None, end.record.error
        return end


@dataclass
class Done:
    """Seconds: of each trial, of the whole job, and until its executor was open."""

    trials: list[float]
    whole: float
    opening: float


async def run_job(
    jobs: Path, on: str, trials: int, at_once: int, *, agent: str = "nop", turn: asyncio.Lock | None = None
) -> Done:
    """Run so many trials of the task. `on` is as for `capstan run --on`."""
    config = RunConfig(
        tasks=(str(TASK),),
        agent=agent,
        model=f"script:{SCRIPTS}",
        environment="sandbox",
        attempts=trials,
        concurrency=at_once,
        jobs_dir=str(jobs),
        on=on,
        max_retries=0,
    )
    seconds: list[float] = []

    @asynccontextmanager
    async def open_timed(
        config: RunConfig, tasks: Sequence[JobTask], docker: DockerSettings, note: Callable[..., None]
    ) -> AsyncIterator[Executor]:
        inner: AbstractAsyncContextManager[Executor] = open_executor(config, tasks, docker, note)
        async with inner as executor:
            yield Timed(executor, seconds, turn)

    begun = time.perf_counter()
    async with create_job(
        config, Secrets(), JobHost(open_executor=open_timed, docker=DockerSettings())
    ) as job:
        opened = time.perf_counter()
        summary = await job.run()
        ended = time.perf_counter()
    assert summary.result.total == trials and len(seconds) == trials
    return Done(seconds, ended - opened, opened - begun)


class Nodes:
    """A cluster on this machine that grows.

    Args:
        folder: For Ray's files, so that it touches no other cluster's here. A short path.
    """

    def __init__(self, folder: str) -> None:
        os.environ["RAY_TMPDIR"] = folder
        from runner.executors.ray.cluster import ray  # isort: skip - sets what Ray reads
        from ray.cluster_utils import Cluster  # isort: skip

        assert ray is not None
        head = {"num_cpus": CPUS, "include_dashboard": False}
        self._cluster: Any = Cluster(initialize_head=True, head_node_args=head)
        self.number = 1

    @property
    def on(self) -> str:
        return f"ray={self._cluster.address}"

    def grow(self, number: int) -> None:
        """Have so many nodes."""
        while self.number < number:
            self._cluster.add_node(num_cpus=CPUS)
            self.number += 1

    def stop(self) -> None:
        self._cluster.shutdown()


async def show_overhead(jobs: Path, nodes: Nodes, trials: int) -> None:
    turn = asyncio.Lock()
    local, remote = await asyncio.gather(
        run_job(jobs / "local-one", "here", trials + 1, 1, turn=turn),
        run_job(jobs / "ray-one", nodes.on, trials + 1, 1, turn=turn),
    )
    table = Table(title=f"Seconds of a trial, {trials} one after another (goal: at most 0.3 s added)")
    for name in ("", "median", "p95"):
        table.add_column(name, justify="right" if name else "left")
    added = [theirs - ours for ours, theirs in zip(local.trials[1:], remote.trials[1:], strict=True)]
    for name, values in (("here", local.trials[1:]), ("on Ray", remote.trials[1:]), ("added", added)):
        table.add_row(name, f"{statistics.median(values):.3f}", f"{_p95(values):.3f}")
    table.add_row("the first on Ray", f"{remote.trials[0]:.3f}", "")
    _print(table)


async def show_jobs(jobs: Path, nodes: Nodes, trials: int, numbers: Sequence[int]) -> None:
    table = Table(title=f"{trials} trials; all nodes share {CPUS} cores")
    for name in ("", "at once", "seconds", "trials/s", "opened in"):
        table.add_column(name, justify="right" if name else "left")

    def add(name: str, at_once: int, done: Done) -> None:
        speed = f"{trials / done.whole:.2f}"
        table.add_row(name, str(at_once), f"{done.whole:.1f}", speed, f"{done.opening:.1f} s")

    add("here", CPUS, await run_job(jobs / "local-many", "here", trials, CPUS))
    for number in numbers:
        nodes.grow(number)
        at_once = number * CPUS
        done = await run_job(jobs / f"ray-{number}", nodes.on, trials, at_once)
        add(f"Ray, {number} node{'s' * (number != 1)}", at_once, done)
    _print(table)


# Bytes


@dataclass
class Moved:
    """Bytes of frames and files, by direction."""

    frames: int = 0
    payload: int = 0
    to_head: int = 0
    to_nodes: int = 0
    once: dict[str, int] = field(default_factory=dict)


async def show_bytes(jobs: Path, nodes: Nodes, trials: int) -> None:
    table = Table(title="Bytes a trial, between head and nodes, without its model calls")
    for name in ("agent", "frames", "to the head", "of them files", "to the node", "once a node"):
        table.add_column(name, justify="right" if name != "agent" else "left")
    for name, agent in (("nop", "nop"), ("the bundled one", str(ROOT))):
        moved = Moved()
        with _counting(moved):
            await run_job(jobs / f"bytes-{Path(agent).name}", nodes.on, trials, 1, agent=agent)
        once = ", ".join(f"{what} {size:,}" for what, size in moved.once.items() if size)
        table.add_row(
            name,
            f"{moved.frames / trials:.1f}",
            f"{moved.to_head / trials:,.0f}",
            f"{moved.payload / trials:,.0f}",
            f"{moved.to_nodes / trials:,.0f}",
            once,
        )
    _print(table)


class _counting:
    """Has the executor on Ray count what passes."""

    def __init__(self, moved: Moved) -> None:
        from runner.executors.ray import executor

        self._moved = moved
        self._module: Any = executor
        self._own = {
            name: getattr(executor, name)
            for name in ("parse_from_trial", "frame", "pack_folder", "_submission")
        }

    def __enter__(self) -> None:
        moved, own = self._moved, self._own

        def parse_from_trial(data: bytes) -> Any:
            found = own["parse_from_trial"](data)
            moved.frames += 1
            moved.to_head += len(data)
            moved.payload += len(found[1])
            return found

        def frame(*arguments: Any) -> bytes:
            data = own["frame"](*arguments)
            moved.to_nodes += len(data)
            return data

        def pack_folder(folder: Path) -> bytes:
            data = own["pack_folder"](folder)
            moved.once["tasks"] = moved.once.get("tasks", 0) + len(data)
            return data

        def submission(context: JobContext) -> bytes | None:
            data = own["_submission"](context)
            moved.once["agent"] = len(data or b"")
            moved.once["lock"] = len(context.lock.model_dump_json())
            return data

        replaced = (parse_from_trial, frame, pack_folder, submission)
        for name, function in zip(own, replaced, strict=True):
            setattr(self._module, name, function)

    def __exit__(self, *_: object) -> None:
        for name, function in self._own.items():
            setattr(self._module, name, function)


# Calls


class AtOnce(Upstream):
    """Answers every call with the same stream of about 50 events."""

    mode = "script"

    def __init__(self) -> None:
        envelope = Envelope(id="benchmark", created=1700000000, model=MODEL, with_usage=True)
        usage = {"prompt_tokens": 1000, "completion_tokens": 300, "prompt_cache_hit_tokens": 900}
        self._events = list(stream_chunks(Reply(content="The build is green. " * 61), envelope, usage))

    def describe(self) -> str:
        return "answers at once"

    async def send(self, request: ModelRequest) -> UpstreamResponse:
        return UpstreamResponse(200, {"content-type": "text/event-stream"}, self._body())

    async def _body(self) -> AsyncGenerator[bytes]:
        for event in self._events:
            yield event
            await asyncio.sleep(0)  # each is sent by itself, as from a real model


async def serve_head(folder: Path, tls: bool) -> None:
    """The child process with the head's relay. Its account for the node's relay is in a file."""
    files = (folder / "cert.pem", folder / "key.pem") if tls else (None, None)
    listener = RelayListener("127.0.0.1", 0, *files)
    async with Relay(AtOnce(), requests_per_minute=None, listener=listener) as relay:
        mine, theirs = relay.open_run("direct"), relay.open_run("trial")
        (folder / "remote").write_text(f"{relay.remote_url}\n{theirs.token}\n")
        print(f"DEEPSEEK_BASE_URL={mine.base_url}\nDEEPSEEK_API_KEY={mine.token}", flush=True)
        await asyncio.Event().wait()


async def serve_node(folder: Path, tls: bool) -> None:
    """The child process with the relay of a node."""
    url, token = (folder / "remote").read_text().split()
    certificate = (folder / "cert.pem").read_text() if tls else None
    upstream = OuterRelay.at(url, certificate=certificate, mode="script", scripted=True)
    async with Relay(upstream, requests_per_minute=None) as relay:
        account = relay.open_run("trial")
        upstream.tokens["trial"] = token
        print(f"DEEPSEEK_BASE_URL={account.base_url}\nDEEPSEEK_API_KEY={account.token}", flush=True)
        await asyncio.Event().wait()


async def show_calls(calls: int) -> None:
    table = Table(title="Milliseconds of a model call, a stream of about 50 events (goal: at most 3 added)")
    for name in ("prompt", "to the head", "direct", "by the node", "added", "p95", "calls/s", "direct"):
        table.add_column(name, justify="left" if name in ("prompt", "to the head") else "right")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_certificate(folder)
        for way in ("plain", "TLS"):
            async with (
                child(__file__, "--child-head", str(folder), way) as (head, head_key),
                child(__file__, "--child-node", str(folder), way) as (node, node_key),
                _client(head_key) as head_client,
                _client(node_key) as node_client,
            ):
                direct = Door(head_client, head + "/chat/completions")
                through = Door(node_client, node + "/chat/completions")
                for label, size in (("4 KB", 4_000), ("100 KB", 100_000)):
                    body = conversation(size, stream=True)
                    pairs = await paired(direct, through, body, calls)
                    speeds = [await _speed(door, body, calls) for door in (through, direct)]
                    table.add_row(label, way, *_milliseconds(pairs), *(f"{speed:.0f}" for speed in speeds))
    _print(table)


async def _speed(door: Door, body: bytes, calls: int) -> float:
    return await throughput(lambda: one_call(door, body), calls, 16)


def _milliseconds(pairs: Sequence[tuple[Times, Times]]) -> list[str]:
    added = [through.last - direct.last for direct, through in pairs]
    medians = [
        statistics.median(direct.last for direct, _ in pairs),
        statistics.median(through.last for _, through in pairs),
        statistics.median(added),
        _p95(added),
    ]
    return [f"{1000 * value:.2f}" for value in medians]


def _client(key: str) -> Any:
    import httpx

    headers = {"authorization": f"Bearer {key}"}
    return httpx.AsyncClient(
        headers=headers, timeout=60, trust_env=False, verify=ssl.create_default_context()
    )


def _p95(values: Sequence[float]) -> float:
    return statistics.quantiles(values, n=20, method="inclusive")[-1] if len(values) > 1 else values[0]


def _print(table: Table) -> None:
    Console(width=120).print(table)


async def measure(options: argparse.Namespace, nodes: Nodes, jobs: Path) -> None:
    await show_overhead(jobs, nodes, options.pairs)
    await show_bytes(jobs, nodes, 3)
    await show_jobs(jobs, nodes, options.trials, options.nodes)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=200, help="of each job (default 200)")
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4], help="in rising order")
    parser.add_argument("--pairs", type=int, default=20, help="trials for the overhead (default 20)")
    parser.add_argument("--calls", type=int, default=200, help="model calls for each row (default 200)")
    parser.add_argument("--child-head", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--child-node", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    for serve, arguments in ((serve_head, options.child_head), (serve_node, options.child_node)):
        if arguments:
            asyncio.run(serve(Path(arguments[0]), arguments[1] == "TLS"))
            return
    print(f"{CPUS} cores, load {os.getloadavg()[0]:.1f} at the start")
    asyncio.run(show_calls(options.calls))
    with tempfile.TemporaryDirectory() as files, tempfile.TemporaryDirectory() as jobs:
        nodes = Nodes(files)
        try:
            asyncio.run(measure(options, nodes, Path(jobs)))
        finally:
            nodes.stop()


if __name__ == "__main__":
    main()
