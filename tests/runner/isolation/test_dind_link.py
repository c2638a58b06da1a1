"""The two sides of an isolated run, over a real socket; and the relay inside before the relay outside."""

import asyncio
import json
from pathlib import Path

import httpx

from runner.isolation.link import JobEnded, Link, Note, Run, TrialMoved
from runner.isolation.shared_dir import SharedDir, open_shared_dir, sweep
from runner.isolation.upstream import OuterRelay
from runner.relay import Relay
from runner.results import AgentRecord, ModelSource, ModelUse
from runner.scripted import ScriptUpstream

SCRIPT = 'name = "x"\nclosing = "done"\n'
BODY = {"model": "deepseek-v4-pro", "messages": [{"role": "user", "content": "hi"}]}


async def _both_ends(exchange: SharedDir) -> tuple[Link, Link, asyncio.Server]:
    arrived: asyncio.Future[Link] = asyncio.get_running_loop().create_future()
    server = await asyncio.start_unix_server(
        lambda reader, writer: arrived.set_result(Link(reader, writer)), exchange.control
    )
    inside = Link(*await asyncio.open_unix_connection(exchange.control))
    return await arrived, inside, server


async def test_messages_arrive_in_order_and_the_end_is_heard():
    orders = Run(
        job_dir="/x",
        problems={3: "no"},
        tokens={"a": ["t"]},
        agent=AgentRecord(source="."),
        model=ModelSource(label="scripted", canned=True),
        model_mode="script",
        scripted=True,
        concurrency=None,
        image_variables={},
        uid=1,
        gid=2,
    )
    moved = TrialMoved(trial="a", phase="agent", usage=ModelUse(calls=2))
    with open_shared_dir() as exchange:
        outside, inside, server = await _both_ends(exchange)
        outside.say(orders)
        assert await inside.hear() == orders
        for message in (Note(line="größer\n"), moved, JobEnded()):
            inside.say(message)
        assert [await outside.hear() for _ in range(3)] == [Note(line="größer\n"), moved, JobEnded()]
        await inside.close()
        assert await outside.hear() is None
        await outside.close()
        server.close()


def test_an_exchange_is_this_users_alone_and_swept_after_its_owner():
    with open_shared_dir() as exchange:
        assert exchange.root.stat().st_mode & 0o777 == 0o700
        assert exchange.root not in sweep()
        (exchange.root / "owner").write_text("an earlier boot/1/1/1")
        assert exchange.root in sweep() and not exchange.root.exists()


async def test_each_try_calls_with_its_own_token_and_no_other(tmp_path: Path):
    (tmp_path / "script.toml").write_text(SCRIPT)
    outer_socket = tmp_path / "outer.sock"
    async with Relay(ScriptUpstream(tmp_path / "script.toml"), socket_path=outer_socket) as outer:
        accounts = [outer.open_run("trial") for _ in range(2)]
        tokens = {"trial": [account.token for account in accounts]}
        upstream = OuterRelay(outer_socket, tokens, mode="script", scripted=True)
        async with Relay(upstream) as inner, httpx.AsyncClient() as client:

            async def call(name: str) -> httpx.Response:
                account = inner.open_run(name)
                headers = {"authorization": f"Bearer {account.token}"}
                return await client.post(f"{account.base_url}/chat/completions", json=BODY, headers=headers)

            first = await call("trial")
            assert first.status_code == 200 and first.headers["x-capstan-model"] == "scripted"
            assert outer.usage(accounts[0].token).calls == 1 and outer.usage(accounts[1].token).calls == 0
            assert (await call("trial")).status_code == 200
            assert outer.usage(accounts[1].token).calls == 1
            assert (await call("trial")).status_code == 401  # more tries than there may be
            assert (await call("another")).status_code == 401
            assert not [token for token in tokens["trial"] if token in json.dumps(first.json())]
