"""Writes `trajectory.json` during the run: valid after every step, and replaced atomically."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from src.llm import Completion, Usage
from src.text import Redactor
from src.trajectory.atif import (
    SCHEMA_VERSION,
    AgentInfo,
    FinalMetrics,
    Metrics,
    Observation,
    ObservationResult,
    Step,
    ToolCallRecord,
)

FILE_NAME = "trajectory.json"


class TrajectoryRecorder:
    """Collects steps and writes them to disk.

    Each step is serialised once, and a save joins the steps. If the folder cannot be written, the
    run continues without a trajectory: a lost record must not lose a solved task.
    """

    def __init__(self, logs_dir: Path | None, agent: AgentInfo, session_id: str, redact: Redactor) -> None:
        self._path = None if logs_dir is None else logs_dir / FILE_NAME
        self._agent = agent
        self._session_id = session_id
        self._redact = redact
        self._steps: list[str] = []
        self._totals = Usage()
        self._cost_usd = 0.0
        self._extra: dict[str, Any] = {}
        self._saving: asyncio.Task[None] | None = None
        self._stale = False
        self._writing = threading.Lock()
        self._written = 0

    def system(self, message: str, extra: dict[str, Any] | None = None) -> None:
        self._add(source="system", message=message, extra=extra)

    def user(self, message: str, extra: dict[str, Any] | None = None) -> None:
        self._add(source="user", message=message, extra=extra)

    def compaction(self, kind: str, before: int, after: int, text: str) -> None:
        """Record a rewrite of the history, in the form that readers of ATIF expect."""
        management = {
            "type": "compaction",
            "boundary": "replace",
            "strategy": kind,
            "tokens_before": before,
            "tokens_after": after,
        }
        self.system(text, {"context_management": management})

    def agent(
        self,
        completion: Completion,
        observations: Sequence[tuple[str, str]] = (),
        effort: str | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None:
        """Record one model call with its tool calls and their results, given as (call id, text)."""
        message = completion.message
        calls = [
            ToolCallRecord(tool_call_id=c.id, function_name=c.name, arguments=json.loads(c.arguments))
            for c in message.tool_calls
        ]
        results = [ObservationResult(source_call_id=id_, content=text) for id_, text in observations]
        self.add_usage(completion.usage, completion.cost_usd)
        self._add(
            source="agent",
            message=message.content,
            model_name=completion.model,
            reasoning_effort=effort,
            reasoning_content=message.reasoning or None,
            tool_calls=calls or None,
            observation=Observation(results=results) if results else None,
            metrics=_metrics(completion),
            llm_call_count=1,
            extra={"finish_reason": completion.finish_reason, **(extra or {})},
        )

    def add_usage(self, usage: Usage, cost_usd: float) -> None:
        """Add a call to the totals. Use it for calls that are not a step, such as a summary."""
        self._totals = self._totals + usage
        self._cost_usd += cost_usd

    def finish(self, **extra: Any) -> None:
        """Add facts about the whole run to the final metrics, such as its end reason."""
        self._extra.update(extra)

    def _document(self, steps: Sequence[str], final: str) -> str:
        head = json.dumps({"schema_version": SCHEMA_VERSION, "session_id": self._session_id})[:-1]
        agent = self._redact(self._agent.to_json())
        joined = ",\n".join(steps)
        return f'{head}, "agent": {agent}, "steps": [\n{joined}\n], "final_metrics": {final}}}\n'

    def _final(self) -> str:
        metrics = FinalMetrics(
            total_prompt_tokens=self._totals.prompt_tokens,
            total_completion_tokens=self._totals.completion_tokens,
            total_cached_tokens=self._totals.cache_hit_tokens,
            total_cost_usd=self._cost_usd,
            total_steps=len(self._steps),
            extra=self._extra or None,
        )
        return self._redact(metrics.to_json())

    def save_soon(self) -> None:
        """Write the file in a thread. Steps recorded during a save are in the next one."""
        self._stale = True
        if self._saving is None or self._saving.done():
            self._saving = asyncio.create_task(self._save_while_stale())

    async def save(self) -> None:
        """Write the file and wait until it is on disk. Errors of the disk are ignored."""
        self.save_soon()
        assert self._saving is not None
        await self._saving

    def save_now(self) -> None:
        """Write the file without a thread, for the end of a cancelled run."""
        self._stale = False
        self._write(self._steps, self._final())

    async def _save_while_stale(self) -> None:
        while self._stale:
            self._stale = False
            # The state is copied here, so that the file is consistent; the thread formats and
            # writes it.
            await asyncio.to_thread(self._write, self._steps[:], self._final())

    def _write(self, steps: Sequence[str], final: str) -> None:
        if self._path is None or not steps:
            return
        part = self._path.with_name(f".{FILE_NAME}.part")
        with self._writing, contextlib.suppress(OSError):
            if len(steps) < self._written:  # a late thread
                return
            part.write_text(self._document(steps, final), encoding="utf-8", errors="replace")
            os.replace(part, self._path)  # noqa: PTH105 - one call for Windows and POSIX alike
            self._written = len(steps)

    def _add(self, **fields: Any) -> None:
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        step = Step(step_id=len(self._steps) + 1, timestamp=stamp, **fields)
        self._steps.append(self._redact(step.to_json()))


def _metrics(completion: Completion) -> Metrics:
    usage = completion.usage
    extra: dict[str, Any] = {"reasoning_tokens": usage.reasoning_tokens}
    if usage.estimated:
        extra["estimated"] = True
    return Metrics(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=usage.cache_hit_tokens,
        cost_usd=completion.cost_usd,
        extra=extra,
    )
