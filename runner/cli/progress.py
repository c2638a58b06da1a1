"""Show a running job: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TextIO

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from runner.cli.common import warn
from runner.cli.tables import first_line, make_console, shown_cost, shown_count, shown_path
from runner.jobs import JobContext, JobObserver, TrialProgress
from runner.jobs.context import ClusterUse
from runner.jobs.results import JobResultWriter
from runner.results import TrialRecord, format_seconds
from runner.results.scoring import JobSummary

REFRESH_SEC = 0.5
# A live table that is longer than the terminal cannot be redrawn in place.
MAX_ROWS = 30


def make_observer(*, as_json: bool) -> JobObserver:
    """Return the observer for this terminal. It writes to stderr where stdout carries JSON."""
    stream = sys.stderr if as_json else sys.stdout
    return LiveTable(stream) if stream.isatty() else PlainLines(stream)


class PlainLines(JobObserver):
    """Print one line for each event."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._results: JobResultWriter | None = None
        self._describe_end = EndLines()
        self._on_cluster = False

    def cluster_joined(self, use: Callable[[], ClusterUse]) -> None:
        self._on_cluster = True

    def job_started(
        self, context: JobContext, results: JobResultWriter, running: Mapping[str, TrialProgress]
    ) -> None:
        self._results = results
        self._print(headline(context))

    def trial_retried(self, progress: TrialProgress, record: TrialRecord, wait_sec: float) -> None:
        self._print(
            f"{progress.plan.trial_name}: {first_line(record.error or '')}; "
            f"retry {progress.retries} in {wait_sec:g} s"
        )

    def trial_started(self, progress: TrialProgress) -> None:
        # On a cluster it only begins to wait for a node.
        if not progress.retries and not self._on_cluster:
            self._print(f"{progress.plan.trial_name}: started (attempt {progress.plan.attempt})")

    def trial_placed(self, progress: TrialProgress) -> None:
        name, attempt = progress.plan.trial_name, progress.plan.attempt
        self._print(f"{name}: placed on {progress.node} (attempt {attempt})")

    def trial_ended(self, record: TrialRecord) -> None:
        assert self._results is not None
        self._print(f"[{len(self._results.records)}/{self._results.n_total}] {self._describe_end(record)}")

    def note(self, line: str, *, warning: bool = True) -> None:
        if warning:
            warn(line)
        else:
            self._print(line)

    def _print(self, line: str) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._stream.write(line + "\n")
            self._stream.flush()


class LiveTable(JobObserver):
    """Print ended trials, and below them a live table of running trials and the totals.

    Of a job on a cluster the table also names the nodes, and a line has the use of the cluster.
    """

    def __init__(self, stream: TextIO) -> None:
        self._console = make_console(stream)
        self._live: Live | None = None
        self._context: JobContext | None = None
        self._results: JobResultWriter | None = None
        self._running: Mapping[str, TrialProgress] = {}
        self._cluster_use: Callable[[], ClusterUse] | None = None
        self._started = time.monotonic()
        self._ended_here = 0
        self._describe_end = EndLines()
        self._refresher: asyncio.Task[None] | None = None

    def cluster_joined(self, use: Callable[[], ClusterUse]) -> None:
        self._cluster_use = use

    def job_started(
        self, context: JobContext, results: JobResultWriter, running: Mapping[str, TrialProgress]
    ) -> None:
        self._context, self._results, self._running = context, results, running
        self._started = time.monotonic()
        self._console.print(headline(context))
        self._live = Live(self._render(), console=self._console, auto_refresh=False, transient=True)
        self._live.start()
        self._refresher = asyncio.create_task(self._refresh(), name="live table")

    def trial_retried(self, progress: TrialProgress, record: TrialRecord, wait_sec: float) -> None:
        self._console.print(
            Text(
                f"{progress.plan.trial_name}: {first_line(record.error or '')}; trying again", style="yellow"
            )
        )

    def trial_ended(self, record: TrialRecord) -> None:
        self._ended_here += 1
        style = "green" if record.passed else "red" if record.errored else ""
        self._console.print(Text(self._describe_end(record), style=style))

    def note(self, line: str, *, warning: bool = True) -> None:
        self._console.print(Text(line, style="yellow" if warning else ""))

    def job_ended(self, summary: JobSummary, records: Sequence[TrialRecord]) -> None:
        self.close()

    def close(self) -> None:
        if self._refresher is not None:
            self._refresher.cancel()
        if self._live is not None:
            self._live.stop()

    async def _refresh(self) -> None:
        while self._live is not None:
            self._live.update(self._render(), refresh=True)
            await asyncio.sleep(REFRESH_SEC)

    def _render(self) -> Group:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
        use = self._cluster_use() if self._cluster_use is not None else None
        columns = ["trial", "try", "phase", "calls", "tokens", "cost", "elapsed"]
        columns += ["node"] if use is not None else []
        for column in columns:
            table.add_column(column, style="cyan" if column == "phase" else "", no_wrap=True)
        begun = list(self._running.values())
        running = begun if use is None else [progress for progress in begun if progress.node is not None]
        for progress in running[:MAX_ROWS]:
            table.add_row(*_cells(progress), *([progress.node] if use is not None else []))
        if len(running) > MAX_ROWS:
            table.add_row(f"and {len(running) - MAX_ROWS} more")
        lines = [Text(self._totals(begun), style="bold")]
        if use is not None:
            lines.append(Text(describe_use(use, running=len(running), waiting=len(begun) - len(running))))
        return Group(table, *lines)

    def _totals(self, running: Sequence[TrialProgress]) -> str:
        assert self._context is not None and self._results is not None
        ended, total = self._results.records, self._results.n_total
        passed = sum(record.passed for record in ended)
        errored = sum(record.errored for record in ended)
        spent = sum(record.metered.cost_usd for record in ended if record.metered)
        spent += sum(use.cost_usd for progress in running if (use := progress.usage()))
        elapsed = time.monotonic() - self._started
        words = f"{len(ended)}/{total} ended, {passed} passed, {errored} errored   {format_seconds(elapsed)}"
        if self._ended_here and len(ended) < total:
            words += f", about {format_seconds(elapsed / self._ended_here * (total - len(ended)))} left"
        source = self._context.model.source
        return words + (f"   {shown_cost(spent)}" if spent else "") + f"   model: {source.label}"


def _cells(progress: TrialProgress) -> list[str]:
    use = progress.usage()
    return [
        progress.plan.trial_name,
        str(progress.plan.attempt),
        progress.phase,
        str(use.calls) if use else "",
        shown_count(use.prompt_tokens + use.completion_tokens) if use else "",
        shown_cost(use.cost_usd) if use else "",
        format_seconds(progress.elapsed_sec),
    ]


def describe_use(use: ClusterUse, *, running: int, waiting: int) -> str:
    """Describe the use of a cluster, and how many trials of a job run and wait there."""
    nodes = _counted(use.nodes, "node")
    if use.open_nodes < use.nodes:
        nodes += f" ({use.open_nodes} take{'s' * (use.open_nodes == 1)} trials)"
    return (
        f"cluster: {use.used_cpus:g} of {use.cpus:g} CPUs used on {nodes}   "
        f"{_counted(running, 'trial')} running, {waiting} waiting"
    )


def headline(context: JobContext) -> str:
    """Describe the job in one line."""
    lock, config, model = context.lock, context.config, context.model.source
    canned = " (no LLM is called)" if model.canned else ""
    on = "" if config.cluster is None else f" on {config.on}"
    planned = f"{_counted(len(lock.tasks), 'task')} × {_counted(config.attempts, 'attempt')}"
    return (
        f"{planned}, agent {config.agent}, model: {model.label}"
        f"{canned}, environment: {lock.environment_kind}{on}, job: {shown_path(context.directory.root)}"
    )


class EndLines:
    """Describe each ended trial in one line. A shared error is told once."""

    def __init__(self) -> None:
        self._first_with: dict[str, str] = {}

    def __call__(self, record: TrialRecord) -> str:
        if record.reward is None:
            error = first_line(record.error or "")
            first = self._first_with.setdefault(error, record.trial_name)
            if error and first != record.trial_name:
                error = f"the same error as {first}"
            verdict = f"{record.reason_code.value if record.reason_code else 'error'}: {error}"
        else:
            verdict = f"reward {record.reward:g}" + (", passed" if record.passed else "")
            if record.timed_out:
                verdict += ", at the agent's time limit"
        use = record.metered
        spent = f", {use.calls} calls, {shown_cost(use.cost_usd)}" if use and use.calls else ""
        node = f", on {record.node}" if record.node else ""
        return f"{record.trial_name}: {verdict} ({format_seconds(record.seconds)}{spent}{node})"


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
