"""Arguments of tool calls: repairing what the model sent, and validating it for a tool.

Models send JSON in code fences, JSON that is encoded twice, Python reprs, trailing commas and raw
newlines in strings. These have only one possible meaning, so they are repaired. A truncated text
has many, so it is an error and never guessed.
"""

from __future__ import annotations

import json
import re
from difflib import get_close_matches
from typing import Any, TypeVar, cast

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from src.tools.base import Arguments, ToolError, flat_schema
from src.tools.lenient_json import LenientError, parse_lenient

_FENCE = re.compile(r"\A```[\w-]*[ \t]*\r?\n?(.*?)\r?\n?```\Z", re.DOTALL)
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_WRAPPERS = ("arguments", "parameters", "args", "input", "kwargs")
_MAX_DEPTH = 3

A = TypeVar("A", bound=Arguments)


def parse_arguments(raw: str) -> tuple[str, str | None]:
    """Return the text of a JSON object, and the error if `raw` cannot be repaired (then `{}`).

    A valid JSON object is returned unchanged. An empty text is `{}`. Never raises.
    """
    if not raw.strip():
        return "{}", None
    try:
        if isinstance(_strict(raw), dict):
            return raw, None
    except (ValueError, RecursionError):
        pass
    try:
        value = _lenient(raw, depth=0)
        return json.dumps(clean_text(value), ensure_ascii=False, allow_nan=False), None
    except LenientError as error:
        return "{}", f"the arguments are not a valid JSON object: {error}"
    except (ValueError, RecursionError):
        return "{}", "the arguments are not a valid JSON object: nested too deeply, or a number is too large"


def load_object(text: str) -> dict[str, Any]:
    """Return the JSON object in `text`, with lone surrogates replaced by U+FFFD.

    No file and no request can contain a lone surrogate.

    Raises:
        ValueError: The text is not a JSON object.
    """
    value = _strict(text)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return cast("dict[str, Any]", clean_text(cast("Any", value)))


def unwrapped(values: dict[str, Any], known: frozenset[str]) -> dict[str, Any]:
    """Return the inner object of `{"arguments": {...}}`, unless the key is a parameter."""
    while len(values) == 1:
        ((key, inner),) = values.items()
        if key not in _WRAPPERS or key in known:
            break
        if isinstance(inner, str):
            text, problem = parse_arguments(inner)
            if problem is not None:
                break
            inner = load_object(text)
        if not isinstance(inner, dict):
            break
        values = cast("dict[str, Any]", inner)
    return values


def clean_text(value: Any) -> Any:
    """Return the value with lone surrogates in all strings replaced by U+FFFD."""
    if isinstance(value, str):
        return _LONE_SURROGATE.sub("�", value)
    if isinstance(value, list):
        return [clean_text(item) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {clean_text(key): clean_text(item) for key, item in cast("dict[str, Any]", value).items()}
    return value


def validated(model: type[A], name: str, text: str) -> A:
    """Return the arguments in `text`, which is a JSON object.

    Accepted are a wrapping object, synonyms of names, null for a parameter with a default, numbers
    as strings and the reverse, and lists and objects as JSON text.

    Raises:
        ToolError: The arguments are invalid. The message names the errors and the parameters.
    """
    fields = model.model_fields
    try:
        values = unwrapped(load_object(text), frozenset(fields) | frozenset(model.synonyms))
    except (ValueError, RecursionError) as error:
        raise ToolError(
            f"the arguments of {name} are not a JSON object: {error}. {parameters(model)}"
        ) from None
    given: dict[str, Any] = {}
    for key, value in values.items():
        known = key if key in fields else model.synonyms.get(key, key)
        if known != key and known in values:
            continue
        if value is None and (known not in fields or not fields[known].is_required()):
            continue
        given[known] = _decoded(value, flat_schema(model)["properties"].get(known, {}).get("type"))
    try:
        return model.model_validate(given)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False)
        problems = "; ".join(dict.fromkeys(_problem(detail, model) for detail in details[:5]))
        raise ToolError(f"{name} was not run: {problems}. {parameters(model)}") from None


def parameters(model: type[Arguments]) -> str:
    """Return the parameters of a tool in one sentence."""
    schema = flat_schema(model)
    required = cast("list[str]", schema.get("required", []))
    parts: list[str] = []
    for name, item in schema.get("properties", {}).items():
        kind = " | ".join(item["enum"]) if "enum" in item else item.get("type", "any")
        parts.append(f"{name} ({kind}{', required' if name in required else ''})")
    return "Parameters: " + ", ".join(parts)


def _decoded(value: Any, kind: str | None) -> Any:
    """Return a list or object that was sent as JSON text."""
    if isinstance(value, str) and kind in ("array", "object"):
        text, problem = parse_arguments('{"value": ' + value + "}")
        return load_object(text).get("value") if problem is None else value
    if isinstance(value, str) and kind in ("integer", "number", "boolean"):
        return value.strip()
    return value


def _problem(detail: ErrorDetails, model: type[Arguments]) -> str:
    where = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "missing":
        return f"{where} is missing"
    if detail["type"] == "extra_forbidden":
        close = get_close_matches(where, list(model.model_fields), 1)
        return f"there is no parameter {where}" + (f" (did you mean {close[0]}?)" if close else "")
    got = repr(detail.get("input"))
    message = detail["msg"].removeprefix("Value error, ")
    return f"{where}: {message[:1].lower() + message[1:]}, got {got if len(got) <= 60 else got[:60] + '…'}"


def _strict(text: str) -> Any:
    return json.loads(text, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _lenient(text: str, depth: int) -> dict[str, Any]:
    text = text.strip().removeprefix("\ufeff").strip()
    fenced = _FENCE.match(text)
    if fenced:
        text = fenced.group(1).strip()
    value = parse_lenient(text)
    if isinstance(value, str) and depth < _MAX_DEPTH:
        return _lenient(value, depth + 1)
    if isinstance(value, list) and len(cast("list[Any]", value)) == 1:
        value = cast("list[Any]", value)[0]
    if not isinstance(value, dict):
        raise LenientError(f"it is a {_kind(value)}, an object is needed")
    return cast("dict[str, Any]", value)


def _kind(value: Any) -> str:
    names = {str: "string", list: "list", bool: "boolean", int: "number", float: "number"}
    return names.get(cast("type[Any]", type(value)), "null")
