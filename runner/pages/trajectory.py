"""An agent's trajectory (ATIF), of any agent: what is missing or wrong in it is passed over."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from runner.pages.text import Excerpt, excerpt
from runner.results import regular_file_inside

MAX_BYTES = 64 * 2**20

MarkKind = Literal["pruned", "summarised", "trimmed", "compacted"]
_MARKS: tuple[tuple[str, MarkKind], ...] = (
    ("prun", "pruned"),
    ("clear", "pruned"),
    ("summar", "summarised"),
    ("trim", "trimmed"),
)


@dataclass(frozen=True)
class Limits:
    """How much of a trajectory is shown: characters of one text, and steps (the first and the last)."""

    text: int = 20_000
    steps: int = 2_000


@dataclass(frozen=True)
class Call:
    """A tool call and what came back."""

    name: str
    arguments: Excerpt
    output: Excerpt


@dataclass(frozen=True)
class Mark:
    """The history was rewritten here; tokens before and after, where the agent says so."""

    kind: MarkKind
    before: int | None = None
    after: int | None = None


@dataclass(frozen=True)
class Step:
    """One step. Tokens and cost (US dollars) are a model call's; `prompt_tokens` counts cached ones, too."""

    number: int
    source: str
    message: Excerpt
    reasoning: Excerpt
    calls: tuple[Call, ...] = ()
    observations: tuple[Excerpt, ...] = ()
    prompt_tokens: int | None = None
    cached_tokens: int | None = None
    completion_tokens: int | None = None
    cost_usd: float | None = None
    time: str = ""
    mark: Mark | None = None


@dataclass(frozen=True)
class Trajectory:
    """The steps to be shown; `n_steps` are there in all, and `left_out` of them are missing in the middle.

    `problem` says why there are none. `context` has the prompt's tokens for each model call, by step number.
    """

    steps: tuple[Step, ...] = ()
    n_steps: int = 0
    left_out: int = 0
    problem: str | None = None
    context: tuple[tuple[int, int], ...] = ()
    marks: tuple[tuple[int, Mark], ...] = ()
    prints: tuple[str, ...] = ()
    """One text a step that says what was done in it: two runs part where these differ."""


def read_trajectory(trial: Path, limits: Limits = Limits()) -> Trajectory:
    """The trajectory of the trial in this folder. Never raises for what an agent wrote."""
    path = regular_file_inside(trial, "agent/trajectory.json")
    if path is None:
        return Trajectory(problem="This agent wrote no trajectory.")
    try:
        if path.stat().st_size > MAX_BYTES:
            return Trajectory(
                problem=f"The trajectory is larger than {MAX_BYTES >> 20} MiB and is not shown."
            )
        raw = json.loads(path.read_bytes())["steps"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return Trajectory(problem="The trajectory cannot be read: it is no ATIF document.")
    listed = [step for step in raw if isinstance(step, dict)] if isinstance(raw, list) else []
    half = limits.steps // 2
    left_out = max(0, len(listed) - 2 * half) if len(listed) > limits.steps else 0
    kept = listed if not left_out else listed[:half] + listed[len(listed) - half :]
    numbers = list(range(1, len(listed) + 1))
    shown = numbers if not left_out else numbers[:half] + numbers[len(listed) - half :]
    marks = [(number, mark) for number, step in enumerate(listed, 1) if (mark := _mark(step))]
    context = [(n, size) for n, s in enumerate(listed, 1) if (size := _count(_metrics(s), "prompt_tokens"))]
    return Trajectory(
        steps=tuple(_step(number, step, limits.text) for number, step in zip(shown, kept, strict=True)),
        n_steps=len(listed),
        left_out=left_out,
        context=tuple(context),
        marks=tuple(marks),
        prints=tuple(_print(step) for step in listed),
    )


def parts_at(one: Sequence[str], other: Sequence[str]) -> int | None:
    """The number of the first step in which two runs differ; None where they are the same."""
    for number, (left, right) in enumerate(zip(one, other, strict=False), 1):
        if left != right:
            return number
    return None if len(one) == len(other) else min(len(one), len(other)) + 1


def _step(number: int, raw: Mapping[str, Any], limit: int) -> Step:
    results: list[tuple[str | None, str]] = [
        (result.get("source_call_id"), text_of(result.get("content")))
        for result in _dicts(_dict(raw.get("observation")).get("results"))
    ]
    calls: list[Call] = []
    for call in _dicts(raw.get("tool_calls")):
        output = next((pair for pair in results if pair[0] == call.get("tool_call_id")), None)
        if output is not None:
            results.remove(output)
        calls.append(
            Call(
                name=excerpt(text_of(call.get("function_name")) or "?", 100).head,
                arguments=excerpt(_arguments(call.get("arguments")), limit),
                output=excerpt(output[1] if output else "", limit),
            )
        )
    metrics = _metrics(raw)
    return Step(
        number=number,
        source=excerpt(text_of(raw.get("source")) or "agent", 20).head,
        message=excerpt(text_of(raw.get("message")), limit),
        reasoning=excerpt(text_of(raw.get("reasoning_content")), limit),
        calls=tuple(calls),
        observations=tuple(excerpt(text, limit) for _, text in results if text),
        prompt_tokens=_count(metrics, "prompt_tokens"),
        cached_tokens=_count(metrics, "cached_tokens"),
        completion_tokens=_count(metrics, "completion_tokens"),
        cost_usd=_number(metrics.get("cost_usd")),
        time=excerpt(text_of(raw.get("timestamp")), 40).head,
        mark=_mark(raw),
    )


def text_of(value: Any) -> str:
    """A message is a text, or a list of parts of which some are texts (ATIF v1.6 on)."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        parts = [part.get("text") if isinstance(part, dict) else None for part in value]
        return "\n".join(part if isinstance(part, str) else "[a picture or other content]" for part in parts)
    return ""


def _arguments(value: Any) -> str:
    """The one argument of a call that has one, as it is; else each with its name, texts as they are."""
    if isinstance(value, dict):
        if len(value) == 1 and isinstance(only := next(iter(value.values())), str):
            return only
        return "\n".join(_argument(text_of(name), given) for name, given in value.items())
    return value if isinstance(value, str) else "" if value is None else _json(value)


def _argument(name: str, value: Any) -> str:
    text = value if isinstance(value, str) else _json(value)
    return f"{name}:\n{text.rstrip()}" if "\n" in text else f"{name}: {text}"


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _mark(raw: Mapping[str, Any]) -> Mark | None:
    management = _dict(_dict(raw.get("extra")).get("context_management"))
    if not management:
        return None
    strategy = text_of(management.get("strategy")).lower()
    kinds: list[MarkKind] = [kind for word, kind in _MARKS if word in strategy]
    return Mark(
        kinds[0] if kinds else "compacted",
        _count(management, "tokens_before"),
        _count(management, "tokens_after"),
    )


def _print(raw: Mapping[str, Any]) -> str:
    calls = [[call.get("function_name"), call.get("arguments")] for call in _dicts(raw.get("tool_calls"))]
    return json.dumps([raw.get("source"), text_of(raw.get("message")), calls], sort_keys=True, default=str)


def _metrics(raw: Mapping[str, Any]) -> dict[str, Any]:
    return _dict(raw.get("metrics"))


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _count(values: Mapping[str, Any], name: str) -> int | None:
    value = _number(values.get(name))
    return None if value is None or value < 0 else int(value)


def _number(value: Any) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e15
    return float(value) if usable else None
