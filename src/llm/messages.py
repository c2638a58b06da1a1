"""Typed chat messages, and the append-only conversation that they form.

A message is serialised once, when it is created, and every later request sends those bytes. The
provider's prefix cache hits only on exact prefixes, so nothing is ever serialised again. Pruning
and summarising are the only rewrites. They make a new conversation, in which every unchanged
message keeps its bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]


def canonical_json(value: Any) -> bytes:
    """Return compact UTF-8 JSON in insertion order, with lone surrogates replaced by `?`."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", errors="replace")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One tool call of the model.

    `arguments` is always the text of a valid JSON object, even if the model sent something else:
    the provider refuses a history with invalid arguments. `problem` then describes the error, and
    the registry answers the call with it instead of running the tool. It is None for valid
    arguments.
    """

    id: str
    name: str
    arguments: str
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class Image:
    """An image for a model with vision: its media type (`image/png`) and its bytes in base64."""

    media_type: str
    data_base64: str

    @property
    def data_url(self) -> str:
        return f"data:{self.media_type};base64,{self.data_base64}"


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    Create it with the functions below, which keep the provider's rules.
    `reasoning` is None for every role but the assistant's. It is `""` in assistant messages that
    did not come from the model (docs/contract.md, DeepSeek's API). `wire` is the message as JSON.
    """

    role: Role
    content: str
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    images: tuple[Image, ...] = ()
    wire: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "wire", canonical_json(self._payload()))

    def _payload(self) -> dict[str, Any]:
        payload: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.images:
            parts: list[dict[str, Any]] = [{"type": "text", "text": self.content}]
            parts += [{"type": "image_url", "image_url": {"url": image.data_url}} for image in self.images]
            payload["content"] = parts
        if self.role == "assistant":
            payload["reasoning_content"] = self.reasoning or ""
        if self.tool_calls:
            payload["tool_calls"] = [
                {"id": c.id, "type": "function", "function": {"name": c.name, "arguments": c.arguments}}
                for c in self.tool_calls
            ]
        if self.tool_call_id is not None:
            payload["tool_call_id"] = self.tool_call_id
        return payload


def system(content: str) -> Message:
    return Message("system", content)


def user(content: str, images: Sequence[Image] = ()) -> Message:
    return Message("user", content, images=tuple(images))


def assistant(content: str, reasoning: str = "", tool_calls: Sequence[ToolCall] = ()) -> Message:
    return Message("assistant", content, reasoning=reasoning, tool_calls=tuple(tool_calls))


def tool(call_id: str, content: str) -> Message:
    return Message("tool", content, tool_call_id=call_id)


class PairingError(ValueError):
    """A conversation would break the rule of one tool message for each call, directly after it."""


class Conversation:
    """The history of a run: append-only, with every tool call answered directly after it.

    `append` checks the pairing of calls and tool messages. Only the last assistant message may have
    unanswered calls; `request_ready` is whether the conversation can be sent.
    """

    def __init__(self, messages: Iterable[Message] = ()) -> None:
        self._messages: list[Message] = []
        self._unanswered: list[str] = []
        for message in messages:
            self.append(message)

    def append(self, message: Message) -> None:
        """Add one message. Raise PairingError if it breaks the pairing of calls and answers."""
        if message.role == "tool":
            if message.tool_call_id not in self._unanswered:
                raise PairingError(f"a tool message answers no open call: {message.tool_call_id!r}")
            self._unanswered.remove(message.tool_call_id)
        elif self._unanswered:
            raise PairingError(f"{message.role} message before the answers to {self._unanswered}")
        if message.tool_calls:
            ids = [call.id for call in message.tool_calls]
            if len(set(ids)) != len(ids):
                raise PairingError(f"call ids repeat: {ids}")
            self._unanswered = ids
        self._messages.append(message)

    @property
    def messages(self) -> tuple[Message, ...]:
        return tuple(self._messages)

    @property
    def request_ready(self) -> bool:
        return bool(self._messages) and not self._unanswered

    def wire(self) -> bytes:
        """Return the `messages` array of a request body, joined from the bytes of each message."""
        return b"[" + b",".join(message.wire for message in self._messages) + b"]"

    def __len__(self) -> int:
        return len(self._messages)

    def __iter__(self) -> Iterator[Message]:
        return iter(self._messages)

    def __getitem__(self, index: int) -> Message:
        return self._messages[index]
