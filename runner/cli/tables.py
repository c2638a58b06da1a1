"""Print a job's tables from its folder, for `run`, `resume` and `show`."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from runner.jobs.results import StoredJob, read_job
from runner.results import ModelUse, TrialRecord, format_seconds
from runner.results.scoring import JobSummary

# The width of tables in columns where stdout is not a terminal.
PLAIN_WIDTH = 140
# A note shared by more tasks names only these.
_MAX_NAMES = 3
_MAX_NODES = 8


def print_job(directory: Path, stream: TextIO, *, trials: bool = False) -> None:
    """Print the job's trials, notes and totals, and the path of its folder."""
    view = read_job(directory)
    console = make_console(stream)
    console.print()
    console.print(trials_table(view.trials) if trials else tasks_table(view.trials))
    if view.record.problem:
        console.print(Text(f"{view.record.problem}; the figures are those of the trials", style="yellow"))
    for line in notes(view.trials):
        console.print(Text(line, style="yellow"))
    console.print(figures(view))
    console.print(Text(f"Job: {shown_path(directory)}"), soft_wrap=True)


def make_console(stream: TextIO) -> Console:
    """Return a console as wide as the terminal, or of a fixed width where there is none.

    It takes no markup and no emoji codes: in names and messages these are data. With NO_COLOR it
    prints no colours, and nothing bold or dim either.
    """
    return Console(
        file=stream,
        highlight=False,
        markup=False,
        emoji=False,
        width=None if stream.isatty() else PLAIN_WIDTH,
        color_system=None if os.environ.get("NO_COLOR") else "auto",
    )


def tasks_table(trials: Sequence[TrialRecord]) -> Table:
    """Return a table with a row for each task."""
    groups: dict[str, list[TrialRecord]] = defaultdict(list)
    for trial in trials:
        groups[trial.task_path].append(trial)
    return _table(("task", "rewards"), [(group[0].task_name, group) for group in groups.values()])


def trials_table(trials: Sequence[TrialRecord]) -> Table:
    """Return a table with a row for each trial."""
    rows = [(trial.trial_name, [trial]) for trial in trials]
    return _table(("trial", "reward"), rows, with_nodes=any(trial.node for trial in trials))


def notes(trials: Sequence[TrialRecord]) -> list[str]:
    """Return the errors and notes of trials. One that several tasks share is one line."""
    tasks_with: dict[str, list[str]] = {}
    for trial in trials:
        for text in [trial.error, *trial.notes] if trial.error else trial.notes:
            names = tasks_with.setdefault(first_line(text), [])
            if trial.task_name not in names:
                names.append(trial.task_name)
    return [f"{_names(names)}: {text}" for text, names in tasks_with.items()]


def _names(names: Sequence[str]) -> str:
    more = len(names) - _MAX_NAMES
    return ", ".join(names[:_MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def figures(view: StoredJob) -> Table:
    """Return a table of the job's totals."""
    summary, record = view.record.summary, view.record
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold")
    table.add_column()
    table.add_row("model", describe_model(view))
    table.add_row(
        "agent", record.agent + (f"  sha256 {record.agent_digest[:12]}" if record.agent_digest else "")
    )
    table.add_row("environment", f"{record.environment_kind}, rules of {record.rules}")
    table.add_row("score", _score(summary))
    if summary.pass_at_k:
        rates = "   ".join(f"pass@{k} {rate:.3f}" for k, rate in summary.pass_at_k.items())
        table.add_row("pass@k", rates)
    table.add_row("trials", _counts(summary))
    if nodes := Counter(trial.node for trial in view.trials if trial.node):
        table.add_row("nodes", _nodes(nodes))
    if summary.errors:
        table.add_row("errors", "   ".join(f"{name} {n}" for name, n in sorted(summary.errors.items())))
    if summary.marks:
        table.add_row("marks", "   ".join(f"{name} {n}" for name, n in sorted(summary.marks.items())))
    for phase, times in summary.phases.items():
        table.add_row(
            phase.replace("_", " "),
            f"median {format_seconds(times.median)}, mean {format_seconds(times.mean)}, "
            f"longest {format_seconds(times.maximum)}",
        )
    metered = summary.metered
    if metered.calls or metered.errors:
        share = metered.cache_hit_tokens / metered.prompt_tokens if metered.prompt_tokens else 0.0
        table.add_row(
            "model calls",
            f"{metered.calls} ({metered.errors} failed)   tokens in {shown_count(metered.prompt_tokens)}, "
            f"cached {share:.1%}, out {shown_count(metered.completion_tokens)}",
        )
        claimed = summary.claimed_cost_usd
        reported = "" if claimed is None else f"   (the agent reported {shown_cost(claimed)})"
        table.add_row("cost", f"{shown_cost(metered.cost_usd)} metered{reported}")
    return table


def describe_model(view: StoredJob) -> str:
    """Describe the source of the model's answers."""
    model = view.record.model
    if not model.canned:
        return model.label if model.name is None else f"{model.name}, {model.label}"
    return f"{model.label}: no LLM was called, and costs are what its tokens would have cost"


def shown_reward(trial: TrialRecord) -> str:
    """Return `1`, `0.25`, or `–` for no reward; with `+t` at the agent's time limit."""
    value = "–" if trial.reward is None else f"{trial.reward:g}"
    return value + ("+t" if trial.timed_out else "")


def shown_count(count: int) -> str:
    """Format a count as `950`, `12.3k` or `4.56M`."""
    if count < 10_000:
        return str(count)
    return f"{count / 1_000:.1f}k" if count < 1_000_000 else f"{count / 1_000_000:.2f}M"


def shown_cost(usd: float) -> str:
    """Format US dollars."""
    return f"${usd:.4f}" if usd < 1 else f"${usd:.2f}"


def shown_path(path: Path) -> str:
    """Return the path, relative to the working directory where it lies below it."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def first_line(text: str, limit: int = 300) -> str:
    """Return the first line, at most `limit` characters of it."""
    line = text.strip().splitlines()[0] if text.strip() else ""
    return line if len(line) <= limit else line[: limit - 1] + "…"


_USAGE_COLUMNS = ("calls", "tokens in", "cached", "out", "cost")


def _table(
    first: Sequence[str], rows: Sequence[tuple[str, Sequence[TrialRecord]]], *, with_nodes: bool = False
) -> Table:
    """Return a table of groups of trials. `first` heads the first two columns."""
    used = any(trial.metered is not None for _, trials in rows for trial in trials)
    nodes = ("node",) if with_nodes else ()
    columns = [*first, "passed", *(_USAGE_COLUMNS if used else ()), "time", *nodes, "why not"]
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for index, column in enumerate(columns):
        left = index in (0, 1, len(columns) - 1) or column == "node"
        table.add_column(column, justify="left" if left else "right", overflow="fold", no_wrap=index == 0)
    for name, trials in rows:
        seconds = [trial.seconds for trial in trials if trial.seconds is not None]
        table.add_row(
            name,
            " ".join(shown_reward(trial) for trial in sorted(trials, key=lambda t: t.attempt)),
            _verdict(sum(trial.passed for trial in trials), len(trials)),
            *(_usage_cells(trials) if used else ()),
            format_seconds(sum(seconds) / len(trials) if seconds else None),
            *((" ".join(trial.node or "" for trial in trials),) if with_nodes else ()),
            _reasons(trials),
        )
    return table


def _usage_cells(trials: Sequence[TrialRecord]) -> list[str]:
    uses = [trial.metered for trial in trials if trial.metered is not None]
    if not uses:
        return [""] * len(_USAGE_COLUMNS)
    use = sum(uses, start=ModelUse())
    share = use.cache_hit_tokens / use.prompt_tokens if use.prompt_tokens else 0.0
    return [
        str(use.calls),
        shown_count(use.prompt_tokens),
        f"{share:.0%}",
        shown_count(use.completion_tokens),
        shown_cost(use.cost_usd),
    ]


def _verdict(passed: int, attempts: int) -> Text:
    style = "green" if passed == attempts else "red" if passed == 0 else "yellow"
    words = ("yes" if passed else "no") if attempts == 1 else f"{passed}/{attempts}"
    return Text(words, style=style)


def _reasons(trials: Sequence[TrialRecord]) -> str:
    codes = dict.fromkeys(trial.reason_code.value for trial in trials if trial.reason_code)
    return " ".join([*codes, *dict.fromkeys(mark for trial in trials for mark in trial.marks)])


def _score(summary: JobSummary) -> str:
    mean = "" if summary.reward_mean is None else f"   mean of the rewards given {summary.reward_mean:.3f}"
    return f"{summary.score:.3f} over {summary.n_total} trials, {summary.resolved} resolved{mean}"


def _nodes(trials: Counter[str]) -> str:
    """Return how many trials ran on which nodes, those with the most first."""
    named = [f"{node} {number}" for node, number in trials.most_common(_MAX_NODES)]
    rest = len(trials) - len(named)
    return "   ".join([*named, *([f"and {rest} more"] if rest > 0 else [])])


def _counts(summary: JobSummary) -> str:
    parts = [f"{summary.n_passed} passed", f"{summary.n_completed - summary.n_passed} did not"]
    for number, words in (
        (summary.n_errored, "errored"),
        (summary.n_cancelled, "cancelled"),
        (summary.n_pending, "not run"),
        (summary.n_timed_out, f"at the agent's time limit ({summary.n_passed_and_timed_out} of them passed)"),
        (summary.n_retries, "retries"),
    ):
        if number:
            parts.append(f"{number} {words}")
    return ", ".join(parts)
