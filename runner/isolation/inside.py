"""The inner side of an isolated run: the container's program, which runs the trials it is sent."""

from __future__ import annotations

import asyncio
import os
import shutil
import traceback
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from runner.agents import PackageError, load_agent
from runner.environments import DockerSettings
from runner.environments.docker import clean_up, shared_engine
from runner.environments.rootfs.tree import hand_over
from runner.isolation.confinement import BASE_URL, BubblewrapConfinement
from runner.isolation.container import STORE
from runner.isolation.engine import EngineFailed, running_engine
from runner.isolation.link import (
    LINE_BYTES,
    CancelTrial,
    Failed,
    FreeSpace,
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
from runner.isolation.shared_dir import INSIDE, SharedDir
from runner.jobs.context import JobContext, TrialPlan, TrialProgress
from runner.jobs.errors import JobError
from runner.jobs.layout import JobDirectory
from runner.jobs.lock import read_lock
from runner.jobs.model import JobModel
from runner.jobs.tasks import reload_task
from runner.relay import OuterRelay, Relay
from runner.trials import Trial

RELAY_SOCKET = Path("/run/capstan-relay.sock")
_EVERYBODY = 0o666
_PROGRESS_SEC = 0.5


@dataclass
class InnerRunner:
    """Runs the trials that the outer side sends, each in a task of its own."""

    context: JobContext
    upstream: OuterRelay
    link: Link
    owner: tuple[int, int]
    _running: dict[int, tuple[asyncio.Task[None], TrialProgress]] = field(
        default_factory=dict[int, tuple[asyncio.Task[None], TrialProgress]]
    )

    async def serve(self) -> None:
        """Handle the outer side's messages. Exit the process when the outer side is gone."""
        reporting = asyncio.create_task(self._report_progress(), name="progress")
        try:
            while True:
                match await self.link.receive():
                    case RunTrial() as request:
                        self._start(request)
                    case MeasureSpace():
                        self.link.send(FreeSpace(free_bytes=shutil.disk_usage(STORE).free))
                    case CancelTrial(number=number) if number in self._running:
                        self._running[number][0].cancel()
                    case None:
                        os._exit(1)
                    case _:
                        pass
        finally:
            reporting.cancel()

    def _start(self, request: RunTrial) -> None:
        if request.token is not None:
            self.upstream.tokens[request.trial_name] = request.token
        task = reload_task(Path(request.task_path), request.dataset, self.context.config)
        if task.task is not None:
            task = replace(task, task=replace(task.task, environ=request.environ))
        task = replace(task, path=Path(request.recorded_path))
        plan = TrialPlan(trial_name=request.trial_name, attempt=request.attempt, task=task)
        progress = TrialProgress(plan, retries=request.retries)
        # Never another of the task's images, which an earlier job may have left in the store.
        docker = replace(self.context.docker, images={task.name: request.image})
        trial = Trial(replace(self.context, docker=docker), plan, progress)
        running = asyncio.create_task(self._run(request, trial), name=request.trial_name)
        self._running[request.number] = (running, progress)
        running.add_done_callback(lambda _: self._running.pop(request.number))

    async def _run(self, request: RunTrial, trial: Trial) -> None:
        number = request.number
        folder = self.context.directory.trial(request.trial_name).root
        try:
            end = await trial.run()
            record, infrastructure = end.record, end.infrastructure
        except asyncio.CancelledError:
            record, infrastructure = self.context.directory.read(request.trial_name), False
        except Exception as error:
            traceback.print_exception(error)
            number_of_error = error.errno if isinstance(error, OSError) else None
            lost = TrialLost(number=number, error=f"{type(error).__name__}: {error}", errno=number_of_error)
            self.link.send(lost)
            return
        finally:
            if self.owner[0] != 0 and folder.exists():
                await asyncio.to_thread(hand_over, folder, *self.owner)
        if record is None:
            self.link.send(TrialLost(number=number, error="it was cancelled before it had a record"))
        else:
            self.link.send(TrialEnded(number=number, record=record, infrastructure=infrastructure))

    async def _report_progress(self) -> None:
        """Send phases and usage whenever they have changed."""
        sent: dict[int, str] = {}
        while True:
            for number, (_, progress) in self._running.items():
                moved = TrialMoved(number=number, phase=progress.phase, usage=progress.usage())
                text = moved.model_dump_json()
                if sent.get(number) != text:
                    sent[number] = text
                    self.link.send(moved)
            await asyncio.sleep(_PROGRESS_SEC)


async def main() -> None:
    """Run the trials of this container's job."""
    shared = SharedDir(INSIDE)
    os.environ["DOCKER_HOST"] = f"unix://{shared.engine}"
    reader, writer = await asyncio.open_unix_connection(shared.control, limit=LINE_BYTES)
    link = Link(reader, writer)
    owner = shared.root.stat()
    try:
        async with running_engine(shared, group=owner.st_gid):
            link.send(Ready())
            setup = await link.receive()
            if isinstance(setup, Setup):
                async with _prepared(setup, shared, link) as runner:
                    await runner.serve()
    except (EngineFailed, PackageError) as error:
        link.send(Failed(message=str(error)))
    except JobError as error:
        link.send(Failed(message=str(error), reason=error.reason.value))
    except Exception as error:
        traceback.print_exception(error)
        link.send(Failed(message=f"{type(error).__name__}: {error}"))
    await link.close()


@asynccontextmanager
async def _prepared(setup: Setup, shared: SharedDir, link: Link) -> AsyncGenerator[InnerRunner]:
    """Prepare the agent and a relay of this side's own, so that each agent has its own account."""
    # Without this, requirements that the image does not meet would fail only after timeouts.
    os.environ["PIP_NO_INDEX"] = "1"
    # This job alone uses the engine, so anything in it was left by an earlier job.
    await clean_up(shared_engine(), everything=True)
    directory = JobDirectory(Path(setup.job_dir))
    lock = read_lock(directory.lock)

    def note(line: str) -> None:
        link.send(Note(line=line))

    confinement = BubblewrapConfinement(RELAY_SOCKET, note)
    agent = await load_agent(lock.config, source=shared.submission, confinement=confinement)
    upstream = OuterRelay.on_socket(shared.relay, mode=setup.model_mode, scripted=setup.scripted)
    async with Relay(
        upstream,
        allowed_models=(lock.config.model_name,),
        socket_path=RELAY_SOCKET,
        socket_mode=_EVERYBODY,
    ) as relay:
        context = JobContext(
            directory=directory,
            lock=lock,
            agent=replace(agent, record=setup.agent),
            model=JobModel(lock.config, setup.model, relay if setup.model_mode != "none" else None, BASE_URL),
            # Task containers share this container's network: none, or one that tasks may have.
            docker=DockerSettings(pull=False, network_mode="host"),
            redact=_unchanged,
            recorded_root=Path(setup.recorded_root),
        )
        yield InnerRunner(context, upstream, link, (setup.uid, setup.gid))


def _unchanged(text: str) -> str:
    return text  # the inner side never holds the real key


if __name__ == "__main__":
    asyncio.run(main())
