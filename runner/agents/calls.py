"""Handle an agent's calls in the trial's environment: commands, and files in both directions."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import shutil
import tarfile
import tempfile
from collections.abc import Awaitable, Callable, Mapping
from errno import EFBIG
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

from pydantic import Field, ValidationError, validate_call

from runner.environments import Environment
from runner.environments.archive import pack_dirs, unpack_dir

_MAX_TRANSFERS = 16
# The exceptions that reach the agent under their own name.
_BUILTINS = (ValueError, TypeError, FileNotFoundError, PermissionError, OSError)


class CallFailed(Exception):
    """The error that a call is answered with. `wire` is the error as it is sent."""

    def __init__(self, error_type: str, message: str, errno: int | None = None) -> None:
        super().__init__(message)
        self.wire = {"type": error_type, "message": message, "errno": errno}

    @classmethod
    def of(cls, error: Exception) -> CallFailed:
        """Return the error for an exception. The environment's own become RuntimeErrors."""
        error_type = type(error).__name__ if type(error) in _BUILTINS else "RuntimeError"
        errno = error.errno if isinstance(error, OSError) else None
        message = (error.strerror if isinstance(error, OSError) else None) or str(error)
        return cls(error_type, message.encode("utf-8", "backslashreplace").decode(), errno)


_Kind = Literal["file", "dir"]
_Result = Mapping[str, object]


class CallHandler:
    """Handles the calls of one agent.

    Args:
        environment: What the calls go to.
        work_dir: A folder for the files of transfers in progress.
        transfer_bytes: The most bytes of one transfer.
    """

    def __init__(self, environment: Environment, work_dir: Path, transfer_bytes: int) -> None:
        self._environment = environment
        self._work_dir = work_dir
        self._limit = transfer_bytes
        self._transfers: dict[int, _Transfer] = {}
        self._count = 0
        self._methods: dict[str, Callable[..., Awaitable[_Result]]] = {
            "exec": self._exec,
            "upload_begin": self._upload_begin,
            "upload_data": self._upload_data,
            "upload_end": self._upload_end,
            "download_begin": self._download_begin,
            "download_data": self._download_data,
            "download_end": self._download_end,
        }

    async def handle(self, method: str, params: Mapping[str, object]) -> _Result:
        """Carry out a call and return its result.

        Raises:
            CallFailed: The call failed. The exception has the error for the agent.
        """
        if method not in self._methods:
            raise CallFailed("AttributeError", f"the environment has no {method[:80]}")
        try:
            return await self._methods[method](**params)
        except CallFailed:
            raise
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise CallFailed("TypeError", f"{method}: {where}: {first['msg']}") from None
        except Exception as error:
            raise CallFailed.of(error) from error

    def close(self) -> None:
        """Drop all transfers in progress."""
        for transfer in self._transfers.values():
            transfer.close()
        self._transfers.clear()

    @validate_call
    async def _exec(
        self,
        command: str,
        cwd: str | None,
        env: dict[str, str] | None,
        timeout_sec: Annotated[float | None, Field(allow_inf_nan=False)],
        user: str | int | None,
    ) -> _Result:
        result = await self._environment.exec(command, cwd, env, timeout_sec, user)
        return {"stdout": result.stdout, "return_code": result.return_code}

    @validate_call
    async def _upload_begin(self, kind: _Kind, target: str, mode: int | None) -> _Result:
        transfer = self._begin(kind, target, mode)
        transfer.file = transfer.path.open("wb")
        return {"transfer": self._count}

    @validate_call
    async def _upload_data(self, transfer: int, data: str) -> _Result:
        upload = self._find(transfer)
        try:
            content = base64.b64decode(data, validate=True)
        except binascii.Error:
            raise CallFailed("ValueError", "upload_data: the data is not base64") from None
        if upload.size + len(content) > self._limit:
            self._end(transfer)
            raise CallFailed("OSError", f"a transfer of more than {self._limit} bytes", EFBIG)
        assert upload.file is not None
        upload.file.write(content)
        upload.size += len(content)
        return {}

    @validate_call
    async def _upload_end(self, transfer: int) -> _Result:
        upload = self._find(transfer)
        assert upload.file is not None
        upload.file.close()
        try:
            if upload.kind == "file":
                upload.path.chmod(upload.mode or 0o644)
                await self._environment.upload_file(upload.path, upload.target)
            else:
                folder = upload.folder / "tree"
                await asyncio.to_thread(_unpack, upload.path, folder, self._limit)
                await self._environment.upload_dir(folder, upload.target)
        finally:
            self._end(transfer)
        return {}

    @validate_call
    async def _download_begin(self, kind: _Kind, source: str) -> _Result:
        download = self._begin(kind, source, None)
        number = self._count
        try:
            if kind == "file":
                await self._environment.download_file(source, download.path)
            else:
                folder = download.folder / "tree"
                folder.mkdir()
                await self._environment.download_dir(source, folder)
                await asyncio.to_thread(_pack, folder, download.path)
            download.size = download.path.stat().st_size
            if download.size > self._limit:
                raise CallFailed("OSError", f"a transfer of more than {self._limit} bytes", EFBIG)
            download.file = download.path.open("rb")
        except BaseException:
            self._end(number)
            raise
        return {"transfer": number, "size": download.size}

    @validate_call
    async def _download_data(
        self,
        transfer: int,
        offset: Annotated[int, Field(ge=0)],
        size: Annotated[int, Field(gt=0, le=512 * 1024)],
    ) -> _Result:
        file = self._find(transfer).file
        assert file is not None
        file.seek(offset)
        return {"data": base64.b64encode(file.read(size)).decode("ascii")}

    @validate_call
    async def _download_end(self, transfer: int) -> _Result:
        self._find(transfer)
        self._end(transfer)
        return {}

    def _begin(self, kind: str, target: str, mode: int | None) -> _Transfer:
        if len(self._transfers) >= _MAX_TRANSFERS:
            raise CallFailed("RuntimeError", f"more than {_MAX_TRANSFERS} transfers at once")
        self._count += 1
        folder = Path(tempfile.mkdtemp(prefix="transfer-", dir=self._work_dir))
        transfer = self._transfers[self._count] = _Transfer(kind, target, mode, folder)
        return transfer

    def _find(self, number: int) -> _Transfer:
        try:
            return self._transfers[number]
        except KeyError:
            raise CallFailed("ValueError", f"there is no transfer {number}") from None

    def _end(self, number: int) -> None:
        transfer = self._transfers.pop(number, None)
        if transfer is not None:
            transfer.close()


class _Transfer:
    """A transfer in progress. Its data passes through a file of the runner's."""

    def __init__(self, kind: str, target: str, mode: int | None, folder: Path) -> None:
        self.kind = kind
        self.target = target
        self.mode = mode & 0o777 if mode is not None else None
        self.folder = folder
        self.path = folder / "data"
        self.size = 0
        self.file: BinaryIO | None = None

    def close(self) -> None:
        if self.file is not None:
            with contextlib.suppress(OSError):
                self.file.close()
        shutil.rmtree(self.folder, ignore_errors=True)


def _unpack(path: Path, folder: Path, limit: int) -> None:
    """Unpack an agent's tar file: within the limit, no devices, nothing outside the folder."""
    try:
        with tarfile.open(path) as archive:
            # An empty file takes an inode, and a sparse one unpacks to more than its archive holds.
            if sum(max(member.size, 512) for member in archive) > 2 * limit:
                raise CallFailed("OSError", f"an upload of more than {2 * limit} bytes unpacked", EFBIG)
    except tarfile.TarError as error:
        raise CallFailed("ValueError", f"upload_dir: {error}") from None
    with path.open("rb") as file:
        unpack_dir(file, folder)


def _pack(folder: Path, path: Path) -> None:
    with path.open("wb") as file:
        pack_dirs({"": folder}, file)
