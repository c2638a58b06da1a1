"""The `capstan` command: its subcommands, and how every one of them ends."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Annotated

import typer

from runner import __version__
from runner.cli import cluster, doctor, images, model, run, serve, show, tasks
from runner.cli.common import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USAGE,
    ResultLineOnce,
    fail,
)

# The commands whose last line on stdout is the result line, however they end.
_JOB_COMMANDS = ("run", "resume")

app = typer.Typer(
    name="capstan",
    help="Run agents on Terminal-Bench tasks and score them as the Agent Challenge's validator does.\n\n"
    "Start with `capstan doctor`, then\n"
    "`capstan run examples/tasks --agent . --model script:examples/scripts`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (
    run.run,
    run.resume,
    show.show,
    show.view,
    show.report,
    serve.serve,
    model.model,
    doctor.doctor,
    cluster.cluster,
):
    app.command()(command)
app.command("config")(doctor.show_settings)
app.command()(doctor.cleanup)
app.add_typer(tasks.app, name="tasks")
app.add_typer(images.app, name="images")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"capstan {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options of the command itself."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code. docs/runner.md explains each code."""
    use_default_signals()
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
        if code == EXIT_INTERRUPTED:
            # A second signal now would end the interpreter's own ending, with another exit code.
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
    if arguments is None and "ray" in sys.modules:
        # Ray's threads can crash the interpreter while it ends, which would change the exit code.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def use_default_signals() -> None:
    """Let the processes that this one starts have default signals, also after `nohup` or `&`.

    A signal that is ignored stays so in a new program, while one with a handler is reset. So this
    process ignores them with a handler from now on.
    """
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, _ignore)


def _ignore(number: int, frame: FrameType | None) -> None: ...


def _dispatch(arguments: list[str], result_line: ResultLineOnce) -> tuple[int, str | None]:
    """Return the exit code, and the reason code where a job could not be run."""
    try:
        app(arguments, prog_name="capstan", obj=result_line)
    except SystemExit as end:  # typer ends every command, and every wrong use, in this way
        return end.code if isinstance(end.code, int) else EXIT_OK if end.code is None else EXIT_FAILED, None
    except Exception as error:
        return _expected(error)
    return EXIT_OK, None


def _expected(error: Exception) -> tuple[int, str | None]:
    """Print one line for an error that says what to do, and a traceback for any other."""
    # Imported here, so that `capstan --help` is quick.
    from runner.config import ConfigError
    from runner.environments import EnvironmentFailure
    from runner.jobs.errors import JobError, NothingToRun
    from runner.results import Reason, is_disk_full
    from runner.tasks import NoTasks, TaskError

    if isinstance(error, (ConfigError, NothingToRun, NoTasks)):
        fail(str(error))
        return EXIT_USAGE, None
    if isinstance(error, JobError):
        fail(str(error))
        return EXIT_FAILED, error.reason.value
    if isinstance(error, OSError) and is_disk_full(error):
        fail(str(error))
        return EXIT_FAILED, Reason.DISK_FULL.value
    if isinstance(error, (TaskError, EnvironmentFailure)):
        fail(str(error))
        return EXIT_FAILED, None
    import traceback

    traceback.print_exception(error)
    fail(f"{type(error).__name__}: {error} (this is a fault of Capstan's; the lines above say where)")
    return EXIT_FAILED, None
