"""The folders that travel: tasks to the nodes, and the folders of trials back to the head."""

from __future__ import annotations

import contextlib
import gzip
import io
import shutil
import tempfile
import zlib
from collections.abc import Generator
from pathlib import Path
from typing import IO, BinaryIO, cast

from runner.environments import TransferError
from runner.environments.archive import pack_dirs, unpack_dir
from runner.results.layout import TrialFiles, regular_file_inside, sync_directory

SUBMISSION = "agent.zip"
"""The agent, in the folder of a job on a node."""
PART_BYTES = 4 * 1024 * 1024
MAX_FOLDER_BYTES = 16 << 30
"""The most that the folder of one trial may take on the head."""
_LEVEL = 1  # trajectories become a fifth of their size even so
# What of a running trial is sent: the name below its folder, and whether it only ever grows.
_LOGS = ("trial.log", "agent/agent.log")
_TRAJECTORY = "agent/trajectory.json"
_LOG_BYTES = 256 * 1024  # at once
# A trajectory is written anew at each step, so it is sent the less often the longer it is.
_TRAJECTORY_BYTES_PER_SEC = 64 * 1024


class FolderTooLarge(Exception):
    """A trial's folder is larger than the head takes."""


def pack_folder(folder: Path) -> bytes:
    """Return a folder as a compressed archive. Raises TransferError."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=_LEVEL, mtime=0) as packed:
        pack_dirs({"": folder}, cast(BinaryIO, packed))
    return buffer.getvalue()


def unpack_folder(data: bytes, target: Path) -> None:
    """Unpack a task's folder. Raises TransferError."""
    with _unpacking(io.BytesIO(data)) as packed:
        unpack_dir(cast(BinaryIO, packed), target)


@contextlib.contextmanager
def _unpacking(stream: IO[bytes]) -> Generator[gzip.GzipFile]:
    """Open a compressed archive. Whatever is wrong with it is a TransferError."""
    try:
        with gzip.GzipFile(fileobj=stream, mode="rb") as packed:
            yield packed
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise TransferError(f"the archive is broken: {error}") from error


def archive_parts(folder: Path) -> Generator[bytes]:
    """Yield the compressed archive of a trial's folder in parts. Raises TransferError."""
    with tempfile.TemporaryFile(dir=folder.parent) as spool:
        with gzip.GzipFile(fileobj=spool, mode="wb", compresslevel=_LEVEL, mtime=0) as packed:
            pack_dirs({"": folder}, cast(BinaryIO, packed))
        spool.seek(0)
        while part := spool.read(PART_BYTES):
            yield part


class IncomingTrial:
    """The folder of one try of a trial, as it arrives at the head.

    What comes is not trusted: an agent wrote a part of it. While the trial runs, the folder holds
    its log and trajectory. Then the archive replaces it in one step, so that a folder with a
    result.json is whole.
    """

    def __init__(self, files: TrialFiles) -> None:
        self._files = files
        self._spool: IO[bytes] | None = None

    def begin(self) -> None:
        """Make the folder. Raises OSError."""
        self._files.create()

    def write_part(self, name: str, offset: int, data: bytes) -> None:
        """Write a part of a file of the running trial. Other names are ignored. Raises OSError."""
        if name not in (*_LOGS, _TRAJECTORY):
            return
        path = self._files.root / name
        if offset:
            with path.open("r+b") as stream:
                stream.seek(offset)
                stream.write(data)
        else:
            path.write_bytes(data)

    def add(self, data: bytes) -> None:
        """Keep a part of the archive. Raises OSError, FolderTooLarge."""
        if self._spool is None:
            self._spool = tempfile.TemporaryFile(dir=self._files.root.parent)  # noqa: SIM115 - till `finish`
        self._spool.write(data)
        if self._spool.tell() > MAX_FOLDER_BYTES:
            raise FolderTooLarge(f"its folder is larger than {MAX_FOLDER_BYTES >> 30} GiB")

    def finish(self) -> None:
        """Put the folder of the archive in place. Raises OSError, TransferError, FolderTooLarge."""
        assert self._spool is not None, "no part of the archive came"
        root = self._files.root
        arriving = root.parent / f".arriving-{root.name}"
        shutil.rmtree(arriving, ignore_errors=True)
        try:
            with self._spool as spool:
                spool.seek(0)
                with _unpacking(spool) as packed:
                    unpack_dir(cast(BinaryIO, _Bounded(packed)), arriving)
            shutil.rmtree(root)
            arriving.rename(root)
            sync_directory(root.parent)
        finally:
            shutil.rmtree(arriving, ignore_errors=True)


class _Bounded(io.RawIOBase):
    """Reads so many bytes and no more, since a short archive may unpack to a long one."""

    def __init__(self, stream: gzip.GzipFile) -> None:
        self._stream = stream
        self._left = MAX_FOLDER_BYTES

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        self._left -= len(data)
        if self._left < 0:
            raise FolderTooLarge(f"its folder is larger than {MAX_FOLDER_BYTES >> 30} GiB")
        return data


class OutgoingFiles:
    """Finds what was added to the log and the trajectory of a running trial, on the node."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._sent: dict[str, int] = {}
        self._trajectory: tuple[int, int] | None = None
        self._trajectory_after = 0.0

    def parts(self, now: float) -> Generator[tuple[str, int, bytes]]:
        """Yield name, offset and content of what is new. `now` is in seconds."""
        for name in _LOGS:
            path = regular_file_inside(self._folder, name)  # the agent may have made a link
            if path is None:
                continue
            with contextlib.suppress(OSError), path.open("rb") as stream:
                offset = self._sent.get(name, 0)
                stream.seek(offset)
                if data := stream.read(_LOG_BYTES):
                    self._sent[name] = offset + len(data)
                    yield name, offset, data
        path = regular_file_inside(self._folder, _TRAJECTORY)
        if path is None or now < self._trajectory_after:
            return
        with contextlib.suppress(OSError):
            state = path.stat()
            version = (state.st_mtime_ns, state.st_size)
            if version != self._trajectory and state.st_size <= PART_BYTES:
                self._trajectory = version
                self._trajectory_after = now + state.st_size / _TRAJECTORY_BYTES_PER_SEC
                yield _TRAJECTORY, 0, path.read_bytes()
