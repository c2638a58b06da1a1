"""The scripted model. It plays scripts and otherwise behaves like DeepSeek's API."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
import json
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from runner.json_values import JsonObject, as_object
from runner.relay.profiles import ModelProfile, profile_for
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
from runner.scripted.player import FilePlayer, PythonScript, no_script_error
from runner.scripted.prompt_cache import PrefixCache, Segment, head_segment, message_segment
from runner.scripted.reply import Envelope, Reply, json_body, output_tokens, stream_chunks, truncate
from runner.scripted.validation import check_length, check_request, thinking_enabled

KEEP_ALIVE = b": keep-alive\n\n"
# Counting up to this many characters of new text takes about 5 ms, so it stays on the event loop.
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
    """Plays the first script that matches a conversation.

    Args:
        scripts: Folders, files, loaded files and Python scripts.
        models: The models that exist. None means any.
        context_window, max_output_tokens: Replace the model's sizes, so that a test can fill a
            small window.
        clock: Seconds since the epoch, for the `created` of responses.

    Raises:
        ScriptError: A script file is invalid.
    """

    mode = "script"

    def __init__(
        self,
        scripts: Scripts | Sequence[Scripts],
        *,
        models: Sequence[str] | None = None,
        context_window: int | None = None,
        max_output_tokens: int | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._players: list[FilePlayer | PythonScript] = []
        for item in scripts if isinstance(scripts, Sequence) else [scripts]:
            if isinstance(item, Path):
                self._players += [FilePlayer(script) for script in load_scripts(item)]
            else:
                self._players.append(FilePlayer(item) if isinstance(item, ScriptFile) else item)
        # Scripts for any conversation come last, in whatever order they were named.
        self._players.sort(key=lambda player: isinstance(player, FilePlayer) and player.matches_any)
        self._models = models
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
        """The names of the scripts."""
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
        profile = self._profile(request.model)
        if self._models is not None and request.model not in self._models:
            raise ApiError(400, "Model Not Exist")
        _check_surrogates(request)
        check_request(payload, profile)
        segments, sizes = await self._measure(request)
        max_tokens = check_length(payload, profile, sum(sizes))
        reply = await self._reply(request)
        fault = reply.fault
        if fault is not None and fault.status is not None:
            return _error_response(fault, fault.status)
        if reply.delay_sec and not request.stream:
            await asyncio.sleep(reply.delay_sec)
        thinking = thinking_enabled(payload)
        if fault is not None and fault.empty:
            reply = replace(reply, reasoning="", content="", tool_calls=(), finish_reason="stop")
        elif not thinking:
            reply = replace(reply, reasoning="")
        reply = truncate(reply, max_tokens, self._counts)
        usage = self._usage(request, reply, segments, sizes) if reply.send_usage else None
        options = as_object(payload.get("stream_options"))
        envelope = Envelope(
            id=_response_id(request),
            created=int(self._clock()),
            model=request.model,
            with_usage=bool(options.get("include_usage")) and reply.send_usage,
        )
        if request.stream:
            return UpstreamResponse(200, dict(SSE_HEADERS), _stream(reply, envelope, usage, fault))
        body = json_body(reply, envelope, usage, thinking=thinking)
        return UpstreamResponse(200, dict(JSON_HEADERS), _whole(body, reply, fault))

    def _profile(self, model: str) -> ModelProfile:
        profile = profile_for(model)
        changes: dict[str, int] = {}
        if self._window is not None:
            changes["context_window"] = self._window
            changes["max_output_tokens"] = min(profile.max_output_tokens, self._window)
        if self._max_output is not None:
            changes["max_output_tokens"] = self._max_output
        return profile.model_copy(update=changes) if changes else profile

    async def _reply(self, request: ModelRequest) -> Reply:
        for player in self._players:
            if player.matches(request):
                reply = player.respond(request)
                return await reply if inspect.isawaitable(reply) else reply
        raise no_script_error(request, self.names)

    async def _measure(self, request: ModelRequest) -> tuple[list[Segment], list[int]]:
        """Return the prompt's segments and their tokens. Much new text is counted in a thread."""
        payload = request.payload
        reasoning = bool(payload.get("tools"))
        messages = request.messages
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
    ) -> dict[str, object]:
        """Return the usage of a call, and add its prompt and answer to the run's cache."""
        cache = self._caches.setdefault(request.run, PrefixCache())
        hit = cache.hit(segments, sizes, self._counts)
        answer = message_segment(reply.message(), reasoning=bool(request.payload.get("tools")))
        cache.add([*segments, answer])
        completion, reasoning = output_tokens(reply, self._counts)
        return _usage_document(
            prompt=sum(sizes),
            completion=completion,
            reasoning=reasoning,
            hit=hit,
            overrides=reply.usage or {},
        )


def _usage_document(
    *, prompt: int, completion: int, reasoning: int, hit: int, overrides: Mapping[str, int]
) -> dict[str, object]:
    """Return `usage` as the API sends it. Values that follow from an override are adapted."""
    prompt = overrides.get("prompt_tokens", prompt)
    completion = overrides.get("completion_tokens", completion)
    hit = overrides.get("prompt_cache_hit_tokens", hit)
    usage: dict[str, object] = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": overrides.get("total_tokens", prompt + completion),
        "prompt_tokens_details": {"cached_tokens": hit},
        "completion_tokens_details": {"reasoning_tokens": overrides.get("reasoning_tokens", reasoning)},
        "prompt_cache_hit_tokens": hit,
        "prompt_cache_miss_tokens": overrides.get("prompt_cache_miss_tokens", prompt - hit),
    }
    others = {name: value for name, value in overrides.items() if name != "reasoning_tokens"}
    return usage | {name: value for name, value in others.items() if name not in usage}


def _check_surrogates(request: ModelRequest) -> None:
    """Raise ApiError 400 for a lone surrogate. JSON can carry it, but the API refuses it."""
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


def _response_id(request: ModelRequest) -> str:
    digest = hashlib.sha256(request.run.encode() + request.body).hexdigest()
    return f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:32]}"


def _error_response(fault: Fault, status: int) -> UpstreamResponse:
    message = fault.message or _FAULT_MESSAGES.get(status, f"error {status}")
    error = ApiError(status, message, retry_after=fault.retry_after)
    body = error.body() if fault.body is None else fault.body.encode()
    return whole_response(status, error.headers(), body)


async def _stream(
    reply: Reply, envelope: Envelope, usage: JsonObject | None, fault: Fault | None
) -> AsyncGenerator[bytes]:
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
    for number, chunk in enumerate(stream_chunks(reply, envelope, usage)):
        if fault is not None and fault.drop_after == number:
            raise StreamDropped("a scripted fault")
        if fault is not None and fault.silence_after == number:
            await asyncio.sleep(fault.silence_sec)
        if number and reply.chunk_delay_sec:
            await asyncio.sleep(reply.chunk_delay_sec)
        yield chunk
    if fault is not None and fault.drop_after is not None:
        raise StreamDropped("a scripted fault")


async def _whole(body: bytes, reply: Reply, fault: Fault | None) -> AsyncGenerator[bytes]:
    if fault is not None and fault.empty in ("body", "done"):
        return
    if fault is not None and fault.silence_after is not None:
        await asyncio.sleep(fault.silence_sec)
    if fault is not None and fault.drop_after is not None:
        yield body[: len(body) // 2]
        raise StreamDropped("a scripted fault")
    for _ in range(reply.keep_alive):
        yield b"\n"  # the API sends empty lines to keep a connection without a stream alive
    yield body
