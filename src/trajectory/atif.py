"""Models of ATIF v1.8, Harbor's trajectory format (docs/contract.md, Results).

Only the parts that this agent writes are here. Harbor refuses unknown keys, and absent values are
left out.
"""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

SCHEMA_VERSION = "ATIF-v1.8"


class AtifModel(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    def to_json(self) -> str:
        """Return JSON without absent values, with lone surrogates replaced by `?`."""
        text = json.dumps(self.model_dump(exclude_none=True), ensure_ascii=False)
        return text.encode("utf-8", errors="replace").decode("utf-8")


class AgentInfo(AtifModel):
    name: str
    version: str
    model_name: str | None = None
    tool_definitions: list[dict[str, Any]] | None = None
    extra: dict[str, Any] | None = None


class ToolCallRecord(AtifModel):
    tool_call_id: str
    function_name: str
    arguments: dict[str, Any]


class ObservationResult(AtifModel):
    source_call_id: str | None = None
    content: str | None = None
    extra: dict[str, Any] | None = None


class Observation(AtifModel):
    results: list[ObservationResult]


class Metrics(AtifModel):
    """Tokens of one call; `prompt_tokens` includes the cached ones. Cost in US dollars."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    cost_usd: float
    extra: dict[str, Any] | None = None


class Step(AtifModel):
    """One step. Only agent steps have a model, reasoning, calls and metrics."""

    step_id: int
    timestamp: str
    source: Literal["system", "user", "agent"]
    model_name: str | None = None
    reasoning_effort: str | None = None
    message: str
    reasoning_content: str | None = None
    tool_calls: list[ToolCallRecord] | None = None
    observation: Observation | None = None
    metrics: Metrics | None = None
    llm_call_count: int | None = None
    extra: dict[str, Any] | None = None


class FinalMetrics(AtifModel):
    total_prompt_tokens: int
    total_completion_tokens: int
    total_cached_tokens: int
    total_cost_usd: float
    total_steps: int
    extra: dict[str, Any] | None = None
