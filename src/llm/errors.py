"""Errors of model calls, and the classification of failures (docs/contract.md, DeepSeek's API).

Both transports classify their failures here, so a failure means the same whichever library met it.
A message is one sentence without secrets.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, cast

from src.config import Settings
from src.text import Redactor, one_line

_OVERFLOW = ("maximum context length", "context_length_exceeded", "context length exceeded")
_HISTORY = ("reasoning_content", "tool_call_id", "tool_calls", "role 'tool'", "tool message", "tool_use")
_RETRIED = frozenset({408, 409, 425, 429})
_MARKUP = re.compile(r"<(script|style)\b.*?</\1>|<[^>]+>", re.DOTALL | re.IGNORECASE)

# The API's error types, for errors inside a stream, which have no HTTP status.
_STATUS_OF_TYPE = {
    "authentication_error": 401,
    "permission_error": 403,
    "invalid_request_error": 400,
    "rate_limit_error": 429,
}

_SILENT = frozenset({"ReadTimeout", "WriteTimeout"})
_NO_CONNECTION = frozenset({"ConnectTimeout", "PoolTimeout", "ConnectError", "ProxyError"})
_UNUSABLE = frozenset({"InvalidURL", "UnsupportedProtocol"})
_NETWORK = frozenset({"HTTPError", "TransportError", "StreamError", "APIConnectionError", "OSError"})


class ModelError(Exception):
    """Base class of all errors of a model call."""


class RetryableError(ModelError):
    """One attempt failed for a possibly temporary reason: load, network, or an empty answer.

    `retry_after` is the server's Retry-After in seconds. `DeepSeekClient.complete` never raises
    this error: a later attempt succeeds, or it raises ModelUnavailable or DeadlineReached.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class ModelUnavailable(ModelError):
    """Every attempt failed; the message names the last failure."""


class FatalModelError(ModelError):
    """A retry cannot help: wrong key, balance or parameters, or an unknown refusal.

    `status` is the HTTP status, if there was one.
    """

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class HistoryRefused(ModelError):
    """The server refused the history, for its pairing of calls or its reasoning_content."""


class ContextOverflow(ModelError):
    """Prompt and output do not fit into the model's window."""


class CostLimitReached(ModelError):
    """The next call could exceed LLM_COST_LIMIT."""


class DeadlineReached(ModelError):
    """The remaining time ran out during the call, or is too short to wait for the next attempt."""


def refusal_error(status: int, text: str, headers: Mapping[str, str], redact: Redactor) -> ModelError:
    """Return the error for a response whose status is not 200. Header names are in lower case."""
    message = _server_message(text, redact)
    if status == 400:
        return _bad_request(message)
    if status == 401:
        return FatalModelError(
            f"the model's server refused DEEPSEEK_API_KEY (401): check the key; it said: {message}",
            status=401,
        )
    if status == 402:
        # A relay that enforces the same limit names the variable in its answer.
        if "LLM_COST_LIMIT" in message:
            return CostLimitReached(f"the model's server says that the money is spent (402): {message}")
        return FatalModelError(
            f"the account of DEEPSEEK_API_KEY has no balance left (402): top it up; it said: {message}",
            status=402,
        )
    if status == 413:
        return ContextOverflow(f"the request is too large for the model's server (413): {message}")
    if status == 422:
        return FatalModelError(
            f"the model's server refused the parameters of the call (422): {message}", status=422
        )
    if status in _RETRIED or status >= 500:
        return RetryableError(
            f"the model's server answered {status}: {message}", retry_after=retry_after(headers)
        )
    return FatalModelError(f"the model's server refused the call ({status}): {message}", status=status)


def stream_error(error: object, redact: Redactor) -> ModelError:
    """Return the error for a `data: {"error": …}` event inside a stream, by its type."""
    text = json.dumps({"error": error}, ensure_ascii=False, default=str)
    fields = cast("dict[str, Any]", error) if isinstance(error, dict) else {}
    message = str(fields.get("message", ""))
    if "insufficient balance" in message.lower():
        return refusal_error(402, text, {}, redact)
    status = _STATUS_OF_TYPE.get(str(fields.get("type", "")))
    if status is not None:
        return refusal_error(status, text, {}, redact)
    return RetryableError(f"the model's server broke off its answer: {_server_message(text, redact)}")


def transport_error(error: Exception, settings: Settings, redact: Redactor) -> ModelError:
    """Return the error for an exception of a transport's library, by its class names and causes.

    Names are compared because openai may bring its own copy of httpx, with classes of its own.
    """
    names, innermost = _lineage(error)
    message = one_line(redact(str(innermost))) or type(innermost).__name__
    if names & _UNUSABLE:
        return FatalModelError(f"DEEPSEEK_BASE_URL is not a usable URL: {message}")
    if names & _SILENT:
        return RetryableError(f"the model's server sent nothing for {settings.stream_idle_sec:g} s")
    if names & _NO_CONNECTION:
        limit = settings.connect_timeout_sec
        return RetryableError(f"no connection to the model's server within {limit:g} s: {message}")
    if names & _NETWORK:
        return RetryableError(f"the connection to the model's server broke off: {message}")
    if "ValueError" in names:  # invalid JSON or UTF-8
        return RetryableError(f"the model's server sent something unreadable: {message}")
    return FatalModelError(f"the model call failed unexpectedly: {type(innermost).__name__}: {message}")


def retry_after(headers: Mapping[str, str], now: datetime | None = None) -> float | None:
    """Return the seconds of a `Retry-After` header (RFC 9110: a number or a date), or None."""
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            moment = parsedate_to_datetime(value)
        except ValueError:
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        seconds = (moment - (now or datetime.now(UTC))).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _bad_request(message: str) -> ModelError:
    low = message.lower()
    if any(phrase in low for phrase in _OVERFLOW):
        return ContextOverflow(f"the conversation is too long for the model (400): {message}")
    if any(phrase in low for phrase in _HISTORY):
        return HistoryRefused(f"the model's server refused the history of the conversation (400): {message}")
    return FatalModelError(f"the model's server refused the request (400): {message}", status=400)


def _server_message(text: str, redact: Redactor) -> str:
    """Return the message in a response body on one line, without markup and secrets."""
    message = text
    try:
        body: Any = json.loads(text)
        error: Any = body.get("error", body) if isinstance(body, dict) else body  # pyright: ignore
        if isinstance(error, dict):
            fields = cast("dict[str, Any]", error)
            message = str(fields.get("message") or fields.get("detail") or text)
        elif isinstance(error, str):
            message = error
    except (ValueError, RecursionError):
        message = _MARKUP.sub(" ", text)
    return one_line(redact(message)) or "(nothing)"


def _lineage(error: BaseException) -> tuple[set[str], BaseException]:
    """Return the class names of an exception and its causes, and the innermost one with a text."""
    names: set[str] = set()
    seen: set[int] = set()
    current: BaseException | None = error
    innermost = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        names |= {base.__name__ for base in type(current).__mro__}
        if str(current):
            innermost = current
        current = current.__cause__
    return names, innermost
