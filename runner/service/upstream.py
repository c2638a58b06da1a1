"""Checks of the model address in a request, which must not lead into this machine's network."""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from fnmatch import fnmatchcase
from urllib.parse import SplitResult, urlsplit

import httpx

from runner.relay.upstream import tls_context
from runner.service.settings import ServiceSettings
from runner.web.errors import ServiceError

_LOCALHOST = "localhost"
_PORTS = {"http": 80, "https": 443}
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class UrlRefused(ServiceError):
    """The model address in a request is not allowed."""

    def __init__(self, reason: str) -> None:
        super().__init__(422, "llm_url_refused", f"llm_config.url: {reason}")


def check_url(url: str, settings: ServiceSettings) -> str:
    """Return the normalised root of the API that a request names. Raises UrlRefused.

    Host names are not resolved here. `GuardedTransport` does that for each call.
    """
    parts = _split(url)
    host = (parts.hostname or "").lower().rstrip(".")
    if parts.scheme not in ("http", "https") or not host:
        raise UrlRefused("must begin with https:// or http:// and a host")
    if parts.username is not None or parts.password is not None:
        raise UrlRefused("must hold no user name or password; the key goes into llm_config.api_key")
    if parts.query or parts.fragment:
        raise UrlRefused("must hold no ? or #; parameters go into llm_config.model_infer_params")
    address = _parse_address(host)
    if address is not None:
        _check_address(address, host, settings)
    elif host == _LOCALHOST or host.endswith("." + _LOCALHOST):
        _check_address(ipaddress.ip_address("127.0.0.1"), host, settings)
    allowed = settings.llm_url_allow
    if allowed and not any(fnmatchcase(host, pattern) for pattern in allowed):
        raise UrlRefused(f"the host {host} is not in LLM_URL_ALLOW ({', '.join(allowed)})")
    return url.strip().rstrip("/").removesuffix("/chat/completions").rstrip("/")


class GuardedTransport(httpx.AsyncBaseTransport):
    """Resolves a host name, checks all of its addresses and connects to one of them.

    There is no second lookup, so the name cannot change in between.
    """

    def __init__(self, settings: ServiceSettings) -> None:
        self._settings = settings
        limits = httpx.Limits(max_connections=None, keepalive_expiry=30.0)
        self._inner = httpx.AsyncHTTPTransport(limits=limits, verify=tls_context())

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        host = request.url.host
        try:
            address = await self._resolve(host, request.url.port or _PORTS[request.url.scheme])
        except UrlRefused as error:
            raise httpx.ConnectError(str(error), request=request) from None
        if str(address) != host:
            # The Host header was set when the request was built. The certificate must match the
            # host name.
            request.extensions = {**request.extensions, "sni_hostname": host}
            request.url = request.url.copy_with(host=str(address))
        return await self._inner.handle_async_request(request)

    async def _resolve(self, host: str, port: int) -> _Address:
        if (literal := _parse_address(host)) is not None:
            _check_address(literal, host, self._settings)
            return literal
        try:
            entries = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except OSError:
            raise UrlRefused(f"the host {host} cannot be found") from None
        addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in entries]
        for address in addresses:
            _check_address(address, host, self._settings)
        return addresses[0]

    async def aclose(self) -> None:
        await self._inner.aclose()


def _split(url: str) -> SplitResult:
    if any(char.isspace() or not char.isprintable() for char in url.strip()):
        raise UrlRefused("must hold no spaces or control characters")
    try:
        parts = urlsplit(url.strip())
        _ = parts.port
    except ValueError:
        raise UrlRefused("is no address") from None
    return parts


def _parse_address(host: str) -> _Address | None:
    """Return the IP address in any spelling that resolvers accept (0x7f.1, 2130706433), or None."""
    try:
        return ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        pass
    try:
        return ipaddress.ip_address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None


def _check_address(address: _Address, host: str, settings: ServiceSettings) -> None:
    inner = _embedded(address)
    if inner.is_loopback:
        if not settings.llm_url_loopback:
            raise UrlRefused(f"{host} is this machine itself; LLM_URL_LOOPBACK=true allows that")
    elif not inner.is_global or inner.is_multicast:
        raise UrlRefused(f"{host} is a private address, and those are not called from here")


def _embedded(address: _Address) -> _Address:
    """Return the IPv4 address that an IPv6 address embeds (mapped, 6to4, NAT64), or the address."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address
