"""The queue of jobs: runs them as there is room, and takes up again what a stopped service left."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import traceback
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from pydantic import SecretStr

from runner.config import RunConfig, Secrets, redactor
from runner.executors import open_executor
from runner.jobs import JobDirectory, JobError, JobHost, create_job
from runner.jobs.limiter import Capacity, Limiter
from runner.jobs.lock import read_lock
from runner.jobs.model import default_upstream
from runner.relay import LiveUpstream, Upstream
from runner.results.scoring import JobSummary
from runner.service.events import EventObserver
from runner.service.job_request import QueuedJob
from runner.service.settings import ServiceSettings
from runner.service.store import Event, JobEntry, State, Store
from runner.service.upstream import GuardedTransport
from runner.tasks import TaskError
from runner.web.errors import ServiceError

log = logging.getLogger("capstan.service")

RETRY_AFTER_SEC = 30


class JobQueue:
    """Owns the queue while the service runs. All methods are called from one event loop.

    Args:
        base: the service's own settings of a job; its `base_url` is where the service's own key goes.
        secrets: the service's own key.
    """

    def __init__(self, store: Store, base: RunConfig, secrets: Secrets, settings: ServiceSettings) -> None:
        self._store = store
        self._base = base
        self._secrets = secrets
        self._settings = settings
        self._keys: dict[str, SecretStr] = {}  # by job: the only place where a request's key is kept
        self._running: dict[str, asyncio.Task[None]] = {}
        self._cancelled: set[str] = set()
        self._news = asyncio.Event()  # replaced by a new one whenever something happened
        self._stopping = asyncio.Event()
        machine = Capacity.of_machine(None)
        limiter = Limiter(Capacity(settings.thread_pool_max_workers, machine.cpus, machine.memory_mb))
        self._host = JobHost(
            open_executor=partial(open_executor, limiter=limiter),  # all jobs share the machine
            docker=settings.docker(),
            make_upstream=self._make_upstream,
        )

    @property
    def store(self) -> Store:
        """The queue, to be read."""
        return self._store

    @property
    def stopping(self) -> bool:
        """True once the service is going down."""
        return self._stopping.is_set()

    def start(self) -> None:
        """Take up what was queued or running when the service last stopped, however it stopped."""
        for entry in self._store.in_state("running", "queued", "waiting_for_key"):
            if entry.state == "waiting_for_key":
                continue
            if entry.own_key:
                self._store.set_state(
                    entry.id,
                    "waiting_for_key",
                    code="key_needed",
                    message="the service was restarted, and this request's key is kept nowhere: send the "
                    "same request again with its Idempotency-Key, and it goes on",
                )
                self._emit(entry.id, "waiting_for_key", {})
            else:
                self._store.set_state(entry.id, "queued")
            self._emit(entry.id, "restarted", _started_over(entry))
        self._fill()

    async def stop(self) -> None:
        """End running trials in an orderly way; their jobs go on when the service starts again."""
        self.hang_up()
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def hang_up(self) -> None:
        """Let go of everybody who waits for something; no further job is begun."""
        self._stopping.set()
        self._notify()

    def submit(self, queued: QueuedJob, *, fingerprint: str, idempotency_key: str | None = None) -> JobEntry:
        """Queue an queued; or, for a repeated request, give the job that it already has.

        Raises ServiceError: the queue is full, or the Idempotency-Key was used for something else.
        """
        if idempotency_key is not None and (known := self._store.find(idempotency_key)) is not None:
            return self._repeated(known, queued, fingerprint)
        if self.stopping:
            raise stopping()
        waiting = self._store.count("queued")
        if waiting >= self._settings.queue_limit:
            raise ServiceError(
                429,
                "queue_full",
                f"{waiting} jobs are waiting already: try again later",
                headers={"Retry-After": str(RETRY_AFTER_SEC)},
            )
        assert queued.config.job_name is not None
        entry = self._store.add(
            queued.config.job_name,
            queued.kind,
            queued.config,
            own_key=queued.own_key,
            idempotency_key=idempotency_key,
            fingerprint=fingerprint,
        )
        if queued.key is not None:
            self._keys[entry.id] = queued.key
        self._emit(
            entry.id, "queued", {"tasks": len(queued.config.tasks), "attempts": queued.config.attempts}
        )
        self._fill()
        return self._store.get(entry.id)

    def _repeated(self, known: JobEntry, queued: QueuedJob, fingerprint: str) -> JobEntry:
        if known.fingerprint != fingerprint:
            raise ServiceError(
                422, "idempotency_key_reused", "Idempotency-Key: it belongs to an earlier, different request"
            )
        if known.state == "waiting_for_key" and queued.key is not None and not self.stopping:
            self._keys[known.id] = queued.key
            self._store.set_state(known.id, "queued")
            self._emit(known.id, "queued", {"again": True})
            self._fill()
        return self._store.get(known.id)

    def cancel(self, job_id: str) -> JobEntry:
        """Stop a job; what ended before stays. A job that is over stays as it is. Raises KeyError."""
        entry = self._store.get(job_id)
        if entry.ended:
            return entry
        if (task := self._running.get(job_id)) is not None:
            self._cancelled.add(job_id)
            task.cancel()
        else:
            self._end(entry, "cancelled")
        return self._store.get(job_id)

    async def wait(self, job_id: str) -> JobEntry:
        """The job once it is over. Raises ServiceError where the service stops first, or wants its key."""
        async for _ in self.follow(job_id):
            pass
        entry = self._store.get(job_id)
        if entry.state == "waiting_for_key":
            raise ServiceError(409, "key_needed", entry.error_message or "the key is needed again")
        if not entry.ended:
            raise stopping()
        return entry

    async def follow(self, job_id: str, *, after: int = 0) -> AsyncIterator[Event]:
        """The job's events after number `after`, as they come, until it is over or cannot go on."""
        while True:
            news, over = self._news, self._over(job_id)
            for event in self._store.events(job_id, after=after):
                after = event.number
                yield event
            if over:
                return
            await news.wait()

    def _over(self, job_id: str) -> bool:
        entry = self._store.get(job_id)
        return entry.ended or entry.state == "waiting_for_key" or self.stopping

    def _fill(self) -> None:
        """Begin jobs while there is room for one more."""
        if self.stopping:
            return
        room = self._settings.thread_pool_max_workers - len(self._running)
        for entry in self._store.in_state("queued")[: max(0, room)]:
            self._store.set_state(entry.id, "running")
            task = asyncio.create_task(self._run(entry), name=entry.id)
            self._running[entry.id] = task
            task.add_done_callback(lambda _, name=entry.id: self._done(name))

    def _done(self, job_id: str) -> None:
        del self._running[job_id]
        self._cancelled.discard(job_id)
        self._fill()

    async def _run(self, entry: JobEntry) -> None:
        """One job from its beginning, or from where it stopped. Raises nothing but CancelledError."""
        redact = redactor(self._keys.get(entry.id), self._secrets.api_key, self._settings.service_token)
        observer = EventObserver(lambda kind, data: self._emit(entry.id, kind, data), redact)
        log.info("job %s: started", entry.id)
        try:
            summary = await self._work(entry, observer)
        except asyncio.CancelledError:
            if entry.id in self._cancelled:
                self._end(entry, "cancelled")
            else:
                raise  # the service stops: to the queue the job still runs, and it goes on at the next start
        except (JobError, TaskError) as error:
            self._end(entry, "failed", code="job_failed", message=redact(str(error)))
        except Exception as error:
            log.error("job %s: %s", entry.id, redact("".join(traceback.format_exception(error))))
            self._end(entry, "failed", code="internal_error", message="the service failed; its log says why")
        else:
            self._end(
                entry, "completed", score=summary.score, resolved=summary.resolved, total=summary.n_total
            )

    async def _work(self, entry: JobEntry, observer: EventObserver) -> JobSummary:
        _clear_half_made(entry)
        key = self._keys.get(entry.id)
        secrets = self._secrets if key is None else Secrets(api_key=key)
        async with create_job(entry.config, secrets, self._host, observer) as job:
            return await job.run()

    def _end(
        self,
        entry: JobEntry,
        state: State,
        *,
        code: str | None = None,
        message: str | None = None,
        **figures: Any,
    ) -> None:
        self._keys.pop(entry.id, None)
        self._store.set_state(entry.id, state, code=code, message=message)
        log.info("job %s: %s%s", entry.id, state, f": {message}" if message else "")
        self._emit(entry.id, "job_ended", {"state": state, "error": message, **figures})

    def _emit(self, job_id: str, kind: str, data: dict[str, Any]) -> None:
        self._store.add_event(job_id, kind, data)
        self._notify()

    def _notify(self) -> None:
        """Wake everybody who follows a job; each looks for itself whether there is news for it."""
        self._news.set()
        self._news = asyncio.Event()

    def _make_upstream(self, config: RunConfig, secrets: Secrets) -> Upstream:
        """As a job alone would, but an address that a request named is called with care."""
        if config.mode.name != "live" or config.base_url == self._base.base_url or secrets.api_key is None:
            return default_upstream(config, secrets)
        transport = GuardedTransport(self._settings)
        return LiveUpstream(config.base_url, secrets.api_key.get_secret_value(), transport=transport)


def stopping() -> ServiceError:
    """What somebody is told who waits while the service goes down."""
    return ServiceError(
        503,
        "service_stopping",
        "the service is stopping: the job is kept and goes on when it starts again",
        headers={"Retry-After": "5"},
    )


def _clear_half_made(entry: JobEntry) -> None:
    """A service killed between making a job's folder and writing its plan leaves a folder of nothing."""
    if entry.folder.is_dir() and not (entry.folder / "lock.json").exists():
        shutil.rmtree(entry.folder)


def _started_over(entry: JobEntry) -> dict[str, Any]:
    """Which trials of a job stay, and which begin anew."""
    directory = JobDirectory(entry.folder)
    kept: list[str] = []
    over: list[str] = []
    with contextlib.suppress(JobError):
        for trial in read_lock(directory.lock).trials:
            if directory.finished(trial.trial_name) is not None:
                kept.append(trial.trial_name)
            elif (entry.folder / trial.trial_name).exists():
                over.append(trial.trial_name)
    return {"kept": kept, "started_over": over}
