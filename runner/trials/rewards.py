"""Reading a reward, and every way in which it can be unreadable (contracts.md 6)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

from runner.results import Reason

REWARD_JSON = "reward.json"
REWARD_TEXT = "reward.txt"
MAX_REWARD_BYTES = 1 << 20


class RewardError(Exception):
    """There is no usable reward. `kind` is Harbor's name for the error."""

    def __init__(self, reason: Reason, kind: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.kind = kind


@dataclass(frozen=True)
class Rewards:
    """All values by name; `score` is `reward` where there is one, else the mean."""

    values: Mapping[str, float]

    @property
    def score(self) -> float:
        """The number that decides: 1 or more is a pass."""
        if "reward" in self.values:
            return self.values["reward"]
        return sum(value / len(self.values) for value in self.values.values())


def read_rewards(folder: Path) -> Rewards:
    """The rewards in `folder`, where the tests wrote them. reward.json wins. Raises RewardError."""
    for name, parse in ((REWARD_JSON, parse_json), (REWARD_TEXT, parse_text)):
        path = folder / name
        if path.is_symlink() or path.exists():
            return parse(_text(path))
    raise RewardError(
        Reason.REWARD_MISSING,
        "RewardFileNotFoundError",
        f"the tests wrote neither {REWARD_JSON} nor {REWARD_TEXT} into /logs/verifier",
    )


def parse_text(text: str) -> Rewards:
    """reward.txt: one finite number."""
    if not text.strip():
        _empty(REWARD_TEXT)
    try:
        value = float(text.strip())
    except ValueError:
        _unreadable(REWARD_TEXT, f"must hold one number, holds {_shown(text)}")
    if not math.isfinite(value):
        _unreadable(REWARD_TEXT, f"must hold a finite number, holds {_shown(text)}")
    return Rewards({"reward": value})


def parse_json(text: str) -> Rewards:
    """reward.json: an object of finite numbers; true and false count 1 and 0, as in Harbor."""
    if not text.strip():
        _empty(REWARD_JSON)
    try:
        data: Any = json.loads(text)
    except (ValueError, RecursionError):
        _unreadable(REWARD_JSON, f"is not JSON: {_shown(text)}")
    if not isinstance(data, dict) or not data:
        _unreadable(REWARD_JSON, f"must be an object of numbers, is {_shown(text)}")
    values: dict[str, float] = {}
    for name, value in cast("dict[str, Any]", data).items():
        if not isinstance(value, (int, float)):
            _unreadable(REWARD_JSON, f"{name!r} must be a number, is {_shown(json.dumps(value))}")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            _unreadable(REWARD_JSON, f"{name!r} must be finite")
        values[name] = number
    return Rewards(values)


def _text(path: Path) -> str:
    if path.is_symlink() or not path.is_file():
        _unreadable(path.name, "is no regular file")
    with path.open("rb") as stream:
        data = stream.read(MAX_REWARD_BYTES + 1)
    if len(data) > MAX_REWARD_BYTES:
        _unreadable(path.name, f"is longer than {MAX_REWARD_BYTES} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        _unreadable(path.name, "is not UTF-8 text")


def _empty(name: str) -> NoReturn:
    raise RewardError(Reason.REWARD_EMPTY, "RewardFileEmptyError", f"{name} is empty")


def _unreadable(name: str, problem: str) -> NoReturn:
    raise RewardError(Reason.REWARD_PARSE_ERROR, "VerifierOutputParseError", f"{name} {problem}")


def _shown(text: str) -> str:
    shown = text.strip()
    return repr(shown if len(shown) <= 60 else shown[:60] + "…")
