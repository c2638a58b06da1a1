"""Requests and scripts for tests of the relay, and reading the responses."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import httpx

from runner.relay import Relay, RunAccount
from runner.scripted import ScriptFile

MODEL = "deepseek-v4-pro"
TOOLS = [{"type": "function", "function": {"name": "shell_command", "parameters": {"type": "object"}}}]


def ask(text: str = "say hello", **changes: Any) -> dict[str, Any]:
    """Return a request body."""
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], **changes}


def streamed(text: str = "say hello", **changes: Any) -> dict[str, Any]:
    """Return the body of a request for a stream with usage."""
    return ask(text, stream=True, stream_options={"include_usage": True}, **changes)


def script(**fields: Any) -> ScriptFile:
    """Return a script."""
    return ScriptFile.model_validate({"name": "test", **fields})


def events(text: str) -> list[dict[str, Any]]:
    """Return the JSON documents of a stream, which must end in [DONE]."""
    lines = [line[6:] for line in text.split("\n") if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return [json.loads(line) for line in lines[:-1]]


def joined(documents: list[dict[str, Any]]) -> dict[str, Any]:
    """Join a stream's documents to the assistant message, the usage and the finish reason."""
    message: dict[str, Any] = {"role": "assistant", "content": "", "reasoning_content": "", "tool_calls": []}
    finish = usage = None
    for document in documents:
        usage = document.get("usage") or usage
        for choice in document["choices"]:
            delta = choice["delta"]
            message["content"] += delta.get("content") or ""
            message["reasoning_content"] += delta.get("reasoning_content") or ""
            for call in delta.get("tool_calls") or ():
                if "id" in call:
                    assert call["index"] == len(message["tool_calls"])
                    message["tool_calls"].append({k: v for k, v in call.items() if k != "index"})
                else:
                    old = message["tool_calls"][call["index"]]["function"]
                    old["arguments"] += call["function"]["arguments"]
            finish = choice["finish_reason"] or finish
    if not message["tool_calls"]:
        del message["tool_calls"]
    return {"message": message, "finish": finish, "usage": usage}


@dataclass
class ServedRelay:
    """A relay with one open run, and a client with its token."""

    relay: Relay
    account: RunAccount
    client: httpx.AsyncClient

    async def post(self, body: Any, path: str = "/chat/completions", **kwargs: Any) -> httpx.Response:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        return await self.client.post(path, content=content, **kwargs)

    @property
    def usage(self) -> Any:
        return self.relay.usage(self.account.token)
