"""The scripted model: plays scripts, and for the rest behaves as DeepSeek's API does."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from runner.relay.prices import ModelCard, PriceTable, default_prices
from runner.relay.tokens import TokenCounts
from runner.relay.upstream import Upstream
from runner.relay.wire import (
    JSON_HEADERS,
    SSE_HEADERS,
    ApiError,
    ModelRequest,
    StreamDropped,
    UpstreamResponse,
    whole_response,
)
from runner.scripted.format import Fault, ScriptFile, load_scripts
from runner.scripted.player import FilePlayer, PythonScript, no_script
from runner.scripted.prompt_cache import PrefixCache, Segment, head_segment, message_segment
from runner.scripted.reply import Frame, Reply, fitted, output_tokens, stream_chunks, whole_body
from runner.scripted.validation import check_length, check_request, thinking_enabled

KEEP_ALIVE = b": keep-alive\n\n"
# Below this many characters of new text a count takes under some 5 ms and stays on the loop.
_COUNT_INLINE = 4_000

Scripts = Path | ScriptFile | PythonScript

_FAULT_MESSAGES = {
    401: "Authentication Fails, Your api key is invalid",
    402: "Insufficient Balance",
    404: "Not Found",
    422: "Invalid Parameters",
    429: "Rate limit reached for requests",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service is too busy. Please retry your request after a brief wait.",
    504: "Gateway Timeout",
}


class ScriptUpstream(Upstream):
    """Plays scripts (folders, files, loaded files, Python scripts; the first that matches is played).

    `models` limits the names that exist (else any); `context_window` and `max_output_tokens` replace the
    sizes of the price table, so that a test can fill a small window. Raises ScriptError for a broken file.
    """

    mode = "script"

    def __init__(
        self,
        scripts: Scripts | Sequence[Scripts],
        *,
        models: Sequence[str] | None = None,
        prices: PriceTable | None = None,
        context_window: int | None = None,
        max_output_tokens: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        given = [scripts] if not isinstance(scripts, Sequence) else list(scripts)
        self._players: list[FilePlayer | PythonScript] = []
        for item in given:
            if isinstance(item, Path):
                self._players += [FilePlayer(script) for script in load_scripts(item)]
            else:
                self._players.append(FilePlayer(item) if isinstance(item, ScriptFile) else item)
        # Scripts for any conversation stand in for what nothing else matches, wherever they were named.
        self._players.sort(key=_is_default)
        self._models = models
        self._prices = prices or default_prices()
        self._window = context_window
        self._max_output = max_output_tokens
        self._clock = clock
        self._counts = TokenCounts()
        self._caches: dict[str, PrefixCache] = {}

    @property
    def scripted(self) -> bool:
        return True

    @property
    def names(self) -> list[str]:
        return [_name(player) for player in self._players]

    def describe(self) -> str:
        return f"scripted model, not a real one ({len(self._players)} scripts: {', '.join(self.names)})"

    def forget(self, run: str) -> None:
        self._caches.pop(run, None)
        for player in self._players:
            if isinstance(player, FilePlayer):
                player.forget(run)

    async def send(self, request: ModelRequest) -> UpstreamResponse:
        payload = request.payload
        card = self._card(request.model)
        if self._models is not None and request.model not in self._models:
            raise ApiError(400, "Model Not Exist")
        _check_text(request)
        check_request(payload, card)
        segments, sizes = await self._measure(payload)
        prompt_tokens = sum(sizes)
        budget = check_length(payload, card, prompt_tokens)
        reply = await self._reply(request)
        fault = reply.fault
        if fault is not None and fault.status is not None:
            return _error_response(fault, fault.status)
        if reply.delay_sec and not request.stream:
            await asyncio.sleep(reply.delay_sec)
        thinking = thinking_enabled(payload)
        if not thinking or (fault is not None and fault.empty):
            reply = _without(reply, empty=fault is not None and bool(fault.empty))
        reply = fitted(reply, budget, self._counts)
        usage = self._usage(request, reply, segments, sizes) if reply.send_usage else None
        options = payload.get("stream_options") or {}
        frame = Frame(
            id=_answer_id(request),
            created=int(self._clock()),
            model=request.model,
            with_usage=bool(options.get("include_usage")) and reply.send_usage,
        )
        if request.stream:
            return UpstreamResponse(200, dict(SSE_HEADERS), _stream(reply, frame, usage, fault))
        body = whole_body(reply, frame, usage, thinking=thinking)
        return UpstreamResponse(200, dict(JSON_HEADERS), _whole(body, reply, fault))

    def _card(self, model: str) -> ModelCard:
        card = self._prices.card(model)
        changes: dict[str, Any] = {}
        if self._window is not None:
            changes["context_window"] = self._window
            changes["max_output_tokens"] = min(card.max_output_tokens, self._window)
        if self._max_output is not None:
            changes["max_output_tokens"] = self._max_output
        return card.model_copy(update=changes) if changes else card

    async def _reply(self, request: ModelRequest) -> Reply:
        for player in self._players:
            if player.matches(request):
                reply = player.respond(request)
                return await reply if inspect.isawaitable(reply) else reply
        raise no_script(request, self.names)

    async def _measure(self, payload: Mapping[str, Any]) -> tuple[list[Segment], list[int]]:
        """The prompt's segments and their sizes in tokens; new text is counted off the event loop."""
        reasoning = bool(payload.get("tools"))
        messages: list[Mapping[str, Any]] = payload["messages"]
        segments = [head_segment(payload)]
        segments += [message_segment(message, reasoning=reasoning) for message in messages]

        def sizes() -> list[int]:
            counted = [self._counts.message(message, reasoning=reasoning) for message in messages]
            return [1 + self._counts.tools(payload), *counted]

        if self._counts.unknown(payload) > _COUNT_INLINE:
            return segments, await asyncio.to_thread(sizes)
        return segments, sizes()

    def _usage(
        self, request: ModelRequest, reply: Reply, segments: list[Segment], sizes: list[int]
    ) -> dict[str, Any]:
        cache = self._caches.setdefault(request.run, PrefixCache())
        prompt = sum(sizes)
        hit = cache.hit(segments, sizes, self._counts)
        answer = message_segment(reply.message(), reasoning=bool(request.payload.get("tools")))
        cache.add([*segments, answer])
        completion, reasoning = output_tokens(reply, self._counts)
        usage: dict[str, Any] = {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": hit},
            "completion_tokens_details": {"reasoning_tokens": reasoning},
            "prompt_cache_hit_tokens": hit,
            "prompt_cache_miss_tokens": prompt - hit,
        }
        return _with_overrides(usage, reply.usage or {})


def _check_text(request: ModelRequest) -> None:
    """Half of a surrogate pair can be written in JSON, but is no text: the API's parser refuses it."""
    if b"\\ud" not in request.body.lower():
        return
    try:
        json.dumps(request.payload, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        message = "Failed to parse the request body as JSON: lone leading surrogate in hex escape"
        raise ApiError(400, message) from None


def _name(player: FilePlayer | PythonScript) -> str:
    if isinstance(player, FilePlayer):
        return player.script.name
    return str(getattr(player, "name", type(player).__name__))


def _is_default(player: FilePlayer | PythonScript) -> bool:
    return (
        isinstance(player, FilePlayer) and player.script.match is None and player.script.match_regex is None
    )


def _without(reply: Reply, *, empty: bool) -> Reply:
    """The reply as a model that does not think gives it, or with nothing in it."""
    if empty:
        return replace(reply, reasoning="", content="", tool_calls=(), finish_reason="stop")
    return replace(reply, reasoning="")


def _with_overrides(usage: dict[str, Any], changes: Mapping[str, int]) -> dict[str, Any]:
    usage.update(changes)
    if "reasoning_tokens" in changes:
        usage["completion_tokens_details"] = {"reasoning_tokens": usage.pop("reasoning_tokens")}
    if changes:
        usage.setdefault("total_tokens", usage["prompt_tokens"] + usage["completion_tokens"])
        usage["prompt_tokens_details"] = {"cached_tokens": usage["prompt_cache_hit_tokens"]}
        if "prompt_cache_miss_tokens" not in changes:
            usage["prompt_cache_miss_tokens"] = usage["prompt_tokens"] - usage["prompt_cache_hit_tokens"]
        if "total_tokens" not in changes:
            usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]
    return usage


def _answer_id(request: ModelRequest) -> str:
    digest = hashlib.sha256(request.run.encode() + request.body).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:32]}"


def _error_response(fault: Fault, status: int) -> UpstreamResponse:
    message = fault.message or _FAULT_MESSAGES.get(status, f"error {status}")
    error = ApiError(status, message, retry_after=fault.retry_after)
    body = error.body() if fault.body is None else fault.body.encode()
    return whole_response(status, error.headers(), body)


async def _stream(
    reply: Reply, frame: Frame, usage: Mapping[str, Any] | None, fault: Fault | None
) -> AsyncIterator[bytes]:
    pause = reply.delay_sec / (reply.keep_alive + 1)
    for _ in range(reply.keep_alive):
        yield KEEP_ALIVE
        await asyncio.sleep(pause)
    if pause:
        await asyncio.sleep(pause)
    if fault is not None and fault.empty in ("body", "done"):
        if fault.empty == "done":
            yield b"data: [DONE]\n\n"
        return
    for number, chunk in enumerate(stream_chunks(reply, frame, usage)):
        if fault is not None and fault.drop_after == number:
            raise StreamDropped("a scripted fault")
        if fault is not None and fault.silence_after == number:
            await asyncio.sleep(fault.silence_sec)
        if number and reply.chunk_delay_sec:
            await asyncio.sleep(reply.chunk_delay_sec)
        yield chunk
    if fault is not None and fault.drop_after is not None:
        raise StreamDropped("a scripted fault")


async def _whole(body: bytes, reply: Reply, fault: Fault | None) -> AsyncIterator[bytes]:
    if fault is not None and fault.empty in ("body", "done"):
        return
    if fault is not None and fault.silence_after is not None:
        await asyncio.sleep(fault.silence_sec)
    if fault is not None and fault.drop_after is not None:
        yield body[: len(body) // 2]
        raise StreamDropped("a scripted fault")
    for _ in range(reply.keep_alive):
        yield b"\n"  # the API keeps a connection without a stream alive with empty lines
    yield body
