"""The agent of a job: a submission that is unpacked once, or one of the built-in ones."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

from runner.agents.confinement import Confinement
from runner.agents.host import AgentHost
from runner.agents.nop import NopAgent
from runner.agents.oracle import OracleAgent
from runner.agents.outcome import AgentOutcome
from runner.agents.package import AgentPackage
from runner.config import RunConfig
from runner.environments import Environment
from runner.results import AgentRecord
from runner.tasks import Task

BUILT_IN = {"oracle": OracleAgent.spec, "nop": NopAgent.spec}
"""Agents that need no submission, by name."""


def cache_directory() -> Path:
    """Return where unpacked agents and their virtual environments are kept between jobs."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "capstan"


class TrialAgent(Protocol):
    """An agent that is ready to run in one trial."""

    async def run(
        self, instruction: str, *, setup_timeout_sec: float, timeout_sec: float | None
    ) -> AgentOutcome:
        """Run it to its end. Raises nothing but CancelledError, and then leaves no process behind."""
        ...


@dataclass(frozen=True, kw_only=True)
class AgentFactory:
    """Creates the agent of each trial. `package` is None for a built-in agent."""

    record: AgentRecord
    package: AgentPackage | None = None
    model_name: str | None = None
    rules: Literal["validator", "harbor"] = "validator"
    confinement: Confinement | None = None

    @property
    def needs_model(self) -> bool:
        """Whether its trials need access to a model."""
        return self.package is not None

    def create(
        self,
        task: Task,
        *,
        environment: Environment,
        logs_dir: Path,
        variables: Mapping[str, str],
        extra: Mapping[str, Any],
    ) -> TrialAgent:
        """Create the agent of one trial.

        Args:
            task: The trial's task.
            environment: What the agent works in; started.
            logs_dir: The trial's agent folder.
            variables: The agent's four variables.
            extra: Further keywords of its constructor.
        """
        if self.package is None:
            if self.record.name == "oracle":
                return OracleAgent(task, environment=environment, logs_dir=logs_dir)
            return NopAgent()
        return AgentHost(
            self.package,
            environment=environment,
            logs_dir=logs_dir,
            variables=variables,
            model_name=self.model_name,
            extra=extra,
            rules=self.rules,
            task_name=task.name,
            confinement=self.confinement,
        )


async def load_agent(
    config: RunConfig, *, source: Path | None = None, confinement: Confinement | None = None
) -> AgentFactory:
    """Check, unpack and install the agent that the settings name.

    Args:
        config: Names it, and that name is on the record.
        source: Where it really lies, if not where the settings say.
        confinement: How its processes are shut off; None: not at all.

    Raises:
        PackageError: It cannot be run.
    """
    if (spec := BUILT_IN.get(config.agent)) is not None:
        return AgentFactory(record=AgentRecord(source=spec.name, name=spec.name, version=spec.version))
    package = await AgentPackage.prepare(source or Path(config.agent), cache_directory() / "agents")
    return AgentFactory(
        record=AgentRecord(source=str(Path(config.agent)), digest=package.digest),
        package=package,
        model_name=config.model_name,
        rules=config.rules,
        confinement=confinement,
    )
