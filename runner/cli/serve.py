"""`capstan serve`: the evaluation service."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from runner.cli.common import (
    AgentPath,
    AllowTaskNetwork,
    ClusterTimeout,
    ConfigFile,
    EnvironmentName,
    IsolationName,
    JobsDir,
    Place,
    RelayCertificate,
    RelayKey,
    RelayListen,
    given,
    setting,
)


def serve(
    context: typer.Context,
    service_host: Annotated[
        str | None, setting("--host", help="The address to bind.", env="SERVICE_HOST", default="127.0.0.1")
    ] = None,
    service_port: Annotated[
        int | None,
        setting("--port", help="The port to bind; 0 takes a free one.", env="SERVICE_PORT", default="8080"),
    ] = None,
    service_token: Annotated[
        str | None,
        setting(
            "--token",
            help="The token that every route but /health requires. Prefer the variable: other users of the "
            "machine can see a command line.",
            env="SERVICE_TOKEN",
            default="none",
        ),
    ] = None,
    tb2_dir: Annotated[
        Path | None,
        setting(
            "--tasks", help="The directory of tasks.", env="TB2_DIR", default="data/terminal-bench-2-main"
        ),
    ] = None,
    timeout_keep_alive: Annotated[
        int | None,
        setting(
            "--timeout-keep-alive",
            metavar="SECONDS",
            help="How long an idle connection is kept.",
            env="TIMEOUT_KEEP_ALIVE",
            default="5",
        ),
    ] = None,
    agent: AgentPath = None,
    model: Annotated[
        str | None, setting("-m", "--model", help="live, replay:FILE or script:PATH.", default="live")
    ] = None,
    environment: EnvironmentName = None,
    isolation: IsolationName = None,
    on: Place = None,
    relay_listen: RelayListen = None,
    relay_cert: RelayCertificate = None,
    relay_key: RelayKey = None,
    cluster_timeout_sec: ClusterTimeout = None,
    allow_task_network: AllowTaskNetwork = None,
    jobs_dir: JobsDir = None,
    config: ConfigFile = None,
) -> None:
    """Serve the evaluation API, jobs and their pages.

    `GET /health` and `POST /api/tasks` are Terminal-Bench-server's. The options from --agent to
    --jobs-dir are the defaults for jobs; without --agent, jobs run Capstan's own.

    docs/service.md lists the routes and every variable.
    """
    from runner.config import ConfigError, RunConfig, load_config
    from runner.service import ServiceSettings, load_settings
    from runner.service.server import serve as serve_now

    settings = load_settings(given(context, ServiceSettings))
    resolved = load_config(given(context, RunConfig), file=config)
    base = resolved.config
    if not base.agent:
        if not (own := _own_agent()):
            raise ConfigError("--agent: name a ZIP or a folder: Capstan's own agent is not here")
        base = base.model_copy(update={"agent": own})
    serve_now(settings, base, resolved.secrets)


def _own_agent() -> str:
    """Return the folder of Capstan's own agent in a checkout, else ""."""
    root = Path(__file__).parents[2]
    return str(root) if (root / "agent.py").is_file() else ""
