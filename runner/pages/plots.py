"""Plots as inline SVG, made by pygal: no script, style or address in them; plots.css has their colours."""

from __future__ import annotations

import itertools
import math
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pygal

from runner.pages.text import excerpt
from runner.pages.trajectory import MarkKind

_SVG = "http://www.w3.org/2000/svg"
_MAX_POINTS = 200
_MAX_ROWS = 30
_KINDS: tuple[MarkKind, ...] = ("pruned", "summarised", "trimmed", "compacted")
_numbers = itertools.count(1)


@dataclass(frozen=True)
class CostPoint:
    """A trial: what it cost (US dollars) and its reward."""

    label: str
    cost_usd: float
    reward: float


@dataclass(frozen=True)
class PhaseRow:
    """A trial's seconds by phase."""

    label: str
    seconds: Mapping[str, float]


def reward_against_cost(points: Sequence[CostPoint]) -> str:
    """Each trial by its cost and its reward; empty where no trial has both."""
    usable = [p for p in points if math.isfinite(p.cost_usd) and math.isfinite(p.reward)][: 10 * _MAX_POINTS]
    if not usable:
        return ""
    chart = _chart(pygal.XY, "Reward against cost", stroke=False, x_title="US dollars", y_title="reward")
    chart.range = (min(0, *(p.reward for p in usable)), max(1, *(p.reward for p in usable)))
    chart.x_value_formatter = lambda value: f"{value:.4g}"
    for name, wanted in (("passed", True), ("not passed", False)):
        # Many trials on one spot are one dot.
        spots = {(round(p.cost_usd, 6), round(p.reward, 3)) for p in usable if (p.reward >= 1) is wanted}
        if spots:
            chart.add(name, sorted(spots)[:_MAX_POINTS])
    passed = sum(point.reward >= 1 for point in usable)
    return _finish(
        chart,
        "Reward against cost",
        f"{len(usable)} trials, {passed} passed; from {min(p.cost_usd for p in usable):.4g} to "
        f"{max(p.cost_usd for p in usable):.4g} US dollars.",
    )


def context_size(
    sizes: Sequence[tuple[int, int]],
    marks: Sequence[tuple[int, MarkKind]] = (),
) -> str:
    """Tokens of the prompt at each model call, as (step, tokens), and where the history was rewritten.

    Empty where there are fewer than two calls.
    """
    if len(sizes) < 2:
        return ""
    chart = _chart(pygal.XY, "Size of the context", x_title="step", y_title="tokens", show_dots=False)
    chart.value_formatter = lambda value: f"{value:,.0f}"
    chart.x_value_formatter = lambda value: f"{value:.0f}"
    top = max(size for _, size in sizes)
    chart.add("prompt", _thinned(sizes))
    words: list[str] = []
    for kind in _KINDS:
        steps = [step for step, marked in marks if marked == kind]
        if steps:
            words.append(f"{kind} {len(steps)} times")
        lines: list[tuple[float, float] | None] = []
        for step in steps[:_MAX_POINTS]:
            lines += [(step, 0), (step, top), None]
        if lines:
            chart.add(kind, lines, allow_interruptions=True)
    return _finish(
        chart,
        "Size of the context",
        f"{len(sizes)} model calls, at the most {top:,} tokens"
        + "".join(f"; {word}" for word in words)
        + ".",
        kinds=["prompt"] + [k for k in _KINDS if any(k == m for _, m in marks)],
    )


def time_by_phase(rows: Sequence[PhaseRow]) -> str:
    """Seconds of each trial by phase, longest first; empty where nothing was timed."""
    finite = [PhaseRow(row.label, {n: v for n, v in row.seconds.items() if math.isfinite(v)}) for row in rows]
    timed = [row for row in finite if any(v > 0 for v in row.seconds.values())]
    if not timed:
        return ""
    longest = sorted(timed, key=lambda row: -sum(row.seconds.values()))[:_MAX_ROWS]
    names = list(dict.fromkeys(name for row in longest for name in row.seconds))
    height = 120 + 22 * len(longest)
    chart = _chart(pygal.HorizontalStackedBar, "Time by phase", x_title="seconds", height=height)
    chart.x_labels = [excerpt(row.label, 28).head for row in reversed(longest)]
    for name in names:
        chart.add(name, [round(row.seconds.get(name, 0.0), 2) for row in reversed(longest)])
    left = f" The {len(longest)} longest of {len(timed)}." if len(timed) > len(longest) else ""
    return _finish(chart, "Time by phase", f"Seconds of {len(longest)} trials by phase.{left}")


def _thinned(sizes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """At most some 200 points: of each bin the smallest and the largest, in order."""
    if len(sizes) <= _MAX_POINTS:
        return list(sizes)
    width = math.ceil(len(sizes) / (_MAX_POINTS // 2))
    kept: list[tuple[int, int]] = []
    for start in range(0, len(sizes), width):
        part = sizes[start : start + width]
        kept += sorted({min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])})
    return kept


def _chart(kind: Any, title: str, *, height: int = 320, **options: Any) -> Any:
    return kind(
        width=800,
        height=height,
        js=(),
        css=(),
        disable_xml_declaration=True,
        explicit_size=False,
        legend_at_bottom=True,
        legend_at_bottom_columns=4,
        legend_box_size=12,
        truncate_legend=-1,
        truncate_label=30,
        dots_size=4,
        margin=12,
        spacing=6,
        show_minor_x_labels=True,
        no_data_text="nothing to show",
        **options,
    )


def _finish(chart: Any, title: str, words: str, *, kinds: Sequence[str] = ()) -> str:
    """pygal's SVG without what a strict policy refuses, and with words for those who cannot see it."""
    root = ET.fromstring(chart.render(is_unicode=True))
    number = next(_numbers)
    _clean(root)
    for name in list(root.attrib):
        if name not in ("viewBox", "class"):
            del root.attrib[name]
    root.set("role", "img")
    root.set("aria-labelledby", f"plot-{number}-title plot-{number}-words")
    for position, (tag, text) in enumerate((("title", title), ("desc", words))):
        element = ET.Element(f"{{{_SVG}}}{tag}", id=f"plot-{number}-{'title' if tag == 'title' else 'words'}")
        element.text = text
        root.insert(position, element)
    for index, name in enumerate(kinds):
        for element in root.iter():
            classes = element.get("class", "").split()
            if f"serie-{index}" in classes or element.get("id") == f"activate-serie-{index}":
                element.set("class", " ".join([*classes, f"is-{name}"]))
    for element in root.iter():
        if element.get("id", "").startswith("activate-"):
            del element.attrib["id"]
    ET.register_namespace("", _SVG)
    return ET.tostring(root, encoding="unicode")


def _clean(element: ET.Element) -> None:
    for child in list(element):
        tag = child.tag.rpartition("}")[2] if isinstance(child.tag, str) else ""
        if tag in ("script", "style", "defs", "title", "desc", "a", "") or not isinstance(child.tag, str):
            element.remove(child)
        else:
            _clean(child)
    for name in list(element.attrib):
        if name.rpartition("}")[2] in ("style", "href") or name.startswith("on"):
            del element.attrib[name]
