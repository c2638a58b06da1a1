"""The commands put together, and what every end of the program has in common."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from runner.cli import cleanup, doctor, images, report, resume, run, serve, settings, show, tasks, view
from runner.cli.output import ResultLineOnce, fail

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

# The commands whose last line on stdout is the result line, however they end.
_JOB_COMMANDS = ("run", "resume")

app = typer.Typer(
    name="runner",
    help="Runs agents on Terminal-Bench tasks, and scores them as the validator does.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (run, resume, show, view, report, serve, settings, doctor, cleanup):
    module.register(app)
app.add_typer(tasks.app, name="tasks")
app.add_typer(images.app, name="images")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; the exit code. docs/runner.md says what each code means."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    result_line = ResultLineOnce()
    code, reason = EXIT_FAILED, None
    try:
        code, reason = _dispatch(given, result_line)
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    finally:
        if code != EXIT_OK and given[:1] and given[0] in _JOB_COMMANDS:
            result_line.ensure(reason, interrupted=code == EXIT_INTERRUPTED)
    return code


def _dispatch(arguments: list[str], result_line: ResultLineOnce) -> tuple[int, str | None]:
    """The exit code, and the reason code where a job could not be run."""
    try:
        app(arguments, prog_name="python -m runner", obj=result_line)
    except SystemExit as end:  # typer ends every command, and every wrong use, in this way
        return end.code if isinstance(end.code, int) else EXIT_OK if end.code is None else EXIT_FAILED, None
    except Exception as error:
        return _expected(error)
    return EXIT_OK, None


def _expected(error: Exception) -> tuple[int, str | None]:
    """One line for an error that names its own remedy; a traceback for one that should not have been."""
    from runner.config import ConfigError
    from runner.environments import EnvironmentError_
    from runner.job.errors import JobError, NothingToRun
    from runner.tasks import TaskError

    if isinstance(error, (ConfigError, NothingToRun)):
        fail(str(error))
        return EXIT_USAGE, None
    if isinstance(error, JobError):
        fail(str(error))
        return EXIT_FAILED, error.reason.value
    if isinstance(error, (TaskError, EnvironmentError_)):
        fail(str(error))
        return EXIT_FAILED, None
    import traceback

    traceback.print_exception(error)
    fail(f"{type(error).__name__}: {error} (this should not have happened; the lines above say where)")
    return EXIT_FAILED, None
