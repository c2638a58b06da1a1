"""The forwarder: the agent's end of the relay inside an isolated run.

It forwards a loopback TCP port to the relay's unix socket. It needs only the standard library and
runs as a program of its own:

    python forwarder.py --listen 127.0.0.1:8080 --socket /run/relay.sock

With port 0 the system chooses a port. Once it listens, it prints one line to stdout:
`listening on 127.0.0.1:<port>`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from pathlib import Path

CHUNK = 64 * 1024


class Forwarder:
    """Listens on loopback and connects each client to the socket. An async context manager."""

    def __init__(self, socket_path: Path, *, host: str = "127.0.0.1", port: int = 0) -> None:
        self._socket_path = str(socket_path)
        self._host = host
        self._port = port
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        assert self._server is not None, "not started"
        return self._server.sockets[0].getsockname()[1]

    async def __aenter__(self) -> Forwarder:
        self._server = await asyncio.start_server(self._accept, self._host, self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._forward(reader, writer)
        except asyncio.CancelledError:
            pass  # the forwarder is closing, and asyncio would log the cancellation as an error
        finally:
            self._connections.discard(task)

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            relay_reader, relay_writer = await asyncio.open_unix_connection(self._socket_path)
        except OSError:
            await _close(writer)  # looks to the agent like a server that is down
            return
        try:
            request = asyncio.create_task(_copy(reader, relay_writer))
            response = asyncio.create_task(_copy(relay_reader, writer))
            try:
                # An agent that disconnects must end the call. A relay that disconnects must end the
                # agent's read.
                await asyncio.wait({request, response}, return_when=asyncio.FIRST_COMPLETED)
                if request.done() and not response.done():
                    await asyncio.wait({response}, timeout=5.0)
            finally:
                request.cancel()
                response.cancel()
                await asyncio.gather(request, response, return_exceptions=True)
        finally:
            await _close(relay_writer)
            await _close(writer)


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(CHUNK):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


async def _serve(socket_path: Path, host: str, port: int) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with Forwarder(socket_path, host=host, port=port) as forwarder:
        sys.stdout.write(f"listening on {host}:{forwarder.port}\n")
        sys.stdout.flush()
        await stop.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="Forward a loopback TCP port to a unix socket.")
    parser.add_argument("--listen", default="127.0.0.1:0", metavar="HOST:PORT")
    parser.add_argument("--socket", required=True, type=Path, metavar="PATH")
    options = parser.parse_args()
    host, _, port = options.listen.rpartition(":")
    if not host or not port.isdigit():
        parser.error(f"--listen must be HOST:PORT, got {options.listen!r}")
    try:
        asyncio.run(_serve(options.socket, host, int(port)))
    except OSError as error:
        sys.exit(f"error: cannot listen on {options.listen}: {error.strerror}")


if __name__ == "__main__":
    main()
