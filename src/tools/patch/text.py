"""Converting the bytes of a file to lines with their own line endings, and back."""

from __future__ import annotations

from dataclasses import dataclass, replace

_BOM = "\ufeff"


@dataclass(frozen=True, slots=True)
class Line:
    """One line: its text and its ending (`\\n`, `\\r\\n`, or nothing at the end of a file)."""

    text: str
    ending: str


@dataclass(frozen=True, slots=True)
class FileText:
    """The lines of a file. Invalid UTF-8 is kept as surrogate escapes and restored by `data`."""

    lines: tuple[Line, ...]
    bom: bool = False

    @classmethod
    def of(cls, data: bytes) -> FileText:
        text = data.decode("utf-8", "surrogateescape")
        bom = text.startswith(_BOM)
        *whole, last = (text[1:] if bom else text).split("\n")
        lines = [Line(part[:-1], "\r\n") if part.endswith("\r") else Line(part, "\n") for part in whole]
        return cls((*lines, Line(last, "")) if last else tuple(lines), bom)

    @property
    def data(self) -> bytes:
        text = (_BOM if self.bom else "") + "".join(line.text + line.ending for line in self.lines)
        return text.encode("utf-8", "surrogateescape")

    @property
    def no_last_newline(self) -> bool:
        return bool(self.lines) and not self.lines[-1].ending

    @property
    def ending(self) -> str:
        """The line ending of most lines."""
        crlf = sum(line.ending == "\r\n" for line in self.lines)
        return "\r\n" if crlf * 2 > sum(bool(line.ending) for line in self.lines) else "\n"

    def closed(self, *, no_last_newline: bool) -> FileText:
        """Return the same lines, all with an ending but, with `no_last_newline`, the last one."""
        usual = self.ending
        lines = [line if line.ending else replace(line, ending=usual) for line in self.lines]
        if lines and no_last_newline:
            lines[-1] = replace(lines[-1], ending="")
        return replace(self, lines=tuple(lines))
