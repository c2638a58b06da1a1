"""The checks of a model address in a request."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.service.settings import ServiceSettings
from runner.service.upstream import GuardedTransport, UrlRefused, check_url


def settings(**values: Any) -> ServiceSettings:
    return ServiceSettings(_env_file=None, **values)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd",
        "ftp://api.deepseek.com",
        "gopher://127.0.0.1",
        "api.deepseek.com",
        "http://",
        "https://user:pass@api.deepseek.com",
        "https://api.deepseek.com?x=1",
        "https://api.deepseek.com#x",
        "https://api.deep seek.com",
        "https://api.deepseek.com\r\nX: y",
        "http://[::1",
        "http://host:99999",
        "http://localhost:11434",
        "http://sub.localhost.",
        "http://127.0.0.1",
        "http://127.1",
        "http://2130706433",
        "http://0x7f.0.0.1",
        "http://[::1]:80",
        "http://[::ffff:127.0.0.1]",
        "http://0.0.0.0",
        "http://10.0.0.1",
        "http://192.168.1.1/v1",
        "http://172.16.0.1",
        "http://169.254.169.254/latest/meta-data",
        "http://[fe80::1%25eth0]",
        "http://[fd00::1]",
        "http://[::ffff:10.0.0.1]",
        "http://[64:ff9b::a00:1]",
        "http://[2002:0a00:0001::]",
        "http://100.64.0.1",
        "http://224.0.0.1",
        "http://[ff02::1]",
        "http://255.255.255.255",
    ],
)
def test_internal_addresses_are_refused(url: str) -> None:
    with pytest.raises(UrlRefused, match=r"llm_config\.url"):
        check_url(url, settings())


def test_public_api_is_allowed_and_normalised() -> None:
    assert (
        check_url(" https://api.deepseek.com/v1/chat/completions/ ", settings())
        == "https://api.deepseek.com/v1"
    )


def test_loopback_setting_allows_loopback_only() -> None:
    with_loopback = settings(llm_url_loopback=True)
    assert check_url("http://127.0.0.1:8000/v1", with_loopback) == "http://127.0.0.1:8000/v1"
    assert check_url("http://localhost:8000", with_loopback) == "http://localhost:8000"
    for url in ("http://10.0.0.1", "file:///etc/passwd", "http://169.254.169.254"):
        with pytest.raises(UrlRefused):
            check_url(url, with_loopback)


def test_allow_list_of_hosts() -> None:
    listed = settings(llm_url_allow="api.deepseek.com, *.models.example")
    assert check_url("https://API.deepseek.com", listed)
    assert check_url("https://eu.models.example/v1", listed)
    for url in (
        "https://models.example.evil.net",
        "https://models.example",
        "https://api.deepseek.com.evil.net",
    ):
        with pytest.raises(UrlRefused, match="LLM_URL_ALLOW"):
            check_url(url, listed)


@given(st.ip_addresses())
def test_only_global_addresses_are_allowed(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    shown = f"[{address}]" if address.version == 6 else str(address)
    try:
        check_url(f"http://{shown}", settings())
    except UrlRefused:
        return
    if isinstance(address, ipaddress.IPv6Address) and address.sixtofour is not None:
        address = address.sixtofour  # it is this one that is reached
    assert address.is_global and not address.is_multicast and not address.is_loopback


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    try:
        assert check_url(text, settings()).lower().startswith(("http://", "https://"))
    except UrlRefused as error:
        assert "\n" not in str(error)


class Resolver:
    """Replaces name resolution, because tests have no internet. Connections are real."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, names: dict[str, list[str]]) -> None:
        self.lookups: list[str] = []

        async def getaddrinfo(_: Any, host: str, port: int, **__: Any) -> list[Any]:
            self.lookups.append(host)
            if host not in names:
                raise socket.gaierror(socket.EAI_NONAME, "no such name")
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in names[host]]

        monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", getaddrinfo)


@asynccontextmanager
async def provider() -> AsyncIterator[tuple[int, list[bytes]]]:
    """Run a server on loopback that records its requests."""
    requests: list[bytes] = []

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], requests


async def test_name_that_resolves_to_an_internal_address_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Resolver(
        monkeypatch, {"api.models.example": ["10.0.0.7"], "both.example": ["93.184.215.14", "127.0.0.1"]}
    )
    async with httpx.AsyncClient(transport=GuardedTransport(settings())) as client:
        for host in ("api.models.example", "both.example", "nowhere.example"):
            with pytest.raises(httpx.ConnectError, match=host):
                await client.get(f"http://{host}/")


async def test_call_connects_to_the_checked_address_with_its_host_header(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with provider() as (port, requests):
        resolver = Resolver(monkeypatch, {"api.models.example": ["127.0.0.1"]})
        transport = GuardedTransport(settings(llm_url_loopback=True))
        async with httpx.AsyncClient(transport=transport) as client:
            response = await client.get(f"http://api.models.example:{port}/v1")
    assert response.text == "ok" and resolver.lookups == ["api.models.example"]
    assert f"Host: api.models.example:{port}\r\n".encode() in requests[0]


async def test_certificate_is_checked_against_the_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sni_callback = lambda _socket, name, _context: names.append(name)
    server = await asyncio.start_server(lambda _r, w: w.close(), "127.0.0.1", 0, ssl=context)
    async with server:
        port = server.sockets[0].getsockname()[1]
        Resolver(monkeypatch, {"api.models.example": ["127.0.0.1"]})
        async with httpx.AsyncClient(transport=GuardedTransport(settings(llm_url_loopback=True))) as client:
            with pytest.raises(httpx.ConnectError):  # no certificate, but the name was sent
                await client.get(f"https://api.models.example:{port}/")
    assert names == ["api.models.example"]
