"""`capstan run` and `capstan resume`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from runner.cli.common import (
    AgentPath,
    ConfigFile,
    EnvironmentName,
    IsolationName,
    JobsDir,
    JsonFlag,
    help_of,
    setting,
)


def _factor(flag: str, text: str, default: str = "that of --timeout-multiplier") -> Any:
    variable = "CAPSTAN_" + flag.removeprefix("--").replace("-", "_").upper()
    return setting(flag, help=text, env=variable, default=default)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("run")(run)
    app.command("resume")(resume)


def run(
    context: typer.Context,
    tasks: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TASKS", help=help_of("Task directories, or directories of tasks.", env="CAPSTAN_TASKS")
        ),
    ] = None,
    agent: AgentPath = None,
    agent_kwarg: Annotated[
        list[str] | None,
        setting(
            "--ak",
            metavar="KEY=VALUE",
            help="A further keyword for Agent(...), JSON or text. Repeatable.",
            env="CAPSTAN_AGENT_KWARGS",
        ),
    ] = None,
    model: Annotated[
        str | None,
        setting(
            "-m",
            "--model",
            help="live, record:FILE, replay:FILE or script:PATH.",
            env="CAPSTAN_MODEL",
            default="live",
        ),
    ] = None,
    model_name: Annotated[
        str | None,
        setting("--model-name", help="The model's name.", env="LLM_MODEL", default="deepseek-v4-pro"),
    ] = None,
    cost_limit: Annotated[
        float | None,
        setting(
            "--cost-limit",
            metavar="USD",
            help="US dollars a trial may cost.",
            env="LLM_COST_LIMIT",
            default="no limit",
        ),
    ] = None,
    include: Annotated[
        list[str] | None,
        setting(
            "-i", "--task", metavar="GLOB", help="Only tasks that match. Repeatable.", env="CAPSTAN_INCLUDE"
        ),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        setting(
            "-x", "--exclude", metavar="GLOB", help="No tasks that match. Repeatable.", env="CAPSTAN_EXCLUDE"
        ),
    ] = None,
    limit: Annotated[
        int | None,
        setting("-l", "--limit", metavar="N", help="Only the first N tasks.", env="CAPSTAN_LIMIT"),
    ] = None,
    attempts: Annotated[
        int | None,
        setting("-k", "--attempts", help="Attempts of each task.", env="CAPSTAN_ATTEMPTS", default="1"),
    ] = None,
    concurrency: Annotated[
        int | None,
        setting(
            "-n",
            "--concurrency",
            help="Trials at once.",
            env="CAPSTAN_CONCURRENCY",
            default="as cores and memory allow",
        ),
    ] = None,
    environment: EnvironmentName = None,
    isolation: IsolationName = None,
    allow_task_network: Annotated[
        bool | None,
        typer.Option(
            "--allow-task-network",
            help=help_of(
                "Let tasks have a network in --isolation dind.",
                env="CAPSTAN_ALLOW_TASK_NETWORK",
                default="false",
            ),
        ),
    ] = None,
    rules: Annotated[
        str | None,
        setting(
            "--rules",
            metavar="NAME",
            help="validator or harbor: whose rules decide which runs are verified.",
            env="CAPSTAN_RULES",
            default="validator",
        ),
    ] = None,
    max_retries: Annotated[
        int | None,
        setting(
            "--max-retries",
            help="Further tries after an infrastructure error.",
            env="CAPSTAN_MAX_RETRIES",
            default="2",
        ),
    ] = None,
    timeout_multiplier: Annotated[
        float | None, _factor("--timeout-multiplier", "Factor on every time limit.", default="1.0")
    ] = None,
    agent_timeout_multiplier: Annotated[
        float | None, _factor("--agent-timeout-multiplier", "Factor on the agent's limit.")
    ] = None,
    verifier_timeout_multiplier: Annotated[
        float | None, _factor("--verifier-timeout-multiplier", "Factor on the verifier's limit.")
    ] = None,
    setup_timeout_multiplier: Annotated[
        float | None, _factor("--setup-timeout-multiplier", "Factor on the limit of Agent.setup.")
    ] = None,
    build_timeout_multiplier: Annotated[
        float | None, _factor("--build-timeout-multiplier", "Factor on the limit of image builds.")
    ] = None,
    jobs_dir: JobsDir = None,
    job_name: Annotated[
        str | None,
        setting(
            "--job-name",
            metavar="NAME",
            help="The job's folder; one that exists is resumed.",
            env="CAPSTAN_JOB_NAME",
            default="the time",
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
