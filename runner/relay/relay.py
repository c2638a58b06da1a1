"""The relay: the one way from an isolated run to a model. It holds the key, the books and the rules."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import uvicorn

from runner.relay.accounts import Accounts, RunAccount, RunBudget, RunLimits, RunUsage
from runner.relay.app import RelayApp, RelayRules
from runner.relay.prices import PriceTable, default_prices
from runner.relay.upstream import Upstream

_log = logging.getLogger(__name__)


class Relay:
    """An HTTP service between agents and a model, on loopback TCP and, if asked, on a unix socket.

    Use it as an async context manager. `allowed_models` None lets every name through; sizes are bytes;
    the two numbers of requests are for each run. Live, record, replay and script differ in `upstream` only.
    """

    def __init__(
        self,
        upstream: Upstream,
        *,
        allowed_models: Sequence[str] | None = None,
        prices: PriceTable | None = None,
        max_request_bytes: int = 16 * 1024 * 1024,
        requests_per_minute: int | None = 600,
        concurrent_requests: int = 64,
        socket_path: Path | None = None,
        socket_mode: int = 0o600,
        host: str = "127.0.0.1",
        port: int = 0,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.upstream = upstream
        self.socket_path = socket_path
        self._socket_mode = socket_mode
        self._address = (host, port)
        self._accounts = Accounts(RunLimits(requests_per_minute, concurrent_requests))
        self._closed: dict[str, RunBudget] = {}
        rules = RelayRules(tuple(allowed_models) if allowed_models is not None else None, max_request_bytes)
        self._app = RelayApp(upstream, self._accounts, rules, prices or default_prices(), now)
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self._base_url: str | None = None

    @property
    def mode(self) -> str:
        """live, record, replay or script."""
        return self.upstream.mode

    @property
    def scripted(self) -> bool:
        """Whether answers come from a script, directly or from a recording of one: results must say so."""
        return self.upstream.scripted

    def describe(self) -> str:
        """One line for people: what answers here."""
        return self.upstream.describe()

    @property
    def base_url(self) -> str:
        """The address on loopback, without /v1. Raises RuntimeError before the relay has started."""
        if self._base_url is None:
            raise RuntimeError("the relay is not running: use it as `async with Relay(...)`")
        return self._base_url

    def open_run(self, name: str, *, cost_limit_usd: float | None = None) -> RunAccount:
        """Opens an account for a run. Its token is the only key that the run's agent gets."""
        return self._accounts.open(name, self.base_url, cost_limit_usd)

    def close_run(self, token: str) -> RunUsage:
        """Ends a run's access and gives its final usage. Raises KeyError for an unknown token."""
        budget = self._accounts.close(token)
        self.upstream.forget(budget.account.id)
        self._closed[token] = budget
        return budget.usage

    async def finish_run(self, token: str, *, timeout_sec: float = 5.0) -> RunUsage:
        """Ends a run's access, then waits (so long at most) for the booking of calls still under way.

        Use it where the agent may have been killed in the middle of a call: that call costs, too.
        """
        self.close_run(token)
        budget = self._closed[token]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(budget.settled(), timeout_sec)
        return budget.usage

    def usage(self, token: str) -> RunUsage:
        """What a run has used so far, or had used when it was closed. Raises KeyError."""
        return (self._accounts.find(token) or self._closed[token]).usage

    async def __aenter__(self) -> Self:
        sockets = [_listen_tcp(self._address)]
        if self.socket_path is not None:
            sockets.append(_listen_unix(self.socket_path, self._socket_mode))
        config = uvicorn.Config(
            self._app,
            lifespan="off",
            ws="none",
            log_config=None,
            log_level="critical",
            access_log=False,
            server_header=False,
            date_header=False,
            # Agents pause for minutes while a command runs; closing their idle connection races with reuse.
            timeout_keep_alive=3600,
            timeout_graceful_shutdown=1,
        )
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve(sockets=sockets), name="relay")
        await self._server.ready(self._serving)
        host, port = sockets[0].getsockname()[:2]
        self._base_url = f"http://{host}:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None and self._serving is not None
        self._server.stop()
        try:
            await self._serving
        finally:
            await self.upstream.aclose()
            if self.socket_path is not None:
                self.socket_path.unlink(missing_ok=True)


class _Server(uvicorn.Server):
    """uvicorn inside somebody else's event loop: signals stay theirs, and nothing polls."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stop = asyncio.Event()

    def stop(self) -> None:
        self._stop.set()

    async def main_loop(self) -> None:
        # uvicorn's own wakes ten times a second, for a date header and limits that the relay does not use.
        await self._stop.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def ready(self, serving: asyncio.Task[None]) -> None:
        """Waits until connections are taken. Raises what stopped the server from starting."""
        while not self.started:
            if serving.done():
                serving.result()
                raise RuntimeError("the relay's server did not start")
            await asyncio.sleep(0.001)


def _listen_tcp(address: tuple[str, int]) -> socket.socket:
    # The protocol must be named: asyncio turns Nagle's delay off only where it is, and small chunks would
    # wait for the agent's delayed acknowledgements, 40 ms each.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(address)
    listener.setblocking(False)
    return listener


def _listen_unix(path: Path, mode: int) -> socket.socket:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # left over from a run that was killed
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(mode)
    listener.setblocking(False)
    return listener
