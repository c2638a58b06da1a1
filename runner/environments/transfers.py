"""Files into and out of an environment, as tar archives that it extracts and creates itself."""

from __future__ import annotations

import asyncio
import posixpath
import tempfile
from abc import abstractmethod
from pathlib import Path
from typing import BinaryIO

from runner.environments import archive
from runner.environments.base import Environment, TransferError


class TarEnvironment(Environment):
    """An environment whose files go through a tar in a temporary file."""

    _workdir = "/"

    @abstractmethod
    async def _extract(self, spool: BinaryIO, folder: str) -> None:
        """Extract the tar into a folder, which is made if it is missing. Raises TransferError."""

    @abstractmethod
    async def _create(self, spool: BinaryIO, path: str) -> None:
        """Write a tar of a file, or for `<folder>/.` of a folder's contents.

        A link to a file counts as the file.

        Raises:
            FileMissing: There is no such path.
            TransferError: It cannot be read.
        """

    def _absolute(self, path: str) -> str:
        return posixpath.join(self._workdir, path)

    async def upload_file(self, source_path: Path | str, target_path: str) -> None:
        folder, name = posixpath.split(self._absolute(target_path))
        with tempfile.TemporaryFile() as spool:
            await asyncio.to_thread(archive.pack_file, Path(source_path), spool, name)
            spool.seek(0)
            await self._extract(spool, folder)

    async def upload_dir(self, source_dir: Path | str, target_dir: str) -> None:
        with tempfile.TemporaryFile() as spool:
            await asyncio.to_thread(archive.pack_dirs, {"": Path(source_dir)}, spool)
            spool.seek(0)
            await self._extract(spool, self._absolute(target_dir))

    async def download_file(self, source_path: str, target_path: Path | str) -> None:
        source = self._absolute(source_path)
        with tempfile.TemporaryFile() as spool:
            await self._create(spool, source)
            spool.seek(0)
            try:
                await asyncio.to_thread(archive.unpack_file, spool, Path(target_path))
            except TransferError as error:
                raise TransferError(f"{source}: {error}") from None

    async def download_dir(self, source_dir: str, target_dir: Path | str) -> None:
        with tempfile.TemporaryFile() as spool:
            await self._create(spool, posixpath.join(self._absolute(source_dir), "."))
            spool.seek(0)
            await asyncio.to_thread(archive.unpack_dir, spool, Path(target_dir))
