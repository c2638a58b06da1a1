"""Options, exit codes and messages that several commands share."""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pydantic import BaseModel

    from runner.results.scoring import ResultLine
    from runner.tasks import Dataset

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def setting(*flags: str, help: str, env: str = "", default: str = "", metavar: str | None = None) -> Any:
    """Declare an option for a setting. Its help names the environment variable and the default.

    The value is None where the option is not given, so that `load_config` can look further.

    Args:
        flags: The long one comes last.
        env: The variable, unless it is named like the flag (CAPSTAN_MAX_RETRIES for --max-retries).
    """
    variable = env or "CAPSTAN_" + flags[-1].removeprefix("--").replace("-", "_").upper()
    text = f"{help} [env: {variable}]" + (f" [default: {default}]" if default else "")
    return typer.Option(*flags, metavar=metavar, help=text)


def given(context: typer.Context, model: type[BaseModel]) -> dict[str, Any]:
    """Return the options of a command that are named like a setting of the model."""
    return {name: value for name, value in context.params.items() if name in model.model_fields}


# Options that several commands have.
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
ConfigFile = Annotated[
    Path | None,
    setting("--config", metavar="FILE", help="Read settings from this TOML file.", default="capstan.toml"),
]
Include = Annotated[
    list[str] | None, typer.Option("-i", "--task", metavar="GLOB", help="Only tasks that match. Repeatable.")
]
Exclude = Annotated[
    list[str] | None, typer.Option("-x", "--exclude", metavar="GLOB", help="No tasks that match. Repeatable.")
]
AgentPath = Annotated[
    str | None, setting("-a", "--agent", help="A ZIP, a directory with agent.py, or oracle or nop.")
]
EnvironmentName = Annotated[
    str | None,
    setting(
        "-e",
        "--env",
        metavar="KIND",
        help="What tasks run in: auto, docker, sandbox or proot.",
        env="CAPSTAN_ENVIRONMENT",
        default="auto",
    ),
]
IsolationName = Annotated[
    str | None,
    setting(
        "--isolation",
        metavar="KIND",
        help="process: beside the runner. dind: agent, engine and tasks in a container without a network.",
        default="process",
    ),
]
Place = Annotated[
    str | None,
    setting(
        "--on",
        metavar="PLACE",
        help="Where trials run: here, ray, ray=HOST:PORT or ray=local (docs/scaling.md).",
        default="here",
    ),
]
RelayListen = Annotated[
    str | None,
    setting(
        "--relay-listen",
        metavar="HOST:PORT",
        help="With --on ray, where the nodes reach the model relay.",
        default="this machine's address in the cluster, a free port",
    ),
]
RelayCertificate = Annotated[
    str | None, setting("--relay-cert", metavar="FILE", help="The relay's certificate for the nodes (PEM).")
]
RelayKey = Annotated[
    str | None, setting("--relay-key", metavar="FILE", help="The key of --relay-cert (PEM).")
]
ClusterTimeout = Annotated[
    float | None,
    setting(
        "--cluster-timeout",
        metavar="SECONDS",
        help="How long a cluster may be silent before the job ends as interrupted.",
        env="CAPSTAN_CLUSTER_TIMEOUT_SEC",
        default="60",
    ),
]
AllowTaskNetwork = Annotated[
    bool | None,
    setting(
        "--allow-task-network",
        help="Let tasks that ask for a network have one in --isolation dind.",
        default="false",
    ),
]
JobsDir = Annotated[
    str | None,
    setting("-o", "--jobs-dir", metavar="DIR", help="The folder that holds job folders.", default="jobs"),
]
TaskPaths = Annotated[
    list[Path], typer.Argument(metavar="TASKS", help="Task directories, or directories of tasks.")
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


def load_datasets(
    paths: list[Path], include: list[str] | None, exclude: list[str] | None, limit: int | None = None
) -> list[Dataset]:
    """Load the tasks of each path, as the options choose them."""
    from runner.tasks import load_dataset

    return [load_dataset(path, include=include or (), exclude=exclude or (), limit=limit) for path in paths]


def fail(message: str) -> None:
    """Print one error line on stderr."""
    sys.stderr.write(f"error: {message}\n")


def warn(message: str) -> None:
    """Print one warning line on stderr."""
    sys.stderr.write(f"warning: {message}\n")


def print_json(document: object) -> None:
    """Print a JSON document on stdout, on one line and with sorted keys."""
    sys.stdout.write(json.dumps(document, sort_keys=True) + "\n")
    sys.stdout.flush()
