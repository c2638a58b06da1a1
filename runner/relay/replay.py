"""The upstreams of cassettes: one records what another answers, one gives the recorded answers again."""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from runner.relay.cassette import (
    Cassette,
    CassetteWriter,
    RecordedCall,
    clean_request,
    first_difference,
    request_digest,
)
from runner.relay.upstream import Upstream, Wrapper
from runner.relay.wire import ApiError, ModelRequest, StreamDropped, UpstreamResponse

_SHOWN = 120
_DONE = b"data: [DONE]\n\n"


class RecordUpstream(Wrapper):
    """Passes calls to another upstream and writes every call to a cassette. An existing one goes on."""

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

    async def _recorded(self, cleaned: dict[str, Any], response: UpstreamResponse) -> AsyncIterator[bytes]:
        chunks: list[bytes] = []
        ended = "dropped"
        try:
            async for chunk in response.body:
                chunks.append(chunk)
                if chunk.endswith(_DONE):
                    ended = "complete"  # clients hang up here, often before the upstream's own end
                yield chunk
            ended = "complete"
        except StreamDropped:
            ended = "dropped"
            raise
        finally:
            await response.aclose()
            # An agent that hangs up cancels this generator; the call is written all the same.
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
    """Gives a cassette's answers again, matched by request digest, repeats in the order of the recording.

    Raises CassetteError where the file cannot be used. A request that was not recorded is refused with 422
    and the first difference from the recorded request that is most like it.
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

    def _miss(self, cleaned: Mapping[str, Any]) -> str:
        if not self._cassette.calls:
            return f"replay: {self._cassette.path.name} holds no calls"
        nearest = max(self._cassette.calls, key=lambda call: _likeness(cleaned, call.request))
        found = first_difference(cleaned, nearest.request)
        where, ours, theirs = found if found else ("$", "?", "?")
        number = self._cassette.calls.index(nearest) + 1
        ours, theirs = _shown_pair(ours, theirs)
        return (
            f"replay: no such request was recorded; against recorded call {number} the first difference is "
            f"at {where}: asked {ours}, recorded {theirs}"
        )


async def _replayed(call: RecordedCall) -> AsyncIterator[bytes]:
    async for chunk in call.body():
        yield chunk
    if call.ended == "dropped":
        raise StreamDropped("recorded so")


def _likeness(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> tuple[int, int]:
    """How much two requests share: messages from the start, then other values that are the same."""
    a, b = ours.get("messages"), theirs.get("messages")
    shared = 0
    if isinstance(a, list) and isinstance(b, list):
        for one, other in zip(a, b, strict=False):
            if one != other:
                break
            shared += 1
        shared = 2 * shared + (len(a) == len(b))
    same = sum(name in theirs and value == theirs[name] for name, value in ours.items() if name != "messages")
    return shared, same


def _shown_pair(ours: Any, theirs: Any) -> tuple[str, str]:
    """Both values in short; of two long texts the part where they begin to differ."""
    if isinstance(ours, str) and isinstance(theirs, str):
        same = next(
            (i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b),
            min(len(ours), len(theirs)),
        )
        start = max(0, same - 40)
        lead = "…" if start else ""
        return _clipped(repr(lead + ours[start:])), _clipped(repr(lead + theirs[start:]))
    return _clipped(repr(ours)), _clipped(repr(theirs))


def _clipped(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
