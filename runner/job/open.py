"""From settings, or from the folder of an earlier job, to a job that is ready to run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from runner.config import RunConfig, Secrets
from runner.environments import EnvironmentStartError, choose_backend
from runner.environments.select import Backend
from runner.job.agents import JobAgent, prepare_agent
from runner.job.directory import JobDirectory
from runner.job.errors import JobError
from runner.job.host import ALONE, JobHost
from runner.job.job import Job, JobParts
from runner.job.lock import JobLock, check_unchanged, make_lock, read_lock
from runner.job.model import JobModel, open_model
from runner.job.observer import JobObserver, SilentObserver
from runner.job.tasks import JobTask, load_tasks, reload_task
from runner.leftovers import remove_leftovers
from runner.results import local_now, write_model

if TYPE_CHECKING:
    from runner.dind import Exchange


@asynccontextmanager
async def new_job(
    config: RunConfig,
    secrets: Secrets,
    observer: JobObserver | None = None,
    *,
    host: JobHost = ALONE,
) -> AsyncIterator[Job]:
    """A new job in a folder of its own; or, where `job_name` names one that exists, that job again.

    `host` says what it shares with other jobs of this program.

    Raises JobError and TaskError before anything is started, each with one line for a person.
    """
    observer = observer or SilentObserver()
    if (earlier := _earlier(config)) is not None:
        async with resumed_job(earlier, secrets, observer, config=config, host=host) as job:
            yield job
        return
    tasks = await asyncio.to_thread(load_tasks, config)
    for task in tasks:
        for line in task.task.warnings if task.task else (task.problem or "it cannot be loaded",):
            observer.note(line)
    agent = await prepare_agent(config)
    backend = await _backend(config)
    observer.note(backend.reason, warning=False)
    await _remove_leftovers(backend.kind, observer)
    async with AsyncExitStack() as stack:
        exchange = stack.enter_context(_way_in(config))
        model = await stack.enter_async_context(_model(config, secrets, agent, exchange, host))
        lock = make_lock(config, tasks, environment_kind=backend.kind, agent_digest=agent.record.digest)
        directory = _new_directory(config)
        with directory.claim():
            write_model(directory.lock, lock)
            yield _job(_parts(directory, lock, tasks, agent, model, secrets), observer, exchange, host)


@asynccontextmanager
async def resumed_job(
    path: Path,
    secrets: Secrets,
    observer: JobObserver | None = None,
    *,
    config: RunConfig | None = None,
    concurrency: int | None = None,
    host: JobHost = ALONE,
) -> AsyncIterator[Job]:
    """The job in `path`, to go on where it stopped. `config`, where given, must be the one it began with.

    Raises JobChanged where the settings, the agent or a task are no longer the same.
    """
    observer = observer or SilentObserver()
    directory = _at(path)
    lock = read_lock(directory.lock)
    given = config or lock.config
    told = lock.config.instruction
    tasks = await asyncio.to_thread(
        lambda: [reload_task(Path(t.path), t.dataset, instruction=told) for t in lock.tasks]
    )
    agent = await prepare_agent(lock.config)
    check_unchanged(lock, given, tasks, agent_digest=agent.record.digest)
    at_once = concurrency or given.concurrency
    lock = lock.model_copy(update={"config": lock.config.model_copy(update={"concurrency": at_once})})
    backend = await _backend(lock.config.model_copy(update={"environment": lock.environment_kind}))
    await _remove_leftovers(backend.kind, observer)
    with directory.claim(), _way_in(lock.config) as exchange:
        async with _model(lock.config, secrets, agent, exchange, host) as model:
            yield _job(_parts(directory, lock, tasks, agent, model, secrets), observer, exchange, host)


def _parts(
    directory: JobDirectory,
    lock: JobLock,
    tasks: list[JobTask],
    agent: JobAgent,
    model: JobModel,
    secrets: Secrets,
) -> JobParts:
    return JobParts(
        directory=directory,
        lock=lock,
        tasks=tasks,
        agent=agent,
        model=model,
        redact=_redactor(secrets),
    )


@contextmanager
def _way_in(config: RunConfig) -> Iterator[Exchange | None]:
    """The folder through which an isolated run is reached; None for one that is not isolated."""
    if config.isolation != "dind":
        yield None
        return
    from runner.dind import open_exchange

    with open_exchange() as exchange:
        yield exchange


def _model(
    config: RunConfig, secrets: Secrets, agent: JobAgent, exchange: Exchange | None, host: JobHost
) -> AbstractAsyncContextManager[JobModel]:
    socket_path = exchange.relay if exchange else None
    return open_model(
        config, secrets, needed=agent.needs_model, socket_path=socket_path, make=host.make_upstream
    )


def _job(parts: JobParts, observer: JobObserver, exchange: Exchange | None, host: JobHost) -> Job:
    if exchange is None:
        return Job(parts, observer, host=host)
    from runner.dind import IsolatedJob

    return IsolatedJob(parts, observer, exchange, host)


async def _backend(config: RunConfig) -> Backend:
    isolated = config.isolation == "dind"
    if isolated and config.environment == "sandbox":
        raise JobError("--isolation dind runs tasks in a Docker engine of its own: leave out --env sandbox")
    try:
        return await choose_backend("docker" if isolated else config.environment)
    except EnvironmentStartError as error:
        raise JobError(str(error)) from None


async def _remove_leftovers(kind: Literal["docker", "sandbox"], observer: JobObserver) -> None:
    """What runners that were killed left behind goes before anything new is made."""
    for thing in await remove_leftovers((kind,)):
        observer.note(f"left behind by a runner that was killed, now removed: {thing}", warning=False)


def _earlier(config: RunConfig) -> Path | None:
    """The folder that `job_name` names, where it exists."""
    path = Path(config.jobs_dir) / (config.job_name or "")
    return path if config.job_name is not None and path.exists() else None


def _at(path: Path) -> JobDirectory:
    return JobDirectory(path.resolve())


def _new_directory(config: RunConfig) -> JobDirectory:
    """A fresh folder, named by the time unless a name was given."""
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


def _redactor(secrets: Secrets) -> Callable[[str], str]:
    """Takes the real key out of whatever is written; the agent never has it, but errors may hold it."""
    key = secrets.api_key.get_secret_value() if secrets.api_key else ""
    return (lambda text: text.replace(key, "[REDACTED]")) if key else (lambda text: text)
