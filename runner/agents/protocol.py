"""The messages between the runner and an agent's process: JSON objects, one per line, both ways.

The runner sends the start (everything the run needs), then answers to calls, `{"type": "answer",
"id", "result"}` or `{…, "error": {type, message, errno}}`, and at the time limit `{"type":
"cancel"}`. The agent's process sends the models below: `Constructed`, `PhaseBegun` twice, after
these any number of `Call`, `Abandon` and `Figures`, and at the end `Done`.

The agent is not trusted. A line that is none of these messages ends the run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from runner.json_values import is_object
from runner.results import AgentContext


class ProtocolError(Exception):
    """The agent's process sent something that the protocol does not allow."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Constructed(_Message):
    """The agent is constructed. `info` is the result of its `to_agent_info()`, if it has one."""

    type: Literal["constructed"]
    name: str | None
    version: str | None
    info: dict[str, object] | None


class PhaseBegun(_Message):
    """The agent's `setup` or `run` is about to be called."""

    type: Literal["phase"]
    phase: Literal["setup", "execution"]


class Call(_Message):
    """The agent calls a method of its environment."""

    type: Literal["call"]
    id: int
    method: str
    params: dict[str, object]


class Abandon(_Message):
    """The agent no longer waits for this call."""

    type: Literal["abandon"]
    id: int


class Figures(_Message):
    """The agent's context has these values now."""

    type: Literal["figures"]
    figures: dict[str, object]


class Done(_Message):
    """The run has ended. `what` describes an invalid return value."""

    type: Literal["done"]
    end: Literal["returned", "invalid", "raised", "cancelled", "construction_failed"]
    message: str | None = None
    what: str | None = None
    exception_type: str | None = None
    exception_message: str | None = None
    traceback: str | None = None


Message = Annotated[Constructed | PhaseBegun | Call | Abandon | Figures | Done, Field(discriminator="type")]
_ADAPTER: TypeAdapter[Message] = TypeAdapter(Message)


def parse(line: bytes) -> Message:
    """Parse one line from the agent's process.

    Raises:
        ProtocolError: It is not one of the messages.
    """
    try:
        # Pydantic's own parser refuses lone surrogates. In a command they must fail that call only.
        return _ADAPTER.validate_python(json.loads(line))
    except (ValueError, RecursionError, ValidationError):
        shown = line[:60].decode("utf-8", "backslashreplace").strip()
        raise ProtocolError(f"it sent a line that is not a message: {shown!r}") from None


def encode(message: Mapping[str, object]) -> bytes:
    """Return the line of a message to the agent's process."""
    return json.dumps(message, separators=(",", ":")).encode("ascii") + b"\n"


def read_context(values: Mapping[str, object]) -> AgentContext:
    """Return the context that an agent claims. A value of the wrong type becomes None."""
    metadata = values.get("metadata")
    return AgentContext(
        n_input_tokens=_tokens(values.get("n_input_tokens")),
        n_cache_tokens=_tokens(values.get("n_cache_tokens")),
        n_output_tokens=_tokens(values.get("n_output_tokens")),
        cost_usd=_cost(values.get("cost_usd")),
        metadata=metadata if is_object(metadata) and metadata else None,
    )


def _tokens(value: object) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
        return None
    return value


def _cost(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        cost = float(value)
    except OverflowError:
        return None
    return cost if math.isfinite(cost) and cost >= 0 else None
