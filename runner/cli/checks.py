"""The checks of `capstan doctor`. None of them changes the machine."""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from runner.config import ConfigError, load_config
from runner.tasks import Dataset, Task, load_dataset

LOW_DISK_GIB = 10.0
LOW_MEMORY_GIB = 2.0
_SOCKET = Path("/var/run/docker.sock")
_SIMPLE_TASKS = "for tasks whose Dockerfile has only FROM, WORKDIR, COPY and ENV"


@dataclass(frozen=True)
class Check:
    """The result of a check. `remedy` is a command, or one thing to do."""

    name: str
    state: Literal["ok", "note", "missing"]
    found: str
    remedy: str | None = None


async def examine(tasks: Sequence[str]) -> list[Check]:
    """Make all checks and return their results in the order in which they are printed."""
    docker = await check_docker()
    isolation = await check_isolation(docker)
    sandbox, proot = await check_sandbox(), await check_proot()
    checks = [check_python(), docker, isolation, sandbox, proot, check_key(), check_disk(), check_memory()]
    if tasks:
        datasets = await asyncio.to_thread(lambda: [load_dataset(path) for path in tasks])
        loaded = [task for dataset in datasets for task in dataset.tasks]
        checks.append(check_tasks(datasets, docker, without_docker="ok" in (sandbox.state, proot.state)))
        checks += [check_variables(loaded), await check_resources(loaded, docker)]
        if docker.state == "ok":
            checks.append(await check_images(loaded, tasks))
    return checks


def is_usable(checks: Sequence[Check]) -> bool:
    """Return whether any task, of those that were named if some were, could run here."""
    states = {check.name: check.state for check in checks}
    return "ok" in (states["docker"], states["sandbox"], states["proot"]) and states.get("tasks") != "missing"


def check_python() -> Check:
    """Report the interpreter and the platform."""
    return Check("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


async def check_docker() -> Check:
    """Check that a Docker engine answers."""
    from docker.errors import DockerException

    from runner.environments import EnvironmentFailure
    from runner.environments.docker import shared_engine
    from runner.environments.docker.engine import engine_unreachable

    address = os.environ.get("DOCKER_HOST")
    setting = f"DOCKER_HOST={address}" if address else "DOCKER_HOST is not set"
    if problem := await engine_unreachable():
        return Check("docker", "missing", f"{problem} ({setting})", _docker_remedy(address))
    try:
        engine = shared_engine()
        version = await engine.call(engine.client.version)
        info = await engine.call(engine.client.info)
    except (DockerException, EnvironmentFailure) as error:
        return Check("docker", "missing", f"{error} ({setting})", _docker_remedy(address))
    found = (
        f"engine {version.get('Version')}, storage {info.get('Driver')}, control groups v"
        f"{info.get('CgroupVersion')}, {info.get('NCPU')} CPUs"
    )
    return Check("docker", "ok", found)


def _docker_remedy(address: str | None) -> str:
    if address and address != f"unix://{_SOCKET}":
        return f"start the engine at that address, or unset DOCKER_HOST to use the one at {_SOCKET}"
    if _SOCKET.exists() and not os.access(_SOCKET, os.W_OK):
        return "your user may not use the engine: usermod -aG docker $USER, then log in again"
    start = "systemctl start docker"
    if not shutil.which("dockerd"):
        start = f"install Docker (apt-get install docker.io) and start it ({start})"
    return f"{start}; for an engine elsewhere, set DOCKER_HOST to its address"


async def check_isolation(docker: Check) -> Check:
    """Check that the engine can run `--isolation dind`: it is local and allows privileges."""
    if docker.state != "ok":
        return Check("isolation", "note", "--isolation dind needs a Docker engine", docker.remedy)
    from runner.isolation.probe import probe

    result = await probe()
    return Check("isolation", "ok" if result.usable else "note", result.message, result.remedy)


async def check_sandbox() -> Check:
    """Check that a bubblewrap sandbox starts."""
    from runner.environments.sandbox import SandboxEnvironment

    if (problem := await SandboxEnvironment.unavailable()) is not None:
        return Check("sandbox", "note", problem, "allow user namespaces, or use --env proot")
    return Check("sandbox", "ok", f"bubblewrap; {_SIMPLE_TASKS}")


async def check_proot() -> Check:
    """Check that proot starts."""
    from runner.environments.proot import ProotEnvironment

    if (problem := await ProotEnvironment.unavailable()) is not None:
        return Check("proot", "note", problem)
    return Check("proot", "ok", f"isolates nothing; {_SIMPLE_TASKS}")


def check_key() -> Check:
    """Check that there is a key for a live model."""
    try:
        resolved = load_config()
    except ConfigError as error:
        return Check("settings", "missing", str(error), "correct the setting; `capstan config` lists all")
    if resolved.secrets.api_key is None:
        return Check(
            "key",
            "note",
            "DEEPSEEK_API_KEY is not set, so no live model can be called",
            "put DEEPSEEK_API_KEY=… into .env, or use --model script:examples/scripts",
        )
    return Check("key", "ok", f"DEEPSEEK_API_KEY from {resolved.key_origin}, for {resolved.config.base_url}")


def check_disk() -> Check:
    """Check the free space for images and job folders."""
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    found = f"{free:.1f} GiB free here"
    if free < LOW_DISK_GIB:
        return Check("disk", "note", found, "docker image prune; capstan cleanup --images")
    return Check("disk", "ok", found)


def check_memory() -> Check:
    """Check the memory, and report how many tasks of the usual size fit at once."""
    from runner.jobs.limiter import Capacity, Resources

    capacity = Capacity.of_machine(None)
    gib = (capacity.memory_mb or 0.0) / 1024
    found = (
        f"{gib:.1f} GiB and {capacity.cpus:g} CPUs for tasks: {capacity.most_at_once(Resources())} at once"
    )
    state = "ok" if gib >= LOW_MEMORY_GIB else "note"
    return Check("memory", state, found)


def check_tasks(
    datasets: Sequence[Dataset], docker: Check, *, without_docker: bool, where: str = "here"
) -> Check:
    """Check which tasks can run here, or elsewhere.

    `without_docker`: the sandbox or proot works, and can run simple tasks.
    """
    from runner.environments.rootfs import rootfs_refusal
    from runner.trials.environment import environment_spec

    need_docker: list[str] = []
    lack_variables: list[str] = []
    broken = [str(error) for dataset in datasets for error in dataset.broken]
    tasks = [task for dataset in datasets for task in dataset.tasks]
    for task in tasks:
        if task.missing_variables() is not None:
            lack_variables.append(task.name)
        elif docker.state != "ok" and (not without_docker or rootfs_refusal(environment_spec(task))):
            need_docker.append(task.name)
    total = len(tasks) + sum(len(dataset.broken) for dataset in datasets)
    cannot = len(need_docker) + len(lack_variables) + len(broken)
    if not cannot:
        return Check("tasks", "ok", f"all {total} can run {where}")
    found = f"{cannot} of {total} cannot run {where}"
    if need_docker:
        found += f"; these need Docker: {', '.join(need_docker)}"
    if lack_variables:
        found += f"; these lack variables: {', '.join(lack_variables)}"
    if broken:
        found += f"; these are broken: {'; '.join(broken)}"
    return Check(
        "tasks", "missing" if cannot == total else "note", found, docker.remedy if need_docker else None
    )


def check_variables(tasks: Sequence[Task]) -> Check:
    """Check that this host has the variables that the tasks take from it."""
    lacking = [f"{task.name}: {error.problem}" for task in tasks if (error := task.missing_variables())]
    if lacking:
        shown = "; ".join(lacking[:5]) + ("; …" if len(lacking) > 5 else "")
        return Check("variables", "note", f"{len(lacking)} of {len(tasks)} tasks cannot run: {shown}")
    return Check("variables", "ok", f"{len(tasks)} tasks have those that they take from this host")


async def check_resources(tasks: Sequence[Task], docker: Check) -> Check:
    """Check that no task asks for more CPUs or memory than there are."""
    from runner.environments.docker import shared_engine
    from runner.jobs.limiter import Resources, machine_resources, oversized

    machine = machine_resources()
    if docker.state == "ok":
        machine = Resources(*await shared_engine().capacity())
    if problem := oversized(tasks, machine):
        return Check("resources", "note", problem)
    return Check("resources", "ok", f"no task asks for more than {machine.cpus:g} CPUs and the memory here")


async def check_images(tasks: Sequence[Task], paths: Sequence[str]) -> Check:
    """Check that the images of tasks are here."""
    from runner.cli.images import find_task_image
    from runner.environments import DockerSettings
    from runner.environments.docker import shared_engine

    engine, settings = shared_engine(), DockerSettings.from_environment(os.environ)
    missing = [task.name for task in tasks if (await find_task_image(engine, task, settings))[1] is None]
    if missing:
        shown = ", ".join(missing[:5]) + (" …" if len(missing) > 5 else "")
        remedy = f"capstan images pull {' '.join(paths)}"
        return Check("images", "note", f"{len(missing)} of {len(tasks)} are not here: {shown}", remedy)
    return Check("images", "ok", f"all {len(tasks)} are here")
