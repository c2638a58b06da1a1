"""The queue of jobs: runs them and, after a restart, continues what was unfinished."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from pydantic import SecretStr

from runner.config import RunConfig, Secrets, redactor
from runner.executors.open import open_executor
from runner.jobs import DiskFull, JobDirectory, JobError, JobHost, create_job
from runner.jobs.limiter import Capacity, Limiter
from runner.jobs.lock import read_lock
from runner.jobs.model import default_upstream
from runner.jobs.results import mark_cancelled
from runner.json_values import JsonObject
from runner.relay import LiveUpstream, Upstream
from runner.results import is_disk_full
from runner.service.events import EventObserver
from runner.service.job_request import QueuedJob
from runner.service.settings import ServiceSettings
from runner.service.store import Event, JobEntry, JobStore, State, has_space
from runner.service.upstream import GuardedTransport
from runner.tasks import TaskError
from runner.web.errors import RETRY_AFTER_SEC, ServiceError, disk_full

log = logging.getLogger("capstan.service")

SPACE_POLL_SEC = 2.0
# A job may itself be what fills the disk.
MAX_TIMES_FULL = 3


@dataclass(frozen=True)
class _Ending:
    """What becomes of a job after its run. `queued`: it goes on later."""

    state: State
    code: str | None = None
    message: str | None = None
    figures: JsonObject | None = None


class JobQueue:
    """Runs the jobs of the store. All methods must be called from one event loop.

    Args:
        base: The service's own job settings. Its `base_url` is the address for the service's key.
        secrets: The service's own key.
    """

    def __init__(self, store: JobStore, base: RunConfig, secrets: Secrets, settings: ServiceSettings) -> None:
        self.store = store
        self._base = base
        self._secrets = secrets
        self._settings = settings
        self._keys: dict[str, SecretStr] = {}  # by job; a request's key is stored nowhere else
        self._running: dict[str, asyncio.Task[None]] = {}
        self._cancelled: set[str] = set()
        self._changed = asyncio.Event()  # set and replaced at each event
        self._stopping = asyncio.Event()
        self._without_space: dict[str, str] = {}  # by job: why its end cannot be stored yet
        self._times_full: Counter[str] = Counter()
        self._space_timer: asyncio.TimerHandle | None = None
        machine = Capacity.of_machine(None)
        limiter = Limiter(Capacity(settings.thread_pool_max_workers, machine.cpus, machine.memory_mb))
        self._host = JobHost(
            open_executor=partial(open_executor, limiter=limiter),  # one limiter for all jobs
            docker=settings.docker(),
            make_upstream=self._make_upstream,
        )

    @property
    def stopping(self) -> bool:
        """Whether the service is stopping."""
        return self._stopping.is_set()

    def start(self) -> None:
        """Queue again what was queued or running when the service stopped or was killed."""
        for entry in self.store.in_state("running", "queued", "waiting_for_key"):
            if entry.state == "waiting_for_key":
                continue
            if entry.own_key:
                self.store.set_state(
                    entry.id,
                    "waiting_for_key",
                    code="key_needed",
                    message="the service was restarted, and this request's key is kept nowhere: send the "
                    "same request again with its Idempotency-Key, and it goes on",
                )
                self._emit(entry.id, "waiting_for_key", {})
            else:
                self.store.set_state(entry.id, "queued")
            self._emit(entry.id, "restarted", _restarted_trials(entry))
        self._start_queued()

    async def stop(self) -> None:
        """End running trials cleanly. Their jobs continue when the service starts again."""
        self.begin_shutdown()
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def begin_shutdown(self) -> None:
        """Start no more jobs, and answer every waiting client."""
        self._stopping.set()
        self._notify()

    def submit(self, queued: QueuedJob, *, fingerprint: str, idempotency_key: str | None = None) -> JobEntry:
        """Add a job to the queue. For a repeated request, return its earlier job.

        Raises:
            ServiceError: The queue or the disk is full, the service is stopping, or the
                Idempotency-Key belongs to another request.
            OSError: The disk is full.
        """
        if idempotency_key is not None and (earlier := self.store.find(idempotency_key)) is not None:
            return self._repeated(earlier, queued, fingerprint)
        if self.stopping:
            raise _stopping_error()
        if not has_space(Path(self._base.jobs_dir)):
            raise disk_full()
        waiting = self.store.count("queued")
        if waiting >= self._settings.queue_limit:
            raise ServiceError(
                429,
                "queue_full",
                f"{waiting} jobs are waiting already: try again later",
                headers={"Retry-After": str(RETRY_AFTER_SEC)},
            )
        assert queued.config.job_name is not None
        entry = self.store.add(
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
        self._start_queued()
        return self.store.get(entry.id)

    def _repeated(self, earlier: JobEntry, queued: QueuedJob, fingerprint: str) -> JobEntry:
        if earlier.fingerprint != fingerprint:
            raise ServiceError(
                422, "idempotency_key_reused", "Idempotency-Key: it belongs to an earlier, different request"
            )
        if earlier.state == "waiting_for_key" and queued.key is not None and not self.stopping:
            self._keys[earlier.id] = queued.key
            self.store.set_state(earlier.id, "queued")
            self._emit(earlier.id, "queued", {"again": True})
            self._start_queued()
        return self.store.get(earlier.id)

    def cancel(self, job_id: str) -> JobEntry:
        """Stop a job. Trials that have ended stay, and so does a job that has. Raises KeyError."""
        entry = self.store.get(job_id)
        if entry.ended:
            return entry
        if (task := self._running.get(job_id)) is not None:
            self._cancelled.add(job_id)
            task.cancel()
        else:
            self._end(entry, _Ending("cancelled"))
        return self.store.get(job_id)

    async def wait(self, job_id: str) -> JobEntry:
        """Return a job once it has ended. Raises ServiceError if it cannot go on before that."""
        while not self._finished(job_id):
            if (problem := self._without_space.get(job_id)) is not None:
                raise disk_full(problem)
            await self._changed.wait()
        entry = self.store.get(job_id)
        if entry.state == "waiting_for_key":
            raise ServiceError(409, "key_needed", entry.error_message or "the key is needed again")
        if not entry.ended:
            raise _stopping_error()
        return entry

    async def follow(self, job_id: str, *, after: int = 0) -> AsyncIterator[Event]:
        """Yield the job's events after number `after`, until it ends or cannot continue."""
        while True:
            changed, finished = self._changed, self._finished(job_id)
            for event in self.store.events(job_id, after=after):
                after = event.number
                yield event
            if finished:
                return
            await changed.wait()

    def _finished(self, job_id: str) -> bool:
        entry = self.store.get(job_id)
        return entry.ended or entry.state == "waiting_for_key" or self.stopping

    def _start_queued(self) -> None:
        """Start as many queued jobs as there is room for, and none while the disk is full."""
        # A job that waits for space is queued again a moment before its last run is over.
        queued = [entry for entry in self.store.in_state("queued") if entry.id not in self._running]
        if self.stopping or not queued:
            return
        if not has_space(Path(self._base.jobs_dir)):
            self._start_later()
            return
        self._space_timer = None
        room = self._settings.thread_pool_max_workers - len(self._running)
        for entry in queued[: max(0, room)]:
            try:
                self.store.set_state(entry.id, "running")
            except OSError:
                self._start_later()
                return
            task = asyncio.create_task(self._run(entry), name=entry.id)
            self._running[entry.id] = task
            task.add_done_callback(lambda _, job_id=entry.id: self._task_done(job_id))

    def _start_later(self) -> None:
        if self._space_timer is None:
            log.warning("no space is left in %s: queued jobs wait for it", self._base.jobs_dir)
        else:
            self._space_timer.cancel()
        self._space_timer = asyncio.get_running_loop().call_later(SPACE_POLL_SEC, self._start_queued)

    def _task_done(self, job_id: str) -> None:
        del self._running[job_id]
        self._cancelled.discard(job_id)
        self._start_queued()

    async def _run(self, entry: JobEntry) -> None:
        """Run a job, or the rest of it. Raises nothing but CancelledError."""
        key = self._keys.get(entry.id)
        redact = redactor(key, self._secrets.api_key, self._settings.service_token)
        log.info("job %s: started", entry.id)
        try:
            ending = await self._run_to_ending(entry, key, redact)
        except asyncio.CancelledError:
            if entry.id not in self._cancelled:
                raise  # the service is stopping; in state `running` the job continues later
            ending = _Ending("cancelled")
        except Exception as error:
            log.error("job %s: %s", entry.id, redact("".join(traceback.format_exception(error))))
            ending = _Ending("failed", "internal_error", "the service failed; its log says why")
        while True:
            try:
                self._end(entry, ending)
                break
            except OSError as error:
                if not is_disk_full(error):
                    raise
            self._answer_without_space(entry.id, ending.message)
            try:
                await asyncio.sleep(SPACE_POLL_SEC)
            except asyncio.CancelledError:
                if entry.id not in self._cancelled:
                    raise
                ending = _Ending("cancelled")
        self._without_space.pop(entry.id, None)

    async def _run_to_ending(
        self, entry: JobEntry, key: SecretStr | None, redact: Callable[[str], str]
    ) -> _Ending:
        observer = EventObserver(lambda kind, data: self._emit_with_space(entry.id, kind, data), redact)
        emitting = asyncio.create_task(observer.run())
        try:
            _remove_incomplete_folder(entry)
            secrets = self._secrets if key is None else Secrets(api_key=key)
            async with create_job(entry.config, secrets, self._host, observer) as job:
                summary = await job.run()
            figures = {"score": summary.score, "resolved": summary.resolved, "total": summary.n_total}
            return _Ending("completed", figures=figures)
        except DiskFull as error:
            return self._ending_without_space(entry, error.cause)
        except (JobError, TaskError) as error:
            return _Ending("failed", "job_failed", redact(str(error)))
        except OSError as error:
            if not is_disk_full(error):
                raise
            return self._ending_without_space(entry, str(error))
        finally:
            observer.close()
            await emitting

    def _ending_without_space(self, entry: JobEntry, cause: str) -> _Ending:
        """Return what becomes of a job when no space is left. A task has failed: a client waits."""
        message = f"{cause}; free some space on the service's disk"
        self._times_full[entry.id] += 1
        if entry.kind == "job" and self._times_full[entry.id] <= MAX_TIMES_FULL:
            return _Ending("queued", message=message)
        self._answer_without_space(entry.id, message)
        return _Ending("failed", "disk_full", message)

    def _answer_without_space(self, job_id: str, message: str | None) -> None:
        """Answer who waits for a job whose end cannot be stored yet."""
        self._without_space[job_id] = message or "no space is left on the service's disk"
        self._notify()

    def _end(self, entry: JobEntry, ending: _Ending) -> None:
        """Store the end of a job, or that it waits again. Raises OSError if no space is left."""
        if ending.state == "cancelled":
            mark_cancelled(entry.folder)
        self.store.set_state(entry.id, ending.state, code=ending.code, message=ending.message)
        log.info("job %s: %s%s", entry.id, ending.state, f": {ending.message}" if ending.message else "")
        if ending.state == "queued":
            self._emit(entry.id, "waiting_for_space", {"message": ending.message})
            return
        self._keys.pop(entry.id, None)
        figures = ending.figures or {}
        self._emit(entry.id, "job_ended", {"state": ending.state, "error": ending.message, **figures})

    def _emit(self, job_id: str, kind: str, data: JsonObject) -> None:
        self.store.add_event(job_id, kind, data)
        self._notify()

    async def _emit_with_space(self, job_id: str, kind: str, data: JsonObject) -> None:
        """Emit an event once there is space for it. It is lost if the service stops before that."""
        while True:
            try:
                self._emit(job_id, kind, data)
                return
            except OSError as error:
                if not is_disk_full(error):
                    raise
            if job_id in self._cancelled:
                self._answer_without_space(job_id, None)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), SPACE_POLL_SEC)
                return

    def _notify(self) -> None:
        """Wake every follower. Each checks whether the change concerns its job."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _make_upstream(self, config: RunConfig, secrets: Secrets) -> Upstream:
        """Return the upstream of a job. An address from a request is called through a guard."""
        if config.mode.name != "live" or config.base_url == self._base.base_url or secrets.api_key is None:
            return default_upstream(config, secrets)
        return LiveUpstream(
            config.base_url,
            secrets.api_key.get_secret_value(),
            make_transport=lambda: GuardedTransport(self._settings),
        )


def _stopping_error() -> ServiceError:
    return ServiceError(
        503,
        "service_stopping",
        "the service is stopping: the job is kept and goes on when it starts again",
        headers={"Retry-After": "5"},
    )


def _remove_incomplete_folder(entry: JobEntry) -> None:
    """Remove a job's folder without a lock, as a service leaves it that is killed in between."""
    if entry.folder.is_dir() and not JobDirectory(entry.folder).lock.exists():
        shutil.rmtree(entry.folder)


def _restarted_trials(entry: JobEntry) -> JsonObject:
    """Return the names of the trials that are finished and of those that start again."""
    directory = JobDirectory(entry.folder)
    finished: list[str] = []
    started_over: list[str] = []
    with contextlib.suppress(JobError):
        for trial in read_lock(directory.lock).trials:
            if directory.finished(trial.trial_name) is not None:
                finished.append(trial.trial_name)
            elif (entry.folder / trial.trial_name).exists():
                started_over.append(trial.trial_name)
    return {"kept": finished, "started_over": started_over}
