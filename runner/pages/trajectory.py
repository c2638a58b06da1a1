"""Reading the trajectory (ATIF) of any agent. Missing and wrong parts are skipped."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runner.json_values import JsonObject, as_object, is_list, is_object, objects_in
from runner.pages.text import Excerpt, excerpt
from runner.results import regular_file_inside

MAX_BYTES = 64 * 2**20

CompactionKind = Literal["pruned", "summarised", "trimmed", "compacted"]
# By a part of the strategy's name.
_COMPACTION_KINDS: tuple[tuple[str, CompactionKind], ...] = (
    ("prun", "pruned"),
    ("clear", "pruned"),
    ("summar", "summarised"),
    ("trim", "trimmed"),
)


@dataclass(frozen=True)
class PageLimits:
    """The characters of a text and the steps, half of them from each end, that are shown."""

    text: int = 20_000
    steps: int = 2_000


@dataclass(frozen=True)
class ToolCall:
    """A tool call and its output."""

    name: str
    arguments: Excerpt
    output: Excerpt


@dataclass(frozen=True)
class Compaction:
    """A rewrite of the history, with the tokens before and after it if the agent states them."""

    kind: CompactionKind
    tokens_before: int | None = None
    tokens_after: int | None = None


@dataclass(frozen=True)
class Step:
    """One step, with the tokens and US dollars of its call. Prompt tokens include cached ones."""

    number: int
    source: str
    message: Excerpt
    reasoning: Excerpt
    calls: tuple[ToolCall, ...] = ()
    observations: tuple[Excerpt, ...] = ()
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    cost_usd: float | None = None
    time: str = ""
    compaction: Compaction | None = None


@dataclass(frozen=True)
class Trajectory:
    """The steps to show.

    Attributes:
        n_steps: The number of steps before some were left out.
        left_out: Steps that are missing in the middle.
        problem: Why there are no steps.
        context: The prompt tokens of each model call, by step number.
        compactions: The rewrites of the history, by step number.
        fingerprints: A text for each step that says what was done in it. Two runs differ where
            these do.
    """

    steps: tuple[Step, ...] = ()
    n_steps: int = 0
    left_out: int = 0
    problem: str | None = None
    context: tuple[tuple[int, int], ...] = ()
    compactions: tuple[tuple[int, Compaction], ...] = ()
    fingerprints: tuple[str, ...] = ()


class NoTrajectory(Exception):
    """A trial has no trajectory that can be shown. The message is a sentence for people."""


def read_steps(trial: Path) -> list[JsonObject]:
    """Return the steps of the trial in this folder as they were written. Raises NoTrajectory."""
    path = regular_file_inside(trial, "agent/trajectory.json")
    if path is None:
        raise NoTrajectory("This agent wrote no trajectory.")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise NoTrajectory(f"The trajectory is larger than {MAX_BYTES >> 20} MiB and is not shown.")
        document: object = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        document = None
    if not is_object(document) or "steps" not in document:
        raise NoTrajectory("The trajectory cannot be read: it is not an ATIF document.")
    return objects_in(document["steps"])


def read_trajectory(trial: Path, limits: PageLimits = PageLimits()) -> Trajectory:
    """Read the trajectory of the trial in this folder. Never raises for what an agent wrote."""
    try:
        all_steps = list(enumerate(read_steps(trial), 1))
    except NoTrajectory as error:
        return Trajectory(problem=str(error))
    half = limits.steps // 2
    cut = len(all_steps) > limits.steps
    shown = all_steps[:half] + all_steps[len(all_steps) - half :] if cut else all_steps
    sizes = [(number, _count(_metrics(step), "prompt_tokens")) for number, step in all_steps]
    compactions = [(number, _compaction(step)) for number, step in all_steps]
    return Trajectory(
        steps=tuple(_step(number, step, limits.text) for number, step in shown),
        n_steps=len(all_steps),
        left_out=len(all_steps) - len(shown),
        context=tuple((number, size) for number, size in sizes if size),
        compactions=tuple((number, compaction) for number, compaction in compactions if compaction),
        fingerprints=tuple(_fingerprint(step) for _, step in all_steps),
    )


def first_different_step(first: Sequence[str], second: Sequence[str]) -> int | None:
    """Return the number of the first step whose fingerprints differ, or None."""
    for number, (left, right) in enumerate(zip(first, second, strict=False), 1):
        if left != right:
            return number
    return None if len(first) == len(second) else min(len(first), len(second)) + 1


def _step(number: int, raw: JsonObject, limit: int) -> Step:
    results = [
        (result.get("source_call_id"), content_text(result.get("content")))
        for result in objects_in(as_object(raw.get("observation")).get("results"))
    ]
    calls: list[ToolCall] = []
    for call in objects_in(raw.get("tool_calls")):
        output = next((pair for pair in results if pair[0] == call.get("tool_call_id")), None)
        if output is not None:
            results.remove(output)
        calls.append(
            ToolCall(
                name=excerpt(content_text(call.get("function_name")) or "?", 100).head,
                arguments=excerpt(_arguments(call.get("arguments")), limit),
                output=excerpt(output[1] if output else "", limit),
            )
        )
    metrics = _metrics(raw)
    return Step(
        number=number,
        source=excerpt(content_text(raw.get("source")) or "agent", 20).head,
        message=excerpt(content_text(raw.get("message")), limit),
        reasoning=excerpt(content_text(raw.get("reasoning_content")), limit),
        calls=tuple(calls),
        observations=tuple(excerpt(text, limit) for _, text in results if text),
        prompt_tokens=_count(metrics, "prompt_tokens"),
        cached_tokens=_count(metrics, "cached_tokens"),
        completion_tokens=_count(metrics, "completion_tokens"),
        cost_usd=_number(metrics.get("cost_usd")),
        time=excerpt(content_text(raw.get("timestamp")), 40).head,
        compaction=_compaction(raw),
    )


def content_text(content: object) -> str:
    """Return the text of a message's content: a string, or a list of parts since ATIF v1.6."""
    if is_list(content):
        texts = [part.get("text") if is_object(part) else None for part in content]
        return "\n".join(text if isinstance(text, str) else "[a picture or other content]" for text in texts)
    return content if isinstance(content, str) else ""


def _arguments(value: object) -> str:
    """Return a single text argument as it is, and several arguments with their names."""
    if is_object(value):
        if len(value) == 1 and isinstance(only := next(iter(value.values())), str):
            return only
        return "\n".join(_argument(name, argument) for name, argument in value.items())
    return value if isinstance(value, str) else "" if value is None else _json(value)


def _argument(name: str, value: object) -> str:
    text = value if isinstance(value, str) else _json(value)
    return f"{name}:\n{text.rstrip()}" if "\n" in text else f"{name}: {text}"


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _compaction(raw: JsonObject) -> Compaction | None:
    management = as_object(as_object(raw.get("extra")).get("context_management"))
    if not management:
        return None
    strategy = content_text(management.get("strategy")).lower()
    kinds: list[CompactionKind] = [kind for part, kind in _COMPACTION_KINDS if part in strategy]
    return Compaction(
        kinds[0] if kinds else "compacted",
        _count(management, "tokens_before"),
        _count(management, "tokens_after"),
    )


def _fingerprint(raw: JsonObject) -> str:
    calls = [[call.get("function_name"), call.get("arguments")] for call in objects_in(raw.get("tool_calls"))]
    return json.dumps([raw.get("source"), content_text(raw.get("message")), calls], sort_keys=True)


def _metrics(raw: JsonObject) -> JsonObject:
    return as_object(raw.get("metrics"))


def _count(values: JsonObject, name: str) -> int | None:
    value = _number(values.get(name))
    return None if value is None or value < 0 else int(value)


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e15:
        return None
    return float(value)
