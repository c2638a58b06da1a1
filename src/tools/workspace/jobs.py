"""Commands in the background."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass, field

from src.tools.workspace.codec import to_bytes
from src.tools.workspace.commands import start_error
from src.tools.workspace.errors import WorkspaceError
from src.tools.workspace.files import FileTransfer
from src.tools.workspace.models import JobState, JobStatus
from src.tools.workspace.rpc import ContainerRpc, RpcError
from src.tools.workspace.upload import Uploader

POLL_MAX_BYTES = 64 * 1024  # of new output that one poll returns
POLL_MAX_SEC = 600.0
MAX_COMMAND_CHARS = 200  # of the command in a status


@dataclass
class _Job:
    command: str
    started: float = field(default_factory=time.monotonic)
    offset: int = 0
    closed: bool = False
    ended_after: float | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Jobs:
    """Runs commands that outlive their exec, with output in a file and stdin on a fifo."""

    def __init__(self, rpc: ContainerRpc, uploader: Uploader, transfer: FileTransfer) -> None:
        self._rpc = rpc
        self._uploader = uploader
        self._transfer = transfer
        self._jobs: dict[str, _Job] = {}

    async def start(self, command: str, cwd: str | None) -> str:
        """Start a job and return its id."""
        if "\0" in command:
            raise WorkspaceError("the command contains a NUL byte, which no shell can run")
        payload = to_bytes(command)
        job_id = f"job{len(self._jobs) + 1}"
        job = self._jobs[job_id] = _Job(command[:MAX_COMMAND_CHARS])
        inline = len(payload) <= self._rpc.payload_capacity("start", job_id, cwd or "")
        try:
            if not inline:
                await self._uploader.upload(f"{self._rpc.installed.scratch}/{job_id}.cmd", payload)
            await self._rpc.call(
                *("start", job_id, cwd or "", payload if inline else "@"), timeout_sec=30.0, reinstall=inline
            )
        except RpcError as error:
            del self._jobs[job_id]
            raise start_error(error, cwd) from None
        job.started = time.monotonic()
        return job_id

    async def poll(self, job_id: str, wait_sec: float) -> JobStatus:
        """Return the state and the new output; see Workspace.poll_job."""
        job = self._find(job_id)
        wait = min(max(wait_sec, 0.0), POLL_MAX_SEC)
        async with job.lock:
            response = await self._rpc.call(
                *("poll", job_id, str(job.offset), str(POLL_MAX_BYTES), str(math.ceil(wait))),
                timeout_sec=wait + 30.0,
                reinstall=False,
            )
            state, exit_code, size = response.fields
            total = int(size)
            new = max(0, total - job.offset)
            returned = min(new, POLL_MAX_BYTES)
            if response.complete:
                data = response.data[:returned]
            else:
                data = await self._transfer.read(self._output_path(job_id), total - returned, returned)
            job.offset = max(job.offset, total)
            return self._status(job_id, job, state, exit_code, total, data, new - len(data))

    async def feed(self, job_id: str, data: bytes, close: bool) -> None:
        """Write to the job's stdin; see Workspace.feed_job."""
        job = self._find(job_id)
        async with job.lock:
            if job.closed:
                raise WorkspaceError(f"the stdin of {job_id} was closed before")
            size = min(self._rpc.payload_capacity("feed", job_id, "1"), 32 * 1024)
            parts = [data[i : i + size] for i in range(0, len(data), size)] or [b""]
            for index, part in enumerate(parts):
                last = close and index == len(parts) - 1
                try:
                    await self._rpc.call("feed", job_id, "1" if last else "", part, reinstall=False)
                except RpcError as error:
                    taken = f"{index * size} of {len(data)} bytes were taken"
                    reasons = {"ended": "has ended", "full": "does not read its stdin"}
                    reason = reasons.get(error.code, str(error))
                    raise WorkspaceError(f"{job_id} {reason}: {taken}") from None
            job.closed = close

    async def stop(self, job_id: str) -> JobStatus:
        """Send TERM, then KILL, to the job's whole group; return the state and the new output."""
        self._find(job_id)
        await self._rpc.call("halt", job_id, timeout_sec=30.0, reinstall=False)
        return await self.poll(job_id, 0.0)

    async def list(self) -> list[JobStatus]:
        """Return all jobs in the order in which they were started, without their output."""
        if not self._jobs:
            return []
        response = await self._rpc.call("jobs", *self._jobs, reinstall=False)
        statuses: list[JobStatus] = []
        for (job_id, job), line in zip(self._jobs.items(), response.data.decode().splitlines(), strict=True):
            state, exit_code, size = line.split()
            statuses.append(self._status(job_id, job, state, exit_code, int(size), b"", 0))
        return statuses

    async def stop_all(self) -> None:
        """Stop the jobs that still run."""
        for status in await self.list():
            if status.state == "running":
                await self.stop(status.job_id)

    def _find(self, job_id: str) -> _Job:
        job = self._jobs.get(job_id)
        if job is None:
            known = ", ".join(self._jobs) or "none was started"
            raise WorkspaceError(f"no job {job_id!r}; there are: {known}")
        return job

    def _output_path(self, job_id: str) -> str:
        return f"{self._rpc.installed.scratch}/{job_id}.out"

    def _status(
        self, job_id: str, job: _Job, state: str, exit_code: str, total: int, output: bytes, skipped: int
    ) -> JobStatus:
        if state != "running" and job.ended_after is None:
            job.ended_after = time.monotonic() - job.started
        kind: JobState = "running" if state == "running" else "exited" if state == "exited" else "lost"
        return JobStatus(
            job_id=job_id,
            command=job.command,
            state=kind,
            exit_code=int(exit_code) if exit_code.isdigit() else None,
            output=output,
            skipped_bytes=skipped,
            total_bytes=total,
            output_path=self._output_path(job_id),
            elapsed_sec=job.ended_after or time.monotonic() - job.started,
        )
