"""The settings of a job, each with its unit and default."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr

API_KEY_VARIABLE = "DEEPSEEK_API_KEY"
# Of the four variables of the contract only the key is secret.
SECRET_VARIABLES = (API_KEY_VARIABLE,)
DEFAULT_MODEL = "deepseek-v4-pro"
DEFAULT_BASE_URL = "https://api.deepseek.com"

Rules = Literal["validator", "harbor"]
"""Whose rules an agent's run follows (docs/contract.md, How a run ends)."""

ModeName = Literal["live", "record", "replay", "script"]
_MODES_WITH_PATH: tuple[ModeName, ...] = ("record", "replay", "script")

# Newer settings. Unset, they are no part of `identity`, so that older jobs can be resumed.
_LATER_SETTINGS = (
    *("instruction", "model_params", "force_build"),
    *("override_cpus", "override_memory_mb", "override_storage_mb"),
)

LOCAL_CLUSTER = "local"
"""The address of a private Ray on this machine."""
PLACE_SETTINGS = ("on", "relay_listen", "relay_cert", "relay_key", "cluster_timeout_sec")
"""The settings that say where a job's trials run. A resumed job may run elsewhere."""
# Settings that a resumed job may have changed: where it runs, and how many trials at once.
_NO_PART_OF_IDENTITY = {"jobs_dir", "job_name", "concurrency", *PLACE_SETTINGS}


@dataclass(frozen=True)
class ModelMode:
    """The source of the model's answers: `live`, `record:FILE`, `replay:FILE` or `script:PATH`."""

    name: ModeName
    path: Path | None = None

    @property
    def canned(self) -> bool:
        """Whether the answers come from a file, so that no LLM is called and no key is needed."""
        return self.name in ("replay", "script")

    @property
    def source(self) -> str:
        """Where the answers come from: `live`, `live, recorded`, `replayed` or `scripted`."""
        sources = {"live": "live", "record": "live, recorded", "replay": "replayed", "script": "scripted"}
        return sources[self.name]

    @property
    def label(self) -> str:
        """The text that is shown beside every result."""
        return self.source + (f" ({self.path})" if self.path else "")

    def __str__(self) -> str:
        return self.name if self.path is None else f"{self.name}:{self.path}"


def parse_model_mode(text: str) -> ModelMode:
    """Parse `live`, `record:FILE`, `replay:FILE` or `script:PATH`. Raises ValueError."""
    name, _, path = text.partition(":")
    if name == "live" and not path:
        return ModelMode("live")
    for mode in _MODES_WITH_PATH:
        if name == mode and path:
            return ModelMode(mode, Path(path))
    raise ValueError("must be live, record:FILE, replay:FILE or script:PATH")


def _split_names(value: object) -> object:
    """Split a list that an environment variable gives as one string with commas."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _check_mode(value: str) -> str:
    parse_model_mode(value)
    return value


def _check_url(value: str) -> str:
    if not value.startswith(("http://", "https://")):
        raise ValueError("must start with http:// or https://")
    return value


def _check_place(value: str) -> str:
    name, equals, address = value.partition("=")
    if address.startswith("ray://"):
        raise ValueError(
            "cannot be a ray:// address: run the job on a machine of the cluster, and name HOST:PORT"
        )
    if value == "here" or value == "ray" or (name == "ray" and equals and address):
        return value
    raise ValueError("must be here, ray, ray=HOST:PORT or ray=local")


def _check_listen(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ValueError("must be HOST:PORT")
    return value


Names = Annotated[tuple[str, ...], BeforeValidator(_split_names)]


class RunConfig(BaseModel):
    """The settings of a job, without its secrets."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tasks: Names = Field((), description="task directories, or directories of tasks")
    include: Names = Field((), description="globs: run only these tasks")
    exclude: Names = Field((), description="globs: leave these tasks out")
    limit: int | None = Field(None, gt=0, description="run the first N tasks")
    instruction: str | None = Field(
        None, min_length=1, description="instruction that replaces each task's instruction.md"
    )

    agent: str = Field("", description="a ZIP, a directory, or oracle or nop")
    agent_kwargs: dict[str, object] = Field(
        default_factory=dict, description="further keyword arguments of Agent(...)"
    )
    model: Annotated[str, AfterValidator(_check_mode)] = Field(
        "live", description="live, record:FILE, replay:FILE or script:PATH"
    )
    replay: Literal["tolerant", "strict"] = Field(
        "tolerant", description="how requests match a replayed recording: strict is byte for byte"
    )
    model_name: str = Field(DEFAULT_MODEL, min_length=1, description="model name (LLM_MODEL)")
    base_url: Annotated[str, AfterValidator(_check_url)] = Field(
        DEFAULT_BASE_URL, description="root of DeepSeek's API, which the relay calls (DEEPSEEK_BASE_URL)"
    )
    model_params: dict[str, object] | None = Field(
        None, description="parameters that the relay sets in every model call (temperature, top_p, …)"
    )
    cost_limit_usd: float | None = Field(None, gt=0, description="most US dollars per trial (LLM_COST_LIMIT)")

    attempts: int = Field(1, gt=0, le=1000, description="attempts of each task (k)")
    concurrency: int | None = Field(
        None, gt=0, le=256, description="trials at once; by default as cores and memory allow"
    )
    environment: Literal["auto", "docker", "sandbox", "proot"] = Field(
        "auto", description="what tasks run in"
    )
    isolation: Literal["process", "dind"] = Field(
        "process", description="process: on this machine; dind: agent and tasks in a container of their own"
    )
    on: Annotated[str, AfterValidator(_check_place)] = Field(
        "here", description="where trials run: here, ray, ray=HOST:PORT or ray=local"
    )
    relay_listen: Annotated[str, AfterValidator(_check_listen)] | None = Field(
        None, description="HOST:PORT where the nodes of a cluster reach the relay; by default a free port"
    )
    relay_cert: str | None = Field(None, description="PEM file: the relay's certificate for the nodes")
    relay_key: str | None = Field(None, description="PEM file: the key of relay_cert")
    cluster_timeout_sec: float = Field(
        60.0, gt=0, description="seconds to wait for a cluster that does not answer"
    )
    force_build: bool = Field(
        False, description="build images from Dockerfiles anew, also for tasks that name an image"
    )
    allow_task_network: bool = Field(False, description="let tasks have a network under isolation dind")
    override_cpus: int | None = Field(None, gt=0, description="CPUs of every task, whatever it asks for")
    override_memory_mb: int | None = Field(None, gt=0, description="memory of every task in MiB, likewise")
    override_storage_mb: int | None = Field(None, gt=0, description="storage of every task in MiB, likewise")
    rules: Rules = Field("validator", description="whose rules decide which runs are verified")
    max_retries: int = Field(2, ge=0, le=20, description="further tries after an infrastructure error")
    retry_wait_sec: float = Field(2.0, ge=0, description="seconds before the first retry; doubled each time")

    timeout_multiplier: float = Field(1.0, gt=0, description="factor on every time limit")
    agent_timeout_multiplier: float | None = Field(None, gt=0, description="factor on the agent's time limit")
    verifier_timeout_multiplier: float | None = Field(
        None, gt=0, description="factor on the verifier's time limit"
    )
    setup_timeout_multiplier: float | None = Field(
        None, gt=0, description="factor on the time limit of Agent.setup"
    )
    build_timeout_multiplier: float | None = Field(
        None, gt=0, description="factor on the time limit of image builds"
    )
    setup_timeout_sec: float = Field(360.0, gt=0, description="time limit of Agent.setup in seconds")

    jobs_dir: str = Field("jobs", min_length=1, description="folder for job folders")
    job_name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        description="name of the job's folder; by default the time",
    )

    @property
    def mode(self) -> ModelMode:
        """The setting `model`, parsed."""
        return parse_model_mode(self.model)

    @property
    def cluster(self) -> str | None:
        """The address of the Ray cluster that trials run on ("" is the one found); None: here."""
        return None if self.on == "here" else self.on.removeprefix("ray").removeprefix("=")

    def multiplier(self, phase: Literal["agent", "verifier", "setup", "build"]) -> float:
        """Return the factor on the time limit of a phase: its own, or else `timeout_multiplier`."""
        own: float | None = getattr(self, f"{phase}_timeout_multiplier")
        return self.timeout_multiplier if own is None else own

    def identity(self) -> dict[str, object]:
        """Return the settings that must be equal for a job to be resumed."""
        values = self.model_dump(mode="json", exclude=_NO_PART_OF_IDENTITY)
        for name in _LATER_SETTINGS:
            if not values[name]:
                del values[name]
        return values

    def identity_digest(self) -> str:
        """Return the SHA-256 of `identity`, in hexadecimal."""
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Secrets:
    """The secrets of a job. They are never written to a file."""

    api_key: SecretStr | None = None


def redactor(*secrets: SecretStr | None) -> Callable[[str], str]:
    """Return a function that replaces the secrets in a text."""
    values = [value for secret in secrets if secret is not None and (value := secret.get_secret_value())]

    def redact(text: str) -> str:
        for value in values:
            text = text.replace(value, "[REDACTED]")
        return text

    return redact
