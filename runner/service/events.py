"""The events of a job, which clients of the service follow."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from runner.jobs import JobContext, JobObserver, TrialProgress
from runner.jobs.results import JobResultWriter
from runner.json_values import JsonObject
from runner.pages.trajectory import NoTrajectory, read_steps
from runner.results import TrialRecord
from runner.service.responses import cut, step_messages

Emit = Callable[[str, JsonObject], Awaitable[None]]
"""Takes the type and the data of an event, and may have to wait until it can be stored."""

STEP_POLL_SEC = 1.0
# Of a trial, and the characters of each of a step's texts. The trajectory has all of it.
MAX_STEPS = 5_000
MAX_STEP_CHARS = 2_000


@dataclass
class _FollowedTrial:
    """A running trial: its folder, and how many steps of its trajectory are known."""

    folder: Path
    steps: int = 0
    seen: tuple[int, int] | None = None

    def new_steps(self) -> list[JsonObject]:
        """Return the steps that were written since the last call. Reads a file: use a thread."""
        try:
            status = (self.folder / "agent" / "trajectory.json").lstat()
            seen = (status.st_mtime_ns, status.st_size)
            if seen == self.seen:
                return []
            steps = read_steps(self.folder)
        except (OSError, NoTrajectory):
            return []
        self.seen = seen
        new = steps[self.steps : MAX_STEPS]
        self.steps += len(new)
        return new


class EventObserver(JobObserver):
    """Emits an event for each change of a job, in order. `redact` removes secrets from its texts.

    `run` emits them. The queue emits the end of the job itself, after the job's folder has been
    released.
    """

    def __init__(self, emit: Emit, redact: Callable[[str], str]) -> None:
        self._emit = emit
        self._redact = redact
        self._waiting: asyncio.Queue[tuple[str, JsonObject] | None] = asyncio.Queue()
        self._trials: dict[str, _FollowedTrial] = {}
        self._job: Path | None = None

    async def run(self) -> None:
        """Emit events, and the steps of running trials, until `close` is called."""
        while True:
            try:
                event = await asyncio.wait_for(self._waiting.get(), STEP_POLL_SEC)
            except TimeoutError:
                for name in list(self._trials):
                    await self._emit_steps(name)
                continue
            if event is None:
                return
            kind, data = event
            trial = str(data.get("trial"))
            if kind == "trial_started" and self._job is not None:
                self._trials[trial] = _FollowedTrial(self._job / trial)
            elif kind in ("trial_ended", "trial_retried"):
                await self._emit_steps(trial)
                self._trials.pop(trial, None)
            await self._emit(kind, data)

    def close(self) -> None:
        """Let `run` end once it has emitted everything."""
        self._waiting.put_nowait(None)

    def job_started(
        self, context: JobContext, results: JobResultWriter, running: Mapping[str, TrialProgress]
    ) -> None:
        self._job = context.directory.root
        trials = [{"trial": t.trial_name, "attempt": t.attempt} for t in context.lock.trials]
        self._add("job_started", {"trials": trials, "model": context.model.source.label})

    def trial_started(self, progress: TrialProgress) -> None:
        plan = progress.plan
        self._add(
            "trial_started", {"trial": plan.trial_name, "task": plan.task.name, "attempt": plan.attempt}
        )

    def trial_placed(self, progress: TrialProgress) -> None:
        self._add("trial_placed", {"trial": progress.plan.trial_name, "node": progress.node})

    def trial_retried(self, progress: TrialProgress, record: TrialRecord, wait_sec: float) -> None:
        self._add(
            "trial_retried",
            {
                "trial": progress.plan.trial_name,
                "error": self._redact(record.error or ""),
                "wait_sec": wait_sec,
            },
        )

    def trial_ended(self, record: TrialRecord) -> None:
        self._add(
            "trial_ended",
            {
                "trial": record.trial_name,
                "task": record.task_name,
                "attempt": record.attempt,
                "status": record.status,
                "reward": record.reward,
                "passed": record.passed,
                "timed_out": record.timed_out,
                "error": None if record.error is None else self._redact(record.error),
                **({"node": record.node} if record.node else {}),
            },
        )

    def note(self, line: str, *, warning: bool = True) -> None:
        self._add("note", {"line": self._redact(line), "warning": warning})

    def _add(self, kind: str, data: JsonObject) -> None:
        self._waiting.put_nowait((kind, data))

    async def _emit_steps(self, trial: str) -> None:
        followed = self._trials.get(trial)
        if followed is None:
            return
        first = followed.steps + 1
        for number, step in enumerate(await asyncio.to_thread(followed.new_steps), first):
            (role, content), *results = step_messages(step)
            texts = [cut(self._redact(text), MAX_STEP_CHARS) for _, text in results]
            content = cut(self._redact(content), MAX_STEP_CHARS)
            await self._emit(
                "step",
                {"trial": trial, "step": number, "role": role, "content": content, "results": texts},
            )
            await asyncio.sleep(0)  # a hostile trajectory has thousands of them
