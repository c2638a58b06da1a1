"""Uploads of bytes that do not fit into one request."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import inspect
import logging
import tempfile
from pathlib import Path
from typing import Any

from src.tools.workspace.errors import EnvironmentGone
from src.tools.workspace.rpc import ContainerRpc

# Concurrent requests of one upload. Under Harbor each exec waits some 150 ms for the Docker CLI.
PARALLEL = 4
# From this size on, one call of the environment's own upload is faster than chunks.
NATIVE_MINIMUM = 512 * 1024
TRANSFER_TIMEOUT_SEC = 300.0


class Uploader:
    """Writes large files: parts go to the scratch directory, and the container joins them.

    Parts are sent through exec, or as one part by Harbor's `upload_file`.
    """

    def __init__(self, environment: object, rpc: ContainerRpc, log: logging.Logger) -> None:
        native: Any = getattr(environment, "upload_file", None)
        self._native = native if inspect.iscoroutinefunction(native) else None
        self._rpc = rpc
        self._log = log
        self._count = 0

    def is_native(self, size: int) -> bool:
        """Return whether an upload of this size can go through the environment's own upload."""
        return self._native is not None and size >= NATIVE_MINIMUM

    async def upload(self, path: str, data: bytes, mode: int | None = None, *, native: bool = False) -> None:
        """Write a file, all or nothing; `native`: by the environment's upload. Raises RpcError."""
        self._count += 1
        upload_id = f"u{self._count}"
        try:
            if native:
                count, zipped = await self._send_natively(upload_id, data), False
            else:
                count, zipped = await self._send_chunks(upload_id, data)
            await self._rpc.call(
                *("join", path, octal(mode), str(len(data)), upload_id, str(count), "1" if zipped else ""),
                timeout_sec=TRANSFER_TIMEOUT_SEC,
                reinstall=False,
            )
        except BaseException:
            with contextlib.suppress(Exception):
                await asyncio.wait_for(self._rpc.call("discard", upload_id, reinstall=False), 1.0)
            raise

    async def _send_natively(self, upload_id: str, data: bytes) -> int:
        assert self._native is not None
        target = f"{self._rpc.installed.scratch}/{upload_id}.0"
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "upload"
            await asyncio.to_thread(source.write_bytes, data)
            source.chmod(0o644)
            await self._native(source, target)
        return 1

    async def _send_chunks(self, upload_id: str, data: bytes) -> tuple[int, bool]:
        """Send the data; return the number of chunks and whether they are gzipped as one stream."""
        zipped = False
        if self._rpc.installed.gzip:
            packed = await asyncio.to_thread(gzip.compress, data, 1)
            zipped = len(packed) < 0.9 * len(data)
            data = packed if zipped else data
        size = self._rpc.payload_capacity("chunk", upload_id)
        offsets = range(0, max(len(data), 1), size)
        semaphore = asyncio.Semaphore(PARALLEL)

        async def send(index: int, offset: int) -> None:
            async with semaphore:
                chunk = data[offset : offset + size]
                await self._rpc.call("chunk", upload_id, str(index), chunk, reinstall=False)

        try:
            async with asyncio.TaskGroup() as group:
                for index, offset in enumerate(offsets):
                    group.create_task(send(index, offset))
        except ExceptionGroup as failed:
            raise (failed.subgroup(EnvironmentGone) or failed).exceptions[0] from None
        return len(offsets), zipped


def octal(mode: int | None) -> str:
    """Return permission bits as chmod reads them, or an empty string for None."""
    return "" if mode is None else f"{mode & 0o7777:o}"
