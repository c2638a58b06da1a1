"""What the sandbox and proot have in common: the root folder, and how everything ends."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from runner.environments import EnvironmentSpec, EnvironmentStartError, create_environment
from runner.environments.rootfs import remove_stale_roots, rootfs_refusal
from tests.needs import program
from tests.runner.environments.contract import spec_of, unique


@pytest.fixture(
    params=[
        pytest.param("sandbox", marks=pytest.mark.sandbox),
        pytest.param("proot", marks=pytest.mark.proot),
    ]
)
def kind(request):
    return request.param


@pytest.fixture
async def env(tmp_path, kind):
    environment = create_environment(kind, spec_of(tmp_path / "environment"))
    await environment.start()
    yield environment
    await environment.stop()


async def test_the_dockerfile_is_carried_out(tmp_path, kind):
    context = tmp_path / "environment"
    (context / "src/sub").mkdir(parents=True)
    (context / "src/a.py").write_text("a")
    (context / "src/sub/b.py").write_text("b")
    (context / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (context / "run.sh").chmod(0o755)
    spec = spec_of(
        context,
        "FROM x\nENV GREETING='hi you'\nWORKDIR /srv/work\nCOPY src .\n"
        "COPY run.sh /usr-local/bin/go\nCOPY *.sh sh/\n",
    )
    environment = create_environment(kind, spec)
    await environment.start()
    try:
        result = await environment.exec(
            'pwd; cat a.py sub/b.py; ls sh; /usr-local/bin/go; echo "$GREETING"; stat -c %a .'
        )
        assert result.stdout == "/srv/work\nabrun.sh\nran\nhi you\n755\n"
        assert "this host's programs in place of x" in (environment.image or "")
    finally:
        await environment.stop()


@pytest.mark.parametrize("copy", ["COPY ../secret /x", "COPY nope /x", "COPY link /x"])
async def test_copy_stays_inside_the_context(tmp_path, kind, copy):
    (tmp_path / "secret").write_text("s")
    context = tmp_path / "environment"
    context.mkdir()
    (context / "link").symlink_to("../secret")
    environment = create_environment(kind, spec_of(context, f"FROM x\n{copy}\n"))
    with pytest.raises(EnvironmentStartError, match="line 2: COPY"):
        await environment.start()


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"network": "public"}, "network"),
        ({"default_user": "agent"}, "only root"),
        ({"dockerfile": "FROM x\nRUN true\n"}, "line 2: RUN needs Docker"),
    ],
)
async def test_what_it_cannot_do_it_says(tmp_path, kind, changes, what):
    spec = spec_of(tmp_path / "environment", **changes)
    with pytest.raises(EnvironmentStartError, match=what):
        await create_environment(kind, spec).start()
    assert what in (rootfs_refusal(spec) or "")


def test_what_is_wrong_for_every_kind_is_no_refusal(tmp_path):
    assert rootfs_refusal(spec_of(tmp_path / "environment")) is None
    assert rootfs_refusal(EnvironmentSpec("t", "t", docker_image="x")) is None
    assert rootfs_refusal(EnvironmentSpec("t", "t")) is None
    assert rootfs_refusal(spec_of(tmp_path / "environment", "WORKDIR /app\n")) is None


async def test_nothing_is_left_when_the_runner_is_killed(tmp_path, kind):
    n = unique()
    script = tmp_path / "victim.py"
    script.write_text(
        "import asyncio, sys\nfrom pathlib import Path\nfrom runner.environments import *\n"
        "async def main():\n"
        f"    spec = EnvironmentSpec('t', 't', context_dir=Path(sys.argv[1]))\n"
        f"    env = create_environment('{kind}', spec)\n"
        "    await env.start()\n"
        f"    await env.exec('sleep {n}1 & setsid sleep {n}2 & (setsid sh -c \"sleep {n}3 & exit\" &)')\n"
        f"    print(env._base, flush=True)\n    await env.exec('sleep {n}4')\nasyncio.run(main())\n"
    )
    spec_of(tmp_path / "environment")
    environ = {**os.environ, "PYTHONPATH": "."}
    victim = subprocess.Popen(
        [sys.executable, script, tmp_path / "environment"], stdout=subprocess.PIPE, env=environ
    )
    assert victim.stdout is not None
    base = victim.stdout.readline().decode().strip()
    assert Path(base).is_dir()

    def alive() -> bytes:
        return subprocess.run([program("pgrep"), "-f", f"sleep {n}[1234]"], capture_output=True).stdout

    assert alive()
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    for _ in range(100):
        if not alive():
            break
        await asyncio.sleep(0.05)
    assert not alive()
    assert Path(base) in remove_stale_roots()
    assert not Path(base).exists()


async def test_a_living_runners_folder_is_left_alone(env):
    assert env._base not in remove_stale_roots()
    assert (await env.exec("echo here")).stdout == "here\n"
