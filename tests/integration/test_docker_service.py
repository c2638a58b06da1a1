"""The evaluation service with Docker: the order of images, the pull policy, the network (contracts.md 8)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.runner.job_helpers import write_agent, write_task
from tests.runner.service.service_helpers import KEY, Service, running, wait_until

pytestmark = pytest.mark.docker

BASE = "debian:bookworm-slim"
HUB = "capstan-test/hub"
REGISTRY = "capstan-test/registry"
DEFAULT = "capstan-test/default"
# The verifier's output says which image it ran in, and which network.
LOOK = """#!/bin/sh
cat /image; ls /sys/class/net | tr '\\n' ' '
echo 1 > /logs/verifier/reward.txt
"""
IMAGE = f'[environment]\ndocker_image = "{HUB}:20251031"\nallow_internet = true\n'


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Images that know their names."""
    names = [f"{HUB}:20251031", f"{REGISTRY}:both-20251031", f"{DEFAULT}:bare"]
    client = docker.from_env()
    for number, name in enumerate(names):
        folder = tmp_path_factory.mktemp(f"image{number}")
        (folder / "image").write_text(f"{name}\n")
        (folder / "Dockerfile").write_text(f"FROM {BASE}\nWORKDIR /app\nCOPY image /image\n")
        client.images.build(path=str(folder), tag=name, rm=True)
    yield
    for name in names:
        client.images.remove(name)
    client.close()


@pytest.fixture
def folder(tmp_path: Path, images: None) -> Path:
    """Tasks: `both` and `one` name an image, `bare` names none and has no Dockerfile."""
    for name in ("both", "one"):
        write_task(tmp_path / "tasks" / name, test=LOOK, toml=IMAGE)
        (tmp_path / "tasks" / name / "environment" / "Dockerfile").unlink()
    write_task(tmp_path / "tasks" / "bare", test=LOOK)
    (tmp_path / "tasks" / "bare" / "environment" / "Dockerfile").unlink()
    write_task(
        tmp_path / "tasks" / "missing",
        test=LOOK,
        toml='[environment]\ndocker_image = "capstan-test/nowhere:1"\n',
    )
    return tmp_path


def start(folder: Path, **variables: str):
    return running(folder, "--agent", "nop", "--env", "docker", PULL_IF_NOT_EXISTS="false", **variables)


def seen(service: Service, task: str) -> tuple[str, list[str]]:
    """The image's own name, and the network interfaces, as the verifier saw them."""
    answer = service.run_task(task)
    assert answer.status_code == 200, answer.text
    (record,) = (service.jobs / answer.headers["X-Capstan-Job"]).glob("*/capstan.json")
    output = answer.json()["trajectory"][-1]["output"].splitlines()[-2:]
    assert json.loads(record.read_text())["image"].startswith(f"{output[0]} (")
    return output[0], output[1].split()


def test_with_a_registry_its_image_comes_first_and_then_the_tasks_own(folder: Path) -> None:
    with start(folder, DOCKER_REGISTRY=REGISTRY, DEFAULT_IMAGE_REGISTRY=DEFAULT) as service:
        assert seen(service, "both")[0] == f"{REGISTRY}:both-20251031"
        assert seen(service, "one")[0] == f"{HUB}:20251031"
        assert seen(service, "bare")[0] == f"{DEFAULT}:bare"


def test_without_a_registry_the_tasks_own_image_is_taken(folder: Path) -> None:
    with start(folder) as service:
        assert seen(service, "both")[0] == f"{HUB}:20251031"


def test_a_missing_image_that_may_not_be_pulled_fails_at_once_and_says_how_to_get_it(folder: Path) -> None:
    with start(folder) as service:
        answer = service.run_task("missing")
    assert answer.status_code == 502
    message = answer.json()["error"]["message"]
    assert "capstan-test/nowhere:1" in message and "capstan images build" in message


@pytest.mark.parametrize(("mode", "interfaces"), [("none", ["lo"]), ("bridge", ["eth0", "lo"])])
def test_the_network_mode_is_that_of_tasks_that_opt_in(
    folder: Path, mode: str, interfaces: list[str]
) -> None:
    with start(folder, CONTAINER_NETWORK_MODE=mode) as service:
        assert sorted(seen(service, "both")[1]) == interfaces


def test_a_killed_service_leaves_no_container_to_the_one_that_follows(folder: Path) -> None:
    write_agent(folder / "agents" / "slow", 'await environment.exec("sleep 3"); return "ok"')
    client = docker.from_env()

    def ours() -> set[str]:
        return {
            c.id for c in client.containers.list(all=True, filters={"ancestor": f"{HUB}:20251031"}) if c.id
        }

    with running(folder, "--env", "docker", "--agent", "agents/slow", **KEY) as service:
        with service.client() as http:
            job = http.post("/api/jobs", json={"tasks": ["one"]}).json()["id"]
            with http.stream("GET", f"/api/jobs/{job}/events") as stream:
                for line in stream.iter_lines():
                    if line == "event: trial_started":
                        break
        wait_until(ours, "no container was started")
        before = ours()
        service.kill()
    assert ours() == before
    arguments = ("--env", "docker", "--agent", "agents/slow")
    with running(folder, *arguments, **KEY) as service, service.client() as http:
        http.get(f"/api/jobs/{job}/events")
        assert http.get(f"/api/jobs/{job}").json()["summary"]["n_completed"] == 1
    assert not ours()
    client.close()
