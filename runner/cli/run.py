"""`capstan run` and `capstan resume`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from runner.cli.common import (
    AgentPath,
    AllowTaskNetwork,
    ClusterTimeout,
    ConfigFile,
    EnvironmentName,
    IsolationName,
    JobsDir,
    JsonFlag,
    Place,
    RelayCertificate,
    RelayKey,
    RelayListen,
    given,
    setting,
)


def _factor(flag: str, text: str) -> Any:
    return setting(flag, help=text, default="that of --timeout-multiplier")


def run(
    context: typer.Context,
    tasks: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TASKS", help="Task directories, or directories of tasks. [env: CAPSTAN_TASKS]"
        ),
    ] = None,
    agent: AgentPath = None,
    agent_kwargs: Annotated[
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
        setting("-m", "--model", help="live, record:FILE, replay:FILE or script:PATH.", default="live"),
    ] = None,
    replay: Annotated[
        str | None,
        setting(
            "--replay",
            metavar="NAME",
            help="tolerant or strict: whether a replay may ignore times and similar noise.",
            default="tolerant",
        ),
    ] = None,
    model_name: Annotated[
        str | None,
        setting("--model-name", help="The model's name.", env="LLM_MODEL", default="deepseek-v4-pro"),
    ] = None,
    cost_limit_usd: Annotated[
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
        list[str] | None, setting("-x", "--exclude", metavar="GLOB", help="No tasks that match. Repeatable.")
    ] = None,
    limit: Annotated[
        int | None, setting("-l", "--limit", metavar="N", help="Only the first N tasks.")
    ] = None,
    attempts: Annotated[
        int | None, setting("-k", "--attempts", help="Attempts of each task.", default="1")
    ] = None,
    concurrency: Annotated[
        int | None,
        setting("-n", "--concurrency", help="Trials at once.", default="as cores and memory allow"),
    ] = None,
    environment: EnvironmentName = None,
    isolation: IsolationName = None,
    on: Place = None,
    relay_listen: RelayListen = None,
    relay_cert: RelayCertificate = None,
    relay_key: RelayKey = None,
    cluster_timeout_sec: ClusterTimeout = None,
    force_build: Annotated[
        bool | None,
        setting(
            "--force-build",
            help="Build images from Dockerfiles anew, also for tasks that name an image.",
            default="false",
        ),
    ] = None,
    allow_task_network: AllowTaskNetwork = None,
    override_cpus: Annotated[
        int | None, setting("--override-cpus", metavar="N", help="CPUs for each task, whatever it asks for.")
    ] = None,
    override_memory_mb: Annotated[
        int | None,
        setting(
            *("--override-memory", "--override-memory-mb"),
            metavar="MIB",
            help="Memory for each task, whatever it asks for.",
        ),
    ] = None,
    override_storage_mb: Annotated[
        int | None,
        setting(
            *("--override-storage", "--override-storage-mb"),
            metavar="MIB",
            help="Storage for each task, whatever it asks for.",
        ),
    ] = None,
    rules: Annotated[
        str | None,
        setting(
            "--rules",
            metavar="NAME",
            help="validator or harbor: whose rules decide which runs are verified.",
            default="validator",
        ),
    ] = None,
    max_retries: Annotated[
        int | None, setting("--max-retries", help="Further tries after an infrastructure error.", default="2")
    ] = None,
    timeout_multiplier: Annotated[
        float | None, setting("--timeout-multiplier", help="Factor on every time limit.", default="1.0")
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
            default="the time",
        ),
    ] = None,
    config: ConfigFile = None,
    as_json: JsonFlag = False,
) -> None:
    """Run an agent on tasks and score it.

    A live model needs DEEPSEEK_API_KEY, and takes DEEPSEEK_BASE_URL, from the environment or .env.

    Example: capstan run examples/tasks --agent . --model script:examples/scripts

    Exit codes: 0 every trial was verified; 1 the job or a trial failed; 2 wrong usage; 130
    interrupted.
    """
    from runner.cli.session import run_new_job
    from runner.config import RunConfig, load_config

    flags = {**given(context, RunConfig), "agent_kwargs": _keywords(agent_kwargs)}
    resolved = load_config(flags, file=config)
    raise typer.Exit(run_new_job(resolved.config, resolved.secrets, context.obj, as_json=as_json))


def resume(
    context: typer.Context,
    job: Annotated[Path, typer.Argument(metavar="JOB", help="The job's folder.")],
    concurrency: Annotated[
        int | None,
        typer.Option("-n", "--concurrency", min=1, max=256, help="Trials at once. [default: as before]"),
    ] = None,
    on: Annotated[
        str | None,
        typer.Option(
            "--on",
            metavar="PLACE",
            help="Where trials run: here, ray, ray=HOST:PORT or ray=local. [default: as before]",
        ),
    ] = None,
    relay_listen: Annotated[
        str | None,
        typer.Option(
            "--relay-listen",
            metavar="HOST:PORT",
            help="With --on ray, where the nodes reach the model relay. [default: as before]",
        ),
    ] = None,
    relay_cert: Annotated[
        str | None,
        typer.Option(
            "--relay-cert",
            metavar="FILE",
            help="The relay's certificate for the nodes (PEM). [default: as before]",
        ),
    ] = None,
    relay_key: Annotated[
        str | None,
        typer.Option(
            "--relay-key", metavar="FILE", help="The key of --relay-cert (PEM). [default: as before]"
        ),
    ] = None,
    cluster_timeout_sec: Annotated[
        float | None,
        typer.Option(
            "--cluster-timeout",
            metavar="SECONDS",
            help="How long a cluster may be silent before the job ends as interrupted. [default: as before]",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Continue a job that was killed or interrupted.

    Trials that have ended are kept. An incomplete one is set aside and run again. Refused where the
    settings, the agent or a task have changed since; a job may go on elsewhere. Exit codes as for
    `run`.
    """
    from runner.cli.session import run_resumed_job
    from runner.config import RunConfig, load_config

    flags = {name: value for name, value in given(context, RunConfig).items() if value is not None}
    resolved = load_config(flags)
    changes = {name: getattr(resolved.config, name) for name in flags}
    raise typer.Exit(run_resumed_job(job, resolved.secrets, context.obj, changes=changes, as_json=as_json))


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
