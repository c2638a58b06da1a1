"""The settings of a job, each with its unit and its default."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

API_KEY_VARIABLE = "DEEPSEEK_API_KEY"
# Of the four variables of the contract only the key is secret.
SECRET_VARIABLES = (API_KEY_VARIABLE,)
DEFAULT_MODEL = "deepseek-v4-pro"
DEFAULT_BASE_URL = "https://api.deepseek.com"

ModeName = Literal["live", "record", "replay", "script"]
MODES_WITH_PATH: tuple[ModeName, ...] = ("record", "replay", "script")


# Settings that came later: not set, they are no part of a job's identity, so that older jobs can be resumed.
_LATER_SETTINGS = ("instruction", "model_params")


@dataclass(frozen=True)
class ModelMode:
    """Where model answers come from: `live`, or `record:FILE`, `replay:FILE`, `script:PATH`."""

    name: ModeName
    path: Path | None = None

    @property
    def canned(self) -> bool:
        """True where no model thinks."""
        return self.name in ("replay", "script")

    @property
    def needs_key(self) -> bool:
        """True where calls go to DeepSeek."""
        return self.name in ("live", "record")

    @property
    def label(self) -> str:
        """The words shown beside every result."""
        words = {"live": "live", "record": "live, recorded", "replay": "replayed", "script": "scripted"}
        return words[self.name] + (f" ({self.path})" if self.path else "")

    def __str__(self) -> str:
        return self.name if self.path is None else f"{self.name}:{self.path}"


def parse_model_mode(text: str) -> ModelMode:
    """Read `live`, `record:FILE`, `replay:FILE` or `script:PATH`. Raises ValueError with what is allowed."""
    name, _, path = text.partition(":")
    if name == "live" and not path:
        return ModelMode("live")
    for mode in MODES_WITH_PATH:
        if name == mode and path:
            return ModelMode(mode, Path(path))
    raise ValueError("must be live, record:FILE, replay:FILE or script:PATH")


def _names(value: Any) -> Any:
    """A list may be given as one string, parted by commas, in the environment."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


Names = Annotated[tuple[str, ...], BeforeValidator(_names)]


class RunConfig(BaseModel):
    """Everything that defines a job, but for its secrets and for the digests of what it runs (lock.json)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tasks: Names = Field((), description="task directories, or directories of tasks")
    include: Names = Field((), description="globs: run these tasks only")
    exclude: Names = Field((), description="globs: leave these tasks out")
    limit: int | None = Field(None, gt=0, description="run the first N tasks")
    instruction: str | None = Field(
        None, min_length=1, description="what the agent is told instead of each task's instruction.md"
    )

    agent: str = Field("", description="a ZIP, a directory, or oracle or nop")
    agent_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="further keywords for Agent(...); none by default, as the validator"
    )
    model: str = Field("live", description="live, record:FILE, replay:FILE or script:PATH")
    model_name: str = Field(DEFAULT_MODEL, min_length=1, description="model name (LLM_MODEL)")
    base_url: str = Field(
        DEFAULT_BASE_URL, description="root of DeepSeek's API (DEEPSEEK_BASE_URL), where the relay calls"
    )
    model_params: dict[str, Any] | None = Field(
        None, description="parameters that the relay sets in every model call (temperature, top_p, …)"
    )
    cost_limit_usd: float | None = Field(
        None, gt=0, description="US dollars a trial may cost (LLM_COST_LIMIT)"
    )

    attempts: int = Field(1, gt=0, le=1000, description="attempts of each task (k)")
    concurrency: int | None = Field(
        None, gt=0, le=256, description="trials at once; by default as resources allow"
    )
    environment: Literal["auto", "docker", "sandbox"] = Field("auto", description="what tasks run in")
    isolation: Literal["process", "dind"] = Field("process", description="where the agent and Docker run")
    allow_task_network: bool = Field(False, description="tasks may have a network under isolation dind")
    rules: Literal["validator", "harbor"] = Field("validator", description="whose verdict on how a run ends")
    max_retries: int = Field(2, ge=0, le=20, description="further tries after an infrastructure error")
    retry_wait_sec: float = Field(2.0, ge=0, description="seconds before the first retry; doubled each time")

    timeout_multiplier: float = Field(1.0, gt=0, description="factor on every time limit below")
    agent_timeout_multiplier: float | None = Field(None, gt=0, description="factor on the agent's clock")
    verifier_timeout_multiplier: float | None = Field(
        None, gt=0, description="factor on the verifier's clock"
    )
    setup_timeout_multiplier: float | None = Field(
        None, gt=0, description="factor on the agent's setup clock"
    )
    build_timeout_multiplier: float | None = Field(None, gt=0, description="factor on the image's clock")
    setup_timeout_sec: float = Field(360.0, gt=0, description="seconds for Agent.setup")

    jobs_dir: str = Field("jobs", min_length=1, description="folder that holds job folders")
    job_name: str | None = Field(
        None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="the job's folder; by default the time"
    )

    @property
    def mode(self) -> ModelMode:
        """`model`, read."""
        return parse_model_mode(self.model)

    def factor(self, phase: Literal["agent", "verifier", "setup", "build"]) -> float:
        """The factor on the clock of a phase: its own, else the general one."""
        own: float | None = getattr(self, f"{phase}_timeout_multiplier")
        return self.timeout_multiplier if own is None else own

    def identity(self) -> dict[str, Any]:
        """What must be the same when a job is resumed: all but where it lies and how many run at once."""
        values = self.model_dump(mode="json", exclude={"jobs_dir", "job_name", "concurrency"})
        for name in _LATER_SETTINGS:
            if values[name] is None:
                del values[name]
        return values

    def identity_digest(self) -> str:
        """SHA-256 (hex) of `identity`."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Secrets:
    """Values that never get into a file."""

    api_key: SecretStr | None = None


def redactor(*secrets: SecretStr | None) -> Callable[[str], str]:
    """Return a function that replaces each of the secrets in a text."""
    values = [value for secret in secrets if secret is not None and (value := secret.get_secret_value())]

    def redact(text: str) -> str:
        for value in values:
            text = text.replace(value, "[REDACTED]")
        return text

    return redact
