"""A job's own files, Harbor's result.json and our capstan.json: write and read them."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal
from uuid import UUID

from pydantic import BaseModel, ValidationError

from runner.jobs.errors import JobError
from runner.jobs.layout import JobDirectory, no_job
from runner.jobs.lock import JobLock, PlannedTrial, read_lock
from runner.jobs.model import model_source
from runner.results import (
    UNKNOWN_AGENT,
    AgentRecord,
    ModelSource,
    Reason,
    TrialRecord,
    harbor,
    local_now,
    write_model,
)
from runner.results.scoring import JobSummary, dataset_pass_at_k, reported_ks, summarise

JobStatus = Literal["running", "completed", "interrupted", "cancelled"]


class JobRecord(BaseModel):
    """`capstan.json` of a job: what tables and pages show of it.

    `problem` says why the file could not be read. The record was then made from the job's trials.
    `nodes` names the node of the cluster that each running trial runs on.
    """

    schema_version: int = 1
    job_id: UUID
    job_name: str
    status: JobStatus
    agent: str
    agent_digest: str | None = None
    rules: Literal["validator", "harbor"]
    isolation: str
    environment_kind: str
    model: ModelSource
    attempts: int
    n_tasks: int
    started_at: datetime
    finished_at: datetime | None = None
    summary: JobSummary
    problem: str | None = None
    nodes: dict[str, str] = {}


@dataclass(frozen=True)
class StoredJob:
    """A job as stored in its folder: its record, and those of its ended trials in order."""

    directory: JobDirectory
    lock: JobLock
    record: JobRecord
    trials: list[TrialRecord]


def read_job(path: Path) -> StoredJob:
    """Read a job's folder. Raises JobError with one line where it is none.

    An unreadable record hides nothing but itself: that of a trial counts as an errored trial, and
    that of the job is made again from its trials.
    """
    directory = JobDirectory(path.resolve())
    if not directory.record.is_file():
        raise JobError(no_job(path / directory.record.name))
    lock = read_lock(directory.lock)
    trials = [
        _read_trial(directory.trial(planned.trial_name).record, lock, planned)
        for planned in lock.trials
        if directory.trial(planned.trial_name).record.is_file()
    ]
    try:
        record = JobRecord.model_validate_json(directory.record.read_bytes())
    except (OSError, ValidationError) as error:
        status: JobStatus = "completed" if len(trials) == len(lock.trials) else "interrupted"
        model = trials[0].model if trials else model_source(lock.config, needed=lock.agent_digest is not None)
        record = _job_record(
            directory, lock, model, status, None, summarise(trials, n_total=len(lock.trials))
        ).model_copy(update={"problem": _unreadable(directory.record, error)})
    return StoredJob(directory, lock, record, trials)


def _read_trial(path: Path, lock: JobLock, planned: PlannedTrial) -> TrialRecord:
    """Return a trial's record. One that cannot be read is an errored trial that says so."""
    try:
        return TrialRecord.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        task = lock.tasks[planned.task]
        return TrialRecord(
            trial_name=planned.trial_name,
            task_name=task.name,
            task_path=task.path,
            task_digest=task.digest,
            attempt=planned.attempt,
            rules=lock.config.rules,
            status="errored",
            reason_code=Reason.RESULT_MALFORMED,
            error_type="UnreadableRecord",
            error=_unreadable(path, error),
            agent=AgentRecord(source=lock.config.agent, digest=lock.agent_digest),
            model=model_source(lock.config, needed=lock.agent_digest is not None),
        )


def _unreadable(path: Path, error: OSError | ValidationError) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        cause = f"{where}: {first['msg']}" if where else first["msg"]
    else:
        cause = error.strerror or type(error).__name__
    return f"{path.parent.name}/{path.name} is unreadable: {cause}"


class JobResultWriter:
    """Keeps a job's counts and its two files up to date. Times are local without a zone."""

    def __init__(self, directory: JobDirectory, lock: JobLock, model: ModelSource) -> None:
        self._directory = directory
        self._lock = lock
        self._model = model
        self._records: dict[str, TrialRecord] = {}
        self._agent_name: str | None = None
        self._started_at = lock.created_at

    @property
    def records(self) -> list[TrialRecord]:
        """The trials that have ended, in planned order."""
        return [self._records[t.trial_name] for t in self._lock.trials if t.trial_name in self._records]

    @property
    def n_total(self) -> int:
        """Trials planned."""
        return len(self._lock.trials)

    def add(self, record: TrialRecord) -> None:
        """Add the final record of a trial."""
        self._records[record.trial_name] = record
        if record.agent.name not in (UNKNOWN_AGENT, self._agent_name):
            self._agent_name = record.agent.name
            self.write_config()

    def summary(self) -> JobSummary:
        """Return the figures so far."""
        return summarise(self._records.values(), n_total=self.n_total)

    def write_config(self) -> None:
        """Write `config.json`: when the job begins, and when a trial has told the agent's name."""
        write_model(self._directory.config, job_config(self._directory, self._lock, self._agent_name))

    def write(
        self, status: JobStatus, *, n_running: int, nodes: Mapping[str, str] | None = None
    ) -> JobSummary:
        """Write both files as things stand. `nodes` are those of running trials, on a cluster."""
        now = local_now()
        finished = None if status == "running" else now
        summary = self.summary()
        result = harbor.JobResult(
            id=self._lock.job_id,
            started_at=self._started_at,
            updated_at=now,
            finished_at=finished,
            n_total_trials=self.n_total,
            stats=self._stats(summary, n_running),
        )
        record = _job_record(self._directory, self._lock, self._model, status, finished, summary)
        write_model(self._directory.record, record.model_copy(update={"nodes": dict(nodes or {})}))
        write_model(self._directory.result, result)
        return summary

    def _stats(self, summary: JobSummary, n_running: int) -> harbor.JobStats:
        records = self.records
        metered = summary.metered
        groups: dict[str, list[TrialRecord]] = defaultdict(list)
        for record in records:
            parts = [record.agent.name, record.model.name, record.dataset or "adhoc"]
            groups["__".join(part for part in parts if part)].append(record)
        return harbor.JobStats(
            n_completed_trials=len(records),
            n_errored_trials=sum(record.error_type is not None for record in records),
            n_running_trials=n_running,
            n_pending_trials=max(0, self.n_total - len(records) - n_running),
            n_cancelled_trials=summary.n_cancelled,
            n_retries=summary.n_retries,
            n_input_tokens=metered.prompt_tokens if metered.calls else None,
            n_cache_tokens=metered.cache_hit_tokens if metered.calls else None,
            n_output_tokens=metered.completion_tokens if metered.calls else None,
            cost_usd=metered.cost_usd if metered.calls else None,
            evals={key: _eval_stats(group) for key, group in groups.items()},
        )


def _job_record(
    directory: JobDirectory,
    lock: JobLock,
    model: ModelSource,
    status: JobStatus,
    finished_at: datetime | None,
    summary: JobSummary,
) -> JobRecord:
    config = lock.config
    return JobRecord(
        job_id=lock.job_id,
        job_name=directory.name,
        status=status,
        agent=config.agent,
        agent_digest=lock.agent_digest,
        rules=config.rules,
        isolation=config.isolation,
        environment_kind=lock.environment_kind,
        model=model,
        attempts=config.attempts,
        n_tasks=len(lock.tasks),
        started_at=lock.created_at,
        finished_at=finished_at,
        summary=summary,
    )


def mark_cancelled(path: Path) -> None:
    """Say in a job's record that it was cancelled. A job that has not begun has no record."""
    try:
        record = JobRecord.model_validate_json(JobDirectory(path).record.read_bytes())
    except (OSError, ValidationError):
        return
    changes = {"status": "cancelled", "finished_at": record.finished_at or local_now()}
    write_model(JobDirectory(path).record, record.model_copy(update=changes))


def job_config(directory: JobDirectory, lock: JobLock, agent_name: str | None) -> harbor.JobConfig:
    """Return `config.json` of a job in Harbor's form."""
    config = lock.config
    return harbor.JobConfig(
        job_name=directory.name,
        jobs_dir=str(directory.root.parent),
        n_attempts=config.attempts,
        timeout_multiplier=config.timeout_multiplier,
        agent_timeout_multiplier=config.agent_timeout_multiplier,
        verifier_timeout_multiplier=config.verifier_timeout_multiplier,
        agent_setup_timeout_multiplier=config.setup_timeout_multiplier,
        environment_build_timeout_multiplier=config.build_timeout_multiplier,
        n_concurrent_trials=config.concurrency or 1,
        retry=harbor.RetryConfig(max_retries=config.max_retries),
        environment=harbor.environment_config(lock.environment_kind, config),
        agents=[harbor.agent_config(config.agent, config.model_name, agent_name)],
        tasks=[
            harbor.TaskRef(path=t.path, source=None if t.dataset == "adhoc" else t.dataset)
            for t in lock.tasks
        ],
    )


def _eval_stats(records: Sequence[TrialRecord]) -> harbor.EvalStats:
    stats = harbor.EvalStats()
    passes: dict[str, list[bool]] = defaultdict(list)
    for record in records:
        passes[record.task_path].append(record.passed)
        if record.rewards is not None:
            stats.n_trials += 1
            for name, value in record.rewards.items():
                stats.reward_stats.setdefault(name, {}).setdefault(value, []).append(record.trial_name)
        if record.error_type is not None:
            stats.n_errors += 1
            stats.exception_stats.setdefault(record.error_type, []).append(record.trial_name)
    stats.metrics = [{"mean": statistics.mean(record.reward or 0.0 for record in records)}]
    shown = dataset_pass_at_k(passes)
    stats.pass_at_k = {k: value for k, value in shown.items() if k > 1 and k in reported_ks(max(shown))}
    return stats
