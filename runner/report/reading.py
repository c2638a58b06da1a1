"""A job as it lies in its folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from runner.job.books import JobRecord
from runner.job.directory import JobDirectory
from runner.job.errors import JobError
from runner.job.lock import read_lock
from runner.results import TrialRecord


@dataclass(frozen=True)
class JobView:
    """The job's record, and those of its trials that have ended (in the order of the plan)."""

    directory: JobDirectory
    record: JobRecord
    trials: list[TrialRecord]


def read_job(path: Path) -> JobView:
    """Read a job's folder. Raises JobError with one line where it is none."""
    directory = JobDirectory(path.resolve())
    try:
        record = JobRecord.model_validate_json(directory.record.read_bytes())
    except FileNotFoundError:
        raise JobError(f"{path}: no job of this runner (it has no {directory.record.name})") from None
    except (OSError, ValidationError) as error:
        raise JobError(f"{directory.record}: unreadable: {str(error).splitlines()[0]}") from None
    trials: list[TrialRecord] = []
    for trial in read_lock(directory.lock).trials:
        file = directory.trial(trial.trial_name).record
        if file.is_file():
            trials.append(_read_trial(file))
    return JobView(directory, record, trials)


def _read_trial(path: Path) -> TrialRecord:
    try:
        return TrialRecord.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise JobError(f"{path}: unreadable: {str(error).splitlines()[0]}") from None
