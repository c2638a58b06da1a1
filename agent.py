"""The entrypoint of the submission: `agent:Agent` (docs/contract.md, The entrypoint)."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

_ROOT = str(Path(__file__).resolve().parent)
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)

# The package lies beside this file, wherever that is.
from src import __version__  # noqa: E402
from src.config import Settings, SettingsError, load_settings  # noqa: E402
from src.context import load_counter  # noqa: E402
from src.loop import AgentRun  # noqa: E402

_KNOWN_EXTRA = frozenset(
    {"extra_env", "logger", "mcp_servers", "skills_dir", "environment_logs_dir", "load_trajectory"}
)


class PlainAgent:
    """Stands in for `harbor.agents.base.BaseAgent` where Harbor is not installed."""

    def __init__(self, logs_dir: object = None, model_name: str | None = None, **extra: Any) -> None:
        self.logs_dir = logs_dir
        self.model_name = model_name


if TYPE_CHECKING:
    BaseAgent = PlainAgent
else:
    try:
        from harbor.agents.base import BaseAgent
    except Exception:  # not installed, or a version that cannot be imported
        BaseAgent = PlainAgent


def _capabilities() -> Any:
    """Return Harbor's declaration that the agent writes ATIF, or None without Harbor."""
    if BaseAgent is PlainAgent:
        return None
    capabilities: Any = importlib.import_module("harbor.agents.capabilities")
    return capabilities.AgentCapabilities(atif=True)


class Agent(BaseAgent):
    """Capstan: a DeepSeek model in a tool loop. It acts through `environment.exec` alone."""

    capabilities: ClassVar[Any] = _capabilities()

    def __init__(self, logs_dir: Path | None = None, model_name: str | None = None, **extra: Any) -> None:
        """Create the agent. Any keyword of a driver is accepted.

        Settings are used by field name (`max_steps=100`), and `extra_env` contains variables.
        Unknown keywords are ignored with a log line.
        """
        super().__init__(logs_dir=Path(logs_dir or "."), model_name=model_name, **extra)
        self.logs_dir = None if logs_dir is None else Path(logs_dir)
        self.model_name = model_name
        self._extra = dict(extra)
        unknown = sorted(extra.keys() - _KNOWN_EXTRA - Settings.model_fields.keys())
        if unknown:
            log = extra.get("logger") or logging.getLogger("capstan")
            with contextlib.suppress(Exception):
                log.info("capstan ignores unknown keywords: %s", ", ".join(unknown))

    @staticmethod
    def name() -> str:
        return "capstan"

    def version(self) -> str:
        return __version__

    @classmethod
    def import_path(cls) -> str:
        return f"{cls.__module__}:{cls.__name__}"

    @classmethod
    def preflight(cls, kwargs: dict[str, Any] | None = None, env: Mapping[str, str] | None = None) -> None:
        """Check the variables before any trial, for Harbor. Raises ValueError with one line."""
        try:
            load_settings(None, env, os.environ)
        except SettingsError as error:
            raise ValueError(str(error)) from None

    async def setup(self, environment: Any) -> None:
        """Load the token counter in advance, since that takes time. The environment is not used."""
        with contextlib.suppress(Exception):
            await load_counter()

    async def run(self, instruction: str, environment: Any, context: Any = None) -> str:
        """Work on the task and return one line: how the run ended and what it cost.

        Never raises, since a run that raises is not verified. A cancellation stops the running
        command, closes the trajectory, and returns a line within 2 s.
        """
        try:
            run = AgentRun(
                name=self.name(),
                version=self.version(),
                logs_dir=self.logs_dir,
                model_name=self.model_name,
                extra=self._extra,
                instruction=instruction,
                environment=environment,
                context=context,
            )
            return await run.execute()
        except asyncio.CancelledError:
            return "cancelled before the run began"
        except Exception as error:
            return f"internal error ({type(error).__name__}) before the run began"
