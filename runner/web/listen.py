"""Sockets and signals of the servers."""

from __future__ import annotations

import ipaddress
import signal
import socket
from types import FrameType

from runner.config import ConfigError


def url_of(listener: socket.socket) -> str:
    """Return the URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that takes connections at the address. Raises ConfigError."""
    try:
        info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(info[0], socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise ConfigError(f"--host {host}: {error.strerror or error}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(info[4])
        listener.listen()
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ConfigError(f"{host}:{port} cannot be bound: {error.strerror}; use another --port") from None
    return listener


def is_loopback(host: str) -> bool:
    """Return whether a host name or address means this machine only."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def exit_cleanly_on_signals() -> None:
    """Make uvicorn exit with code 0 after SIGINT and SIGTERM.

    When it has stopped, uvicorn raises the signal again. This replaces the default handlers, which
    would then end the process with an error.
    """

    def ignore(number: int, frame: FrameType | None) -> None:
        pass

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ignore)
