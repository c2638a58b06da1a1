"""The oracle and the nop, with real commands."""

from __future__ import annotations

from pathlib import Path

import pytest
from agent_bench import Bench
from local_environment import LocalEnvironment

from runner.agents import NopAgent, OracleAgent
from runner.tasks import Task, load_task


class RootedEnvironment(LocalEnvironment):
    """Finds /solution below its own root."""

    async def exec(self, command, cwd=None, env=None, timeout_sec=None, user=None):
        return await super().exec(command.replace("/solution/", "./solution/"), cwd, env, timeout_sec, None)


def task_with(folder: Path, solve: str | None, env: str = "") -> Task:
    files = {"task.toml": f"[solution.env]\n{env}\n", "instruction.md": "x", "environment/Dockerfile": "", "tests/test.sh": ""}  # fmt: skip # noqa: E501
    if solve is not None:
        files["solution/solve.sh"] = solve
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return load_task(folder)


@pytest.fixture
async def environment(tmp_path: Path) -> RootedEnvironment:
    rooted = RootedEnvironment(tmp_path / "rooted")
    await rooted.start()
    return rooted


async def run(task: Task, environment: RootedEnvironment, logs: Path, timeout_sec: float | None = 30):
    agent = OracleAgent(task, environment=environment, logs_dir=logs)
    return await agent.run("x", setup_timeout_sec=10, timeout_sec=timeout_sec)


async def test_the_oracle_runs_the_solution(tmp_path: Path, environment: RootedEnvironment, bench: Bench):
    task = task_with(
        tmp_path / "t", '#!/bin/sh\necho "$DEBIAN_FRONTEND $A"; echo done >answer; exit 3\n', 'A = "1"'
    )
    outcome = await run(task, environment, bench.logs)
    assert (outcome.kind, outcome.agent_name, outcome.agent_version) == ("completed", "oracle", "1.0.0")
    assert (bench.logs / "oracle.txt").read_text() == "noninteractive 1\n"
    assert (bench.logs / "exit-code.txt").read_text() == "3"
    assert (environment.root / "answer").read_text() == "done\n"


async def test_the_oracle_never_gets_the_api_key(
    tmp_path: Path, environment: RootedEnvironment, bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("DEEPSEEK_API_KEY", "sk-real")
    task = task_with(tmp_path / "t", '#!/bin/sh\necho "$A"\n', 'A = "${DEEPSEEK_API_KEY:-none}"')
    await run(task, environment, bench.logs)
    assert (bench.logs / "oracle.txt").read_text() == "none\n"
    task = task_with(tmp_path / "u", '#!/bin/sh\necho "$A"\n', 'A = "${DEEPSEEK_API_KEY}"')
    outcome = await run(task, environment, bench.logs / "second")
    assert (outcome.kind, outcome.exception_type) == ("raised", "TaskError")
    assert "sk-real" not in str(outcome)


async def test_the_oracle_is_ended_at_its_time_limit(
    tmp_path: Path, environment: RootedEnvironment, bench: Bench
):
    outcome = await run(task_with(tmp_path / "t", "#!/bin/sh\nsleep 60\n"), environment, bench.logs, 0.3)
    assert (outcome.kind, outcome.deadline_reached) == ("timeout", True)


@pytest.mark.parametrize(("solve", "env"), [(None, ""), ("#!/bin/sh\n", 'A = "${NOT_SET_ANYWHERE}"')])
async def test_an_oracle_that_cannot_run_gives_the_reason(
    tmp_path: Path, environment: RootedEnvironment, bench: Bench, solve: str | None, env: str
):
    outcome = await run(task_with(tmp_path / "t", solve, env), environment, bench.logs)
    assert outcome.kind == "raised"
    assert "solve.sh: missing" in str(outcome.exception_message) or "NOT_SET_ANYWHERE" in str(
        outcome.exception_message
    )


async def test_the_nop_does_nothing():
    outcome = await NopAgent().run("x", setup_timeout_sec=1, timeout_sec=None)
    assert (outcome.kind, outcome.agent_name, outcome.message) == ("completed", "nop", None)
