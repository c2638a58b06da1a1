"""The settings of the service: flags over environment over `.env` over defaults."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from runner.config import ConfigError
from runner.environments import DockerSettings

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]


def _hosts(value: Any) -> Any:
    """`a.example, *.b.example` as a tuple."""
    if isinstance(value, str):
        return tuple(part.strip().lower() for part in value.split(",") if part.strip())
    return value


def _upper(value: Any) -> Any:
    return value.upper() if isinstance(value, str) else value


class ServiceSettings(BaseSettings):
    """What the service itself needs to know; what defines a job is `runner.config.RunConfig`.

    The names of the first group are Terminal-Bench-server's (contracts.md 8).
    """

    model_config = SettingsConfigDict(
        env_file=".env", extra="ignore", frozen=True, env_ignore_empty=True, populate_by_name=True
    )

    docker_registry: str = Field("", description="tried first, as DOCKER_REGISTRY:<task>-<version>")
    pull_if_not_exists: bool = Field(True, description="pull an image that is not here")
    container_network_mode: str = Field("bridge", description="network of tasks that opt in to one")
    tb2_dir: Path = Field(Path("data/terminal-bench-2-main"), description="the directory of tasks")
    log_level: Annotated[LogLevel, BeforeValidator(_upper)] = Field("INFO", description="what is logged")
    thread_pool_max_workers: int = Field(4, gt=0, le=256, description="most trials, and most jobs, at once")
    timeout_keep_alive: int = Field(5, gt=0, le=86400, description="seconds an idle connection is kept")

    default_image_registry: str = Field("", description="<registry>:<task> where a task names no image")
    docker_build_network: str = Field("", description="network of RUN steps of images that are built")
    capstan_cache_dir: Path | None = Field(None, description="where build logs and locks lie")
    service_host: str = Field("127.0.0.1", min_length=1, description="address to bind")
    service_port: int = Field(8080, ge=0, le=65535, description="port to bind; 0 takes a free one")
    service_token: SecretStr | None = Field(None, description="what every route but /health wants")
    agents_dir: Path = Field(Path("agents"), description="the only folder that requests may name agents in")
    queue_limit: int = Field(256, gt=0, description="jobs that may wait; one more is answered 429")
    llm_url_allow: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_hosts)] = Field(
        (), description="hosts that llm_config.url may name, `*.example.com` for all below; empty: any"
    )
    llm_url_loopback: bool = Field(False, description="llm_config.url may name this machine's loopback")

    def docker(self) -> DockerSettings:
        """The part that the Docker environment takes."""
        more: dict[str, Any] = {} if self.capstan_cache_dir is None else {"cache_dir": self.capstan_cache_dir}
        return DockerSettings(
            registry=self.docker_registry.strip(),
            pull=self.pull_if_not_exists,
            default_registry=self.default_image_registry.strip(),
            network_mode=self.container_network_mode.strip() or "bridge",
            build_network=self.docker_build_network.strip(),
            **more,
        )


def load_settings(flags: Mapping[str, Any] | None = None) -> ServiceSettings:
    """The settings from all sources. A flag of None was not given. Raises ConfigError with one line."""
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    try:
        return ServiceSettings(**given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        where = f"--{name.removeprefix('service_').replace('_', '-')}" if name in given else name.upper()
        message = cast(str, first["msg"]).removeprefix("Value error, ")
        shown = "***" if "token" in name else repr(first.get("input"))
        raise ConfigError(f"{where}: {message[:1].lower()}{message[1:]}, got {shown}") from None
