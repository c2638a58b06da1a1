"""Plots as inline SVG from pygal, without scripts, styles and links. plots.css colours them."""

from __future__ import annotations

import itertools
import math
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence

import pygal

from runner.pages.text import excerpt
from runner.pages.trajectory import CompactionKind

_SVG = "http://www.w3.org/2000/svg"
_MAX_POINTS = 200
_MAX_ROWS = 30
_COMPACTION_KINDS: tuple[CompactionKind, ...] = ("pruned", "summarised", "trimmed", "compacted")
_plot_numbers = itertools.count(1)


def reward_against_cost(points: Sequence[tuple[float, float]]) -> str:
    """Plot the cost (US dollars) and reward of each trial. Returns "" if no trial has both."""
    usable = [p for p in points if all(map(math.isfinite, p))][: 10 * _MAX_POINTS]
    if not usable:
        return ""
    chart = _chart(pygal.XY, stroke=False, x_title="US dollars", y_title="reward")
    costs, rewards = zip(*usable, strict=True)
    chart.range = (min(0, *rewards), max(1, *rewards))
    chart.x_value_formatter = "{:.4g}".format
    for name, passed in (("passed", True), ("not passed", False)):
        # Trials at the same place are one dot.
        dots = {(round(cost, 6), round(reward, 3)) for cost, reward in usable if (reward >= 1) is passed}
        if dots:
            chart.add(name, sorted(dots)[:_MAX_POINTS])
    n_passed = sum(reward >= 1 for reward in rewards)
    return _svg(
        chart,
        "Reward against cost",
        f"{len(usable)} trials, {n_passed} passed; from {min(costs):.4g} to {max(costs):.4g} US dollars.",
    )


def context_size(
    sizes: Sequence[tuple[int, int]], compactions: Sequence[tuple[int, CompactionKind]] = ()
) -> str:
    """Plot the prompt tokens of each model call and the rewrites of the history, by step number.

    Returns "" for fewer than two calls.
    """
    if len(sizes) < 2:
        return ""
    chart = _chart(pygal.XY, x_title="step", y_title="tokens", show_dots=False)
    chart.value_formatter = "{:,.0f}".format
    chart.x_value_formatter = "{:.0f}".format
    largest = max(size for _, size in sizes)
    chart.add("prompt", _thinned(sizes))
    series = ["prompt"]
    description = f"{len(sizes)} model calls, at most {largest:,} tokens"
    for kind in _COMPACTION_KINDS:
        steps = [step for step, compacted in compactions if compacted == kind]
        if not steps:
            continue
        lines: list[tuple[float, float] | None] = []
        for step in steps[:_MAX_POINTS]:
            lines += [(step, 0), (step, largest), None]
        chart.add(kind, lines, allow_interruptions=True)
        series.append(kind)
        description += f"; {kind} {len(steps)} times"
    return _svg(chart, "Size of the context", f"{description}.", series=series)


def time_by_phase(rows: Sequence[tuple[str, Mapping[str, float]]]) -> str:
    """Plot the seconds of the longest trials by phase. Returns "" if nothing was timed."""
    finite = [(label, {n: v for n, v in seconds.items() if math.isfinite(v)}) for label, seconds in rows]
    timed = [(label, seconds) for label, seconds in finite if any(v > 0 for v in seconds.values())]
    if not timed:
        return ""
    longest = sorted(timed, key=lambda row: -sum(row[1].values()))[:_MAX_ROWS]
    names = list(dict.fromkeys(name for _, seconds in longest for name in seconds))
    height = 120 + 22 * len(longest)
    chart = _chart(pygal.HorizontalStackedBar, x_title="seconds", height=height)
    chart.x_labels = [excerpt(label, 28).head for label, _ in reversed(longest)]
    for name in names:
        chart.add(name, [round(seconds.get(name, 0.0), 2) for _, seconds in reversed(longest)])
    more = f" The {len(longest)} longest of {len(timed)}." if len(timed) > len(longest) else ""
    return _svg(chart, "Time by phase", f"Seconds of {len(longest)} trials by phase.{more}")


def _thinned(sizes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return about 200 points at most: the smallest and the largest of each bin, in order."""
    if len(sizes) <= _MAX_POINTS:
        return list(sizes)
    width = math.ceil(len(sizes) / (_MAX_POINTS // 2))
    points: list[tuple[int, int]] = []
    for start in range(0, len(sizes), width):
        part = sizes[start : start + width]
        points += sorted({min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])})
    return points


def _chart(kind: type[pygal.Graph], *, height: int = 320, **options: object) -> pygal.Graph:
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


def _svg(chart: pygal.Graph, title: str, description: str, *, series: Sequence[str] = ()) -> str:
    """Return the chart without what a strict policy refuses. `series` names their kinds."""
    root = ET.fromstring(chart.render(is_unicode=True))
    number = next(_plot_numbers)
    _remove_active_content(root)
    for name in list(root.attrib):
        if name not in ("viewBox", "class"):
            del root.attrib[name]
    root.set("role", "img")
    root.set("aria-labelledby", f"plot-{number}-title plot-{number}-desc")
    for position, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ET.Element(f"{{{_SVG}}}{tag}", id=f"plot-{number}-{tag}")
        element.text = text
        root.insert(position, element)
    for index, name in enumerate(series):
        for element in root.iter():
            classes = element.get("class", "").split()
            if f"serie-{index}" in classes or element.get("id") == f"activate-serie-{index}":
                element.set("class", " ".join([*classes, f"is-{name}"]))
    for element in root.iter():
        if element.get("id", "").startswith("activate-"):
            del element.attrib["id"]
    ET.register_namespace("", _SVG)
    return ET.tostring(root, encoding="unicode")


def _remove_active_content(element: ET.Element) -> None:
    for child in list(element):
        if child.tag.rpartition("}")[2] in ("script", "style", "defs", "title", "desc", "a"):
            element.remove(child)
        else:
            _remove_active_content(child)
    for name in list(element.attrib):
        if name.rpartition("}")[2] in ("style", "href") or name.startswith("on"):
            del element.attrib[name]
