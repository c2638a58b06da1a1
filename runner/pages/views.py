"""What the pages show of jobs and trials, read from their folders."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runner.jobs import JobDirectory, JobError
from runner.jobs.lock import JobLock, PlannedTrial, read_lock
from runner.jobs.results import JobRecord, StoredJob, read_job
from runner.pages.plots import CostPoint, PhaseRow, context_size, reward_against_cost, time_by_phase
from runner.pages.text import Excerpt, excerpt
from runner.pages.trajectory import Limits, Trajectory, parts_at, read_trajectory
from runner.results import TrialRecord, regular_file_inside

Outcome = Literal["passed", "failed", "errored", "cancelled", "running", "waiting"]

_PHASE = re.compile(r"phase: (\w+)")
_LOG_TAIL = 64 * 2**10
_MAX_FILES = 500


@dataclass(frozen=True)
class JobRow:
    """A job in the list; `problem` where its folder cannot be read."""

    name: str
    record: JobRecord | None
    problem: str | None = None


@dataclass(frozen=True)
class TrialRow:
    """A planned trial, and its record once it has ended. `phase` is where a running one stands."""

    name: str
    task: str
    attempt: int
    outcome: Outcome
    record: TrialRecord | None = None
    phase: str = ""


@dataclass(frozen=True)
class TaskRow:
    """A task and its attempts, in order."""

    name: str
    trials: tuple[TrialRow, ...]


@dataclass(frozen=True)
class JobPage:
    """All of a job."""

    name: str
    record: JobRecord
    tasks: tuple[TaskRow, ...]
    trials: tuple[TrialRow, ...]
    cost_plot: str
    time_plot: str

    @property
    def agent(self) -> str:
        """The agent's own name and version, once one has run; its file's or folder's name before."""
        ran = next((row.record.agent for row in self.trials if row.record and row.record.agent.ended), None)
        return f"{ran.name} {ran.version}" if ran else Path(self.record.agent).name

    @property
    def live(self) -> bool:
        """Whether something may still change."""
        return self.record.status == "running"


@dataclass(frozen=True)
class LeftFile:
    """A file in a trial's folder: its path there, and bytes."""

    path: str
    size: int


@dataclass(frozen=True)
class TrialPage:
    """All of a trial."""

    job: JobPage
    row: TrialRow
    trajectory: Trajectory
    context_plot: str
    verifier: Excerpt
    exception: Excerpt
    log: Excerpt
    agent_log: Excerpt
    files: tuple[LeftFile, ...]
    more_files: int

    @property
    def live(self) -> bool:
        return self.job.live and self.row.record is None

    @property
    def neighbours(self) -> tuple[TrialRow | None, TrialRow | None]:
        """The trials before and after this one in the plan."""
        names = [trial.name for trial in self.job.trials]
        at = names.index(self.row.name)
        trials = self.job.trials
        return (trials[at - 1] if at else None, trials[at + 1] if at + 1 < len(trials) else None)


@dataclass(frozen=True)
class Pair:
    """The same attempt at the same task in two jobs; `parts` is the first step that differs."""

    task: str
    attempt: int
    one: TrialRow | None
    other: TrialRow | None
    parts: int | None = None
    comparable: bool = False

    @property
    def shared(self) -> bool:
        """Whether both jobs have it."""
        return self.one is not None and self.other is not None

    @property
    def changed(self) -> bool:
        """Whether both have it, and the outcome or the reward is another."""
        if self.one is None or self.other is None:
            return False
        rewards = [row.record.reward if row.record else None for row in (self.one, self.other)]
        return self.one.outcome != self.other.outcome or rewards[0] != rewards[1]


@dataclass(frozen=True)
class Comparison:
    """Two jobs side by side."""

    one: JobPage
    other: JobPage
    pairs: tuple[Pair, ...]

    @property
    def shared(self) -> int:
        """Attempts that both jobs have."""
        return sum(pair.shared for pair in self.pairs)

    @property
    def changed(self) -> int:
        """Attempts whose result is another."""
        return sum(pair.changed for pair in self.pairs)


def list_jobs(jobs: dict[str, Path]) -> list[JobRow]:
    """The rows of these jobs, in their order."""
    rows: list[JobRow] = []
    for name, path in jobs.items():
        try:
            record = JobRecord.model_validate_json((path / "capstan.json").read_bytes())
            rows.append(JobRow(name, record))
        except (OSError, ValueError) as error:
            rows.append(JobRow(name, None, str(error).splitlines()[0]))
    return rows


def job_page(path: Path) -> JobPage:
    """A job, running or over. Raises JobError with one line where the folder is none."""
    view = read_job(path)
    lock = read_lock(view.directory.lock)
    rows = _rows(view, lock)
    by_task: dict[int, list[TrialRow]] = {}
    for planned, row in zip(lock.trials, rows, strict=True):
        by_task.setdefault(planned.task, []).append(row)
    records = view.trials
    return JobPage(
        name=path.name,
        record=view.record,
        tasks=tuple(
            TaskRow(lock.tasks[task].name, tuple(sorted(group, key=lambda row: row.attempt)))
            for task, group in by_task.items()
        ),
        trials=tuple(rows),
        cost_plot=reward_against_cost(
            [
                CostPoint(r.trial_name, r.metered.cost_usd, r.reward)
                for r in records
                if r.metered is not None and r.metered.calls and r.reward is not None
            ]
        ),
        time_plot=time_by_phase([PhaseRow(f"{r.task_name} {r.attempt}", _seconds(r)) for r in records]),
    )


def trial_page(path: Path, trial: str, limits: Limits = Limits()) -> TrialPage:  # noqa: B008 - it is frozen
    """One trial of the job in `path`. Raises JobError, and KeyError where it has no such trial."""
    job = job_page(path)
    row = next((row for row in job.trials if row.name == trial), None)
    if row is None:
        raise KeyError(trial)
    return one_trial(path, job, row, limits)


def one_trial(path: Path, job: JobPage, row: TrialRow, limits: Limits) -> TrialPage:
    """The page of a trial of a job that was read already."""
    folder = path / row.name
    trajectory = read_trajectory(folder, limits)
    files, more = left_files(folder)
    return TrialPage(
        job=job,
        row=row,
        trajectory=trajectory,
        context_plot=context_size(
            trajectory.context, [(number, mark.kind) for number, mark in trajectory.marks]
        ),
        verifier=_tail(folder, "verifier/test-stdout.txt", limits.text),
        exception=_tail(folder, "exception.txt", limits.text),
        log=_tail(folder, "trial.log", limits.text),
        agent_log=_tail(folder, "agent/agent.log", limits.text),
        files=files,
        more_files=more,
    )


def compare(one: Path, other: Path) -> Comparison:
    """Two jobs, task by task and attempt by attempt. Raises JobError."""
    left, right = job_page(one), job_page(other)
    ours = {(row.task, row.attempt): row for row in left.trials}
    theirs = {(row.task, row.attempt): row for row in right.trials}
    pairs: list[Pair] = []
    for key in dict.fromkeys([*ours, *theirs]):
        a, b = ours.get(key), theirs.get(key)
        parts, comparable = None, False
        if a is not None and b is not None and a.record is not None and b.record is not None:
            prints = [
                read_trajectory(one / a.name, _PRINTS).prints,
                read_trajectory(other / b.name, _PRINTS).prints,
            ]
            comparable = all(prints)
            parts = parts_at(*prints) if comparable else None
        pairs.append(Pair(key[0], key[1], a, b, parts, comparable))
    pairs.sort(key=lambda pair: (not pair.changed, not pair.shared))
    return Comparison(left, right, tuple(pairs))


_PRINTS = Limits(text=1, steps=2)


def left_files(folder: Path) -> tuple[tuple[LeftFile, ...], int]:
    """The regular files in a trial's folder, and how many more there are. Links are not followed."""
    found: list[LeftFile] = []
    more = 0
    for path in sorted(folder.rglob("*")):
        try:
            if path.is_symlink() or not path.is_file():
                continue
            size = path.stat().st_size
        except OSError:
            continue
        if len(found) < _MAX_FILES:
            found.append(LeftFile(path.relative_to(folder).as_posix(), size))
        else:
            more += 1
    return tuple(found), more


def _rows(view: StoredJob, lock: JobLock) -> list[TrialRow]:
    records = {record.trial_name: record for record in view.trials}
    return [_row(view, lock, planned, records.get(planned.trial_name)) for planned in lock.trials]


def _row(view: StoredJob, lock: JobLock, planned: PlannedTrial, record: TrialRecord | None) -> TrialRow:
    task = lock.tasks[planned.task].name
    if record is not None:
        return TrialRow(planned.trial_name, task, planned.attempt, _outcome(record), record)
    folder = view.directory.root / planned.trial_name
    if view.record.status != "running" or not folder.is_dir():
        return TrialRow(planned.trial_name, task, planned.attempt, "waiting")
    return TrialRow(planned.trial_name, task, planned.attempt, "running", phase=_phase(folder))


def _outcome(record: TrialRecord) -> Outcome:
    if record.status == "completed":
        return "passed" if record.passed else "failed"
    return "cancelled" if record.status == "cancelled" else "errored"


def _phase(folder: Path) -> str:
    path = regular_file_inside(folder, "trial.log")
    found = _PHASE.findall(_last_bytes(path).decode("utf-8", "replace")) if path else []
    return found[-1] if found else ""


def _tail(folder: Path, relative: str, limit: int) -> Excerpt:
    path = regular_file_inside(folder, relative)
    return excerpt(_last_bytes(path).decode("utf-8", "replace"), limit) if path else Excerpt("")


def _last_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - _LOG_TAIL))
            return file.read(_LOG_TAIL)
    except OSError:
        return b""


def _seconds(record: TrialRecord) -> dict[str, float]:
    names = {name: name.replace("_", " ") for name in record.phases}
    return {names[n]: s for n, timing in record.phases.items() if (s := timing.seconds) is not None}


def known(paths: Sequence[Path]) -> list[Path]:
    """These folders, each checked to be a job's. Raises JobError about the first that is none."""
    for path in paths:
        if not JobDirectory(path).record.is_file():
            raise JobError(f"{path}: no job of this runner (it has no capstan.json)")
    return list(paths)
