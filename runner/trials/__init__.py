"""Run one trial, from the start of its environment to its result."""

from runner.trials.environment import environment_spec
from runner.trials.trial import Trial, write_lost_trial

__all__ = ["Trial", "environment_spec", "write_lost_trial"]
