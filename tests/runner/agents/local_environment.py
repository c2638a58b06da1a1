"""An environment that runs commands on this machine: real processes, no container."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Mapping
from pathlib import Path

from runner.environments import (
    Environment,
    EnvironmentSpec,
    ExecResult,
    ExecTimeout,
    GuardedResult,
    GuardedRun,
)


class LocalEnvironment(Environment):
    """Runs commands with `sh` in a folder. It takes absolute paths for paths below that folder."""

    kind = "sandbox"

    def __init__(self, root: Path) -> None:
        super().__init__(EnvironmentSpec("local", "local"))
        self.root = root
        self.commands: list[str] = []

    def place(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    async def start(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)

    async def stop(self) -> None:
        return

    async def exec(
        self,
        command: str,
        cwd: str | None = None,
        env: Mapping[str, str] | None = None,
        timeout_sec: float | None = None,
        user: str | int | None = None,
    ) -> ExecResult:
        self.commands.append(command)
        process = await asyncio.create_subprocess_exec(
            *("sh", "-c", command),
            cwd=self.place(cwd or "/"),
            env={"PATH": os.environ["PATH"], **(env or {})},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(timeout_sec):
                output, _ = await process.communicate()
        except TimeoutError:
            raise ExecTimeout(timeout_sec or 0, None) from None
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        return ExecResult(output.decode("utf-8", "replace") or None, None, process.returncode or 0)

    async def exec_guarded(self, run: GuardedRun) -> GuardedResult:
        raise NotImplementedError

    async def upload_file(self, source_path: Path | str, target_path: str) -> None:
        target = self.place(target_path)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source_path, target)

    async def upload_dir(self, source_dir: Path | str, target_dir: str) -> None:
        shutil.copytree(source_dir, self.place(target_dir), dirs_exist_ok=True)

    async def download_file(self, source_path: str, target_path: Path | str) -> None:
        shutil.copy2(self.place(source_path), target_path)

    async def download_dir(self, source_dir: str, target_dir: Path | str) -> None:
        shutil.copytree(self.place(source_dir), target_dir, dirs_exist_ok=True)

    async def is_alive(self) -> bool:
        return True
