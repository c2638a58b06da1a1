"""The checks of `capstan doctor --on ray`: what each node of a cluster lacks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from runner.cli.checks import (
    LOW_DISK_GIB,
    Check,
    check_disk,
    check_key,
    check_python,
    check_tasks,
    check_variables,
)
from runner.cli.nodes import ClusterView, NodeView, look, totals
from runner.config import RunConfig
from runner.environments import DockerSettings
from runner.environments.docker import local_names
from runner.jobs.errors import JobError
from runner.jobs.limiter import Resources
from runner.tasks import Task, load_dataset
from runner.trials.environment import environment_spec

_OFFER_DOCKER = "restart Ray there: ray start … --resources='{\"docker\": 1}'"
_VERSION_REMEDIES = {
    "Capstan": "install Capstan {} there, in the Python that runs Ray",
    "Python": "run Ray there with Python {}",
    "Ray": "install Ray {} there, and restart it",
}
_MOST_NAMED = 5


async def examine_cluster(config: RunConfig, tasks: Sequence[str]) -> tuple[list[Check], bool]:
    """Make all checks. Return their results, and whether a trial could run on some node."""
    checks = [check_python(), check_key(), check_disk()]
    datasets = await asyncio.to_thread(lambda: [load_dataset(path) for path in tasks])
    try:
        view = await look(config)
    except JobError as error:
        return [*checks, Check("ray", "missing", str(error))], False
    usable = any(node.runs_trials for node in view.nodes)
    checks.append(
        Check("ray", "ok" if usable else "missing", f"{view.versions['Ray']}, --on {view.on}: {totals(view)}")
    )
    for node in view.nodes:
        checks += check_node(node, view.versions)
    if tasks:
        has_docker = any("docker" in node.environments for node in view.nodes)
        docker = Check("docker", "ok" if has_docker else "missing", "", None if has_docker else _OFFER_DOCKER)
        sandbox = any(node.sandbox for node in view.nodes)
        check = check_tasks(datasets, docker, without_docker=sandbox, where="on the nodes")
        usable = usable and check.state != "missing"
        loaded = [task for dataset in datasets for task in dataset.tasks]
        checks += [check, check_variables(loaded), check_sizes(loaded, view)]
        checks += await asyncio.to_thread(check_node_images, loaded, tasks, view)
    return checks, usable


def check_node(node: NodeView, versions: Mapping[str, str]) -> list[Check]:
    """Say whether a node can run trials, and then what it lacks.

    Args:
        versions: Those that it must have.
    """
    other = {what: own for what, own in versions.items() if node.versions.get(what, own) != own}
    if other:
        return [
            Check(
                node.name,
                "missing",
                f"{what} is {node.versions[what]} there, and {own} here",
                _VERSION_REMEDIES[what].format(own),
            )
            for what, own in other.items()
        ]
    if node.docker is None:
        remedy = _VERSION_REMEDIES["Capstan"] if "No module named" in (node.problem or "") else None
        return [
            Check(node.name, "missing", node.problem or "", remedy and remedy.format(versions["Capstan"]))
        ]
    has = (
        f"{node.cpus:g} CPUs, {node.memory_mb / 1024:.1f} GiB, "
        f"{(node.free_disk_bytes or 0) / 2**30:.1f} GiB of disk free"
    )
    if node.runs_trials:
        first = Check(node.name, "ok", f"runs tasks in {' and '.join(node.environments)}; {has}")
    else:
        first = Check(node.name, "missing", f"takes no trials: {node.problem}; {has}")
    return [first, *_lacking(node)]


def _lacking(node: NodeView) -> list[Check]:
    found: list[Check] = []
    if node.docker and not node.offers_docker:
        found.append(Check(node.name, "note", "it has a Docker engine, but does not offer it", _OFFER_DOCKER))
    if not node.docker and node.offers_docker:
        remedy = "start the engine there, and let the user that runs Ray use it"
        found.append(Check(node.name, "missing", f"it offers Docker, but {node.docker_problem}", remedy))
    if not node.docker and not node.offers_docker:
        found.append(Check(node.name, "note", f"it has no Docker engine: {node.docker_problem}"))
    if not node.sandbox:
        state = "note" if "docker" in node.environments else "missing"
        found.append(
            Check(node.name, state, f"no sandbox: {node.sandbox_problem}", "allow user namespaces there")
        )
    if (node.free_disk_bytes or 0) < LOW_DISK_GIB * 2**30:
        remedy = "there: docker image prune; capstan cleanup --images"
        found.append(
            Check(node.name, "note", f"{(node.free_disk_bytes or 0) / 2**30:.1f} GiB of disk free", remedy)
        )
    return found


def check_sizes(tasks: Sequence[Task], view: ClusterView) -> Check:
    """Check that for each task there is a node that is large enough."""
    nodes = [node for node in view.nodes if node.runs_trials]
    large: list[str] = []
    for task in tasks:
        wanted = Resources.of(task)
        if not any(n.cpus >= wanted.cpus and n.memory_mb >= wanted.memory_mb for n in nodes):
            large.append(f"{task.name} ({wanted.cpus:g} CPUs, {wanted.memory_mb:.0f} MiB)")
    if not large:
        return Check("resources", "ok", "for each task there is a node that is large enough")
    return Check(
        "resources",
        "note",
        f"no node is large enough for {len(large)} of {len(tasks)} tasks: {_listed(large)}",
        "add a larger node, or run with --override-cpus and --override-memory",
    )


def check_node_images(tasks: Sequence[Task], paths: Sequence[str], view: ClusterView) -> list[Check]:
    """Check which images the nodes that offer Docker have. A trial brings the one that it lacks."""
    settings = DockerSettings.from_environment(os.environ)
    wanted: dict[str, set[str]] = {}
    for task in tasks:
        names = local_names(environment_spec(task), settings)
        wanted[task.name] = {*names, *(f"{name}:latest" for name in names)}
    remedy = f"capstan images pull {' '.join(str(Path(path)) for path in paths)} --on {view.on}"
    checks: list[Check] = []
    for node in view.nodes:
        if "docker" in node.environments:
            missing = [name for name, names in wanted.items() if not names & set(node.images)]
            found = f"{len(missing)} of {len(tasks)} images are not there: {_listed(missing)}"
            checks.append(
                Check(node.name, "note", found, remedy)
                if missing
                else Check(node.name, "ok", f"has all {len(tasks)} images")
            )
    return checks


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_MOST_NAMED]) + (", …" if len(names) > _MOST_NAMED else "")
