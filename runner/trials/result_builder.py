"""Collect what happens in a trial, and build its result files."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from runner.agents import AgentOutcome
from runner.jobs.context import JobContext, TrialPlan
from runner.results import (
    UNKNOWN_AGENT,
    AgentContext,
    AgentInfo,
    ExceptionInfo,
    ModelUse,
    Reason,
    Timing,
    TrialRecord,
    TrialResult,
    VerifierResult,
    harbor,
    utc_now,
)
from runner.trials.outcome import OutcomePolicy
from runner.trials.verifier import Verdict


class TrialResultBuilder:
    """Collects what happens in one try of a trial. `metered` are the relay's numbers."""

    def __init__(self, plan: TrialPlan, context: JobContext) -> None:
        self._plan = plan
        self._context = context
        self._started = utc_now()
        self._phases: dict[str, Timing] = {}
        self._marks: list[str] = []
        self._notes: list[str] = []
        self._agent = context.agent.record
        self._claimed: AgentContext | None = None
        self._verdict: Verdict | None = None
        self._reason: Reason | None = None
        self._error: str | None = None
        self._exception: ExceptionInfo | None = None
        self._timed_out = False
        self.image: str | None = None
        self.metered: ModelUse | None = None
        self.cancelled = False

    def begin(self, phase: str) -> Timing:
        """Record the start of a phase. The caller sets its end."""
        timing = self._phases[phase] = Timing(started_at=utc_now())
        return timing

    def mark(self, mark: str, note: str) -> None:
        """Add a mark, and a line that explains it."""
        self._marks.append(mark)
        self._notes.append(note)

    def add_outcome(self, outcome: AgentOutcome, policy: OutcomePolicy) -> None:
        """Record how the agent's run ended, and what follows from it."""
        for phase, timing in (("agent_setup", outcome.setup), ("agent_execution", outcome.execution)):
            if timing is not None:
                self._phases[phase] = timing
        self._agent = self._agent.model_copy(
            update={
                "name": outcome.agent_name or self._agent.name,
                "version": outcome.agent_version or self._agent.version,
                "ended": outcome.kind,
                "message": self._context.redact(outcome.message) if outcome.message else None,
            }
        )
        self._claimed = outcome.context
        self._timed_out = policy.timed_out
        if policy.exception_type is not None:
            error = self._context.redact(policy.error or "")
            self._exception = _exception(
                policy.exception_type, error, self._context.redact(outcome.traceback or "")
            )
            self._error = error
            self._reason = policy.reason

    def add_verdict(self, verdict: Verdict) -> None:
        """Record the result of verification."""
        self._verdict = verdict
        self._marks.extend(verdict.marks)
        self._notes.extend(verdict.notes)
        if verdict.error_type is not None:
            self._reason = verdict.reason
            self._error = verdict.error
            self._exception = _exception(verdict.error_type, verdict.error or "", "")

    def fail(self, reason: Reason, error_type: str, message: str, trace: str) -> None:
        """Record that the trial itself failed. A verdict that it had no longer counts."""
        self._verdict = None
        self._reason = reason
        self._error = message
        self._exception = _exception(error_type, message, trace)

    @property
    def _agent_name(self) -> str | None:
        return None if self._agent.name == UNKNOWN_AGENT else self._agent.name

    def config(self) -> harbor.TrialConfig:
        """Return the content of `config.json`."""
        config = self._context.config
        return harbor.TrialConfig(
            task=harbor.TaskRef(path=str(self._plan.task.path), source=self._source()),
            trial_name=self._plan.trial_name,
            trials_dir=str(self._root),
            timeout_multiplier=config.timeout_multiplier,
            agent_timeout_multiplier=config.agent_timeout_multiplier,
            verifier_timeout_multiplier=config.verifier_timeout_multiplier,
            agent_setup_timeout_multiplier=config.setup_timeout_multiplier,
            environment_build_timeout_multiplier=config.build_timeout_multiplier,
            agent=harbor.agent_config(config.agent, self._context.model.source.name, self._agent_name),
            environment=harbor.environment_config(self._context.environment_kind, config),
            job_id=self._context.job_id,
        )

    def lock(self) -> harbor.TrialLock:
        """Return the content of `lock.json`, which says what exactly this trial ran."""
        config, digest = self.config(), self._plan.task.digest
        return harbor.TrialLock(
            task=harbor.TaskLock(
                name=self._plan.task.full_name,
                digest=f"sha256:{digest or '0' * 64}",
                path=str(self._plan.task.path),
                source=self._source(),
            ),
            timeout_multiplier=config.timeout_multiplier,
            agent_timeout_multiplier=config.agent_timeout_multiplier,
            verifier_timeout_multiplier=config.verifier_timeout_multiplier,
            agent_setup_timeout_multiplier=config.agent_setup_timeout_multiplier,
            environment_build_timeout_multiplier=config.environment_build_timeout_multiplier,
            agent=config.agent,
            environment=config.environment,
            agent_digest=self._context.agent.record.digest,
        )

    def record(self, *, retries: int) -> TrialRecord:
        """Return the content of `capstan.json`."""
        rewards = self._verdict.rewards if self._verdict else None
        status = "completed" if rewards is not None else "cancelled" if self.cancelled else "errored"
        reason = self._reason
        if rewards is None and reason is None:
            reason = Reason.RESULT_MISSING
        return TrialRecord(
            trial_name=self._plan.trial_name,
            task_name=self._plan.task.name,
            task_path=str(self._plan.task.path),
            task_digest=self._plan.task.digest,
            dataset=self._source(),
            attempt=self._plan.attempt,
            rules=self._context.config.rules,
            status=status,
            reason_code=reason,
            error_type=self._exception.exception_type if self._exception else None,
            error=self._error,
            reward=rewards.score if rewards else None,
            rewards=dict(rewards.values) if rewards else None,
            passed=self._verdict.passed if self._verdict else False,
            timed_out=self._timed_out,
            marks=list(self._marks),
            notes=[self._context.redact(note) for note in self._notes],
            agent=self._agent,
            model=self._context.model.source,
            environment_kind=self._context.environment_kind,
            image=self.image,
            guard=self._verdict.guard if self._verdict else None,
            metered=self.metered,
            claimed=self._claimed,
            phases=self._phases,
            started_at=self._started,
            finished_at=utc_now(),
            retries=retries,
        )

    def result(self, identity: UUID) -> TrialResult:
        """Return the content of `result.json`."""
        rewards = self._verdict.rewards if self._verdict else None
        model = self._context.model.source.name
        return TrialResult(
            id=identity,
            task_name=self._plan.task.full_name,
            trial_name=self._plan.trial_name,
            trial_uri=(self._root / self._plan.trial_name).resolve().as_uri(),
            task_id=harbor.LocalTaskId(path=str(self._plan.task.path)),
            source=self._source(),
            task_checksum=self._plan.task.digest or "",
            config=self.config(),
            agent_info=AgentInfo(
                name=self._agent.name,
                version=self._agent.version,
                model_info=harbor.ModelInfo(name=model, provider=harbor.PROVIDER) if model else None,
            ),
            agent_result=self._agent_context(),
            verifier_result=VerifierResult(rewards=dict(rewards.values)) if rewards else None,
            verifier_environment_mode="shared" if self._verdict else None,
            exception_info=self._exception,
            started_at=self._started,
            finished_at=utc_now(),
            **{phase: self._phases.get(phase) for phase in harbor.PHASES},
        )

    def _agent_context(self) -> AgentContext | None:
        """Return the agent's own numbers, with the relay's in place of those it does not give."""
        claimed, metered = self._claimed, self.metered
        if metered is None or metered.calls == 0:
            return claimed
        base = claimed or AgentContext()
        measured: dict[str, object] = {
            "n_input_tokens": metered.prompt_tokens,
            "n_cache_tokens": metered.cache_hit_tokens,
            "n_output_tokens": metered.completion_tokens,
            "cost_usd": metered.cost_usd,
        }
        if len(metered.models) == 1:
            measured["model_usage"] = {metered.models[0]: harbor.ModelUsage.model_validate(measured)}
        missing = {name: value for name, value in measured.items() if getattr(base, name) is None}
        return base.model_copy(update=missing)

    @property
    def _root(self) -> Path:
        return self._context.recorded_root or self._context.directory.root

    def _source(self) -> str | None:
        return None if self._plan.task.dataset == "adhoc" else self._plan.task.dataset


def _exception(error_type: str, message: str, trace: str) -> ExceptionInfo:
    return ExceptionInfo(
        exception_type=error_type, exception_message=message, exception_traceback=trace, occurred_at=utc_now()
    )
