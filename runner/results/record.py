"""The record of a trial (`capstan.json`), with everything that Harbor's result has no field for."""

from __future__ import annotations

from enum import StrEnum
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from runner.results.harbor import AgentContext, Timing, UtcTime

Status = Literal["completed", "errored", "cancelled"]


class Reason(StrEnum):
    """A reason code (docs/contract.md, Result line). Most values are the validator's."""

    AGENT_TIMEOUT = "harbor_agent_timeout_error"
    TRIAL_FAILED = "harbor_trial_failed"
    SUBMISSION_CODE_FAILED = "harbor_submission_code_failed"
    NONZERO_EXIT = "harbor_nonzero_exit"
    REWARD_MISSING = "harbor_reward_missing"
    REWARD_EMPTY = "harbor_reward_empty"
    REWARD_PARSE_ERROR = "harbor_reward_parse_error"
    VERIFIER_TIMEOUT = "harbor_verifier_timeout_error"
    ENVIRONMENT_START_TIMEOUT = "harbor_environment_start_timeout_error"
    CANCELLED = "harbor_cancelled_error"
    RESULT_INVALID = "harbor_result_invalid"
    RESULT_MALFORMED = "harbor_result_malformed"
    RESULT_MISSING = "harbor_result_missing"
    RESULT_PARTIAL = "harbor_result_partial"
    JOB_FAILED = "terminal_bench_failed"
    # Our own, for what the validator does not tell apart.
    MODEL_UNREACHABLE = "model_unreachable"
    REPLAY_DIVERGED = "replay_diverged"
    DISK_FULL = "disk_full"


class ModelUse(BaseModel):
    """The model calls of one trial, as metered by the relay (`runner.relay.RunUsage`).

    Attributes:
        errors: Calls that were refused or broke off.
        prompt_tokens: Prompt tokens, cached ones included.
        cost_usd: US dollars.
        estimated: Whether the relay counted tokens itself, because an answer had no usage.
        reached: Whether the model answered any call. None: there was no call, or several trials are
            added up.
        last_error: Why the trial's last call failed, if it did.
        tolerant: Replayed calls whose request did not match the recorded one byte for byte.
        diverged: How a request first differed from a replayed recording, if one did.
    """

    model_config = ConfigDict(extra="ignore")

    calls: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    cache_hit_tokens: int = 0
    completion_tokens: int = 0
    reasoning_tokens: int = 0
    cost_usd: float = 0.0
    models: list[str] = Field(default_factory=list)
    estimated: bool = False
    reached: bool | None = None
    last_error: str | None = None
    tolerant: int = 0
    diverged: str | None = None

    def __add__(self, other: ModelUse) -> ModelUse:
        return ModelUse(
            calls=self.calls + other.calls,
            errors=self.errors + other.errors,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            cache_hit_tokens=self.cache_hit_tokens + other.cache_hit_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            reasoning_tokens=self.reasoning_tokens + other.reasoning_tokens,
            cost_usd=self.cost_usd + other.cost_usd,
            models=list(dict.fromkeys([*self.models, *other.models])),
            estimated=self.estimated or other.estimated,
            tolerant=self.tolerant + other.tolerant,
        )


class ModelSource(BaseModel):
    """The source of the model's answers. `canned` means a script or a replay: no LLM was called."""

    label: str
    canned: bool
    name: str | None = None


UNKNOWN_AGENT = "unknown"


class AgentRecord(BaseModel):
    """The agent, and how its run ended (`ended` is an `OutcomeKind`)."""

    source: str
    digest: str | None = None
    name: str = UNKNOWN_AGENT
    version: str = "unknown"
    ended: str | None = None
    message: str | None = None


class TrialRecord(BaseModel):
    """Everything that a table, a page or the service shows of one trial.

    Attributes:
        reward: The score. None if the trial errored, which counts as 0.
        timed_out: Whether the agent reached its time limit. A trial can pass and time out.
        node: The machine of the cluster that it ran on; None where it ran on the job's own.
        marks: Codes such as `tampered` or `oom_killed` (docs/runner.md lists them).
        notes: Lines for people that explain the marks.
    """

    schema_version: int = 1
    trial_name: str
    task_name: str
    task_path: str
    task_digest: str | None = None
    dataset: str | None = None
    attempt: int
    rules: Literal["validator", "harbor"]
    status: Status
    reason_code: Reason | None = None
    error_type: str | None = None
    error: str | None = None
    reward: float | None = None
    rewards: dict[str, float] | None = None
    passed: bool = False
    timed_out: bool = False
    marks: list[str] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    agent: AgentRecord
    model: ModelSource
    environment_kind: str | None = None
    image: str | None = None
    node: str | None = None
    guard: str | None = None
    metered: ModelUse | None = None
    claimed: AgentContext | None = None
    phases: dict[str, Timing] = Field(default_factory=dict)
    started_at: UtcTime | None = None
    finished_at: UtcTime | None = None
    retries: int = 0
    set_aside: list[str] = Field(default_factory=list)

    @property
    def errored(self) -> bool:
        """Whether the trial has no reward."""
        return self.status != "completed"

    @property
    def score(self) -> float:
        """The reward, limited to 0…1. 0 if there is none."""
        return min(1.0, max(0.0, self.reward or 0.0))

    @property
    def seconds(self) -> float | None:
        """The wall time of the whole trial."""
        return Timing(started_at=self.started_at, finished_at=self.finished_at).seconds


def format_seconds(seconds: float | None) -> str:
    """Return a time as `0.40 s`, `12 s`, `3 m 05 s` or `2 h 10 m`."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.2f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} m"
