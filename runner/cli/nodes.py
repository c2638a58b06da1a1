"""The nodes of a cluster as `capstan cluster` and `capstan doctor --on ray` see them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TextIO

from pydantic import BaseModel
from rich.table import Table
from rich.text import Text

from runner.cli.tables import first_line, make_console
from runner.config import RunConfig
from runner.executors.open import open_nodes

if TYPE_CHECKING:
    from runner.executors.ray.cluster import Node

_PROBLEM_CHARS = 200


class NodeView(BaseModel):
    """A node. What its node runner did not say is None or empty.

    Attributes:
        versions: Of Capstan, Python and Ray.
        offers_docker: Whether Ray was started there with the resource `docker`.
        docker: Whether its Docker engine answers; `docker_problem` says why not.
        sandbox: Whether the bubblewrap sandbox starts; `sandbox_problem` says why not.
        memory_mb, free_memory_mb: The MiB that Ray gives to trials, and how many nothing has taken.
        trials: The trials that run there, of all jobs of this user.
        problem: Why it takes no trials.
    """

    name: str
    address: str
    versions: dict[str, str]
    offers_docker: bool
    docker: bool | None
    docker_problem: str | None
    sandbox: bool | None
    sandbox_problem: str | None
    cpus: float
    free_cpus: float
    memory_mb: int
    free_memory_mb: int
    free_disk_bytes: int | None
    images: list[str]
    trials: list[str]
    problem: str | None

    @property
    def environments(self) -> list[str]:
        """What tasks can run in there."""
        docker = ["docker"] if self.offers_docker and self.docker else []
        return docker + (["sandbox"] if self.sandbox else [])

    @property
    def runs_trials(self) -> bool:
        """Whether a trial could run there."""
        return self.problem is None and bool(self.environments)


class ClusterView(BaseModel):
    """A cluster. `versions` are those of this machine, which the nodes must have as well."""

    on: str
    versions: dict[str, str]
    nodes: list[NodeView]


async def look(config: RunConfig) -> ClusterView:
    """Return the state of a cluster. Raises JobError if it cannot be had."""
    async with open_nodes(config) as cluster:
        from runner.executors.ray.actor import versions

        nodes = sorted(cluster.nodes.values(), key=lambda node: node.name)
        trials = await asyncio.gather(*(cluster.running_trials(node) for node in nodes))
        views = [_view(node, names) for node, names in zip(nodes, trials, strict=True)]
    return ClusterView(on=config.on, versions=versions(), nodes=views)


def _view(node: Node, trials: list[str]) -> NodeView:
    status = node.status
    problem = node.problem
    if problem is None and status is None:
        problem = "its node runner has not answered yet"
    if problem is None and status is not None and status.sandbox and not node.offers_docker:
        problem = f"it offers no Docker, and has no sandbox: {status.sandbox}"
    return NodeView(
        name=node.name,
        address=node.address,
        versions=dict(node.versions),
        offers_docker=node.offers_docker,
        docker=None if status is None else status.engine is None,
        docker_problem=status.engine if status else None,
        sandbox=None if status is None else status.sandbox is None,
        sandbox_problem=status.sandbox if status else None,
        cpus=node.resources.get("CPU", 0.0),
        free_cpus=node.free.get("CPU", 0.0),
        memory_mb=int(node.resources.get("memory", 0.0)) >> 20,
        free_memory_mb=int(node.free.get("memory", 0.0)) >> 20,
        free_disk_bytes=status.free_bytes if status else None,
        images=sorted(name for name in status.images if "<none>" not in name) if status else [],
        trials=trials,
        problem=problem,
    )


def print_nodes(view: ClusterView, stream: TextIO, *, images: bool, trials: bool) -> None:
    """Print a table of the nodes, a line of totals, and lists of what is asked for."""
    console = make_console(stream)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("node", *view.versions, "environment"):
        table.add_column(column, overflow="fold", no_wrap=column == "node")
    for column in ("free CPUs", "free memory", "free disk", "images", "trials"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("problem", overflow="fold")
    for node in view.nodes:
        table.add_row(
            node.name,
            *(_version(node.versions.get(what), own) for what, own in view.versions.items()),
            _environment(node),
            f"{node.free_cpus:g} of {node.cpus:g}",
            f"{_gib(node.free_memory_mb)} of {_gib(node.memory_mb)} GiB",
            "–" if node.free_disk_bytes is None else f"{_gib(node.free_disk_bytes >> 20)} GiB",
            "–" if node.docker is not True else str(len(node.images)),
            str(len(node.trials)),
            Text(first_line(node.problem or "", _PROBLEM_CHARS), style="yellow"),
        )
    console.print(table)
    console.print(Text(totals(view), style="bold"))
    for wanted, heading, names in (
        (trials, "trials", {node.name: node.trials for node in view.nodes}),
        (images, "images", {node.name: node.images for node in view.nodes}),
    ):
        for node, listed in names.items() if wanted else ():
            console.print(Text(f"\n{heading} on {node}:" + ("" if listed else " none")))
            for name in listed:
                console.print(Text(f"  {name}"), soft_wrap=True)


def totals(view: ClusterView) -> str:
    """Describe a cluster in one line."""
    nodes = view.nodes
    usable = sum(node.runs_trials for node in nodes)
    cpus, free = sum(node.cpus for node in nodes), sum(node.free_cpus for node in nodes)
    running = sum(len(node.trials) for node in nodes)
    return (
        f"{len(nodes)} node{'s' * (len(nodes) != 1)}, {usable} of them for trials; "
        f"{cpus - free:g} of {cpus:g} CPUs used; {running} trial{'s' * (running != 1)} running"
    )


def _version(there: str | None, here: str) -> Text:
    return Text(there or "–", style="" if there in (None, here) else "red")


def _environment(node: NodeView) -> str:
    if node.docker is None:
        return "–"
    shown = node.environments
    if node.docker and not node.offers_docker:
        shown.append("docker, not offered")
    if node.offers_docker and not node.docker:
        shown.append("docker, no engine")
    return "; ".join(shown) or "none"


def _gib(mib: int) -> str:
    return f"{mib / 1024:.1f}"
