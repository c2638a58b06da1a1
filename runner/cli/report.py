"""`runner report`: a job in one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report")(report)


def report(
    job: Annotated[Path, typer.Argument(metavar="JOB", help="The job's folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The file to write.")] = Path("report.html"),
) -> None:
    """Write a job as one file that opens from the disk, under 2 MB for 89 tasks; long outputs are cut."""
    from runner.job.errors import JobError
    from runner.report.document import make_report
    from runner.results import write_atomically

    text = make_report(job.resolve())
    try:
        write_atomically(output.resolve(), text)
    except OSError as error:
        raise JobError(f"{output} cannot be written: {error.strerror}") from None
    typer.echo(f"{output}: {len(text.encode()):,} bytes")
