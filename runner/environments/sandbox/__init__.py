"""The sandbox environment: tasks on bubblewrap, where there is no Docker engine."""

from runner.environments.sandbox.environment import SandboxEnvironment

__all__ = ["SandboxEnvironment"]
