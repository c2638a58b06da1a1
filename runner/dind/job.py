"""A job that runs in a container without a network; this is its outer half."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from runner.dind.container import folder_mounts, isolated_container, still_runs
from runner.dind.exchange import Exchange
from runner.dind.image import ensure_runner_image
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
from runner.dind.store import claim_store, ensure_volume
from runner.dind.tasks import ready_tasks
from runner.dind.transfer import bring_images
from runner.environments.docker import DockerSettings, Engine, shared_engine
from runner.job.errors import JobError
from runner.job.host import ALONE, JobHost
from runner.job.job import Job, JobParts
from runner.job.observer import JobObserver
from runner.results import Reason
from runner.scoring import JobSummary
from runner.submission import build_zip
from runner.trial import TrialPlan, TrialProgress

START_SEC = 60.0
LOOK_SEC = 0.5
# Inside, ending the trials takes 10 s at the most; then it is ended from here.
STOP_SEC = 15.0
_LOG_LINES = 8


class IsolatedJob(Job):
    """As a Job, but its trials run inside; what they write is in the same folder at once."""

    def __init__(
        self, parts: JobParts, observer: JobObserver | None, exchange: Exchange, host: JobHost = ALONE
    ) -> None:
        super().__init__(parts, observer, host=host)
        self._exchange = exchange
        self._docker = host.docker or DockerSettings.from_environment(os.environ)

    async def run(self) -> JobSummary:
        """See Job.run. Raises JobError where the isolated runner cannot be started, or ends early."""
        plans = self._plans()
        self.books.write_config()
        self.books.write("running", n_running=0)
        self._observer.job_started(self)
        status = "interrupted"
        try:
            if len(self.books.records) < len(plans):
                await self._inside(plans)
            status = "completed"
        finally:
            for name in self.running:  # interrupted: each has its record, but nobody was told
                if record := self.parts.directory.read(name):
                    self.books.add(record)
            self.running.clear()
            summary = self.books.write(status, n_running=0)
            self._log.info("job %s: %s", status, summary.result.render())
            self._observer.job_ended(summary, self.books.records)
            self._close_log()
        return summary

    def _plans(self) -> dict[str, TrialPlan]:
        plans: dict[str, TrialPlan] = {}
        for trial in self.parts.lock.trials:
            if record := self.parts.directory.finished(trial.trial_name):
                self.books.add(record)
            task = self.parts.tasks[trial.task]
            plans[trial.trial_name] = TrialPlan(
                trial_name=trial.trial_name,
                task_name=task.name,
                task_path=task.path,
                dataset=task.dataset,
                attempt=trial.attempt,
                task=task.task,
                problem=task.problem,
            )
        return plans

    async def _inside(self, plans: dict[str, TrialPlan]) -> None:
        """From the container's start to its end."""
        engine = shared_engine()
        image = await ensure_runner_image(engine, self._docker, lambda line: self._say(line))
        images, problems = await ready_tasks(engine, self.parts, self._docker, self._say)
        await asyncio.to_thread(self._put_submission)
        mounts = folder_mounts(
            read_only=[task.path for task in self.parts.tasks if task.task is not None],
            writable=[self.parts.directory.root],
        )
        async with AsyncExitStack() as stack:
            volume = stack.enter_context(claim_store(self._docker.cache_dir))
            await ensure_volume(engine, volume)
            arrival = await stack.enter_async_context(self._listening())
            container = await stack.enter_async_context(
                isolated_container(
                    engine,
                    image=image.id,
                    volume=volume,
                    exchange=self._exchange,
                    mounts=mounts,
                    network=self._docker.network_mode if self.config.allow_task_network else "none",
                )
            )
            link = await self._arrived(engine, container, arrival)
            brought = await asyncio.to_thread(bring_images, engine, str(self._exchange.engine), images)
            if brought:
                self._say(f"brought {len(brought)} of {len(images)} task images into the isolated engine")
            link.say(self._orders(problems))
            await self._follow(link, plans)

    def _put_submission(self) -> None:
        """The agent goes in as the ZIP that it would be submitted as: of its folder nothing else is seen."""
        digest = self.parts.agent.record.digest
        if digest is None:
            return
        source = Path(self.config.agent)
        data = build_zip(source).data if source.is_dir() else source.read_bytes()
        if hashlib.sha256(data).hexdigest() != digest:
            raise JobError(f"{source} was changed while the job was starting: start again")
        self._exchange.submission.write_bytes(data)

    @asynccontextmanager
    async def _listening(self) -> AsyncIterator[asyncio.Future[Link]]:
        """The inside calls once; nobody else can, as the folder is this user's alone."""
        arrival: asyncio.Future[Link] = asyncio.get_running_loop().create_future()

        def arrived(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if arrival.done():
                writer.close()
            else:
                arrival.set_result(Link(reader, writer))

        server = await asyncio.start_unix_server(arrived, self._exchange.control, limit=LINE_BYTES)
        try:
            yield arrival
        finally:
            server.close()
            if arrival.done() and not arrival.cancelled():
                await arrival.result().close()

    async def _arrived(self, engine: Engine, container: str, arrival: asyncio.Future[Link]) -> Link:
        try:
            async with asyncio.timeout(START_SEC):
                while not arrival.done():
                    await asyncio.wait({arrival}, timeout=LOOK_SEC)
                    if not arrival.done() and not await still_runs(engine, container):
                        raise JobError(f"the isolated runner ended at once{self._last_words()}")
                link = arrival.result()
                message = await link.hear()
        except TimeoutError:
            raise JobError(
                f"the isolated runner did not start within {START_SEC:g} s{self._last_words()}"
            ) from None
        if not isinstance(message, Ready):
            words = message.failure if isinstance(message, JobEnded) else None
            raise JobError(f"the isolated runner did not start: {words or 'it ended'}{self._last_words()}")
        return link

    def _orders(self, problems: dict[int, str]) -> Run:
        parts, config = self.parts, self.config
        relay = parts.model.relay
        tokens: dict[str, list[str]] = {}
        if relay is not None:
            # Each try may spend the limit, and no try more than that: the relay here counts, too.
            for trial in parts.lock.trials:
                accounts = [
                    relay.open_run(trial.trial_name, cost_limit_usd=config.cost_limit_usd)
                    for _ in range(config.max_retries + 1)
                ]
                tokens[trial.trial_name] = [account.token for account in accounts]
        return Run(
            job_dir=str(parts.directory.root),
            problems=problems,
            tokens=tokens,
            agent=parts.agent.record,
            model=parts.model.source,
            model_mode=relay.mode if relay else "none",
            scripted=relay.scripted if relay else False,
            concurrency=config.concurrency,
            image_variables=_image_variables(self._docker),
            uid=os.getuid(),
            gid=os.getgid(),
        )

    async def _follow(self, link: Link, plans: dict[str, TrialPlan]) -> None:
        """Shows what happens, to the end. Cancelled, it has the inside end its trials first."""
        listening = asyncio.create_task(self._listen(link, plans), name="isolated runner")
        try:
            await asyncio.shield(listening)
        except asyncio.CancelledError:
            link.say(Stop())
            with contextlib.suppress(TimeoutError, JobError):
                await asyncio.wait_for(listening, STOP_SEC)
            raise
        finally:
            listening.cancel()

    async def _listen(self, link: Link, plans: dict[str, TrialPlan]) -> None:
        while True:
            match await link.hear():
                case TrialStarted() as told:
                    progress = self.running.setdefault(told.trial, TrialProgress(plans[told.trial]))
                    progress.retries = told.retries
                    self._observer.trial_started(progress)
                case TrialMoved() as told if told.trial in self.running:
                    progress = self.running[told.trial]
                    progress.phase = told.phase
                    progress.usage = lambda usage=told.usage: usage
                case TrialRetried() as told if told.record.trial_name in self.running:
                    progress = self.running[told.record.trial_name]
                    progress.retries += 1
                    self._observer.trial_retried(progress, told.record, told.wait_sec)
                case TrialEnded() as told:
                    self.running.pop(told.record.trial_name, None)
                    self.books.add(told.record)
                    self._observer.trial_ended(told.record)
                case Note() as told:
                    self._observer.note(told.line, warning=told.warning)
                case JobEnded(failure=None):
                    return
                case JobEnded() as told:
                    raise JobError(
                        f"isolated runner: {told.failure}", Reason(told.reason or Reason.JOB_FAILED)
                    )
                case None:
                    raise JobError(f"the isolated runner ended before its job did{self._last_words()}")
                case _:
                    pass

    def _last_words(self) -> str:
        """The end of its logs, for an error."""
        for path in (self._exchange.inside_log, self._exchange.engine_log):
            with contextlib.suppress(OSError):
                lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
                if lines:
                    return f"; the end of its {path.name}:\n" + "\n".join(lines[-_LOG_LINES:])
        return ""

    def _say(self, line: str) -> None:
        self._log.info("%s", line)
        self._observer.note(line, warning=False)


def _image_variables(settings: DockerSettings) -> dict[str, str]:
    """What the runner inside must know to take the images that were brought to it."""
    named = {"DOCKER_REGISTRY": settings.registry, "DEFAULT_IMAGE_REGISTRY": settings.default_registry}
    return {name: value for name, value in named.items() if value}
