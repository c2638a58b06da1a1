"""The transport interface: the bytes of a request go in, chunks of a streamed answer come out.

There are two transports, on openai's client and on httpx alone for validators without openai. Both
send the same bytes to the same URL and raise the errors of `src.llm.errors`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Protocol, cast

from src.llm.errors import RetryableError, stream_error
from src.llm.usage import Usage
from src.text import Redactor

PATH = "/chat/completions"


@dataclass(frozen=True, slots=True)
class CallDelta:
    """A part of a tool call. `index` is the call's position in the answer, if it is known."""

    index: int | None
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """One event of a streamed answer. Fields that the event does not have are empty."""

    model: str = ""
    reasoning: str = ""
    content: str = ""
    calls: tuple[CallDelta, ...] = ()
    finish_reason: str = ""
    usage: Usage | None = None


class Transport(Protocol):
    """Sends requests and streams answers.

    Its read timeout (`Settings.stream_idle_sec`) ends a connection that sends no byte at all, not
    even a keep-alive comment. All other time limits are the caller's.
    """

    name: str

    def stream(self, body: bytes) -> AsyncGenerator[Chunk, None]:
        """Post the body and yield the chunks of the answer.

        Close the generator (`contextlib.aclosing`) unless it is read to its end.

        Raises:
            ModelError: RetryableError for load and network failures, other subclasses for refusals.
        """
        ...

    async def aclose(self) -> None:
        """Close the connections."""
        ...


def parse_chunk(data: object, redact: Redactor) -> Chunk:
    """Return the chunk in an event's JSON. Raises ModelError for an error event or no chunk."""
    if not isinstance(data, dict):
        raise RetryableError(f"the model's server sent {type(data).__name__} where a chunk belongs")
    event = cast("dict[str, Any]", data)
    if event.get("error"):
        raise stream_error(event["error"], redact)
    choice = _first(event.get("choices"))
    delta = _mapping(choice.get("delta"))
    calls = delta.get("tool_calls")
    return Chunk(
        model=_text(event.get("model")),
        reasoning=_text(delta.get("reasoning_content")),
        content=_text(delta.get("content")),
        calls=tuple(_call(call) for call in cast("list[Any]", calls)) if isinstance(calls, list) else (),
        finish_reason=_text(choice.get("finish_reason")),
        usage=Usage.from_api(event.get("usage")),
    )


def _call(value: object) -> CallDelta:
    call = _mapping(value)
    function = _mapping(call.get("function"))
    index = call.get("index")
    return CallDelta(
        index=index if isinstance(index, int) else None,
        id=_text(call.get("id")),
        name=_text(function.get("name")),
        arguments=_text(function.get("arguments")),
    )


def _first(value: object) -> dict[str, Any]:
    return _mapping(cast("list[Any]", value)[0]) if isinstance(value, list) and value else {}


def _mapping(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
