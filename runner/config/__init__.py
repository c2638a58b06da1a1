"""What defines a job, and where each value comes from."""

from runner.config.model import ModelMode, RunConfig, Secrets, parse_model_mode, redactor
from runner.config.sources import ConfigError, Origin, Resolved, load_config

__all__ = [
    "ConfigError",
    "ModelMode",
    "Origin",
    "Resolved",
    "RunConfig",
    "Secrets",
    "load_config",
    "parse_model_mode",
    "redactor",
]
