"""The agent loop, and one run of it from start to end."""

from src.loop.run import AgentRun

__all__ = ["AgentRun"]
