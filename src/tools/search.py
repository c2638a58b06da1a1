"""Searching files by content with ripgrep, else with grep -P, else with grep -E.

The first of these that the container has does the search, so a regular expression means what that
program takes it for. Everything else is the same for all three. Searched are regular files below a
folder, including hidden ones, without following links. Folders of version control, installed
packages and compiled Python are skipped, and so are files with a NUL byte; a file that is named
itself is always searched.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass

from src.tools.base import ToolError
from src.tools.scripts import script
from src.tools.workspace import Workspace, WorkspaceError
from src.tools.workspace.paths import FORBIDDEN

SKIPPED_FOLDERS = (".git", ".hg", ".svn", "node_modules", "__pycache__")
SEARCH_SEC = 60.0
LINE_BYTES = 600  # of a matching line that are fetched
MAX_CANDIDATES = 5_000  # matching files; listing more would take too long
MAX_ALTERNATIVES = 64  # of a file name pattern with braces
_BATCH_FILES = 50
_BATCH_BYTES = 60_000
_VIRTUAL = ("/proc", "/sys", "/dev")
_CLASSES = {"d": "[:digit:]", "w": "[:alnum:]_", "s": "[:space:]"}
_POSIX_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\[[:.=].*?[:.=]\]|[^]])*\]|.", re.DOTALL)
_EXTENSION = re.compile(r"(?<!\\)\(\?")
_BRACES = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Hit:
    """A file with a match: its absolute path and, if requested, its lines (number, text)."""

    path: str
    lines: tuple[tuple[int, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Hits, sorted by path. `more` means that there are more than the limit."""

    hits: tuple[Hit, ...]
    more: bool
    program: str


async def search_files(
    workspace: Workspace, pattern: str, path: str, *, include: str | None, limit: int
) -> SearchResult:
    """Return at most `limit` files with a matching line. Raises ToolError."""
    candidates = await _find(workspace, pattern, path, include)
    hits: list[Hit] = []
    for batch in _batches(candidates.files):
        hits += await _read(workspace, pattern, candidates, batch, lines=0)
        if len(hits) > limit:
            break
    return SearchResult(tuple(hits[:limit]), len(hits) > limit, candidates.program)


async def search_lines(workspace: Workspace, pattern: str, path: str, *, limit: int) -> SearchResult:
    """Return the matching lines, at most `limit` in all files. Raises as `search_files` does."""
    candidates = await _find(workspace, pattern, path, None)
    hits: list[Hit] = []
    left = limit
    for batch in _batches(candidates.files):
        for hit in await _read(workspace, pattern, candidates, batch, lines=left + 1):
            if left <= 0:
                return SearchResult(tuple(hits), True, candidates.program)
            hits.append(Hit(hit.path, hit.lines[:left]))
            if len(hit.lines) > left:
                return SearchResult(tuple(hits), True, candidates.program)
            left -= len(hit.lines)
    return SearchResult(tuple(hits), False, candidates.program)


@dataclass(frozen=True, slots=True)
class _Candidates:
    """Files with a matching line, sorted. If `named`, the path was a file; others may be binary."""

    files: list[str]
    named: bool
    program: str


async def _find(workspace: Workspace, pattern: str, path: str, include: str | None) -> _Candidates:
    if "\n" in pattern or "\0" in pattern:
        raise ToolError("files are searched line by line: a pattern cannot contain a line break or a NUL")
    root = workspace.resolve(path)
    entry = await workspace.stat(path)
    if entry is None:
        raise ToolError(f"no such file or folder: {path}")
    kind = entry.target_kind if entry.kind == "link" else entry.kind
    if kind not in ("file", "dir"):
        raise ToolError(f"{path} is neither a file nor a folder")
    named = kind == "file"
    where = ["-L", root, "-type", "f"] if named else _find_arguments(root, include)
    arguments = ("files", pattern, posix_pattern(pattern), *where)
    try:
        output = await workspace.query(script("search"), arguments, timeout_sec=SEARCH_SEC)
    except WorkspaceError as error:
        raise ToolError(f"the search failed ({error}); name a smaller folder, or use the shell") from None
    program, refusal, *found = output.decode("utf-8", "surrogateescape").split("\0")
    if refusal:
        raise ToolError(f"{program} refuses the pattern: {refusal}")
    if program == "grep -E" and _EXTENSION.search(pattern):  # it would search for something else
        raise ToolError("grep -E refuses the pattern: it has no groups that start with (?")
    files = {posixpath.normpath(name) for name in found if name}
    if include and not named:
        glob = compile_glob(include)
        files = {name for name in files if glob.match(posixpath.relpath(name, root))}
    if len(files) > MAX_CANDIDATES:
        raise ToolError(f"{len(files):,} files match: narrow the pattern, the path or the include")
    return _Candidates(sorted(files), named, program)


async def _read(
    workspace: Workspace, pattern: str, candidates: _Candidates, files: list[str], *, lines: int
) -> list[Hit]:
    """Return hits among the files, each with at most `lines` lines."""
    options = (candidates.program, str(lines), str(LINE_BYTES), "binary" if candidates.named else "")
    arguments = ("lines", pattern, posix_pattern(pattern), *options, *files)
    output = await workspace.query(script("search"), arguments, timeout_sec=SEARCH_SEC)
    hits: list[Hit] = []
    for path, block in zip(files, output.split(b"\0"), strict=False):
        if block.startswith(b"+"):
            numbered = [line.partition(b":") for line in block[1:].split(b"\n") if line]
            hits.append(Hit(path, tuple((int(number), text) for number, _, text in numbered)))
    return hits


def posix_pattern(pattern: str) -> str:
    r"""Return the pattern for grep -E: with \d, \w and \s (and \D, \W, \S) as POSIX classes.

    \b stays: it has no class, and the grep -E of GNU and of busybox know it.
    """

    def translated(match: re.Match[str]) -> str:
        token = match.group()
        if len(token) > 1 and token[0] == "[":
            return re.sub(r"\\([dws])", lambda escape: _CLASSES[escape.group(1)], token)
        name = token[1:].lower()
        if token[0] == "\\" and name in _CLASSES:
            return f"[{'' if token[1].islower() else '^'}{_CLASSES[name]}]"
        return token

    return _POSIX_TOKEN.sub(translated, pattern)


def expand_braces(pattern: str) -> list[str]:
    """Return `*.a` and `*.b` for `*.{a,b}`; at most about MAX_ALTERNATIVES patterns."""
    done: list[str] = []
    pending = [pattern]
    while pending and len(done) + len(pending) <= MAX_ALTERNATIVES:
        current = pending.pop(0)
        match = _BRACES.search(current)
        if match is None or "," not in match.group(1):
            done.append(current)
            continue
        pending += [
            current[: match.start()] + part + current[match.end() :] for part in match.group(1).split(",")
        ]
    return done + pending


def compile_glob(pattern: str) -> re.Pattern[str]:
    """Return a regular expression for paths relative to the searched folder.

    A pattern without a slash matches names at any depth. `**` spans folders, `*` and `?` do not.
    """
    alternatives = [_glob_regex(part.removeprefix("./")) for part in expand_braces(pattern)]
    return re.compile("|".join(f"(?:{part})" for part in alternatives) + r"\Z", re.DOTALL)


def _glob_regex(pattern: str) -> str:
    if "/" not in pattern.rstrip("/"):
        pattern = "**/" + pattern
    pattern = pattern.lstrip("/")
    if pattern.endswith("/"):
        pattern += "**"
    result, at = "", 0
    while at < len(pattern):
        char = pattern[at]
        if pattern.startswith("**/", at):
            result, at = result + "(?:[^/]+/)*", at + 3
        elif pattern.startswith("**", at):
            result, at = result + ".*", at + 2
        elif char == "*":
            result, at = result + "[^/]*", at + 1
        elif char == "?":
            result, at = result + "[^/]", at + 1
        elif char == "[" and (end := pattern.find("]", at + 2)) > 0:
            inner = pattern[at + 1 : end].replace("\\", "\\\\").replace("[", "\\[").replace("&&", "&\\&")
            negated = inner[:1] in ("!", "^")
            result += f"[{'^/' if negated else ''}{inner[1:] if negated else inner}]"
            at = end + 1
        else:
            result, at = result + re.escape(char), at + 1
    return result + r"\Z"


def _find_arguments(root: str, include: str | None) -> list[str]:
    """Return find's arguments: the folder, what is not entered, and the test for included files."""
    start = root if root == "/" else root + "/."
    prefix = start.removesuffix("/")
    args = [start, "-type", "d", "("]
    for name in SKIPPED_FOLDERS:
        args += ["-name", name, "-o"]
    # -path matches paths as find prints them, below the folder that it was given.
    shown = start.removesuffix(".").rstrip("/")
    for path in (*FORBIDDEN, *_VIRTUAL):
        if path.startswith(shown + "/"):
            args += ["-path", f"{_escaped(prefix)}{path.removeprefix(shown)}", "-o"]
    args[-1] = ")"
    args += ["-prune", "-o", "-type", "f"]
    names = [name for name in expand_braces(include) if "/" not in name] if include else []
    if include and len(names) == len(expand_braces(include)):
        args.append("(")
        for name in names:
            args += ["-name", name, "-o"]
        args[-1] = ")"
    return args


def _escaped(path: str) -> str:
    return "".join(f"\\{char}" if char in "*?[\\" else char for char in path)


def _batches(paths: list[str]) -> list[list[str]]:
    batches: list[list[str]] = []
    size = 0
    for path in paths:
        length = len(path.encode("utf-8", "surrogateescape")) + 1
        if not batches or len(batches[-1]) >= _BATCH_FILES or size + length > _BATCH_BYTES:
            batches.append([])
            size = 0
        batches[-1].append(path)
        size += length
    return batches
