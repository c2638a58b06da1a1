"""Checks and messages that the file tools share."""

from __future__ import annotations

import posixpath
from difflib import get_close_matches

from src.tools.base import ToolContext, ToolError
from src.tools.rendering import printable_path
from src.tools.workspace import FileStat, WorkspaceError


async def existing_file(context: ToolContext, path: str) -> FileStat:
    """Return the entry of a regular file or of a link to one. Raise ToolError for anything else."""
    entry = await context.workspace.stat(path)
    if entry is None:
        raise ToolError(await missing_error(context, path))
    kind = entry.target_kind if entry.kind == "link" else entry.kind
    name = context.display_path(path)
    if kind is None:
        raise ToolError(f"{name} is a link to {printable_path(entry.target or '?')}, which does not exist")
    if kind == "dir":
        raise ToolError(f"{name} is a folder; use list_dir")
    if kind == "other":
        raise ToolError(f"{name} is a device, pipe or socket, not a regular file; use the shell for it")
    return entry


def file_size(entry: FileStat) -> int:
    """Return the size in bytes of a file, or of the target of a link."""
    return entry.target_size or 0 if entry.kind == "link" else entry.size


async def missing_error(context: ToolContext, path: str) -> str:
    """Return the error for a path that does not exist, with similar names in its folder."""
    absolute = context.workspace.resolve(path)
    folder, name = posixpath.split(absolute)
    text = f"no such file or folder: {context.display_path(path)}"
    try:
        names = [entry.path for entry in await context.workspace.list_dir(folder, depth=1)]
    except WorkspaceError:
        return f"{text}; the folder {printable_path(folder)} does not exist either"
    by_case = {other.lower(): other for other in names}
    close = get_close_matches(name.lower(), list(by_case), 3)
    if close:
        return f"{text}; its folder has " + ", ".join(printable_path(by_case[match]) for match in close)
    return text


def is_binary(data: bytes) -> bool:
    """Return whether the first bytes of a file are those of a binary file."""
    return b"\0" in data


def size_text(data: bytes) -> str:
    """Return a text such as `3 lines, 120 bytes`, with lines counted as editors do."""
    lines = data.count(b"\n") + (not data.endswith(b"\n") and bool(data))
    return f"{lines:,} {'line' if lines == 1 else 'lines'}, {len(data):,} bytes"
