"""Copy files into and out of a container, as tar over the engine's archive API."""

from __future__ import annotations

import posixpath
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, BinaryIO

from docker.errors import APIError, NotFound

from runner.environments import archive
from runner.environments.base import EnvironmentLost, FileMissing, TransferError
from runner.environments.docker.engine import Engine

_CHUNK_BYTES = 1024 * 1024
_MAX_LINKS = 10

MakeFolder = Callable[[str], Awaitable[None]]
"""Makes a folder in the container with its parents, as root. Raises TransferError."""


class ContainerFiles:
    """Uploads and downloads of one container. Archives from it are not trusted."""

    def __init__(self, engine: Engine, container_id: str, make_folder: MakeFolder) -> None:
        self._engine = engine
        self._id = container_id
        self._make_folder = make_folder

    async def upload_file(self, source: Path, target: str) -> None:
        folder, _, name = target.rpartition("/")
        with tempfile.TemporaryFile() as spool:
            await self._engine.call(archive.pack_file, source, spool, name)
            await self._put(spool, folder or "/")

    async def upload_dir(self, source: Path, target: str) -> None:
        with tempfile.TemporaryFile() as spool:
            await self._engine.call(archive.pack_dir, source, spool)
            await self._put(spool, target)

    async def download_file(self, source: str, target: Path) -> None:
        path = source
        for _ in range(_MAX_LINKS):
            with tempfile.TemporaryFile() as spool:
                link = await self._get(path, spool)
                if link is None:
                    try:
                        await self._engine.call(archive.unpack_file, spool, target)
                    except TransferError as error:
                        raise TransferError(f"{source}: {error}") from None
                    return
            path = posixpath.normpath(posixpath.join(posixpath.dirname(path), link))
        raise TransferError(f"{source}: too many links")

    async def download_dir(self, source: str, target: Path) -> None:
        with tempfile.TemporaryFile() as spool:
            await self._get(source.rstrip("/") + "/.", spool)
            await self._engine.call(archive.unpack_dir, spool, target)

    async def _put(self, spool: BinaryIO, folder: str) -> None:
        await self._make_folder(folder)
        spool.seek(0)
        try:
            await self._engine.call(self._engine.api.put_archive, self._id, folder, spool)
        except APIError as error:
            raise TransferError(f"{folder}: {error.explanation}") from error

    async def _get(self, path: str, spool: BinaryIO) -> str | None:
        """Fetch a path's tar into `spool`. Return the target instead if it is a symbolic link."""

        def fetch() -> str | None:
            chunks: Any
            chunks, stat = self._engine.api.get_archive(self._id, path, chunk_size=_CHUNK_BYTES)
            if stat.get("linkTarget"):
                chunks.close()
                return str(stat["linkTarget"])
            for chunk in chunks:
                spool.write(chunk)
            spool.seek(0)
            return None

        try:
            return await self._engine.call(fetch)
        except NotFound as error:
            raise FileMissing(f"{path}: there is no such file in the container") from error
        except EnvironmentLost:
            raise
        except APIError as error:
            raise TransferError(f"{path}: {error.explanation}") from error
