"""Runs a submission's agent for one trial, in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from runner.agents.calls import Calls
from runner.agents.confinement import AgentWorkdir, Confinement, Unconfined
from runner.agents.limits import AgentLimits
from runner.agents.outcome import AgentOutcome, OutcomeKind, PhaseTimes, now
from runner.agents.package import AgentPackage
from runner.agents.process import AgentProcess, ProcessEnd, run_to_end
from runner.agents.protocol import Done
from runner.agents.session import AgentSession, SessionBroken
from runner.environments import Environment
from runner.environments.owner import PREFIX, orphaned_directories, owned_directory

__all__ = ["AgentHost"]

_PREFIX = f"{PREFIX}agent-"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_OUTPUT_LOG = "stdout.txt"
_EXIT_SEC = 2.0
_WATCH_SEC = 1.0


class AgentHost:
    """One agent for one trial.

    Args:
        package: the submission, shared by all trials.
        environment: what the agent's calls reach; started.
        logs_dir: the trial's agent folder: given to the agent, and where its output goes (stdout.txt).
        variables: the agent's variables (the four of contracts.md 2); with PATH, HOME and LANG its whole
            process environment.
        model_name, extra: arguments of the constructor.
        rules: what the agent finds and how it is timed: as the validator does (one clock over setup and run,
            its environment and context) or as Harbor does.
        confinement: how its process is shut off; by default not at all.
    """

    def __init__(
        self,
        package: AgentPackage,
        *,
        environment: Environment,
        logs_dir: Path,
        variables: Mapping[str, str],
        model_name: str | None = None,
        extra: Mapping[str, Any] | None = None,
        rules: Literal["validator", "harbor"] = "validator",
        limits: AgentLimits | None = None,
        confinement: Confinement | None = None,
        task_name: str = "",
    ) -> None:
        self._package = package
        self._environment = environment
        self._logs_dir = logs_dir.resolve()
        self._variables = dict(variables)
        self._model_name = model_name
        self._extra = dict(extra or {})
        self._rules = rules
        self._limits = limits or AgentLimits()
        self._confinement = confinement or Unconfined()
        self._task_name = task_name
        self._deadline_reached = False

    async def run(
        self, instruction: str, *, setup_timeout_sec: float, timeout_sec: float | None
    ) -> AgentOutcome:
        """Runs it to its end, or to its clock; kills all that it started. Raises only CancelledError.

        Args:
            instruction: for the agent.
            setup_timeout_sec: for `setup`, under Harbor's rules or where there is no other clock.
            timeout_sec: for `run`; under the validator's rules for `setup` and `run` together. None: none.
        """
        self._logs_dir.mkdir(parents=True, exist_ok=True)
        work_dir = await asyncio.to_thread(owned_directory, _PREFIX)
        try:
            async with self._confinement.workdir(
                self._package, work_dir=work_dir, logs_dir=self._logs_dir, limits=self._limits
            ) as workdir:
                return await self._run_in(work_dir, workdir, instruction, setup_timeout_sec, timeout_sec)
        finally:
            await asyncio.to_thread(shutil.rmtree, work_dir, ignore_errors=True)

    async def _run_in(
        self,
        work_dir: Path,
        workdir: AgentWorkdir,
        instruction: str,
        setup_timeout_sec: float,
        timeout_sec: float | None,
    ) -> AgentOutcome:
        process = await AgentProcess.start(
            workdir.command,
            environ={"PATH": _PATH, "HOME": str(workdir.home), "LANG": "C.UTF-8", **self._variables},
            cwd=workdir.cwd,
            work_dir=work_dir,
            limits=self._limits,
        )
        calls = Calls(self._environment, work_dir, self._limits.transfer_bytes)
        session = AgentSession(process.process, calls, self._limits)
        helpers = [
            asyncio.create_task(session.read()),
            asyncio.create_task(process.keep_output(self._logs_dir / _OUTPUT_LOG)),
            asyncio.create_task(self._watch_logs(session, workdir.kept_logs)),
        ]
        done: Done | SessionBroken | None = None
        try:
            await session.send(self._start(workdir, instruction))
            done = await self._until_end(session, setup_timeout_sec, timeout_sec)
            if isinstance(done, Done) or (done is not None and done.kind == "AgentCrashedError"):
                await process.wait(_EXIT_SEC)
        finally:
            finished = session.finished or now()
            session.leave()
            end = await run_to_end(process.end())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_EXIT_SEC):
                    await helpers[1]
            for helper in helpers:
                helper.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)
        return self._outcome(session, process, done, end, finished)

    def _start(self, workdir: AgentWorkdir, instruction: str) -> dict[str, Any]:
        return {
            "type": "start",
            "root": str(workdir.root),
            "logs_dir": str(workdir.logs_dir),
            "model_name": self._model_name,
            "variables": self._variables,
            "extra": self._extra,
            "instruction": instruction,
            "task_name": self._task_name,
            "rules": self._rules,
            "line_bytes": self._limits.line_bytes,
        }

    async def _until_end(
        self, session: AgentSession, setup_timeout_sec: float, timeout_sec: float | None
    ) -> Done | SessionBroken | None:
        """The last message, or why there is none; None where the clock ran out and the agent with it."""
        try:
            try:
                async with asyncio.timeout(self._limits.construction_sec):
                    await _first(session.constructed.wait(), session)
            except TimeoutError:
                return SessionBroken(
                    "AgentConstructionTimeout",
                    f"not imported and constructed after {self._limits.construction_sec:g} s",
                )
            try:
                if self._rules == "validator" and timeout_sec is not None:
                    async with asyncio.timeout(timeout_sec):
                        return await asyncio.shield(session.ended)
                async with asyncio.timeout(setup_timeout_sec):
                    await _first(session.running.wait(), session)
                async with asyncio.timeout(timeout_sec):
                    return await asyncio.shield(session.ended)
            except TimeoutError:
                self._deadline_reached = True
            async with asyncio.timeout(self._limits.grace_sec):
                await session.send({"type": "cancel"})
                return await asyncio.shield(session.ended)
        except TimeoutError:
            return None
        except SessionBroken as broken:
            return broken

    async def _watch_logs(self, session: AgentSession, logs: Path) -> None:
        """Ends an agent that fills the disk through its log folder."""
        while True:
            await asyncio.sleep(_WATCH_SEC)
            size, files = await asyncio.to_thread(_measure, logs, self._limits.log_files + 1)
            if size > self._limits.logs_bytes:
                session.break_off(
                    "AgentLimitError",
                    f"it wrote more than {self._limits.logs_bytes >> 20} MiB into its log folder",
                )
            elif files > self._limits.log_files:
                session.break_off(
                    "AgentLimitError", f"it made more than {self._limits.log_files} files in its log folder"
                )

    def _outcome(
        self,
        session: AgentSession,
        process: AgentProcess,
        done: Done | SessionBroken | None,
        end: ProcessEnd,
        finished: Any,
    ) -> AgentOutcome:
        kind, failure = self._judge(session, done)
        message, trace = (failure or {}).get("exception_message"), (failure or {}).get("traceback")
        if (
            isinstance(done, SessionBroken)
            and (cause := end.describe(self._limits))
            and end.reason != "it was told to end"
        ):
            message = f"{cause}" if done.kind == "AgentCrashedError" else f"{message} ({cause})"
        if isinstance(done, SessionBroken) and process.last_words.strip():
            trace = f"the end of its output:\n{process.last_words}"
        told = session.introduced
        began = session.began
        setup_end = began.get("execution", finished)
        return AgentOutcome(
            kind,
            phase=session.phase,
            message=done.message if isinstance(done, Done) else None,
            exception_type=(failure or {}).get("exception_type"),
            exception_message=message,
            traceback=trace,
            context=session.figures,
            agent_name=told.name if told else None,
            agent_version=told.version if told else None,
            agent_info=told.info if told else None,
            setup=PhaseTimes(began["setup"], setup_end) if "setup" in began else None,
            execution=PhaseTimes(began["execution"], finished) if "execution" in began else None,
            deadline_reached=self._deadline_reached,
            interpreter=self._package.interpreter.origin,
            output_truncated=process.output_truncated,
        )

    def _judge(
        self, session: AgentSession, done: Done | SessionBroken | None
    ) -> tuple[OutcomeKind, dict[str, str | None] | None]:
        if isinstance(done, SessionBroken):
            if self._deadline_reached:
                return "timeout", {"exception_type": "AgentTimeoutError", "exception_message": str(done)}
            kind: OutcomeKind = "construction_failed" if session.introduced is None else "crashed"
            return kind, {"exception_type": done.kind, "exception_message": str(done)}
        if done is None or (done.end == "cancelled"):
            where = "setup" if session.phase == "setup" else "run"
            return "timeout", {
                "exception_type": "AgentTimeoutError",
                "exception_message": f"{where} was still running at its time limit",
            }
        if done.end == "invalid":
            return "invalid_return", {
                "exception_type": "AgentInvalidReturnError",
                "exception_message": f"run returned {done.what}",
            }
        if done.end == "returned":
            return ("cancelled_in_time" if self._deadline_reached else "completed"), None
        failure = {
            "exception_type": done.exception_type,
            "exception_message": done.exception_message,
            "traceback": done.traceback,
        }
        return ("construction_failed" if done.end == "construction_failed" else "raised"), failure


async def _first(event: Any, session: AgentSession) -> None:
    """Waits for the event, or for the session's end: then gives way, or raises SessionBroken."""
    waiter = asyncio.ensure_future(event)
    try:
        await asyncio.wait({waiter, session.ended}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiter.cancel()
    if session.ended.done():
        session.ended.result()


def _measure(folder: Path, most: int) -> tuple[int, int]:
    """Bytes and number of the files below a folder; stops counting at ``most`` files."""
    size, files = 0, 0
    for parent, folders, names in os.walk(folder):
        files += len(folders)
        for name in names:
            files += 1
            with contextlib.suppress(OSError):
                size += Path(parent, name).lstat().st_blocks * 512
        if files >= most:
            break
    return size, files


def remove_stale_agents() -> list[Path]:
    """Remove the working folders of agents whose runner is dead (they died with it). Returns them."""
    removed = list(orphaned_directories(_PREFIX, (tempfile.gettempdir(),)))
    for folder in removed:
        shutil.rmtree(folder, ignore_errors=True)
    return removed
