"""What happens in a job, as events that clients can follow and come back to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from runner.results import TrialRecord
from runner.scoring import JobSummary
from runner.trial import TrialProgress

if TYPE_CHECKING:
    from runner.job import Job

Tell = Callable[[str, dict[str, Any]], None]


class EventObserver:
    """A `runner.job.JobObserver` that tells each thing once. `redact` takes secrets out of every line."""

    def __init__(self, tell: Tell, redact: Callable[[str], str]) -> None:
        self._tell = tell
        self._redact = redact

    def job_started(self, job: Job) -> None:
        self._tell(
            "job_started",
            {"trials": [{"trial": t.trial_name, "attempt": t.attempt} for t in job.parts.lock.trials]},
        )

    def trial_started(self, progress: TrialProgress) -> None:
        plan = progress.plan
        self._tell(
            "trial_started", {"trial": plan.trial_name, "task": plan.task_name, "attempt": plan.attempt}
        )

    def trial_retried(self, progress: TrialProgress, record: TrialRecord, wait_sec: float) -> None:
        self._tell(
            "trial_retried",
            {
                "trial": progress.plan.trial_name,
                "error": self._redact(record.error or ""),
                "wait_sec": wait_sec,
            },
        )

    def trial_ended(self, record: TrialRecord) -> None:
        self._tell(
            "trial_ended",
            {
                "trial": record.trial_name,
                "task": record.task_name,
                "attempt": record.attempt,
                "status": record.status,
                "reward": record.reward,
                "passed": record.passed,
                "timed_out": record.timed_out,
                "error": None if record.error is None else self._redact(record.error),
            },
        )

    def note(self, line: str, *, warning: bool = True) -> None:
        self._tell("note", {"line": self._redact(line), "warning": warning})

    def job_ended(self, summary: JobSummary, records: Sequence[TrialRecord]) -> None:
        """The desk tells the end itself, once the job's folder is given back."""
