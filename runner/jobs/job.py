"""A job: every planned trial, run once by an executor, and its figures."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import traceback
from collections.abc import Sequence

from runner.jobs.context import Executor, JobContext, TrialEnd, TrialPlan, TrialProgress
from runner.jobs.errors import DiskFull, JobError
from runner.jobs.events import JobObserver
from runner.jobs.layout import JobDirectory
from runner.jobs.limiter import Resources
from runner.jobs.results import JobResultWriter, JobStatus
from runner.jobs.tasks import JobTask
from runner.processes import run_to_end
from runner.results import Reason, TrialRecord, is_disk_full, utc_now, write_model
from runner.results.layout import apply_umask
from runner.results.scoring import JobSummary

RETRY_WAIT_MAX_SEC = 60.0


class Job:
    """Runs the trials that have not ended yet. One use only. `running` has them by name."""

    def __init__(
        self,
        context: JobContext,
        tasks: Sequence[JobTask],
        executor: Executor,
        observer: JobObserver | None = None,
    ) -> None:
        self.context = context
        self.results = JobResultWriter(context.directory, context.lock, context.model.source)
        self.running: dict[str, TrialProgress] = {}
        self._tasks = tasks
        self._executor = executor
        self._observer = observer or JobObserver()
        self._log = _job_log(context.directory)
        self._full = ""  # what failed once no space was left

    async def run(self) -> JobSummary:
        """Run to the end.

        On cancellation all running trials are stopped in an orderly way, their environments removed
        and the files marked `interrupted`; then CancelledError is raised.

        If no space is left for its files, running trials come to their ends and no other begins.

        Raises:
            JobError: The executor cannot run trials.
            DiskFull: No space is left for the job's files.
        """
        try:
            pending = self._pending()
            self.results.write_config()
            self.results.write("running", n_running=0)
        except OSError as error:
            self._stop_if_full(error)
            raise self._disk_full() from None
        if (cluster_use := self._executor.cluster_use) is not None:
            self._observer.cluster_joined(cluster_use)
        self._observer.job_started(self.context, self.results, self.running)
        status = "interrupted"
        try:
            await self._run_all(pending)
            status = "interrupted" if self._full else "completed"
        finally:
            summary = self._write_last(status)
            self._log.info("job %s: %s", status, summary.result.render())
            self._observer.job_ended(summary, self.results.records)
            self._close_log()
        if self._full:
            raise self._disk_full()
        return summary

    def _write_last(self, status: JobStatus) -> JobSummary:
        try:
            return self.results.write(status, n_running=0)
        except OSError as error:
            self._stop_if_full(error)
            return self.results.summary()

    def _stop_if_full(self, error: OSError) -> None:
        """Start no other trial if no space is left. Raises the error if it is another one."""
        if not is_disk_full(error):
            raise error
        self._full = self._full or str(error)

    def _disk_full(self) -> DiskFull:
        return DiskFull(self.context.directory.root, self._full)

    async def _run_all(self, pending: Sequence[TrialPlan]) -> None:
        limiter = self._executor.limiter
        try:
            async with asyncio.TaskGroup() as group:
                for plan in pending:
                    resources = Resources.of(plan.task.task)
                    await limiter.acquire(resources)
                    if self._full:
                        limiter.release(resources)
                        break
                    task = group.create_task(self._run_trial(plan), name=plan.trial_name)
                    task.add_done_callback(lambda _, taken=resources: limiter.release(taken))
        except ExceptionGroup as failed:  # except* would raise a group again in Python 3.11.2
            if (errors := failed.subgroup(JobError)) is None:
                raise
            raise errors.exceptions[0] from None

    def _pending(self) -> list[TrialPlan]:
        """Return the plans without a result. What is left of an interrupted try is set aside."""
        directory, plans = self.context.directory, list[TrialPlan]()
        for trial in self.context.lock.trials:
            if record := directory.finished(trial.trial_name):
                self.results.add(record)
                continue
            if place := directory.set_aside(trial.trial_name):
                self._note(f"{trial.trial_name} was interrupted before: what it left is in {place}")
            plans.append(
                TrialPlan(trial_name=trial.trial_name, attempt=trial.attempt, task=self._tasks[trial.task])
            )
        return plans

    async def _run_trial(self, plan: TrialPlan) -> None:
        """Run one trial with its retries. No error of one trial reaches another."""
        progress = TrialProgress(plan, on_placed=self._placed)
        self.running[plan.trial_name] = progress
        try:
            record = await self._with_retries(plan, progress)
        except asyncio.CancelledError:
            if record := self.context.directory.read(plan.trial_name):
                self.results.add(record)
            raise
        except JobError:
            raise
        except Exception as error:
            # The trial could not even keep its files. It still counts, as errored.
            self._log.error("trial %s: %s", plan.trial_name, "".join(traceback.format_exception(error)))
            record = self._lost(plan, error)
        finally:
            del self.running[plan.trial_name]
        self.results.add(record)
        if record.reason_code is Reason.DISK_FULL:
            self._full = self._full or record.error or ""
        self._write_running()
        outcome = record.reason_code.value if record.reason_code else f"reward {record.reward}"
        self._log.info("trial %s ended: %s", plan.trial_name, outcome)
        self._observer.trial_ended(record)

    async def _with_retries(self, plan: TrialPlan, progress: TrialProgress) -> TrialRecord:
        config = self.context.config
        self._log.info("trial %s started: task %s, attempt %d", plan.trial_name, plan.task.name, plan.attempt)
        if self._executor.cluster_use is None:
            self._write_running()  # on a cluster it waits, and is counted once it has a node
        while True:
            self._observer.trial_started(progress)
            try:
                end = await self._executor.run(self.context, plan, progress)
            finally:
                folder = self.context.directory.trial(plan.trial_name).root
                await run_to_end(asyncio.to_thread(apply_umask, folder))
            if not end.infrastructure or progress.retries >= config.max_retries:
                return self._with_history(end)
            wait = min(config.retry_wait_sec * 2**progress.retries, RETRY_WAIT_MAX_SEC)
            place = self.context.directory.set_aside(plan.trial_name)
            progress.retries, progress.node = progress.retries + 1, None
            self._log.warning(
                "trial %s: %s: retry %d in %g s; the failed try is in %s",
                plan.trial_name,
                end.record.error,
                progress.retries,
                wait,
                place,
            )
            self._observer.trial_retried(progress, end.record, wait)
            await asyncio.sleep(wait)

    def _placed(self, progress: TrialProgress) -> None:
        self._log.info("trial %s placed on node %s", progress.plan.trial_name, progress.node)
        self._write_running()
        self._observer.trial_placed(progress)

    def _with_history(self, end: TrialEnd) -> TrialRecord:
        """Return the record with the places of what was set aside before it."""
        directory = self.context.directory
        history = directory.set_aside_of(end.record.trial_name)
        if not history:
            return end.record
        record = end.record.model_copy(update={"set_aside": history})
        write_model(directory.trial(record.trial_name).record, record)
        return record

    def _lost(self, plan: TrialPlan, error: Exception) -> TrialRecord:
        now = utc_now()
        return TrialRecord(
            trial_name=plan.trial_name,
            task_name=plan.task.name,
            task_path=str(plan.task.path),
            attempt=plan.attempt,
            rules=self.context.config.rules,
            status="errored",
            reason_code=Reason.DISK_FULL if is_disk_full(error) else Reason.RESULT_MISSING,
            error_type=type(error).__name__,
            error=f"the trial's files could not be written: {error}",
            agent=self.context.agent.record,
            model=self.context.model.source,
            started_at=now,
            finished_at=now,
        )

    def _write_running(self) -> None:
        nodes = {name: trial.node for name, trial in self.running.items() if trial.node is not None}
        on_cluster = self._executor.cluster_use is not None
        try:
            self.results.write(
                "running", n_running=len(nodes) if on_cluster else len(self.running), nodes=nodes
            )
        except OSError as error:
            if is_disk_full(error):
                self._full = self._full or str(error)
            else:
                self._note(f"the job's result could not be written: {error}")

    def _note(self, line: str) -> None:
        self._log.info("%s", line)
        self._observer.note(line)

    def _close_log(self) -> None:
        for handler in list(self._log.handlers):
            self._log.removeHandler(handler)
            with contextlib.suppress(OSError):
                handler.close()


class _JobLogHandler(logging.FileHandler):
    """Never raises or prints anything, as a trial's log."""

    def handleError(self, record: logging.LogRecord) -> None:
        pass


def _job_log(directory: JobDirectory) -> logging.Logger:
    """Return a logger that writes `job.log` and reaches no other handler."""
    log = logging.Logger(f"capstan.job.{directory.name}")
    handler = _JobLogHandler(directory.log, encoding="utf-8", errors="replace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    return log
