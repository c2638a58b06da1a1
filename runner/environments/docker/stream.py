"""The attach stream of one `docker exec`, whose socket the event loop itself reads.

Format of the frames: Docker Engine API, ContainerAttach, "Stream format".
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from typing import Any

from runner.environments.docker.engine import Engine

_RECEIVE_BYTES = 256 * 1024
STDOUT, STDERR = 1, 2


class Demultiplexer:
    """Takes the engine's framed stream apart, however it is cut up."""

    def __init__(self) -> None:
        self._header = b""
        self._stream = 0
        self._left = 0

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Return (stream, payload) pairs in order. A frame's payload may come in several."""
        pieces: list[tuple[int, bytes]] = []
        at = 0
        while at < len(data):
            if self._left == 0:
                need = 8 - len(self._header)
                self._header += data[at : at + need]
                at += need
                if len(self._header) < 8:
                    break
                self._stream, self._left = self._header[0], int.from_bytes(self._header[4:], "big")
                self._header = b""
                continue
            piece = data[at : at + self._left]
            pieces.append((self._stream, piece))
            self._left -= len(piece)
            at += len(piece)
        return pieces


class ExecStream:
    """A ByteStream over the attach socket of one exec. stderr is dropped without `keep`."""

    def __init__(self, raw: Any, sock: socket.socket, exec_id: str) -> None:
        self.exec_id = exec_id
        self._raw = raw  # keeps the SDK's response, and with it the connection, alive
        self._socket = sock
        self._keep: tuple[int, ...] = (STDOUT,)
        self._demultiplexer = Demultiplexer()
        self._pieces: deque[bytes] = deque()
        self._closed = False

    def keep(self, *streams: int) -> None:
        """Set which of STDOUT and STDERR `read` returns."""
        self._keep = streams

    async def read(self) -> bytes:
        loop = asyncio.get_running_loop()
        while not self._pieces:
            if self._closed:
                return b""
            data = await loop.sock_recv(self._socket, _RECEIVE_BYTES)
            if not data:
                return b""
            self._pieces.extend(
                piece for stream, piece in self._demultiplexer.feed(data) if stream in self._keep
            )
        return self._pieces.popleft()

    async def write(self, data: bytes) -> None:
        if self._closed:
            raise BrokenPipeError("the session is closed")
        await asyncio.get_running_loop().sock_sendall(self._socket, data)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            # In the next turn of the loop, because a pending sock_recv must let go of it first.
            asyncio.get_running_loop().call_soon(self._close_files)

    def _close_files(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.close()
        response = getattr(self._raw, "_response", None)
        with contextlib.suppress(Exception):
            self._raw.close()
            if response is not None:
                response.close()


async def open_exec(
    engine: Engine, container_id: str, command: list[str], *, user: str | None, env: dict[str, str]
) -> ExecStream:
    """Start a command that prints nothing until it gets input, and attach to it.

    Raises:
        EnvironmentLost: The container or the engine is gone.
        docker.errors.APIError: The command cannot be started.
        OSError: The connection to the engine is of a kind that the event loop cannot read (TLS).
    """
    api = engine.api
    created = await engine.call(
        api.exec_create, container_id, command, stdin=True, user=user or "", environment=env, workdir="/"
    )
    raw = await engine.call(api.exec_start, created["Id"], socket=True)
    sock = getattr(raw, "_sock", None)
    if type(sock) is not socket.socket:
        with contextlib.suppress(Exception):
            raw.close()
        raise OSError("the engine is not on a plain socket")
    sock.setblocking(False)
    return ExecStream(raw, sock, created["Id"])
