"""The settings of a job, and the sources that they are read from."""

from runner.config.model import (
    LOCAL_CLUSTER,
    PLACE_SETTINGS,
    SECRET_VARIABLES,
    ModelMode,
    Rules,
    RunConfig,
    Secrets,
    parse_model_mode,
    redactor,
)
from runner.config.sources import ConfigError, Origin, load_config

__all__ = [
    "LOCAL_CLUSTER",
    "PLACE_SETTINGS",
    "SECRET_VARIABLES",
    "ConfigError",
    "ModelMode",
    "Origin",
    "Rules",
    "RunConfig",
    "Secrets",
    "load_config",
    "parse_model_mode",
    "redactor",
]
