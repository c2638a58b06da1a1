"""`capstan run` and `capstan resume`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from runner.cli.common import ConfigFile, Exclude, Include, JsonFlag, Limit, described

_JOB = "The job"
_MODEL = "The model"
_TIME = "Time limits"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("run")(run)
    app.command("resume")(resume)


def run(
    context: typer.Context,
    tasks: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TASKS…",
            help=described("Task directories, or directories of tasks.", "CAPSTAN_TASKS"),
            show_default=False,
        ),
    ] = None,
    agent: Annotated[
        str | None,
        typer.Option(
            "--agent",
            "-a",
            help=described("A ZIP, a directory with agent.py, or oracle or nop.", "CAPSTAN_AGENT"),
        ),
    ] = None,
    agent_kwarg: Annotated[
        list[str] | None,
        typer.Option(
            "--ak",
            metavar="KEY=VALUE",
            help=described("A further keyword for Agent(...), JSON or text.", "CAPSTAN_AGENT_KWARGS"),
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help=described("live, record:FILE, replay:FILE or script:PATH.", "CAPSTAN_MODEL", "live"),
            rich_help_panel=_MODEL,
        ),
    ] = None,
    model_name: Annotated[
        str | None,
        typer.Option(
            "--model-name",
            help=described("The model's name.", "LLM_MODEL", "deepseek-v4-pro"),
            rich_help_panel=_MODEL,
        ),
    ] = None,
    cost_limit: Annotated[
        float | None,
        typer.Option(
            "--cost-limit",
            metavar="USD",
            help=described("US dollars a trial may cost.", "LLM_COST_LIMIT", "no limit"),
            rich_help_panel=_MODEL,
        ),
    ] = None,
    include: Include = None,
    exclude: Exclude = None,
    limit: Limit = None,
    attempts: Annotated[
        int | None,
        typer.Option("-k", "--attempts", help=described("Attempts of each task.", "CAPSTAN_ATTEMPTS", "1")),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(
            "-n",
            "--concurrency",
            help=described("Trials at once.", "CAPSTAN_CONCURRENCY", "as cores and memory allow"),
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
        ),
    ] = None,
    isolation: Annotated[
        str | None,
        typer.Option(
            "--isolation",
            help=described(
                "process: beside the runner. dind: agent, engine and tasks in a container without a network.",
                "CAPSTAN_ISOLATION",
                "process",
            ),
        ),
    ] = None,
    allow_task_network: Annotated[
        bool | None,
        typer.Option(
            "--allow-task-network",
            help=described(
                "Let tasks have a network in --isolation dind.", "CAPSTAN_ALLOW_TASK_NETWORK", "false"
            ),
        ),
    ] = None,
    rules: Annotated[
        str | None,
        typer.Option(
            "--rules",
            help=described(
                "validator or harbor: whose rules decide which runs are verified.",
                "CAPSTAN_RULES",
                "validator",
            ),
        ),
    ] = None,
    max_retries: Annotated[
        int | None,
        typer.Option(
            "--max-retries",
            help=described("Further tries after an infrastructure error.", "CAPSTAN_MAX_RETRIES", "2"),
        ),
    ] = None,
    timeout_multiplier: Annotated[
        float | None,
        typer.Option(
            "--timeout-multiplier",
            help=described("Factor on every time limit.", "CAPSTAN_TIMEOUT_MULTIPLIER", "1.0"),
            rich_help_panel=_TIME,
        ),
    ] = None,
    agent_timeout_multiplier: Annotated[
        float | None,
        typer.Option(
            "--agent-timeout-multiplier",
            help=described("Factor on the agent's limit.", "CAPSTAN_AGENT_TIMEOUT_MULTIPLIER"),
            rich_help_panel=_TIME,
        ),
    ] = None,
    verifier_timeout_multiplier: Annotated[
        float | None,
        typer.Option(
            "--verifier-timeout-multiplier",
            help=described("Factor on the verifier's limit.", "CAPSTAN_VERIFIER_TIMEOUT_MULTIPLIER"),
            rich_help_panel=_TIME,
        ),
    ] = None,
    setup_timeout_multiplier: Annotated[
        float | None,
        typer.Option(
            "--setup-timeout-multiplier",
            help=described("Factor on the limit of Agent.setup.", "CAPSTAN_SETUP_TIMEOUT_MULTIPLIER"),
            rich_help_panel=_TIME,
        ),
    ] = None,
    build_timeout_multiplier: Annotated[
        float | None,
        typer.Option(
            "--build-timeout-multiplier",
            help=described("Factor on the limit of image builds.", "CAPSTAN_BUILD_TIMEOUT_MULTIPLIER"),
            rich_help_panel=_TIME,
        ),
    ] = None,
    jobs_dir: Annotated[
        str | None,
        typer.Option(
            "--jobs-dir",
            "-o",
            metavar="DIR",
            help=described("The folder that holds job folders.", "CAPSTAN_JOBS_DIR", "jobs"),
            rich_help_panel=_JOB,
        ),
    ] = None,
    job_name: Annotated[
        str | None,
        typer.Option(
            "--job-name",
            help=described("The job's folder; one that exists is resumed.", "CAPSTAN_JOB_NAME", "the time"),
            rich_help_panel=_JOB,
        ),
    ] = None,
    config: ConfigFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Run an agent on tasks and score it.

    A live model needs DEEPSEEK_API_KEY, and takes DEEPSEEK_BASE_URL, from the environment or .env.

    Example: capstan run examples/tasks --agent . --model script:examples/scripts

    Exit codes: 0 every trial was verified; 1 the job or a trial failed; 2 wrong usage; 130 interrupted.
    """
    from runner.cli.session import run_new_job
    from runner.config import load_config

    flags = {
        "tasks": tuple(tasks or ()),
        "include": tuple(include or ()),
        "exclude": tuple(exclude or ()),
        "limit": limit,
        "agent": agent,
        "agent_kwargs": _keywords(agent_kwarg),
        "model": model,
        "model_name": model_name,
        "cost_limit_usd": cost_limit,
        "attempts": attempts,
        "concurrency": concurrency,
        "environment": environment,
        "isolation": isolation,
        "allow_task_network": allow_task_network,
        "rules": rules,
        "max_retries": max_retries,
        "timeout_multiplier": timeout_multiplier,
        "agent_timeout_multiplier": agent_timeout_multiplier,
        "verifier_timeout_multiplier": verifier_timeout_multiplier,
        "setup_timeout_multiplier": setup_timeout_multiplier,
        "build_timeout_multiplier": build_timeout_multiplier,
        "jobs_dir": jobs_dir,
        "job_name": job_name,
    }
    resolved = load_config(flags, file=config)
    raise typer.Exit(run_new_job(resolved.config, resolved.secrets, context.obj, as_json=as_json))


def resume(
    context: typer.Context,
    job: Annotated[Path, typer.Argument(metavar="JOB", help="The job's folder.")],
    concurrency: Annotated[
        int | None, typer.Option("-n", "--concurrency", help="Trials at once. [default: as before]")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Continue a job that was killed or interrupted.

    Trials that have ended are kept. An incomplete one is set aside and run again. Refused where the
    settings, the agent or a task have changed since. Exit codes as for `run`.
    """
    from runner.cli.session import run_resumed_job
    from runner.config import load_config

    secrets = load_config().secrets
    raise typer.Exit(run_resumed_job(job, secrets, context.obj, concurrency=concurrency, as_json=as_json))


def _keywords(pairs: list[str] | None) -> dict[str, Any] | None:
    """Parse `--ak key=value`: JSON where it parses, else text, as Harbor does."""
    if not pairs:
        return None
    import json

    keywords: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise typer.BadParameter(f"--ak takes KEY=VALUE with a Python name, got {pair!r}")
        try:
            keywords[name] = json.loads(value)
        except ValueError:
            keywords[name] = {"True": True, "False": False, "None": None}.get(value, value)
    return keywords
