"""The events of a job, for the live table, plain lines and the service."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from runner.jobs.context import ClusterUse, JobContext, TrialProgress
from runner.jobs.results import JobResultWriter
from runner.results import TrialRecord
from runner.results.scoring import JobSummary


class JobObserver:
    """Is called from the job's event loop and must not block. This one ignores every event."""

    def job_started(
        self, context: JobContext, results: JobResultWriter, running: Mapping[str, TrialProgress]
    ) -> None:
        """All is ready. `results` and `running` (by trial name) change as the job goes on."""

    def cluster_joined(self, use: Callable[[], ClusterUse]) -> None:
        """The trials will run on a cluster, once each has a node. Comes before `job_started`."""

    def trial_started(self, progress: TrialProgress) -> None:
        """A trial, or another try of it, begins. On a cluster it may wait for a node first."""

    def trial_placed(self, progress: TrialProgress) -> None:
        """A trial, or another try of it, begins on a node of the cluster, `progress.node`."""

    def trial_retried(self, progress: TrialProgress, record: TrialRecord, wait_sec: float) -> None:
        """A try failed because of the infrastructure; the next one begins after `wait_sec`."""

    def trial_ended(self, record: TrialRecord) -> None:
        """A trial has its final record."""

    def note(self, line: str, *, warning: bool = True) -> None:
        """Report something a person should know, such as a warning about a task."""

    def job_ended(self, summary: JobSummary, records: Sequence[TrialRecord]) -> None:
        """The job is over, or was interrupted."""

    def close(self) -> None:
        """Stop showing anything. May be called at any time."""
