"""The desk: takes orders, runs them as there is room, and takes up again what a stopped service left."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import traceback
from collections.abc import AsyncIterator, Callable
from typing import Any

from pydantic import SecretStr

from runner.config import RunConfig, Secrets
from runner.job import JobDirectory, JobError, JobHost, new_job
from runner.job.gate import Capacity, Gate, Needs
from runner.job.lock import read_lock
from runner.job.model import make_upstream
from runner.relay import LiveUpstream, Upstream
from runner.scoring import JobSummary
from runner.service.orders import Order
from runner.service.settings import ServiceSettings
from runner.service.store import Event, JobRow, State, Store
from runner.service.telling import EventObserver
from runner.service.upstream import GuardedTransport
from runner.tasks import TaskError
from runner.web.errors import ServiceError

log = logging.getLogger("capstan.service")

RETRY_AFTER_SEC = 30


class Desk:
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
        self._host = JobHost(
            gate=Gate(Capacity(settings.thread_pool_max_workers, machine.cpus, machine.memory_mb)),
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
        for row in self._store.in_state("running", "queued", "waiting_for_key"):
            if row.state == "waiting_for_key":
                continue
            if row.own_key:
                self._store.set_state(
                    row.id,
                    "waiting_for_key",
                    code="key_needed",
                    message="the service was restarted, and this request's key is kept nowhere: send the "
                    "same request again with its Idempotency-Key, and it goes on",
                )
                self._tell(row.id, "waiting_for_key", {})
            else:
                self._store.set_state(row.id, "queued")
            self._tell(row.id, "restarted", _started_over(row))
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
        self._spread()

    def submit(self, order: Order, *, fingerprint: str, idempotency_key: str | None = None) -> JobRow:
        """Queue an order; or, for a repeated request, give the job that it already has.

        Raises ServiceError: the queue is full, or the Idempotency-Key was used for something else.
        """
        if idempotency_key is not None and (known := self._store.find(idempotency_key)) is not None:
            return self._repeated(known, order, fingerprint)
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
        assert order.config.job_name is not None
        row = self._store.add(
            order.config.job_name,
            order.kind,
            order.config,
            own_key=order.own_key,
            idempotency_key=idempotency_key,
            fingerprint=fingerprint,
        )
        if order.key is not None:
            self._keys[row.id] = order.key
        self._tell(row.id, "queued", {"tasks": len(order.config.tasks), "attempts": order.config.attempts})
        self._fill()
        return self._store.get(row.id)

    def _repeated(self, known: JobRow, order: Order, fingerprint: str) -> JobRow:
        if known.fingerprint != fingerprint:
            raise ServiceError(
                422, "idempotency_key_reused", "Idempotency-Key: it belongs to an earlier, different request"
            )
        if known.state == "waiting_for_key" and order.key is not None and not self.stopping:
            self._keys[known.id] = order.key
            self._store.set_state(known.id, "queued")
            self._tell(known.id, "queued", {"again": True})
            self._fill()
        return self._store.get(known.id)

    def cancel(self, job_id: str) -> JobRow:
        """Stop a job; what ended before stays. A job that is over stays as it is. Raises KeyError."""
        row = self._store.get(job_id)
        if row.ended:
            return row
        if (task := self._running.get(job_id)) is not None:
            self._cancelled.add(job_id)
            task.cancel()
        else:
            self._end(row, "cancelled")
        return self._store.get(job_id)

    async def wait(self, job_id: str) -> JobRow:
        """The job once it is over. Raises ServiceError where the service stops first, or wants its key."""
        async for _ in self.follow(job_id):
            pass
        row = self._store.get(job_id)
        if row.state == "waiting_for_key":
            raise ServiceError(409, "key_needed", row.error_message or "the key is needed again")
        if not row.ended:
            raise stopping()
        return row

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
        row = self._store.get(job_id)
        return row.ended or row.state == "waiting_for_key" or self.stopping

    def _fill(self) -> None:
        """Begin jobs while there is room for one more."""
        if self.stopping:
            return
        room = self._settings.thread_pool_max_workers - len(self._running)
        for row in self._store.in_state("queued")[: max(0, room)]:
            self._store.set_state(row.id, "running")
            task = asyncio.create_task(self._run(row), name=row.id)
            self._running[row.id] = task
            task.add_done_callback(lambda _, name=row.id: self._done(name))

    def _done(self, job_id: str) -> None:
        del self._running[job_id]
        self._cancelled.discard(job_id)
        self._fill()

    async def _run(self, row: JobRow) -> None:
        """One job from its beginning, or from where it stopped. Raises nothing but CancelledError."""
        redact = self._redactor(row)
        observer = EventObserver(lambda kind, data: self._tell(row.id, kind, data), redact)
        log.info("job %s: started", row.id)
        try:
            summary = await self._work(row, observer)
        except asyncio.CancelledError:
            if row.id in self._cancelled:
                self._end(row, "cancelled")
            else:
                raise  # the service stops: to the queue the job still runs, and it goes on at the next start
        except (JobError, TaskError) as error:
            self._end(row, "failed", code="job_failed", message=redact(str(error)))
        except Exception as error:
            log.error("job %s: %s", row.id, redact("".join(traceback.format_exception(error))))
            self._end(row, "failed", code="internal_error", message="the service failed; its log says why")
        else:
            self._end(row, "completed", score=summary.score, resolved=summary.resolved, total=summary.n_total)

    async def _work(self, row: JobRow, observer: EventObserver) -> JobSummary:
        _clear_half_made(row)
        key = self._keys.get(row.id)
        secrets = self._secrets if key is None else Secrets(api_key=key)
        async with contextlib.AsyncExitStack() as stack:
            job = await stack.enter_async_context(new_job(row.config, secrets, observer, host=self._host))
            if row.config.isolation == "dind":  # it has a gate of its own inside, for one trial at a time
                needs = [Needs.of(task.task) for task in job.parts.tasks]
                whole = Needs(max(n.cpus for n in needs), max(n.memory_mb for n in needs))
                assert self._host.gate is not None
                await stack.enter_async_context(self._host.gate.admit(whole))
            return await job.run()

    def _end(
        self,
        row: JobRow,
        state: State,
        *,
        code: str | None = None,
        message: str | None = None,
        **figures: Any,
    ) -> None:
        self._keys.pop(row.id, None)
        self._store.set_state(row.id, state, code=code, message=message)
        log.info("job %s: %s%s", row.id, state, f": {message}" if message else "")
        self._tell(row.id, "job_ended", {"state": state, "error": message, **figures})

    def _tell(self, job_id: str, kind: str, data: dict[str, Any]) -> None:
        self._store.tell(job_id, kind, data)
        self._spread()

    def _spread(self) -> None:
        """Wake everybody who follows a job; each looks for itself whether there is news for it."""
        self._news.set()
        self._news = asyncio.Event()

    def _redactor(self, row: JobRow) -> Callable[[str], str]:
        keys = [self._keys.get(row.id), self._secrets.api_key, self._settings.service_token]
        values = [key.get_secret_value() for key in keys if key is not None and key.get_secret_value()]

        def redact(text: str) -> str:
            for value in values:
                text = text.replace(value, "[REDACTED]")
            return text

        return redact

    def _make_upstream(self, config: RunConfig, secrets: Secrets) -> Upstream:
        """As a job alone would, but an address that a request named is called with care."""
        if config.mode.name != "live" or config.base_url == self._base.base_url or secrets.api_key is None:
            return make_upstream(config, secrets)
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


def _clear_half_made(row: JobRow) -> None:
    """A service killed between making a job's folder and writing its plan leaves a folder of nothing."""
    if row.folder.is_dir() and not (row.folder / "lock.json").exists():
        shutil.rmtree(row.folder)


def _started_over(row: JobRow) -> dict[str, Any]:
    """Which trials of a job stay, and which begin anew."""
    directory = JobDirectory(row.folder)
    kept: list[str] = []
    over: list[str] = []
    with contextlib.suppress(JobError):
        for trial in read_lock(directory.lock).trials:
            if directory.finished(trial.trial_name) is not None:
                kept.append(trial.trial_name)
            elif (row.folder / trial.trial_name).exists():
                over.append(trial.trial_name)
    return {"kept": kept, "started_over": over}
