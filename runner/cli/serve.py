"""`runner serve`: the evaluation service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runner.cli.options import ConfigFile

_JOBS = "What jobs are made of, where requests leave it open"


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("serve")(serve)


def serve(
    host: Annotated[str | None, typer.Option("--host", help="Address to bind (127.0.0.1).")] = None,
    port: Annotated[int | None, typer.Option("--port", help="Port to bind (8080); 0: a free one.")] = None,
    token: Annotated[
        str | None,
        typer.Option("--token", help="What every route but /health wants (better: SERVICE_TOKEN)."),
    ] = None,
    tasks: Annotated[Path | None, typer.Option("--tasks", help="The directory of tasks (TB2_DIR).")] = None,
    timeout_keep_alive: Annotated[
        int | None, typer.Option("--timeout-keep-alive", help="Seconds an idle connection is kept (5).")
    ] = None,
    agent: Annotated[
        str | None,
        typer.Option("--agent", "-a", help="A ZIP, folder, oracle or nop.", rich_help_panel=_JOBS),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="live, replay:FILE or script:PATH.", rich_help_panel=_JOBS),
    ] = None,
    environment: Annotated[
        str | None, typer.Option("--env", "-e", help="auto, docker or sandbox.", rich_help_panel=_JOBS)
    ] = None,
    isolation: Annotated[
        str | None, typer.Option("--isolation", help="process or dind.", rich_help_panel=_JOBS)
    ] = None,
    jobs_dir: Annotated[
        str | None, typer.Option("--jobs-dir", "-o", help="Where job folders go.", rich_help_panel=_JOBS)
    ] = None,
    config: ConfigFile = None,
) -> None:
    """Serve Terminal-Bench-server's API, jobs, and pages to look at them. docs/service.md says all of it."""
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
            raise ConfigError("--agent: name a ZIP or a folder: Capstan's own agent does not lie here")
        base = base.model_copy(update={"agent": own})
    serve_now(settings, base, resolved.secrets)


def _own_agent() -> str:
    """Capstan's own agent, where the service runs from its repository; else none."""
    root = Path(__file__).parents[2]
    return str(root) if (root / "agent.py").is_file() else ""
