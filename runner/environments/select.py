"""Choose the environment of a job: the best one that can run all of its tasks."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from runner.environments.base import (
    DockerSettings,
    Environment,
    EnvironmentKind,
    EnvironmentLost,
    EnvironmentSpec,
    EnvironmentStartError,
)
from runner.environments.proot import ProotEnvironment
from runner.environments.rootfs import rootfs_refusal
from runner.environments.sandbox import SandboxEnvironment

_PROOT = "proot, which isolates nothing"
_HELP = "start Docker, allow user namespaces, or apt-get install proot"


@dataclass(frozen=True, slots=True)
class Selection:
    """The chosen kind of environment, and one line for the screen and the job's log."""

    kind: EnvironmentKind
    reason: str


async def select_environment(
    wanted: Literal["auto", "docker", "sandbox", "proot"],
    specs: Sequence[EnvironmentSpec],
    settings: DockerSettings,
) -> Selection:
    """Choose Docker, else bubblewrap, else proot; or check the kind that was asked for.

    `auto` takes the first kind that is there and can run every task. A kind that was asked for must
    be there. A task that it cannot run fails alone, in its trial.

    Raises:
        EnvironmentStartError: Nothing can run the tasks, or the kind that was asked for is not
            there. One line says what to do.
    """
    if wanted == "docker":
        if no_docker := await _no_docker((), settings):
            raise EnvironmentStartError(f"Docker: {no_docker}; start it, or take --env sandbox")
        return Selection("docker", "environment: Docker (it was asked for)")
    if wanted == "sandbox":
        if no_sandbox := await SandboxEnvironment.unavailable():
            raise EnvironmentStartError(f"{no_sandbox}; take --env docker or --env proot")
        return Selection("sandbox", "environment: sandbox (it was asked for)")
    if wanted == "proot":
        if no_proot := await ProotEnvironment.unavailable():
            raise EnvironmentStartError(no_proot)
        return Selection("proot", f"environment: {_PROOT} (it was asked for)")
    no_docker = await _no_docker(specs, settings)
    if no_docker is None:
        return Selection("docker", "environment: Docker (an engine answers, and the images can be had)")
    refusal = next((refusal for spec in specs if (refusal := rootfs_refusal(spec))), None)
    if refusal:
        raise EnvironmentStartError(
            f"no environment can run all tasks: Docker: {no_docker}; without Docker: {refusal}. "
            "Leave tasks out (--exclude), or take --env docker for those that it can run"
        )
    no_sandbox = await SandboxEnvironment.unavailable()
    if no_sandbox is None:
        return Selection("sandbox", f"environment: sandbox (Docker: {no_docker})")
    before = f"Docker: {no_docker}; {no_sandbox}"
    no_proot = await ProotEnvironment.unavailable()
    if no_proot is None:
        return Selection("proot", f"environment: {_PROOT} ({before})")
    raise EnvironmentStartError(
        f"no environment can be started: {before}; {no_proot}. Do one of these: {_HELP}"
    )


async def _no_docker(specs: Sequence[EnvironmentSpec], settings: DockerSettings) -> str | None:
    """Return why Docker cannot run these tasks, in one line; None if it can."""
    # Here and not above: without an engine the SDK is not needed, and may be broken.
    try:
        from runner.environments.docker.availability import missing_images
        from runner.environments.docker.engine import engine_unreachable, shared_engine
    except ImportError as error:
        return f"its Python package cannot be imported: {error}"
    if unreachable := await engine_unreachable():
        return unreachable
    try:
        return await missing_images(shared_engine(), specs, settings)
    except EnvironmentLost as error:
        return str(error)


def create_environment(
    kind: EnvironmentKind, spec: EnvironmentSpec, *, settings: DockerSettings | None = None
) -> Environment:
    """Return an environment of that kind, not started. `settings` default to the variables'.

    Raises:
        docker.errors.DockerException: The engine's address (DOCKER_HOST) makes no sense.
        ValueError: A setting makes no sense.
    """
    if kind == "sandbox":
        return SandboxEnvironment(spec)
    if kind == "proot":
        return ProotEnvironment(spec)
    from runner.environments.docker import DockerEnvironment

    return DockerEnvironment(spec, settings or DockerSettings.from_environment(os.environ))
