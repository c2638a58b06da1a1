"""The report: a job in one file that opens from the disk, asks no other host, and stays small."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path

from runner.pages.render import render, static
from runner.pages.trajectory import Limits
from runner.pages.views import JobPage, TrialRow, job_page, one_trial

# A job of 89 tasks is to stay under 2 MB; what comes beyond the trials is some tens of kilobytes.
BUDGET_BYTES = 1_800_000
LARGEST_TRIAL_BYTES = 400_000
# Tried in turn for each trial, until it fits into its share.
_LIMITS = tuple(
    Limits(text=text, steps=steps)
    for text, steps in ((20_000, 1000), (4_000, 400), (1_500, 200), (600, 100), (300, 40), (120, 20), (60, 6))
)


def make_report(path: Path) -> str:
    """The report of the job in `path`, as HTML. Raises JobError."""
    job = job_page(path)
    script = static("page.js")
    style = f"{static('style.css')}\n{static('plots.css')}"
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    return render(
        "report.html", job=job, trials=list(_trials(path, job)), script=script, style=style, policy=policy
    )


def _trials(path: Path, job: JobPage) -> Iterator[tuple[TrialRow, str]]:
    """Each trial that has begun, with its part of the report; what one leaves unused the next may have."""
    begun = [row for row in job.trials if row.outcome != "waiting"]
    left = BUDGET_BYTES
    first = 0  # what was too much for one trial will hardly fit for the next
    for number, row in enumerate(begun):
        share = min(LARGEST_TRIAL_BYTES, left // (len(begun) - number))
        text = ""
        for index, limits in enumerate(_LIMITS[first:], first):
            text = render("report_trial.html", trial=one_trial(path, job, row, limits))
            if len(text.encode()) <= share:
                first = max(0, index - 1)
                break
        else:
            first = len(_LIMITS) - 1
            text = render("report_trial_short.html", row=row)
        left -= len(text.encode())
        yield row, text


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
