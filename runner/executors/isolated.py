"""Runs trials in a container without a network; this is the outer side (docs/security.md)."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import os
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Self

from runner.environments import DockerSettings, EnvironmentFailure, EnvironmentKind
from runner.environments.docker import Engine, shared_engine
from runner.isolation.container import (
    claim_store,
    ensure_volume,
    folder_mounts,
    isolated_container,
    still_runs,
)
from runner.isolation.image import ensure_runner_image
from runner.isolation.link import (
    LINE_BYTES,
    CancelTrial,
    Failed,
    FreeSpace,
    FromInner,
    FromOuter,
    Link,
    MeasureSpace,
    Note,
    Ready,
    RunTrial,
    Setup,
    TrialEnded,
    TrialLost,
    TrialMoved,
)
from runner.isolation.shared_dir import SharedDir, open_shared_dir
from runner.isolation.store import ImageStore
from runner.jobs.context import ClusterUse, JobContext, TrialEnd, TrialPlan, TrialProgress
from runner.jobs.errors import JobError
from runner.jobs.limiter import Limiter
from runner.jobs.tasks import JobTask
from runner.relay import RelayListener
from runner.results import Reason
from runner.submission import build_zip
from runner.tasks import Task
from runner.trials import Trial, environment_spec

START_SEC = 60.0
LOOK_SEC = 0.5
# The inner side takes 10 s at most to end a trial; the container is removed in any case.
STOP_SEC = 15.0
_LOG_LINES = 8
_NEEDS_NETWORK = (
    "it asks for a network, and --isolation dind gives none: give --allow-task-network to `run` or "
    "`serve` (docs/security.md says what that opens)"
)


class _NotRun(Exception):
    """Why a task is not run."""


@dataclass(frozen=True)
class _Running:
    """A trial on the inner side."""

    progress: TrialProgress
    end: asyncio.Future[TrialEnd]


class IsolatedExecutor:
    """Runs each trial in one privileged container with an engine of its own and no network.

    Use it as an async context manager. The container starts with the first trial. What trials write
    is in the job's folder at once. `note` reports lines for a person.
    """

    environment_kind: EnvironmentKind = "docker"
    relay_listener: RelayListener | None = None
    cluster_use: Callable[[], ClusterUse] | None = None

    def __init__(
        self, tasks: Sequence[JobTask], limiter: Limiter, docker: DockerSettings, note: Callable[..., None]
    ) -> None:
        self._tasks = tasks
        self.limiter = limiter  # the container has the machine's own cores and memory
        self._docker = docker
        self._note = note
        self._stack = AsyncExitStack()
        self._shared: SharedDir | None = None
        self._inner: tuple[Link, ImageStore] | None = None
        self._starting = asyncio.Lock()
        self._free_space: asyncio.Future[int] | None = None
        self._running: dict[int, _Running] = {}
        self._numbers = itertools.count(1)
        self._failure: JobError | None = None

    async def __aenter__(self) -> Self:
        self._shared = self._stack.enter_context(open_shared_dir())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @property
    def relay_socket(self) -> Path:
        """Where the job's relay must listen: the container's only way out."""
        return self._dir.relay

    @property
    def _dir(self) -> SharedDir:
        assert self._shared is not None, "use it as `async with IsolatedExecutor(...)`"
        return self._shared

    async def run(self, context: JobContext, plan: TrialPlan, progress: TrialProgress) -> TrialEnd:
        """See Executor.run. Raises JobError if the container did not start or ended early."""
        try:
            task = _runnable(plan.task, allow_network=context.config.allow_task_network)
            link, store = await self._started(context)
            image = await store.bring(plan.trial_name, task)
        except (_NotRun, EnvironmentFailure) as problem:
            # Its record is made on this side: there is nothing to run on the other one.
            broken = replace(plan, task=replace(plan.task, task=None, problem=str(problem)))
            return await Trial(context, broken, progress).run()
        account = context.model.open_account(plan.trial_name)
        number = next(self._numbers)
        running = _Running(progress, asyncio.get_running_loop().create_future())
        self._running[number] = running
        link.send(
            RunTrial(
                number=number,
                trial_name=plan.trial_name,
                attempt=plan.attempt,
                task_path=str(task.path),
                recorded_path=str(plan.task.path),
                dataset=plan.task.dataset,
                image=image,
                environ=task.host_variables(),
                retries=progress.retries,
                token=account.token if account else None,
            )
        )
        try:
            return await asyncio.shield(running.end)
        except asyncio.CancelledError:
            link.send(CancelTrial(number=number))
            with contextlib.suppress(TimeoutError, JobError, OSError):
                await asyncio.wait_for(running.end, STOP_SEC)
            raise
        finally:
            del self._running[number]
            store.release(plan.trial_name)
            if account is not None and context.model.relay is not None:
                context.model.relay.close_run(account.token)

    async def _started(self, context: JobContext) -> tuple[Link, ImageStore]:
        async with self._starting:
            if self._failure is not None:
                raise self._failure
            if self._inner is None:
                self._inner = await self._start(context)
            return self._inner

    async def _start(self, context: JobContext) -> tuple[Link, ImageStore]:
        engine = shared_engine()
        note = partial(self._note, warning=False)
        image = await ensure_runner_image(engine, self._docker, note)
        if (submission := await asyncio.to_thread(read_submission, context)) is not None:
            self._dir.submission.write_bytes(submission)
        mounts = folder_mounts(
            read_only=[item.task.path for item in self._tasks if item.task is not None],
            writable=[context.directory.root],
        )
        volume = self._stack.enter_context(claim_store(self._docker.cache_dir))
        await ensure_volume(engine, volume)
        arrival = await self._listen()
        network = self._docker.network_mode if context.config.allow_task_network else "none"
        container = await self._stack.enter_async_context(
            isolated_container(
                engine, image=image.id, volume=volume, shared=self._dir, mounts=mounts, network=network
            )
        )
        link = await self._arrived(engine, container, arrival)
        link.send(self._setup(context))
        following = asyncio.create_task(self._follow(link), name="isolated runner")
        self._stack.callback(following.cancel)
        store = ImageStore(
            engine,
            self._docker,
            socket=self._dir.engine,
            spec_of=partial(environment_spec, force_build=context.config.force_build),
            free_bytes=partial(self._measure_space, link),
            note=note,
        )
        store.expect(await asyncio.to_thread(self._expected, context))
        self._stack.push_async_callback(store.close)
        return link, store

    def _expected(self, context: JobContext) -> dict[str, Task]:
        """Return the tasks of the trials that are still to run, by the trials' names."""
        trials: dict[str, Task] = {}
        for trial in context.lock.trials:
            with contextlib.suppress(_NotRun):
                item = self._tasks[trial.task]
                task = _runnable(item, allow_network=context.config.allow_task_network)
                if context.directory.finished(trial.trial_name) is None:
                    trials[trial.trial_name] = task
        return trials

    async def _measure_space(self, link: Link) -> int:
        """Return the free bytes of the inner engine's disk. One question at a time."""
        if self._failure is not None:
            raise self._failure
        self._free_space = asyncio.get_running_loop().create_future()
        link.send(MeasureSpace())
        return await self._free_space

    async def _listen(self) -> asyncio.Future[Link]:
        """Wait for the inner side to connect. Only this user can enter the folder."""
        arrival: asyncio.Future[Link] = asyncio.get_running_loop().create_future()

        def arrived(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if arrival.done():
                writer.close()
            else:
                arrival.set_result(Link(reader, writer))

        server = await asyncio.start_unix_server(arrived, self._dir.control, limit=LINE_BYTES)

        async def close() -> None:
            server.close()
            if arrival.done() and not arrival.cancelled():
                await arrival.result().close()

        self._stack.push_async_callback(close)
        return arrival

    async def _arrived(self, engine: Engine, container: str, arrival: asyncio.Future[Link]) -> Link:
        try:
            async with asyncio.timeout(START_SEC):
                while not arrival.done():
                    await asyncio.wait({arrival}, timeout=LOOK_SEC)
                    if not arrival.done() and not await still_runs(engine, container):
                        raise JobError(f"the isolated runner ended at once{self._log_tail()}")
                link = arrival.result()
                message = await link.receive()
        except TimeoutError:
            raise JobError(
                f"the isolated runner did not start within {START_SEC:g} s{self._log_tail()}"
            ) from None
        if not isinstance(message, Ready):
            cause = message.message if isinstance(message, Failed) else "it ended"
            raise JobError(f"the isolated runner did not start: {cause}{self._log_tail()}")
        return link

    def _setup(self, context: JobContext) -> Setup:
        relay = context.model.relay
        return Setup(
            job_dir=str(context.directory.root),
            recorded_root=str(context.recorded_root or context.directory.root),
            agent=context.agent.record,
            model=context.model.source,
            model_mode=relay.mode if relay else "none",
            scripted=relay.scripted if relay else False,
            uid=os.getuid(),
            gid=os.getgid(),
        )

    async def _follow(self, link: Link) -> None:
        """Receive messages until the inner side is gone. Then every running trial fails."""
        try:
            while True:
                message = await link.receive()
                if isinstance(message, Failed):
                    reason = Reason(message.reason or Reason.JOB_FAILED)
                    self._failure = JobError(f"isolated runner: {message.message}", reason)
                    break
                if message is None:
                    self._failure = JobError(
                        f"the isolated runner ended before its job did{self._log_tail()}"
                    )
                    break
                self._handle(message)
        except ValueError as error:
            self._failure = JobError(f"the isolated runner sent an unreadable message: {error}")
        for waiting in (*(running.end for running in self._running.values()), self._free_space):
            if waiting is not None and not waiting.done():
                waiting.set_exception(self._failure)

    def _handle(self, message: FromInner | FromOuter) -> None:
        match message:
            case Note():
                self._note(message.line, warning=message.warning)
            case TrialMoved() if running := self._running.get(message.number):
                running.progress.phase = message.phase
                running.progress.usage = lambda usage=message.usage: usage
            case FreeSpace() if self._free_space is not None and not self._free_space.done():
                self._free_space.set_result(message.free_bytes)
            case TrialEnded() if running := self._running.get(message.number):
                if not running.end.done():
                    running.end.set_result(TrialEnd(message.record, message.infrastructure))
            case TrialLost() if running := self._running.get(message.number):
                if not running.end.done():
                    known = message.errno
                    running.end.set_exception(
                        OSError(known, os.strerror(known)) if known else OSError(message.error)
                    )
            case _:
                pass

    def _log_tail(self) -> str:
        """Return the end of the inner side's logs, for an error."""
        for path in (self._dir.inside_log, self._dir.engine_log):
            with contextlib.suppress(OSError):
                lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
                if lines:
                    return f"; the end of its {path.name}:\n" + "\n".join(lines[-_LOG_LINES:])
        return ""


def read_submission(context: JobContext) -> bytes | None:
    """Return the agent as the ZIP that would be submitted; None for a built-in one.

    Raises JobError if it is no longer the one that the job began with.
    """
    digest = context.agent.record.digest
    if digest is None:
        return None
    source = Path(context.config.agent)
    data = build_zip(source).data if source.is_dir() else source.read_bytes()
    if hashlib.sha256(data).hexdigest() != digest:
        raise JobError(f"{source} was changed while the job was starting: start again")
    return data


def _runnable(item: JobTask, *, allow_network: bool) -> Task:
    """Return the task. Raises _NotRun if it needs no image to know that it cannot run."""
    if item.task is None:
        raise _NotRun(item.problem or "it cannot be loaded")
    if item.task.config.environment.network == "public" and not allow_network:
        raise _NotRun(_NEEDS_NETWORK)
    if (missing := item.task.missing_variables()) is not None:
        raise _NotRun(str(missing))
    return item.task
