"""The proot environment on real proot."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runner.environments.proot import ProotEnvironment
from tests.runner.environments.contract import EnvironmentContract, WatchedContract, spec_of, unique

pytestmark = pytest.mark.proot


@pytest.fixture
async def env(tmp_path):
    environment = ProotEnvironment(spec_of(tmp_path / "environment"))
    await environment.start()
    yield environment
    await environment.stop()


class TestProot(EnvironmentContract, WatchedContract):
    """The whole contract, but for what needs namespaces."""

    has_own_network = False
    has_own_processes = False


def processes(pattern: str) -> list[int]:
    done = subprocess.run(["pgrep", "-f", pattern], capture_output=True, text=True)
    return [int(pid) for pid in done.stdout.split()]


async def until(true: Callable[[], bool]) -> None:
    for _ in range(200):
        if true():
            return
        await asyncio.sleep(0.05)
    raise AssertionError("not within 10 s")


async def test_the_record_says_that_it_isolates_nothing(env):
    assert env.image == (
        "proot, which isolates nothing: this host's programs in place of debian; no resource limits"
    )


async def test_paths_are_those_of_the_root_in_every_program(env, tmp_path):
    """proot does not know the system calls of newer programs, which would see the host's files."""
    await env.exec("echo inside >/app/file; mkdir /app/folder; ln -s file /app/link")
    listed = (
        await env.exec("ls -l --time-style=+ / /app; stat -c %s /app/file; cp file copy; mv copy b")
    ).stdout
    assert "?" not in listed and "No such file" not in listed and "\n7\n" in listed + "\n"
    assert tmp_path.name not in listed
    code = "import os; print(os.path.exists('/app/file'), os.listdir('/app'), os.access('/app/b', os.R_OK))"
    shown = (await env.exec(f'/usr/bin/python3 -c "{code}"; [ -r /app/b ] && echo readable')).stdout
    assert shown.startswith("True ") and "'b'" in shown and shown.endswith("True\nreadable\n")
    assert (await env.exec(f"cat {Path(__file__)}")).return_code != 0
    assert (await env.exec("echo x >/usr/x")).return_code != 0
    if os.geteuid() == 0:  # what must be root's stays root's
        assert (await env.exec("kill -0 1")).return_code != 0
        assert (await env.exec("cat /proc/1/environ")).return_code != 0


async def test_everything_is_gone_when_stop_returns(env):
    n = unique()
    await env.exec(
        f"(setsid sh -c 'sleep {n}1 & exit' &); nohup sleep {n}2 >/dev/null 2>&1 & setsid sleep {n}3 &"
    )
    await env.exec(f"(while :; do sh -c 'sleep 0.01; exec sleep {n}4' & sleep 0.005; done) >/dev/null 2>&1 &")
    await asyncio.sleep(0.5)
    assert len(processes(f"sleep {n}[1-3]")) >= 3
    await env.stop()
    assert processes(f"sleep {n}[1-4]") == []


async def test_what_a_killed_proot_leaves_dies(env):
    """Without the tracer its processes would go on, on the host's own files."""
    n = unique()
    pending = asyncio.create_task(env.exec(f"sleep {n}1 & sleep {n}2"))
    await until(lambda: len(processes(f"^sleep {n}[12]")) == 2)
    status = Path(f"/proc/{processes(f'^sleep {n}1')[0]}/status").read_text()
    tracer = int(status.partition("TracerPid:")[2].split()[0])
    os.kill(tracer, signal.SIGKILL)
    assert (await asyncio.wait_for(pending, 10)).return_code == 137
    await until(lambda: not processes(f"sleep {n}[12]"))
    assert (await env.exec("echo again")).stdout == "again\n"


async def test_it_is_tried_for_real(tmp_path):
    assert await ProotEnvironment.unavailable() is None
    code = (
        "import asyncio; from runner.environments.proot import ProotEnvironment;"
        "print(asyncio.run(ProotEnvironment.unavailable()))"
    )
    environ = {**os.environ, "PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "proot is not installed: apt-get install proot"
