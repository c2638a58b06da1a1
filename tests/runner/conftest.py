"""A fixture that runs relays and connects plain HTTP clients to them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from runner.relay import Relay, Upstream
from runner.scripted import ScriptFile, ScriptUpstream
from tests.runner.relay_helpers import ServedRelay

Serve = Callable[..., Any]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Return a function that starts a relay: `await serve(upstream or script, **options)`."""
    async with AsyncExitStack() as stack:

        async def start(
            source: Upstream | ScriptFile, *, cost_limit_usd: float | None = None, **options: Any
        ) -> ServedRelay:
            upstream = source if isinstance(source, Upstream) else ScriptUpstream(source)
            relay = await stack.enter_async_context(Relay(upstream, **options))
            account = relay.open_run("test", cost_limit_usd=cost_limit_usd)
            client = httpx.AsyncClient(
                base_url=account.base_url,
                headers={"authorization": f"Bearer {account.token}"},
                timeout=20,
                trust_env=False,
            )
            return ServedRelay(relay, account, await stack.enter_async_context(client))

        yield start
