"""Files as bytes: read, write, stat, remove, list."""

from __future__ import annotations

import asyncio
import inspect
import logging
import stat
import tempfile
from pathlib import Path
from typing import Any, cast

from src.tools.workspace.errors import ForbiddenPath, WorkspaceError
from src.tools.workspace.models import DirEntry, FileKind, FileStat
from src.tools.workspace.paths import forbidden_message, is_forbidden
from src.tools.workspace.rpc import CALL_TIMEOUT_SEC, ContainerRpc, Response, RpcError
from src.tools.workspace.upload import TRANSFER_TIMEOUT_SEC, Uploader, octal

CHUNK = 1 << 20  # bytes that one exec reads
SMALLEST_CHUNK = 16 * 1024
ALIGN = 4096  # dd can seek to multiples of this where tail -c is missing
PARALLEL = 4
NATIVE_MINIMUM = 16 << 20
LIST_BYTES = 4 << 20  # of one listing; further entries are left out


class FileTransfer:
    """File operations on absolute paths. It does not check whether a path is off limits."""

    def __init__(
        self, environment: object, rpc: ContainerRpc, uploader: Uploader, log: logging.Logger
    ) -> None:
        native: Any = getattr(environment, "download_file", None)
        self._native = native if inspect.iscoroutinefunction(native) else None
        self._rpc = rpc
        self._uploader = uploader
        self._log = log

    async def read(self, path: str, offset: int, limit: int | None) -> bytes:
        """Return `limit` bytes (None: all) from `offset` on, fewer if the file ends before."""
        if limit is not None:
            limit = max(0, limit)
        start = offset // ALIGN * ALIGN
        end = None if limit is None else -(-(offset + limit) // ALIGN) * ALIGN
        size = CHUNK if end is None else min(CHUNK, max(end - start, ALIGN))
        total, data, size = await self._read_first(path, start, size)
        if end is None or total:
            end = total if end is None else min(end, total)
        if self._native is not None and limit is None and not offset and end - len(data) >= NATIVE_MINIMUM:
            whole = await self._download_natively(path, total)
            if whole is not None:
                return whole
        if total == 0:
            data = await self._read_unsized(path, start, data, size, end or None)
        elif len(data) == size and start + size < end:
            data += await self._read_rest(path, start + size, end, size)
        data = data[offset - start :]
        return data if limit is None else data[:limit]

    async def _read_first(self, path: str, start: int, size: int) -> tuple[int, bytes, int]:
        """Return the size of the file, its first chunk, and a chunk size that is not cut off."""
        while True:
            total, data = await self._get(path, start, size)
            if data is not None:
                return total, data, size
            if size <= SMALLEST_CHUNK:
                raise WorkspaceError(f"{path}: the environment cuts off even {size} bytes of output")
            size = max(SMALLEST_CHUNK, size // 4 // ALIGN * ALIGN)

    async def _read_rest(self, path: str, start: int, end: int, size: int) -> bytes:
        semaphore = asyncio.Semaphore(PARALLEL)

        async def fetch(offset: int) -> bytes:
            async with semaphore:
                _, data = await self._get(path, offset, min(size, end - offset))
            if data is None:
                raise WorkspaceError(f"{path}: the environment cut off what its exec printed")
            return data

        tasks: list[asyncio.Task[bytes]] = []
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(fetch(offset)) for offset in range(start, end, size)]
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None
        return b"".join(task.result() for task in tasks)

    async def _read_unsized(self, path: str, start: int, data: bytes, size: int, end: int | None) -> bytes:
        """Read a file that reports a size of 0, such as those in /proc, until it ends."""
        more = data
        while len(more) == size and (end is None or start + len(data) < end):
            _, got = await self._get(path, start + len(data), size)
            more = got or b""
            data += more
        return data

    async def _get(self, path: str, offset: int, count: int) -> tuple[int, bytes | None]:
        response = await self._call("get", path, str(offset), str(count), timeout_sec=TRANSFER_TIMEOUT_SEC)
        if response.fields[1] != "file":
            raise WorkspaceError(f"{path} is not a regular file")
        return int(response.fields[0]), response.data[:count] if response.complete else None

    async def _download_natively(self, path: str, total: int) -> bytes | None:
        assert self._native is not None
        try:
            with tempfile.TemporaryDirectory() as folder:
                target = Path(folder) / "download"
                await self._native(path, target)
                data = await asyncio.to_thread(target.read_bytes)
        except Exception as error:
            self._log.debug("the environment's download of %s failed (%s); using chunks", path, error)
            return None
        return data if len(data) == total else None

    async def write(self, path: str, data: bytes, mode: int | None) -> None:
        """Write a file, all of it or nothing; see Workspace.write_bytes."""
        try:
            if len(data) <= self._rpc.payload_capacity("put", path, "7777", "99999999"):
                await self._rpc.call(
                    *("put", path, octal(mode), str(len(data)), data), timeout_sec=TRANSFER_TIMEOUT_SEC
                )
                return
            if self._uploader.is_native(len(data)):
                try:
                    await self._uploader.upload(path, data, mode, native=True)
                    return
                except Exception as error:
                    if isinstance(error, RpcError) and error.code != "short":
                        raise
                    self._log.debug("the environment's upload of %s failed (%s); using chunks", path, error)
            await self._uploader.upload(path, data, mode)
        except RpcError as error:
            raise file_error(error, path) from None

    async def stat(self, path: str) -> FileStat | None:
        """Return the entry, links not followed, or None if there is none."""
        response = await self._call("stat", path)
        if response.fields[0] == "none":
            return None
        bits, size, *link = response.fields
        kind, mode = _kind(int(bits, 16)), int(bits, 16) & 0o7777
        if link[0] != "link":
            return FileStat(kind, int(size), mode)
        target = response.data.decode("utf-8", "surrogateescape")
        if link[1] == "-":
            return FileStat("link", int(size), mode, target)
        return FileStat("link", int(size), mode, target, _kind(int(link[1], 16)), int(link[2]))

    async def remove(self, path: str) -> None:
        """Remove a file or a link."""
        await self._call("remove", path)

    async def list_dir(self, path: str, depth: int) -> list[DirEntry]:
        """Return the entries down to `depth` levels, sorted by path; see Workspace.list_dir."""
        response = await self._call(
            "list", path, str(max(1, depth)), str(LIST_BYTES), timeout_sec=TRANSFER_TIMEOUT_SEC
        )
        parts = response.data.split(b"\0")[:-1]
        entries: list[DirEntry] = []
        for about, name in zip(parts[::2], parts[1::2], strict=False):
            kind, _, size = about.decode("ascii", "replace").partition(" ")
            relative = name.decode("utf-8", "surrogateescape")
            if not is_forbidden(f"{path.rstrip('/')}/{relative}"):
                entries.append(DirEntry(relative, _listed_kind(kind), int(size) if size.isdigit() else 0))
        return sorted(entries, key=lambda entry: entry.path)

    async def _call(
        self, method: str, path: str, *arguments: str, timeout_sec: float = CALL_TIMEOUT_SEC
    ) -> Response:
        try:
            return await self._rpc.call(method, path, *arguments, timeout_sec=timeout_sec)
        except RpcError as error:
            raise file_error(error, path) from None


def file_error(error: RpcError, path: str) -> WorkspaceError:
    """Return why a file operation was refused."""
    messages = {
        "missing": f"no such file or directory: {path}",
        "isdir": f"{path} is a directory",
        "notdir": f"{path} is not a directory",
        "notfile": f"{path} is not a regular file",
        "denied": f"permission denied: {path}",
        "loop": f"too many symbolic links: {path}",
        "parents": f"cannot make the folder of {path}",
        "disk": f"could not write all of {path}: the disk may be full",
        "short": f"could not write all of {path} (only {error.detail or 0} bytes): the disk may be full",
    }
    if error.code == "forbidden":
        return ForbiddenPath(forbidden_message(f"{path} (in {error.detail})"))
    message = messages.get(error.code, str(error))
    if error.detail and error.code in ("denied", "parents"):
        message = f"{message} ({error.detail})"
    return WorkspaceError(message)


def _kind(mode: int) -> FileKind:
    if stat.S_ISREG(mode):
        return "file"
    if stat.S_ISDIR(mode):
        return "dir"
    return "link" if stat.S_ISLNK(mode) else "other"


def _listed_kind(word: str) -> FileKind:
    """Return the kind from find's %y, or from a raw mode in hex where find has no -printf."""
    if len(word) == 1:
        return cast(FileKind, {"f": "file", "d": "dir", "l": "link"}.get(word, "other"))
    try:
        return _kind(int(word, 16))
    except ValueError:
        return "other"
