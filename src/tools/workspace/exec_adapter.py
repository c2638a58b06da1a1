"""Calling `environment.exec` in any of its forms (docs/contract.md, The entrypoint)."""

from __future__ import annotations

import asyncio
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any, cast

HANG_GRACE_SEC = 30.0  # for the environment to enforce its own limit, before the exec counts as hung
TIMEOUT_KEYWORDS = ("timeout_sec", "timeout")
COMMAND_KEYWORDS = ("command", "cmd")
STDOUT_NAMES = ("stdout", "output")


class ExecAdapter:
    """Calls `environment.exec` and returns its output as text.

    Harbor and the own-runner take `timeout_sec`, others `timeout`, and some no limit at all.
    Functions that are not coroutines run in a thread. The working directory and the user are never
    passed: cwd None means the image's WORKDIR, and any other folder may be missing from the image.
    The form is chosen by the signature and never by trying, since a call that failed may have run.
    """

    def __init__(self, environment: object) -> None:
        function = getattr(environment, "exec", None)
        if not callable(function):
            raise TypeError(f"the environment ({type(environment).__name__}) has no exec to call")
        self._function = cast("Callable[..., Any]", function)
        self._in_thread = not _is_async(self._function)
        self.timeout_keyword, self.command_keyword = _keywords(self._function)

    async def __call__(self, command: str, timeout_sec: float) -> str:
        """Return the output of one command. Raises TimeoutError, or what the environment raises."""
        named: dict[str, Any] = {}
        if self.timeout_keyword is not None:
            named[self.timeout_keyword] = math.ceil(timeout_sec)
        positional: tuple[str, ...] = (command,)
        if self.command_keyword is not None:
            named[self.command_keyword] = command
            positional = ()
        limit = asyncio.timeout(timeout_sec + HANG_GRACE_SEC)
        try:
            async with limit:
                if self._in_thread:
                    result = await asyncio.to_thread(self._function, *positional, **named)
                else:
                    result = self._function(*positional, **named)
                if inspect.isawaitable(result):
                    result = await result
        except TimeoutError:
            if not limit.expired():
                raise  # the environment's own limit
            raise TimeoutError(f"exec did not return within {timeout_sec + HANG_GRACE_SEC:.0f} s") from None
        return output_of(result)


def output_of(result: object) -> str:
    """Return stdout, then stderr, of an exec's result.

    The result is an object, a mapping, a tuple such as (code, output), bytes, str or None.
    """
    if result is None or isinstance(result, str | bytes | bytearray):
        return _text(result)
    if isinstance(result, Mapping):
        mapping = cast("Mapping[str, object]", result)
        look_up: Callable[[str], object] = mapping.get
    elif isinstance(result, tuple) and not hasattr(cast(object, result), "_fields"):
        parts = cast("tuple[object, ...]", result)
        return "\n".join(_text(part) for part in parts if isinstance(part, str | bytes))
    else:
        look_up = lambda name: getattr(cast("object", result), name, None)  # noqa: E731
    stdout = next((value for name in STDOUT_NAMES if (value := look_up(name)) is not None), None)
    stderr = look_up("stderr")
    text = _text(stdout)
    return f"{text}\n{_text(stderr)}" if isinstance(stderr, str | bytes) and stderr else text


def _text(value: object) -> str:
    if isinstance(value, bytes | bytearray):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else ""


def _is_async(function: Callable[..., Any]) -> bool:
    for candidate in (function, getattr(function, "__call__", None)):  # noqa: B004
        if candidate is not None and inspect.iscoroutinefunction(inspect.unwrap(candidate)):
            return True
    return False


def _keywords(function: Callable[..., Any]) -> tuple[str | None, str | None]:
    """Return the keyword of the time limit, and that of the command if it cannot be positional."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return None, None
    any_keyword = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    usable = {
        name
        for name, p in parameters.items()
        if p.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    }
    timeout = next((name for name in TIMEOUT_KEYWORDS if name in usable), None)
    if timeout is None and any_keyword:
        timeout = TIMEOUT_KEYWORDS[0]
    positional = any(
        p.kind
        in (
            inspect.Parameter.POSITIONAL_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            inspect.Parameter.VAR_POSITIONAL,
        )
        for p in parameters.values()
    )
    if positional:
        return timeout, None
    return timeout, next((name for name in COMMAND_KEYWORDS if name in usable), COMMAND_KEYWORDS[0])
