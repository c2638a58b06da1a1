"""Agents: a submission in a process of its own, and the built-in oracle and nop."""

from runner.agents.builtin import NopAgent, OracleAgent
from runner.agents.factory import AgentFactory, load_agent
from runner.agents.host import AgentHost
from runner.agents.limits import AgentLimits
from runner.agents.outcome import AgentOutcome
from runner.agents.package import AgentPackage, PackageError, needs_model
from runner.agents.requirements import RequirementsError

__all__ = [
    "AgentFactory",
    "AgentHost",
    "AgentLimits",
    "AgentOutcome",
    "AgentPackage",
    "NopAgent",
    "OracleAgent",
    "PackageError",
    "RequirementsError",
    "load_agent",
    "needs_model",
]
