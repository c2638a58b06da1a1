"""The file format of scripts: TOML, checked on load. docs/scripts.md describes it."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

FinishReason = Literal["stop", "tool_calls", "length", "content_filter", "insufficient_system_resource"]


class ScriptError(Exception):
    """A script file is invalid. The message is one line with the file, the place and the reason."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CallSpec(_Strict):
    """One tool call. A table is sent as JSON. A string is sent as it is, valid JSON or not."""

    name: str
    arguments: dict[str, object] | str = Field(default_factory=dict)


class Fault(_Strict):
    """A failure instead of an answer, or in the middle of one.

    Exactly one of `status`, `drop_after`, `silence_after` and `empty` is set. The fault happens on
    the first `times` attempts at its turn, counted per run. With `times = 0` it always happens.

    Attributes:
        retry_after: Seconds, sent as the Retry-After header.
        drop_after, silence_after: The number of chunks that are sent first.
        silence_sec: Seconds.
    """

    times: int = Field(1, ge=0)
    status: int | None = Field(None, ge=400, le=599)
    message: str | None = None
    body: str | None = None
    retry_after: float | None = Field(None, ge=0)
    drop_after: int | None = Field(None, ge=0)
    silence_after: int | None = Field(None, ge=0)
    silence_sec: float = Field(3600.0, ge=0)
    empty: Literal["body", "done", "answer"] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Fault:
        kinds = [self.status, self.drop_after, self.silence_after, self.empty]
        if sum(kind is not None for kind in kinds) != 1:
            raise ValueError("set exactly one of status, drop_after, silence_after, empty")
        return self


class Answer(_Strict):
    """One answer of the model.

    Attributes:
        usage: Values that replace the counted ones. False leaves usage out.
        delay_sec: Seconds before the first chunk.
        chunk_delay_sec: Seconds before each further chunk.
        chunk_chars: Characters in a chunk.
        keep_alive: Keep-alive comments before the first chunk.
    """

    reasoning: str = ""
    content: str = ""
    tool_calls: tuple[CallSpec, ...] = ()
    finish_reason: FinishReason | None = None
    usage: dict[str, int] | Literal[False] | None = None
    delay_sec: float = Field(0.0, ge=0)
    chunk_delay_sec: float = Field(0.0, ge=0)
    chunk_chars: int = Field(24, ge=1)
    keep_alive: int = Field(0, ge=0)
    faults: tuple[Fault, ...] = ()


class ScriptRule(Answer):
    """An answer to requests that end with a user message in which the regex `when` matches."""

    when: str

    @field_validator("when")
    @classmethod
    def _compiles(cls, value: str) -> str:
        return _regex(value)


class ScriptFile(_Strict):
    """A script. Without `match` and `match_regex` it plays where no other script matches."""

    name: str = ""
    match: str | None = None
    match_regex: str | None = None
    turn: tuple[Answer, ...] = ()
    rule: tuple[ScriptRule, ...] = ()
    closing: str = "The task is complete."

    @field_validator("match_regex")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        return None if value is None else _regex(value)


def _regex(value: str) -> str:
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"not a regular expression: {error}") from None
    return value


def load_script(path: Path) -> ScriptFile:
    """Read a script file. Its default name is the file's. Raises ScriptError."""
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        script = ScriptFile.model_validate({"name": path.stem, **data})
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ScriptError(f"{path}: {error}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "script"
        raise ScriptError(f"{path}: {where}: {first['msg']}") from None
    return script


def load_scripts(path: Path) -> list[ScriptFile]:
    """Read one file, or every .toml in a folder, sorted by name. Raises ScriptError."""
    files = sorted(path.glob("*.toml")) if path.is_dir() else [path]
    if not files:
        raise ScriptError(f"{path}: no script files (*.toml) in this folder; add one, or name a file")
    return [load_script(file) for file in files]
