"""What the relay adds to a model call, and its throughput: `python benchmarks/relay_latency.py`.

Three processes, as in real use: a scripted model (the upstream), the relay in live mode in front of
it, and this client. Each call is made directly and through the relay in turn, over kept
connections, with the same body; the table shows the median of the paired differences. Throughput is
with 16 calls at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from runner.relay import LiveUpstream, Relay  # noqa: E402

SCRIPT = 'closing = """{text}"""\n'


@dataclass(frozen=True)
class Door:
    """One way to the model."""

    client: httpx.AsyncClient
    url: str


@dataclass(frozen=True)
class Times:
    """Seconds until the first byte of the body and until the last."""

    first: float
    last: float


async def one_call(door: Door, body: bytes) -> Times:
    start = time.perf_counter()
    first = 0.0
    async with door.client.stream("POST", door.url, content=body) as answer:
        async for _ in answer.aiter_raw():
            first = first or time.perf_counter() - start
    assert answer.status_code == 200, answer.status_code
    return Times(first, time.perf_counter() - start)


async def paired(direct: Door, relayed: Door, body: bytes, calls: int) -> list[tuple[Times, Times]]:
    pairs: list[tuple[Times, Times]] = []
    for number in range(calls + 10):
        if number % 2:  # neither is always the one that finds the caches warm
            through = await one_call(relayed, body)
            straight = await one_call(direct, body)
        else:
            straight = await one_call(direct, body)
            through = await one_call(relayed, body)
        pairs.append((straight, through))
    return pairs[10:]


async def throughput(call: Callable[[], Awaitable[Any]], calls: int, side_by_side: int) -> float:
    gate = asyncio.Semaphore(side_by_side)

    async def one() -> None:
        async with gate:
            await call()

    start = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(calls)))
    return calls / (time.perf_counter() - start)


def conversation(characters: int, *, stream: bool) -> bytes:
    line = "-rw-r--r-- 1 root root 4096 app/module.py: value = compute(index, table)\n"
    text = (line * (characters // len(line) + 1))[:characters]
    body: dict[str, Any] = {"model": "deepseek-v4-pro", "messages": [{"role": "user", "content": text}]}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(body).encode()


@asynccontextmanager
async def child(*arguments: str) -> AsyncIterator[tuple[str, str]]:
    """A server in a process of its own; yields the base URL and key that it prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    values: dict[str, str] = {}
    try:
        while not {"DEEPSEEK_BASE_URL", "DEEPSEEK_API_KEY"} <= values.keys():
            line = (await asyncio.wait_for(process.stdout.readline(), 30)).decode().strip()
            if not line and process.stdout.at_eof():
                raise RuntimeError(f"{arguments} ended before it served")
            name, _, value = line.partition("=")
            values[name] = value
        yield values["DEEPSEEK_BASE_URL"], values["DEEPSEEK_API_KEY"]
    finally:
        process.terminate()
        await process.wait()


async def serve_relay(base_url: str, key: str, socket_path: Path) -> None:
    """The child process with the relay."""
    upstream = LiveUpstream(base_url, key)
    async with Relay(upstream, requests_per_minute=None, socket_path=socket_path) as relay:
        account = relay.open_run("benchmark", cost_limit_usd=1e9)
        print(f"DEEPSEEK_BASE_URL={account.base_url}\nDEEPSEEK_API_KEY={account.token}", flush=True)
        await asyncio.Event().wait()


async def measure(calls: int) -> Table:
    table = Table(title="Relay: milliseconds added to a call (the model behind it is scripted)")
    for name in (
        "call",
        "way",
        "direct",
        "through",
        "added, first byte",
        "added, whole",
        "calls/s",
        "direct",
    ):
        table.add_column(name, justify="left" if name in ("call", "way") else "right")
    with tempfile.TemporaryDirectory() as folder:
        script = Path(folder) / "model.toml"
        script.write_text(SCRIPT.format(text="The build is green and the tests pass. " * 31))
        socket_path = Path(folder) / "relay.sock"
        async with (
            child("-m", "runner", "model", "--script", str(script)) as (far, far_key),
            child(__file__, "--child", far, far_key, str(socket_path)) as (near, near_key),
            _client(far_key) as direct_client,
            _client(near_key) as tcp_client,
            _client(near_key, socket_path) as socket_client,
        ):
            direct = Door(direct_client, far + "/chat/completions")
            ways = {
                "tcp": Door(tcp_client, near + "/chat/completions"),
                "socket": Door(socket_client, "http://relay/chat/completions"),
            }
            for label, size, stream in (
                ("whole, 4 KB prompt", 4_000, False),
                ("stream of 54 chunks, 4 KB", 4_000, True),
                ("stream of 54 chunks, 400 KB", 400_000, True),
            ):
                body = conversation(size, stream=stream)
                for way, door in ways.items():
                    table.add_row(label, way, *await _row(direct, door, body, calls))
    return table


async def _row(direct: Door, door: Door, body: bytes, calls: int) -> list[str]:
    pairs = await paired(direct, door, body, calls)
    through = await throughput(lambda: one_call(door, body), calls, 16)
    straight = await throughput(lambda: one_call(direct, body), calls, 16)
    return [
        _ms(straight_.last for straight_, _ in pairs),
        _ms(through_.last for _, through_ in pairs),
        _ms(b.first - a.first for a, b in pairs),
        _ms(b.last - a.last for a, b in pairs),
        f"{through:.0f}",
        f"{straight:.0f}",
    ]


def _ms(values: Any) -> str:
    return f"{statistics.median(values) * 1000:.2f}"


def _client(key: str, socket_path: Path | None = None) -> httpx.AsyncClient:
    transport = httpx.AsyncHTTPTransport(uds=str(socket_path) if socket_path else None)
    return httpx.AsyncClient(
        transport=transport, headers={"authorization": f"Bearer {key}"}, timeout=60, trust_env=False
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=200, help="calls for each row (default 200)")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        base_url, key, socket_path = options.child
        asyncio.run(serve_relay(base_url, key, Path(socket_path)))
        return
    Console(width=120).print(asyncio.run(measure(options.calls)))


if __name__ == "__main__":
    main()
