"""Jobs in the sandbox: planning, retries, broken tasks, interruption and resumption."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest

from runner.config import RunConfig, Secrets
from runner.executors.open import open_executor
from runner.jobs import (
    Job,
    JobContext,
    JobDirectory,
    JobError,
    JobObserver,
    NothingToRun,
    TrialProgress,
    create_job,
    resume_job,
)
from runner.jobs.context import ClusterUse, Executor, TrialEnd, TrialPlan
from runner.jobs.lock import make_lock, read_lock
from runner.jobs.results import JobRecord, JobResultWriter
from runner.jobs.tasks import load_tasks
from runner.results import TrialRecord
from runner.results.harbor import JobConfig, JobResult
from runner.results.scoring import JobSummary
from runner.tasks import TaskError
from tests.needs import TASK_ENVIRONMENT
from tests.runner.job_helpers import HOST, write_task

FAILS_TO_START = "FROM debian:bookworm-slim\nWORKDIR /app\nCOPY missing /app/\n"


class Seen(JobObserver):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.retries: list[str] = []
        self.most_running = 0
        self.order: list[tuple[str, int]] = []
        self.context: JobContext | None = None
        self.results: JobResultWriter | None = None
        self.running: Mapping[str, TrialProgress] = {}

    def job_started(
        self, context: JobContext, results: JobResultWriter, running: Mapping[str, TrialProgress]
    ) -> None:
        self.context, self.results, self.running = context, results, running

    def trial_started(self, progress: TrialProgress) -> None:
        self.order.append((progress.plan.task.name, progress.plan.attempt))
        self.most_running = max(self.most_running, len(self.running))

    def trial_retried(self, progress: TrialProgress, record: TrialRecord, wait_sec: float) -> None:
        self.retries.append(str(record.error))

    def note(self, line: str, *, warning: bool = True) -> None:
        self.notes.append(line)


def settings(folder: Path, tasks: Sequence[Path] | Path, **more: Any) -> RunConfig:
    paths = [tasks] if isinstance(tasks, Path) else tasks
    values: dict[str, Any] = {
        "tasks": tuple(str(path) for path in paths),
        "agent": "oracle",
        "environment": TASK_ENVIRONMENT,
        "jobs_dir": str(folder / "jobs"),
        "retry_wait_sec": 0.0,
    }
    return RunConfig(**(values | more))


async def run(config: RunConfig, observer: JobObserver | None = None) -> tuple[JobSummary, Job]:
    async with create_job(config, Secrets(), HOST, observer) as job:
        return await job.run(), job


def dataset(folder: Path, *names: str) -> Path:
    for name in names:
        write_task(folder / name)
    return folder


def test_attempts_are_outside_and_tasks_inside_with_names_of_their_own(tmp_path: Path) -> None:
    config = settings(tmp_path, dataset(tmp_path / "set", "b", "a", "x" * 60), attempts=2)
    tasks = load_tasks(config)
    lock = make_lock(config, tasks, environment_kind="sandbox", agent_digest=None, rng=random.Random(1))
    order = [(lock.tasks[t.task].name, t.attempt) for t in lock.trials]
    assert order == [("a", 1), ("b", 1), ("x" * 60, 1), ("a", 2), ("b", 2), ("x" * 60, 2)]
    names = [trial.trial_name for trial in lock.trials]
    assert len(set(names)) == 6 and all(len(name) <= 32 + 2 + 7 for name in names)


async def test_a_job_leaves_files_that_add_up(tmp_path: Path) -> None:
    seen = Seen()
    summary, job = await run(settings(tmp_path, dataset(tmp_path / "set", "a", "b"), attempts=3), seen)
    root = job.context.directory.root
    assert summary.score == 1 and summary.n_passed == 6 and summary.result.status == "completed"
    assert summary.pass_at_k == {1: 1.0, 2: 1.0}
    result = JobResult.model_validate_json((root / "result.json").read_bytes())
    assert result.finished_at is not None and result.finished_at.tzinfo is None
    assert result.stats.n_completed_trials == 6 and result.stats.n_pending_trials == 0
    assert result.stats.evals["oracle__set"].metrics == [{"mean": 1.0}]
    assert result.stats.evals["oracle__set"].reward_stats["reward"][1.0] == [
        record.trial_name for record in job.results.records
    ]
    config = JobConfig.model_validate_json((root / "config.json").read_bytes())
    assert config.n_attempts == 3 and len(config.tasks) == 2
    assert sorted(p.name for p in root.iterdir() if p.is_dir()) == sorted(
        t.trial_name for t in job.context.lock.trials
    )
    assert "ended: reward 1.0" in (root / "job.log").read_text()


async def test_no_more_trials_run_at_once_than_asked(tmp_path: Path) -> None:
    seen = Seen()
    summary, _ = await run(
        settings(tmp_path, dataset(tmp_path / "set", "a", "b", "c"), attempts=2, concurrency=2), seen
    )
    assert summary.n_passed == 6 and seen.most_running == 2
    assert [attempt for _, attempt in seen.order] == [1, 1, 1, 2, 2, 2]


async def test_a_variable_that_the_host_lacks_is_found_before_the_agent_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = dataset(tmp_path / "set", "plain")
    write_task(tasks / "judged", toml='[verifier.env]\nJUDGE = "${NO_SUCH_KEY}"\n')
    write_task(tasks / "served", toml='[environment.env]\nSERVER = "${NO_SUCH_KEY}"\n')
    seen = Seen()
    config = settings(tmp_path, tasks, attempts=2)
    summary, job = await run(config, seen)
    assert (summary.n_total, summary.n_passed, summary.n_errored) == (6, 2, 4) and seen.retries == []
    for record in job.results.records:
        if record.task_name != "plain":
            assert record.error_type == "TaskError" and "NO_SUCH_KEY, which is not set" in str(record.error)
            assert record.agent.ended is None and record.phases == {}
    assert len([note for note in seen.notes if "NO_SUCH_KEY" in note]) == 2
    monkeypatch.setenv("NO_SUCH_KEY", "here")
    assert (await run(config))[0].n_passed == 6


async def test_overrides_replace_what_a_task_asks_for(tmp_path: Path) -> None:
    task = write_task(tmp_path / "big", toml="[environment]\ncpus = 4000\nmemory_mb = 999999999\n")
    write_task(tmp_path / "small", toml="[environment]\ncpus = 1\nstorage_mb = 512\n")
    seen = Seen()
    await run(settings(tmp_path, [task, tmp_path / "small"]), seen)
    (note,) = [note for note in seen.notes if "asks for more" in note]
    assert note.startswith("1 of 2 tasks asks for more than ") and "big (4000 CPUs, 999999999 MiB)" in note
    assert "--override-cpus" in note and "--override-memory-mb" in note
    given = {"override_cpus": 1, "override_memory_mb": 256, "override_storage_mb": 64}
    overridden = settings(tmp_path, [task, tmp_path / "small"], job_name="one", **given)
    for item in load_tasks(overridden):
        assert item.task is not None
        wanted = item.task.config.environment
        assert (wanted.cpus, wanted.memory_mb, wanted.storage_mb) == (1, 256, 64)
    seen = Seen()
    _, job = await run(overridden, seen)
    assert not [note for note in seen.notes if "asks for more" in note]
    root = job.context.directory.root
    for path in (root / "config.json", *root.glob("*__*/config.json")):
        environment = json.loads(path.read_text())["environment"]
        assert {name: environment[name] for name in given} == given
    assert read_lock(root / "lock.json").tasks[0].digest == load_tasks(overridden)[0].digest
    with pytest.raises(JobError, match="setting override_cpus has changed"):
        await run(overridden.model_copy(update={"override_cpus": 2}))


async def test_a_broken_task_is_an_errored_trial_and_disturbs_nobody(tmp_path: Path) -> None:
    tasks = dataset(tmp_path / "set", "good", "bad")
    (tasks / "bad" / "task.toml").write_text('[agent]\ntimeout_sec = "fast"\n')
    seen = Seen()
    summary, job = await run(settings(tmp_path, tasks, attempts=2), seen)
    assert (summary.n_total, summary.n_passed, summary.n_errored) == (4, 2, 2)
    assert summary.score == 0.5 and summary.result.status == "failed"
    broken = [record for record in job.results.records if record.errored]
    assert {record.task_name for record in broken} == {"bad"}
    assert all("timeout_sec" in str(record.error) for record in broken)
    assert any("timeout_sec" in note for note in seen.notes)
    listed = JobDirectory(job.context.directory.root)
    assert all(listed.trial(record.trial_name).result.is_file() for record in broken)


async def test_an_environment_that_fails_is_tried_again_and_the_evidence_is_kept(tmp_path: Path) -> None:
    tasks = dataset(tmp_path / "set", "good")
    write_task(tasks / "bad", dockerfile=FAILS_TO_START)
    seen = Seen()
    summary, job = await run(settings(tmp_path, tasks, max_retries=2), seen)
    root = job.context.directory.root
    record = next(r for r in job.results.records if r.task_name == "bad")
    assert record.errored and record.retries == 2 and len(seen.retries) == 2
    assert record.set_aside == [f"set-aside/{record.trial_name}.{n}" for n in (1, 2)]
    for place in record.set_aside:
        assert "missing" in (root / place / "exception.txt").read_text()
    assert summary.n_retries == 2 and summary.n_total == 2 and summary.n_passed == 1
    stats = JobResult.model_validate_json((root / "result.json").read_bytes()).stats
    assert stats.n_retries == 2 and stats.n_completed_trials == 2


async def test_an_environment_that_recovers_gives_a_result(tmp_path: Path) -> None:
    task = write_task(tmp_path / "task", dockerfile=FAILS_TO_START)

    class Mends(Seen):
        def trial_retried(self, progress: TrialProgress, record: TrialRecord, wait_sec: float) -> None:
            super().trial_retried(progress, record, wait_sec)
            (task / "environment" / "missing").write_text("here now")

    seen = Mends()
    summary, job = await run(settings(tmp_path, task, max_retries=3), seen)
    record = job.results.records[0]
    assert record.passed and record.retries == 1 and len(record.set_aside) == 1
    assert summary.result.status == "completed"


async def test_an_agents_failure_is_never_tried_again(tmp_path: Path) -> None:
    task = write_task(tmp_path / "task")
    (task / "solution" / "solve.sh").unlink()
    seen = Seen()
    summary, job = await run(settings(tmp_path, task, max_retries=3), seen)
    assert summary.n_errored == 1 and not seen.retries and job.results.records[0].retries == 0


class OneNode:
    """Runs trials like a cluster whose one node takes one at a time."""

    cluster_use = staticmethod(lambda: ClusterUse(nodes=1, open_nodes=1, cpus=1, used_cpus=1))

    def __init__(self, here: Executor) -> None:
        self.environment_kind, self.limiter = here.environment_kind, here.limiter
        self.relay_socket, self.relay_listener = here.relay_socket, here.relay_listener
        self.seen: list[tuple[int, int, dict[str, str]]] = []
        self._here = here
        self._turn = asyncio.Lock()

    async def run(self, context: JobContext, plan: TrialPlan, progress: TrialProgress) -> TrialEnd:
        async with self._turn:
            progress.place("node-1")
            directory = context.directory
            stats = JobResult.model_validate_json(directory.result.read_bytes()).stats
            nodes = JobRecord.model_validate_json(directory.record.read_bytes()).nodes
            self.seen.append((stats.n_running_trials, stats.n_pending_trials, nodes))
            return await self._here.run(context, plan, progress)


async def test_trials_that_wait_for_a_node_are_not_counted_as_running(tmp_path: Path) -> None:
    opened: list[OneNode] = []

    @asynccontextmanager
    async def open_cluster(*arguments: Any) -> AsyncGenerator[Executor]:
        async with open_executor(*arguments) as here:
            opened.append(OneNode(here))
            yield opened[0]

    class Watch(Seen):
        joined = False
        placed: ClassVar[list[str | None]] = []

        def cluster_joined(self, use: Callable[[], ClusterUse]) -> None:
            assert use().nodes == 1 and self.context is None
            self.joined = True

        def trial_placed(self, progress: TrialProgress) -> None:
            self.placed.append(progress.node)

    watch = Watch()
    config = settings(tmp_path, dataset(tmp_path / "set", "a", "b", "c"), concurrency=3)
    host = replace(HOST, open_executor=open_cluster)
    async with create_job(config, Secrets(), host, watch) as job:
        summary = await job.run()
    assert summary.n_passed == 3 and watch.joined and watch.placed == ["node-1"] * 3
    assert watch.most_running == 3
    # The trial before it is on the node until its end has been written.
    first, *others = opened[0].seen
    assert first[:2] == (1, 2) and list(first[2].values()) == ["node-1"]
    assert all(running in (1, 2) and 1 <= len(nodes) <= 2 for running, _, nodes in others)
    assert JobRecord.model_validate_json(job.context.directory.record.read_bytes()).nodes == {}


async def interrupt(config: RunConfig, after: int) -> tuple[Path, list[TrialRecord]]:
    """Start a job and cancel it once `after` trials have ended."""
    ended = asyncio.Event()

    class Watch(Seen):
        def trial_ended(self, record: TrialRecord) -> None:
            assert self.results is not None
            if len(self.results.records) >= after:
                ended.set()

    watch = Watch()
    task = asyncio.create_task(run(config, watch))
    await asyncio.wait_for(ended.wait(), 30)
    await asyncio.sleep(0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, 15)
    assert watch.context is not None and watch.results is not None
    return watch.context.directory.root, watch.results.records


async def test_an_interrupted_job_says_so_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    tasks = dataset(tmp_path / "set", "a", "b")
    marker = tmp_path / "set" / "slow-may-end"
    slow = "#!/bin/sh\nsleep 60\ntouch /app/done\n"
    write_task(tasks / "slow", solution=slow)
    config = settings(tmp_path, tasks, concurrency=1)
    root, ended = await interrupt(config, after=2)
    assert json.loads((root / "capstan.json").read_text())["status"] == "interrupted"
    cut = next(r for r in ended + _records(root) if r.task_name == "slow")
    assert cut.status == "cancelled" and cut.reason_code == "harbor_cancelled_error"
    before = {p: p.stat().st_mtime_ns for p in root.glob("[ab]__*/result.json")}
    assert len(before) == 2 and not marker.exists()

    with pytest.raises(JobError, match="task slow has changed"):
        # Even a solution is part of the task: another one is another job.
        write_task(tasks / "slow")
        async with resume_job(root, Secrets(), HOST):
            pass
    write_task(tasks / "slow", solution=slow)
    (tasks / "slow" / "solution" / "solve.sh").write_text(slow)
    seen = Seen()
    async with resume_job(root, Secrets(), HOST, seen) as again:
        resumed = asyncio.create_task(again.run())
        await asyncio.sleep(1.0)
        assert [name for name, _ in seen.order] == ["slow"]
        resumed.cancel()
        with pytest.raises(asyncio.CancelledError):
            await resumed
    assert {p: p.stat().st_mtime_ns for p in before} == before, "what had ended was not run again"
    assert any("set-aside" in note for note in seen.notes)
    assert (root / "set-aside" / f"{cut.trial_name}.1" / "result.json").is_file()


def _records(root: Path) -> list[TrialRecord]:
    return [TrialRecord.model_validate_json(p.read_bytes()) for p in root.glob("*__*/capstan.json")]


async def test_a_resumed_job_that_was_over_changes_nothing(tmp_path: Path) -> None:
    config = settings(tmp_path, dataset(tmp_path / "set", "a", "b"), job_name="again")
    first, job = await run(config)
    seen = Seen()
    second, _ = await run(config, seen)
    assert seen.order == [] and second == first
    assert len(list(job.context.directory.root.glob("*__*"))) == 2


async def test_a_half_trial_is_set_aside_and_run_again(tmp_path: Path) -> None:
    config = settings(tmp_path, write_task(tmp_path / "task"), job_name="half")
    _, job = await run(config)
    name = job.results.records[0].trial_name
    root = job.context.directory.root
    (root / name / "result.json").unlink()
    summary, job = await run(config)
    assert summary.n_passed == 1 and summary.n_total == 1
    record = job.results.records[0]
    assert record.set_aside == [f"set-aside/{name}.1"]
    assert (root / "set-aside" / f"{name}.1" / "capstan.json").is_file()


async def test_what_has_changed_is_named_and_refused(tmp_path: Path) -> None:
    task = write_task(tmp_path / "task")
    config = settings(tmp_path, task, job_name="fixed")
    _, job = await run(config)
    root = job.context.directory.root

    async def refused(given: RunConfig) -> str:
        with pytest.raises(JobError) as caught:
            async with create_job(given, Secrets(), HOST):
                pass
        assert "\n" not in str(caught.value)
        return str(caught.value)

    assert "attempts" in await refused(config.model_copy(update={"attempts": 2}))
    assert "agent" in await refused(config.model_copy(update={"agent": "nop"}))
    (task / "tests" / "test.sh").write_text("#!/bin/sh\necho 1 > /logs/verifier/reward.txt\n")
    assert "task task has changed" in await refused(config)
    lock = read_lock(root / "lock.json")
    edited = lock.model_copy(update={"config": lock.config.model_copy(update={"timeout_multiplier": 9.0})})
    (root / "lock.json").write_text(edited.model_dump_json())
    assert "lock.json was edited" in await refused(config)


async def test_two_runners_do_not_work_in_one_folder(tmp_path: Path) -> None:
    config = settings(tmp_path, write_task(tmp_path / "task"), job_name="one")
    async with create_job(config, Secrets(), HOST) as job:
        with pytest.raises(JobError, match="process id"):
            async with resume_job(job.context.directory.root, Secrets(), HOST):
                pass
        await job.run()
    async with resume_job(job.context.directory.root, Secrets(), HOST):
        pass


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"tasks": ()}, NothingToRun, "no tasks given"),
        ({"agent": ""}, NothingToRun, "no agent given"),
        ({"agent": "nowhere.zip"}, JobError, "no such file"),
        ({"exclude": ("*",)}, NothingToRun, "no task is left"),
        ({"include": ("nothing",)}, TaskError, "no task matches"),
        ({"tasks": ("nowhere",)}, TaskError, "nowhere"),
    ],
)
async def test_a_job_that_cannot_begin_says_what_to_do_and_leaves_no_folder(
    tmp_path: Path, change: dict[str, Any], error: type[Exception], words: str
) -> None:
    config = settings(tmp_path, dataset(tmp_path / "set", "a")).model_copy(update=change)
    with pytest.raises(error, match=words) as caught:
        await run(config)
    assert "\n" not in str(caught.value) and not (tmp_path / "jobs").exists()


async def test_a_live_model_needs_the_key(tmp_path: Path) -> None:
    config = settings(tmp_path, write_task(tmp_path / "task"), agent=".", model="live")
    with pytest.raises(JobError, match="DEEPSEEK_API_KEY is missing"):
        await run(config)
    assert not (tmp_path / "jobs").exists()


def test_a_limit_counts_over_all_paths_and_repeats_do_not(tmp_path: Path) -> None:
    tasks = dataset(tmp_path / "set", "a", "b", "c")
    both = [tasks, tasks / "a"]
    assert [t.name for t in load_tasks(settings(tmp_path, both))] == ["a", "b", "c"]
    assert [t.name for t in load_tasks(settings(tmp_path, both, limit=2))] == ["a", "b"]
