"""Run one trial: environment, agent, verifier, result. Any error ends up in its record."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

from runner.agents import AgentOutcome
from runner.environments import (
    Environment,
    EnvironmentLost,
    EnvironmentStartError,
    EnvironmentStartTimeout,
    EnvironmentUnsupported,
    ImageUnavailable,
    create_environment,
)
from runner.jobs.context import JobContext, TrialEnd, TrialPlan, TrialProgress
from runner.jobs.model import ModelAccess
from runner.processes import run_to_end
from runner.results import (
    Reason,
    TrialRecord,
    is_disk_full,
    utc_now,
    write_atomically,
    write_model,
)
from runner.tasks import Task
from runner.trials.artifacts import collect_artifacts, merge_agent_logs
from runner.trials.environment import environment_spec, wait_healthy
from runner.trials.outcome import classify_outcome
from runner.trials.result_builder import TrialResultBuilder
from runner.trials.verifier import Verifier

PHASE_ENVIRONMENT = "environment"
PHASE_SETUP = "setup"
PHASE_AGENT = "agent"
PHASE_COLLECT = "collecting"
PHASE_VERIFIER = "verifier"
PHASE_STOP = "stopping"

# Seconds that a trial may take beyond the sum of its own limits before it is ended as hung.
HUNG_SLACK_SEC = 600.0
# The agent's part of that sum if the task sets no limit.
UNLIMITED_AGENT_SEC = 6 * 3600.0
STOP_SEC = 30.0
METERING_SEC = 5.0
CANCELLED_METERING_SEC = 1.0
# When the job is interrupted, logs and stopping together take well below 10 seconds.
CANCELLED_COLLECT_SEC = 2.0
CANCELLED_STOP_SEC = 5.0
COLLECT_SEC = 300.0
_MAX_LOG_LINE = 4_000  # characters


class ModelUnreachable(RuntimeError):
    """None of the agent's calls reached the model, so there is nothing to judge."""


class ReplayDiverged(RuntimeError):
    """The agent asked what the replayed recording does not hold, so there is nothing to judge."""


class ContainerDied(RuntimeError):
    """The container ran out of memory, which is the task's or the agent's doing."""


class Trial:
    """One try of a planned trial, whose folder must not exist yet. It updates `progress`."""

    def __init__(self, context: JobContext, plan: TrialPlan, progress: TrialProgress) -> None:
        self._context = context
        self._plan = plan
        self._progress = progress
        self._files = context.directory.trial(plan.trial_name)
        self._log = TrialLog(self._files.log, context.redact)
        self._results = TrialResultBuilder(plan, context)
        self._environment: Environment | None = None
        self._model: ModelAccess | None = None
        self._infrastructure = False

    async def run(self) -> TrialEnd:
        """Run the trial to its end.

        Raises:
            CancelledError: After the record has been written.
            OSError: The trial's files cannot be written.
        """
        self._files.create()
        write_model(self._files.config, self._results.config())
        write_model(self._files.lock, self._results.lock())
        cancelled = False
        try:
            await self._run_contained()
        except asyncio.CancelledError:
            cancelled = True
            self._fail(Reason.CANCELLED, "CancelledError", "the job was interrupted")
            self._results.cancelled = True
        try:
            await run_to_end(self._stop(CANCELLED_STOP_SEC if cancelled else STOP_SEC))
        except asyncio.CancelledError:
            cancelled = True
        record = self._write()
        if cancelled:
            raise asyncio.CancelledError
        return TrialEnd(record, self._infrastructure)

    async def _run_contained(self) -> None:
        """Run all phases. Every error but cancellation goes into the record."""
        task = self._plan.task.task
        if task is None:
            self._fail(Reason.TRIAL_FAILED, "TaskError", self._plan.task.problem or "the task cannot be run")
            return
        limit_sec = self._limit_sec(task)
        try:
            async with asyncio.timeout(limit_sec) as timeout:
                try:
                    await self._run_phases(task)
                except TimeoutError as error:
                    # A phase timed out, which is an error like any other. The trial itself did not.
                    if not timeout.expired():
                        raise RuntimeError(f"a phase timed out: {error}") from error
                    raise
        except TimeoutError:
            self._fail(
                Reason.TRIAL_FAILED,
                "TrialWedged",
                f"the trial hung: it was ended after {limit_sec:g} s in phase {self._progress.phase}",
            )
        except EnvironmentStartTimeout as error:
            self._infrastructure = True
            self._fail(Reason.ENVIRONMENT_START_TIMEOUT, "EnvironmentStartTimeoutError", str(error), error)
        except (EnvironmentStartError, EnvironmentLost) as error:
            self._infrastructure = not isinstance(error, (EnvironmentUnsupported, ImageUnavailable))
            self._fail(Reason.TRIAL_FAILED, type(error).__name__, str(error), error)
        except ModelUnreachable as error:
            self._fail(Reason.MODEL_UNREACHABLE, "ModelUnreachableError", str(error))
        except ReplayDiverged as error:
            self._fail(Reason.REPLAY_DIVERGED, "ReplayDivergedError", str(error))
        except Exception as error:
            if is_disk_full(error):
                self._fail(Reason.DISK_FULL, "DiskFullError", f"no space is left on a disk: {error}")
            else:
                self._fail(Reason.TRIAL_FAILED, type(error).__name__, str(error) or repr(error), error)

    async def _run_phases(self, task: Task) -> None:
        if (missing := task.missing_variables()) is not None:
            raise missing
        environment = await self._start_environment(task)
        agent_timeout = task.config.agent.timeout_sec
        if agent_timeout is not None:
            agent_timeout *= self._context.config.multiplier("agent")
        verify = await self._run_agent(task, environment, agent_timeout)
        await self._check_alive(task, environment)
        await self._collect(task, environment)
        if verify:
            await self._verify(task, environment)

    async def _start_environment(self, task: Task) -> Environment:
        self._enter(PHASE_ENVIRONMENT)
        timing = self._results.begin("environment_setup")
        try:
            name = self._plan.trial_name
            if self._progress.retries:
                name = f"{name}-r{self._progress.retries}"
            labels = {"job": str(self._context.job_id), "trial": self._plan.trial_name}
            config = self._context.config
            spec = environment_spec(
                task,
                name,
                env=task.variables("environment"),
                build_multiplier=config.multiplier("build"),
                force_build=config.force_build,
                labels=labels,
            )
            environment = self._environment = create_environment(
                self._context.environment_kind, spec, settings=self._context.docker
            )
            await environment.start()
            self._results.image = environment.image
            self._log(f"environment up: {environment.kind}, {environment.image}")
            if task.config.environment.healthcheck is not None:
                await wait_healthy(environment, task.config.environment.healthcheck)
            return environment
        finally:
            timing.finished_at = utc_now()

    async def _run_agent(self, task: Task, environment: Environment, timeout_sec: float | None) -> bool:
        """Run the agent. Return whether the result is to be verified."""
        self._enter(PHASE_SETUP)
        config = self._context.config
        self._model = self._context.model.open(self._plan.trial_name)
        self._progress.usage = self._model.usage
        extra = dict(config.agent_kwargs)
        if task.config.environment.skills_dir is not None:
            extra.setdefault("skills_dir", task.config.environment.skills_dir)
        agent = self._context.agent.create(
            task,
            config,
            environment=environment,
            logs_dir=self._files.agent,
            variables=self._model.variables,
            extra=extra,
        )
        run = agent.run(
            task.instruction,
            setup_timeout_sec=config.setup_timeout_sec * config.multiplier("setup"),
            timeout_sec=timeout_sec,
            on_run=lambda: self._enter(PHASE_AGENT),
        )
        outcome = await self._while_reachable(run, self._model)
        policy = classify_outcome(config.rules, outcome, timeout_sec=timeout_sec)
        self._results.add_outcome(outcome, policy)
        self._log(f"agent ended: {outcome.kind}" + (f": {policy.error}" if policy.error else ""))
        if outcome.traceback:
            self._write_exception(outcome.traceback)
        if policy.exception_type is not None and not policy.verify:
            self._log(f"not verified (--rules {config.rules})")
        return policy.verify

    async def _while_reachable(
        self, run: Coroutine[object, object, AgentOutcome], model: ModelAccess
    ) -> AgentOutcome:
        """Run the agent, and end it once it is clear that the model has no answers for it.

        Raises:
            ModelUnreachable: There were calls, and none of them reached the model.
            ReplayDiverged: A request differs from the replayed recording.
        """
        running = asyncio.create_task(run)
        waiting = asyncio.create_task(model.wait_given_up())
        try:
            await asyncio.wait({running, waiting}, return_when=asyncio.FIRST_COMPLETED)
            given_up = not running.done()
        finally:
            waiting.cancel()
            running.cancel()
            await asyncio.wait({running, waiting})
        use = model.usage()
        if use is not None and use.diverged is not None:
            raise ReplayDiverged(use.diverged)
        if use is not None and (given_up or use.reached is False):
            host = urlsplit(self._context.config.base_url).hostname
            raise ModelUnreachable(f"no call reached the model at {host}: {use.last_error}")
        return running.result()

    async def _check_alive(self, task: Task, environment: Environment) -> None:
        out_of_memory = await environment.oom_killed()
        if out_of_memory:
            limit = task.config.environment.memory_mb
            note = "the kernel killed a process of the task for lack of memory"
            self._results.mark("oom_killed", f"{note} (limit {limit} MiB)" if limit else note)
        if await environment.is_alive():
            return
        if out_of_memory:
            raise ContainerDied("the task's container ran out of memory and ended")
        raise EnvironmentLost("the task's environment went away while the agent ran")

    async def _collect(self, task: Task, environment: Environment) -> None:
        self._enter(PHASE_COLLECT)
        for hook in task.config.verifier.collect:
            try:
                result = await environment.exec(hook.command, timeout_sec=hook.timeout_sec, user=hook.user)
                self._log(f"collect hook `{hook.command}` ended with exit code {result.return_code}")
            except RuntimeError as error:
                self._log(f"collect hook `{hook.command}` failed: {error}")
        await self._copy_logs(environment, COLLECT_SEC)
        await self._attempt(
            collect_artifacts(environment, task.config.artifacts, self._files.artifacts, self._log),
            COLLECT_SEC,
            "collecting artifacts",
        )

    async def _verify(self, task: Task, environment: Environment) -> None:
        self._enter(PHASE_VERIFIER)
        timing = self._results.begin("verifier")
        try:
            section = task.config.verifier
            verifier = Verifier(
                task,
                environment,
                self._files.verifier,
                timeout_sec=section.timeout_sec * self._context.config.multiplier("verifier"),
                env=task.variables("verifier"),
                log=self._log,
            )
            verdict = await verifier.run()
        finally:
            timing.finished_at = utc_now()
        self._results.add_verdict(verdict)
        score = "none" if verdict.rewards is None else f"{verdict.rewards.score:g}"
        self._log(f"reward: {score}" + (f" ({verdict.error})" if verdict.error else ""))

    async def _stop(self, limit_sec: float) -> None:
        if self._model is not None:
            await self._model.finish(CANCELLED_METERING_SEC if self._results.cancelled else METERING_SEC)
            metered = self._results.metered = self._model.usage()
            if metered is not None and metered.last_error is not None:
                self._results.mark("model_error", f"the last model call failed: {metered.last_error}")
            if metered is not None and metered.tolerant:
                self._results.mark(
                    "tolerant_replay",
                    f"{metered.tolerant} of {metered.calls} requests match the recording only without "
                    "times and similar noise (--replay strict matches byte for byte)",
                )
        environment = self._environment
        if environment is not None:
            if self._results.cancelled:
                await self._copy_logs(environment, CANCELLED_COLLECT_SEC)
            self._enter(PHASE_STOP)
            await self._attempt(environment.stop(), limit_sec, "stopping the environment")

    async def _copy_logs(self, environment: Environment, limit_sec: float) -> None:
        async def copy() -> None:
            for name in await merge_agent_logs(environment, self._files.agent):
                self._log(f"/logs/agent/{name} left out: the agent wrote a file of that name on the host")

        await self._attempt(copy(), limit_sec, "copying the agent's logs")

    async def _attempt(self, work: Awaitable[None], limit_sec: float, name: str) -> None:
        """Do work that must neither delay nor fail the trial. Log its failure."""
        try:
            await asyncio.wait_for(work, limit_sec)
        except TimeoutError:
            self._log(f"{name}: given up after {limit_sec:g} s")
        except Exception as error:
            self._log(f"{name}: {type(error).__name__}: {error}")

    def _limit_sec(self, task: Task) -> float:
        """Return the time limit of the whole trial, in seconds."""
        config, limits = self._context.config, task.config
        agent = limits.agent.timeout_sec
        return (
            limits.environment.build_timeout_sec * config.multiplier("build")
            + config.setup_timeout_sec * config.multiplier("setup")
            + (UNLIMITED_AGENT_SEC if agent is None else agent * config.multiplier("agent"))
            + limits.verifier.timeout_sec * config.multiplier("verifier")
            + sum(hook.timeout_sec for hook in limits.verifier.collect)
            + HUNG_SLACK_SEC
        )

    def _enter(self, phase: str) -> None:
        self._progress.phase = phase
        self._log(f"phase: {phase}")

    def _fail(
        self, reason: Reason, error_type: str, message: str, error: BaseException | None = None
    ) -> None:
        redacted = self._context.redact(message)
        trace = "".join(traceback.format_exception(error)) if error is not None else ""
        self._results.fail(reason, error_type, redacted, self._context.redact(trace))
        self._log(f"failed: {error_type}: {redacted}")
        self._write_exception(trace or f"{error_type}: {redacted}\n")

    def _write_exception(self, text: str) -> None:
        try:
            write_atomically(self._files.exception, self._context.redact(text))
        except OSError as error:
            self._log(f"exception.txt could not be written: {error}")  # the environment must still end

    def _write(self) -> TrialRecord:
        """Write the result files. result.json comes last, so a trial that has one is complete."""
        record = self._results.record(retries=self._progress.retries)
        write_model(self._files.record, record)
        write_model(self._files.result, self._results.result(uuid4()))
        return record


def write_lost_trial(
    context: JobContext, plan: TrialPlan, progress: TrialProgress, error_type: str, message: str
) -> TrialRecord:
    """Write the files of a try whose machine was lost, beside what came of it. Return its record.

    Raises OSError.
    """
    files, results = context.directory.trial(plan.trial_name), TrialResultBuilder(plan, context)
    results.fail(Reason.TRIAL_FAILED, error_type, context.redact(message), "")
    if not files.root.exists():
        files.create()
    TrialLog(files.log, context.redact)(f"failed: {error_type}: {message}")
    write_model(files.config, results.config())
    write_model(files.lock, results.lock())
    record = results.record(retries=progress.retries).model_copy(update={"node": progress.node})
    write_model(files.record, record)
    write_model(files.result, results.result(uuid4()))
    return record


class TrialLog:
    """`trial.log`. Writing it never raises, so that a full disk cannot change a verdict."""

    def __init__(self, path: Path, redact: Callable[[str], str] = lambda text: text) -> None:
        self._path = path
        self._redact = redact

    def __call__(self, message: str) -> None:
        """Append one line. Line breaks in the message are escaped."""
        line = self._redact(message.replace("\r", "\\r").replace("\n", "\\n"))
        if len(line) > _MAX_LOG_LINE:
            line = f"{line[:_MAX_LOG_LINE]}… ({len(line) - _MAX_LOG_LINE} characters more)"
        stamp = utc_now().strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
        try:
            with self._path.open("a", encoding="utf-8", errors="replace") as stream:
                stream.write(f"{stamp} {line}\n")
        except OSError:
            pass
