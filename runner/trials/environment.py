"""A task's environment: its specification, and the task's own check that it is up."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping

from runner.environments import Environment, EnvironmentSpec
from runner.tasks import Task, content_digest, resolve_env
from runner.tasks.config import Healthcheck

# Variables of the host that ${VAR} templates of a task may never name.
SECRET_VARIABLES = ("DEEPSEEK_API_KEY",)


class HealthcheckError(RuntimeError):
    """The environment never became healthy. The message holds the last output."""


def host_variables(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the host's variables that templates of a task may use."""
    source = os.environ if environ is None else environ
    return {name: value for name, value in source.items() if name not in SECRET_VARIABLES}


def environment_spec(
    task: Task,
    trial_name: str | None = None,
    *,
    build_factor: float = 1.0,
    labels: Mapping[str, str] | None = None,
) -> EnvironmentSpec:
    """Return the environment of one trial, or of the task where no trial is named.

    Raises TaskError where a template of `[environment] env` has no value.
    """
    wanted = task.config.environment
    context = task.environment_dir if task.environment_dir.is_dir() else None
    return EnvironmentSpec(
        task_name=task.name,
        session_id=trial_name or task.name,
        docker_image=wanted.docker_image,
        context_dir=context,
        digest=content_digest(context) if context else "",
        cpus=wanted.cpus,
        memory_mb=wanted.memory_mb,
        storage_mb=wanted.storage_mb,
        env=resolve_env(wanted.env, path=task.config_path, table="environment.env", host=host_variables()),
        workdir=wanted.workdir,
        network=wanted.network,
        build_timeout_sec=wanted.build_timeout_sec * build_factor,
        default_user=task.config.agent.user,
        labels=labels or {},
    )


async def wait_healthy(environment: Environment, check: Healthcheck) -> None:
    """Run the task's healthcheck until it succeeds once. Failures within the start period do not count.

    Raises HealthcheckError after `retries` failures in a row.
    """
    started = time.monotonic()
    failures = 0
    while True:
        output = ""
        try:
            result = await environment.exec(check.command, timeout_sec=check.timeout_sec)
            if result.return_code == 0:
                return
            output = f"exit code {result.return_code}: {(result.stdout or '').strip()[-500:]}"
        except RuntimeError as error:
            if not await environment.is_alive():
                raise
            output = str(error)
        starting = time.monotonic() - started < check.start_period_sec
        failures += not starting
        if failures >= check.retries:
            raise HealthcheckError(f"the task's healthcheck failed {failures} times, last: {output}")
        await asyncio.sleep(check.start_interval_sec if starting else check.interval_sec)
