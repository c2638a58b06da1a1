"""str_replace_editor: the file tool of the minimal preset, in the form that models know."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field

from src.tools.base import Arguments, Tool, ToolContext, ToolError, ToolResult
from src.tools.files import existing_file, is_binary, missing_error, size_text
from src.tools.rendering import printable_line, printable_path

MAX_UNDO = 20
_SNIPPET_LINES = 4
_LINE_CHARS = 500
_FOOTER_TOKENS = 60


class EditorArguments(Arguments):
    command: Literal["view", "create", "str_replace", "insert", "undo_edit"]
    path: str = Field(description="Path to file or directory.", min_length=1)
    file_text: str | None = Field(None, description="For create: the content of the file.")
    old_str: str | None = Field(None, description="For str_replace: the text to replace, unique in the file.")
    new_str: str | None = Field(None, description="For str_replace and insert: the new text.")
    insert_line: int | None = Field(
        None, description="For insert: the line to insert behind, 0 for the start."
    )
    view_range: list[int] | None = Field(
        None, description="For view: first and last line, from 1; -1 as last for the end of the file."
    )

    synonyms: ClassVar[Mapping[str, str]] = {"file_path": "path"}


class StrReplaceEditor(Tool[EditorArguments]):
    name = "str_replace_editor"
    description = (
        "View, create and edit files. view shows a file with line numbers, or a directory two levels deep. "
        "create makes a new file and does not replace one. str_replace needs old_str to match exactly one "
        "place, whitespace included. insert puts new_str behind insert_line. undo_edit takes back the last "
        "edit of path."
    )
    arguments = EditorArguments

    def __init__(self, context: ToolContext) -> None:
        super().__init__(context)
        self._before: dict[str, list[bytes | None]] = {}

    async def run(self, arguments: EditorArguments) -> ToolResult:
        match arguments.command:
            case "view":
                return await self._view(arguments)
            case "create":
                return await self._create(arguments)
            case "str_replace":
                return await self._replace(arguments)
            case "insert":
                return await self._insert(arguments)
            case "undo_edit":
                return await self._undo(arguments.path)

    async def _view(self, arguments: EditorArguments) -> ToolResult:
        workspace = self.context.workspace
        entry = await workspace.stat(arguments.path)
        if entry is None:
            raise ToolError(await missing_error(self.context, arguments.path))
        if "dir" in (entry.kind, entry.target_kind):
            entries = await workspace.list_dir(arguments.path, depth=2)
            names = sorted(
                e.path + ("/" if e.kind == "dir" else "") for e in entries if not e.path.startswith(".")
            )
            return ToolResult("\n".join(map(printable_path, names)) or "(the directory is empty)")
        text = await self._text(arguments.path)
        lines = text.split("\n")
        if lines[-1] == "" and len(lines) > 1:
            lines.pop()
        first, last = 1, len(lines)
        if arguments.view_range:
            first, last = (*arguments.view_range, -1)[:2]
            last = len(lines) if last == -1 else min(last, len(lines))
            if not 1 <= first <= last:
                raise ToolError(f"view_range must lie within 1 and {len(lines)}, got {arguments.view_range}")
        return ToolResult(self._numbered(lines, first, last))

    async def _create(self, arguments: EditorArguments) -> ToolResult:
        if arguments.file_text is None:
            raise ToolError("create needs file_text")
        name = self.context.display_path(arguments.path)
        if await self.context.workspace.stat(arguments.path) is not None:
            raise ToolError(f"{name} exists already; edit it with str_replace")
        data = arguments.file_text.encode("utf-8", "replace")
        await self.context.workspace.write_bytes(arguments.path, data)
        self._remember(arguments.path, None)
        return ToolResult(f"created {name} ({size_text(data)})")

    async def _replace(self, arguments: EditorArguments) -> ToolResult:
        if not arguments.old_str:
            raise ToolError("str_replace needs old_str; use insert to add text")
        text = await self._text(arguments.path)
        old, new = arguments.old_str, arguments.new_str or ""
        if old not in text and "\r\n" in text:
            old, new = (part.replace("\r\n", "\n").replace("\n", "\r\n") for part in (old, new))
        count = text.count(old)
        if count == 0:
            raise ToolError(
                "old_str is not in the file, character by character; nothing was changed. View it again"
            )
        if count > 1:
            places = [text[: m.start()].count("\n") + 1 for m in re.finditer(re.escape(old), text)]
            listed = ", ".join(map(str, places[:10]))
            raise ToolError(f"old_str occurs {count} times in the file (lines {listed}); give more around it")
        at = text.index(old)
        after = text[:at] + new + text[at + len(old) :]
        return await self._edited(arguments.path, text, after, text[:at].count("\n") + 1, new.count("\n"))

    async def _insert(self, arguments: EditorArguments) -> ToolResult:
        if arguments.insert_line is None or arguments.new_str is None:
            raise ToolError("insert needs insert_line and new_str")
        text = await self._text(arguments.path)
        lines = _lines(text)
        if not 0 <= arguments.insert_line <= len(lines):
            raise ToolError(f"insert_line must lie within 0 and {len(lines)}, got {arguments.insert_line}")
        ending = "\r\n" if "\r\n" in text else "\n"
        new = arguments.new_str.replace("\r\n", "\n").replace("\n", ending)
        before = "".join(lines[: arguments.insert_line])
        if before and not before.endswith("\n"):
            before += ending
        behind = "".join(lines[arguments.insert_line :])
        if not new.endswith("\n") and (behind or text.endswith("\n")):
            new += ending
        line = arguments.insert_line + 1
        return await self._edited(
            arguments.path, text, before + new + behind, line, new.rstrip("\n").count("\n")
        )

    async def _undo(self, path: str) -> ToolResult:
        history = self._before.get(self.context.workspace.resolve(path))
        name = self.context.display_path(path)
        if not history:
            raise ToolError(f"no edit of {name} to undo")
        before = history[-1]
        if before is None:
            await self.context.workspace.remove(path)
        else:
            await self.context.workspace.write_bytes(path, before)
        history.pop()
        return ToolResult(
            f"undid the last edit of {name}" + ("; the file is removed" if before is None else "")
        )

    async def _text(self, path: str) -> str:
        await existing_file(self.context, path)
        data = await self.context.workspace.read_bytes(path)
        if is_binary(data):
            raise ToolError(f"{printable_path(path)} is a binary file ({len(data):,} bytes)")
        return data.decode("utf-8", "surrogateescape")

    async def _edited(self, path: str, before: str, after: str, line: int, more: int) -> ToolResult:
        await self.context.workspace.write_bytes(path, after.encode("utf-8", "surrogateescape"))
        self._remember(path, before.encode("utf-8", "surrogateescape"))
        lines = after.split("\n")
        if lines[-1] == "" and len(lines) > 1:
            lines.pop()
        first, last = max(1, line - _SNIPPET_LINES), min(len(lines), line + more + _SNIPPET_LINES)
        snippet = self._numbered(lines, first, last) if after else "(the file is empty now)"
        return ToolResult(f"edited {self.context.display_path(path)}; the lines now:\n{snippet}")

    def _remember(self, path: str, before: bytes | None) -> None:
        history = self._before.setdefault(self.context.workspace.resolve(path), [])
        history.append(before)
        del history[:-MAX_UNDO]

    def _numbered(self, lines: list[str], first: int, last: int) -> str:
        """Return lines first to last in the form of `cat -n`, as many as the budget allows."""
        shown = [
            f"{number:>6}\t{printable_line(line.removesuffix(chr(13)))[:_LINE_CHARS]}"
            for number, line in enumerate(lines[first - 1 : last], first)
        ]
        text, counter = "\n".join(shown), self.context.counter
        room = max(1, self.context.budget - _FOOTER_TOKENS)
        if counter.count(text) <= room:
            return text
        shown = shown[: max(1, counter.head(text, room).count("\n"))]
        more = first + len(shown)
        return (
            "\n".join(shown)
            + f"\n[lines {first}-{more - 1} of {len(lines)}; see the rest with view_range [{more}, {last}]]"
        )


def _lines(text: str) -> list[str]:
    parts = text.split("\n")
    return [part + "\n" for part in parts[:-1]] + ([parts[-1]] if parts[-1] else [])
