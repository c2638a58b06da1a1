"""The sandbox environment: bubblewrap, without a daemon or an image, as root or as an ordinary
user."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from subprocess import PIPE

from runner.environments.base import (
    EnvironmentFailure,
    EnvironmentSpec,
    GuardedResult,
    GuardedRun,
)
from runner.environments.guard import guarded_script, run_guarded
from runner.environments.rootfs.environment import PATH, RootfsEnvironment
from runner.environments.sandbox.process import CAPABILITIES, GuardPipes, SandboxProcess


class SandboxEnvironment(RootfsEnvironment[SandboxProcess]):
    """One bubblewrap sandbox per trial, with loopback as its only network."""

    kind = "sandbox"
    what = "sandbox"

    def _make_processes(self, base: Path, root: Path) -> SandboxProcess:
        return SandboxProcess(base, root)

    async def exec_guarded(self, run: GuardedRun) -> GuardedResult:
        self._check_user(run.user)
        cwd = run.cwd or self._workdir
        run = replace(run, env={**self._env, **run.env})
        script = guarded_script(run, cwd=cwd, capabilities=CAPABILITIES, no_new_privs=True)
        process = await self._alive().enter(
            ["unshare", "--mount", "sh", "-c", script.text],
            {"PATH": PATH},
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            privileged=True,
        )
        assert self._sessions is not None
        return await run_guarded(GuardPipes(process), script, run, self._sessions)


_unavailable: list[str | None] = []


async def sandbox_unavailable() -> str | None:
    """Return why no sandbox can run on this machine, in one line; None if one can.

    The answer comes from a sandbox that is started as a trial starts it, a command in it and a
    guarded command. It is found once per process.
    """
    if not _unavailable:
        _unavailable.append(await _try())
    return _unavailable[0]


async def _try() -> str | None:
    environment = SandboxEnvironment(EnvironmentSpec("check", "check", docker_image="none"))
    try:
        await environment.start()
        ended = await environment.exec_guarded(GuardedRun("true", cwd="/", timeout_sec=30.0))
    except (EnvironmentFailure, OSError) as error:
        return " ".join(str(error).split())
    finally:
        await environment.stop()
    return None if ended.return_code == 0 else f"a guarded command failed: {ended.output}"
