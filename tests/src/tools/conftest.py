from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from src.config import Settings
from src.llm.messages import ToolCall
from src.tools import HarborToolRegistry, ToolResult
from src.tools.workspace import Workspace
from tests.src.tools.counters import SimpleCounter
from tests.src.tools.workspace.doubles import ProcessEnvironment

Call = Callable[..., Awaitable[ToolResult]]


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """Return the container's working directory."""
    folder = tmp_path / "app"
    folder.mkdir()
    return folder


@pytest.fixture
def plain_settings() -> Settings:
    return Settings(api_key="none")  # type: ignore[arg-type]


@pytest.fixture
async def opened_workspace(app: Path, plain_settings: Settings) -> AsyncIterator[Workspace]:
    workspace = Workspace(ProcessEnvironment(app), settings=plain_settings)
    await workspace.open()
    yield workspace
    await workspace.close(stop_jobs=True)


@pytest.fixture
def registry(opened_workspace: Workspace, plain_settings: Settings) -> HarborToolRegistry:
    return HarborToolRegistry(opened_workspace, plain_settings, SimpleCounter())


@pytest.fixture
def minimal(opened_workspace: Workspace, plain_settings: Settings) -> HarborToolRegistry:
    settings = plain_settings.model_copy(update={"tool_preset": "minimal"})
    return HarborToolRegistry(opened_workspace, settings, SimpleCounter())


_ids = itertools.count()


def tool_call(name: str, /, **arguments: Any) -> ToolCall:
    return ToolCall(f"call_{next(_ids)}", name, json.dumps(arguments))


@pytest.fixture
def call(registry: HarborToolRegistry) -> Call:
    return caller(registry)


@pytest.fixture
def call_minimal(minimal: HarborToolRegistry) -> Call:
    return caller(minimal)


def caller(registry: HarborToolRegistry) -> Call:
    async def call(name: str, /, **arguments: Any) -> ToolResult:
        [result] = await registry.execute([tool_call(name, **arguments)])
        return result

    return call
