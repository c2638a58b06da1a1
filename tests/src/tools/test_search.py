"""Searching with ripgrep, with GNU grep and with busybox: what is the same, and what differs."""

from __future__ import annotations

import random
import subprocess
from pathlib import Path

import pytest

from src.config import Settings
from src.tools.base import ToolError
from src.tools.search import (
    SearchResult,
    compile_glob,
    expand_braces,
    posix_pattern,
    search_files,
    search_lines,
)
from src.tools.workspace import Workspace
from tests.needs import program
from tests.src.tools.workspace.doubles import BASH, POSIX, ProcessEnvironment

PROGRAMS = {"ripgrep": "ripgrep", "grep": "grep -P", "busybox": "grep -E"}
NAMES = [
    "a.py",
    "b.txt",
    ".hidden",
    "c d.py",
    "new\nline.txt",
    "-dash",
    "ü.py",
    "q'$x",
    "m.min.js",
    "[b].c",
    ".gitignore",
]
FOLDERS = ["", "src", "src/deep", ".git", "node_modules/x", "sp ace", ".config", "src/__pycache__", "li\nne"]
WORDS = [
    "foo",
    "bar",
    "foo bar",
    "Foo(x)",
    "  return 1",
    "é",
    "x" * 900,
    "",
    "a\tb",
    "end\r",
    "\x1b[31m",
    "*.py",
    "\xff",
]
COREUTILS = (
    "base64", "bash", "cat", "cut", "dd", "find", "grep", "head", "id", "ls", "mkdir", "mv", "printf",
    "readlink", "rm", "setsid", "sh", "sleep", "stat", "tail", "tr", "uname", "wc",
)  # fmt: skip
# Patterns with the same meaning for all three programs.
PATTERNS = [
    "foo",
    "^fo+",
    r"\bbar$",
    "x{50}",
    "nothing",
    r"\s+return \d",
    r"Foo\(",
    r"[^\d\s]oo",
    r"^\w+ \w+$",
    "foo|bar",
    "^$",
]


def fill(folder: Path, seed: int) -> None:
    draw = random.Random(seed)
    for place in FOLDERS:
        (folder / place).mkdir(parents=True, exist_ok=True)
        for name in draw.sample(NAMES, 4):
            lines = [draw.choice(WORDS) for _ in range(draw.randint(0, 6))]
            data = "\n".join(lines).encode("latin-1") + draw.choice([b"", b"\n", b"\0", b"\n\0foo\n"])
            (folder / place / name).write_bytes(data)
    (folder / ".gitignore").write_text("*.py\n")
    (folder / ".hidden").write_text("foo\n")
    (folder / "src" / "link.py").symlink_to("../.hidden")
    (folder / "linked").symlink_to("src")


async def open_with(kind: str, folder: Path, tools: Path) -> Workspace:
    """Open a workspace in a container with ripgrep, without it, or with busybox alone."""
    shell, path = BASH, None
    tools.mkdir(exist_ok=True)
    if kind == "ripgrep":
        program("rg")
    if kind == "grep":
        for name in COREUTILS:
            (tools / name).symlink_to(program(name))
        path = str(tools)
    elif kind == "busybox":
        busybox = program("busybox")
        for applet in subprocess.run(
            [busybox, "--list"], capture_output=True, text=True, check=True
        ).stdout.split():
            if "/" not in applet and applet != "[[":
                (tools / applet).symlink_to(busybox)
        shell, path = POSIX, str(tools)
    settings = Settings(api_key="none")  # type: ignore[arg-type]
    workspace = Workspace(ProcessEnvironment(folder, shell=shell, path=path), settings=settings)
    await workspace.open()
    return workspace


@pytest.mark.parametrize("seed", range(2))
async def test_ripgrep_grep_and_busybox_agree(tmp_path: Path, seed: int) -> None:
    program("rg")
    tree = tmp_path / "tree"
    tree.mkdir()
    fill(tree, seed)
    answers: dict[str, list[SearchResult]] = {}
    for kind in PROGRAMS:
        workspace = await open_with(kind, tree, tmp_path / kind)
        got: list[SearchResult] = []
        for pattern in PATTERNS:
            got.append(await search_files(workspace, pattern, ".", include=None, limit=100))
            got.append(await search_lines(workspace, pattern, ".", limit=25))
        got.append(await search_files(workspace, "foo", "src", include="*.{py,txt}", limit=3))
        got.append(await search_files(workspace, "foo", ".", include="src/**/*.py", limit=100))
        got.append(await search_lines(workspace, "foo", "src/link.py", limit=25))
        assert {result.program for result in got} == {PROGRAMS[kind]}
        answers[kind] = got
        await workspace.close()
    ripgrep, grep, busybox = ([(a.hits, a.more) for a in answers[kind]] for kind in PROGRAMS)
    assert ripgrep == grep == busybox
    assert any(len(answer.hits) > 3 for answer in answers["grep"])
    assert [hit.path for hit in answers["grep"][0].hits] == expected(tree, b"foo")


def expected(tree: Path, needle: bytes) -> list[str]:
    """Return the files by the same rules in Python."""
    skipped = {".git", "node_modules", "__pycache__"}
    found: list[str] = []
    for path in tree.rglob("*"):
        inside = path.relative_to(tree).parts
        if path.is_symlink() or not path.is_file() or skipped & set(inside[:-1]) or "linked" in inside[:-1]:
            continue
        data = path.read_bytes()
        if b"\0" not in data and any(needle in line for line in data.split(b"\n")):
            found.append(str(path))
    return sorted(found)


LINES = {
    "accent.txt": "naïve café\n",
    "case.txt": "Foo\n",
    "crlf.txt": "end\r\n",
    "look.txt": "price: 5\n",
    "plain.txt": "foo bar\n",
}
# A pattern, and the files that each program finds; None where it refuses the pattern.
DIFFERENCES: list[tuple[str, list[str] | None, list[str] | None, list[str] | None]] = [
    (r"^na\wve", ["accent.txt"], [], []),  # only ripgrep knows letters outside ASCII
    (r"(?i)^foo", ["case.txt", "plain.txt"], ["case.txt", "plain.txt"], None),
    (r"(?:foo) bar", ["plain.txt"], ["plain.txt"], None),
    (r"(?<=price: )\d", None, ["look.txt"], None),  # lookaround: only grep -P
    (r"(o)\1", None, ["case.txt", "plain.txt"], ["case.txt", "plain.txt"]),
    ("f(", None, None, None),
    ("[x", None, None, None),
]


@pytest.mark.parametrize(
    ("kind", "column"), [("ripgrep", 1), ("grep", 2), ("busybox", 3)], ids=["ripgrep", "grep -P", "grep -E"]
)
async def test_where_the_programs_differ(tmp_path: Path, kind: str, column: int) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    for name, text in LINES.items():
        (tree / name).write_bytes(text.encode())
    workspace = await open_with(kind, tree, tmp_path / kind)
    for row in DIFFERENCES:
        pattern, names = row[0], row[column]
        if names is None:
            with pytest.raises(ToolError, match=f"^{PROGRAMS[kind]} refuses the pattern: ."):
                await search_lines(workspace, str(pattern), ".", limit=5)
            continue
        found = await search_files(workspace, str(pattern), ".", include=None, limit=5)
        assert [Path(hit.path).name for hit in found.hits] == names, pattern
    await workspace.close()


async def test_a_refusal_has_the_words_of_the_program(opened_workspace: Workspace) -> None:
    program("rg")
    with pytest.raises(ToolError, match=r"ripgrep refuses the pattern: [^?]*unclosed group"):
        await search_files(opened_workspace, "f(", ".", include=None, limit=5)
    for pattern in ("a\nb", "a\0b"):
        with pytest.raises(ToolError, match="line by line"):
            await search_files(opened_workspace, pattern, ".", include=None, limit=5)


@pytest.mark.parametrize(
    ("pattern", "posix"),
    [
        (r"\d+\.\w", r"[[:digit:]]+\.[[:alnum:]_]"),
        (r"^\s*\bfoo\b", r"^[[:space:]]*\bfoo\b"),
        (r"\D\W\S", r"[^[:digit:]][^[:alnum:]_][^[:space:]]"),
        (r"[\d.]-[^\s\w]", r"[[:digit:].]-[^[:space:][:alnum:]_]"),
        (r"[]\d][[:alpha:]\d]", r"[][:digit:]][[:alpha:][:digit:]]"),
        (r"\\d\[d", r"\\d\[d"),
        ("[x", "[x"),
    ],
)
def test_shorthands_become_posix_classes(pattern: str, posix: str) -> None:
    assert posix_pattern(pattern) == posix


async def test_limits_binary_files_and_lines(opened_workspace: Workspace, app: Path) -> None:
    workspace = opened_workspace
    for n in range(120):
        (app / f"f{n:03}").write_text("hit\nmiss\nhit\n")
    found = await search_files(workspace, "hit", ".", include=None, limit=100)
    assert len(found.hits) == 100 and found.more
    assert [hit.path for hit in found.hits] == sorted(hit.path for hit in found.hits)
    lines = await search_lines(workspace, "hit", ".", limit=5)
    assert lines.more and [len(hit.lines) for hit in lines.hits] == [2, 2, 1]
    exact = await search_lines(workspace, "hit", "f000", limit=2)
    assert not exact.more and exact.hits[0].lines == ((1, b"hit"), (3, b"hit"))
    (app / "binary").write_bytes(b"hit\0\n")
    assert not (await search_files(workspace, "hit", ".", include="binary", limit=5)).hits
    assert (await search_lines(workspace, "hit", "binary", limit=5)).hits[0].lines == ((1, b"hit"),)
    with pytest.raises(ToolError, match="no such file"):
        await search_files(workspace, "x", "nowhere", include=None, limit=1)


async def test_folders_named_themselves_are_searched(opened_workspace: Workspace, app: Path) -> None:
    (app / "node_modules" / "x").mkdir(parents=True)
    (app / "node_modules" / "x" / "i.js").write_text("hit\n")
    assert not (await search_files(opened_workspace, "hit", ".", include=None, limit=5)).hits
    found = await search_files(opened_workspace, "hit", "node_modules", include=None, limit=5)
    assert len(found.hits) == 1


@pytest.mark.parametrize(
    ("pattern", "path", "matches"),
    [
        ("*.py", "a/b/c.py", True),
        ("*.py", "a.pyc", False),
        ("*.{c,h}", "x/y.h", True),
        ("src/*.py", "src/a.py", True),
        ("src/*.py", "src/b/a.py", False),
        ("src/**/*.py", "src/a.py", True),
        ("**/test_*.py", "t/u/test_a.py", True),
        ("./src/**", "src/a/b", True),
        ("[ab]?.txt", "a1.txt", True),
        ("[!a]*", "abc", False),
        ("docs/", "docs/a/b.md", True),
        ("a+b.txt", "a+b.txt", True),
    ],
)
def test_globs(pattern: str, path: str, matches: bool) -> None:
    assert bool(compile_glob(pattern).match(path)) is matches


def test_braces() -> None:
    assert expand_braces("{a,b}{1,2}") == ["a1", "a2", "b1", "b2"]
    assert expand_braces("{a}") == ["{a}"]
    assert len(expand_braces("{a,b}" * 20)) <= 70
