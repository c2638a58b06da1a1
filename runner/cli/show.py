"""`capstan show`, `view` and `report`: show jobs as tables, in a browser, or in one file."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from runner.cli.common import JobsDir, JsonFlag, print_json


def show(
    job: Annotated[
        Path | None, typer.Argument(metavar="JOB", help="A job's folder. [default: the newest]")
    ] = None,
    trials: Annotated[bool, typer.Option("--trials", help="Print one line a trial, not a task.")] = False,
    jobs_dir: JobsDir = None,
    as_json: JsonFlag = False,
) -> None:
    """Print the results of a job, which may still be running."""
    from runner.cli.tables import print_job

    directory = job or _newest(_jobs_dir(jobs_dir))
    if as_json:
        print_json(job_document(directory.resolve()))
    else:
        print_job(directory, sys.stdout, trials=trials)


def view(
    jobs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="JOB", help="Job folders. [default: all in --jobs-dir]"),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="The address to bind.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="The port to bind; 0 takes a free one.")] = 8000,
    jobs_dir: JobsDir = None,
) -> None:
    """Show jobs in a browser.

    The pages show rewards, costs and every step of every trial, also while a job runs.
    """
    from runner.jobs.errors import JobError
    from runner.pages.index import JobIndex, check_jobs
    from runner.pages.web import serve

    folder = None if jobs else _jobs_dir(jobs_dir)
    if folder is not None and not folder.is_dir():
        raise JobError(f"{folder}: no such folder; name a job, or start one with `capstan run`")
    serve(JobIndex(folder, check_jobs(jobs or [])), host, port)


def report(
    job: Annotated[Path, typer.Argument(metavar="JOB", help="The job's folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The file to write.")] = Path(
        "report.html"
    ),
) -> None:
    """Write a job as one HTML file.

    Long outputs are cut, so that 89 tasks stay under 2 MB.
    """
    from runner.jobs.errors import JobError
    from runner.pages.report import make_report
    from runner.results import write_atomically

    text = make_report(job.resolve())
    try:
        write_atomically(output.resolve(), text)
    except OSError as error:
        raise JobError(f"{output} cannot be written: {error.strerror}") from None
    typer.echo(f"{output}: {len(text.encode()):,} bytes")


def job_document(directory: Path) -> dict[str, object]:
    """Return `{"job_dir", "job", "trials"}`: the capstan.json of the job and of its trials."""
    from runner.jobs.results import read_job

    stored = read_job(directory)
    return {
        "job_dir": str(directory),
        "job": stored.record.model_dump(mode="json"),
        "trials": [trial.model_dump(mode="json") for trial in stored.trials],
    }


def _jobs_dir(flag: str | None) -> Path:
    from runner.config import load_config

    return Path(load_config({"jobs_dir": flag}).config.jobs_dir)


def _newest(jobs_dir: Path) -> Path:
    from runner.jobs.errors import JobError

    jobs = [path.parent for path in jobs_dir.glob("*/capstan.json")]
    if not jobs:
        raise JobError(f"{jobs_dir}: holds no job; start one with `capstan run`")
    return max(jobs, key=lambda path: (path / "capstan.json").stat().st_mtime)
