"""The command line as a process of its own: last lines, exit codes, kills and Ctrl-C."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from runner import __version__ as runner_version
from runner.cli.session import SAME_SIGNAL_SEC
from runner.results.scoring import RESULT_PREFIX
from src import __version__ as agent_version
from tests.needs import TASK_ENVIRONMENT
from tests.runner.job_helpers import write_agent, write_task

ROOT = Path(__file__).parents[3]
SLOW = "#!/bin/sh\nsleep 60\ntouch /app/done\n"


def environ(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("CAPSTAN_", "DEEPSEEK_", "LLM_"))}
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def start(folder: Path, *arguments: str | Path, **more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "runner", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=folder, env=environ(**more), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def runner(folder: Path, *arguments: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    process = start(folder, *arguments, **more)
    out, err = process.communicate(timeout=90)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def verdict(stdout: str) -> dict[str, Any]:
    """The result line: there is one, and it is the last."""
    lines = stdout.splitlines()
    assert sum(line.startswith(RESULT_PREFIX) for line in lines) == 1
    assert lines[-1].startswith(RESULT_PREFIX)
    return json.loads(lines[-1].removeprefix(RESULT_PREFIX))


def wait_until(condition: Callable[[], object], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.05)


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A TMPDIR of the test's own, which tells its sandboxes from those of other tests.

    Every user may enter it, as the sandbox asks of the folder that holds its root.
    """
    folder = Path(tempfile.mkdtemp(prefix="cli-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def sandbox_processes(temporary: Path) -> list[str]:
    """The command lines of the programs that run a task below a folder."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it has ended meanwhile
            lines.append(path.read_text(errors="replace").replace("\0", " "))
    return [line for line in lines if str(temporary) in line and re.search("bwrap|proot", line)]


def in_agent_phase(job: Path, task: str) -> bool:
    return any("phase: agent" in path.read_text() for path in job.glob(f"{task}__*/trial.log"))


def two_tasks(folder: Path) -> Path:
    write_task(folder / "set" / "a-quick")
    write_task(folder / "set" / "b-slow", solution=SLOW)
    return folder / "set"


def test_a_job_that_passes(tmp_path: Path) -> None:
    write_task(tmp_path / "task")
    done = runner(tmp_path, "run", "task", "-a", "oracle", "-e", TASK_ENVIRONMENT, "-k", "2")
    assert done.returncode == 0, done.stderr
    assert verdict(done.stdout) == {
        "reason_code": None,
        "resolved": 2,
        "score": 1.0,
        "status": "completed",
        "total": 2,
    }
    assert "pass@2" in done.stdout and "Job: jobs/" in done.stdout
    shown = runner(tmp_path, "show")
    assert shown.returncode == 0 and "1 1" in shown.stdout and RESULT_PREFIX not in shown.stdout


def test_rewards_of_zero_are_a_completed_job(tmp_path: Path) -> None:
    write_task(tmp_path / "task")
    done = runner(tmp_path, "run", "task", "-a", "nop", "-e", TASK_ENVIRONMENT)
    assert done.returncode == 0 and verdict(done.stdout)["score"] == 0


def test_machines_get_one_document_and_the_result_line(tmp_path: Path) -> None:
    write_task(tmp_path / "task")
    done = runner(tmp_path, "run", "task", "-a", "oracle", "-e", TASK_ENVIRONMENT, "--json")
    document, last = done.stdout.splitlines()
    assert last.startswith(RESULT_PREFIX)
    parsed = json.loads(document)
    assert parsed["job"]["summary"]["n_passed"] == 1 and parsed["trials"][0]["passed"]
    shown = json.loads(runner(tmp_path, "show", "--json").stdout)
    assert shown == parsed


def test_a_scripted_model_is_said_to_be_one_wherever_results_are_shown(tmp_path: Path) -> None:
    write_task(tmp_path / "task")
    write_agent(tmp_path / "agent", 'await environment.exec("touch /app/done")')
    (tmp_path / "scripts").mkdir()
    script = ROOT / "examples" / "scripts" / "repair-config.toml"
    (tmp_path / "scripts" / script.name).write_text(script.read_text())
    done = runner(tmp_path, "run", "task", "-a", "agent", "-e", TASK_ENVIRONMENT, "-m", "script:scripts")
    assert verdict(done.stdout)["score"] == 1, done.stdout + done.stderr
    shown = runner(tmp_path, "show")
    for text in (done.stdout, shown.stdout):
        assert "scripted (scripts): no LLM was called" in text
    trial = json.loads(runner(tmp_path, "show", "--json").stdout)["trials"][0]
    assert trial["model"] == {"canned": True, "label": "scripted (scripts)", "name": "deepseek-v4-pro"}


@pytest.mark.parametrize(
    ("arguments", "more", "code", "words"),
    [
        ((), {}, 2, "no tasks given"),
        (("task",), {}, 2, "no agent given"),
        (("--nonsense",), {}, 2, "No such option"),
        (("task", "-a", "oracle"), {"CAPSTAN_ATTEMPTS": "x"}, 2, "CAPSTAN_ATTEMPTS"),
        (("nowhere", "-a", "oracle"), {}, 2, "nowhere: is not a directory"),
        (("good", "-a", "oracle"), {}, 2, "contains no task"),
        (
            ("task", "-a", "oracle", "--task", "tsak"),
            {},
            2,
            "no task matches 'tsak' among 1; did you mean task?",
        ),
        (("task", "-a", "oracle", "--exclude", "*"), {}, 2, "no task is left"),
        (("task", "-a", "broken"), {}, 1, "agent.py"),
        (("task", "-a", "good", "-e", TASK_ENVIRONMENT), {}, 1, "DEEPSEEK_API_KEY is missing"),
    ],
)
def test_a_job_that_cannot_begin_fails_closed(
    tmp_path: Path, arguments: tuple[str, ...], more: Mapping[str, str], code: int, words: str
) -> None:
    write_task(tmp_path / "task")
    write_agent(tmp_path / "good", "return os.environ.get('DEEPSEEK_API_KEY', '')")
    (tmp_path / "broken").mkdir()
    done = runner(tmp_path, "run", *arguments, **more)
    assert done.returncode == code and words in done.stderr and "Traceback" not in done.stderr
    line = verdict(done.stdout)
    assert line["status"] == "failed" and line["score"] == 0 and line["reason_code"]
    if "broken" in arguments:
        assert line["reason_code"] == "harbor_submission_code_failed"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("resume", "jobs/j", "-n", "0"), 2, "greater than or equal to 1"),
        (("resume", "jobs/j", "-n", "257"), 2, "less than or equal to 256"),
        (("resume", "nosuch"), 2, "nosuch: there is no such folder"),
        (("resume", "."), 2, "no job of this runner (it has no lock.json)"),
        (("show", "nosuch"), 1, "nosuch: there is no such folder"),
        (("show", "."), 1, "no job of this runner (it has no capstan.json)"),
        (("report", "nosuch"), 1, "nosuch: there is no such folder"),
        (("view", "nosuch"), 1, "nosuch: there is no such folder"),
        (("images", "build", "nowhere"), 2, "nowhere: is not a directory"),
        (("doctor", "nowhere"), 2, "nowhere: is not a directory"),
    ],
)
def test_what_is_not_there_is_one_line_and_nothing_is_done(
    tmp_path: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    done = runner(tmp_path, *arguments)
    assert done.returncode == code and "Traceback" not in done.stderr
    assert words in done.stderr.splitlines()[-1], done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "task", "-a", "oracle"),
        ("cluster",),
        ("images", "build", "task"),
        ("images", "pull", "task"),
        ("doctor",),
    ],
)
def test_without_ray_one_line_says_how_to_install_it(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    write_task(tmp_path / "task")
    hidden = "import sys; sys.modules['ray'] = None; from runner.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", hidden, *arguments, "--on", "ray"],
        cwd=tmp_path,
        env=environ(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    words = "--on ray needs Ray: pip install 'capstan[ray]', or scripts/setup ray in a checkout"
    said = done.stdout if arguments == ("doctor",) else done.stderr
    assert sum(words in line for line in said.splitlines()) == 1, done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "--on", "there"), "--on: must be here, ray, ray=HOST:PORT or ray=local, got 'there'"),
        (("cluster", "--on", "here"), "--on: must be a cluster: ray, ray=HOST:PORT or ray=local, got 'here'"),
        (("cluster", "--on", "ray=ray://head:1"), "--on: cannot be a ray:// address"),
        (("doctor", "--on", "there"), "--on: must be here"),
        (("images", "pull", ".", "--on", "there"), "--on: must be here"),
        (("resume", "job", "--relay-listen", "nowhere"), "--relay-listen: must be HOST:PORT, got 'nowhere'"),
        (("resume", "job", "--cluster-timeout", "0"), "--cluster-timeout: input should be greater than 0"),
    ],
)
def test_a_wrong_place_names_the_flag(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    done = runner(tmp_path, *arguments)
    assert done.returncode == 2 and words in done.stderr and "Traceback" not in done.stderr


def test_config_shows_where_trials_run(tmp_path: Path) -> None:
    (tmp_path / "capstan.toml").write_text('on = "ray=10.0.0.1:6379"\nrelay_listen = "10.0.0.1:8800"\n')
    shown = json.loads(runner(tmp_path, "config", "--json", CAPSTAN_CLUSTER_TIMEOUT_SEC="5").stdout)
    assert shown["on"] == {"origin": "config file", "value": "ray=10.0.0.1:6379"}
    assert shown["relay_listen"]["value"] == "10.0.0.1:8800" and shown["relay_cert"]["value"] is None
    assert shown["cluster_timeout_sec"] == {"origin": "environment", "value": 5.0}


def test_images_of_tasks_without_a_dockerfile_leave_nothing_to_build(tmp_path: Path) -> None:
    task = write_task(tmp_path / "task", toml='[environment]\ndocker_image = "a:b"\n')
    (task / "environment" / "Dockerfile").unlink()
    done = runner(tmp_path, "images", "build", "task")
    assert done.returncode == 2 and "no task has a Dockerfile" in done.stderr


def on_a_terminal(folder: Path, *command: str | Path, **more: str) -> str:
    """Return what a command prints on a terminal."""
    main, other = pty.openpty()
    variables = {name: value for name, value in environ().items() if name != "NO_COLOR"}
    process = subprocess.Popen(
        list(map(str, command)), cwd=folder, env=variables | {"TERM": "xterm-256color"} | more,
        stdin=other, stdout=other, stderr=other,
    )  # fmt: skip
    os.close(other)
    printed = b""
    with contextlib.suppress(OSError):  # EIO, once the command has ended
        while data := os.read(main, 65_536):
            printed += data
    os.close(main)
    assert process.wait(timeout=60) == 0, printed
    return printed.decode()


def test_no_color_means_no_bold_either(tmp_path: Path) -> None:
    write_task(tmp_path / "task")
    write_agent(tmp_path / "agent", "return ''")
    build = (sys.executable, ROOT / "build_zip.py", "--source", "agent", "--out", "a.zip", "--static")
    run = (sys.executable, "-m", "runner", "run", "task", "-a", "oracle", "-e", TASK_ENVIRONMENT)
    for command in (build, run, (sys.executable, "-m", "runner", "show")):
        styles = re.compile(r"\x1b\[[\d;]*m")
        assert styles.search(on_a_terminal(tmp_path, *command))
        plain = on_a_terminal(tmp_path, *command, NO_COLOR="1")
        assert "task" in plain or "passes" in plain
        assert not styles.search(plain), plain


def test_doctor_says_which_tasks_cannot_run_without_docker(tmp_path: Path) -> None:
    write_task(tmp_path / "set" / "simple")
    write_task(tmp_path / "set" / "builds", dockerfile="FROM debian:bookworm-slim\nRUN true\n")
    write_task(tmp_path / "set" / "online", toml="[environment]\nallow_internet = true\n")
    write_task(tmp_path / "set" / "broken", toml="[agent]\n")
    done = runner(tmp_path, "doctor", "set", DOCKER_HOST="unix:///nowhere/docker.sock")
    assert done.returncode == 0, done.stdout
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    (docker,) = [line for line in lines if line.startswith("missing docker")]
    assert "no engine answers at unix:///nowhere/docker.sock" in docker and "DOCKER_HOST=" in docker
    assert "unset DOCKER_HOST" in lines[lines.index(docker) + 1]
    (tasks,) = [line for line in lines if line.startswith("note tasks")]
    assert "3 of 4 cannot run here; these need Docker: builds, online; these are broken: " in tasks
    assert "broken/task.toml" in tasks
    needs = runner(tmp_path, "doctor", "set/builds", DOCKER_HOST="unix:///nowhere/docker.sock", PATH="/bin")
    assert needs.returncode == 1 and "1 of 1 cannot run here" in needs.stdout
    unset = {"DOCKER_HOST": ""}
    report = {
        check["name"]: check for check in json.loads(runner(tmp_path, "doctor", "--json", **unset).stdout)
    }
    assert report["docker"]["state"] == "ok" or "DOCKER_HOST is not set" in report["docker"]["found"]


def test_an_agent_that_needs_no_model_needs_neither_a_key_nor_a_flag(tmp_path: Path) -> None:
    write_task(tmp_path / "task")
    body = (
        'assert not context.env and "extra_env" not in self.extra\nawait environment.exec("touch /app/done")'
    )
    write_agent(tmp_path / "agent", body)
    command = ("run", "task", "-a", "agent", "-e", TASK_ENVIRONMENT)
    done = runner(tmp_path, *command)
    assert verdict(done.stdout)["score"] == 1, done.stdout + done.stderr
    assert "no model: DEEPSEEK_API_KEY is missing" in done.stdout and "model: none" in done.stdout
    recorded = runner(tmp_path, *command, "--model", "record:cassette.jsonl")
    assert recorded.returncode == 1 and "DEEPSEEK_API_KEY is missing" in recorded.stderr
    keyed = runner(tmp_path, *command, "--json", DEEPSEEK_API_KEY="sk-any")
    trial = json.loads(keyed.stdout.splitlines()[0])["trials"][0]
    assert trial["model"]["label"] == "live" and not trial["passed"], "it asserts that it has no model"


def test_a_killed_runner_leaves_nothing_and_its_job_goes_on(tmp_path: Path, temporary: Path) -> None:
    tasks = two_tasks(tmp_path)
    command = ("run", tasks, "-a", "oracle", "-e", TASK_ENVIRONMENT, "-n", "1", "--job-name", "killed")
    process = start(tmp_path, *command, TMPDIR=str(temporary))
    job = tmp_path / "jobs" / "killed"
    wait_until(lambda: list(job.glob("a-quick__*/result.json")) and in_agent_phase(job, "b-slow"))
    assert sandbox_processes(temporary)
    process.kill()
    process.communicate(timeout=30)
    wait_until(lambda: not sandbox_processes(temporary))
    first = next(job.glob("a-quick__*/result.json")).stat().st_mtime_ns
    half = next(job.glob("b-slow__*")).name

    changed = runner(tmp_path, "run", tasks, "-a", "nop", "-e", TASK_ENVIRONMENT, "--job-name", "killed")
    assert changed.returncode == 1 and "setting agent has changed" in changed.stderr

    # The solution is part of a task, so what is quick now is the clock.
    resumed = start(tmp_path, "resume", "jobs/killed", "-n", "2")
    wait_until(lambda: (job / "set-aside" / f"{half}.1").is_dir())
    wait_until(lambda: list(job.glob(f"{half}/trial.log")))
    resumed.send_signal(signal.SIGINT)
    out, err = resumed.communicate(timeout=30)
    assert resumed.returncode == 130, err
    assert verdict(out)["reason_code"] == "harbor_cancelled_error" and "resume jobs/killed" in out
    assert next(job.glob("a-quick__*/result.json")).stat().st_mtime_ns == first
    assert not (job / half / "verifier" / "reward.txt").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_runner_stops_within_ten_seconds(
    tmp_path: Path, temporary: Path, number: signal.Signals
) -> None:
    tasks = two_tasks(tmp_path)
    command = ("run", tasks, "-a", "oracle", "-e", TASK_ENVIRONMENT, "-n", "2", "--job-name", "cut")
    process = start(tmp_path, *command, TMPDIR=str(temporary))
    job = tmp_path / "jobs" / "cut"
    wait_until(lambda: in_agent_phase(job, "b-slow"))
    assert sandbox_processes(temporary)
    began = time.monotonic()
    process.send_signal(number)
    process.send_signal(signal.SIGTERM)  # as timeout(1) does, which signals the group, too
    out, _ = process.communicate(timeout=30)
    assert time.monotonic() - began < 10
    assert process.returncode == 130
    assert verdict(out)["status"] == "failed"
    assert not sandbox_processes(temporary)
    cut = json.loads(next(job.glob("b-slow__*/result.json")).read_text())
    assert cut["exception_info"]["exception_type"] == "CancelledError"
    assert json.loads((job / "result.json").read_text())["stats"]["n_cancelled_trials"] >= 1


# It stops the process that ends agents, so its trial takes seconds to end.
STUBBORN = """
import signal
os.kill(os.getppid(), signal.SIGSTOP)
(self.logs_dir / "guard").write_text(str(os.getppid()))
await asyncio.sleep(60)
"""
TWICE = ("run", "task", "-a", "agent", "-e", TASK_ENVIRONMENT, "-k", "3", "-n", "1", "--job-name", "twice")


@contextlib.contextmanager
def interrupted_twice(process: subprocess.Popen[str], folder: Path) -> Iterator[None]:
    """Interrupt a runner, and again while it still ends its trial."""
    job = folder / "jobs" / "twice"
    wait_until(lambda: list(job.glob("task__*/agent/guard")))
    guard = int(next(job.glob("task__*/agent/guard")).read_text())
    try:
        process.send_signal(signal.SIGINT)
        time.sleep(SAME_SIGNAL_SEC + 0.2)
        assert process.poll() is None, "the second one must find it ending its trial"
        process.send_signal(signal.SIGTERM)
        yield
    finally:
        os.kill(guard, signal.SIGCONT)


def test_a_second_interrupt_ends_it_at_once(tmp_path: Path) -> None:
    write_task(tmp_path / "task")
    write_agent(tmp_path / "agent", STUBBORN)
    process = start(tmp_path, *TWICE)
    with interrupted_twice(process, tmp_path):
        out, _ = process.communicate(timeout=10)
    assert process.returncode == 130
    assert verdict(out)["status"] == "failed" and verdict(out)["total"] == 3


def test_on_a_terminal_the_result_line_is_the_last_one_after_a_second_interrupt(tmp_path: Path) -> None:
    write_task(tmp_path / "task")
    write_agent(tmp_path / "agent", STUBBORN)
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        (sys.executable, "-m", "runner", *TWICE),
        cwd=tmp_path,
        env=environ(TERM="xterm", COLUMNS="100"),
        text=True,
        stdout=theirs,
        stderr=subprocess.DEVNULL,
    )
    os.close(theirs)
    seen = bytearray()
    reading = threading.Thread(target=read_terminal, args=(ours, seen))
    reading.start()
    with interrupted_twice(process, tmp_path):
        assert process.wait(timeout=10) == 130
    reading.join(timeout=10)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode()).replace("\r", "")
    assert "elapsed" in text, "the live table was shown"
    assert verdict(text.rstrip("\n"))["total"] == 3


def read_terminal(descriptor: int, seen: bytearray) -> None:
    """Read until the other end is closed."""
    with contextlib.suppress(OSError):
        while data := os.read(descriptor, 65_536):
            seen += data
    os.close(descriptor)


def test_the_inner_engine_never_shares_the_network_of_the_host(tmp_path: Path) -> None:
    write_task(tmp_path / "task")
    command = ("run", "task", "-a", "nop", "-e", "docker", "--isolation", "dind", "--allow-task-network")
    done = runner(tmp_path, *command, CONTAINER_NETWORK_MODE="host")
    assert done.returncode == 1 and "CONTAINER_NETWORK_MODE=host" in done.stderr, done.stderr
    assert len(done.stderr.splitlines()) == 1 and "Traceback" not in done.stderr


def test_tasks_of_a_job_in_the_background_have_default_signals(tmp_path: Path) -> None:
    solution = "#!/bin/sh\ngrep SigIgn /proc/self/status | cut -f 2 >/app/ignored\n"
    test = "#!/bin/sh\necho $(((0x$(cat /app/ignored) & 7) == 0)) >/logs/verifier/reward.txt\n"
    write_task(tmp_path / "task", solution=solution, test=test)
    ignoring = ("sh", "-c", "trap '' HUP INT QUIT; exec \"$@\"", "sh")
    command = (sys.executable, "-m", "runner", "run", "task", "-a", "oracle", "-e", TASK_ENVIRONMENT)
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*ignoring, *command], cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.returncode == 0 and verdict(done.stdout)["score"] == 1.0, done.stdout + done.stderr


def test_the_key_is_masked_and_never_written(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("DEEPSEEK_API_KEY=sk-very-secret\nCAPSTAN_ATTEMPTS=3\n")
    shown = runner(tmp_path, "config")
    assert "sk-very-secret" not in shown.stdout and "********" in shown.stdout
    listed = json.loads(runner(tmp_path, "config", "--json").stdout)
    assert listed["attempts"] == {"value": 3, "origin": ".env"}
    write_task(tmp_path / "task")
    write_agent(tmp_path / "agent", "return os.environ['DEEPSEEK_API_KEY']")
    done = runner(tmp_path, "run", "task", "-a", "agent", "-e", TASK_ENVIRONMENT, "-k", "1")
    assert verdict(done.stdout)["total"] == 3 or done.returncode == 0
    for path in (tmp_path / "jobs").rglob("*"):
        if path.is_file():
            assert b"sk-very-secret" not in path.read_bytes(), path


def test_tasks_are_listed_checked_and_held_to_a_manifest(tmp_path: Path) -> None:
    write_task(tmp_path / "set" / "one")
    write_task(tmp_path / "set" / "two")
    assert runner(tmp_path, "tasks", "check", "set").stdout == "2 sound, 0 broken\n"
    listed = json.loads(runner(tmp_path, "tasks", "list", "set", "--json").stdout)
    assert [t["name"] for t in listed["tasks"]] == ["one", "two"]
    assert runner(tmp_path, "tasks", "verify", "set", "--manifest", "m.json", "--write").returncode == 0
    assert runner(tmp_path, "tasks", "verify", "set", "--manifest", "m.json").returncode == 0
    digests = {task["name"]: task["content_digest_sha256"] for task in listed["tasks"]}
    entries = [f'[[tasks]]\nname = "org/{n}"\ndigest = "sha256:{d}"\n' for n, d in digests.items()]
    (tmp_path / "dataset.toml").write_text('[dataset]\nname = "org/set"\n' + "".join(entries))
    assert runner(tmp_path, "tasks", "verify", "set", "--manifest", "dataset.toml").returncode == 0
    overwritten = runner(tmp_path, "tasks", "verify", "set", "--manifest", "dataset.toml", "--write")
    assert overwritten.returncode == 2 and "--write writes JSON" in overwritten.stderr
    (tmp_path / "set" / "one" / "instruction.md").write_text("Something else.\n")
    changed = runner(tmp_path, "tasks", "verify", "set", "--manifest", "m.json")
    assert changed.returncode == 1 and "one" in changed.stderr and "two" not in changed.stderr
    (tmp_path / "set" / "two" / "task.toml").write_text("cpus = \n")
    broken = runner(tmp_path, "tasks", "check", "set")
    assert broken.returncode == 1 and "1 sound, 1 broken" in broken.stdout and "task.toml" in broken.stderr


def test_tables_print_names_as_they_are(tmp_path: Path) -> None:
    name = "a:100:[bold]b"
    write_task(tmp_path / "set" / name)
    assert name in runner(tmp_path, "tasks", "list", "set").stdout
    done = runner(tmp_path, "run", "set", "-a", "nop", "-e", TASK_ENVIRONMENT, "--job-name", "j")
    assert done.returncode == 0, done.stderr
    assert f"\n {name}  " in done.stdout
    assert f"\n {name}  " in runner(tmp_path, "show").stdout


def test_a_variable_that_this_host_lacks_is_found_by_check_and_doctor(tmp_path: Path) -> None:
    write_task(tmp_path / "set" / "judged", toml='[verifier.env]\nJUDGE = "${NO_SUCH_KEY}"\n')
    write_task(tmp_path / "set" / "plain")
    checked = runner(tmp_path, "tasks", "check", "set")
    assert checked.returncode == 1 and "2 sound, 0 broken, 1 lacks a variable" in checked.stdout
    (line,) = checked.stderr.splitlines()
    assert line.startswith("error: ") and "[verifier.env] JUDGE" in line and "NO_SUCH_KEY" in line
    doctor = runner(tmp_path, "doctor", "set").stdout
    (line,) = [line for line in doctor.splitlines() if "NO_SUCH_KEY" in line]
    assert line.startswith("note    variables") and "1 of 2 tasks" in line and "judged" in line
    tasks = next(line for line in doctor.splitlines() if line[8:].startswith("tasks "))
    assert "cannot run here" in tasks and "these lack variables: judged" in tasks
    there = runner(tmp_path, "tasks", "check", "set", NO_SUCH_KEY="x")
    assert (there.returncode, there.stdout) == (0, "2 sound, 0 broken\n")


def test_the_command_is_installed_and_completes_in_a_shell(tmp_path: Path) -> None:
    capstan = Path(sys.executable).with_name("capstan")
    completing = environ(_CAPSTAN_COMPLETE="complete_bash", COMP_WORDS="capstan ima", COMP_CWORD="1")
    done = subprocess.run([capstan], cwd=tmp_path, env=completing, capture_output=True, text=True, timeout=30)
    assert done.stdout.split() == ["images"]
    wrong = subprocess.run([capstan, "show", "nowhere"], cwd=tmp_path, capture_output=True, timeout=30)
    assert wrong.returncode == 1


def test_one_version_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == runner_version == agent_version


def test_help_is_quick_because_nothing_heavy_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from runner.cli import main; main(['--help']);"
        "heavy = {'pydantic', 'rich', 'docker', 'uvicorn', 'httpx', 'openai'} & set(sys.modules);"
        "sys.exit(', '.join(heavy))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environ(), capture_output=True, text=True, timeout=30
    )
    assert "run" in done.stdout and not done.stderr.strip(), done.stderr
