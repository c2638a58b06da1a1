"""One answer of the scripted model, and the bytes that DeepSeek's API would send for it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from runner.relay.tokens import CALL_OVERHEAD, TokenCounts
from runner.scripted.format import Answer, Fault

FINGERPRINT = "fp_capstan_scripted"


@dataclass(frozen=True, slots=True)
class ReplyCall:
    """A tool call: `arguments` is the string that goes over the wire, valid JSON or not."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Reply:
    """What the scripted model answers. A Python script returns these; a script file's turns become them.

    `usage` holds fields that replace the counted ones; `send_usage` False leaves usage out whatever was
    asked. Times are seconds.
    """

    reasoning: str = ""
    content: str = ""
    tool_calls: tuple[ReplyCall, ...] = ()
    finish_reason: str | None = None
    usage: Mapping[str, int] | None = None
    send_usage: bool = True
    delay_sec: float = 0.0
    chunk_delay_sec: float = 0.0
    chunk_chars: int = 24
    keep_alive: int = 0
    fault: Fault | None = None

    @property
    def finish(self) -> str:
        return self.finish_reason or ("tool_calls" if self.tool_calls else "stop")

    def message(self) -> dict[str, Any]:
        """The assistant message that this reply is, as a client sends it back."""
        message: dict[str, Any] = {
            "role": "assistant",
            "content": self.content,
            "reasoning_content": self.reasoning,
        }
        if self.tool_calls:
            message["tool_calls"] = [_call_payload(call) for call in self.tool_calls]
        return message


def reply_from(answer: Answer, *, call_prefix: str, fault: Fault | None = None) -> Reply:
    """A script file's answer as a reply; call ids are `<call_prefix>_<index>`."""
    calls = tuple(
        ReplyCall(f"{call_prefix}_{index}", call.name, _arguments(call.arguments))
        for index, call in enumerate(answer.tool_calls)
    )
    return Reply(
        reasoning=answer.reasoning,
        content=answer.content,
        tool_calls=calls,
        finish_reason=answer.finish_reason,
        usage=answer.usage or None,
        send_usage=answer.usage is not False,
        delay_sec=answer.delay_sec,
        chunk_delay_sec=answer.chunk_delay_sec,
        chunk_chars=answer.chunk_chars,
        keep_alive=answer.keep_alive,
        fault=fault,
    )


def _arguments(value: dict[str, Any] | str) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def output_tokens(reply: Reply, counts: TokenCounts) -> tuple[int, int]:
    """(completion tokens, reasoning tokens among them) that a reply takes."""
    reasoning = counts.text(reply.reasoning)
    calls = sum(CALL_OVERHEAD + counts.text(c.name) + counts.text(c.arguments) for c in reply.tool_calls)
    return reasoning + counts.text(reply.content) + calls + 1, reasoning


def fitted(reply: Reply, max_tokens: int | None, counts: TokenCounts) -> Reply:
    """The reply cut where max_tokens ends it, as the API does: finish_reason `length`, amid a call too."""
    if max_tokens is None or output_tokens(reply, counts)[0] <= max_tokens:
        return reply
    left = max(0, max_tokens - 1)
    reasoning, left = _clipped(reply.reasoning, left, counts)
    content, left = _clipped(reply.content, left, counts)
    calls: list[ReplyCall] = []
    for call in reply.tool_calls:
        left -= CALL_OVERHEAD + counts.text(call.name)
        if left <= 0:
            break
        arguments, left = _clipped(call.arguments, left, counts)
        calls.append(replace(call, arguments=arguments))
    return replace(
        reply, reasoning=reasoning, content=content, tool_calls=tuple(calls), finish_reason="length"
    )


def _clipped(text: str, limit: int, counts: TokenCounts) -> tuple[str, int]:
    """The longest start of a text within a limit of tokens, and what is left of the limit."""
    used = counts.text(text)
    if used <= limit:
        return text, limit - used
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        if counts.text(text[:middle]) <= limit:
            low = middle
        else:
            high = middle - 1
    return text[:low], 0


@dataclass(frozen=True, slots=True)
class Frame:
    """What all chunks of one answer share."""

    id: str
    created: int
    model: str
    with_usage: bool

    def chunk(self, choices: list[dict[str, Any]], usage: Mapping[str, Any] | None = None) -> bytes:
        body: dict[str, Any] = {
            "id": self.id,
            "object": "chat.completion.chunk",
            "created": self.created,
            "model": self.model,
            "system_fingerprint": FINGERPRINT,
            "choices": choices,
        }
        if self.with_usage:
            body["usage"] = usage
        return b"data: " + json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"

    def delta(self, delta: dict[str, Any], finish: str | None = None) -> bytes:
        return self.chunk([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}])


def stream_chunks(reply: Reply, frame: Frame, usage: Mapping[str, Any] | None) -> Iterator[bytes]:
    """The answer as server-sent events: role, reasoning, content, calls, finish, usage, [DONE]."""
    size = reply.chunk_chars
    yield frame.delta({"role": "assistant", "content": None, "reasoning_content": ""})
    for piece in _split(reply.reasoning, size):
        yield frame.delta({"content": None, "reasoning_content": piece})
    for piece in _split(reply.content, size):
        yield frame.delta({"content": piece, "reasoning_content": None})
    for index, call in enumerate(reply.tool_calls):
        head = {"index": index, **_call_payload(replace(call, arguments=""))}
        yield frame.delta({"tool_calls": [head]})
        for piece in _split(call.arguments, size):
            yield frame.delta({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    yield frame.delta({"content": "", "reasoning_content": None}, reply.finish)
    if frame.with_usage and usage is not None:
        yield frame.chunk([], usage)
    yield b"data: [DONE]\n\n"


def whole_body(reply: Reply, frame: Frame, usage: Mapping[str, Any] | None, *, thinking: bool) -> bytes:
    """The answer as one object, for a request without `stream`."""
    message = reply.message()
    if not thinking:
        del message["reasoning_content"]
    body: dict[str, Any] = {
        "id": frame.id,
        "object": "chat.completion",
        "created": frame.created,
        "model": frame.model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reply.finish}],
        "system_fingerprint": FINGERPRINT,
    }
    if usage is not None:
        body["usage"] = usage
    return json.dumps(body, ensure_ascii=False).encode()


def _call_payload(call: ReplyCall) -> dict[str, Any]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _split(text: str, size: int) -> Iterator[str]:
    for start in range(0, len(text), size):
        yield text[start : start + size]
