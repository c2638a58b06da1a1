"""What every environment must do, whichever kind: run by test_sandbox.py and
test_docker_environment.py."""

import asyncio
import os
import random
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from runner.environments import (
    Environment,
    EnvironmentLost,
    EnvironmentSpec,
    ExecTimeout,
    GuardedRun,
    TransferError,
)
from runner.environments.base import MAX_COMMAND_BYTES, OUTPUT_LIMIT_BYTES

ODD_NAMES = ["plain", "with space", "quote'd", 'dq"', "$dollar", "new\nline", "-dash", "é中"]


def spec_of(
    context: Path, dockerfile: str = "FROM debian\nWORKDIR /app\n", **changes: Any
) -> EnvironmentSpec:
    """A task with this Dockerfile."""
    context.mkdir(exist_ok=True)
    (context / "Dockerfile").write_text(dockerfile)
    return EnvironmentSpec("task", "task__1", **{"context_dir": context, **changes})


def unique() -> str:
    """Digits for the duration of a `sleep` that no other test uses: on proot, all processes are
    visible."""
    return str(random.randrange(10**7, 10**8))


async def running(env: Environment, pattern: str) -> int:
    """Return how many processes have the pattern in their arguments (small images lack ps)."""
    script = f"head -c 9999 /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -c -- '{pattern}'"
    return int((await env.exec(script)).stdout or "0")


class EnvironmentContract:
    """Subclasses give the fixture `env`: a started environment, its WORKDIR /app."""

    keeps_odd_names = True  # dash and busybox drop variables whose names are no identifiers
    has_own_network = True
    has_own_processes = True  # `kill -9 -1` ends those of the environment, and is allowed

    async def test_results_have_harbors_form(self, env: Environment):
        result = await env.exec("echo out; echo err >&2; exit 3")
        assert (result.stdout, result.stderr, result.return_code) == ("out\nerr\n", None, 3)
        assert (await env.exec("true")).stdout is None
        assert (await env.exec("cat")).return_code == 0  # stdin is /dev/null
        assert (await env.exec("printf '\\377x'")).stdout == "\ufffdx"

    async def test_cwd_and_env(self, env: Environment):
        assert (await env.exec("pwd")).stdout == "/app\n"
        assert (await env.exec("pwd", cwd="/tmp")).stdout == "/tmp\n"
        missing = await env.exec("echo ran", cwd="/not/there")
        assert missing.return_code == 126 and "ran" not in (missing.stdout or "")
        value = 'it\'s "$HOME"\n`x` é'
        assert (await env.exec('printf %s "$V"', env={"V": value})).stdout == value
        shown = (await env.exec("env", env={"a.b": "c", "UID_": "1"})).stdout or ""
        assert "UID_=1" in shown and shown.count("a.b=c") == int(self.keeps_odd_names)
        assert "capstan" not in ((await env.exec("env")).stdout or "").lower()
        assert (await env.exec("exit 5", env={"PATH": "/usr/bin:/bin"})).return_code == 5

    async def test_hard_commands(self, env: Environment):
        assert (await env.exec("cat <<'EOF'\na 'b' \"c\" \\ $d\nEOF")).stdout == "a 'b' \"c\" \\ $d\n"
        assert (await env.exec("echo 'unfinished")).return_code != 0
        assert (await env.exec("echo still here")).stdout == "still here\n"
        assert (await env.exec("kill -9 $$")).return_code == 137
        assert (await env.exec("echo a | tee /dev/stderr")).stdout == "a\na\n"
        long = "#" * (MAX_COMMAND_BYTES - 10)
        assert (await env.exec(f"echo ok {long}")).stdout == "ok\n"
        with pytest.raises(OSError):
            await env.exec("x" * (MAX_COMMAND_BYTES + 1))
        with pytest.raises(ValueError):
            await env.exec("a\0b")

    async def test_signals_have_their_defaults(self, env: Environment):
        assert (await env.exec("sh -c 'kill -INT $$'; echo $?")).stdout.splitlines()[-1] == "130"  # type: ignore[union-attr]
        assert (await env.exec("yes | head -n 1")).stdout == "y\n"

    async def test_a_timeout_keeps_the_output_and_leaves_no_process(self, env: Environment):
        n = unique()
        command = f"echo begun; (sleep {n}1 & sleep {n}2) & setsid sleep {n}3 & trap '' TERM; "
        command += f"sleep {n}4; sleep {n}5"
        began = time.monotonic()
        with pytest.raises(ExecTimeout, match="Command timed out after 1 seconds") as timeout:
            await env.exec(command, timeout_sec=1)
        assert time.monotonic() - began < 60
        assert timeout.value.partial_output == "begun\n"
        assert isinstance(timeout.value, RuntimeError)
        assert await running(env, f"sleep {n}[1-5]") == 0

    async def test_a_cancelled_command_ends_too(self, env: Environment):
        n = unique()
        task = asyncio.create_task(env.exec(f"sleep {n}1"))
        for _ in range(100):
            await asyncio.sleep(0.05)
            if await running(env, f"sleep {n}[1]"):
                break
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        for _ in range(100):
            if await running(env, f"sleep {n}[1]") == 0:
                break
            await asyncio.sleep(0.05)
        assert await running(env, f"sleep {n}[1]") == 0

    async def test_a_background_child_lives_on_and_hangs_nothing(self, env: Environment):
        began = time.monotonic()
        result = await env.exec("(while sleep 0.05; do echo noise; date >>/tmp/beat; done) & echo started")
        assert result.stdout == "started\n"
        assert time.monotonic() - began < 5
        for _ in range(20):
            assert (await env.exec("echo quiet")).stdout == "quiet\n"
        first = (await env.exec("wc -c </tmp/beat")).stdout
        await asyncio.sleep(0.4)
        assert (await env.exec("wc -c </tmp/beat")).stdout != first

    async def test_commands_run_side_by_side(self, env: Environment):
        began = time.monotonic()
        results = await asyncio.gather(*(env.exec(f"sleep 1; echo {n}") for n in range(10)))
        assert [result.stdout for result in results] == [f"{n}\n" for n in range(10)]
        assert time.monotonic() - began < 9

    async def test_a_flood_is_bounded_at_both_ends(self, env: Environment):
        result = await env.exec("echo first; yes 0123456789 | head -c 30000000; echo last")
        text = result.stdout or ""
        assert text.startswith("first\n0123") and text.endswith("last\n")
        assert len(text) < OUTPUT_LIMIT_BYTES + 200
        assert "bytes of output left out here]" in text

    async def test_killing_every_process_is_survived(self, env: Environment):
        if not self.has_own_processes:
            refused = await env.exec("echo now; kill -9 -1; echo after")
            assert refused.return_code == 0 and (refused.stdout or "").endswith("after\n")
            assert "not permitted" in (refused.stdout or "")
            return
        result = await env.exec("echo now; kill -9 -1; sleep 1; echo after")
        # What it printed just before may be killed in the pipe on its way out.
        assert result.return_code == 137 and (result.stdout or "now\n") == "now\n"
        assert (await env.exec("echo alive")).stdout == "alive\n"
        await env.exec("(sleep 0.2; kill -9 -1) >/dev/null 2>&1 &")
        await asyncio.sleep(0.6)
        assert (await env.exec("echo again")).stdout == "again\n"

    async def test_files_come_back_as_they_went(self, env: Environment, tmp_path: Path):
        source = tmp_path / "source"
        (source / "deep/er").mkdir(parents=True)
        for number, name in enumerate(ODD_NAMES):
            (source / "deep" / name).write_bytes(os.urandom(1000 + number))
            (source / "deep" / name).chmod(0o755 if number % 2 else 0o600)
        (source / "link").symlink_to("deep/plain")
        (source / ".hidden").write_text("h")
        await env.upload_dir(source, "/data/new folder")
        await env.download_dir("/data/new folder", tmp_path / "back")
        for path in source.rglob("*"):
            copy = tmp_path / "back" / path.relative_to(source)
            assert copy.is_symlink() == path.is_symlink()
            if path.is_file():
                assert copy.read_bytes() == path.read_bytes()
                assert stat.S_IMODE(copy.stat().st_mode) == stat.S_IMODE(path.stat().st_mode)
        assert (await env.exec("stat -c %u:%g '/data/new folder/.hidden'")).stdout == "0:0\n"

    async def test_single_files(self, env: Environment, tmp_path: Path):
        big = tmp_path / "big file"
        big.write_bytes(os.urandom(1024) * 5000)
        big.chmod(0o741)
        await env.upload_file(big, "relative dir/it's")
        assert (await env.exec("stat -c '%a %s' \"/app/relative dir/it's\"")).stdout == "741 5120000\n"
        await env.download_file("/app/relative dir/it's", tmp_path / "out/copy")
        assert (tmp_path / "out/copy").read_bytes() == big.read_bytes()
        await env.upload_file(__file__, "/app/relative dir/it's")  # over an existing one
        await env.exec('ln -s "relative dir/it\'s" link')
        await env.download_file("/app/link", tmp_path / "through")
        assert (tmp_path / "through").read_bytes() == Path(__file__).read_bytes()
        with pytest.raises(TransferError, match="/nope"):
            await env.download_file("/nope", tmp_path / "x")
        with pytest.raises(TransferError):
            await env.download_dir("/nope", tmp_path / "y")
        with pytest.raises(TransferError):
            await env.upload_dir(tmp_path / "nope", "/x")

    async def test_no_network_but_loopback(self, env: Environment):
        if not self.has_own_network:
            assert (await env.exec("cat /proc/net/route")).stdout == Path("/proc/net/route").read_text()
            return
        devices = await env.exec("cat /proc/net/dev | tail -n +3 | cut -d: -f1 | tr -d ' '")
        assert devices.stdout == "lo\n"
        assert (await env.exec("cat /proc/net/route | tail -n +2")).stdout is None

    async def test_log_folders_are_there_for_all(self, env: Environment):
        modes = await env.exec("stat -c %a /logs/agent /logs/verifier /logs/artifacts")
        assert modes.stdout == "777\n777\n777\n"

    async def test_stop_is_quick_final_and_idempotent(self, env: Environment):
        await env.exec("trap '' TERM; sleep 9999 & (trap '' TERM; sleep 9998) &")
        assert await env.is_alive()
        pending = asyncio.create_task(env.exec("sleep 100"))
        await asyncio.sleep(0.3)
        began = time.monotonic()
        await env.stop()
        assert time.monotonic() - began < 9  # Docker's grace is 10 s
        with pytest.raises(EnvironmentLost):
            await pending
        assert not await env.is_alive()
        await env.stop()
        with pytest.raises(EnvironmentLost):
            await env.exec("true")


class GuardContract:
    """What `exec_guarded` must do where it can be private."""

    @staticmethod
    def folder_of_tests(tmp_path: Path, script: str) -> Path:
        folder = tmp_path / "tests"
        (folder / "data").mkdir(parents=True)
        (folder / "test.sh").write_text(script)
        (folder / "data/expected").write_text("42\n")
        return folder

    async def verify(self, where: Environment, tmp_path: Path, script: str, **changes):
        run = GuardedRun(
            "/tests/test.sh",
            upload={"/tests": self.folder_of_tests(tmp_path, script)},
            collect={"/logs/verifier": tmp_path / "out"},
            executable=("/tests/test.sh",),
            **{"timeout_sec": 30, **changes},
        )
        result = await where.exec_guarded(run)
        return result, tmp_path / "out"

    async def test_it_runs_and_its_results_come_out(self, env: Environment, tmp_path: Path):
        await env.exec("echo old >/logs/verifier/stale; mkdir -p /tests; echo planted >/tests/conftest.py")
        script = (
            "#!/bin/sh\npwd; echo $MODE; ls /tests /logs/verifier; cat /app/work; echo made >/app/by-test\n"
            "mkdir /logs/verifier/sub; echo 1 >/logs/verifier/reward.txt\n"
            "echo x >/logs/verifier/sub/y\nexit 4\n"
        )
        await env.exec("echo work >/app/work")
        result, out = await self.verify(env, tmp_path, script, env={"MODE": "it's"})
        assert (result.guard, result.return_code, result.timed_out) == ("private", 4, False)
        assert result.output == "/app\nit's\n/logs/verifier:\n\n/tests:\ndata\ntest.sh\nwork\n"
        assert (out / "reward.txt").read_text() == "1\n" and (out / "sub/y").read_text() == "x\n"
        assert not (out / "stale").exists()
        assert (await env.exec("cat /app/by-test")).stdout == "made\n"

    async def test_a_hostile_leftover_changes_nothing(self, env: Environment, tmp_path: Path):
        hostile = (
            "trap '' TERM HUP; while :; do for p in '' /proc/[0-9]*/root /proc/[0-9]*/cwd/..; do "
            "echo 1 >$p/logs/verifier/reward.txt; "
            "echo 'echo 1 >/logs/verifier/reward.txt' >$p/tests/test.sh; "
            "done; mv /tests /moved.$$; mv /logs /l.$$; mkdir -p /tests /logs/verifier; rmdir /tests; done"
        )
        await env.exec(f"({hostile}) >/dev/null 2>&1 & echo $! >/tmp/leftover; sleep 0.2")
        script = (
            "#!/bin/sh\n[ ! -e /logs/verifier/reward.txt ] || exit 9\nsleep 1\n"
            "[ ! -e /logs/verifier/reward.txt ] || exit 8\n"
            "kill -0 $(cat /tmp/leftover) || exit 7\ncat /tests/data/expected\n"
            "echo 0 >/logs/verifier/reward.txt\nsleep 0.5\n"
        )
        result, out = await self.verify(env, tmp_path, script)
        assert (result.guard, result.return_code, result.output) == ("private", 0, "42\n")
        assert (out / "reward.txt").read_text() == "0\n"

    async def test_a_timeout_keeps_the_results_so_far(self, env: Environment, tmp_path: Path):
        n = unique()
        script = f"#!/bin/sh\necho 0.5 >/logs/verifier/reward.txt; echo early; sleep {n}1; echo late\n"
        result, out = await self.verify(env, tmp_path, script, timeout_sec=1)
        assert (result.timed_out, result.return_code, result.output) == (True, None, "early\n")
        assert (out / "reward.txt").read_text() == "0.5\n"
        assert await running(env, f"sleep {n}[1]") == 0

    async def test_a_server_of_the_agent_can_be_talked_to(self, env: Environment, tmp_path: Path):
        await env.exec(
            'mkfifo /tmp/pipe; (while read -r line; do echo "got $line" >>/app/heard; done </tmp/pipe) &'
        )
        script = "#!/bin/sh\necho hello >/tmp/pipe; sleep 0.3; cat /app/heard; sleep 100 &\n"
        script += "echo 1 >/logs/verifier/reward.txt\n"
        result, out = await self.verify(env, tmp_path, script)
        assert result.output == "got hello\n" and (out / "reward.txt").exists()

    async def test_it_has_no_more_rights_than_any_command(self, env: Environment, tmp_path: Path):
        script = (
            "#!/bin/sh\ngrep -E 'Cap(Eff|Bnd)' /proc/self/status; mount -t tmpfs x /mnt && echo mounted\n"
        )
        result, _ = await self.verify(env, tmp_path, script)
        usual = int((await env.exec("grep CapEff /proc/self/status | cut -f2")).stdout or "", 16)
        for line in (result.output or "").splitlines()[:2]:
            assert int(line.split()[1], 16) == usual | 1 << 35  # CAP_WAKE_ALARM
        assert "mounted" not in (result.output or "")


class WatchedContract:
    """What `exec_guarded` must do where the verifier's folders are in the open."""

    @staticmethod
    async def verify(where: Environment, tmp_path: Path, script: str, **changes: Any):
        """A guarded run of this script as /tests/test.sh."""
        tests = tmp_path / "tests"
        tests.mkdir()
        (tests / "test.sh").write_text(script)
        run = GuardedRun(
            "/tests/test.sh",
            upload={"/tests": tests},
            collect={"/logs/verifier": tmp_path / "out"},
            executable=("/tests/test.sh",),
            **{"timeout_sec": 30, **changes},
        )
        return await where.exec_guarded(run), tmp_path / "out"

    async def test_a_verification_is_fresh_and_its_results_come_out(self, env: Environment, tmp_path: Path):
        await env.exec("echo old >/logs/verifier/stale; mkdir -p /tests; echo planted >/tests/conftest.py")
        script = "#!/bin/sh\npwd; echo $MODE; ls /tests /logs/verifier\n"
        script += "echo 1 >/logs/verifier/reward.txt\nexit 4\n"
        result, out = await self.verify(env, tmp_path, script, env={"MODE": "it's"})
        assert (result.guard, result.return_code, result.findings) == ("watched", 4, ())
        assert result.output == "/app\nit's\n/logs/verifier:\n\n/tests:\ntest.sh\n"
        assert (out / "reward.txt").read_text() == "1\n" and not (out / "stale").exists()

    async def test_a_verification_that_times_out_keeps_its_results(self, env: Environment, tmp_path: Path):
        n = unique()
        script = f"#!/bin/sh\necho 0.5 >/logs/verifier/reward.txt; echo early; sleep {n}1; echo late\n"
        result, out = await self.verify(env, tmp_path, script, timeout_sec=1)
        assert (result.timed_out, result.return_code, result.output) == (True, None, "early\n")
        assert (out / "reward.txt").read_text() == "0.5\n" and result.findings == ()
        assert await running(env, f"sleep {n}[1]") == 0

    @pytest.mark.parametrize(
        "leftover",
        [
            pytest.param("while :; do echo 1 >/logs/verifier/reward.txt; done", id="writes the reward"),
            pytest.param("while :; do echo 'exit 0' >/tests/test.sh; done", id="rewrites the tests"),
            pytest.param(
                "while :; do mv /tests /elsewhere; mkdir -p /tests; done", id="takes the tests away"
            ),
            pytest.param(
                "until [ -e /app/ran ]; do :; done; sleep 4; echo 1 >/logs/verifier/reward.txt", id="waits"
            ),
        ],
    )
    async def test_a_hostile_leftover_is_told_or_comes_too_late(
        self, env: Environment, tmp_path: Path, leftover: str
    ):
        await env.exec(f"(trap '' TERM HUP; {leftover}) >/dev/null 2>&1 & sleep 0.2")
        script = "#!/bin/sh\nsleep 0.5\necho 0 >/logs/verifier/reward.txt\ntouch /app/ran\n"
        result, out = await self.verify(env, tmp_path, script)
        assert result.guard == "watched"
        assert result.findings or (out / "reward.txt").read_text() == "0\n"

    async def test_a_server_of_the_agent_stays_and_is_no_finding(self, env: Environment, tmp_path: Path):
        await env.exec(
            "(while :; do date >>/app/beat; date >>/logs/agent/beat; sleep 0.02; done) >/dev/null 2>&1 &"
        )
        script = "#!/bin/sh\nsleep 0.3; [ -s /app/beat ] && echo 1 >/logs/verifier/reward.txt\n"
        result, out = await self.verify(env, tmp_path, script)
        assert result.findings == () and (out / "reward.txt").read_text() == "1\n"
