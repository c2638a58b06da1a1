"""The sandbox environment: tasks on bubblewrap, where there is no Docker engine."""

from runner.environments.sandbox.environment import SandboxEnvironment, sandbox_unavailable

__all__ = ["SandboxEnvironment", "sandbox_unavailable"]
