"""The upstreams that record calls to a cassette and replay them from one."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncGenerator
from pathlib import Path

from runner.json_values import JsonObject, is_list
from runner.relay.cassette import (
    Cassette,
    CassetteWriter,
    Ended,
    RecordedCall,
    clean_request,
    first_difference,
    request_digest,
)
from runner.relay.upstream import Upstream, UpstreamWrapper
from runner.relay.wire import ApiError, ModelRequest, StreamDropped, UpstreamResponse

_MAX_SHOWN_CHARS = 120
_SHOWN_BEFORE_DIFFERENCE = 40
_DONE = b"data: [DONE]\n\n"


class RecordUpstream(UpstreamWrapper):
    """Passes calls to another upstream and appends every call to a cassette.

    Raises CassetteError if the cassette exists and cannot be continued.
    """

    def __init__(self, inner: Upstream, cassette: Path) -> None:
        super().__init__(inner)
        self.mode = "record"
        self._path = cassette
        origin = "script" if inner.scripted else inner.mode
        self._writer = CassetteWriter(
            cassette, origin=origin, describe=inner.describe(), secrets=inner.secrets
        )
        self._writing: set[asyncio.Task[None]] = set()

    def describe(self) -> str:
        return f"{self._inner.describe()}, recorded to {self._path.name}"

    async def send(self, request: ModelRequest) -> UpstreamResponse:
        cleaned = clean_request(request.payload, self.secrets)
        try:
            response = await self._inner.send(request)
        except ApiError as error:
            await self._writer.add(cleaned, error.status, error.headers(), [error.body()], "complete")
            raise
        return UpstreamResponse(response.status, response.headers, self._recorded(cleaned, response))

    async def _recorded(self, cleaned: JsonObject, response: UpstreamResponse) -> AsyncGenerator[bytes]:
        chunks: list[bytes] = []
        ended: Ended = "dropped"
        try:
            async for chunk in response.body:
                chunks.append(chunk)
                if chunk.endswith(_DONE):
                    ended = "complete"  # clients disconnect here, often before the end
                yield chunk
            ended = "complete"
        except StreamDropped:
            ended = "dropped"
            raise
        finally:
            await response.aclose()
            # An agent that disconnects cancels this generator. The call is written even then.
            write = self._writer.add(cleaned, response.status, response.headers, chunks, ended)
            task = asyncio.ensure_future(write)
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)
            await asyncio.shield(task)

    async def aclose(self) -> None:
        if self._writing:
            await asyncio.wait(self._writing)
        self._writer.close()
        await super().aclose()


class ReplayUpstream(Upstream):
    """Replays a cassette. Repeated requests get their responses in the order of the recording.

    A request that was not recorded is refused with 422. The error shows where it first differs from
    the most similar recorded request.

    Raises CassetteError if the file cannot be used.
    """

    mode = "replay"

    def __init__(self, cassette: Path) -> None:
        self._cassette = Cassette.load(cassette)
        self._waiting: defaultdict[str, deque[RecordedCall]] = defaultdict(deque)
        for call in self._cassette.calls:
            self._waiting[call.digest].append(call)

    @property
    def scripted(self) -> bool:
        return self._cassette.origin == "script"

    def describe(self) -> str:
        count = len(self._cassette.calls)
        return f"replay of {count} recorded calls ({self._cassette.describe}), not a live model"

    async def send(self, request: ModelRequest) -> UpstreamResponse:
        cleaned = clean_request(request.payload, self.secrets)
        digest = request_digest(cleaned)
        if digest not in self._waiting:
            raise ApiError(422, self._miss(cleaned), code="replay_miss")
        waiting = self._waiting[digest]
        if not waiting:
            times = sum(call.digest == digest for call in self._cassette.calls)
            raise ApiError(
                422,
                f"replay: this request was recorded {times} times and is asked once more",
                code="replay_miss",
            )
        call = waiting.popleft()
        return UpstreamResponse(call.status, dict(call.headers), _replayed(call))

    def _miss(self, cleaned: JsonObject) -> str:
        """Return the message for a request that was not recorded."""
        if not self._cassette.calls:
            return f"replay: {self._cassette.path.name} holds no calls"
        nearest = max(self._cassette.calls, key=lambda call: _similarity(cleaned, call.request))
        where, ours, theirs = first_difference(cleaned, nearest.request) or ("$", "?", "?")
        number = self._cassette.calls.index(nearest) + 1
        asked, recorded = _shown(ours, theirs)
        return (
            f"replay: no such request was recorded; against recorded call {number} the first difference is "
            f"at {where}: asked {asked}, recorded {recorded}"
        )


async def _replayed(call: RecordedCall) -> AsyncGenerator[bytes]:
    for chunk in call.chunks:
        yield chunk
    if call.ended == "dropped":
        raise StreamDropped("dropped in the recording")


def _similarity(ours: JsonObject, theirs: JsonObject) -> tuple[int, int]:
    """Return a sort key: the messages shared from the start, then the other equal fields."""
    a, b = ours.get("messages"), theirs.get("messages")
    shared = 0
    if is_list(a) and is_list(b):
        for one, other in zip(a, b, strict=False):
            if one != other:
                break
            shared += 1
        shared = 2 * shared + (len(a) == len(b))
    same = sum(name in theirs and value == theirs[name] for name, value in ours.items() if name != "messages")
    return shared, same


def _shown(ours: object, theirs: object) -> tuple[str, str]:
    """Return both values in short. Long texts are shown from where they begin to differ."""
    if isinstance(ours, str) and isinstance(theirs, str):
        same = next(
            (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b),
            min(len(ours), len(theirs)),
        )
        start = max(0, same - _SHOWN_BEFORE_DIFFERENCE)
        lead = "…" if start else ""
        return _truncated(repr(lead + ours[start:])), _truncated(repr(lead + theirs[start:]))
    return _truncated(repr(ours)), _truncated(repr(theirs))


def _truncated(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN_CHARS else text[: _MAX_SHOWN_CHARS - 1] + "…"
