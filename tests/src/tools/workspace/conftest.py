from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from src.config import Settings
from src.tools.workspace import Workspace
from tests.src.tools.workspace.doubles import ProcessEnvironment, container_path

CONTAINERS = ("full", "jobs", "dash", "busybox", "bare")


@pytest.fixture
def settings() -> Settings:
    return Settings(api_key="none")  # type: ignore[arg-type]


@pytest.fixture
def task_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "app"
    folder.mkdir()
    return folder


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test in every kind of container, or in those that its module names."""
    if "any_environment" in metafunc.fixturenames:
        containers = getattr(metafunc.module, "CONTAINERS", CONTAINERS)
        metafunc.parametrize("any_environment", containers, indirect=True)


@pytest.fixture
def any_environment(request: pytest.FixtureRequest, tmp_path: Path, task_folder: Path) -> ProcessEnvironment:
    shell, path = container_path(tmp_path / "bin", request.param)
    return ProcessEnvironment(task_folder, shell=shell, path=path)


@pytest.fixture
def environment(task_folder: Path) -> ProcessEnvironment:
    return ProcessEnvironment(task_folder)


@pytest.fixture
async def any_workspace(any_environment: ProcessEnvironment, settings: Settings) -> AsyncIterator[Workspace]:
    """Open a workspace in each kind of container, and check that nothing of it is left."""
    async for workspace in opened(any_environment, settings):
        yield workspace


@pytest.fixture
async def workspace(environment: ProcessEnvironment, settings: Settings) -> AsyncIterator[Workspace]:
    async for workspace in opened(environment, settings):
        yield workspace


async def opened(environment: ProcessEnvironment, settings: Settings) -> AsyncIterator[Workspace]:
    workspace = Workspace(environment, settings=settings)
    await workspace.open()
    scratch = await scratch_of(workspace)
    assert Path(scratch).stat().st_mode & 0o777 == 0o700
    yield workspace
    await workspace.close(stop_jobs=True)
    assert not Path(scratch).exists()
    assert await environment.settled() == []


async def scratch_of(workspace: Workspace) -> str:
    return str(Path((await workspace.run("true")).output_path).parent)
