"""A job: every planned trial, run once, side by side, and its figures."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from runner.environments import create_environment
from runner.job.agents import JobAgent
from runner.job.books import Books
from runner.job.directory import JobDirectory
from runner.job.gate import Capacity, Gate, Needs
from runner.job.host import ALONE, JobHost
from runner.job.lock import JobLock
from runner.job.model import JobModel
from runner.job.observer import JobObserver, SilentObserver
from runner.job.tasks import JobTask
from runner.results import Reason, TrialRecord, utc_now, write_model
from runner.scoring import JobSummary
from runner.trial import Trial, TrialEnd, TrialPlan, TrialProgress, TrialSetup

RETRY_WAIT_MAX_SEC = 60.0


@dataclass(frozen=True, kw_only=True)
class JobParts:
    """What a job is made of; `runner.job.open` puts it together."""

    directory: JobDirectory
    lock: JobLock
    tasks: Sequence[JobTask]
    agent: JobAgent
    model: JobModel
    redact: Callable[[str], str]


class Job:
    """Runs the trials that have not ended yet. One use only."""

    def __init__(
        self, parts: JobParts, observer: JobObserver | None = None, *, host: JobHost = ALONE
    ) -> None:
        self.parts = parts
        self.config = parts.lock.config
        self.books = Books(parts.directory, parts.lock, parts.model.source)
        self.running: dict[str, TrialProgress] = {}
        self._observer = observer or SilentObserver()
        self._gate = host.gate
        self._log = _job_log(parts.directory)
        self._setup = TrialSetup(
            job_id=parts.lock.job_id,
            job_dir=parts.directory.root,
            config=self.config,
            environment_kind=parts.lock.environment_kind,
            make_environment=lambda spec: create_environment(
                parts.lock.environment_kind, spec, settings=host.docker
            ),
            make_agent=parts.agent.make,
            open_model=parts.model.open,
            agent=parts.agent.record,
            model=parts.model.source,
            redact=parts.redact,
        )

    async def run(self) -> JobSummary:
        """Run to the end. On cancellation all running trials are ended in an orderly way and their
        environments removed, the files say `interrupted`, and CancelledError goes on."""
        pending = self._pending()
        self.books.write_config()
        self.books.write("running", n_running=0)
        self._observer.job_started(self)
        gate = self._gate or Gate(Capacity.of_machine(self.config.concurrency))
        status = "interrupted"
        try:
            async with asyncio.TaskGroup() as group:
                for plan in pending:
                    needs = Needs.of(plan.task)
                    await gate.acquire(needs)
                    task = group.create_task(self._contained(plan), name=plan.trial_name)
                    task.add_done_callback(lambda _, needs=needs: gate.release(needs))
            status = "completed"
        finally:
            summary = self.books.write(status, n_running=0)
            self._log.info("job %s: %s", status, summary.result.render())
            self._observer.job_ended(summary, self.books.records)
            self._close_log()
        return summary

    def _pending(self) -> list[TrialPlan]:
        """The plans without a result; what is left of an interrupted try is set aside."""
        directory, plans = self.parts.directory, []
        for trial in self.parts.lock.trials:
            if record := directory.finished(trial.trial_name):
                self.books.add(record)
                continue
            if place := directory.set_aside(trial.trial_name):
                self._note(f"{trial.trial_name} was interrupted before: what it left is in {place}")
            task = self.parts.tasks[trial.task]
            plans.append(
                TrialPlan(
                    trial_name=trial.trial_name,
                    task_name=task.name,
                    task_path=task.path,
                    dataset=task.dataset,
                    attempt=trial.attempt,
                    task=task.task,
                    problem=task.problem,
                )
            )
        return plans

    async def _contained(self, plan: TrialPlan) -> None:
        """One trial with its retries. No error of one trial reaches another."""
        progress = TrialProgress(plan)
        self.running[plan.trial_name] = progress
        try:
            record = await self._with_retries(plan, progress)
        except asyncio.CancelledError:
            if record := self.parts.directory.read(plan.trial_name):
                self.books.add(record)
            raise
        except Exception as error:
            # The trial could not even keep its files: it still counts, as errored.
            self._log.error("trial %s: %s", plan.trial_name, "".join(traceback.format_exception(error)))
            record = self._lost(plan, error)
        finally:
            del self.running[plan.trial_name]
        self.books.add(record)
        self._write_running()
        outcome = record.reason_code.value if record.reason_code else f"reward {record.reward}"
        self._log.info("trial %s ended: %s", plan.trial_name, outcome)
        self._observer.trial_ended(record)

    async def _with_retries(self, plan: TrialPlan, progress: TrialProgress) -> TrialRecord:
        self._log.info("trial %s started: task %s, attempt %d", plan.trial_name, plan.task_name, plan.attempt)
        self._write_running()
        while True:
            self._observer.trial_started(progress)
            end = await Trial(plan, self._setup, progress).run()
            if not end.infrastructure or progress.retries >= self.config.max_retries:
                return self._with_history(end)
            wait = min(self.config.retry_wait_sec * 2**progress.retries, RETRY_WAIT_MAX_SEC)
            place = self.parts.directory.set_aside(plan.trial_name)
            progress.retries += 1
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

    def _with_history(self, end: TrialEnd) -> TrialRecord:
        """The record, with the places of what was set aside before it."""
        history = self.parts.directory.set_aside_of(end.record.trial_name)
        if not history:
            return end.record
        record = end.record.model_copy(update={"set_aside": history})
        write_model(self.parts.directory.trial(record.trial_name).record, record)
        return record

    def _lost(self, plan: TrialPlan, error: Exception) -> TrialRecord:
        now = utc_now()
        return TrialRecord(
            trial_name=plan.trial_name,
            task_name=plan.task_name,
            task_path=str(plan.task_path),
            attempt=plan.attempt,
            rules=self.config.rules,
            status="errored",
            reason_code=Reason.RESULT_MISSING,
            error_type=type(error).__name__,
            error=f"the trial's files could not be written: {error}",
            agent=self.parts.agent.record,
            model=self.parts.model.source,
            started_at=now,
            finished_at=now,
        )

    def _write_running(self) -> None:
        try:
            self.books.write("running", n_running=len(self.running))
        except OSError as error:
            self._note(f"the job's result could not be written: {error}")

    def _note(self, line: str) -> None:
        self._log.info("%s", line)
        self._observer.note(line)

    def _close_log(self) -> None:
        for handler in list(self._log.handlers):
            handler.close()
            self._log.removeHandler(handler)


def _job_log(directory: JobDirectory) -> logging.Logger:
    """`job.log`, through a logger of its own that reaches no other handler."""
    log = logging.Logger(f"capstan.job.{directory.name}")
    handler = logging.FileHandler(directory.log, encoding="utf-8", errors="replace")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
    return log
