"""Options that several commands share, exit codes, and lines that every command prints in the same way."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from runner.results.scoring import ResultLine

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def described(text: str, variable: str, default: str = "") -> str:
    """Return an option's help with its environment variable and its default."""
    return f"{text} [env: {variable}]" + (f" [default: {default}]" if default else "")


JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help=described("Read settings from this TOML file.", "CAPSTAN_CONFIG", "capstan.toml"),
    ),
]
Include = Annotated[
    list[str] | None,
    typer.Option(
        "--task",
        "-i",
        metavar="GLOB",
        help=described("Run only tasks that match. Repeatable.", "CAPSTAN_INCLUDE"),
    ),
]
Exclude = Annotated[
    list[str] | None,
    typer.Option(
        "--exclude",
        "-x",
        metavar="GLOB",
        help=described("Leave out tasks that match. Repeatable.", "CAPSTAN_EXCLUDE"),
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        "--limit", "-l", metavar="N", help=described("Run only the first N tasks.", "CAPSTAN_LIMIT")
    ),
]
JobsDir = Annotated[
    Path,
    typer.Option("--jobs-dir", "-o", metavar="DIR", help="The folder that holds job folders."),
]
TaskPaths = Annotated[
    list[Path], typer.Argument(metavar="TASKS…", help="Task directories, or directories of tasks.")
]


class ResultLineOnce:
    """Print the result line at most once, as the last line on stdout."""

    def __init__(self) -> None:
        self._printed = False

    def print(self, line: ResultLine) -> None:
        """Print the line, unless one was printed before."""
        if not self._printed:
            self._printed = True
            # A closed pipe must not turn a verdict into a traceback.
            with contextlib.suppress(BrokenPipeError):
                sys.stdout.write(line.render() + "\n")
                sys.stdout.flush()

    def ensure(self, reason: str | None, *, interrupted: bool) -> None:
        """Print a line that says the job failed, unless a line was printed before."""
        if not self._printed:
            from runner.results import Reason
            from runner.results.scoring import failed_line

            known = Reason.CANCELLED if interrupted else Reason(reason) if reason else Reason.JOB_FAILED
            self.print(failed_line(known))


def fail(message: str) -> None:
    """Print one error line on stderr."""
    sys.stderr.write(f"error: {message}\n")


def warn(message: str) -> None:
    """Print one warning line on stderr."""
    sys.stderr.write(f"warning: {message}\n")


def print_json(text: str) -> None:
    """Print a JSON document on stdout, on one line."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
