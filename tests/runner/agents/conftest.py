"""The `bench` fixture, which runs agents."""

from __future__ import annotations

from pathlib import Path

import pytest
from agent_bench import Bench
from local_environment import LocalEnvironment


@pytest.fixture
async def bench(tmp_path: Path) -> Bench:
    environment = LocalEnvironment(tmp_path / "container")
    await environment.start()
    return Bench(tmp_path, environment, tmp_path / "logs")
