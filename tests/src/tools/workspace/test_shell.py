"""The persistent shell: what lasts, what cannot end it, limits, restarts."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from src.config import Settings
from src.tools.workspace import ShellResult, Workspace, WorkspaceError, shell
from tests.fuzz import fuzz
from tests.src.tools.workspace.conftest import scratch_of
from tests.src.tools.workspace.doubles import ProcessEnvironment, container_path, eventually

CONTAINERS = ("full", "jobs", "dash", "bare")


async def run(workspace: Workspace, command: str, timeout_sec: float = 60) -> ShellResult:
    return await workspace.run_in_shell(command, timeout_sec=timeout_sec)


async def test_directory_variables_and_functions_last(any_workspace: Workspace, task_folder: Path) -> None:
    (task_folder / "sub").mkdir()
    first = await run(any_workspace, "cd sub; A=1; export B=2; f() { echo f $A; }; umask 027; echo out")
    assert (first.state, first.command.exit_code, first.command.head) == ("ready", 0, b"out\n")
    second = await run(any_workspace, 'pwd; f; sh -c "echo $B"; umask; false')
    expected = f"{task_folder}/sub\nf 1\n2\n0027\n"
    assert (second.command.exit_code, second.command.head.decode()) == (1, expected)
    assert (await any_workspace.run("pwd")).head.decode() == f"{task_folder}\n", "other commands stay fresh"


async def test_a_virtual_environment_stays_activated(workspace: Workspace, task_folder: Path) -> None:
    subprocess.run(["python3", "-m", "venv", "--without-pip", str(task_folder / "venv")], check=True)
    await run(workspace, ". venv/bin/activate")
    prefix = await run(workspace, 'python -c "import sys; print(sys.prefix)"')
    assert prefix.command.head.decode() == f"{task_folder}/venv\n"


async def test_stdin_is_empty_and_the_next_command_is_not_eaten(any_workspace: Workspace) -> None:
    assert (await run(any_workspace, "cat; read x; echo [$x]")).command.head == b"[]\n"
    assert (await run(any_workspace, "echo next")).command.head == b"next\n"


HARMLESS = {
    "syntax error": "if",
    "unbalanced quote": "echo 'a",
    "here-document": "cat <<E\na\nE",
    "open here-document": "cat <<E\na",
    "break": "break; echo",
    "continue": "continue; echo",
    "exec without a program": "exec >gone 2>&1 <&-; echo lost",
    "set -e": "set -e; false; echo never",
    "options": "set -x -C -f; IFS=x",
    "options back": "set +x +C +f; unset IFS",
    "no PATH": "OLD=$PATH; PATH=/nowhere",
    "PATH back": "PATH=$OLD",
    "functions": "cat() { :; }; read() { :; }; echo() { :; }",
    "functions gone": "unset -f cat read echo",
    "background": "sleep 0.1 & wait; echo",
    "positional": "set -- a b; shift",
    "trap": "trap 'touch trapped' EXIT; (exit 5)",
    "killed child": "sh -c 'kill -9 $$'",
    "killed parent": "kill -9 $PPID",
}


async def test_what_does_not_end_the_shell(any_workspace: Workspace, task_folder: Path) -> None:
    await run(any_workspace, "LASTS=yes")
    for name, command in HARMLESS.items():
        result = await run(any_workspace, command)
        assert result.state == "ready" and b"never" not in result.command.head, name
    result = await run(any_workspace, "echo $LASTS")
    assert result.command.head == b"yes\n" and not result.renewed
    await any_workspace.restart_shell()
    assert not (task_folder / "trapped").exists(), "a restart runs no traps"


async def test_a_failure_under_set_e_ends_the_command_with_its_code(
    any_workspace: Workspace, any_environment: ProcessEnvironment
) -> None:
    sh = Path(any_environment.path or "/", "sh")
    for code in (3,) if sh.resolve().name == "busybox" else (3, 4, 5):
        result = await run(any_workspace, f"A={code}; set -e; (exit {code}); echo never")
        assert (result.state, result.command.exit_code, result.command.head) == ("ready", code, b"")
        result = await run(any_workspace, "echo $A; case $- in *e*) echo on ;; esac")
        assert result.command.head == b"%d\n" % code


@given(command=st.text(alphabet="a1 \n\t'\"\\$`{}[]<>|&;!#~*?=-", max_size=30))
@fuzz(200, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_no_text_loses_the_shell(workspace: Workspace, command: str) -> None:
    result = await run(workspace, command)
    assert result.state == "ready" and result.command.exit_code is not None
    assert (await run(workspace, "echo alive")).command.head == b"alive\n"


@pytest.mark.parametrize(
    ("command", "code"),
    [("echo bye; exit 7", 7), ("exec sh -c 'echo bye; exit 8'", 8), ("echo bye; kill -9 $$", 137)],
)
async def test_the_end_of_the_shell_is_told(any_workspace: Workspace, command: str, code: int) -> None:
    await run(any_workspace, "A=1")
    result = await run(any_workspace, command)
    assert (result.state, result.command.exit_code, result.command.head) == ("ended", code, b"bye\n")
    result = await run(any_workspace, "echo [$A]")
    assert (result.state, result.renewed, result.command.head) == ("ready", False, b"[]\n")


async def test_a_shell_that_dies_between_commands_is_renewed(any_workspace: Workspace) -> None:
    pid = int((await run(any_workspace, "A=1; echo $$")).command.head)
    os.kill(pid, signal.SIGKILL)
    result = await run(any_workspace, "echo [$A]")
    assert (result.renewed, result.command.head) == (True, b"[]\n")


async def test_a_command_over_its_limit_keeps_running(any_workspace: Workspace, task_folder: Path) -> None:
    command = "echo early; until [ -e go ]; do sleep 0.1; done; echo late; A=1; (exit 4)"
    result = await run(any_workspace, command, timeout_sec=1)
    assert (result.state, result.command.exit_code, result.command.head) == ("busy", None, b"early\n")
    with pytest.raises(WorkspaceError, match="nothing was run: the shell is busy"):
        await run(any_workspace, "echo >ran")
    waiting = await any_workspace.wait_for_shell(timeout_sec=0)
    assert waiting and (waiting.state, waiting.command.total_bytes) == ("busy", 0)
    (task_folder / "go").touch()
    done = await any_workspace.wait_for_shell(timeout_sec=60)
    assert done and (done.state, done.command.exit_code, done.command.head) == ("ready", 4, b"late\n")
    assert await any_workspace.wait_for_shell(timeout_sec=60) is None
    assert (await run(any_workspace, "echo $A")).command.head == b"1\n"
    assert not (task_folder / "ran").exists()


async def test_a_restart_ends_the_command_and_nothing_else(
    any_workspace: Workspace, any_environment: ProcessEnvironment, task_folder: Path
) -> None:
    background = int((await run(any_workspace, "A=1; sleep 61 & echo $!")).command.head)
    busy = await run(
        any_workspace, "sh -c 'trap \"\" TERM; sleep 62; sleep 62'; echo next >next", timeout_sec=1
    )
    assert busy.state == "busy"
    await any_workspace.restart_shell()
    assert await any_environment.settled(allowed=1) == ["sleep 61 "]
    assert (await run(any_workspace, "echo [$A]")).command.head == b"[]\n"
    os.kill(background, signal.SIGKILL)
    assert not (task_folder / "next").exists()


async def test_cancellation_ends_the_command(
    any_workspace: Workspace, any_environment: ProcessEnvironment, task_folder: Path
) -> None:
    task = asyncio.create_task(run(any_workspace, "echo >begun; sleep 63"))
    await eventually((task_folder / "begun").exists)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await any_environment.settled() == []
    assert (await run(any_workspace, "echo new")).command.head == b"new\n"


async def test_what_runs_outlives_close_and_an_idle_shell_does_not(
    environment: ProcessEnvironment, settings: Settings, task_folder: Path
) -> None:
    workspace = Workspace(environment, settings=settings)
    await workspace.open()
    await run(workspace, "trap 'touch trapped' EXIT; sleep 64 & echo $! > pid")
    await workspace.close()
    assert await environment.settled(allowed=1) == ["sleep 64 "]
    workspace = Workspace(environment, settings=settings)
    await workspace.open()
    busy = "until [ -e go ]; do sleep 0.1; done; touch finished; kill $(cat pid)"
    assert (await run(workspace, busy, timeout_sec=1)).state == "busy"
    await workspace.close()
    (task_folder / "go").touch()
    await eventually((task_folder / "finished").exists)
    assert (task_folder / "finished").exists() and not (task_folder / "trapped").exists()
    assert await environment.settled() == []


async def test_long_commands_and_long_output(any_workspace: Workspace, task_folder: Path) -> None:
    (task_folder / "data").write_bytes(data := os.urandom(200_000))
    result = await run(any_workspace, f"cat data; : {'x' * 300_000}")
    half = 32 * 1024
    assert (result.command.head, result.command.tail) == (data[:half], data[-half:])
    assert result.command.total_bytes == len(data)
    assert Path(result.command.output_path).read_bytes() == data


async def test_endless_output_ends_the_shell(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shell, "OUTPUT_CAP", 1 << 20)
    result = await run(workspace, "while :; do head -c 100000 /dev/zero; sleep 0.1; done")
    assert result.command.overflowed and result.state == "ended"
    await run(workspace, "true")
    await run(workspace, "true")
    assert not Path(result.command.output_path).exists(), "the oldest outputs go when all are too much"


@pytest.mark.parametrize("target", ["", "/*"])
async def test_a_deleted_scratch_directory_is_told(
    workspace: Workspace, environment: ProcessEnvironment, target: str
) -> None:
    scratch = await scratch_of(workspace)
    result = await run(workspace, f"A=1; rm -rf {scratch}{target}; echo b")
    assert result.state == "ended" and b"lost" in result.command.head
    assert (await run(workspace, "echo [$A]")).command.head == b"[]\n"
    assert await scratch_of(workspace)
    for _ in range(2):  # from outside
        pid = int((await run(workspace, "A=1; echo $$")).command.head)
        subprocess.run(["rm", "-rf", await scratch_of(workspace)], check=True)
        result = await run(workspace, "echo [$A]")
        assert (result.renewed, result.command.head) == (True, b"[]\n")
        os.kill(pid, signal.SIGKILL)


async def test_a_lost_report_is_fetched_again(
    environment: ProcessEnvironment, settings: Settings, task_folder: Path
) -> None:
    workspace = Workspace(environment, settings=settings)
    await workspace.open()
    inner = environment.exec

    async def failing(command: str, timeout_sec: int | None = None) -> object:
        result = await inner(command, timeout_sec=timeout_sec)
        if " send " in command:
            raise RuntimeError("the connection broke")
        return result

    workspace._rpc._exec._function = failing  # type: ignore[attr-defined]
    result = await run(workspace, "echo once >>times; echo out; (exit 5)")
    assert (result.state, result.command.exit_code, result.command.head) == ("ready", 5, b"out\n")
    assert (task_folder / "times").read_bytes() == b"once\n"
    await workspace.close()


async def test_a_nul_byte_is_refused(workspace: Workspace) -> None:
    with pytest.raises(WorkspaceError, match="NUL"):
        await run(workspace, "echo \0")


async def test_a_container_without_mkfifo_is_told_so(
    tmp_path: Path, task_folder: Path, settings: Settings
) -> None:
    words, path = container_path(tmp_path / "bin", "dash")
    (tmp_path / "bin" / "mkfifo").unlink()
    workspace = Workspace(ProcessEnvironment(task_folder, shell=words, path=path), settings=settings)
    await workspace.open()
    with pytest.raises(WorkspaceError, match="nothing was run: a persistent shell needs mkfifo"):
        await run(workspace, "echo")
    await workspace.close()
