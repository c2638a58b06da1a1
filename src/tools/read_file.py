"""read_file: reads numbered lines of a text file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field

from src.tools.base import Arguments, Tool, ToolError, ToolResult
from src.tools.files import existing_file, file_size, is_binary
from src.tools.rendering import printable_line
from src.tools.scripts import script

MAX_LINES = 2_000
MAX_LINE_CHARS = 500
_WHOLE_BYTES = 1 << 20  # larger files are read line by line in the container
_SNIFF_BYTES = 8_192
_FOOTER_TOKENS = 80


class ReadFileArguments(Arguments):
    file_path: str = Field(min_length=1)
    offset: int = Field(1, description="first line, from 1")
    limit: int = Field(MAX_LINES, description="number of lines")

    synonyms: ClassVar[Mapping[str, str]] = {"path": "file_path", "file": "file_path"}


@dataclass(frozen=True, slots=True)
class _Excerpt:
    """Lines of a file from `first` on, without line feeds. `ends_open`: its last one has none."""

    lines: list[bytes]
    first: int
    total: int
    ends_open: bool


class ReadFile(Tool[ReadFileArguments]):
    name = "read_file"
    description = (
        "Reads lines of a text file as 'L{n}: text'. Lines are cut at 500 characters and the answer at "
        "{budget} tokens; it says at which offset to go on."
    )
    read_only = True
    arguments = ReadFileArguments

    def describe(self) -> str:
        return self.description.replace("{budget}", str(self.context.budget))

    async def run(self, arguments: ReadFileArguments) -> ToolResult:
        path = arguments.file_path
        size = file_size(await existing_file(self.context, path))
        name = self.context.display_path(path)
        wanted = _WHOLE_BYTES if size <= _WHOLE_BYTES else _SNIFF_BYTES
        start = await self.context.workspace.read_bytes(path, limit=wanted)
        if is_binary(start[:_SNIFF_BYTES]):
            raise ToolError(
                f"{name} is a binary file ({max(size, len(start)):,} bytes); view_image shows pictures, for "
                "others use programs such as file, strings or od"
            )
        if not start and size == 0:
            return ToolResult(f"({name} is empty)")
        first, limit = max(1, arguments.offset), arguments.limit if arguments.limit > 0 else MAX_LINES
        limit = min(limit, MAX_LINES)
        if size <= _WHOLE_BYTES:
            excerpt = _from_bytes(start, first, limit)
        else:
            excerpt = await self._fetch(path, first, limit)
        if first > excerpt.total:
            raise ToolError(f"{name} has only {excerpt.total:,} lines, offset {first:,} is past its end")
        return ToolResult(self._rendered(excerpt))

    async def _fetch(self, path: str, first: int, limit: int) -> _Excerpt:
        absolute = self.context.workspace.resolve(path)
        args = (absolute, str(first), str(first + limit - 1), str(MAX_LINE_CHARS * 4 + 1))
        header, _, body = (await self.context.workspace.query(script("lines_of"), args)).partition(b"\n")
        newlines, ends_open = header.split()
        lines = body.split(b"\n")[:-1]
        return _Excerpt(lines, first, int(newlines) + (ends_open == b"1"), ends_open == b"1")

    def _rendered(self, excerpt: _Excerpt) -> str:
        crlf = bool(excerpt.lines) and all(
            line.endswith(b"\r") for line in excerpt.lines[:-1] or excerpt.lines
        )
        plain = [line.removesuffix(b"\r") if crlf else line for line in excerpt.lines]
        lines = [f"L{number}: {_display(line)}" for number, line in enumerate(plain, excerpt.first)]
        text = "\n".join(lines)
        counter, room = self.context.counter, max(1, self.context.budget - _FOOTER_TOKENS)
        count = len(lines)
        if counter.count(text) > room:
            head = counter.head(text, room)
            count = max(1, head.count("\n"))
            text = "\n".join(lines[:count]) if count > 1 or "\n" in head else head + " …"
        last = excerpt.first + count - 1
        remarks: list[str] = []
        if excerpt.first > 1 or last < excerpt.total:
            more = f"; go on with offset={last + 1}" if last < excerpt.total else ""
            remarks.append(f"lines {excerpt.first}-{last} of {excerpt.total}{more}")
        if crlf:
            remarks.append("lines end with CRLF")
        if excerpt.ends_open and last == excerpt.total:
            remarks.append("no line break at the end of the file")
        return text + (f"\n[{'; '.join(remarks)}]" if remarks else "")


def _from_bytes(data: bytes, first: int, limit: int) -> _Excerpt:
    lines = data.split(b"\n")
    ends_open = lines[-1] != b""
    if not ends_open:
        lines.pop()
    return _Excerpt(lines[first - 1 : first - 1 + limit], first, len(lines), ends_open)


def _display(line: bytes) -> str:
    text = printable_line(line.decode("utf-8", "surrogateescape"))
    if len(text) <= MAX_LINE_CHARS:
        return text
    return f"{text[:MAX_LINE_CHARS]}… (line cut, {len(line):,} bytes or more)"
