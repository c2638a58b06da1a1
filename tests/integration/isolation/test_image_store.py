"""Where an isolated run has its images: in a store that is too small for all of them."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import docker
import pytest

from runner.config import RunConfig, Secrets
from runner.environments import DockerSettings
from runner.executors.open import open_executor
from runner.isolation.container import claim_store
from runner.jobs import JobHost, JobObserver, create_job
from runner.relay import ModelRequest
from runner.relay.upstream import Upstream, UpstreamWrapper
from runner.relay.wire import UpstreamResponse
from runner.results import TrialRecord
from runner.scripted import ScriptUpstream
from tests.integration.isolation.conftest import ROOT
from tests.needs import program
from tests.runner.job_helpers import write_task

pytestmark = [pytest.mark.docker, pytest.mark.timeout(280)]

TALKER = Path(__file__).parent / "talker"
TASKS = ("one", "two", "three")
IMAGE_MB = 40
# Two images and the archive of the third do not fit with the third's layers.
STORE_MB = 150
WAIT_SEC = 90
DOCKERFILE = f"""FROM scratch
COPY busybox name /bin/
RUN ["/bin/busybox", "mkdir", "-p", "/tmp", "/root", "/etc", "/usr/bin", "/usr/sbin", "/sbin"]
RUN ["/bin/busybox", "--install", "-s"]
ENV PATH=/usr/sbin:/usr/bin:/sbin:/bin
RUN head -c {IMAGE_MB * 1000 * 1000} /dev/urandom > /blob
WORKDIR /app
"""


@pytest.fixture
def docker_settings(tmp_path: Path) -> Iterator[DockerSettings]:
    """Settings with which a run takes an empty store of STORE_MB, in memory."""
    client = docker.from_env()
    options = {"type": "tmpfs", "device": "tmpfs", "o": f"size={STORE_MB}m"}
    with ExitStack() as stack:
        # All but the last store are taken, so that nobody else has this one.
        names = [stack.enter_context(claim_store(tmp_path)) for _ in range(63)]
        with claim_store(tmp_path) as name:
            assert name not in names
        volume = client.volumes.create(name, driver_opts=options)
        try:
            yield DockerSettings(cache_dir=tmp_path, pull=False, build_network="host")
        finally:
            volume.remove(force=True)
            client.close()


@pytest.fixture
def tasks(tmp_path: Path) -> Iterator[Path]:
    """Tasks with large images of their own."""
    for name in TASKS:
        task = write_task(tmp_path / "tasks" / name, dockerfile=DOCKERFILE, agent_sec=WAIT_SEC)
        shutil.copy(program("busybox"), task / "environment" / "busybox")
        (task / "environment" / "name").write_text(name)  # so that no two share a layer
    yield tmp_path / "tasks"
    for name in TASKS:
        command = ["docker", "images", "--quiet", f"capstan-task/{name}"]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        subprocess.run(["docker", "rmi", "--force", *found], capture_output=True)


class Events(JobObserver):
    """Remembers in which order images come and go and trials end."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []
        self._changed = asyncio.Event()

    def _add(self, what: str, task: str) -> None:
        self.seen.append((what, task))
        self._changed.set()
        self._changed = asyncio.Event()

    def note(self, line: str, *, warning: bool = True) -> None:
        if match := re.match(r"(brought|removed) capstan-task/(\w+):", line):
            self._add(match[1], match[2])

    def trial_ended(self, record: TrialRecord) -> None:
        self._add("ended", record.task_name)

    async def wait_for(self, event: tuple[str, str]) -> None:
        async with asyncio.timeout(WAIT_SEC):
            while event not in self.seen:
                await self._changed.wait()


class Paced(UpstreamWrapper):
    """Answers the agent of a trial once the image of the next trial is there."""

    def __init__(self, inner: Upstream, events: Events) -> None:
        super().__init__(inner)
        self._events = events

    async def send(self, request: ModelRequest) -> UpstreamResponse:
        task = request.run.partition("-")[2].partition("__")[0]
        for following in TASKS[TASKS.index(task) + 1 :][:1]:
            await self._events.wait_for(("brought", following))
        return await self._inner.send(request)


async def test_images_come_one_ahead_and_go_where_no_later_trial_needs_them(
    tmp_path: Path, tasks: Path, docker_settings: DockerSettings
):
    events = Events()
    host = JobHost(
        open_executor=open_executor,
        docker=docker_settings,
        make_upstream=lambda _config, _secrets: Paced(ScriptUpstream(TALKER / "script.toml"), events),
    )
    config = RunConfig(
        tasks=tuple(str(tasks / name) for name in TASKS),
        agent=str(TALKER),
        model=f"script:{ROOT / 'examples' / 'scripts'}",
        isolation="dind",
        concurrency=1,
        jobs_dir=str(tmp_path / "jobs"),
        max_retries=0,
    )
    async with create_job(config, Secrets(), host, events) as job:
        await job.run()
    assert [(record.passed, record.error) for record in job.results.records] == [(True, None)] * 3
    assert events.seen == [
        ("brought", "one"),
        ("brought", "two"),
        ("ended", "one"),
        ("removed", "one"),
        ("brought", "three"),
        ("ended", "two"),
        ("ended", "three"),
    ]
