"""Limits and entrypoint: a ZIP for every rejection code, and hostile ZIPs."""

import io
import struct
import warnings
import zipfile
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runner.submission import check_entrypoint, check_secrets, check_structure, check_text, open_archive
from tests.fuzz import fuzz

AGENT = b"class Agent:\n    pass\n"
MIB = 1024 * 1024


def make_zip(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def with_entry(name: str, data: bytes = b"x", **attributes: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        archive.writestr("agent.py", AGENT)
        info = zipfile.ZipInfo("placeholder")
        info.filename = name
        for key, value in attributes.items():
            setattr(info, key, value)
        archive.writestr(info, data)
    return buffer.getvalue()


def encrypted() -> bytes:
    data = bytearray(with_entry("src/secret.py"))
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.rfind(signature)
        (flags,) = struct.unpack_from("<H", data, at + offset)
        struct.pack_into("<H", data, at + offset, flags | 1)
    return bytes(data)


def nul_name() -> bytes:
    return with_entry("src/aXb.py").replace(b"src/aXb.py", b"src/a\0b.py")


def lying_bomb() -> bytes:
    """Return a ZIP with a member that unpacks to 60 MiB and whose header says 100 bytes."""
    data = bytearray(make_zip({"agent.py": AGENT, "src/bomb.bin": b"\0" * (60 * MIB)}))
    at = data.rfind(b"PK\x01\x02")
    struct.pack_into("<I", data, at + 24, 100)
    return bytes(data)


CASES: dict[str, Callable[[], bytes]] = {
    "zip_too_large": lambda: make_zip({"agent.py": AGENT, "src/x.bin": bytes(MIB)}, zipfile.ZIP_STORED),
    "too_many_files": lambda: make_zip({"agent.py": AGENT} | {f"src/{i}.py": b"" for i in range(200)}),
    "path_too_deep": lambda: with_entry("a/" * 12 + "b.py"),
    "filename_too_long": lambda: with_entry("a" * 181),
    "uncompressed_size_too_large": lambda: make_zip(
        {"agent.py": AGENT} | {f"src/{i}.bin": bytes(range(256)) * 40 * 200 for i in range(11)}
    ),
    "compression_ratio_too_high": lambda: make_zip({"agent.py": AGENT, "src/x.bin": bytes(10 * MIB)}),
    "nested_archive": lambda: with_entry("src/lib.WHL"),
    "symlink_entry": lambda: with_entry(
        "src/link", b"/etc/passwd", external_attr=0o120777 << 16, create_system=3
    ),
    "encrypted_entry": encrypted,
    "unsafe_path": nul_name,
    "absolute_path": lambda: with_entry("/etc/cron.d/x"),
    "parent_path": lambda: with_entry("src/../../x.py"),
    "empty_path": lambda: with_entry("src//x.py"),
    "duplicate_path": lambda: with_entry("./agent.py"),
    "missing_entrypoint": lambda: make_zip({"submission/agent.py": AGENT, "submitted_agent.py": AGENT}),
    "invalid_entrypoint": lambda: make_zip({"agent.py": b"class Agent:\n  def (\n"}),
    "missing_agent_class": lambda: make_zip({"agent.py": b"if True:\n    class Agent: pass\nAgent = None\n"}),
    "invalid_zip": lambda: b"PK\x03\x04 this is no archive",
}


def codes(data: bytes) -> set[str]:
    archive = open_archive(data)
    return {finding.code for finding in [*check_structure(archive), *check_entrypoint(archive)]}


@pytest.mark.parametrize("code", CASES)
def test_each_code_is_found(code: str) -> None:
    assert code in codes(CASES[code]())


def test_a_valid_zip_has_no_finding() -> None:
    assert codes(make_zip({"agent.py": AGENT, "src/__init__.py": b"", "src/a.py": b"x = 1\n"})) == set()


def test_a_backslash_is_unsafe() -> None:
    assert "unsafe_path" in codes(with_entry("src\\a.py"))


@pytest.mark.parametrize("source", [b"\xff\xfe", b"x = '\0'", b"(" * 5_000, b"-" * 200_000 + b"1"])
def test_an_entrypoint_that_overwhelms_the_parser_is_invalid(source: bytes) -> None:
    assert "invalid_entrypoint" in codes(make_zip({"agent.py": source}, zipfile.ZIP_STORED))


def test_a_bomb_with_a_false_header_is_not_unpacked() -> None:
    archive = open_archive(lying_bomb())
    assert archive.findings and "src/bomb.bin" not in archive.contents


def test_a_decorated_class_counts() -> None:
    assert codes(make_zip({"agent.py": b"@staticmethod\nclass Agent: ...\n"})) == set()


def test_a_secret_is_found_and_not_repeated() -> None:
    key = "sk-" + "a1B2" * 8
    findings = list(check_secrets("src/a.py", f"x = 1\nkey = '{key}'\n".encode(), {"DEEPSEEK_API_KEY": key}))
    assert [finding.where for finding in findings] == ["src/a.py:2", "src/a.py:2"]
    assert not any(key in finding.message + finding.remedy for finding in findings)


VALID = make_zip(
    {"agent.py": AGENT, "src/__init__.py": b"", "src/tool.py": b"def tool():\n    return 1\n" * 50}
)


@fuzz(10_000)
@example(edits=[(266, 0), (270, 15)], cut=0, insert=b"")  # the name of an entry is empty
@given(
    edits=st.lists(st.tuples(st.integers(0, len(VALID) - 1), st.integers(0, 255)), max_size=12),
    cut=st.integers(0, len(VALID)),
    insert=st.binary(max_size=20),
)
def test_mutated_zips_never_crash_the_check(edits: list[tuple[int, int]], cut: int, insert: bytes) -> None:
    data = bytearray(VALID)
    for position, value in edits:
        data[position] = value
    mutated = bytes(data[:cut]) + insert + bytes(data[cut:])
    archive = open_archive(mutated)
    findings = [*check_structure(archive), *check_entrypoint(archive)]
    for path, content in archive.contents.items():
        findings += [*check_text(path, content), *check_secrets(path, content, {})]
    assert all(finding.code and finding.where for finding in findings)
    if not findings:
        assert archive.contents["agent.py"] and mutated
