"""`capstan serve`: the evaluation service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runner.cli.common import ConfigFile, described

_JOBS = "Defaults for jobs"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("serve")(serve)


def serve(
    host: Annotated[
        str | None,
        typer.Option("--host", help=described("The address to bind.", "SERVICE_HOST", "127.0.0.1")),
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            "--port", help=described("The port to bind; 0 takes a free one.", "SERVICE_PORT", "8080")
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            "--token",
            help=described(
                "The token that every route but /health requires. Prefer the variable: other users of the "
                "machine can see a command line.",
                "SERVICE_TOKEN",
                "none",
            ),
        ),
    ] = None,
    tasks: Annotated[
        Path | None,
        typer.Option(
            "--tasks", help=described("The directory of tasks.", "TB2_DIR", "data/terminal-bench-2-main")
        ),
    ] = None,
    timeout_keep_alive: Annotated[
        int | None,
        typer.Option(
            "--timeout-keep-alive",
            help=described("Seconds an idle connection is kept.", "TIMEOUT_KEEP_ALIVE", "5"),
        ),
    ] = None,
    agent: Annotated[
        str | None,
        typer.Option(
            "--agent",
            "-a",
            help=described(
                "A ZIP, a directory with agent.py, or oracle or nop.", "CAPSTAN_AGENT", "Capstan's"
            ),
            rich_help_panel=_JOBS,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help=described("live, replay:FILE or script:PATH.", "CAPSTAN_MODEL", "live"),
            rich_help_panel=_JOBS,
        ),
    ] = None,
    environment: Annotated[
        str | None,
        typer.Option(
            "--env",
            "-e",
            help=described(
                "What tasks run in: auto, docker, sandbox or proot.", "CAPSTAN_ENVIRONMENT", "auto"
            ),
            rich_help_panel=_JOBS,
        ),
    ] = None,
    isolation: Annotated[
        str | None,
        typer.Option(
            "--isolation",
            help=described("process or dind, as for `run`.", "CAPSTAN_ISOLATION", "process"),
            rich_help_panel=_JOBS,
        ),
    ] = None,
    jobs_dir: Annotated[
        str | None,
        typer.Option(
            "--jobs-dir",
            "-o",
            metavar="DIR",
            help=described("The folder that holds job folders.", "CAPSTAN_JOBS_DIR", "jobs"),
            rich_help_panel=_JOBS,
        ),
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Serve the evaluation API, jobs and their pages.

    `GET /health` and `POST /api/tasks` are Terminal-Bench-server's.

    docs/service.md lists the routes and every variable.
    """
    from runner.config import ConfigError, load_config
    from runner.service import load_settings
    from runner.service.server import serve as serve_now

    settings = load_settings(
        {
            "service_host": host,
            "service_port": port,
            "service_token": token,
            "tb2_dir": tasks,
            "timeout_keep_alive": timeout_keep_alive,
        }
    )
    resolved = load_config(
        {
            "agent": agent,
            "model": model,
            "environment": environment,
            "isolation": isolation,
            "jobs_dir": jobs_dir,
        },
        file=config,
    )
    base = resolved.config
    if not base.agent:
        if not (own := _own_agent()):
            raise ConfigError("--agent: name a ZIP or a folder: Capstan's own agent is not here")
        base = base.model_copy(update={"agent": own})
    serve_now(settings, base, resolved.secrets)


def _own_agent() -> str:
    """Return the folder of Capstan's own agent where the service runs from its repository, else ""."""
    root = Path(__file__).parents[2]
    return str(root) if (root / "agent.py").is_file() else ""
