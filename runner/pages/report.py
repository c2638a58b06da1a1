"""The report: a job in one small HTML file that opens from the disk and contacts no host."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path

from runner.pages.render import render, static
from runner.pages.trajectory import PageLimits
from runner.pages.views import JobPage, TrialRow, build_trial_page, job_page

# For all trials together, so that a job of 89 tasks stays under 2 MB.
TRIALS_BYTES = 1_800_000
LARGEST_TRIAL_BYTES = 400_000
# Tried in turn until a trial fits into its share.
_LIMITS = tuple(
    PageLimits(text=text, steps=steps)
    for text, steps in ((20_000, 1000), (4_000, 400), (1_500, 200), (600, 100), (300, 40), (120, 20), (60, 6))
)


def make_report(path: Path) -> str:
    """Return the report of the job in `path` as HTML. Raises JobError."""
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
    """Yield each started trial with its HTML. Later trials may use what earlier ones left."""
    rows = [row for row in job.trials if row.outcome != "waiting"]
    left = TRIALS_BYTES
    first = 0  # limits that were too large for one trial are probably too large for the next
    for number, row in enumerate(rows):
        share = min(LARGEST_TRIAL_BYTES, left // (len(rows) - number))
        html = ""
        for index, limits in enumerate(_LIMITS[first:], first):
            html = render("report_trial.html", trial=build_trial_page(path, job, row, limits))
            if len(html.encode()) <= share:
                first = max(0, index - 1)
                break
        else:
            first = len(_LIMITS) - 1
            html = render("report_trial_short.html", row=row)
        left -= len(html.encode())
        yield row, html


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"sha256-{base64.b64encode(digest).decode()}"
