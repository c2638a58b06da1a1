"""The operations of a patch, independent of its format."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class PatchError(ValueError):
    """A patch is invalid or does not fit its files. The message names the place and the cause."""


class Tag(Enum):
    """The role of a line of a hunk."""

    KEEP = " "
    REMOVE = "-"
    ADD = "+"


@dataclass(frozen=True, slots=True)
class HunkLine:
    """One line of a hunk, without its tag and line ending.

    `number` is its line in the patch, from 1.

    `no_newline` means that the file ends with this line, without a line break.
    """

    tag: Tag
    text: str
    number: int
    no_newline: bool = False


@dataclass(frozen=True, slots=True)
class Hunk:
    """A change of consecutive lines.

    `anchors` are the texts of its `@@` lines, in the order of the search. `old_start` is the line
    number in a unified diff, from 1, or None. `at_end` means that the hunk belongs at the end of
    the file. `number` is the hunk's first line in the patch, from 1.
    """

    lines: tuple[HunkLine, ...]
    number: int
    anchors: tuple[str, ...] = ()
    old_start: int | None = None
    at_end: bool = False

    @property
    def old(self) -> tuple[HunkLine, ...]:
        return tuple(line for line in self.lines if line.tag is not Tag.ADD)


@dataclass(frozen=True, slots=True)
class AddFile:
    """A new file."""

    path: str
    content: str
    number: int
    mode: int | None = None


@dataclass(frozen=True, slots=True)
class DeleteFile:
    """A file to remove. A unified diff also contains its lines."""

    path: str
    number: int
    hunks: tuple[Hunk, ...] = ()


@dataclass(frozen=True, slots=True)
class UpdateFile:
    """Hunks for an existing file, and its new path if it is moved."""

    path: str
    hunks: tuple[Hunk, ...]
    number: int
    move_to: str | None = None
    copy: bool = False
    mode: int | None = None


Operation = AddFile | DeleteFile | UpdateFile


Patch = tuple[Operation, ...]
"""Operations, in the order of their execution."""

NumberedLines = list[tuple[str, int]]
"""Lines of a patch with their numbers, from 1."""
TAGS = {tag.value: tag for tag in Tag}


@dataclass(slots=True)
class HunkBuilder:
    """Collects the lines of a hunk during parsing."""

    number: int
    anchors: list[str] = field(default_factory=list[str])
    old_start: int | None = None
    at_end: bool = False
    lines: list[HunkLine] = field(default_factory=list[HunkLine])

    def add(self, tag: Tag, text: str, number: int) -> None:
        self.lines.append(HunkLine(tag, text, number))

    def mark_no_newline(self) -> None:
        if self.lines:
            last = self.lines[-1]
            self.lines[-1] = HunkLine(last.tag, last.text, last.number, no_newline=True)

    def done(self) -> Hunk:
        return Hunk(tuple(self.lines), self.number, tuple(self.anchors), self.old_start, self.at_end)
