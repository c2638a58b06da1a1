"""The proot environment: tasks where neither a Docker engine nor user namespaces can be had."""

from runner.environments.proot.environment import ProotEnvironment, proot_unavailable

__all__ = ["ProotEnvironment", "proot_unavailable"]
