"""A raw HTTP server that can misbehave, and the bytes of streamed answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Self

from src.config import Settings, load_settings
from src.llm import DeepSeekClient
from src.llm.httpx_transport import HttpxTransport
from src.llm.messages import Conversation, system, user
from src.llm.openai_transport import OpenAITransport
from src.tools.arguments import parse_arguments

KEY = "sk-capstan-test-0123456789abcdef"
TRANSPORTS = {"openai": OpenAITransport, "httpx": HttpxTransport}
USAGE = {
    "prompt_tokens": 1000,
    "completion_tokens": 100,
    "total_tokens": 1100,
    "prompt_cache_hit_tokens": 900,
    "prompt_cache_miss_tokens": 100,
    "completion_tokens_details": {"reasoning_tokens": 40},
}
DONE = b"data: [DONE]\n\n"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class WordCounter:
    """Counts words, so that sizes in tests are easy to see."""

    exact = True

    def count(self, text: str) -> int:
        return len(text.split())

    def head(self, text: str, tokens: int) -> str:
        return " ".join(text.split()[:tokens])

    def tail(self, text: str, tokens: int) -> str:
        return " ".join(text.split()[-tokens:])


def settings(base_url: str, **overrides: Any) -> Settings:
    env = {"DEEPSEEK_API_KEY": KEY, "DEEPSEEK_BASE_URL": base_url}
    return load_settings(env, None, {}, None, {"max_retries": 0, **overrides})


def client_for(base_url: str, transport: str, *, clock: Any = None, **overrides: Any) -> DeepSeekClient:
    """Return a client whose waits take no time; they are in `client.waits`."""
    options = settings(base_url, **overrides)
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    given = {} if clock is None else {"clock": clock}
    client = DeepSeekClient(
        options,
        WordCounter(),
        parse_arguments=parse_arguments,
        transport=TRANSPORTS[transport](options),
        sleep=sleep,
        random=lambda: 0.5,
        **given,
    )
    client.waits = waits  # type: ignore[attr-defined]
    return client


def conversation(text: str = "say hello") -> Conversation:
    return Conversation([system("You are a test."), user(text)])


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def delta(finish: str | None = None, **fields: Any) -> bytes:
    """Return one chunk with a delta."""
    return event({"model": "deepseek-v4-pro", "choices": [{"delta": fields, "finish_reason": finish}]})


def call_delta(index: int | None, arguments: str, **fields: Any) -> dict[str, Any]:
    piece: dict[str, Any] = {"function": {"arguments": arguments}}
    if index is not None:
        piece["index"] = index
    if "name" in fields:
        piece["function"]["name"] = fields.pop("name")
    return {**piece, **fields}


def usage_event(usage: Any = USAGE) -> bytes:
    return event({"model": "deepseek-v4-pro", "choices": [], "usage": usage})


def hello(finish: str = "stop", usage: Any = USAGE, **fields: Any) -> list[bytes]:
    """Return the chunks of a whole answer."""
    fields = fields or {"reasoning_content": "let me greet", "content": "hello there"}
    tail = [usage_event(usage)] if usage is not None else []
    return [delta(**fields), delta(finish, content=""), *tail, DONE]


def answer(*pieces: bytes) -> Handler:
    """Stream the pieces, each as one HTTP chunk, and end properly."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _send(writer, pieces)
        writer.write(b"0\r\n\r\n")

    return handle


def slowly(pause: float, *pieces: bytes) -> Handler:
    """Stream the pieces with a pause before each."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HEAD)
        for piece in pieces:
            await asyncio.sleep(pause)
            writer.write(_framed(piece))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    return handle


def dropped(*pieces: bytes) -> Handler:
    """Stream the pieces and cut the connection."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _send(writer, pieces)

    return handle


def silent(*pieces: bytes, comments: float = 0.0) -> Handler:
    """Stream the pieces, then nothing or comments at intervals, until the client leaves."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if pieces or comments:
            await _send(writer, pieces)
        gone = asyncio.ensure_future(reader.read())
        while not gone.done():
            await asyncio.wait({gone}, timeout=comments or None)
            if comments:
                writer.write(_framed(b": keep-alive\n\n"))

    return handle


def status(code: int, body: str | bytes = "", **headers: str) -> Handler:
    """Refuse the request. Header names are written with underscores."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        data = body.encode() if isinstance(body, str) else body
        lines = [f"HTTP/1.1 {code} Refused", f"content-length: {len(data)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + data)

    return handle


def refusal(code: int, message: str, **headers: str) -> Handler:
    """Refuse the request in the API's form."""
    return status(code, json.dumps({"error": {"message": message, "type": "x"}}), **headers)


async def _send(writer: asyncio.StreamWriter, pieces: tuple[bytes, ...]) -> None:
    writer.write(HEAD)
    for piece in pieces:
        writer.write(_framed(piece))
        await writer.drain()
        await asyncio.sleep(0)


def _framed(piece: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(piece), piece)


@dataclass(frozen=True, slots=True)
class Recorded:
    """A received request."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class FaultServer:
    """Runs one handler for each request and repeats the last one. One request per connection."""

    def __init__(self, *handlers: Handler) -> None:
        self._handlers = list(handlers)
        self._running: set[asyncio.Task[None]] = set()
        self.requests: list[Recorded] = []
        self.asked = asyncio.Event()
        self.base_url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        host, port = self._server.sockets[0].getsockname()
        self.base_url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._running.add(task)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {
                name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:-2])
            }
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            number = len(self.requests)
            self.asked.set()
            self.requests.append(Recorded(head[0].split()[1], headers, body))
            await self._handlers[min(number, len(self._handlers) - 1)](reader, writer)
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._running.discard(task)
            writer.close()
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await writer.wait_closed()
