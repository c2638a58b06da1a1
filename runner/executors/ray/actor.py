"""The Ray actor on each node: it starts the node runner, and hands requests and files to it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import ray

from runner.environments.owner import remove_orphans
from runner.executors.ray.folders import SUBMISSION, unpack_folder
from runner.executors.ray.messages import (
    Answer,
    AskStatus,
    Attend,
    BringImage,
    NodeStatus,
    OpenJob,
    Request,
    ask,
    frame,
    socket_in,
)
from runner.executors.ray.trial_task import node_folder

START_SEC = 60.0
LOG = "node.log"
_TAIL_LINES = 8
_MAX_SOCKET = 107  # bytes; unix(7)
_OTHERS_SEC = 10.0  # for another program's node runner to answer
# What the node runner must not inherit from a Ray worker.
_OF_RAY = ("RAY_", "OMP_NUM_THREADS", "PYTHONBREAKPOINT", "PYTHONUNBUFFERED")


class NodeError(Exception):
    """A node takes no trials, for this reason."""


def versions() -> dict[str, str]:
    """Return what must be the same on the head and on every node."""
    try:
        capstan = metadata.version("capstan")
    except metadata.PackageNotFoundError:
        capstan = "not installed"
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {"Capstan": capstan, "Python": python, "Ray": ray.__version__}


class NodeActor:
    """Lives as long as the job's process. Its folder is the node runner's.

    Args:
        prefix: The start of the folder's name.
        node_id: The node's id in Ray.
        name: What the records call this node.
    """

    def __init__(self, prefix: str, node_id: str, name: str) -> None:
        self._prefix = prefix
        self._folder = node_folder(prefix, node_id)
        self._name = name
        self._attending: asyncio.StreamWriter | None = None

    async def versions(self) -> dict[str, str]:
        """Return the versions that this node has."""
        return versions()

    async def start(self) -> None:
        """Start the node runner. Raises NodeError."""
        if len(os.fsencode(socket_in(self._folder))) > _MAX_SOCKET:
            raise NodeError(f"{self._folder} is too long a name for a socket: set a shorter TMPDIR")
        await asyncio.to_thread(remove_orphans, self._prefix)  # of a node runner that was killed
        self._folder.mkdir(mode=0o700)
        log = self._folder / LOG
        environ = {key: value for key, value in os.environ.items() if not key.startswith(_OF_RAY)}
        # A session of its own and no parent: Ray kills what its workers leave behind, and this
        # process must live long enough to clean up.
        command = [sys.executable, "-m", "runner.executors.ray.node", str(self._folder), self._name]
        with log.open("wb") as output:
            await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-c", _DETACH, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environ,
                check=True,
            )
        reader, self._attending = await self._connect()
        self._attending.write(frame(Attend()))
        await reader.readline()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_SEC):
                while True:
                    with contextlib.suppress(OSError):
                        return await asyncio.open_unix_connection(socket_in(self._folder))
                    await asyncio.sleep(0.05)
        raise NodeError(f"the node runner did not start within {START_SEC:g} s{self._log_tail()}")

    async def open_job(
        self, request: OpenJob, submission: list[ray.ObjectRef[bytes]], tasks: list[ray.ObjectRef[bytes]]
    ) -> Answer:
        """Fetch the files of a job, and have the node runner get ready for its trials."""
        root = self._folder / request.key
        await asyncio.to_thread(root.mkdir)
        for reference in submission:
            await asyncio.to_thread((root / SUBMISSION).write_bytes, await reference)
        for parcel, reference in zip(request.tasks, tasks, strict=True):
            folder = root / "tasks" / parcel.digest / parcel.folder
            if not folder.exists():
                await asyncio.to_thread(unpack_folder, await reference, folder)
        return await ask(self._folder, request)

    async def bring_image(self, request: BringImage, task: list[ray.ObjectRef[bytes]]) -> Answer:
        """Fetch a task's folder, and have the node runner pull or build its image."""
        await asyncio.to_thread(unpack_folder, await task[0], self._folder / request.key / request.folder)
        return await ask(self._folder, request)

    async def running_trials(self) -> list[str]:
        """Return the trials that run on this node, of all programs of this user."""
        prefix, _, node = self._folder.name.rsplit("-", 2)  # between them is the program's own word
        folders = sorted(self._folder.parent.glob(f"{prefix}-*-{node}"))
        found = await asyncio.gather(*(_running_in(folder) for folder in folders))
        return [name for names in found for name in names]

    async def ask(self, request: Request) -> Answer:
        """Pass a request to the node runner. Raises OSError if it is gone."""
        return await ask(self._folder, request)

    def _log_tail(self) -> str:
        with contextlib.suppress(OSError):
            lines = (self._folder / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
            if lines:
                return f"; the end of its log:\n{chr(10).join(lines[-_TAIL_LINES:])}"
        return ""


async def _running_in(folder: Path) -> list[str]:
    """Return the trials of a node runner. There are none if it is another user's or has ended."""
    with contextlib.suppress(OSError, ValueError, TimeoutError):  # or if it is another version
        async with asyncio.timeout(_OTHERS_SEC):
            answer = await ask(folder, AskStatus())
        return answer.running if isinstance(answer, NodeStatus) else []
    return []


_DETACH = """
import os, sys
if not os.fork():
    os.setsid()
    os.execv(sys.argv[1], sys.argv[1:])
"""
