"""The model of a job: one relay for all its trials, an account for each."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from runner.config import RunConfig, Secrets
from runner.jobs.errors import JobError
from runner.relay import (
    CassetteError,
    LiveUpstream,
    RecordUpstream,
    Relay,
    RelayListener,
    ReplayUpstream,
    RunAccount,
    Upstream,
    WithParameters,
)
from runner.results import ModelSource, ModelUse
from runner.scripted import ScriptError, ScriptUpstream

MakeUpstream = Callable[[RunConfig, Secrets], Upstream]
"""Makes the source of a job's model answers. Raises JobError."""


@dataclass(frozen=True, kw_only=True)
class ModelAccess:
    """The model as one trial reaches it, or no model.

    `variables` are the agent's (docs/contract.md, Environment variables).
    """

    variables: Mapping[str, str]
    relay: Relay | None = None
    token: str = ""

    def usage(self) -> ModelUse | None:
        """Return what the relay has metered so far."""
        return ModelUse.model_validate(asdict(self.relay.usage(self.token))) if self.relay else None

    async def wait_given_up(self) -> None:
        """Wait until no call reached the model, or a replay diverged. May wait forever."""
        if self.relay is None:
            await asyncio.Event().wait()
        else:
            await self.relay.wait_given_up(self.token)

    async def finish(self, timeout_sec: float) -> None:
        """End the access, then wait so many seconds at most for calls under way to be metered.

        A call that a killed agent had begun costs money as well.
        """
        if self.relay is not None:
            await self.relay.finish_run(self.token, timeout_sec=timeout_sec)


@dataclass(frozen=True)
class JobModel:
    """Opens the model for trials. `relay` is None for agents that need no model.

    `agent_url` is the relay's address as agents reach it, where that is not the relay's own.
    """

    config: RunConfig
    source: ModelSource
    relay: Relay | None = None
    agent_url: str | None = None

    def open_account(self, trial_name: str) -> RunAccount | None:
        """Open an account with the trial's cost limit; None where no model is needed."""
        if self.relay is None:
            return None
        return self.relay.open_run(trial_name, cost_limit_usd=self.config.cost_limit_usd)

    def open(self, trial_name: str) -> ModelAccess:
        """Open an account for a trial and return the agent's access to it."""
        relay, account = self.relay, self.open_account(trial_name)
        if relay is None or account is None:
            return ModelAccess(variables={})
        variables = {
            "DEEPSEEK_API_KEY": account.token,
            "DEEPSEEK_BASE_URL": self.agent_url or account.base_url,
            "LLM_MODEL": self.config.model_name,
        }
        if account.cost_limit_usd is not None:
            variables["LLM_COST_LIMIT"] = f"{account.cost_limit_usd:g}"

        return ModelAccess(variables=variables, relay=relay, token=account.token)


def model_source(config: RunConfig, *, needed: bool) -> ModelSource:
    """Return what is shown of the model beside every result."""
    if not needed:
        return ModelSource(label="none", canned=False)
    return ModelSource(label=config.mode.label, canned=config.mode.canned, name=config.model_name)


@asynccontextmanager
async def open_model(
    config: RunConfig,
    secrets: Secrets,
    *,
    needed: bool,
    make_upstream: MakeUpstream,
    socket_path: Path | None = None,
    listener: RelayListener | None = None,
) -> AsyncGenerator[JobModel]:
    """Run the relay of a job, on a unix socket and a TCP address as well where they are given.

    Raises JobError.
    """
    source = model_source(config, needed=needed)
    if not needed:
        yield JobModel(config, source)
        return
    upstream = make_upstream(config, secrets)
    if config.model_params:
        upstream = WithParameters(upstream, config.model_params)
    # A recording of a script is canned as well, and says so.
    source = source.model_copy(update={"canned": upstream.scripted or config.mode.canned})
    relay = Relay(upstream, allowed_models=(config.model_name,), socket_path=socket_path, listener=listener)
    async with _started(relay, listener):
        yield JobModel(config, source, relay)


@asynccontextmanager
async def _started(relay: Relay, listener: RelayListener | None) -> AsyncGenerator[None]:
    async with AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(relay)
        except OSError as error:
            if listener is None:
                raise
            where = f"{listener.host}:{listener.port}"
            raise JobError(f"the relay for the nodes cannot listen on {where}: {error}") from None
        yield


def default_upstream(config: RunConfig, secrets: Secrets) -> Upstream:
    """Return the upstream that the settings name. Raises JobError with what to do."""
    mode = config.mode
    if mode.path is not None and mode.name != "record" and not mode.path.exists():
        raise JobError(f"--model {mode}: {mode.path} does not exist")
    key = secrets.api_key.get_secret_value() if secrets.api_key else None
    if not mode.canned and key is None:
        raise JobError(
            "DEEPSEEK_API_KEY is missing: set it in the environment or in .env, or run without a live "
            "model: --model script:examples/scripts"
        )
    try:
        match mode.name, mode.path:
            case "script", Path() as path:
                return ScriptUpstream(path)
            case "replay", Path() as path:
                return ReplayUpstream(path, strict=config.replay == "strict")
            case "record", Path() as path:
                return RecordUpstream(LiveUpstream(config.base_url, key or ""), path)
            case _:
                return LiveUpstream(config.base_url, key or "")
    except (ScriptError, CassetteError, OSError, ValueError) as error:
        raise JobError(f"--model {mode}: {error}") from None
