"""The wire of a shell session: framing however the stream is cut, quoting of any bytes."""

import errno
import subprocess
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.environments.base import MAX_COMMAND_BYTES
from runner.environments.frames import SUPERVISOR, BoundedOutput, FrameParser, Phase, quote, run_request
from tests.needs import program

NONCE = "0123456789abcdef0123456789abcdef"


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


@given(
    before=st.sampled_from([b"", b"sh: warning\n"]),
    output=st.binary(max_size=300),
    after=st.binary(max_size=50),
    code=st.integers(0, 255),
    places=st.lists(st.integers(0, 1000), max_size=8),
)
def test_output_comes_out_whole_however_the_stream_is_cut(before, output, after, code, places):
    nonce = NONCE.encode()
    stream = before + nonce + b" start 42\n" + output + b"\n" + nonce + b" end %d\n" % code
    stream += after + nonce + b" free\n"
    got = bytearray()
    parser = FrameParser(NONCE, got.extend)
    for piece in cut(stream, places):
        parser.feed(piece)
    assert (bytes(got), parser.pid, parser.return_code, parser.phase) == (output, 42, code, Phase.FREE)


@given(output=st.binary(max_size=300), places=st.lists(st.integers(0, 1000), max_size=8))
def test_a_stream_that_breaks_off_gives_what_came(output, places):
    got = bytearray()
    parser = FrameParser(NONCE, got.extend)
    for piece in cut(NONCE.encode() + b" start 7\n" + output, places):
        parser.feed(piece)
    parser.flush()
    assert bytes(got) == output
    assert parser.return_code is None


@pytest.mark.parametrize("shell", [["dash"], ["bash"], ["busybox", "sh"]])
@given(text=st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=60))
def test_every_shell_gives_a_quoted_word_back(shell, text):
    program(shell[0])
    script = b"printf %s " + quote(text.encode())
    assert subprocess.run([*shell, "-c", script], capture_output=True).stdout == text.encode()


def run_in(shell: list[str], *requests: bytes) -> bytes:
    program(shell[0])
    return subprocess.run(
        shell, input=SUPERVISOR + b"".join(requests), capture_output=True, timeout=20
    ).stdout


@pytest.mark.parametrize("shell", [["dash", "-s"], ["bash", "-s"], ["busybox", "sh", "-s"]])
def test_the_supervisor_speaks_every_shell(shell):
    command = 'echo "$A|$PWD"; echo é >&2; printf %s "$((1+2))"; exit 7'
    stream = run_in(
        shell,
        run_request(NONCE, command, "/tmp", {"A": "it's\n2"}),
        run_request("f" * 32, "env", "/", {"with.dot": "x", "UID": "y"}),
    )
    got = bytearray()
    parser = FrameParser(NONCE, got.extend)
    parser.feed(stream)
    assert bytes(got) == "it's\n2|/tmp\né\n3".encode()
    assert (parser.return_code, parser.phase) == (7, Phase.FREE)
    assert b"with.dot=x" in stream and b"UID=y" in stream
    assert b"capstan_" not in stream


def test_what_cannot_be_said_is_refused():
    with pytest.raises(ValueError, match="NUL"):
        run_request(NONCE, "a\0b", "/", {})
    with pytest.raises(ValueError, match="'A=B'"):
        run_request(NONCE, "true", "/", {"A=B": "c"})
    with pytest.raises(OSError) as refusal:
        run_request(NONCE, "x" * (MAX_COMMAND_BYTES + 1), "/", {})
    assert refusal.value.errno == errno.E2BIG


@given(pieces=st.lists(st.binary(max_size=40), max_size=30), limit=st.integers(2, 200))
def test_head_and_tail_are_kept_and_the_rest_is_counted(pieces, limit):
    output = BoundedOutput(limit)
    for piece in pieces:
        output.add(piece)
    whole = b"".join(pieces)
    kept = output.getvalue()
    if len(whole) <= limit:
        assert kept == whole
    else:
        head, tail = limit // 2, limit - limit // 2
        note = b"\n[%d bytes of output left out here]\n" % (len(whole) - limit)
        assert kept == whole[:head] + note + whole[-tail:]


def test_text_is_always_text_and_nothing_is_none():
    output = BoundedOutput()
    assert output.text() is None
    output.add(b"\xff\xfe ok")
    assert output.text() == "\ufffd\ufffd ok"
