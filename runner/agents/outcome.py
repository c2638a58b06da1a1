"""The end of an agent's run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from runner.results import AgentContext, Timing

OutcomeKind = Literal[
    "completed",
    "cancelled_in_time",
    "timeout",
    "raised",
    "construction_failed",
    "crashed",
    "invalid_return",
]
"""How a run ended.

- completed: `run` returned a str or None.
- cancelled_in_time: It did so within the grace period, after it was cancelled at its time limit.
- timeout: It was cancelled at its time limit and did not return.
- raised: `setup` or `run` raised.
- construction_failed: The import or the constructor raised, or took too long.
- crashed: The process died, broke the protocol, or exceeded a limit.
- invalid_return: `run` returned another type, or text with lone surrogates.
"""

Phase = Literal["construction", "setup", "execution"]


@dataclass(frozen=True)
class AgentOutcome:
    """The end of one run.

    Attributes:
        kind: How it ended.
        phase: The phase in which it ended.
        message: The text that `run` returned, if it was valid.
        exception_type, exception_message, traceback: What was raised, or why the process was ended.
        context: The values that the agent put into its context, as last reported.
        agent_name, agent_version: What the agent calls itself.
        setup, execution: When each phase began and ended. None if it did not begin.
        deadline_reached: Whether the time limit was reached, however the run ended.
    """

    kind: OutcomeKind
    phase: Phase = "execution"
    message: str | None = None
    exception_type: str | None = None
    exception_message: str | None = None
    traceback: str | None = None
    context: AgentContext = field(default_factory=AgentContext)
    agent_name: str | None = None
    agent_version: str | None = None
    setup: Timing | None = None
    execution: Timing | None = None
    deadline_reached: bool = False
