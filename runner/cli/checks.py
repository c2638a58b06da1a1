"""The checks of `doctor`: one function each, none of them changes anything."""

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

LOW_DISK_GIB = 10.0
LOW_MEMORY_GIB = 2.0


@dataclass(frozen=True)
class Check:
    """What was found. `mend` is the command, or the one thing to do, where something is missing."""

    name: str
    state: Literal["ok", "note", "missing"]
    found: str
    mend: str | None = None


async def examine(tasks: Sequence[str]) -> list[Check]:
    """All checks, in the order in which they are shown."""
    docker = await check_docker()
    isolation = await check_isolation(docker)
    checks = [check_python(), docker, isolation, check_sandbox(), check_key(), check_disk(), check_memory()]
    if tasks and docker.state == "ok":
        checks.append(await check_images(tasks))
    return checks


def is_usable(checks: Sequence[Check]) -> bool:
    """Whether a task could run here at all: in Docker or in the sandbox."""
    states = {check.name: check.state for check in checks}
    return "ok" in (states["docker"], states["sandbox"])


def check_python() -> Check:
    """The interpreter and the machine."""
    return Check("python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")


async def check_docker() -> Check:
    """Whether an engine answers."""
    from docker.errors import DockerException

    from runner.environments.docker import shared_engine

    mend = "install Docker (apt-get install docker.io) and start it (systemctl start docker)"
    try:
        engine = shared_engine()
        if not await engine.answers():
            address = os.environ.get("DOCKER_HOST", "its usual socket")
            return Check("docker", "missing", f"no engine answers at {address}", _docker_mend(mend))
        version = await engine.call(engine.client.version)
        info = await engine.call(engine.client.info)
    except DockerException as error:
        return Check("docker", "missing", f"{error}", _docker_mend(mend))
    found = (
        f"engine {version.get('Version')}, storage {info.get('Driver')}, control groups v"
        f"{info.get('CgroupVersion')}, {info.get('NCPU')} CPUs"
    )
    return Check("docker", "ok", found)


def _docker_mend(install: str) -> str:
    socket = Path("/var/run/docker.sock")
    if socket.exists() and not os.access(socket, os.W_OK):
        return "your user may not use the engine: usermod -aG docker $USER, then log in anew"
    return "systemctl start docker" if shutil.which("dockerd") else install


async def check_isolation(docker: Check) -> Check:
    """Whether `--isolation dind` could run: a local engine that runs privileged containers."""
    if docker.state != "ok":
        return Check("isolation", "note", "--isolation dind needs a Docker engine", docker.mend)
    from runner.isolation.probe import probe

    found = await probe()
    return Check("isolation", "ok" if found.usable else "note", found.words, found.mend)


def check_sandbox() -> Check:
    """Whether bubblewrap and what it needs are there."""
    from runner.environments.sandbox import missing_programs

    if missing := missing_programs():
        return Check(
            "sandbox", "missing", f"without {', '.join(missing)}", "apt-get install bubblewrap util-linux"
        )
    return Check(
        "sandbox", "ok", "bubblewrap; for tasks whose Dockerfile has only FROM, WORKDIR, COPY and ENV"
    )


def check_key() -> Check:
    """Whether there is a key for a live model."""
    try:
        resolved = load_config()
    except ConfigError as error:
        return Check("settings", "missing", str(error), "mend the setting; `capstan config` shows all")
    if resolved.secrets.api_key is None:
        return Check(
            "key",
            "note",
            "DEEPSEEK_API_KEY is not set, so that no live model can be called",
            "put DEEPSEEK_API_KEY=… into .env, or use --model script:examples/scripts",
        )
    return Check("key", "ok", f"DEEPSEEK_API_KEY from {resolved.key_origin}, for {resolved.config.base_url}")


def check_disk() -> Check:
    """Room for images and job folders."""
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    found = f"{free:.1f} GiB free here"
    if free < LOW_DISK_GIB:
        return Check("disk", "note", found, "docker image prune; capstan cleanup --images")
    return Check("disk", "ok", found)


def check_memory() -> Check:
    """Memory of the machine, and how many usual tasks fit at once."""
    from runner.jobs.limiter import Capacity, Resources

    capacity = Capacity.of_machine(None)
    gib = (capacity.memory_mb or 0.0) / 1024
    found = (
        f"{gib:.1f} GiB and {capacity.cpus:g} CPUs for tasks: {capacity.most_at_once(Resources())} at once"
    )
    state = "ok" if gib >= LOW_MEMORY_GIB else "note"
    return Check("memory", state, found)


async def check_images(paths: Sequence[str]) -> Check:
    """Whether the images of tasks are here."""
    from runner.environments.docker import DockerSettings, built_tag, find_image, shared_engine
    from runner.environments.docker.images import image_candidates
    from runner.tasks import load_dataset
    from runner.trials.environment import environment_spec

    engine, settings = shared_engine(), DockerSettings.from_environment(os.environ)
    missing: list[str] = []
    total = 0
    for path in paths:
        for task in (await asyncio.to_thread(load_dataset, path)).tasks:
            total += 1
            spec = environment_spec(task, task.name, build_multiplier=1.0, labels={})
            names = image_candidates(spec, settings) or [built_tag(spec)]
            if not [name for name in names if await find_image(engine, name)]:
                missing.append(task.name)
    if missing:
        shown = ", ".join(missing[:5]) + (" …" if len(missing) > 5 else "")
        mend = f"capstan images pull {' '.join(paths)}"
        return Check("images", "note", f"{len(missing)} of {total} are not here: {shown}", mend)
    return Check("images", "ok", f"all {total} are here")
