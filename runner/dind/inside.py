"""The inner half of an isolated job: the program of the container. It is told what to run over the link."""

from __future__ import annotations

import asyncio
import contextlib
import os
import traceback
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from runner.dind.confinement import BASE_URL, Walls
from runner.dind.engine import EngineFailed, running_engine
from runner.dind.exchange import INSIDE, Exchange
from runner.dind.link import (
    LINE_BYTES,
    JobEnded,
    Link,
    Note,
    Ready,
    Run,
    Stop,
    TrialEnded,
    TrialMoved,
    TrialRetried,
    TrialStarted,
)
from runner.dind.upstream import OuterRelay
from runner.environments.docker import clean_up, shared_engine
from runner.job.agents import prepare_agent
from runner.job.directory import JobDirectory
from runner.job.errors import JobError
from runner.job.job import Job, JobParts
from runner.job.lock import JobLock, read_lock
from runner.job.model import JobModel
from runner.job.observer import SilentObserver
from runner.job.tasks import JobTask, reload_task
from runner.relay import Relay
from runner.results import TrialRecord
from runner.tasks import TaskError
from runner.trial import TrialProgress

RELAY_SOCKET = Path("/run/capstan-relay.sock")
_EVERYBODY = 0o666
_LOOK_SEC = 0.5


class Reporter(SilentObserver):
    """Tells the outside what happens."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._job: Job | None = None
        self._told: dict[str, str] = {}

    def job_started(self, job: Job) -> None:
        self._job = job

    def trial_started(self, progress: TrialProgress) -> None:
        self._link.say(TrialStarted(trial=progress.plan.trial_name, retries=progress.retries))

    def trial_retried(self, progress: TrialProgress, record: TrialRecord, wait_sec: float) -> None:
        self._link.say(TrialRetried(record=record, wait_sec=wait_sec))

    def trial_ended(self, record: TrialRecord) -> None:
        self._told.pop(record.trial_name, None)
        self._link.say(TrialEnded(record=record))

    def note(self, line: str, *, warning: bool = True) -> None:
        self._link.say(Note(line=line, warning=warning))

    async def look(self) -> None:
        """Phases and figures change without a word: looks at them, for ever."""
        while True:
            for name, progress in list(self._job.running.items()) if self._job else ():
                moved = TrialMoved(trial=name, phase=progress.phase, usage=progress.usage())
                text = moved.model_dump_json()
                if self._told.get(name) != text:
                    self._told[name] = text
                    self._link.say(moved)
            await asyncio.sleep(_LOOK_SEC)


async def main() -> None:
    """Runs the one job that this container is for."""
    exchange = Exchange(INSIDE)
    os.environ["DOCKER_HOST"] = f"unix://{exchange.engine}"
    reader, writer = await asyncio.open_unix_connection(exchange.control, limit=LINE_BYTES)
    link = Link(reader, writer)
    owner = exchange.root.stat()
    try:
        async with running_engine(exchange, group=owner.st_gid):
            link.say(Ready())
            orders = await link.hear()
            if isinstance(orders, Run):
                link.say(await _obey(orders, exchange, link))
    except EngineFailed as error:
        link.say(JobEnded(failure=str(error)))
    await link.close()


async def _obey(orders: Run, exchange: Exchange, link: Link) -> JobEnded:
    """Runs the job until it ends, or the outside says so; an outside that is gone ends everything at once."""
    working = asyncio.create_task(_run(orders, exchange, link), name="job")
    listening = asyncio.create_task(link.hear(), name="outside")
    await asyncio.wait({working, listening}, return_when=asyncio.FIRST_COMPLETED)
    if not working.done():
        if not isinstance(listening.result(), Stop):
            os._exit(1)
        working.cancel()
    listening.cancel()
    try:
        await working
    except asyncio.CancelledError:
        pass
    except (JobError, TaskError) as error:
        reason = error.reason.value if isinstance(error, JobError) else None
        return JobEnded(failure=str(error), reason=reason)
    except Exception as error:
        traceback.print_exception(error)
        return JobEnded(failure=f"{type(error).__name__}: {error}")
    return JobEnded()


async def _run(orders: Run, exchange: Exchange, link: Link) -> None:
    os.environ.update(orders.image_variables)
    os.environ["PULL_IF_NOT_EXISTS"] = "false"
    os.environ["CONTAINER_NETWORK_MODE"] = "host"  # that is this container's: none, or a bridge if allowed
    os.environ["PIP_NO_INDEX"] = (
        "1"  # requirements that the image does not meet fail at once, not by timeouts
    )
    # The engine is this job's alone: what an earlier one left in it has no owner any more.
    await clean_up(shared_engine(), everything=True)
    reporter = Reporter(link)
    directory = JobDirectory(Path(orders.job_dir))
    lock = read_lock(directory.lock)
    lock = lock.model_copy(
        update={"config": lock.config.model_copy(update={"concurrency": orders.concurrency})}
    )
    walls = Walls(RELAY_SOCKET, reporter.note)
    agent = await prepare_agent(lock.config, source=exchange.submission, confinement=walls)
    looking = asyncio.create_task(reporter.look())
    try:
        async with _model(orders, lock, exchange) as model:
            parts = JobParts(
                directory=directory,
                lock=lock,
                tasks=_tasks(lock, orders.problems),
                agent=replace(agent, record=orders.agent),
                model=model,
                redact=lambda text: text,
            )
            await Job(parts, reporter).run()
    finally:
        looking.cancel()
        await asyncio.to_thread(give, directory.root, orders.uid, orders.gid)


def _tasks(lock: JobLock, problems: dict[int, str]) -> Sequence[JobTask]:
    tasks: list[JobTask] = []
    for index, item in enumerate(lock.tasks):
        problem = problems.get(index)
        if problem is not None:
            tasks.append(JobTask(item.name, Path(item.path), item.dataset, problem=problem))
        else:
            tasks.append(reload_task(Path(item.path), item.dataset, instruction=lock.config.instruction))
    return tasks


@asynccontextmanager
async def _model(orders: Run, lock: JobLock, exchange: Exchange) -> AsyncIterator[JobModel]:
    """A relay of this side's own, so that each agent has its account; it alone knows the way out."""
    if not orders.tokens:
        yield JobModel(lock.config, orders.model)
        return
    upstream = OuterRelay(exchange.relay, orders.tokens, mode=orders.model_mode, scripted=orders.scripted)
    allowed = (lock.config.model_name,)
    async with Relay(
        upstream, allowed_models=allowed, socket_path=RELAY_SOCKET, socket_mode=_EVERYBODY
    ) as relay:
        yield JobModel(lock.config, orders.model, relay, agent_url=BASE_URL)


def give(root: Path, uid: int, gid: int) -> None:
    """Whose job it is owns what was written."""
    if uid == 0:
        return
    os.chown(root, uid, gid)
    for parent, folders, files in os.walk(root):
        for name in (*folders, *files):
            with contextlib.suppress(OSError):
                os.chown(Path(parent, name), uid, gid, follow_symlinks=False)


if __name__ == "__main__":
    asyncio.run(main())
