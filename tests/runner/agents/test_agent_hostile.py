"""Agents that misbehave in every way a process can. Each fails its own run only, and quickly."""

# ruff: noqa: E501

from __future__ import annotations

import asyncio
import dataclasses
import re
import time
from pathlib import Path

import pytest
from agent_bench import LIMITS, Bench

RUN = """
import asyncio, json, os, signal, subprocess, sys, threading, time
{top}
class Agent:
    def __init__(self, logs_dir=None, model_name=None, **extra):
        self.logs_dir = logs_dir
        {construct}
    async def setup(self, environment):
        {setup}
    async def run(self, instruction, environment, context):
        {run}
"""


def hostile(run: str = "pass", *, top: str = "", construct: str = "pass", setup: str = "pass") -> str:
    parts = {"top": top, "construct": construct, "setup": setup, "run": run}
    return RUN.format(
        **{k: v.strip().replace("\n", "\n" + " " * 8 if k != "top" else "\n") for k, v in parts.items()}
    )


# The connection to the runner as a hostile agent would find it: the pipe that is not 0, 1 or 2.
CONNECTION = """
def connection():
    for name in sorted(os.listdir("/proc/self/fd"), key=int):
        fd = int(name)
        try:
            if fd > 2 and os.readlink(f"/proc/self/fd/{fd}").startswith(("pipe", "socket")):
                if os.get_inheritable(fd) is False and (os.O_ACCMODE & __import__("fcntl").fcntl(fd, 3)) != os.O_RDONLY:
                    return fd
        except OSError:
            pass
"""


def processes_with(mark: str) -> list[int]:
    pids = []
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if mark.encode() in cmdline.read_bytes():
                pids.append(int(cmdline.parent.name))
        except OSError:
            pass
    return pids


@pytest.mark.parametrize(
    ("code", "exception_type", "message"),
    [
        (hostile(top="raise ImportError('no such thing')"), "ImportError", "no such thing"),
        (hostile(top="sys.exit(3)"), "SystemExit", "3"),
        (hostile(top="os._exit(7)"), "AgentCrashedError", "exited with code 7"),
        (hostile(top="os.kill(os.getpid(), signal.SIGSEGV)"), "AgentCrashedError", "SIGSEGV"),
        (hostile(top="import no_such_module_anywhere"), "ModuleNotFoundError", "no_such_module_anywhere"),
        (hostile(construct="raise ValueError('bad')"), "ValueError", "bad"),
        (hostile(construct="os.abort()"), "AgentCrashedError", "SIGABRT"),
        ("class Agent:\n    def __init__(self): pass", "TypeError", "logs_dir"),
    ],
)
async def test_a_failed_import_or_construction_is_reported(
    bench: Bench, code: str, exception_type: str, message: str
):
    outcome = await bench.run(code)
    assert (outcome.kind, outcome.phase) == ("construction_failed", "construction"), outcome
    assert outcome.exception_type == exception_type
    assert message in (outcome.exception_message or "")


@pytest.mark.parametrize("code", [hostile(top="while True: pass"), hostile(construct="time.sleep(600)")])
async def test_an_endless_import_or_constructor_is_ended(bench: Bench, code: str):
    started = time.monotonic()
    outcome = await bench.run(code, limits=dataclasses.replace(LIMITS, construction_sec=0.7))
    assert (outcome.kind, outcome.exception_type) == ("construction_failed", "AgentConstructionTimeout")
    assert time.monotonic() - started < 10


@pytest.mark.parametrize(
    ("code", "exception_type", "phase"),
    [
        (hostile("raise RuntimeError('in run')"), "RuntimeError", "execution"),
        (hostile(setup="raise RuntimeError('in setup')"), "RuntimeError", "setup"),
        (hostile("sys.exit('bye')"), "SystemExit", "execution"),
        (hostile("raise KeyboardInterrupt"), "KeyboardInterrupt", "execution"),
        (hostile("raise asyncio.CancelledError"), "CancelledError", "execution"),
        (hostile("asyncio.get_running_loop().stop(); await asyncio.sleep(9)"), "CancelledError", "execution"),
        (hostile("def f(): return f()\nf()"), "RecursionError", "execution"),
        (hostile("class E(Exception):\n    def __str__(self): raise ValueError\nraise E"), "E", "execution"),
    ],
)
async def test_every_exception_is_reported(bench: Bench, code: str, exception_type: str, phase: str):
    outcome = await bench.run(code)
    assert (outcome.kind, outcome.phase, outcome.exception_type) == ("raised", phase, exception_type), outcome
    assert outcome.traceback or exception_type == "E"


@pytest.mark.parametrize("value", ["3", "b'text'", "['a']", "'lone \\ud800 surrogate'", "object()"])
async def test_an_invalid_return_value_is_refused(bench: Bench, value: str):
    outcome = await bench.run(hostile(f"return {value}"))
    assert (outcome.kind, outcome.message) == ("invalid_return", None)


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ("os._exit(5)", "exited with code 5"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL"),
        ("os.kill(os.getpid(), signal.SIGSTOP); await asyncio.sleep(99)", "stopped"),
        ("os.write(connection(), b'x' * 3_000_000 + b'\\n')", "line of more than"),
        ("os.write(connection(), b'not json\\n'); await asyncio.sleep(99)", "not a message"),
        ("os.write(connection(), b'[' * 100_000 + b'\\n'); await asyncio.sleep(99)", "not a message"),
        ("os.write(connection(), b'{\"type\": \"grant\"}\\n'); await asyncio.sleep(99)", "not a message"),
        ("os.write(connection(), b'{\"type\": \"constructed\", \"name\": null, \"version\": null, \"info\": null}\\n')\n"
         "await asyncio.sleep(99)", "not allowed at this point"),
        ("while True: os.write(connection(), b'{\"type\": \"abandon\", \"id\": 1}\\n' * 1000)", "messages within a second"),
        ("await asyncio.gather(*(environment.exec('sleep 60') for _ in range(400)))", "calls at once"),
        ("os.close(connection()); time.sleep(99)", "closed its connection"),
        ("os.closerange(3, 1000); time.sleep(99)", "closed its connection|exited with code"),
    ],
)  # fmt: skip
async def test_a_dead_process_or_a_broken_protocol_is_a_crash(bench: Bench, run: str, message: str):
    started = time.monotonic()
    outcome = await bench.run(hostile(run, top=CONNECTION))
    assert outcome.kind == "crashed", outcome
    assert re.search(message, outcome.exception_message or "")
    assert time.monotonic() - started < 15


@pytest.mark.parametrize(
    "run",
    [
        "await asyncio.sleep(600)",
        "while True: pass",
        "time.sleep(600)",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)",
        "while True:\n    try: await asyncio.sleep(600)\n    except BaseException: pass",
        "await environment.exec('sleep 600')",
    ],
)
async def test_the_time_limit_ends_an_agent_that_does_not_stop(bench: Bench, run: str):
    started = time.monotonic()
    outcome = await bench.run(
        hostile("context.n_output_tokens = 9\nawait environment.exec('true')\n" + run), timeout_sec=0.8
    )
    assert (outcome.kind, outcome.exception_type) == ("timeout", "AgentTimeoutError"), outcome
    assert outcome.deadline_reached
    assert outcome.context.n_output_tokens == 9, "the context of a timeout is reported"
    assert time.monotonic() - started < 12


async def test_a_run_that_returns_when_cancelled_counts(bench: Bench):
    run = "try: await asyncio.sleep(600)\nexcept asyncio.CancelledError:\n    await asyncio.sleep(0.1)\n    return 'as far as I got'"
    outcome = await bench.run(hostile(run), timeout_sec=0.5)
    assert (outcome.kind, outcome.message, outcome.deadline_reached) == (
        "cancelled_in_time",
        "as far as I got",
        True,
    )


async def test_the_validators_time_limit_includes_setup(bench: Bench):
    outcome = await bench.run(hostile("return 'late'", setup="await asyncio.sleep(600)"), timeout_sec=0.5)
    assert (outcome.kind, outcome.phase) == ("timeout", "setup")


async def test_harbor_has_separate_time_limits(bench: Bench):
    code = hostile("await asyncio.sleep(0.5); return 'both'", setup="await asyncio.sleep(0.5)")
    outcome = await bench.run(code, timeout_sec=0.9, setup_timeout_sec=0.9, rules="harbor")
    assert outcome.message == "both"
    slow = hostile("return 'late'", setup="await asyncio.sleep(600)")
    outcome = await bench.run(slow, timeout_sec=60, setup_timeout_sec=0.3, rules="harbor")
    assert (outcome.kind, outcome.phase) == ("timeout", "setup")


async def test_a_flood_on_stdout_is_cut(bench: Bench):
    outcome = await bench.run(hostile("for _ in range(300): print('x' * 100_000)\nreturn 'done'"))
    assert (outcome.kind, outcome.message) == ("completed", "done")
    log = (bench.logs / "stdout.txt").read_bytes()
    assert len(log) < LIMITS.output_bytes + 200
    assert log.endswith(b"\n[more than 20000 bytes: the rest is left out]\n")


async def test_a_flood_into_the_log_folder_ends_the_run(bench: Bench):
    limits = dataclasses.replace(LIMITS, logs_bytes=2_000_000)
    outcome = await bench.run(
        hostile(
            "with open(self.logs_dir / 'big', 'w') as f:\n    while True: f.write('x' * 1000); f.flush()"
        ),
        limits=limits,
    )
    assert (outcome.kind, outcome.exception_type) == ("crashed", "AgentLimitError")
    assert "log folder" in (outcome.exception_message or "")


async def test_a_file_cannot_exceed_its_size_limit(bench: Bench):
    limits = dataclasses.replace(LIMITS, file_bytes=1_000_000)
    outcome = await bench.run(
        hostile("with open('big', 'wb') as f: f.write(bytes(3_000_000))"), limits=limits
    )
    assert outcome.kind in ("raised", "crashed")


async def test_a_fork_bomb_is_killed_with_all_its_processes(bench: Bench):
    mark = f"fork-bomb-{id(bench)}"
    run = f"""
while True:
    try: subprocess.Popen(["sh", "-c", "sleep 300; echo {mark}"], start_new_session=True)
    except OSError: pass
"""
    outcome = await bench.run(hostile(run), limits=dataclasses.replace(LIMITS, processes=60), timeout_sec=4)
    assert outcome.kind in ("crashed", "timeout"), outcome
    assert processes_with(mark) == []


async def test_a_lack_of_memory_is_named(bench: Bench):
    limits = dataclasses.replace(LIMITS, memory_bytes=200 << 20)
    outcome = await bench.run(hostile("x = []\nwhile True: x.append(bytearray(10_000_000))"), limits=limits)
    assert outcome.kind in ("crashed", "raised"), outcome
    if outcome.kind == "raised":
        assert outcome.exception_type == "MemoryError"
    else:
        assert "memory" in (outcome.exception_message or "")


@pytest.mark.parametrize("end", ["return 'done'", "os._exit(1)", "time.sleep(600)"])
async def test_no_subprocess_is_left(bench: Bench, end: str):
    mark = f"left-behind-{id(bench)}-{len(end)}"
    run = f"""
for detach in ("", "setsid ", "nohup setsid "):
    subprocess.Popen(["sh", "-c", f"(trap '' TERM HUP; {{detach}}sleep 300 # {mark}\\n)& "], start_new_session=True)
await asyncio.sleep(0.3)
{end}
"""
    started = time.monotonic()
    await bench.run(hostile(run), timeout_sec=1.5)
    assert time.monotonic() - started < 12
    assert processes_with(mark) == []


async def test_killing_the_guard_frees_no_process(bench: Bench):
    mark = f"guard-killer-{id(bench)}"
    run = f"""
subprocess.Popen(["sh", "-c", "sleep 300 # {mark}\\ntrue"], start_new_session=True)
os.kill(os.getppid(), signal.SIGKILL)
time.sleep(300)
"""
    outcome = await bench.run(hostile(run), timeout_sec=1.5)
    assert outcome.kind in ("crashed", "timeout"), outcome
    assert processes_with(mark) == []


async def test_threads_and_tasks_do_not_delay_the_end(bench: Bench):
    run = """
threading.Thread(target=time.sleep, args=(600,)).start()
import atexit; atexit.register(time.sleep, 600)
async def stubborn():
    while True:
        try: await asyncio.sleep(600)
        except BaseException: pass
self.task = asyncio.create_task(stubborn())
asyncio.get_running_loop().run_in_executor(None, time.sleep, 600)
await asyncio.sleep(0.05)
return "at once"
"""
    started = time.monotonic()
    assert (await bench.run(hostile(run))).message == "at once"
    assert time.monotonic() - started < 10


async def test_a_cancelled_trial_leaves_no_process(bench: Bench):
    mark = f"cancelled-{id(bench)}"
    code = hostile(f'subprocess.run(["sh", "-c", "sleep 300 # {mark}\\ntrue"])')
    trial = asyncio.create_task(bench.run(code))
    while not processes_with(mark):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    trial.cancel()
    with pytest.raises(asyncio.CancelledError):
        await trial
    assert processes_with(mark) == []


async def test_a_hostile_agent_does_not_disturb_others(bench: Bench, tmp_path: Path):
    calm = hostile("for n in range(5): await environment.exec(f'echo {n}')\nreturn 'calm'")
    wild = [
        hostile("while True: pass"),
        hostile("os._exit(9)"),
        hostile("print('x' * 9_000_000)\nos.abort()"),
    ]
    benches = []
    for n in range(5):
        (tmp_path / f"bench{n}").mkdir()
        benches.append(dataclasses.replace(bench, folder=tmp_path / f"bench{n}", logs=tmp_path / f"logs{n}"))
    outcomes = await asyncio.gather(
        *(b.run(code, timeout_sec=3) for b, code in zip(benches, [calm, *wild, calm], strict=True))
    )
    assert [o.kind for o in outcomes] == ["completed", "timeout", "crashed", "crashed", "completed"]
