"""The node runner, over its socket and without Ray: a real process that runs real trials."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runner.agents import load_agent
from runner.config import RunConfig
from runner.executors.ray.folders import SUBMISSION
from runner.executors.ray.messages import (
    Answer,
    AskStatus,
    Attend,
    BringImage,
    CancelTrial,
    CloseJob,
    Done,
    Failed,
    FolderPart,
    FromTrial,
    NodeStatus,
    OpenJob,
    Placed,
    Refused,
    Request,
    RunTrial,
    TaskParcel,
    TrialEnded,
    ask,
    frame,
    parse_from_trial,
    socket_in,
)
from runner.jobs.lock import JobLock, make_lock
from runner.jobs.tasks import load_tasks
from runner.results import ModelSource
from runner.submission import build_zip
from tests.needs import TASK_ENVIRONMENT
from tests.runner.job_helpers import write_agent, write_task

pytestmark = pytest.mark.timeout(60)
ROOT = Path(__file__).resolve().parents[3]


class NodeProcess:
    """A node runner, and the head's side of its socket."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "runner.executors.ray.node", str(folder), "node-1"], cwd=ROOT
        )
        self.attending: asyncio.StreamWriter | None = None

    async def attend(self) -> None:
        while not socket_in(self.folder).exists():
            assert self.process.poll() is None
            await asyncio.sleep(0.05)
        reader, self.attending = await asyncio.open_unix_connection(socket_in(self.folder))
        self.attending.write(frame(Attend()))
        await reader.readline()

    async def ask(self, request: Request) -> Answer:
        return await ask(self.folder, request)

    async def run(self, request: RunTrial) -> list[FromTrial]:
        """The messages of a trial, without those of its progress."""
        reader, writer = await asyncio.open_unix_connection(socket_in(self.folder))
        writer.write(frame(request))
        found: list[FromTrial] = []
        while head := await reader.readline():
            data = head + await reader.readline() + await reader.readexactly(int(head))
            found.append(parse_from_trial(data)[0])
        writer.close()
        return [message for message in found if message.type not in ("moved", "file_part")]

    async def ended(self) -> int:
        return await asyncio.to_thread(self.process.wait, 30)


@pytest.fixture
async def node() -> AsyncIterator[NodeProcess]:
    folder = Path(tempfile.mkdtemp(prefix="nr-"))
    node = NodeProcess(folder)
    await node.attend()
    try:
        yield node
    finally:
        node.process.kill()
        await node.ended()
        shutil.rmtree(folder, ignore_errors=True)


async def job(
    node: NodeProcess, tmp_path: Path, *, agent: str = "nop", sleep: str = ""
) -> tuple[OpenJob, JobLock]:
    """Put the files of a job where the node runner looks for them."""
    body = f"await environment.exec('{sleep or 'touch /app/done'}')\nreturn 'done'"
    source = str(write_agent(tmp_path / "agent", body)) if agent == "own" else agent
    task = write_task(tmp_path / "tasks" / "first")
    config = RunConfig(tasks=(str(task),), agent=source)
    tasks = load_tasks(config)
    factory = await load_agent(config)
    lock = make_lock(config, tasks, environment_kind=TASK_ENVIRONMENT, agent_digest=factory.record.digest)
    root = node.folder / "job-1"
    digest = tasks[0].digest or ""
    shutil.copytree(task, root / "tasks" / digest / "first")
    if agent == "own":
        (root / SUBMISSION).write_bytes(build_zip(Path(source)).data)
    request = OpenJob(
        key="job-1",
        lock=lock.model_copy(update={"trials": []}).model_dump_json(),
        recorded_root="/head/jobs/one",
        environment_kind=TASK_ENVIRONMENT,
        agent=factory.record,
        model=ModelSource(label="none", canned=False),
        model_mode="none",
        scripted=False,
        relay_url=None,
        relay_certificate=None,
        tasks=[
            TaskParcel(
                number=0,
                name="first",
                folder="first",
                recorded_path="/head/tasks/first",
                dataset="adhoc",
                digest=digest,
            )
        ],
        images={},
        pull=False,
    )
    return request, lock


def trial(name: str = "first__1") -> RunTrial:
    return RunTrial(key="job-1", trial_name=name, attempt=1, task=0, environ={}, retries=0, token=None)


@pytest.mark.parametrize(("agent", "reward"), [("oracle", 1.0), ("nop", 0.0), ("own", 1.0)])
async def test_a_trial_comes_back_and_leaves_nothing(
    node: NodeProcess, tmp_path: Path, agent: str, reward: float
):
    request, _ = await job(node, tmp_path, agent=agent)
    assert await node.ask(request) == Done()
    placed, *parts, ended = await node.run(trial())
    assert placed == Placed(node="node-1")
    assert parts and all(isinstance(part, FolderPart) for part in parts)
    assert isinstance(ended, TrialEnded) and ended.record.reward == reward and not ended.infrastructure
    assert ended.record.task_path == "/head/tasks/first"
    assert not (node.folder / "job-1" / "job" / "first__1").exists()
    assert await node.ask(CloseJob(key="job-1")) == Done()
    assert not (node.folder / "job-1").exists()


async def test_a_task_that_is_not_the_locks_is_refused(node: NodeProcess, tmp_path: Path):
    request, _ = await job(node, tmp_path)
    (next((node.folder / "job-1" / "tasks").glob("*/first")) / "instruction.md").write_text("Another.\n")
    answer = await node.ask(request)
    assert isinstance(answer, Failed) and "is not what the job's lock names" in answer.reason
    (refused,) = await node.run(trial())
    assert isinstance(refused, Refused) and refused.job and refused.reason == answer.reason


async def test_an_agent_that_is_not_the_locks_is_refused(node: NodeProcess, tmp_path: Path):
    request, _ = await job(node, tmp_path, agent="own")
    other = build_zip(write_agent(tmp_path / "other", "return 'another'")).data
    (node.folder / "job-1" / SUBMISSION).write_bytes(other)
    assert await node.ask(request) == Failed(reason="the agent is not what the job's lock names")


async def test_a_cancelled_trial_has_its_record(node: NodeProcess, tmp_path: Path):
    request, _ = await job(node, tmp_path, agent="own", sleep="sleep 50")
    await node.ask(request)
    running = asyncio.create_task(node.run(trial()))
    await _until_running(node, 1)
    await asyncio.sleep(1)
    await node.ask(CancelTrial(key="job-1", trial_name="first__1"))
    *_, ended = await running
    assert isinstance(ended, TrialEnded) and ended.record.status == "cancelled"


async def test_a_trial_whose_holder_goes_away_is_cancelled(node: NodeProcess, tmp_path: Path):
    request, _ = await job(node, tmp_path, agent="own", sleep="sleep 50")
    await node.ask(request)
    _, writer = await asyncio.open_unix_connection(socket_in(node.folder))
    writer.write(frame(trial()))
    await _until_running(node, 1)
    writer.close()
    await _until_running(node, 0)


async def test_it_cleans_up_when_nobody_attends_to_it(node: NodeProcess, tmp_path: Path):
    request, _ = await job(node, tmp_path, agent="own", sleep="sleep 50")
    await node.ask(request)
    running = asyncio.create_task(node.run(trial()))
    await _until_running(node, 1)
    assert node.attending is not None
    node.attending.close()
    assert await node.ended() == 0 and not node.folder.exists()
    running.cancel()


async def test_it_does_not_inherit_blocked_signals(node: NodeProcess):
    """As Ray's workers block Ctrl-C, which the commands of tasks must be able to get."""
    status = Path(f"/proc/{node.process.pid}/status").read_text()
    blocked = next(line for line in status.splitlines() if line.startswith("SigBlk"))
    ignored = int(next(line for line in status.splitlines() if line.startswith("SigIgn")).split()[1], 16)
    assert int(blocked.split()[1], 16) == 0 and not ignored & (1 << signal.SIGINT - 1)
    os.kill(node.process.pid, signal.SIGINT)
    await asyncio.sleep(0.5)
    assert node.process.poll() is None


async def test_its_status_names_what_runs_and_what_is_free(node: NodeProcess):
    status = await node.ask(AskStatus())
    assert isinstance(status, NodeStatus)
    assert status.running == [] and status.free_memory_mb > 0
    assert status.free_bytes == pytest.approx(shutil.disk_usage(node.folder).free, rel=0.1)


async def test_a_broken_request_hurts_no_other(node: NodeProcess):
    for data in (b"", b"7\n", b"x\n{}\n", b"0\n{}\n", b'0\n{"type": "run_trial"}\n', b"\xff" * 100):
        _, writer = await asyncio.open_unix_connection(socket_in(node.folder))
        writer.write(data)
        writer.close()
    answer = await node.ask(
        BringImage(key="none", folder="none", build=False, force=False, images={}, pull=False)
    )
    assert isinstance(answer, Failed)
    assert isinstance(await node.ask(AskStatus()), NodeStatus)


async def _until_running(node: NodeProcess, count: int) -> None:
    async with asyncio.timeout(30):
        while True:
            status = await node.ask(AskStatus())
            if isinstance(status, NodeStatus) and len(status.running) == count:
                return
            await asyncio.sleep(0.1)
