"""list_dir: lists a folder down to some levels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pydantic import Field

from src.tools.base import Arguments, Tool, ToolError, ToolResult
from src.tools.files import missing_error
from src.tools.rendering import fit_lines, printable_path
from src.tools.workspace import DirEntry

MAX_DEPTH = 10
MAX_ENTRIES = 1_000
_MARKS = {"dir": "/", "link": "@", "other": "?", "file": ""}
_FOOTER_TOKENS = 40


class ListDirArguments(Arguments):
    dir_path: str = Field(min_length=1)
    offset: int = Field(1, description="first entry, from 1")
    limit: int = Field(50, description=f"entries, at most {MAX_ENTRIES}")
    depth: int = Field(2, description=f"levels, at most {MAX_DEPTH}")

    synonyms: ClassVar[Mapping[str, str]] = {"path": "dir_path", "directory": "dir_path", "dir": "dir_path"}


class ListDir(Tool[ListDirArguments]):
    name = "list_dir"
    description = "Lists a folder, hidden entries too: '/' after folders, '@' after links, indented by level."
    read_only = True
    arguments = ListDirArguments

    async def run(self, arguments: ListDirArguments) -> ToolResult:
        workspace = self.context.workspace
        absolute = workspace.resolve(arguments.dir_path)
        entry = await workspace.stat(arguments.dir_path)
        if entry is None:
            raise ToolError(await missing_error(self.context, arguments.dir_path))
        if "dir" not in (entry.kind, entry.target_kind):
            raise ToolError(f"{self.context.display_path(arguments.dir_path)} is not a folder; use read_file")
        depth = max(1, min(arguments.depth, MAX_DEPTH))
        entries = await workspace.list_dir(arguments.dir_path, depth=depth)
        entries.sort(key=lambda entry: entry.path.split("/"))
        first = max(1, arguments.offset)
        limit = min(arguments.limit if arguments.limit > 0 else 50, MAX_ENTRIES)
        if entries and first > len(entries):
            raise ToolError(f"the folder has only {len(entries):,} entries, offset {first:,} is past its end")
        chosen = entries[first - 1 : first - 1 + limit]
        header = f"Absolute path: {printable_path(absolute)}"
        room = max(1, self.context.budget - _FOOTER_TOKENS)
        text, lines = fit_lines([header, *map(_line, chosen)], room, self.context.counter)
        count = lines - 1
        last = first + count - 1
        if not entries:
            return ToolResult(f"{text}\n[the folder is empty]")
        if first == 1 and last == len(entries):
            return ToolResult(f"{text}\n[{len(entries)} {'entry' if len(entries) == 1 else 'entries'}]")
        more = f"; go on with offset={last + 1}" if last < len(entries) else ""
        return ToolResult(f"{text}\n[entries {first}-{last} of {len(entries)}{more}]")


def _line(entry: DirEntry) -> str:
    *parents, name = entry.path.split("/")
    return f"{'  ' * len(parents)}{printable_path(name)}{_MARKS[entry.kind]}"
