"""What `capstan doctor --on ray` and `capstan cluster` say of nodes, without a cluster."""

from __future__ import annotations

import io
from typing import Any

import pytest

from runner.cli.checks import Check
from runner.cli.node_checks import check_node, check_sizes
from runner.cli.nodes import ClusterView, NodeView, print_nodes, totals
from runner.cli.progress import describe_use
from runner.jobs.context import ClusterUse
from runner.tasks import load_task
from tests.runner.job_helpers import write_task

VERSIONS = {"Capstan": "0.1.0", "Python": "3.11", "Ray": "2.60.0"}
UNANSWERED = {
    "docker": None,
    "sandbox": None,
    "free_disk_bytes": None,
    "problem": "No module named 'pydantic'",
}


def node(**different: Any) -> NodeView:
    values: dict[str, Any] = {
        "name": "vm-1",
        "address": "10.0.0.2",
        "versions": VERSIONS,
        "offers_docker": True,
        "docker": True,
        "docker_problem": None,
        "sandbox": True,
        "sandbox_problem": None,
        "cpus": 8.0,
        "free_cpus": 6.0,
        "memory_mb": 16384,
        "free_memory_mb": 14336,
        "free_disk_bytes": 100 << 30,
        "images": ["debian:bookworm-slim"],
        "trials": ["a__1234567"],
        "problem": None,
    }
    return NodeView(**(values | different))


def found(view: NodeView) -> list[tuple[str, str, str | None]]:
    checks: list[Check] = check_node(view, VERSIONS)
    assert {check.name for check in checks} == {"vm-1"}
    return [(check.state, check.found, check.remedy) for check in checks]


def test_a_node_that_lacks_nothing_is_one_line() -> None:
    expected = "runs tasks in docker and sandbox; 8 CPUs, 16.0 GiB, 100.0 GiB of disk free"
    assert found(node()) == [("ok", expected, None)]


@pytest.mark.parametrize(
    ("different", "runs", "state", "words", "remedy"),
    [
        (
            {"versions": {**VERSIONS, "Capstan": "0.0.9"}, "problem": "Capstan is 0.0.9"},
            False,
            "missing",
            "Capstan is 0.0.9 there, and 0.1.0 here",
            "install Capstan 0.1.0 there",
        ),
        (UNANSWERED | {"versions": {}}, False, "missing", "No module named", "install Capstan 0.1.0 there"),
        ({"offers_docker": False}, True, "note", "does not offer it", "--resources='{\"docker\": 1}'"),
        (
            {"docker": False, "docker_problem": "no engine answers"},
            True,
            "missing",
            "it offers Docker, but no engine answers",
            "start the engine there",
        ),
        (
            {"docker": False, "docker_problem": "no socket", "offers_docker": False},
            True,
            "note",
            "it has no Docker engine: no socket",
            None,
        ),
        ({"sandbox": False, "sandbox_problem": "denied"}, True, "note", "no sandbox: denied", "namespaces"),
        (
            {"sandbox": False, "sandbox_problem": "denied", "offers_docker": False, "problem": "nothing"},
            False,
            "missing",
            "no sandbox: denied",
            "namespaces",
        ),
        ({"free_disk_bytes": 5 << 30}, True, "note", "5.0 GiB of disk free", "docker image prune"),
    ],
)
def test_what_a_node_lacks_has_a_remedy(
    different: dict[str, Any], runs: bool, state: str, words: str, remedy: str | None
) -> None:
    view = node(**different)
    assert view.runs_trials == runs
    (last,) = [check for check in found(view)[-1:] if words in check[1]] or [found(view)]
    assert last[0] == state and words in last[1]
    assert last[2] is None if remedy is None else remedy in str(last[2])


def test_a_task_larger_than_every_node_is_named(tmp_path: Any) -> None:
    tasks = [load_task(write_task(tmp_path / "small"))]
    tasks.append(load_task(write_task(tmp_path / "large", toml="[environment]\ncpus = 16\n")))
    view = ClusterView(on="ray", versions=VERSIONS, nodes=[node(), node(cpus=32.0, problem="no disk")])
    check = check_sizes(tasks, view)
    assert check.state == "note" and "1 of 2 tasks: large (16 CPUs, 1024 MiB)" in check.found
    assert check_sizes(tasks[:1], view).state == "ok"


def test_the_table_shows_nodes_totals_and_lists() -> None:
    other = node(name="vm-2", versions={**VERSIONS, "Ray": "2.1"}, trials=[], problem="Ray is 2.1\nthere")
    view = ClusterView(on="ray", versions=VERSIONS, nodes=[node(), other])
    stream = io.StringIO()
    print_nodes(view, stream, images=True, trials=True)
    lines = stream.getvalue().splitlines()
    row = "vm-1 0.1.0 3.11 2.60.0 docker; sandbox 6 of 8 14.0 of 16.0 GiB 100.0 GiB 1 1"
    assert lines[1].split() == row.split() and lines[2].rstrip().endswith("Ray is 2.1")
    assert lines[3] == "2 nodes, 1 of them for trials; 4 of 16 CPUs used; 1 trial running" == totals(view)
    assert "trials on vm-1:" in lines and "  a__1234567" in lines and "trials on vm-2: none" in lines
    assert lines[-2:] == ["images on vm-2:", "  debian:bookworm-slim"]


def test_the_use_of_a_cluster_is_one_line() -> None:
    use = ClusterUse(nodes=3, open_nodes=3, cpus=24, used_cpus=20.5)
    line = "cluster: 20.5 of 24 CPUs used on 3 nodes   1 trial running, 4 waiting"
    assert describe_use(use, running=1, waiting=4) == line
    fewer = ClusterUse(nodes=3, open_nodes=1, cpus=24, used_cpus=0)
    assert "on 3 nodes (1 takes trials)   0 trials" in describe_use(fewer, running=0, waiting=0)
