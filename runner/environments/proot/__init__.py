"""The proot environment: tasks where neither a Docker engine nor user namespaces can be had."""

from runner.environments.proot.environment import ProotEnvironment

__all__ = ["ProotEnvironment"]
