"""The transport on openai's client. Import it lazily: openai is optional and slow to load."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator
from typing import Any

import openai

from src.config import Settings
from src.llm.errors import ModelError, refusal_error, stream_error, transport_error
from src.llm.transport import PATH, Chunk, parse_chunk
from src.text import Redactor


class OpenAITransport:
    """Streams chat completions through openai.AsyncOpenAI (2.8 and later), without its own retries.

    The body is sent as the bytes that it is: `chat.completions.create` would serialise the
    conversation again for every call. Chunks are parsed from plain JSON (`cast_to=object`), since
    openai's model of a chunk has no reasoning_content. Create it off the event loop.
    """

    name = "openai"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._redact = Redactor([settings.api_key.get_secret_value()])
        self._client = openai.AsyncOpenAI(
            api_key=settings.api_key.get_secret_value(),
            base_url=settings.base_url,
            max_retries=0,
            timeout=openai.Timeout(settings.stream_idle_sec, connect=settings.connect_timeout_sec),
        )
        # The client reads these from variables of another provider, which must not reach DeepSeek.
        self._client.organization = None
        self._client.project = None
        # Before openai 2.9 or so, `post` had no `content`, and sent bytes in `body` unchanged.
        named = "content" if "content" in inspect.signature(self._client.post).parameters else "body"
        self._body_argument = named

    async def stream(self, body: bytes) -> AsyncGenerator[Chunk, None]:
        """See Transport.stream."""
        try:
            payload: dict[str, Any] = {self._body_argument: body}
            stream = await self._client.post(
                PATH, cast_to=object, stream=True, stream_cls=openai.AsyncStream[object], **payload
            )
            async with stream:
                async for data in stream:
                    yield parse_chunk(data, self._redact)
        except ModelError:
            raise
        except openai.APIStatusError as error:
            response = error.response
            raise refusal_error(error.status_code, response.text, response.headers, self._redact) from None
        except openai.APIConnectionError as error:
            raise transport_error(error, self._settings, self._redact) from None
        except openai.APIError as error:  # an error event inside the stream
            raise stream_error(error.body, self._redact) from None
        except Exception as error:
            raise transport_error(error, self._settings, self._redact) from None

    async def aclose(self) -> None:
        """See Transport.aclose."""
        await self._client.close()
