"""The model relay. It is the only way out of an isolated run, and only it knows the real key."""

from runner.relay.accounts import RunAccount, RunUsage
from runner.relay.cassette import CassetteError
from runner.relay.outer import OuterRelay
from runner.relay.relay import Relay, RelayListener
from runner.relay.replay import RecordUpstream, ReplayUpstream
from runner.relay.upstream import LiveUpstream, Upstream, WithParameters
from runner.relay.wire import ApiError, ModelRequest, StreamDropped, UpstreamResponse

__all__ = [
    "ApiError",
    "CassetteError",
    "LiveUpstream",
    "ModelRequest",
    "OuterRelay",
    "RecordUpstream",
    "Relay",
    "RelayListener",
    "ReplayUpstream",
    "RunAccount",
    "RunUsage",
    "StreamDropped",
    "Upstream",
    "UpstreamResponse",
    "WithParameters",
]
