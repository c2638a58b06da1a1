"""Create a job from settings, or resume one from its folder."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from runner.agents import AgentFactory, PackageError, load_agent
from runner.config import PLACE_SETTINGS, RunConfig, Secrets, redactor
from runner.environments import DockerSettings, EnvironmentKind
from runner.jobs.context import Executor, JobContext
from runner.jobs.errors import JobError, NothingToRun
from runner.jobs.events import JobObserver
from runner.jobs.job import Job
from runner.jobs.layout import JobDirectory
from runner.jobs.lock import JobLock, check_unchanged, make_lock, read_lock
from runner.jobs.model import MakeUpstream, default_upstream, open_model
from runner.jobs.tasks import JobTask, load_tasks, reload_task
from runner.results import Reason, local_now, write_model

OpenExecutor = Callable[
    [RunConfig, Sequence[JobTask], DockerSettings, Callable[..., None]], AbstractAsyncContextManager[Executor]
]
"""Opens where a job's trials run. The last argument reports lines for a person.

Raises JobError, TaskError.
"""


@dataclass(frozen=True, kw_only=True)
class JobHost:
    """What a job takes from the program that it runs in. The service's jobs share one executor."""

    open_executor: OpenExecutor
    docker: DockerSettings
    make_upstream: MakeUpstream = default_upstream


@asynccontextmanager
async def create_job(
    config: RunConfig, secrets: Secrets, host: JobHost, observer: JobObserver | None = None
) -> AsyncGenerator[Job]:
    """Create a job in a new folder. Where `job_name` names a folder that exists, resume that job.

    Raises JobError and TaskError before anything is started, each with one line for a person.
    """
    existing = Path(config.jobs_dir) / (config.job_name or "")
    if config.job_name is not None and existing.exists():
        async with resume_job(existing, secrets, host, observer, config=config) as job:
            yield job
        return
    observer = observer or JobObserver()
    tasks = await asyncio.to_thread(load_tasks, config)
    for item in tasks:
        for line in item.task.warnings if item.task else (item.problem or "it cannot be loaded",):
            observer.note(line)
        if item.task is not None and (missing := item.task.missing_variables()) is not None:
            observer.note(str(missing))
    agent = await _load_agent(config)

    def make(kind: EnvironmentKind) -> tuple[JobDirectory, JobLock]:
        lock = make_lock(config, tasks, environment_kind=kind, agent_digest=agent.record.digest)
        return _new_directory(config), lock

    async with _opened(config, tasks, agent, make, secrets, host, observer) as job:
        yield job


@asynccontextmanager
async def resume_job(
    path: Path,
    secrets: Secrets,
    host: JobHost,
    observer: JobObserver | None = None,
    *,
    config: RunConfig | None = None,
    changes: Mapping[str, object] | None = None,
) -> AsyncGenerator[Job]:
    """Resume the job in `path`.

    Args:
        config: Settings that must be those it began with, but for where it runs and how many
            trials at once. None: as it began.
        changes: Settings of those two kinds that differ from `config`, by name. They are valid.

    Raises:
        JobError: The settings, the agent or a task are no longer the same.
    """
    directory = JobDirectory(await asyncio.to_thread(path.resolve))
    lock = read_lock(directory.lock)
    given = config or lock.config
    tasks = await asyncio.to_thread(
        lambda: [reload_task(Path(t.path), t.dataset, lock.config) for t in lock.tasks]
    )
    agent = await _load_agent(lock.config)
    check_unchanged(lock, given, tasks, agent_digest=agent.record.digest)
    free = {name: getattr(given, name) for name in ("concurrency", *PLACE_SETTINGS)}
    now = lock.config.model_copy(update={**free, **(changes or {})})
    lock = lock.model_copy(update={"config": now})
    opened_with = now.model_copy(update={"environment": lock.environment_kind})
    async with _opened(
        opened_with, tasks, agent, lambda _: (directory, lock), secrets, host, observer or JobObserver()
    ) as job:
        yield job


@asynccontextmanager
async def _opened(
    config: RunConfig,
    tasks: Sequence[JobTask],
    agent: AgentFactory,
    make: Callable[[EnvironmentKind], tuple[JobDirectory, JobLock]],
    secrets: Secrets,
    host: JobHost,
    observer: JobObserver,
) -> AsyncGenerator[Job]:
    """Open the executor and the model, claim the folder that `make` returns, and yield the job."""
    needed = agent.needs_model
    if agent.takes_model and not needed:
        needed = config.mode.name != "live" or secrets.api_key is not None
        if not needed:
            observer.note(
                "no model: DEEPSEEK_API_KEY is missing, and the agent does not name it", warning=False
            )
    docker = replace(host.docker, built_anew=set()) if config.force_build else host.docker
    async with AsyncExitStack() as stack:
        executor = await stack.enter_async_context(host.open_executor(config, tasks, docker, observer.note))
        model = await stack.enter_async_context(
            open_model(
                config,
                secrets,
                needed=needed,
                make_upstream=host.make_upstream,
                socket_path=executor.relay_socket,
                listener=executor.relay_listener,
            )
        )
        directory, lock = make(executor.environment_kind)
        stack.enter_context(directory.claim())
        if not directory.lock.exists():
            write_model(directory.lock, lock)
        context = JobContext(
            directory=directory,
            lock=lock,
            agent=agent,
            model=model,
            docker=docker,
            redact=redactor(secrets.api_key),
        )
        yield Job(context, tasks, executor, observer)


async def _load_agent(config: RunConfig) -> AgentFactory:
    if not config.agent:
        raise NothingToRun(
            "no agent given: --agent with a ZIP, a directory that holds agent.py, or oracle or nop"
        )
    try:
        return await load_agent(config)
    except PackageError as error:
        if not await asyncio.to_thread(Path(config.agent).exists):
            raise JobError(
                f"--agent {config.agent}: no such file or directory (the built-in agents are oracle and nop)"
            ) from None
        raise JobError(str(error), Reason.SUBMISSION_CODE_FAILED) from None


def _new_directory(config: RunConfig) -> JobDirectory:
    """Make a new folder, named by the time unless a name was given."""
    root = Path(config.jobs_dir).resolve()
    stem = config.job_name or local_now().strftime("%Y-%m-%d__%H-%M-%S")
    number = 1
    while True:
        directory = JobDirectory(root / (stem if number == 1 else f"{stem}-{number}"))
        try:
            directory.create()
            return directory
        except JobError:
            if config.job_name is not None or not directory.root.exists():
                raise
            number += 1
