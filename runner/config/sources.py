"""Read the settings: flags over environment over `.env` over the config file over defaults."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from pydantic import SecretStr, ValidationError

from runner.config.model import API_KEY_VARIABLE, RunConfig, Secrets
from runner.json_values import is_list

CONFIG_FILE = "capstan.toml"
CONFIG_VARIABLE = "CAPSTAN_CONFIG"
PREFIX = "CAPSTAN_"
# The contract's names of three settings (docs/contract.md, Environment variables). Within one
# source they win over ours.
CONTRACT_VARIABLES = {
    "LLM_MODEL": "model_name",
    "LLM_COST_LIMIT": "cost_limit_usd",
    "DEEPSEEK_BASE_URL": "base_url",
}


class ConfigError(ValueError):
    """A setting is wrong. The message is one line: the place, what is allowed, and the value."""


class Origin(StrEnum):
    """The source of a value."""

    FLAG = "flag"
    ENVIRONMENT = "environment"
    DOTENV = ".env"
    FILE = "config file"
    DEFAULT = "default"


@dataclass(frozen=True)
class Resolved:
    """The settings of a job, and where each came from. `key_origin` is None without an API key."""

    config: RunConfig
    secrets: Secrets
    origins: Mapping[str, Origin]
    key_origin: Origin | None = None


@dataclass
class _Layer:
    """The values of one source, and for each the place to name in an error."""

    origin: Origin
    values: dict[str, object] = field(default_factory=dict[str, object])
    places: dict[str, str] = field(default_factory=dict[str, str])


# The flags that are not named like their setting.
_FLAGS = {
    "agent_kwargs": "--ak",
    "cluster_timeout_sec": "--cluster-timeout",
    "cost_limit_usd": "--cost-limit",
    "environment": "--env",
    "include": "--task",
    "tasks": "TASKS",
}


def load_config(
    flags: Mapping[str, object] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    directory: Path | None = None,
    file: Path | None = None,
) -> Resolved:
    """Return the settings from all sources.

    Args:
        flags: Values from the command line, by the name of the setting. None means not given.
        environ: Environment variables. An empty one counts as not set. Default: this process's own.
        directory: The folder with `.env` and `capstan.toml`. Default: the working directory.
        file: Another config file. The variable CAPSTAN_CONFIG can name one as well.

    Raises:
        ConfigError: A setting is wrong.
    """
    environ = os.environ if environ is None else environ
    directory = Path.cwd() if directory is None else directory
    dotenv = _dotenv(directory / ".env")
    given = file or _path(environ.get(CONFIG_VARIABLE)) or _path(dotenv.get(CONFIG_VARIABLE))
    config_file = given or directory / CONFIG_FILE
    layers = [
        _flags(flags or {}),
        _variables(environ, Origin.ENVIRONMENT, "environment variable"),
        _variables(dotenv, Origin.DOTENV, ".env:"),
        _file(config_file, required=given is not None),
    ]
    values: dict[str, object] = {}
    origins: dict[str, Origin] = dict.fromkeys(RunConfig.model_fields, Origin.DEFAULT)
    places: dict[str, str] = {}
    for layer in reversed(layers):
        values.update(layer.values)
        places.update(layer.places)
        origins.update(dict.fromkeys(layer.values, layer.origin))
    key, key_origin = _api_key(environ, dotenv)
    return Resolved(
        config=_validated(values, places),
        secrets=Secrets(api_key=key),
        origins=origins,
        key_origin=key_origin,
    )


def _flags(flags: Mapping[str, object]) -> _Layer:
    layer = _Layer(Origin.FLAG)
    for name, value in flags.items():
        if value is not None and value != () and value != []:
            layer.values[name] = value
            layer.places[name] = _FLAGS.get(name) or f"--{name.replace('_', '-')}"
    return layer


def _variables(source: Mapping[str, str], origin: Origin, label: str) -> _Layer:
    layer = _Layer(origin)
    names = {PREFIX + name.upper(): name for name in RunConfig.model_fields} | CONTRACT_VARIABLES
    for variable, name in names.items():
        value = source.get(variable, "").strip()
        if value:
            layer.values[name] = value
            layer.places[name] = f"{label} {variable}"
    return layer


def _file(path: Path, *, required: bool) -> _Layer:
    layer = _Layer(Origin.FILE)
    if not path.is_file():
        if required:
            raise ConfigError(f"{path}: no such config file")
        return layer
    try:
        data: dict[str, object] = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None
    for name, value in data.items():
        if name not in RunConfig.model_fields:
            hint = " (secrets belong in the environment or in .env)" if "key" in name.lower() else ""
            raise ConfigError(f"{path}: unknown setting {name}{hint}; `capstan config` lists all settings")
        layer.values[name] = tuple(value) if is_list(value) else value
        layer.places[name] = f"{path}: {name}"
    return layer


def _dotenv(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    from dotenv import dotenv_values

    return {name: value for name, value in dotenv_values(path).items() if value is not None}


def _api_key(environ: Mapping[str, str], dotenv: Mapping[str, str]) -> tuple[SecretStr | None, Origin | None]:
    for source, origin in ((environ, Origin.ENVIRONMENT), (dotenv, Origin.DOTENV)):
        value = source.get(API_KEY_VARIABLE, "").strip()
        if value:
            return SecretStr(value), origin
    return None, None


def _path(value: str | None) -> Path | None:
    return Path(value) if value and value.strip() else None


def _validated(values: dict[str, object], places: Mapping[str, str]) -> RunConfig:
    try:
        return RunConfig.model_validate(values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        message = first["msg"].removeprefix("Value error, ")
        raise ConfigError(
            f"{places.get(name, name)}: {message[:1].lower()}{message[1:]}, got {first.get('input')!r}"
        ) from None
