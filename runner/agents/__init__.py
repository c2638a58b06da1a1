"""What runs as an agent: a submission in a process of its own, the task's own solution, or nothing."""

from runner.agents.confinement import AgentWorkdir, Confinement
from runner.agents.factory import AgentFactory, TrialAgent, cache_directory, load_agent
from runner.agents.host import AgentHost
from runner.agents.limits import AgentLimits
from runner.agents.nop import NopAgent
from runner.agents.oracle import OracleAgent
from runner.agents.outcome import (
    AgentContextFigures,
    AgentOutcome,
    AgentSpec,
    OutcomeKind,
    Phase,
    PhaseTimes,
)
from runner.agents.package import AgentPackage, PackageError
from runner.agents.requirements import Interpreter, RequirementsError

__all__ = [
    "AgentContextFigures",
    "AgentFactory",
    "AgentHost",
    "AgentLimits",
    "AgentOutcome",
    "AgentPackage",
    "AgentSpec",
    "AgentWorkdir",
    "Confinement",
    "Interpreter",
    "NopAgent",
    "OracleAgent",
    "OutcomeKind",
    "PackageError",
    "Phase",
    "PhaseTimes",
    "RequirementsError",
    "TrialAgent",
    "cache_directory",
    "load_agent",
]
