"""Runs each trial of a job as a Ray task, on the node that Ray chooses."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import ray as _ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from runner.config import RunConfig
from runner.environments import DockerSettings, EnvironmentKind, TransferError
from runner.environments.docker import local_names
from runner.executors.isolated import read_submission
from runner.executors.ray.cluster import (
    DOCKER,
    DOCKER_SHARE,
    NO_DOCKER,
    Cluster,
    Node,
    describe,
    open_cluster,
)
from runner.executors.ray.folders import FolderTooLarge, IncomingTrial, pack_folder
from runner.executors.ray.messages import (
    Answer,
    CancelTrial,
    FilePart,
    FolderPart,
    OpenJob,
    Placed,
    Refused,
    RunTrial,
    TaskParcel,
    TrialEnded,
    TrialLost,
    TrialMoved,
    frame,
    parse_from_trial,
)
from runner.executors.ray.trial_task import hold_trial
from runner.jobs.context import PHASE_WAITING, ClusterUse, JobContext, TrialEnd, TrialPlan, TrialProgress
from runner.jobs.errors import JobError
from runner.jobs.limiter import Capacity, Limiter, Resources
from runner.jobs.tasks import JobTask
from runner.relay import RelayListener
from runner.results import write_model
from runner.trials import Trial, environment_spec, write_lost_trial

ray: Any = _ray  # its own types are incomplete
# Ctrl-C ends all trials within 15 s: a node ends one within 10 s, and its folder comes then.
CANCEL_SEC = 13.0
_PARTS_AHEAD = 16  # of a trial, before the head has taken them


class _PlaceAgain(Exception):
    """The trial did not begin: its node refused it, or others have come or gone since."""


class _NodeLost(Exception):
    """The node of a trial went away, or its node runner did."""


@asynccontextmanager
async def open_on_ray(
    config: RunConfig, tasks: Sequence[JobTask], docker: DockerSettings, note: Callable[..., None]
) -> AsyncGenerator[RayExecutor]:
    """Open an executor on the cluster that the settings name. Raises JobError."""
    listener = _certificate(config)
    async with open_cluster(config.cluster or "", config.cluster_timeout_sec) as cluster:
        await cluster.wait_ready()
        kind = _environment_kind(config, cluster)
        if kind == "docker" and not any(node.offers_docker for node in cluster.nodes.values()):
            note(f"{NO_DOCKER}; trials wait for one")  # an autoscaler may bring it
        ready = [node for node in cluster.nodes.values() if node.ready]
        if not ready:
            raise JobError("no node of the Ray cluster takes trials; `capstan doctor --on ray` says more")
        note(f"environment: {kind}, on {len(ready)} node{'s' * (len(ready) != 1)} of Ray", warning=False)
        if (line := _oversized(tasks, cluster)) is not None:
            note(line)
        host, port = listener or (cluster.address, 0)
        certificate = config.relay_cert and Path(config.relay_cert)
        relay_key = config.relay_key and Path(config.relay_key)
        executor = RayExecutor(
            cluster,
            kind,
            tasks,
            docker,
            note,
            limiter=Limiter(Capacity(trials=config.concurrency)),
            relay_listener=RelayListener(host, port, certificate or None, relay_key or None),
        )
        try:
            yield executor
        finally:
            await executor.close()


class RayExecutor:
    """Runs each trial on a node of a cluster. The job's folder stays on this machine.

    A trial is a Ray task that holds what its task asks for. The node runner of the node does the
    work, with the executor that a job on that machine would have.
    """

    relay_socket: Path | None = None

    def __init__(
        self,
        cluster: Cluster,
        kind: EnvironmentKind,
        tasks: Sequence[JobTask],
        docker: DockerSettings,
        note: Callable[..., None],
        *,
        limiter: Limiter,
        relay_listener: RelayListener,
    ) -> None:
        self.environment_kind: EnvironmentKind = kind
        self.limiter = limiter
        self.relay_listener = relay_listener
        self._cluster = cluster
        self._tasks = tasks
        self._docker = docker
        self._note = note
        self._noted: set[str] = set()
        self._opening: asyncio.Task[str] | None = None
        self._key = ""  # of the job, once it has been opened
        self._images: dict[Path, set[str]] = {}
        self._hold: Any = ray.remote(hold_trial)

    async def run(self, context: JobContext, plan: TrialPlan, progress: TrialProgress) -> TrialEnd:
        """See Executor.run. Raises JobError if the cluster is lost."""
        if plan.task.task is None:
            return await Trial(context, plan, progress).run()
        if self._opening is None:
            self._opening = asyncio.create_task(self._open(context))
        key = await asyncio.shield(self._opening)
        account = context.model.open_account(plan.trial_name)
        request = RunTrial(
            key=key,
            trial_name=plan.trial_name,
            attempt=plan.attempt,
            task=self._tasks.index(plan.task),
            environ=plan.task.task.host_variables(),
            retries=progress.retries,
            token=account.token if account else None,
        )
        try:
            while True:
                with contextlib.suppress(_PlaceAgain):
                    return await self._try(context, plan, progress, request)
        finally:
            if account is not None and context.model.relay is not None:
                context.model.relay.close_run(account.token)

    def cluster_use(self) -> ClusterUse:
        """See Executor.cluster_use."""
        nodes = list(self._cluster.nodes.values())
        cpus = sum(node.resources.get("CPU", 0.0) for node in nodes)
        free = sum(node.free.get("CPU", 0.0) for node in nodes)
        return ClusterUse(
            nodes=len(nodes),
            open_nodes=sum(not (node.problem or node.jobs.get(self._key)) for node in nodes),
            cpus=cpus,
            used_cpus=cpus - free,
        )

    async def close(self) -> None:
        """Close the job on all nodes."""
        if self._opening is not None:
            with contextlib.suppress(JobError, OSError, TransferError):
                await self._cluster.remove_job(await self._opening)

    # A job

    async def _open(self, context: JobContext) -> str:
        """Have every node open the job, and return its key there. Raises JobError."""
        key = f"job-{context.job_id.hex[:12]}"
        parcels, folders = await asyncio.to_thread(self._pack_tasks)
        submission = await asyncio.to_thread(read_submission, context)
        relay = context.model.relay
        certificate = self.relay_listener.certificate
        request = OpenJob(
            key=key,
            lock=context.lock.model_copy(update={"trials": []}).model_dump_json(),
            recorded_root=str(context.directory.root),
            environment_kind=context.environment_kind,
            agent=context.agent.record,
            model=context.model.source,
            model_mode=relay.mode if relay else "none",
            scripted=relay.scripted if relay else False,
            relay_url=relay.remote_url if relay else None,
            relay_certificate=certificate.read_text(encoding="ascii") if certificate else None,
            tasks=parcels,
            images=dict(self._docker.images),
            pull=self._docker.pull,
        )
        agent = [] if submission is None else [ray.put(submission)]
        tasks = [ray.put(folder) for folder in folders]

        async def open_on(node: Node) -> Answer:
            return await node.actor.open_job.remote(request, agent, tasks)

        self._cluster.add_job(key, open_on)
        self._key = key
        return key

    def _pack_tasks(self) -> tuple[list[TaskParcel], list[bytes]]:
        parcels: list[TaskParcel] = []
        folders: list[bytes] = []
        for number, item in enumerate(self._tasks):
            if item.task is not None:
                parcels.append(
                    TaskParcel(
                        number=number,
                        name=item.name,
                        folder=item.task.path.name,
                        recorded_path=str(item.path),
                        dataset=item.dataset,
                        digest=item.task.digest,
                    )
                )
                folders.append(pack_folder(item.task.path))
        return parcels, folders

    # A trial

    async def _try(
        self, context: JobContext, plan: TrialPlan, progress: TrialProgress, request: RunTrial
    ) -> TrialEnd:
        """Run the trial on the node that Ray chooses.

        Raises:
            _PlaceAgain: It did not begin.
        """
        progress.phase, progress.node = PHASE_WAITING, None
        shut = await self._some_open(request.key)
        options = await asyncio.to_thread(self._options, plan, shut)
        answer = self._hold.options(**options).remote(self._cluster.folder_prefix, frame(request))
        following = asyncio.create_task(self._follow(context, plan, progress, answer, request.key))
        changing = asyncio.create_task(self._until_changed(request.key, shut, progress))
        try:
            either = asyncio.wait({following, changing}, return_when=asyncio.FIRST_COMPLETED)
            await self._cluster.while_there(asyncio.ensure_future(either))
            if not following.done() and progress.node is None:
                raise _PlaceAgain
            return await self._cluster.while_there(following)
        except _NodeLost as error:
            message = f"{progress.node or 'a node of the cluster'} was lost: {error}"
            record = await asyncio.to_thread(write_lost_trial, context, plan, progress, "NodeLost", message)
            return TrialEnd(record, infrastructure=True)
        finally:
            changing.cancel()
            if not following.done() or following.cancelled() or following.exception() is not None:
                await self._cancel(request, progress, answer, following)

    def _shut(self, key: str) -> frozenset[str]:
        """Return the ids of the nodes that take no trials of this job now."""
        shut: set[str] = set()
        for node in self._cluster.nodes.values():
            if problem := node.problem or node.jobs.get(key):
                shut.add(node.id)
                self._note_once(f"node {node.name} takes no trials now: {problem}")
        return frozenset(shut)

    async def _some_open(self, key: str) -> frozenset[str]:
        """Wait until a node takes trials, and return the others' ids. Raises JobError."""
        while True:
            nodes, shut = list(self._cluster.nodes.values()), self._shut(key)
            if len(shut) < len(nodes):
                return shut
            reasons = {node.jobs.get(key) or node.problem or "" for node in nodes}
            if nodes and all(node.jobs.get(key) for node in nodes):
                raise JobError(f"no node can run the job: {'; '.join(sorted(reasons))}")
            self._note_once(f"no node takes trials now: {'; '.join(sorted(reasons)) or 'there is none'}")
            waiting = asyncio.ensure_future(self._cluster.changed.wait())
            await self._cluster.while_there(waiting)

    async def _until_changed(self, key: str, shut: frozenset[str], progress: TrialProgress) -> None:
        """Wait until other nodes than before take trials, while the trial has not been placed.

        Ray would keep a waiting trial from a node that has recovered.
        """
        while self._shut(key) == shut or len(self._shut(key)) == len(self._cluster.nodes):
            await self._cluster.changed.wait()
            if progress.node is not None:
                await asyncio.Event().wait()  # it runs

    def _options(self, plan: TrialPlan, shut: frozenset[str]) -> dict[str, Any]:
        """Return what Ray needs to place a trial."""
        assert plan.task.task is not None
        wanted = Resources.of(plan.task.task)
        options: dict[str, Any] = {
            "name": plan.trial_name,
            "num_cpus": wanted.cpus,
            "memory": int(wanted.memory_mb * 2**20),
            "num_returns": "streaming",
            "_generator_backpressure_num_objects": _PARTS_AHEAD,
            "max_retries": 0,
        }
        if self.environment_kind == "docker":
            options["resources"] = {DOCKER: DOCKER_SHARE}
        if shut:
            options["label_selector"] = {"ray.io/node-id": f"!in({','.join(sorted(shut))})"}
        nodes = list(self._cluster.nodes.values())
        if self.environment_kind == "docker" and len(nodes) > 1:
            names = self._image_names(plan)
            having = [n for n in nodes if n.id not in shut and n.status and names & set(n.status.images)]
            if having:
                best = min(having, key=lambda node: len(node.status.running) if node.status else 0)
                options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(
                    best.id, soft=True, _spill_on_unavailable=True
                )
        return options

    def _image_names(self, plan: TrialPlan) -> set[str]:
        """Return what the image of a task is known by in an engine."""
        assert plan.task.task is not None
        path = plan.task.task.path
        if path not in self._images:
            names = local_names(environment_spec(plan.task.task), self._docker)
            self._images[path] = {*names, *(f"{name}:latest" for name in names)}
        return self._images[path]

    async def _follow(
        self, context: JobContext, plan: TrialPlan, progress: TrialProgress, answer: Any, key: str
    ) -> TrialEnd:
        """Take in what comes of a trial until its end.

        Raises:
            _PlaceAgain, _NodeLost: It did not run, or not to its end.
            OSError: Its files cannot be written here.
        """

        def refuse(message: Refused) -> None:
            self._cluster.refuse(message.node, message.reason, key if message.job else None)

        try:
            frames = (await reference async for reference in answer)
            return await follow_trial(context, plan, progress, frames, refuse)
        except RayError as error:
            raise _NodeLost(describe(error)) from error

    async def _cancel(
        self, request: RunTrial, progress: TrialProgress, answer: Any, following: asyncio.Task[TrialEnd]
    ) -> None:
        """End a trial on its node, and wait for its record; or drop it where none runs it yet."""
        node = next((n for n in self._cluster.nodes.values() if n.name == progress.node), None)
        if node is not None and not self._cluster.is_lost:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CANCEL_SEC):
                    await self._cluster.ask(node, CancelTrial(key=request.key, trial_name=request.trial_name))
                    await asyncio.wait({following})
        if not following.done() and not self._cluster.is_lost:
            with contextlib.suppress(RayError, ValueError, TypeError):
                ray.cancel(answer, force=True)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    def _note_once(self, line: str) -> None:
        if line not in self._noted:
            self._noted.add(line)
            self._note(line)


async def follow_trial(
    context: JobContext,
    plan: TrialPlan,
    progress: TrialProgress,
    frames: AsyncIterable[bytes],
    refuse: Callable[[Refused], None],
) -> TrialEnd:
    """Take in the frames of a trial until its end, and write its folder and its record.

    Args:
        frames: What the node runner says, in order, each a whole frame.
        refuse: Called if the node does not take the trial.

    Raises:
        _PlaceAgain, _NodeLost: It did not run, or not to its end.
        OSError: Its files cannot be written here.
    """
    incoming = IncomingTrial(context.directory.trial(plan.trial_name))
    try:
        async for data in frames:
            message, payload = parse_from_trial(data)
            match message:
                case Refused():
                    refuse(message)
                    raise _PlaceAgain
                case Placed(node=node):
                    progress.place(node)
                    incoming.begin()
                case TrialMoved(phase=phase, usage=usage):
                    progress.phase = phase
                    progress.usage = lambda usage=usage: usage
                case FilePart(name=name, offset=offset):
                    incoming.write_part(name, offset, payload)
                case FolderPart():
                    incoming.add(payload)
                case TrialLost(error=error):
                    raise _NodeLost(error)
                case TrialEnded():
                    await asyncio.to_thread(incoming.finish)
                    record = message.record.model_copy(update={"node": progress.node})
                    write_model(context.directory.trial(plan.trial_name).record, record)
                    return TrialEnd(record, message.infrastructure)
    except (ValueError, TransferError, FolderTooLarge) as error:
        raise _NodeLost(f"what it sent cannot be used: {error}") from error
    raise _NodeLost("it ended without a word")


def _environment_kind(config: RunConfig, cluster: Cluster) -> EnvironmentKind:
    """Choose Docker where nodes offer it, else the sandbox; or what was asked for."""
    wanted = "docker" if config.isolation == "dind" else config.environment
    if wanted == "auto":
        return "docker" if any(node.offers_docker for node in cluster.nodes.values()) else "sandbox"
    return wanted


def _oversized(tasks: Sequence[JobTask], cluster: Cluster) -> str | None:
    """Return a line about the tasks that ask for more than any node has; None if none does."""
    found: list[str] = []
    for item in tasks:
        wanted = Resources.of(item.task)
        if not any(_has(node.resources, wanted) for node in cluster.nodes.values()):
            found.append(f"{item.name} ({wanted.cpus:g} CPUs, {wanted.memory_mb:.0f} MiB)")
    if not found:
        return None
    shown = ", ".join(found[:5]) + (", …" if len(found) > 5 else "")
    return (
        f"no node is large enough for {shown}: their trials wait for one that is; "
        "--override-cpus and --override-memory-mb give less"
    )


def _has(resources: Mapping[str, float], wanted: Resources) -> bool:
    return resources.get("CPU", 0) >= wanted.cpus and resources.get("memory", 0) >= wanted.memory_mb * 2**20


def _certificate(config: RunConfig) -> tuple[str, int] | None:
    """Check the settings of the relay for the nodes, and return its address. Raises JobError."""
    if (config.relay_cert is None) != (config.relay_key is None):
        raise JobError("--relay-cert and --relay-key belong together: name both files, or neither")
    for name, path in (("--relay-cert", config.relay_cert), ("--relay-key", config.relay_key)):
        if path is not None and not Path(path).is_file():
            raise JobError(f"{name} {path}: there is no such file")
    if config.relay_listen is None:
        return None
    host, _, port = config.relay_listen.rpartition(":")
    return host, int(port)
