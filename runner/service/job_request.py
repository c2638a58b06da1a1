"""Turning a request into the settings of a job and the key that it brought."""

from __future__ import annotations

import secrets as random
import string
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import SecretStr

from runner.agents import PackageError, needs_model
from runner.config import RunConfig, Secrets
from runner.results import local_now
from runner.service.agent_store import AgentStore
from runner.service.requests import JobRequest, LlmConfig, TaskRequest
from runner.service.settings import ServiceSettings
from runner.service.store import Kind
from runner.service.task_index import TaskIndex
from runner.service.upstream import check_url
from runner.web.errors import ServiceError

_ID_CHARACTERS = string.ascii_lowercase + string.digits
_BUILT_IN = ("oracle", "nop")


@dataclass(frozen=True)
class QueuedJob:
    """A job for the queue. `key` is the request's own and must stay in memory."""

    kind: Kind
    config: RunConfig
    key: SecretStr | None

    @property
    def own_key(self) -> bool:
        """Whether the request brought a key."""
        return self.key is not None


@dataclass(frozen=True)
class JobRequestBuilder:
    """Turns requests into jobs for the queue. `base` has the settings that requests leave open."""

    base: RunConfig
    secrets: Secrets
    settings: ServiceSettings
    task_index: TaskIndex
    agents: AgentStore

    def task(self, request: TaskRequest) -> QueuedJob:
        """Return the job of `POST /api/tasks`. Raises ServiceError."""
        names = request.params.task_names
        if not names:
            raise ServiceError(
                422,
                "task_missing",
                "the task is not named: give params.task_id, or task_name, instance_id, "
                "terminal_bench_task_id or task_id in params.metadata",
            )
        folder = self.task_index.first(names)
        max_steps = request.max_steps or request.params.max_steps
        return self._queued(
            "task",
            request.llm_config,
            self.base.agent,
            tasks=(str(self.task_index.root / folder),),
            instruction=request.params.instruction,
            agent_kwargs=_with_max_steps(self.base.agent_kwargs, max_steps),
        )

    def job(self, request: JobRequest, *, uploaded: str | None = None) -> QueuedJob:
        """Return the job of `POST /api/jobs`, with its `uploaded` agent. Raises ServiceError."""
        if not request.tasks:  # an upload alone must not start all of them
            raise ServiceError(
                422, "task_missing", 'tasks: name the tasks to run, by names or globs, or "*" for all of them'
            )
        folders = self.task_index.folders(request.tasks)
        folders = [f for f in folders if not any(fnmatchcase(f, glob) for glob in request.exclude)]
        if not folders:
            raise ServiceError(422, "nothing_to_run", "exclude leaves no task to run")
        if uploaded is not None and request.agent is not None:
            raise ServiceError(422, "two_agents", "agent: a ZIP was uploaded, too; name one or upload one")
        name = uploaded or request.agent
        changes: dict[str, object] = {
            "tasks": tuple(str(self.task_index.root / folder) for folder in folders[: request.limit]),
            "attempts": request.attempts,
            "agent_kwargs": _with_max_steps(self.base.agent_kwargs, request.max_steps),
        }
        if request.cost_limit_usd is not None:
            changes["cost_limit_usd"] = request.cost_limit_usd
        if request.timeout_multiplier is not None:
            changes["timeout_multiplier"] = request.timeout_multiplier
        agent = self.base.agent if name is None else self._agent(name)
        return self._queued("job", request.llm_config, agent, **changes)

    def _agent(self, name: str) -> str:
        return name if name in _BUILT_IN else str(self.agents.find(name))

    def _queued(self, kind: Kind, llm: LlmConfig, agent: str, **changes: object) -> QueuedJob:
        if self.base.mode.canned and not llm.empty:
            # An answer from a file would look like one of the model that the request names.
            raise ServiceError(
                422,
                "llm_config_refused",
                f"llm_config: this service's model is {self.base.mode.source}, so it calls no LLM: leave "
                "llm_config out, or ask a service that was started with --model live",
            )
        changes |= {"agent": agent, "job_name": new_job_id(), "concurrency": None}
        if llm.model_name is not None:
            changes["model_name"] = llm.model_name.strip().removeprefix("deepseek/") or self.base.model_name
        if llm.model_infer_params:
            changes["model_params"] = llm.model_infer_params
        if llm.url is not None:
            changes["base_url"] = self._base_url(llm.url, llm.api_key)
        config = RunConfig.model_validate(self.base.model_dump() | changes)
        takes_key = not config.mode.canned and agent not in _BUILT_IN
        has_none = llm.api_key is None and self.secrets.api_key is None
        if takes_key and has_none and _needs_model(agent):
            raise ServiceError(
                422,
                "key_missing",
                "llm_config.api_key: no key given, and the service has none of its own (DEEPSEEK_API_KEY)",
            )
        return QueuedJob(kind, config, llm.api_key if takes_key else None)

    def _base_url(self, requested: str, key: SecretStr | None) -> str:
        url = check_url(requested, self.settings)
        ours = self.base.base_url.rstrip("/")
        if url != ours and key is None:
            # The service's own key must not be sent to another address.
            raise ServiceError(422, "key_missing", "llm_config.api_key: must be given where url is given")
        return url


def new_job_id() -> str:
    """Return a job's id, which is its folder's name: the local time and six random characters."""
    tail = "".join(random.choice(_ID_CHARACTERS) for _ in range(6))
    return f"{local_now():%Y-%m-%d__%H-%M-%S}-{tail}"


def _with_max_steps(keywords: Mapping[str, object], max_steps: int | None) -> dict[str, object]:
    return dict(keywords) if max_steps is None else {**keywords, "max_steps": max_steps}


def absolute(config: RunConfig) -> RunConfig:
    """Return the settings with absolute paths, so that a restart elsewhere does not change them."""
    changes = {"jobs_dir": str(Path(config.jobs_dir).resolve())}
    if config.agent and config.agent not in _BUILT_IN:
        changes["agent"] = str(Path(config.agent).resolve())
    if (path := config.mode.path) is not None:
        changes["model"] = f"{config.mode.name}:{path.resolve()}"
    return config.model_copy(update=changes)


def _needs_model(agent: str) -> bool:
    try:
        return needs_model(Path(agent))
    except PackageError:
        return False  # its job says what is wrong with it
