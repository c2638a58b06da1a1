"""`runner view`: pages of jobs, in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("view")(view)


def view(
    jobs: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[JOB…]", help="Folders of jobs (default: all in --jobs-dir)."),
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to bind.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="Port to bind; 0: a free one.")] = 8000,
    jobs_dir: Annotated[Path, typer.Option("--jobs-dir", "-o", help="Where job folders lie.")] = Path("jobs"),
) -> None:
    """Show jobs in a browser, finished or running: rewards, costs, and every step of every trial."""
    from runner.job.errors import JobError
    from runner.report.server import serve
    from runner.report.shelf import Shelf
    from runner.report.views import known

    if not jobs and not jobs_dir.is_dir():
        raise JobError(f"{jobs_dir}: no such folder; name a job, or start one with `python -m runner run`")
    shelf = Shelf(None if jobs else jobs_dir, known(jobs or []))
    serve(shelf, host, port)
