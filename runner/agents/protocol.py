"""The messages between the runner and an agent's process: one JSON object a line, in both directions.

To the agent: the start (what to run, and with what), then answers ``{"type": "answer", "id", "result"}`` or
``{…, "error": {type, message, errno}}``, and at the clock ``{"type": "cancel"}``. From the agent: the models
below, in this order: `Constructed`, `PhaseBegun` twice, and after them any number of `Call`, `Abandon` and
`Figures`; last `Done`.

What comes from the agent is not to be trusted: a line that is none of these ends the run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from runner.agents.outcome import AgentContextFigures

__all__ = [
    "Abandon",
    "Call",
    "Constructed",
    "Done",
    "Figures",
    "Message",
    "PhaseBegun",
    "ProtocolError",
    "encode",
    "parse",
    "to_figures",
]


class ProtocolError(Exception):
    """The agent's process said something that it may not say."""


class _Message(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Constructed(_Message):
    type: Literal["constructed"]
    name: str | None
    version: str | None
    info: dict[str, Any] | None


class PhaseBegun(_Message):
    type: Literal["phase"]
    phase: Literal["setup", "execution"]


class Call(_Message):
    type: Literal["call"]
    id: int
    method: str
    params: dict[str, Any]


class Abandon(_Message):
    """The agent waits for this call no more."""

    type: Literal["abandon"]
    id: int


class Figures(_Message):
    type: Literal["figures"]
    figures: dict[str, Any]


class Done(_Message):
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
    """Raises ProtocolError."""
    try:
        # Not pydantic's own parser: a lone surrogate in a command is that call's fault, not the protocol's.
        return _ADAPTER.validate_python(json.loads(line))
    except (ValueError, RecursionError, ValidationError):
        shown = line[:60].decode("utf-8", "backslashreplace").strip()
        raise ProtocolError(f"it wrote what is no message into its channel: {shown!r}") from None


def encode(message: Mapping[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode("ascii") + b"\n"


def to_figures(claimed: Mapping[str, Any]) -> AgentContextFigures:
    """The figures that are of the right kind; None for any other."""
    return AgentContextFigures(
        n_input_tokens=_count(claimed.get("n_input_tokens")),
        n_cache_tokens=_count(claimed.get("n_cache_tokens")),
        n_output_tokens=_count(claimed.get("n_output_tokens")),
        cost_usd=_amount(claimed.get("cost_usd")),
        model_usage=_table(claimed.get("model_usage")),
        rollout_details=d if isinstance(d := claimed.get("rollout_details"), list) else None,
        metadata=_table(claimed.get("metadata")),
    )


def _count(value: object) -> int | None:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**53:
        return None
    return value


def _amount(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        amount = float(value)
    except OverflowError:
        return None
    return amount if math.isfinite(amount) and amount >= 0 else None


def _table(value: object) -> dict[str, Any] | None:
    return value if isinstance(value, dict) else None
