"""What one head carries: `python benchmarks/ray_head.py`. It needs Ray and bubblewrap.

One real relay and one real job, with its live table, on the head (this process), and 10, 100 and
300 nodes that are not real: processes whose trials call, think and log as the bundled agent did in
a trial that is recorded first. A prompt and a trajectory grow as those did. The fake trials call
the relay over TCP, and send the frames of a real node, which the head takes in with the code for
real ones (`follow_trial`). A fake model answers the relay over TLS, one event for each token.

The frames come over a socket in place of Ray. What Ray itself takes of the head's CPU for a frame
is measured apart (the last lines), and added.

Rows below the last number of nodes have the same trials with calls closer together, until the head
or the machine is full.

    trials          at once; each node has three or four
    calls/s         through the relay
    frames/s        events of trials: usage and phase, parts of logs, trajectories, archives
    KB/s            of trajectories
    head            CPU of this process, in percent of one core (100: the event loop is full)
    with Ray        the same with Ray's own share for so many frames, as measured apart
    others          CPU of the fake nodes and the fake model, on the same cores
    foreign         CPU of all else on this machine: where it is more than a few percent, the
                    times are not to be trusted
    first byte      of a model call, ms, median and p95; the fake model sends it at once
    frame           ms from a node's sending a frame until the live table has it, p95
    table late      ms that the table (every 500 ms) was drawn too late, at most
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import cProfile
import io
import itertools
import json
import os
import pstats
import random
import resource
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pydantic import SecretStr  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

from runner.config import RunConfig, Secrets  # noqa: E402
from runner.environments import DockerSettings, EnvironmentKind  # noqa: E402
from runner.executors.open import open_executor  # noqa: E402
from runner.executors.ray.folders import archive_parts  # noqa: E402
from runner.executors.ray.messages import (  # noqa: E402
    FRAME_BYTES,
    FilePart,
    FolderPart,
    Placed,
    Refused,
    RunTrial,
    TrialEnded,
    TrialMoved,
    frame,
    read_request,
)
from runner.jobs import JobContext, JobHost, TrialProgress, create_job  # noqa: E402
from runner.jobs.context import ClusterUse, Executor, TrialEnd, TrialPlan  # noqa: E402
from runner.jobs.limiter import Capacity, Limiter  # noqa: E402
from runner.relay import ModelRequest, RelayListener, Upstream, UpstreamResponse  # noqa: E402
from runner.relay.upstream import UpstreamWrapper  # noqa: E402
from runner.results import ModelUse, TrialRecord  # noqa: E402
from runner.scripted import ScriptUpstream  # noqa: E402

TASKS = ("fix-log-rotation", "repair-config", "sales-report")
RECORDED = "sales-report"
TRIALS_A_NODE = 10 / 3  # 300 nodes have 1,000 trials
WORKERS = 2
TABLE_SEC = 0.5
FULL = 92.0  # percent of a core: from here on the queue grows
TRAJECTORY_BYTES_PER_SEC = 64 * 1024  # as OutgoingFiles
TOKENS_PER_SEC = 60.0  # that the fake model answers with


# What a trial is like


@dataclass
class Life:
    """What fake trials do, from a recorded one: read by the processes of the fake nodes.

    Attributes:
        bodies: The request of each step.
        step_bytes: What a step adds to the trajectory.
        archive: The archive of a whole trial, compressed, in its parts.
        events: The events of an answer.
    """

    bodies: list[bytes]
    step_bytes: int
    log_line: bytes
    archive: list[bytes]
    record: TrialRecord
    events: int

    def write(self, folder: Path) -> None:
        """Write it to files."""
        (folder / "bodies").write_bytes(b"".join(body + b"\n" for body in self.bodies))
        for number, part in enumerate(self.archive):
            (folder / f"archive-{number:03d}").write_bytes(part)
        fields = {
            "step_bytes": self.step_bytes,
            "log_line": self.log_line.decode(),
            "record": self.record.model_dump_json(),
            "events": self.events,
        }
        (folder / "life.json").write_text(json.dumps(fields))

    @classmethod
    def read(cls, folder: Path) -> Life:
        """Read what `write` wrote."""
        fields = json.loads((folder / "life.json").read_text())
        return cls(
            bodies=(folder / "bodies").read_bytes().splitlines(),
            step_bytes=fields["step_bytes"],
            log_line=fields["log_line"].encode(),
            archive=[path.read_bytes() for path in sorted(folder.glob("archive-*"))],
            record=TrialRecord.model_validate_json(fields["record"]),
            events=fields["events"],
        )


class Listener(UpstreamWrapper):
    """Keeps the requests that pass."""

    def __init__(self, inner: Upstream) -> None:
        super().__init__(inner)
        self.bodies: list[bytes] = []

    async def send(self, request: ModelRequest) -> UpstreamResponse:
        self.bodies.append(request.body)
        return await self._inner.send(request)


async def record_life(folder: Path, steps: int) -> Life:
    """Run the bundled agent with its script on one example task, and return what it did.

    Real tasks take more steps than this one, so its rounds are repeated up to `steps`.
    """
    listener = Listener(ScriptUpstream(ROOT / "examples" / "scripts"))
    host = JobHost(
        open_executor=open_executor, docker=DockerSettings(), make_upstream=lambda config, secrets: listener
    )
    config = RunConfig(
        tasks=(str(ROOT / "examples" / "tasks" / RECORDED),),
        agent=str(ROOT),
        model=f"script:{ROOT / 'examples' / 'scripts'}",
        environment="sandbox",
        jobs_dir=str(folder / "recorded"),
    )
    async with create_job(config, Secrets(), host) as job:
        await job.run()
    record = job.results.records[0]
    assert record.passed and record.metered is not None, record.error
    files = job.context.directory.trial(record.trial_name)
    trajectory = (files.agent / "trajectory.json").read_bytes()
    calls = record.metered.calls
    log_line = (files.agent / "agent.log").read_bytes().splitlines(keepends=True)[0]
    step_bytes = len(trajectory) // calls
    whole = files.root
    (whole / "agent" / "trajectory.json").write_bytes(_repeated(trajectory, step_bytes * steps))
    return Life(
        bodies=_bodies(listener.bodies, steps),
        step_bytes=step_bytes,
        log_line=log_line,
        archive=list(archive_parts(whole)),
        record=record,
        events=record.metered.completion_tokens // calls,
    )


def _bodies(recorded: list[bytes], steps: int) -> list[bytes]:
    """Return the recorded requests, and further ones that grow by the recorded rounds again."""
    bodies = list(recorded)
    last = json.loads(recorded[-1])
    begin = len(json.loads(recorded[0])["messages"])
    rounds = _rounds(last["messages"][begin:])
    for more in itertools.islice(itertools.cycle(rounds), max(0, steps - len(bodies))):
        last["messages"] += more
        bodies.append(json.dumps(last, ensure_ascii=False, separators=(",", ":")).encode())
    return bodies[:steps]


def _rounds(messages: list[Any]) -> list[list[Any]]:
    """Split messages into rounds that each begin with an answer of the model."""
    rounds: list[list[Any]] = []
    for message in messages:
        if message["role"] == "assistant" or not rounds:
            rounds.append([])
        rounds[-1].append(message)
    return rounds


def _repeated(data: bytes, size: int) -> bytes:
    return (data * (size // len(data) + 1))[:size]


# The fake nodes: processes of their own


@dataclass
class Pace:
    """How the trials of a process go, and what their calls took since the last report."""

    interval_sec: float
    calls: int = 0
    failed: int = 0
    first_byte_sec: list[float] = field(default_factory=list)

    def report(self) -> str:
        """Return the figures as JSON, and begin anew."""
        figures = {"calls": self.calls, "failed": self.failed, "first_byte_sec": self.first_byte_sec}
        self.calls, self.failed, self.first_byte_sec = 0, 0, []
        return json.dumps(figures)


async def serve_nodes(folder: Path, number: int, staggered: int, interval_sec: float) -> None:
    """Be a part of the fake nodes. The first trials begin anywhere in their lives.

    Reads commands from stdin: `interval SECONDS`, and `report`, which prints one line.
    """
    life, pace, begun = Life.read(folder), Pace(interval_sec), itertools.count()
    rng = random.Random(number)
    trajectory = _repeated(life.bodies[-1], life.step_bytes * len(life.bodies))

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            request = await read_request(reader)
            if not isinstance(request, RunTrial):
                return  # the head has gone
            step = rng.randrange(len(life.bodies)) if next(begun) < staggered else 0
            trial = FakeTrial(life, pace, rng, request, writer, trajectory)
            await trial.run(step)
        writer.close()

    # The head connects to all at once, and a full backlog refuses at once.
    path = folder / f"nodes-{number}"
    async with await asyncio.start_unix_server(accept, path, limit=FRAME_BYTES, backlog=4096):
        print("ready", flush=True)
        async for line in _stdin():
            match line.split():
                case ["interval", seconds]:
                    pace.interval_sec = float(seconds)
                case ["report"]:
                    print(pace.report(), flush=True)
                case _:
                    raise ValueError(line)


class FakeTrial:
    """Does what the head sees of a trial on a node."""

    def __init__(
        self,
        life: Life,
        pace: Pace,
        rng: random.Random,
        request: RunTrial,
        writer: asyncio.StreamWriter,
        trajectory: bytes,
    ) -> None:
        self._life = life
        self._pace = pace
        self._rng = rng
        self._request = request
        self._writer = writer
        self._trajectory = trajectory
        self._trajectory_after = 0.0
        self._relay: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def run(self, step: int) -> None:
        """Live from a step on, and end."""
        assert self._request.token is not None
        try:
            self._write(Placed(node=self._request.key))
            self._write(FilePart(name="trial.log", offset=0), self._life.log_line * 3)
            self._write(FilePart(name="agent/agent.log", offset=0), self._life.log_line * step)
            done = self._rng.random()  # of the time until the next call
            while step < len(self._life.bodies):
                await self._wait(done, self._rng.uniform(0.5, 1.5))
                begun, interval = time.monotonic(), self._pace.interval_sec
                await self._call(self._life.bodies[step])
                step += 1
                await asyncio.sleep(self._rng.random())  # a node looks once a second
                self._send_news(step)
                await self._writer.drain()
                done = (time.monotonic() - begun) / interval
            for part in self._life.archive:
                self._write(FolderPart(), part)
                await self._writer.drain()
            record = self._life.record.model_copy(update={"trial_name": self._request.trial_name})
            self._write(TrialEnded(record=record, infrastructure=False))
            await self._writer.drain()
        finally:
            if self._relay is not None:
                self._relay[1].close()

    async def _wait(self, done: float, until: float) -> None:
        """Wait as long as the pace says, which may change meanwhile."""
        while done < until:
            seconds = min(1.0, (until - done) * self._pace.interval_sec)
            await asyncio.sleep(seconds)
            done += seconds / self._pace.interval_sec

    async def _call(self, body: bytes) -> None:
        """Call the model through the head's relay and read its answer to the end."""
        url = urlsplit(self._request.environ["RELAY"])
        if self._relay is None:
            context = _trusting(Path(self._request.environ["CERTIFICATE"])) if url.scheme == "https" else None
            self._relay = await asyncio.open_connection(url.hostname, url.port, ssl=context)
        reader, writer = self._relay
        begun = time.perf_counter()
        writer.write(
            b"POST /chat/completions HTTP/1.1\r\nhost: relay\r\ncontent-type: application/json\r\n"
            b"authorization: Bearer %s\r\ncontent-length: %d\r\n\r\n%s"
            % ((self._request.token or "").encode(), len(body), body)
        )
        status = await reader.readline()
        self._pace.first_byte_sec.append(time.perf_counter() - begun)
        end = b""
        while not end.endswith(b"\r\n0\r\n\r\n"):
            data = await reader.read(1 << 16)
            if not data:
                self._relay = None
                break
            end = (end + data)[-16:]
        self._pace.calls += 1
        if b" 200 " not in status or self._relay is None:
            self._pace.failed += 1

    def _send_news(self, step: int) -> None:
        now, life = time.monotonic(), self._life
        use = ModelUse(calls=step, prompt_tokens=step * 3000, completion_tokens=step * life.events)
        # The clock is the machine's, so that the head can tell how late this is.
        self._write(TrialMoved(phase=f"agent {now:.4f}", usage=use))
        self._write(FilePart(name="agent/agent.log", offset=(step - 1) * len(life.log_line)), life.log_line)
        if now >= self._trajectory_after:
            size = step * life.step_bytes
            self._trajectory_after = now + size / TRAJECTORY_BYTES_PER_SEC
            self._write(FilePart(name="agent/trajectory.json", offset=0), self._trajectory[:size])

    def _write(self, message: Any, payload: bytes = b"") -> None:
        self._writer.write(frame(message, payload))


async def _stdin() -> AsyncGenerator[str]:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        yield line.decode()


# The fake model: a process of its own


class FakeModel(asyncio.Protocol):
    """Answers each request with a stream of so many events, the first at once."""

    def __init__(self, events: int) -> None:
        self._events = events
        self._buffer = bytearray()
        self._needed = 0
        self._transport: asyncio.Transport | None = None
        self._answering: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answering is not None:
            self._answering.cancel()

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not self._needed and (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._buffer[:end]).lower()
            size = head.partition(b"content-length:")[2].split(b"\r\n")[0]
            self._needed = end + 4 + int(size)
        if self._needed and len(self._buffer) >= self._needed:
            del self._buffer[: self._needed]
            self._needed = 0
            self._answering = asyncio.create_task(self._answer())

    async def _answer(self) -> None:
        assert self._transport is not None
        write = self._transport.write
        first = _event({"role": "assistant", "content": None, "reasoning_content": ""})
        token = _event({"content": None, "reasoning_content": " token"})
        usage = {"prompt_tokens": 3000, "completion_tokens": self._events, "prompt_cache_hit_tokens": 2500}
        write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
            b"transfer-encoding: chunked\r\n\r\n" + _chunk(first)
        )
        piece = _chunk(token)
        for _ in range(self._events):
            await asyncio.sleep(1 / TOKENS_PER_SEC)
            write(piece)
        write(_chunk(_event({"content": ""}, "stop", usage)) + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")


def _event(delta: dict[str, Any], finish: str | None = None, usage: dict[str, int] | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    document = {
        "id": "8a1b2c3d-0000-4000-8000-000000000000",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "deepseek-v4-pro",
        "system_fingerprint": "fp_fake",
        "choices": [choice],
        "usage": usage,
    }
    return b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


async def serve_model(folder: Path) -> None:
    """Be the model, over TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    events = Life.read(folder).events
    server = await asyncio.get_running_loop().create_server(
        lambda: FakeModel(events), "127.0.0.1", 0, ssl=context, backlog=4096
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    async for _ in _stdin():
        pass


def make_certificate(folder: Path) -> None:
    """Make a self-signed certificate for this machine."""
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run([*command.split(), *names, *files], check=True, capture_output=True)


def _trusting(certificate: Path) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=certificate)


# Ray's own share: a process of its own


def measure_ray(size: int, count: int) -> None:
    """Print the head's CPU seconds for a frame of so many bytes that comes by Ray.

    Its files are where RAY_TMPDIR says, so that it touches no other cluster's here.
    """
    from runner.executors.ray import cluster  # sets what Ray reads when it is imported

    ray = cluster.ray

    async def measure() -> float:
        def frames(number: int) -> Iterator[bytes]:
            for _ in range(number):
                time.sleep(0.002)
                yield os.urandom(16) + bytes(size)

        hold = ray.remote(frames).options(
            num_cpus=0, num_returns="streaming", _generator_backpressure_num_objects=16
        )

        async def take(number: int) -> None:
            async for reference in hold.remote(number):
                await reference

        await asyncio.gather(*(take(5) for _ in range(4)))  # the workers are there now
        before = time.process_time()
        await asyncio.gather(*(take(count // 4) for _ in range(4)))
        return (time.process_time() - before) / (count // 4 * 4)

    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        object_store_memory=200 << 20,
    )
    try:
        print(asyncio.run(measure()), flush=True)
    finally:
        ray.shutdown()


# The head


@dataclass
class Tally:
    """What the head took in."""

    placed: int = 0
    ended: int = 0
    frames: int = 0
    trajectory_bytes: int = 0
    lags: list[float] = field(default_factory=list)


class FakeExecutor:
    """Hands trials to the fake nodes, and takes in their frames as RayExecutor does."""

    environment_kind: EnvironmentKind = "sandbox"
    relay_socket: Path | None = None

    def __init__(self, folder: Path, nodes: int, at_once: int, *, tls: bool) -> None:
        self.limiter = Limiter(Capacity(trials=at_once))
        files = (folder / "cert.pem", folder / "key.pem") if tls else (None, None)
        self.relay_listener: RelayListener | None = RelayListener("127.0.0.1", 0, *files)
        self.tally = Tally()
        self.all_placed = asyncio.Event()
        self._at_once = at_once
        self._folder = folder
        self._nodes = itertools.cycle(range(nodes))

    def cluster_use(self) -> ClusterUse:
        """See Executor.cluster_use."""
        return ClusterUse(nodes=0, open_nodes=0, cpus=0.0, used_cpus=0.0)

    async def run(self, context: JobContext, plan: TrialPlan, progress: TrialProgress) -> TrialEnd:
        """See Executor.run."""
        from runner.executors.ray.executor import follow_trial

        account, relay = context.model.open_account(plan.trial_name), context.model.relay
        assert account is not None and relay is not None and relay.remote_url is not None
        node = next(self._nodes)
        request = RunTrial(
            key=f"node-{node:03d}",
            trial_name=plan.trial_name,
            attempt=plan.attempt,
            task=0,
            environ={"RELAY": relay.remote_url, "CERTIFICATE": str(self._folder / "cert.pem")},
            retries=progress.retries,
            token=account.token,
        )
        reader, writer = await asyncio.open_unix_connection(
            self._folder / f"nodes-{node % WORKERS}", limit=FRAME_BYTES
        )
        try:
            writer.write(frame(request))
            return await follow_trial(context, plan, progress, self._frames(reader, progress), _refused)
        finally:
            writer.close()
            relay.close_run(account.token)

    async def _frames(self, reader: asyncio.StreamReader, progress: TrialProgress) -> AsyncGenerator[bytes]:
        tally, seen = self.tally, ""
        while head := await reader.readline():
            text = await reader.readline()
            data = head + text + await reader.readexactly(int(head))
            tally.frames += 1
            if b'"agent/trajectory.json"' in text:
                tally.trajectory_bytes += int(head)
            elif text.startswith(b'{"type":"placed"'):
                tally.placed += 1
                if tally.placed == self._at_once:
                    self.all_placed.set()
            elif text.startswith(b'{"type":"ended"'):
                tally.ended += 1
            yield data
            if progress.phase != seen and progress.phase.startswith("agent "):
                seen = progress.phase
                tally.lags.append(time.monotonic() - float(seen.split()[1]))


def _refused(message: Refused) -> None:
    raise AssertionError(message.reason)


class Terminal(io.StringIO):
    """A terminal that nobody looks at."""

    def isatty(self) -> bool:
        return True

    def write(self, s: str, /) -> int:
        return len(s)


class Child:
    """A process of the benchmark, which answers on its stdout."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._stdin, self._stdout, self.pid = process.stdin, process.stdout, process.pid

    def tell(self, line: str) -> None:
        self._stdin.write(line.encode() + b"\n")

    async def line(self) -> str:
        line = await self._stdout.readline()
        assert line, "a process of the benchmark has ended"
        return line.decode().strip()

    def cpu_sec(self) -> float:
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@asynccontextmanager
async def started(*arguments: object) -> AsyncIterator[Child]:
    """Start this file as another process. It ends with its stdin."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        __file__,
        *map(str, arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=FRAME_BYTES,
    )
    try:
        yield Child(process)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@dataclass
class Figures:
    """One row: rates are per second, shares are percent of one core."""

    nodes: int
    trials: int
    calls: float
    frames: float
    trajectory_bytes: float
    head: float
    others: float
    foreign: float
    first_byte_ms: tuple[float, float]
    frame_lag_ms: float
    table_late_ms: float
    ended: float
    failed: int


class Ticker:
    """Wakes up as often as the live table is drawn, and notes how late."""

    def __init__(self) -> None:
        self.late: list[float] = []

    async def run(self) -> None:
        while True:
            due = time.perf_counter() + TABLE_SEC
            await asyncio.sleep(TABLE_SEC)
            self.late.append(time.perf_counter() - due)


class Bench:
    """Runs rows on one set of files. An answer takes `answer_sec`, so calls cannot be closer."""

    def __init__(self, folder: Path, options: argparse.Namespace, answer_sec: float) -> None:
        self._folder = folder
        self._answer_sec = answer_sec
        self._options = options
        self._numbers = itertools.count()

    async def row(self, nodes: int, *, ramp: bool) -> list[Figures]:
        """Measure so many nodes at the usual pace, and for a ramp at faster ones as well."""
        from runner.cli.progress import LiveTable

        options, folder = self._options, self._folder
        at_once = round(nodes * TRIALS_A_NODE)
        executor = FakeExecutor(folder, nodes, at_once, tls=options.tls)

        @asynccontextmanager
        async def open_fake(*_: object) -> AsyncIterator[Executor]:
            yield executor

        async with AsyncExitStack() as stack:
            model = await stack.enter_async_context(started("--child-model", folder))
            port = await model.line()
            workers = [
                await stack.enter_async_context(
                    started("--child-nodes", folder, number, -(-at_once // WORKERS), options.interval)
                )
                for number in range(WORKERS)
            ]
            for worker in workers:
                await worker.line()
            config = RunConfig(
                tasks=tuple(str(ROOT / "examples" / "tasks" / name) for name in TASKS),
                agent=str(ROOT),
                model="live",
                base_url=f"https://localhost:{port}",
                # As many as five attempts at 89 tasks are waiting besides.
                attempts=-(-(at_once + 445) // len(TASKS)),
                jobs_dir=str(folder / "jobs"),
                job_name=f"row-{next(self._numbers)}",
            )
            host = JobHost(open_executor=open_fake, docker=DockerSettings())
            secrets = Secrets(api_key=SecretStr("sk-of-the-benchmark"))
            job = await stack.enter_async_context(create_job(config, secrets, host, LiveTable(Terminal())))
            running = asyncio.create_task(job.run())
            begun, cpu = time.perf_counter(), _own_cpu()
            placing = asyncio.create_task(executor.all_placed.wait())
            await asyncio.wait({placing, running}, return_when=asyncio.FIRST_COMPLETED)
            placing.cancel()
            if running.done():
                await running
            _say(
                f"{at_once} trials began within {time.perf_counter() - begun:.1f} s, "
                f"{_own_cpu() - cpu:.1f} s of the head's CPU"
            )
            rows: list[Figures] = []
            interval = options.interval
            try:
                while True:
                    for worker in workers:
                        worker.tell(f"interval {interval}")
                    await asyncio.sleep(min(interval, options.settle))
                    rows.append(await self._window(nodes, at_once, executor, model, workers))
                    row = rows[-1]
                    _say(f"  a call every {interval:.1f} s: {row.calls:.0f} calls/s, head {row.head:.0f} %")
                    lost = [record.error for record in job.results.records if not record.passed]
                    if lost or running.done():
                        raise RuntimeError(f"the job has ended, or trials failed: {lost[:1]}")
                    if not ramp or row.head >= FULL or row.head + row.others > 100 * os.cpu_count() * 0.95:
                        break
                    interval /= max(1.25, min(2.0, 1.1 * FULL / row.head))
                    if interval < self._answer_sec + 1.0:  # a node looks once a second
                        break
                if options.profile and nodes == options.nodes[-1]:
                    await self._profiled()
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)
            return rows

    async def _window(
        self, nodes: int, at_once: int, executor: FakeExecutor, model: Child, workers: list[Child]
    ) -> Figures:
        """Measure for as long as the options say."""
        ticker = Ticker()
        ticking = asyncio.create_task(ticker.run())
        await self._reports(workers)
        executor.tally.lags.clear()
        tally = executor.tally
        frames, trajectories, ended = tally.frames, tally.trajectory_bytes, tally.ended
        begun, cpu, machine = time.perf_counter(), _own_cpu(), _machine_cpu()
        others = sum(child.cpu_sec() for child in (model, *workers))
        await asyncio.sleep(self._options.seconds)
        seconds = time.perf_counter() - begun
        cpu = _own_cpu() - cpu
        others = sum(child.cpu_sec() for child in (model, *workers)) - others
        foreign = max(0.0, _machine_cpu() - machine - cpu - others)
        reports = await self._reports(workers)
        ticking.cancel()
        first = [1000 * each for report in reports for each in report["first_byte_sec"]]
        return Figures(
            nodes=nodes,
            trials=at_once,
            calls=sum(report["calls"] for report in reports) / seconds,
            frames=(tally.frames - frames) / seconds,
            trajectory_bytes=(tally.trajectory_bytes - trajectories) / seconds,
            head=100 * cpu / seconds,
            others=100 * others / seconds,
            foreign=100 * foreign / seconds,
            first_byte_ms=(_percentile(first, 50), _percentile(first, 95)),
            frame_lag_ms=1000 * _percentile(tally.lags, 95),
            table_late_ms=1000 * max(ticker.late, default=0.0),
            ended=(tally.ended - ended) / seconds,
            failed=sum(report["failed"] for report in reports),
        )

    async def _reports(self, workers: list[Child]) -> list[dict[str, Any]]:
        for worker in workers:
            worker.tell("report")
        return [json.loads(await worker.line()) for worker in workers]

    async def _profiled(self) -> None:
        profile = cProfile.Profile()
        profile.enable()
        await asyncio.sleep(self._options.seconds)
        profile.disable()
        for order in ("tottime", "cumulative"):
            text = io.StringIO()
            pstats.Stats(profile, stream=text).sort_stats(order).print_stats(35)
            _say(text.getvalue())


def _own_cpu() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _machine_cpu() -> float:
    """Return the seconds that all cores were busy (proc_stat(5))."""
    fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    idle = fields[3] + fields[4]
    return (sum(fields) - idle) / os.sysconf("SC_CLK_TCK")


def _percentile(values: list[float], percent: int) -> float:
    if len(values) < 2:
        return values[0] if values else 0.0
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def _say(line: str) -> None:
    assert sys.__stderr__ is not None  # sys.stderr is the live table's
    sys.__stderr__.write(line + "\n")
    sys.__stderr__.flush()


def rays_share(life: Life, count: int) -> tuple[float, float]:
    """Return the CPU seconds that Ray takes on the head for a small frame, and for a trajectory."""
    sizes = (len(life.log_line) + 100, life.step_bytes * len(life.bodies) // 2)
    taken: list[float] = []
    for size in sizes:
        command = [sys.executable, __file__, "--child-ray", str(size), str(count)]
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                command,
                cwd=ROOT,
                env={**os.environ, "RAY_TMPDIR": folder},
                check=True,
                stdout=subprocess.PIPE,
                text=True,
                timeout=120,
            )
        taken.append(float(done.stdout.splitlines()[-1]))
    return taken[0], taken[1]


def print_rows(rows: list[Figures], shares: tuple[float, float] | None, interval_sec: float) -> None:
    """Print the table, and where the head's CPU ends."""
    table = Table(title="One head: a real relay and a real job, fake nodes and a fake model")
    names = (
        "nodes",
        "trials",
        "calls/s",
        "frames/s",
        "KB/s",
        "ends/s",
        "head",
        "with Ray",
        "others",
        "foreign",
    )
    for name in (*names, "first byte", "p95", "frame", "table late", "failed"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            str(row.nodes),
            str(row.trials),
            f"{row.calls:.1f}",
            f"{row.frames:.0f}",
            f"{row.trajectory_bytes / 1000:.0f}",
            f"{row.ended:.1f}",
            f"{row.head:.0f} %",
            f"{row.head + _ray_percent(row, shares):.0f} %" if shares else "–",
            f"{row.others:.0f} %",
            f"{row.foreign:.0f} %",
            f"{row.first_byte_ms[0]:.1f}",
            f"{row.first_byte_ms[1]:.1f}",
            f"{row.frame_lag_ms:.0f}",
            f"{row.table_late_ms:.0f}",
            str(row.failed),
        )
    Console(width=140).print(table)
    if shares:
        print(f"Ray's own CPU on the head: {1e3 * shares[0]:.2f} ms for a small frame, ", end="")
        print(f"{1e3 * shares[1]:.2f} ms for a trajectory of the middle of a trial")
    line = _line([(row.calls, row.head + _ray_percent(row, shares)) for row in rows])
    if line is not None:
        at_rest, a_call = line
        end = (100 - at_rest) / a_call
        print(
            f"the head's CPU: {at_rest:.0f} % and {10 * a_call:.1f} ms for each call with what goes with it; "
            f"one core is full at {end:.0f} calls/s, "
            f"which are {end * interval_sec:.0f} trials with a call every {interval_sec:g} s"
        )


def _ray_percent(row: Figures, shares: tuple[float, float] | None) -> float:
    if shares is None:
        return 0.0
    # Of the frames of a step one is its trajectory, where that is due.
    large = min(row.calls, row.frames / 3)
    return 100 * (shares[1] * large + shares[0] * (row.frames - large))


def _line(points: list[tuple[float, float]]) -> tuple[float, float] | None:
    """Return where the straight line through points begins and its slope (least squares)."""
    if len(points) < 2:
        return None
    slope, start = statistics.linear_regression(*zip(*points, strict=True))
    return (start, slope) if slope > 0 else None


@contextmanager
def _trusted(certificate: Path) -> Iterator[None]:
    """Have httpx trust a certificate, as if an authority had signed it."""
    before = os.environ.get("SSL_CERT_FILE")
    os.environ["SSL_CERT_FILE"] = str(certificate)
    try:
        yield
    finally:
        del os.environ["SSL_CERT_FILE"]
        if before is not None:
            os.environ["SSL_CERT_FILE"] = before


async def measure(options: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="capstan-head-") as name:
        folder = Path(name)
        make_certificate(folder)
        life = await record_life(folder, options.steps)
        if options.events:
            life.events = options.events
        life.write(folder)
        sizes = [len(body) / 1000 for body in life.bodies]
        print(
            f"a trial: {len(sizes)} calls, one every {options.interval:g} s, prompts of {sizes[0]:.0f} to "
            f"{sizes[-1]:.0f} KB, answers of {life.events} events in {life.events / TOKENS_PER_SEC:.1f} s, "
            f"{life.step_bytes / 1000:.1f} KB of trajectory a step, "
            f"an archive of {sum(map(len, life.archive)) / 1000:.0f} KB; "
            f"{os.cpu_count()} cores for everything, load {os.getloadavg()[0]:.1f} at the start"
        )
        shares = None if options.without_ray else await asyncio.to_thread(rays_share, life, 1000)
        rows: list[Figures] = []
        with _trusted(folder / "cert.pem"):
            bench = Bench(folder, options, life.events / TOKENS_PER_SEC)
            for nodes in options.nodes:
                rows += await bench.row(nodes, ramp=options.ramp and nodes == options.nodes[-1])
        print_rows(rows, shares, options.interval)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--nodes", type=int, nargs="+", default=[10, 100, 300])
    parser.add_argument("--seconds", type=float, default=20.0, help="for each row (default 20)")
    parser.add_argument("--settle", type=float, default=6.0, help="seconds before each row (default 6)")
    parser.add_argument("--interval", type=float, default=20.0, help="seconds from call to call (default 20)")
    parser.add_argument("--steps", type=int, default=40, help="calls of a trial (default 40)")
    parser.add_argument("--events", type=int, help="events of an answer (default: tokens of a recorded one)")
    parser.add_argument("--tls", action="store_true", help="TLS between nodes and head as well")
    parser.add_argument("--no-ramp", dest="ramp", action="store_false", help="leave the faster rows out")
    parser.add_argument("--without-ray", action="store_true", help="leave Ray's own share out")
    parser.add_argument("--profile", action="store_true", help="print where the event loop's time goes")
    parser.add_argument("--child-nodes", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--child-model", help=argparse.SUPPRESS)
    parser.add_argument("--child-ray", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child_nodes:
        folder, number, staggered, interval = options.child_nodes
        asyncio.run(serve_nodes(Path(folder), int(number), int(staggered), float(interval)))
    elif options.child_model:
        asyncio.run(serve_model(Path(options.child_model)))
    elif options.child_ray:
        measure_ray(*options.child_ray)
    else:
        asyncio.run(measure(options))


if __name__ == "__main__":
    main()
