"""Agents: a submission in a process of its own, and the built-in oracle and nop."""

from runner.agents.builtin import NopAgent, OracleAgent
from runner.agents.confinement import AgentWorkdir, Confinement
from runner.agents.factory import AgentFactory, TrialAgent, cache_directory, load_agent
from runner.agents.host import AgentHost
from runner.agents.limits import AgentLimits
from runner.agents.outcome import AgentOutcome, OutcomeKind, Phase
from runner.agents.package import AgentPackage, PackageError
from runner.agents.requirements import RequirementsError

__all__ = [
    "AgentFactory",
    "AgentHost",
    "AgentLimits",
    "AgentOutcome",
    "AgentPackage",
    "AgentWorkdir",
    "Confinement",
    "NopAgent",
    "OracleAgent",
    "OutcomeKind",
    "PackageError",
    "Phase",
    "RequirementsError",
    "TrialAgent",
    "cache_directory",
    "load_agent",
]
