"""The same as the tables, as one JSON document on one line."""

from __future__ import annotations

import json
from pathlib import Path

from runner.report.reading import read_job


def job_document(directory: Path) -> str:
    """`{"job_dir", "job", "trials"}`: the job's capstan.json and those of its trials."""
    view = read_job(directory)
    document = {
        "job_dir": str(directory),
        "job": view.record.model_dump(mode="json"),
        "trials": [trial.model_dump(mode="json") for trial in view.trials],
    }
    return json.dumps(document, sort_keys=True)
