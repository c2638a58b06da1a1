"""The contents of the pages, read from the folders of jobs and trials."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runner.jobs import JobError
from runner.jobs.lock import PlannedTrial
from runner.jobs.results import JobRecord, StoredJob, read_job
from runner.pages.plots import context_size, reward_against_cost, time_by_phase
from runner.pages.text import Excerpt, excerpt
from runner.pages.trajectory import PageLimits, Trajectory, first_different_step, read_trajectory
from runner.results import RECORD_FILE, TrialRecord, regular_file_inside

Outcome = Literal["passed", "failed", "errored", "cancelled", "running", "waiting"]

_PHASE = re.compile(r"phase: (\w+)")
_LOG_TAIL_BYTES = 64 * 2**10
_MAX_FILES = 500
_FINGERPRINTS_ONLY = PageLimits(text=1, steps=2)


@dataclass(frozen=True)
class JobRow:
    """A job in the list. `problem` says why its folder cannot be read."""

    name: str
    record: JobRecord | None
    problem: str | None = None


@dataclass(frozen=True)
class TrialRow:
    """A planned trial. It has a record once it has ended, and a phase while it runs.

    `node` is the machine of a cluster that it runs on, or ran on.
    """

    name: str
    task: str
    attempt: int
    outcome: Outcome
    record: TrialRecord | None = None
    phase: str = ""
    node: str | None = None


@dataclass(frozen=True)
class TaskRow:
    """A task and its trials, in the order of attempts."""

    name: str
    trials: tuple[TrialRow, ...]


@dataclass(frozen=True)
class JobPage:
    """The page of a job."""

    name: str
    record: JobRecord
    tasks: tuple[TaskRow, ...]
    trials: tuple[TrialRow, ...]
    cost_plot: str
    time_plot: str

    @property
    def agent(self) -> str:
        """The agent's name and version once it has run, before that its file's or folder's name."""
        agents = (row.record.agent for row in self.trials if row.record and row.record.agent.ended)
        agent = next(agents, None)
        return f"{agent.name} {agent.version}" if agent else Path(self.record.agent).name

    @property
    def on_cluster(self) -> bool:
        """Whether a trial ran or runs on a node of a cluster."""
        return any(row.node for row in self.trials)

    @property
    def live(self) -> bool:
        """Whether the job is running."""
        return self.record.status == "running"


@dataclass(frozen=True)
class FileEntry:
    """A file in a trial's folder: its relative path, and its size in bytes."""

    path: str
    size: int


@dataclass(frozen=True)
class TrialPage:
    """The page of a trial."""

    job: JobPage
    row: TrialRow
    trajectory: Trajectory
    context_plot: str
    verifier: Excerpt
    exception: Excerpt
    log: Excerpt
    agent_log: Excerpt
    files: tuple[FileEntry, ...]
    unlisted_files: int

    @property
    def live(self) -> bool:
        """Whether the trial may still change."""
        return self.job.live and self.row.record is None

    @property
    def neighbours(self) -> tuple[TrialRow | None, TrialRow | None]:
        """The trials before and after this one in planned order."""
        trials = self.job.trials
        at = [trial.name for trial in trials].index(self.row.name)
        return (trials[at - 1] if at else None, trials[at + 1] if at + 1 < len(trials) else None)


@dataclass(frozen=True)
class TrialPair:
    """The same attempt at the same task in two jobs.

    They are `comparable` if both have a trajectory. It differs from step `differs_at` on, if at
    all.
    """

    task: str
    attempt: int
    first: TrialRow | None
    second: TrialRow | None
    comparable: bool = False
    differs_at: int | None = None

    @property
    def in_both(self) -> bool:
        """Whether both jobs have the trial."""
        return self.first is not None and self.second is not None

    @property
    def changed(self) -> bool:
        """Whether both jobs have the trial, with different outcomes or rewards."""
        if self.first is None or self.second is None:
            return False
        rewards = [row.record.reward if row.record else None for row in (self.first, self.second)]
        return self.first.outcome != self.second.outcome or rewards[0] != rewards[1]


@dataclass(frozen=True)
class Comparison:
    """The page of two jobs side by side."""

    first: JobPage
    second: JobPage
    pairs: tuple[TrialPair, ...]

    @property
    def n_in_both(self) -> int:
        """The number of trials that both jobs have."""
        return sum(pair.in_both for pair in self.pairs)

    @property
    def n_changed(self) -> int:
        """The number of trials whose result changed."""
        return sum(pair.changed for pair in self.pairs)


def list_jobs(jobs: dict[str, Path]) -> list[JobRow]:
    """Return the rows of these jobs, in their order."""
    rows: list[JobRow] = []
    for name, path in jobs.items():
        try:
            rows.append(JobRow(name, _record(path)))
        except JobError as error:
            rows.append(JobRow(name, None, str(error)))
    return rows


def _record(path: Path) -> JobRecord:
    """Return the record of a job. Raises JobError."""
    try:
        return JobRecord.model_validate_json((path / RECORD_FILE).read_bytes())
    except (OSError, ValueError):
        return read_job(path).record  # made from the trials, which takes longer


def job_page(path: Path) -> JobPage:
    """Read the page of a job. Raises JobError if the folder is not a job's."""
    stored = read_job(path)
    records = {record.trial_name: record for record in stored.trials}
    rows = [_row(stored, planned, records.get(planned.trial_name)) for planned in stored.lock.trials]
    by_task: dict[int, list[TrialRow]] = {}
    for planned, row in zip(stored.lock.trials, rows, strict=True):
        by_task.setdefault(planned.task, []).append(row)
    return JobPage(
        name=path.name,
        record=stored.record,
        tasks=tuple(
            TaskRow(stored.lock.tasks[task].name, tuple(sorted(group, key=lambda row: row.attempt)))
            for task, group in by_task.items()
        ),
        trials=tuple(rows),
        cost_plot=reward_against_cost(
            [
                (r.metered.cost_usd, r.reward)
                for r in stored.trials
                if r.metered is not None and r.metered.calls and r.reward is not None
            ]
        ),
        time_plot=time_by_phase([(f"{r.task_name} {r.attempt}", _seconds(r)) for r in stored.trials]),
    )


def trial_page(path: Path, trial: str) -> TrialPage:
    """Read a trial's page. Raises JobError for a folder that is no job's, KeyError for no trial."""
    job = job_page(path)
    row = next((row for row in job.trials if row.name == trial), None)
    if row is None:
        raise KeyError(trial)
    return build_trial_page(path, job, row, PageLimits())


def build_trial_page(path: Path, job: JobPage, row: TrialRow, limits: PageLimits) -> TrialPage:
    """Return the page of a trial of a job that has been read."""
    folder = path / row.name
    trajectory = read_trajectory(folder, limits)
    files, unlisted = _list_files(folder)
    return TrialPage(
        job=job,
        row=row,
        trajectory=trajectory,
        context_plot=context_size(
            trajectory.context, [(number, compaction.kind) for number, compaction in trajectory.compactions]
        ),
        verifier=_tail(folder, "verifier/test-stdout.txt", limits.text),
        exception=_tail(folder, "exception.txt", limits.text),
        log=_tail(folder, "trial.log", limits.text),
        agent_log=_tail(folder, "agent/agent.log", limits.text),
        files=files,
        unlisted_files=unlisted,
    )


def compare(first: Path, second: Path) -> Comparison:
    """Compare two jobs, attempt by attempt. Changed results come first. Raises JobError."""
    left, right = job_page(first), job_page(second)
    left_rows = {(row.task, row.attempt): row for row in left.trials}
    right_rows = {(row.task, row.attempt): row for row in right.trials}
    pairs: list[TrialPair] = []
    for task, attempt in dict.fromkeys([*left_rows, *right_rows]):
        a, b = left_rows.get((task, attempt)), right_rows.get((task, attempt))
        comparable, differs_at = False, None
        if a is not None and b is not None and a.record is not None and b.record is not None:
            a_steps = read_trajectory(first / a.name, _FINGERPRINTS_ONLY).fingerprints
            b_steps = read_trajectory(second / b.name, _FINGERPRINTS_ONLY).fingerprints
            comparable = bool(a_steps and b_steps)
            differs_at = first_different_step(a_steps, b_steps) if comparable else None
        pairs.append(TrialPair(task, attempt, a, b, comparable, differs_at))
    pairs.sort(key=lambda pair: (not pair.changed, not pair.in_both))
    return Comparison(left, right, tuple(pairs))


def _list_files(folder: Path) -> tuple[tuple[FileEntry, ...], int]:
    """Return the regular files in a folder, and how many more there are. Links are not followed."""
    files: list[FileEntry] = []
    unlisted = 0
    for path in sorted(folder.rglob("*")):
        try:
            if path.is_symlink() or not path.is_file():
                continue
            size = path.stat().st_size
        except OSError:
            continue
        if len(files) < _MAX_FILES:
            files.append(FileEntry(path.relative_to(folder).as_posix(), size))
        else:
            unlisted += 1
    return tuple(files), unlisted


def _row(stored: StoredJob, planned: PlannedTrial, record: TrialRecord | None) -> TrialRow:
    name, task = planned.trial_name, stored.lock.tasks[planned.task].name
    if record is not None:
        return TrialRow(name, task, planned.attempt, _outcome(record), record, node=record.node)
    if stored.record.status == "cancelled":
        return TrialRow(name, task, planned.attempt, "cancelled")
    folder = stored.directory.root / name
    if stored.record.status != "running" or not folder.is_dir():
        return TrialRow(name, task, planned.attempt, "waiting")
    node = stored.record.nodes.get(name)
    return TrialRow(name, task, planned.attempt, "running", phase=_phase(folder), node=node)


def _outcome(record: TrialRecord) -> Outcome:
    if record.status == "completed":
        return "passed" if record.passed else "failed"
    return "cancelled" if record.status == "cancelled" else "errored"


def _phase(folder: Path) -> str:
    path = regular_file_inside(folder, "trial.log")
    phases = _PHASE.findall(_last_bytes(path).decode("utf-8", "replace")) if path else []
    return phases[-1] if phases else ""


def _tail(folder: Path, relative: str, limit: int) -> Excerpt:
    path = regular_file_inside(folder, relative)
    return excerpt(_last_bytes(path).decode("utf-8", "replace"), limit) if path else Excerpt("")


def _last_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _LOG_TAIL_BYTES))
            return file.read(_LOG_TAIL_BYTES)
    except OSError:
        return b""


def _seconds(record: TrialRecord) -> dict[str, float]:
    phases = record.phases.items()
    return {name.replace("_", " "): s for name, timing in phases if (s := timing.seconds) is not None}
