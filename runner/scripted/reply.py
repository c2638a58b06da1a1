"""Replies of the scripted model, and the bytes that DeepSeek's API would send for them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from runner.json_values import JsonObject
from runner.relay.profiles import chat_template
from runner.relay.tokens import TokenCounts
from runner.scripted.format import Answer, Fault

FINGERPRINT = "fp_capstan_scripted"


@dataclass(frozen=True, slots=True)
class ReplyCall:
    """A tool call. `arguments` is sent as it is, valid JSON or not."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply of the scripted model, from a Python script or from a turn of a script file.

    Attributes:
        usage: Values that replace the counted ones.
        send_usage: False leaves usage out even if the request asks for it.
        delay_sec: Seconds before the first chunk.
        chunk_delay_sec: Seconds before each further chunk.
        chunk_chars: Characters in a chunk.
        keep_alive: Keep-alive comments before the first chunk.
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
        """The finish reason that is sent."""
        return self.finish_reason or ("tool_calls" if self.tool_calls else "stop")

    def message(self) -> dict[str, object]:
        """Return the reply as an assistant message."""
        message: dict[str, object] = {
            "role": "assistant",
            "content": self.content,
            "reasoning_content": self.reasoning,
        }
        if self.tool_calls:
            message["tool_calls"] = [_call_payload(call) for call in self.tool_calls]
        return message


def reply_from(answer: Answer, *, call_prefix: str, fault: Fault | None = None) -> Reply:
    """Return the reply for a script file's answer. Its call ids are `<call_prefix>_<index>`."""
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


def _arguments(value: JsonObject | str) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def output_tokens(reply: Reply, counts: TokenCounts) -> tuple[int, int]:
    """Return a reply's completion tokens, and how many of them are reasoning."""
    reasoning = counts.text(reply.reasoning)
    overhead = chat_template().call_tokens
    calls = sum(overhead + counts.text(c.name) + counts.text(c.arguments) for c in reply.tool_calls)
    return reasoning + counts.text(reply.content) + calls + 1, reasoning


def truncate(reply: Reply, max_tokens: int, counts: TokenCounts) -> Reply:
    """Cut a reply at `max_tokens` like the API, even inside a call, with finish reason `length`."""
    if output_tokens(reply, counts)[0] <= max_tokens:
        return reply
    left = max(0, max_tokens - 1)
    reasoning, left = _truncate_text(reply.reasoning, left, counts)
    content, left = _truncate_text(reply.content, left, counts)
    calls: list[ReplyCall] = []
    for call in reply.tool_calls:
        left -= chat_template().call_tokens + counts.text(call.name)
        if left <= 0:
            break
        arguments, left = _truncate_text(call.arguments, left, counts)
        calls.append(replace(call, arguments=arguments))
    return replace(
        reply, reasoning=reasoning, content=content, tool_calls=tuple(calls), finish_reason="length"
    )


def _truncate_text(text: str, limit: int, counts: TokenCounts) -> tuple[str, int]:
    """Return the longest start of a text within a limit of tokens, and the rest of the limit."""
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
class Envelope:
    """The fields that all chunks of one response share."""

    id: str
    created: int
    model: str
    with_usage: bool

    def chunk(self, choices: Sequence[JsonObject], usage: JsonObject | None = None) -> bytes:
        """Return a server-sent event with these choices."""
        body: dict[str, object] = {
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

    def delta(self, delta: JsonObject, finish: str | None = None) -> bytes:
        """Return a server-sent event with one delta."""
        return self.chunk([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}])


def stream_chunks(reply: Reply, envelope: Envelope, usage: JsonObject | None) -> Iterator[bytes]:
    """Yield the events of a stream: role, reasoning, content, calls, finish, usage, [DONE]."""
    size = reply.chunk_chars
    yield envelope.delta({"role": "assistant", "content": None, "reasoning_content": ""})
    for piece in _split(reply.reasoning, size):
        yield envelope.delta({"content": None, "reasoning_content": piece})
    for piece in _split(reply.content, size):
        yield envelope.delta({"content": piece, "reasoning_content": None})
    for index, call in enumerate(reply.tool_calls):
        head = {"index": index, **_call_payload(replace(call, arguments=""))}
        yield envelope.delta({"tool_calls": [head]})
        for piece in _split(call.arguments, size):
            yield envelope.delta({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
    yield envelope.delta({"content": "", "reasoning_content": None}, reply.finish)
    if envelope.with_usage and usage is not None:
        yield envelope.chunk([], usage)
    yield b"data: [DONE]\n\n"


def json_body(reply: Reply, envelope: Envelope, usage: JsonObject | None, *, thinking: bool) -> bytes:
    """Return the body of a response to a request without `stream`."""
    message = reply.message()
    if not thinking:
        del message["reasoning_content"]
    body: dict[str, object] = {
        "id": envelope.id,
        "object": "chat.completion",
        "created": envelope.created,
        "model": envelope.model,
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": reply.finish}],
        "system_fingerprint": FINGERPRINT,
    }
    if usage is not None:
        body["usage"] = usage
    return json.dumps(body, ensure_ascii=False).encode()


def _call_payload(call: ReplyCall) -> dict[str, object]:
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}


def _split(text: str, size: int) -> Iterator[str]:
    for start in range(0, len(text), size):
        yield text[start : start + size]
