"""The relay that another relay passes its calls to, because that one alone holds the key."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import httpx

from runner.relay.upstream import LiveUpstream
from runner.relay.wire import ApiError, ModelRequest

# The host name is never resolved: the connection goes over a unix socket.
_SOCKET_URL = "http://relay"
_LIMITS = httpx.Limits(max_connections=None, keepalive_expiry=30.0)


class OuterRelay(LiveUpstream):
    """Pass each call to the outer relay, with the token of the trial's account there.

    `mode` and `scripted` are what the outer relay reports for its answers.
    """

    def __init__(
        self,
        base_url: str,
        make_transport: Callable[[], httpx.AsyncBaseTransport],
        *,
        mode: str,
        scripted: bool,
    ) -> None:
        super().__init__(base_url, "", make_transport=make_transport)
        self.mode = mode
        self.tokens: dict[str, str] = {}
        """The token for the next try of each trial, by the trial's name. It serves one try."""
        self._scripted = scripted
        self._of_run: dict[str, str] = {}

    @classmethod
    def on_socket(cls, path: Path, *, mode: str, scripted: bool) -> OuterRelay:
        """Reach it over a unix socket."""
        return cls(
            _SOCKET_URL,
            lambda: httpx.AsyncHTTPTransport(uds=str(path), limits=_LIMITS),
            mode=mode,
            scripted=scripted,
        )

    @classmethod
    def at(cls, url: str, *, certificate: str | None, mode: str, scripted: bool) -> OuterRelay:
        """Reach it over TCP, with TLS where its certificate (PEM) is given.

        That certificate and no other is accepted, so it may be self-signed and for any name.
        """
        verify: ssl.SSLContext | bool = False  # there is nothing to verify without TLS
        if certificate is not None:
            verify = ssl.create_default_context(cadata=certificate)
            verify.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            verify.check_hostname = False
        return cls(
            url,
            lambda: httpx.AsyncHTTPTransport(limits=_LIMITS, verify=verify),
            mode=mode,
            scripted=scripted,
        )

    @property
    def scripted(self) -> bool:
        return self._scripted

    def describe(self) -> str:
        return f"the outer relay ({self.mode})"

    def key_for(self, request: ModelRequest) -> str:
        """Return the token of the run `<number>-<trial>`, which is one try of a trial."""
        if request.run not in self._of_run:
            token = self.tokens.pop(request.run.partition("-")[2], None)
            if token is None:
                raise ApiError(401, "the outer relay has no account for this run", code="relay_account")
            self._of_run[request.run] = token
        return self._of_run[request.run]

    def forget(self, run: str) -> None:
        super().forget(run)
        self._of_run.pop(run, None)
