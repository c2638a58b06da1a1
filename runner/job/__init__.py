"""Jobs: planning, running, interrupting and resuming many trials."""

from runner.job.directory import JobDirectory
from runner.job.errors import JobBusy, JobChanged, JobError, NothingToRun
from runner.job.host import JobHost
from runner.job.job import Job
from runner.job.observer import JobObserver, SilentObserver
from runner.job.open import new_job, resumed_job

__all__ = [
    "Job",
    "JobBusy",
    "JobChanged",
    "JobDirectory",
    "JobError",
    "JobHost",
    "JobObserver",
    "NothingToRun",
    "SilentObserver",
    "new_job",
    "resumed_job",
]
