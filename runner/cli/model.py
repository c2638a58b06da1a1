"""`capstan model`: serve a scripted or replayed model to any client."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from runner.relay import Upstream


def model(
    script: Annotated[
        Path | None, typer.Option("--script", metavar="PATH", help="A script file, or a folder of them.")
    ] = None,
    replay: Annotated[
        Path | None, typer.Option("--replay", metavar="CASSETTE", help="A recorded cassette.")
    ] = None,
    port: Annotated[int, typer.Option("--port", help="The port on 127.0.0.1; 0 takes a free one.")] = 0,
) -> None:
    """Serve a scripted or replayed model.

    It speaks DeepSeek's protocol and plays a script or a cassette; no LLM is called. Prints the
    address and the key for a client.
    """
    import asyncio
    import contextlib
    import sys

    from runner.config import ConfigError
    from runner.relay import CassetteError, ReplayUpstream
    from runner.scripted import ScriptError, ScriptUpstream

    if (script is None) == (replay is None):
        raise ConfigError("name either --script PATH or --replay CASSETTE")
    try:
        if script is not None:
            upstream = ScriptUpstream(script)
        else:
            assert replay is not None
            upstream = ReplayUpstream(replay)
    except (ScriptError, CassetteError) as error:
        raise ConfigError(str(error)) from None
    with contextlib.suppress(KeyboardInterrupt):
        try:
            asyncio.run(_serve(upstream, port))
        except BrokenPipeError:  # the reader of our output is gone
            sys.stdout = None
        except OSError as error:
            raise ConfigError(f"127.0.0.1:{port} cannot be bound: {error.strerror}") from None


async def _serve(upstream: Upstream, port: int) -> None:
    import asyncio
    import signal
    import sys

    from runner.relay import Relay

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    async with Relay(upstream, port=port, requests_per_minute=None) as relay:
        account = relay.open_run("cli", cost_limit_usd=None)
        lines = [
            f"THE MODEL IS NOT REAL: {relay.describe()}",
            f"DEEPSEEK_BASE_URL={account.base_url}",
            f"DEEPSEEK_API_KEY={account.token}",
            "Ctrl-C ends it.",
        ]
        sys.stdout.write("\n".join(lines) + "\n")
        sys.stdout.flush()
        await stop.wait()
        used = relay.close_run(account.token)
        sys.stdout.write(f"{used.calls} calls, {used.errors} errors\n")
