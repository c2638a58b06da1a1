"""Run one trial, from the start of its environment to its result."""

from runner.trials.environment import environment_spec
from runner.trials.trial import Trial

__all__ = ["Trial", "environment_spec"]
