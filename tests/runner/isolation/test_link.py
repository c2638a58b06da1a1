"""Both sides of an isolated run over a real socket, with the inner and the outer relay."""

import asyncio
import json
from pathlib import Path

import httpx

from runner.isolation.link import (
    Failed,
    FreeSpace,
    Link,
    MeasureSpace,
    Note,
    RunTrial,
    Setup,
    TrialMoved,
)
from runner.isolation.shared_dir import SharedDir, open_shared_dir, remove_stale_shared_dirs
from runner.relay import OuterRelay, Relay
from runner.results import AgentRecord, ModelSource, ModelUse
from runner.scripted import ScriptUpstream

SCRIPT = 'name = "x"\nclosing = "done"\n'
BODY = {"model": "deepseek-v4-pro", "messages": [{"role": "user", "content": "hi"}]}


async def _both_ends(shared: SharedDir) -> tuple[Link, Link, asyncio.Server]:
    arrived: asyncio.Future[Link] = asyncio.get_running_loop().create_future()
    server = await asyncio.start_unix_server(
        lambda reader, writer: arrived.set_result(Link(reader, writer)), shared.control
    )
    inside = Link(*await asyncio.open_unix_connection(shared.control))
    return await arrived, inside, server


async def test_messages_arrive_in_order_and_the_end_is_heard():
    setup = Setup(
        job_dir="/x",
        recorded_root="/recorded",
        agent=AgentRecord(source="."),
        model=ModelSource(label="scripted", canned=True),
        model_mode="script",
        scripted=True,
        uid=1,
        gid=2,
    )
    request = RunTrial(
        number=1,
        trial_name="a",
        attempt=1,
        task_path="/t",
        recorded_path="/recorded/t",
        dataset="adhoc",
        image="i:1",
        environ={"KEY": "secret"},
        retries=0,
        token="secret",
    )
    assert "secret" not in repr(request)
    moved = TrialMoved(number=1, phase="agent", usage=ModelUse(calls=2))
    with open_shared_dir() as shared:
        outer, inner, server = await _both_ends(shared)
        outer.send(setup)
        outer.send(request)
        outer.send(MeasureSpace())
        assert [await inner.receive() for _ in range(3)] == [setup, request, MeasureSpace()]
        answers = [Note(line="größer\n"), moved, FreeSpace(free_bytes=1 << 40), Failed(message="no")]
        for message in answers:
            inner.send(message)
        assert [await outer.receive() for _ in answers] == answers
        await inner.close()
        assert await outer.receive() is None
        await outer.close()
        server.close()


def test_a_shared_dir_is_this_users_alone_and_removed_after_its_owner():
    with open_shared_dir() as shared:
        assert shared.root.stat().st_mode & 0o777 == 0o700
        assert shared.root not in remove_stale_shared_dirs()
        (shared.root / "owner").write_text("an earlier boot/1/1/1")
        assert shared.root in remove_stale_shared_dirs() and not shared.root.exists()


async def test_each_try_calls_with_its_own_token_and_no_other(tmp_path: Path):
    (tmp_path / "script.toml").write_text(SCRIPT)
    outer_socket = tmp_path / "outer.sock"
    async with Relay(ScriptUpstream(tmp_path / "script.toml"), socket_path=outer_socket) as outer:
        accounts = [outer.open_run("trial") for _ in range(2)]
        upstream = OuterRelay.on_socket(outer_socket, mode="script", scripted=True)
        async with Relay(upstream) as inner, httpx.AsyncClient() as client:

            async def call(name: str) -> httpx.Response:
                account = inner.open_run(name)
                headers = {"authorization": f"Bearer {account.token}"}
                return await client.post(f"{account.base_url}/chat/completions", json=BODY, headers=headers)

            upstream.tokens["trial"] = accounts[0].token
            first = await call("trial")
            assert first.status_code == 200 and first.headers["x-capstan-model"] == "scripted"
            assert outer.usage(accounts[0].token).calls == 1 and outer.usage(accounts[1].token).calls == 0
            upstream.tokens["trial"] = accounts[1].token
            assert (await call("trial")).status_code == 200
            assert outer.usage(accounts[1].token).calls == 1
            assert (await call("trial")).status_code == 401  # a token serves one try
            assert (await call("another")).status_code == 401
            assert not [a.token for a in accounts if a.token in json.dumps(first.json())]
