"""The relay: an HTTP server between agents and a model."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import uvicorn

from runner.relay.accounts import Accounts, RunAccount, RunBudget, RunLimits, RunUsage
from runner.relay.app import RelayApp
from runner.relay.upstream import Upstream

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RelayListener:
    """An address for relays on other machines, with TLS where a certificate is given.

    Attributes:
        host, port: Where to listen; port 0 takes a free one.
        certificate, key: PEM files. Both or neither.
    """

    host: str
    port: int = 0
    certificate: Path | None = None
    key: Path | None = None


class Relay:
    """Serves agents on loopback TCP and optionally on a unix socket. An async context manager.

    Args:
        upstream: Where responses come from. The modes live, record, replay and script differ in
            this only.
        allowed_models: The models that may be called. None means any.
        requests_per_minute: The limit of each run. None means no limit.
        concurrent_requests: The limit of each run.
        listener: Where relays on other machines reach this one, besides.
        now: Tells peak from off-peak prices.
    """

    def __init__(
        self,
        upstream: Upstream,
        *,
        allowed_models: Sequence[str] | None = None,
        max_request_bytes: int = 16 * 1024 * 1024,
        requests_per_minute: int | None = 600,
        concurrent_requests: int = 64,
        socket_path: Path | None = None,
        socket_mode: int = 0o600,
        host: str = "127.0.0.1",
        port: int = 0,
        listener: RelayListener | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.upstream = upstream
        self.socket_path = socket_path
        self._socket_mode = socket_mode
        self._address = (host, port)
        self._accounts = Accounts(RunLimits(requests_per_minute, concurrent_requests))
        self._closed: dict[str, RunBudget] = {}
        self._app = RelayApp(
            upstream,
            self._accounts,
            allowed_models=allowed_models,
            max_request_bytes=max_request_bytes,
            now=now,
        )
        self._listener = listener
        self._servers: list[tuple[_Server, asyncio.Task[None]]] = []
        self._base_url: str | None = None
        self._remote_url: str | None = None

    @property
    def mode(self) -> str:
        """`live`, `record`, `replay` or `script`."""
        return self.upstream.mode

    @property
    def scripted(self) -> bool:
        """Whether responses come from a script, directly or in a recording of one."""
        return self.upstream.scripted

    def describe(self) -> str:
        """Return one line that tells a person where responses come from."""
        return self.upstream.describe()

    @property
    def base_url(self) -> str:
        """The address on loopback, without /v1. Raises RuntimeError unless the relay is running."""
        if self._base_url is None:
            raise RuntimeError("the relay is not running: use it as `async with Relay(...)`")
        return self._base_url

    @property
    def remote_url(self) -> str | None:
        """The address for relays on other machines; None without a listener."""
        return self._remote_url

    def open_run(self, name: str, *, cost_limit_usd: float | None = None) -> RunAccount:
        """Open an account for a run. Its token is the only key that the run's agent gets."""
        return self._accounts.open(name, self.base_url, cost_limit_usd)

    def close_run(self, token: str) -> RunUsage:
        """Close a run's account and return its usage. Raises KeyError for an unknown token."""
        budget = self._accounts.close(token)
        self.upstream.forget(budget.account.id)
        self._closed[token] = budget
        return budget.usage

    async def finish_run(self, token: str, *, timeout_sec: float = 5.0) -> RunUsage:
        """Close a run's account, wait for its running calls to be settled, and return its usage.

        An agent may have been killed in the middle of a call, and that call costs money as well.

        Args:
            timeout_sec: The longest wait.
        """
        self.close_run(token)
        budget = self._closed[token]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(budget.wait_settled(), timeout_sec)
        return budget.usage

    async def wait_given_up(self, token: str) -> None:
        """Wait until an open run is given up: no call reached the model, or a replay diverged.

        Raises KeyError for an unknown token.
        """
        budget = self._accounts.find(token)
        if budget is None:
            raise KeyError(token)
        await budget.given_up.wait()

    def usage(self, token: str) -> RunUsage:
        """Return the usage of an open or closed run. Raises KeyError for an unknown token."""
        return (self._accounts.find(token) or self._closed[token]).usage

    async def __aenter__(self) -> Self:
        sockets = [_listen_tcp(self._address)]
        if self.socket_path is not None:
            sockets.append(_listen_unix(self.socket_path, self._socket_mode))
        listener = self._listener
        try:
            await self._serve(sockets, None)
            host, port = sockets[0].getsockname()[:2]
            self._base_url = f"http://{host}:{port}"
            if listener is not None:
                remote = _listen_tcp((listener.host, listener.port))
                await self._serve([remote], listener)
                scheme = "https" if listener.certificate else "http"
                self._remote_url = f"{scheme}://{listener.host}:{remote.getsockname()[1]}"
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def _serve(self, sockets: list[socket.socket], listener: RelayListener | None) -> None:
        config = uvicorn.Config(
            self._app,
            lifespan="off",
            ws="none",
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            date_header=False,
            # Agents pause for minutes while a command runs. Closing the idle connection would
            # race with its reuse.
            timeout_keep_alive=3600,
            timeout_graceful_shutdown=1,
            ssl_certfile=listener.certificate if listener else None,
            ssl_keyfile=listener.key if listener else None,
        )
        server = _Server(config)
        serving = asyncio.create_task(server.serve(sockets=sockets), name="relay")
        self._servers.append((server, serving))
        await server.ready(serving)

    async def _close(self) -> None:
        for server, _ in self._servers:
            server.stop()
        try:
            for _, serving in self._servers:
                await serving
        finally:
            await self.upstream.aclose()
            if self.socket_path is not None:
                self.socket_path.unlink(missing_ok=True)


class _Server(uvicorn.Server):
    """Runs uvicorn inside another program's event loop, without its signal handlers and polling."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stop = asyncio.Event()

    def stop(self) -> None:
        self._stop.set()

    async def main_loop(self) -> None:
        # uvicorn's own loop wakes ten times a second, for a date header and limits that are not
        # used here.
        await self._stop.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def ready(self, serving: asyncio.Task[None]) -> None:
        """Wait until the server accepts connections. Raises the error if it cannot start."""
        while not self.started:
            if serving.done():
                serving.result()
                raise RuntimeError("the relay's server did not start")
            await asyncio.sleep(0.001)


def _listen_tcp(address: tuple[str, int]) -> socket.socket:
    # asyncio disables Nagle's algorithm only if the protocol is named. With it, small chunks would
    # wait for the agent's delayed acknowledgements, 40 ms each.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
    listener.setblocking(False)
    return listener


def _listen_unix(path: Path, mode: int) -> socket.socket:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # left by a relay that was killed
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(mode)
    listener.setblocking(False)
    return listener
