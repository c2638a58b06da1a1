"""The node runner: the process on each node of a cluster that runs the trials sent there.

    python -m runner.executors.ray.node FOLDER

It answers requests on a unix socket in its folder (messages.py). It outlives the Ray worker that
started it just long enough to clean up: when that worker's connection closes, because the job's
process ended or was killed, it ends all trials, removes what they left, and exits.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from runner.agents import PackageError, load_agent
from runner.environments import DockerSettings, EnvironmentFailure, EnvironmentKind
from runner.environments.docker import build_image, ensure_image, find_local, shared_engine
from runner.environments.docker.engine import engine_unreachable
from runner.environments.owner import own, remove_tree
from runner.environments.sandbox import SandboxEnvironment
from runner.executors.cleanup import remove_leftovers
from runner.executors.here import open_here
from runner.executors.ray.folders import SUBMISSION, OutgoingFiles, archive_parts
from runner.executors.ray.messages import (
    FRAME_BYTES,
    AskStatus,
    Attend,
    BringImage,
    CancelTrial,
    CloseJob,
    Done,
    Failed,
    FilePart,
    FolderPart,
    NodeStatus,
    OpenJob,
    Placed,
    Refused,
    RunTrial,
    TrialEnded,
    TrialLost,
    TrialMoved,
    frame,
    read_request,
    socket_in,
)
from runner.jobs.context import Executor, JobContext, TrialEnd, TrialPlan, TrialProgress
from runner.jobs.errors import JobError
from runner.jobs.layout import JobDirectory
from runner.jobs.lock import JobLock
from runner.jobs.model import JobModel
from runner.jobs.tasks import JobTask, reload_task
from runner.processes import run_to_end
from runner.relay import OuterRelay, Relay
from runner.results import write_model
from runner.tasks import TaskError, load_task
from runner.trials import environment_spec

MIN_FREE_BYTES = 2 << 30
MIN_FREE_MEMORY_MB = 256
LOOK_SEC = 1.0
END_SEC = 20.0
_JOB_WAIT_SEC = 60.0
_STATUS_SEC = 2.0  # how long what was found out about the engine is taken as true


@dataclass
class NodeJob:
    """A job as a node has it: what its trials share, and where they run."""

    context: JobContext
    executor: Executor
    tasks: dict[int, JobTask]
    upstream: OuterRelay | None
    running: dict[str, asyncio.Task[TrialEnd]] = field(default_factory=dict[str, "asyncio.Task[TrialEnd]"])


@dataclass(frozen=True)
class _Engine:
    """The Docker engine: what is wrong with it, its images' names, and the folder on its disk."""

    problem: str | None = None
    images: list[str] = field(default_factory=list[str])
    root: Path | None = None


class NodeRunner:
    """Answers the requests of the head.

    Args:
        folder: Its own folder, with its socket and those of the jobs.
        name: What the records call this node.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._jobs: dict[str, NodeJob] = {}
        self._stacks: dict[str, AsyncExitStack] = {}
        self._failed: dict[str, str] = {}
        self._opened = asyncio.Condition()
        self._orphaned = asyncio.Event()
        self._engine = _Engine()
        self._asked_at = -_STATUS_SEC
        self._sandbox: tuple[str | None] | None = None

    async def serve(self) -> None:
        """Answer until the connection that attends to this process has closed."""
        server = await asyncio.start_unix_server(self._accept, socket_in(self._folder), limit=FRAME_BYTES)
        try:
            await self._orphaned.wait()
        finally:
            server.close()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._end(), END_SEC)

    async def _end(self) -> None:
        await asyncio.gather(*(self._close(key) for key in list(self._stacks)), return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            match await read_request(reader):
                case RunTrial() as request:
                    await self._run_while_connected(request, reader, writer)
                case Attend():
                    writer.write(frame(Done()))
                    await reader.read()
                    self._orphaned.set()
                case OpenJob() as request:
                    writer.write(frame(await self._open(request)))
                case CloseJob(key=key):
                    await self._close(key)
                    writer.write(frame(Done()))
                case CancelTrial(key=key, trial_name=name):
                    if (job := self._jobs.get(key)) is not None and (trial := job.running.get(name)):
                        trial.cancel()
                    writer.write(frame(Done()))
                case BringImage() as request:
                    writer.write(frame(await self._bring(request)))
                case AskStatus():
                    writer.write(frame(await self.status()))
                case None:
                    pass
        except (ConnectionError, ValueError, asyncio.IncompleteReadError):
            pass  # who asked went away
        except Exception as error:
            traceback.print_exception(error)
            writer.write(frame(Failed(reason=f"{type(error).__name__}: {error}")))
        finally:
            with contextlib.suppress(OSError, RuntimeError):
                await writer.drain()
                writer.close()

    # Jobs

    async def _open(self, request: OpenJob) -> Done | Failed:
        stack = AsyncExitStack()
        try:
            job = await stack.enter_async_context(self._prepared(request))
        except Exception as error:
            said = str(error)
            if not isinstance(error, (JobError, TaskError, PackageError, EnvironmentFailure)):
                traceback.print_exception(error)
                said = f"{type(error).__name__}: {error}"
            await stack.aclose()
            self._failed[request.key] = said
            return Failed(reason=said)
        finally:
            async with self._opened:
                self._opened.notify_all()
        self._jobs[request.key], self._stacks[request.key] = job, stack
        async with self._opened:
            self._opened.notify_all()
        return Done()

    async def _close(self, key: str) -> None:
        job, stack = self._jobs.pop(key, None), self._stacks.pop(key, None)
        if job is not None:
            for trial in job.running.values():
                trial.cancel()
            await asyncio.gather(*job.running.values(), return_exceptions=True)
        if stack is not None:
            await stack.aclose()
        await asyncio.to_thread(remove_tree, self._folder / key)

    @asynccontextmanager
    async def _prepared(self, request: OpenJob) -> AsyncGenerator[NodeJob]:
        """Check what arrived against the lock, and open the executor and the way to the relay."""
        root = self._folder / request.key
        lock = JobLock.model_validate_json(request.lock)
        tasks = await asyncio.to_thread(_load_tasks, root, request, lock)
        submission = root / SUBMISSION
        await asyncio.to_thread(_check_submission, submission, lock)
        agent = await load_agent(lock.config, source=submission)
        docker = replace(
            DockerSettings.from_environment(os.environ),
            images=request.images,
            pull=request.pull,
            built_anew=set[str]() if lock.config.force_build else None,
        )
        directory = JobDirectory(root / "job")
        await asyncio.to_thread(directory.create)
        write_model(directory.lock, lock)
        config = lock.config.model_copy(update={"environment": request.environment_kind})
        async with AsyncExitStack() as stack:
            executor = await stack.enter_async_context(
                open_here(config, list(tasks.values()), docker, _ignore_note)
            )
            relay, upstream = None, None
            if request.relay_url is not None:
                upstream = OuterRelay.at(
                    request.relay_url,
                    certificate=request.relay_certificate,
                    mode=request.model_mode,
                    scripted=request.scripted,
                )
                relay = await stack.enter_async_context(
                    Relay(
                        upstream,
                        allowed_models=(config.model_name,),
                        socket_path=executor.relay_socket,
                    )
                )
            context = JobContext(
                directory=directory,
                lock=lock,
                agent=replace(agent, record=request.agent),
                model=JobModel(config, request.model, relay),
                docker=docker,
                redact=_unchanged,
                recorded_root=Path(request.recorded_root),
            )
            yield NodeJob(context, executor, tasks, upstream)

    # Trials

    async def _run_while_connected(
        self, request: RunTrial, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Run a trial. If the Ray task that holds its resources goes away, cancel it."""
        try:
            job = await self._job(request.key)
        except JobError as error:
            writer.write(frame(Refused(node=self._name, reason=str(error), job=True)))
            return
        if (problem := await self._problem(job.context.environment_kind)) is not None:
            writer.write(frame(Refused(node=self._name, reason=problem)))
            return
        running = asyncio.create_task(self._run(job, request, writer), name=request.trial_name)
        gone = asyncio.create_task(reader.read())
        try:
            await asyncio.wait({running, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not running.done() and (trial := job.running.get(request.trial_name)) is not None:
                trial.cancel()
            await running
        finally:
            gone.cancel()

    async def _job(self, key: str) -> NodeJob:
        """Return a job once it is open. Raises JobError if it cannot be opened."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_JOB_WAIT_SEC), self._opened:
                await self._opened.wait_for(lambda: key in self._jobs or key in self._failed)
        if (job := self._jobs.get(key)) is not None:
            return job
        raise JobError(self._failed.get(key, f"the job did not arrive within {_JOB_WAIT_SEC:g} s"))

    async def _run(self, job: NodeJob, request: RunTrial, writer: asyncio.StreamWriter) -> None:
        if request.token is not None and job.upstream is not None:
            job.upstream.tokens[request.trial_name] = request.token
        task = job.tasks[request.task]
        if task.task is not None:
            task = replace(task, task=replace(task.task, environ=request.environ))
        plan = TrialPlan(trial_name=request.trial_name, attempt=request.attempt, task=task)
        progress = TrialProgress(plan, retries=request.retries)
        folder = job.context.directory.trial(request.trial_name).root
        trial = asyncio.create_task(job.executor.run(job.context, plan, progress))
        job.running[request.trial_name] = trial
        writer.write(frame(Placed(node=self._name)))
        following = asyncio.create_task(self._follow(progress, folder, writer))
        infrastructure, error = False, ""
        try:
            infrastructure = (await trial).infrastructure
        except asyncio.CancelledError:
            if not trial.cancelled():
                raise
        except Exception as problem:
            traceback.print_exception(problem)
            error = f"{type(problem).__name__}: {problem}"
        finally:
            following.cancel()
            del job.running[request.trial_name]
        try:
            await run_to_end(self._send_end(job, request, infrastructure, error, folder, writer))
        finally:
            await asyncio.to_thread(remove_tree, folder)

    async def _send_end(
        self,
        job: NodeJob,
        request: RunTrial,
        infrastructure: bool,
        error: str,
        folder: Path,
        writer: asyncio.StreamWriter,
    ) -> None:
        record = await asyncio.to_thread(job.context.directory.read, request.trial_name)
        if error or record is None:
            writer.write(frame(TrialLost(error=error or "it was cancelled before it had a record")))
            return
        parts = archive_parts(folder)
        while (part := await asyncio.to_thread(next, parts, None)) is not None:
            writer.write(frame(FolderPart(), part))
            await writer.drain()
        writer.write(frame(TrialEnded(record=record, infrastructure=infrastructure)))

    async def _follow(self, progress: TrialProgress, folder: Path, writer: asyncio.StreamWriter) -> None:
        """Send what is new of a running trial, until cancelled."""
        files, sent = OutgoingFiles(folder), b""
        while True:
            moved = frame(TrialMoved(phase=progress.phase, usage=progress.usage()))
            if moved != sent:
                sent = moved
                writer.write(moved)
            for name, offset, data in files.parts(time.monotonic()):
                writer.write(frame(FilePart(name=name, offset=offset), data))
            with contextlib.suppress(ConnectionError):
                await writer.drain()
            await asyncio.sleep(LOOK_SEC)

    # The node itself

    async def status(self) -> NodeStatus:
        """Return the state of this node."""
        engine = await self._engine_state()
        sandbox = await self._sandbox_problem()
        docker = sandbox is not None or any(
            job.context.environment_kind == "docker" for job in self._jobs.values()
        )
        return NodeStatus(
            problem=await self._problem("docker" if docker else "sandbox"),
            engine=engine.problem,
            sandbox=sandbox,
            free_bytes=shutil.disk_usage(self._folder).free,
            free_memory_mb=_free_memory_mb(),
            images=engine.images,
            running=[name for job in self._jobs.values() for name in job.running],
        )

    async def _problem(self, kind: EnvironmentKind) -> str | None:
        """Return why no trial can begin here now, or None."""
        disks, memory = [self._folder], _free_memory_mb()
        if kind == "docker":
            state = await self._engine_state()
            if state.problem is not None:
                return state.problem
            disks += [state.root] if state.root is not None and state.root.is_dir() else []
        for disk in disks:
            if (free := shutil.disk_usage(disk).free) < MIN_FREE_BYTES:
                return (
                    f"{disk} has {free / 2**30:.1f} GiB of disk free, and {MIN_FREE_BYTES >> 30} are needed"
                )
        if memory < MIN_FREE_MEMORY_MB:
            return f"{memory} MiB of memory are free, and {MIN_FREE_MEMORY_MB} are needed"
        return None

    async def _engine_state(self) -> _Engine:
        if time.monotonic() - self._asked_at >= _STATUS_SEC:
            self._engine = await _ask_engine()
            self._asked_at = time.monotonic()
        return self._engine

    async def _sandbox_problem(self) -> str | None:
        if self._sandbox is None:
            self._sandbox = (await SandboxEnvironment.unavailable(),)
        return self._sandbox[0]

    async def _bring(self, request: BringImage) -> Done | Failed:
        try:
            task = await asyncio.to_thread(load_task, self._folder / request.key / request.folder)
            settings = replace(
                DockerSettings.from_environment(os.environ), images=request.images, pull=request.pull
            )
            spec = environment_spec(task)
            engine = shared_engine()
            if request.build:
                image = await build_image(engine, spec, settings, force=request.force)
            else:
                image = await ensure_image(engine, spec, settings)
            used = await find_local(engine, spec, settings)
        except (EnvironmentFailure, TaskError) as error:
            return Failed(reason=str(error))
        finally:
            await asyncio.to_thread(remove_tree, self._folder / request.key)
        self._asked_at = -_STATUS_SEC
        other = "" if used is None or used.name == image.name else f", but trials there use {used.name}"
        return Done(text=image.name + other)


def _load_tasks(root: Path, request: OpenJob, lock: JobLock) -> dict[int, JobTask]:
    """Load the tasks that arrived. Raises JobError if one is not what the lock names."""
    tasks: dict[int, JobTask] = {}
    for parcel in request.tasks:
        folder = root / "tasks" / parcel.digest / parcel.folder
        task = reload_task(folder, parcel.dataset, lock.config)
        if task.digest != parcel.digest or parcel.digest != lock.tasks[parcel.number].digest:
            found = task.problem or task.digest
            raise JobError(f"task {parcel.name} is not what the job's lock names: {found}")
        tasks[parcel.number] = replace(task, path=Path(parcel.recorded_path))
    return tasks


def _check_submission(path: Path, lock: JobLock) -> None:
    if lock.agent_digest is None:
        return
    if hashlib.sha256(path.read_bytes()).hexdigest() != lock.agent_digest:
        raise JobError("the agent is not what the job's lock names")


async def _ask_engine() -> _Engine:
    if (problem := await engine_unreachable()) is not None:
        return _Engine(problem)
    try:
        engine = shared_engine()
        found = await engine.call(engine.api.images)
        root = (await engine.call(engine.api.info)).get("DockerRootDir")
    except EnvironmentFailure as error:
        return _Engine(str(error))
    names = [tag for image in found for tag in image.get("RepoTags") or ()]
    return _Engine(None, names, Path(root) if root else None)


def _free_memory_mb() -> int:
    """Return the MiB of memory that programs can still have, on this machine or in this pod."""
    lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()  # proc_meminfo(5)
    free = next(int(line.split()[1]) >> 10 for line in lines if line.startswith("MemAvailable:"))
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # "max" is no bound
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        used = int((group / "memory.current").read_text(encoding="ascii"))
        free = min(free, (limit - used) >> 20)
    return free


def _ignore_note(line: str, *, warning: bool = True) -> None: ...


def _unchanged(text: str) -> str:
    return text  # a node never holds the real key


async def _main(folder: Path, name: str) -> None:
    runner = NodeRunner(folder, name)
    try:
        await runner.serve()
    finally:
        await asyncio.to_thread(remove_tree, folder)
    await remove_leftovers()


def main(folder: Path, name: str) -> None:
    """Run a node runner in a process of its own."""
    # Ray blocks Ctrl-C for its workers, and what trials start must not inherit that.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, _ignore_signal)
    own(folder)
    asyncio.run(_main(folder, name))


def _ignore_signal(number: int, frame: object) -> None: ...


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
