"""The exact bytes of a three-step run's requests. A change breaks the provider's prefix cache.

`UPDATE_GOLDEN=1 .venv/bin/python -m pytest tests/src/loop/test_wire.py` writes the file again. Its
diff shows the change of every cached prompt.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from runner.scripted import Reply
from tests.src.loop.agent_runs import DONE, call, run_agent

GOLDEN = Path(__file__).with_name("golden") / "three_steps.jsonl"
# Text that depends on this machine: its description, and the duration of commands.
_MACHINE = re.compile(rb"<environment>.*?</environment>", re.DOTALL)
_SECONDS = re.compile(rb"\b\d+(\.\d+)? s\b")


def plain(body: bytes, folder: Path) -> bytes:
    body = body.replace(os.fsencode(folder), b"")
    return _SECONDS.sub(b"N s", _MACHINE.sub("<environment>…</environment>".encode(), body))


async def test_requests_of_a_three_step_run_are_byte_for_byte_as_ever(tmp_path: Path) -> None:
    write = Reply(
        reasoning="Write it.\n",
        content="I write the file.",
        tool_calls=(call("write_file", "call_a", file_path="naïve 文.txt", content='a "b"\\\n'),),
    )
    look = Reply(
        reasoning="Look at it.",
        tool_calls=(
            call("read_file", "call_b", file_path="naïve 文.txt"),
            call("list_dir", "call_c", dir_path="."),
        ),
    )
    run = await run_agent(tmp_path, [write, look, *DONE], instruction="Schreibe „naïve 文.txt“.\n")
    bodies = [plain(request.body, tmp_path) for request in run.model.requests[:3]]
    if os.environ.get("UPDATE_GOLDEN"):
        GOLDEN.parent.mkdir(exist_ok=True)
        GOLDEN.write_bytes(b"\n".join(bodies) + b"\n")
    assert len(run.model.requests) == 4
    expected = GOLDEN.read_bytes().splitlines()
    for number, (body, golden) in enumerate(zip(bodies, expected, strict=True), 1):
        assert body == golden, f"request {number}"
