"""A server's socket, and its end."""

from __future__ import annotations

import ipaddress
import signal
import socket
from types import FrameType

from runner.config import ConfigError


def url_of(listener: socket.socket) -> str:
    """The address that a listening socket really has."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises ConfigError with one line."""
    try:
        info = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.socket(info[0], socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as error:
        raise ConfigError(f"--host {host}: {error.strerror or error}") from None
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(info[4])
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise ConfigError(f"{host}:{port} cannot be bound: {error.strerror}; take another --port") from None
    return listener


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine alone."""
    if host.lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def ends_in_order() -> None:
    """Let SIGINT and SIGTERM end uvicorn with exit code 0: at its end it raises again what it caught."""

    def nothing(number: int, frame: FrameType | None) -> None:
        pass

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, nothing)
