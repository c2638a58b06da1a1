"""The connection to a Ray cluster, its nodes, and the node runner on each. A program has one."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import queue
import resource
import secrets
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import ray as _ray
from ray._private import state as _ray_state
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from runner.config import LOCAL_CLUSTER, SECRET_VARIABLES
from runner.environments import DockerSettings, TransferError
from runner.environments.docker.engine import engine_unreachable
from runner.environments.owner import owned_directory, remove_tree
from runner.executors.cleanup import NODE_PREFIX, PRIVATE_RAY_PLACE, PRIVATE_RAY_PREFIX
from runner.executors.ray.actor import NodeActor, versions
from runner.executors.ray.folders import pack_folder
from runner.executors.ray.messages import (
    Answer,
    AskStatus,
    BringImage,
    CloseJob,
    Failed,
    NodeStatus,
    Request,
)
from runner.jobs.errors import JobError
from runner.results import Reason

DOCKER = "docker"
"""The custom resource of nodes on which tasks may run in Docker."""
DOCKER_SHARE = 0.001
"""How much of it a trial takes, so that it bounds nothing."""

NO_DOCKER = (
    "no node of the Ray cluster offers Docker: start those that have an engine with "
    f"ray start --resources='{{\"{DOCKER}\": 1}}'"
)

ray: Any = _ray  # its own types are incomplete
_state: Any = _ray_state  # what each node has free is nowhere else, but in the dashboard
_LOOK_SEC = 1.0
_STATUS_SEC = 5.0
_AGAIN_SEC, _AGAIN_MAX_SEC = 5.0, 60.0
_START_SEC = 120.0
_SLOW_SEC = 60.0  # after which a job begins without the nodes that have no node runner yet
_ANSWER_SEC = 15.0
_INIT_SEC = 60.0
_PROBE_SEC = 10.0
_SHUTDOWN_SEC = 10.0
T = TypeVar("T")


@dataclass
class Node:
    """A node of the cluster, and its node runner.

    Attributes:
        problem: Why it takes no trials, or None. A node that has just joined takes them: they wait
            there for its node runner.
        free: What of its resources nothing has taken, in Ray's count.
        ready: Whether its node runner answers.
        asked: Whether it is being asked for its status.
        jobs: The open jobs, by key, and why it takes no trials of one.
    """

    id: str
    name: str
    address: str
    resources: Mapping[str, float]
    free: Mapping[str, float] = field(default_factory=dict[str, float])
    actor: Any = None
    ready: bool = False
    asked: bool = False
    problem: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict[str, str])
    status: NodeStatus | None = None
    jobs: dict[str, str | None] = field(default_factory=dict[str, "str | None"])

    @property
    def offers_docker(self) -> bool:
        """Whether it was started with the custom resource for Docker."""
        return self.resources.get(DOCKER, 0) > 0


class Cluster:
    """A cluster that this process takes part in. `open_cluster` makes it.

    Attributes:
        nodes: The nodes that are alive, by id.
        address: The address of this machine in the cluster.
        private_folder: The folder of a private Ray; None for other clusters.
    """

    def __init__(self, thread: _RayThread, timeout_sec: float, private_folder: Path | None) -> None:
        self.nodes: dict[str, Node] = {}
        self.private_folder = private_folder
        self.address: str = "127.0.0.1"
        self.changed = asyncio.Event()  # set and replaced whenever a node has changed
        self._session = secrets.token_hex(6)
        self._thread = thread
        self._timeout_sec = timeout_sec
        self._answered_at = time.monotonic()
        self._open_jobs: dict[str, Callable[[Node], Any]] = {}
        self._folders: dict[Path, Any] = {}  # of tasks, in Ray's object store
        self._tasks: set[asyncio.Task[None]] = set()
        self._lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def begin(self) -> None:
        """Look at the nodes, and begin to watch them. Raises JobError."""
        if self.private_folder is None:
            self.address = await self._thread.call(ray.util.get_node_ip_address)
        await self._look()
        self._spawn(self._watch())

    async def wait_ready(self) -> None:
        """Wait until each node has a node runner or a problem, but not for long for a slow one."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SLOW_SEC):
                while not all(node.ready or node.problem for node in self.nodes.values()):
                    await self.changed.wait()

    async def refresh(self) -> None:
        """Ask every node for its status now."""
        await asyncio.gather(*(self._ask_status(node) for node in self.nodes.values() if node.ready))

    def docker_nodes(self) -> list[Node]:
        """Return the nodes that offer Docker. Raises JobError if there is none."""
        if found := [node for node in self.nodes.values() if node.offers_docker]:
            return found
        raise JobError(NO_DOCKER)

    async def running_trials(self, node: Node) -> list[str]:
        """Return the trials that run on a node, also those of this user's other programs."""
        with contextlib.suppress(RayError, OSError):
            if node.ready:
                return await node.actor.running_trials.remote()
        return []

    async def bring_image(
        self, node: Node, task: Path, docker: DockerSettings, *, build: bool, force: bool
    ) -> Answer:
        """Have a node pull or build the image of the task in a folder."""
        request = BringImage(
            key=f"image-{secrets.token_hex(6)}",
            folder=task.name,
            build=build,
            force=force,
            images=dict(docker.images),
            pull=docker.pull,
        )
        try:
            if task not in self._folders:
                self._folders[task] = ray.put(pack_folder(task))
            return await node.actor.bring_image.remote(request, [self._folders[task]])
        except (RayError, OSError, TransferError) as error:
            return Failed(reason=describe(error))

    async def while_there(self, work: asyncio.Future[T]) -> T:
        """Wait for `work`. Raises JobError if the cluster is lost before that."""
        await asyncio.wait({work, self._lost}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            work.cancel()
            self._lost.result()
        return await work

    @property
    def is_lost(self) -> bool:
        """Whether the cluster has not answered for too long."""
        return self._lost.done() and not self._lost.cancelled()  # `close` cancels it

    @property
    def folder_prefix(self) -> str:
        """The start of the names of the node runners' folders."""
        return f"{NODE_PREFIX}{self._session}-"

    async def ask(self, node: Node, request: Request) -> Answer:
        """Send a request to a node runner. An error of the way there is a `Failed`."""
        try:
            return await node.actor.ask.remote(request)
        except (RayError, OSError) as error:
            return Failed(reason=describe(error))

    def refuse(self, name: str, reason: str, key: str | None) -> None:
        """Take note that a node takes no trials: none of a job, or none at all for now."""
        for node in self.nodes.values():
            if node.name == name:
                if key is None:
                    node.problem = reason
                else:
                    node.jobs[key] = reason
        self._notify()

    def add_job(self, key: str, open_job: Callable[[Node], Any]) -> None:
        """Have `open_job` open a job on each node, now and when one joins."""
        self._open_jobs[key] = open_job
        for node in self.nodes.values():
            if node.ready:
                self._spawn(self._open_job(node, key))

    async def remove_job(self, key: str) -> None:
        """Close a job on all nodes."""
        self._open_jobs.pop(key, None)
        having = [node for node in self.nodes.values() if node.ready and key in node.jobs]
        if not self.is_lost:
            await asyncio.gather(*(self.ask(node, CloseJob(key=key)) for node in having))
        for node in having:
            node.jobs.pop(key, None)

    async def close(self) -> None:
        """Stop watching."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if not self._lost.done():
            self._lost.cancel()

    def _spawn(self, work: Any) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _notify(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    async def _watch(self) -> None:
        """Follow which nodes are there and how they are, until the cluster is lost."""
        asked = 0.0
        while not self._lost.done():
            await asyncio.sleep(_LOOK_SEC)
            try:
                await asyncio.wait_for(self._look(), max(1.0, self._timeout_sec))
            except (TimeoutError, RayError, OSError, RuntimeError) as error:
                if time.monotonic() - self._answered_at >= self._timeout_sec:
                    said = describe(error) or "no answer"
                    self._lost.set_exception(
                        JobError(
                            f"the Ray cluster did not answer for {self._timeout_sec:g} s ({said}): "
                            "resume the job once it does",
                            Reason.CANCELLED,
                        )
                    )
                    self._lost.exception()
                continue
            if time.monotonic() - asked >= _STATUS_SEC:
                asked = time.monotonic()
                for node in self.nodes.values():
                    if node.ready:
                        self._spawn(self._ask_status(node))

    async def _look(self) -> None:
        found, free = await self._thread.call(_read_nodes)
        self._answered_at = time.monotonic()
        alive = {entry["NodeID"]: entry for entry in found if entry["Alive"]}
        for gone in set(self.nodes) - set(alive):
            del self.nodes[gone]
            self._notify()
        for node_id, entry in alive.items():
            if node_id not in self.nodes:
                name = f"{entry['NodeManagerHostname']}-{node_id[:6]}"
                self.nodes[node_id] = Node(node_id, name, entry["NodeManagerAddress"], entry["Resources"])
                self._spawn(self._start(self.nodes[node_id]))
            self.nodes[node_id].free = free.get(node_id, entry["Resources"])

    async def _start(self, node: Node) -> None:
        """Start the node runner of a node, again if it ended, while the node is there."""
        wait = _AGAIN_SEC
        while self.nodes.get(node.id) is node:
            node.problem = await self._started(node)
            node.ready = node.problem is None
            self._notify()
            wait = _AGAIN_SEC if node.ready else min(2 * wait, _AGAIN_MAX_SEC)
            if node.ready:
                await asyncio.gather(*(self._open_job(node, key) for key in list(self._open_jobs)))
                await self._ended(node)
                node.ready, node.jobs = False, {}
            await asyncio.sleep(wait)

    async def _started(self, node: Node) -> str | None:
        """Start a node runner. Return why the node takes no trials, or None."""
        own = versions()
        try:
            async with asyncio.timeout(_START_SEC):
                node.actor = (
                    ray.remote(NodeActor)
                    .options(
                        num_cpus=0,
                        max_concurrency=1000,
                        scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
                    )
                    .remote(self.folder_prefix, node.id, node.name)
                )
                node.versions = await node.actor.versions.remote()
                for what, version in own.items():
                    if node.versions[what] != version:
                        return f"{what} is {node.versions[what]} there, and {version} here"
                await node.actor.start.remote()
        except TimeoutError:
            return f"its node runner did not start within {_START_SEC:g} s"
        except (RayError, OSError) as error:
            return describe(error)
        return None

    async def _ended(self, node: Node) -> None:
        """Wait until a node runner does not answer any more."""
        while node.ready and self.nodes.get(node.id) is node:
            await self.changed.wait()

    async def _open_job(self, node: Node, key: str) -> None:
        if key in node.jobs or key not in self._open_jobs:
            return
        node.jobs[key] = None
        try:
            answer = await self._open_jobs[key](node)
        except (RayError, OSError) as error:
            answer = Failed(reason=describe(error))
        if isinstance(answer, Failed):
            node.jobs[key] = answer.reason
        self._notify()

    async def _ask_status(self, node: Node) -> None:
        if node.asked:
            return  # the last question is still under way
        node.asked = True
        try:
            answer = await asyncio.wait_for(self.ask(node, AskStatus()), _ANSWER_SEC)
        except TimeoutError:
            answer = Failed(reason=f"its node runner did not answer within {_ANSWER_SEC:g} s")
        finally:
            node.asked = False
        if isinstance(answer, NodeStatus):
            changed = node.problem != answer.problem
            node.status, node.problem = answer, answer.problem
        else:
            changed = node.ready
            node.ready = False
            node.problem = answer.reason if isinstance(answer, Failed) else "it gave no status"
        if changed:
            self._notify()


def _read_nodes() -> tuple[list[dict[str, Any]], Mapping[str, Mapping[str, float]]]:
    """Return Ray's nodes, and what each has free by its id."""
    return ray.nodes(), _state.available_resources_per_node()


def describe(error: BaseException) -> str:
    """Return an error of Ray in one line: what raised it, without Ray's traceback."""
    if isinstance(error, RayTaskError):
        cause = getattr(error, "cause", None)
        if isinstance(cause, BaseException):
            return str(cause) or type(cause).__name__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    wanted = [line for line in lines if "Error" in line and not line.startswith(("File", "ray::"))]
    return (wanted or lines or [type(error).__name__])[-1][:400]


class _RayThread:
    """Makes Ray's blocking calls, one after the other.

    Ray's own processes end with the thread that started them, so this one lives as long as the
    program. It never keeps the program from ending.
    """

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="ray", daemon=True).start()

    def _run(self) -> None:
        while True:
            self._calls.get()()

    async def call(self, function: Callable[[], T]) -> T:
        """Return what a function returns, or raise what it raises."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def finish(set_it: Callable[[Any], None], value: object) -> None:
            if not future.done():
                set_it(value)

        def work() -> None:
            try:
                value = function()
            except BaseException as error:
                with contextlib.suppress(RuntimeError):  # the loop has ended
                    loop.call_soon_threadsafe(finish, future.set_exception, error)
            else:
                with contextlib.suppress(RuntimeError):
                    loop.call_soon_threadsafe(finish, future.set_result, value)

        self._calls.put(work)
        return await future


_open: tuple[str, Cluster] | None = None
_users = 0
_turn: asyncio.Lock | None = None
_thread: _RayThread | None = None


@asynccontextmanager
async def open_cluster(address: str, timeout_sec: float) -> AsyncGenerator[Cluster]:
    """Take part in a cluster. The jobs of one program share the connection.

    Args:
        address: HOST:PORT; "" for RAY_ADDRESS or one on this machine; "local" for a private one.
        timeout_sec: How long the cluster may be silent.

    Raises:
        JobError: There is no such cluster, or it has another version of Ray or Python.
    """
    global _open, _users, _turn, _thread
    _thread = _thread or _RayThread()
    _turn = _turn or asyncio.Lock()
    async with _turn:
        if _open is None:
            _open = (address, await _connect(_thread, address, timeout_sec))
        elif _open[0] != address:
            raise JobError(f"this program uses the Ray cluster {_open[0] or 'that it found'} already")
        _users += 1
    cluster = _open[1]
    try:
        yield cluster
    finally:
        async with _turn:
            _users -= 1
            if _users == 0:
                _open = None
                await cluster.close()
                await _disconnect(_thread, cluster)


async def _connect(thread: _RayThread, address: str, timeout_sec: float) -> Cluster:
    local = address == LOCAL_CLUSTER
    if not local:
        address = address or os.environ.get("RAY_ADDRESS", "").strip() or "auto"
    if address.startswith("ray://"):
        raise JobError(
            f"{address}: Ray's client protocol cannot be used: run the job on a machine of the cluster, "
            "and name HOST:PORT"
        )
    await _probe(address)
    code = await asyncio.to_thread(_stage_code)
    options: dict[str, Any] = {
        "runtime_env": {"working_dir": str(code)},
        "namespace": "capstan",
        "log_to_driver": False,
        "logging_level": "ERROR",
    }
    folder = None
    if local:
        # A folder of its own: Ray's usual one names the cluster that others on this machine find.
        folder = owned_directory(PRIVATE_RAY_PREFIX, place=PRIVATE_RAY_PLACE)
        docker = {} if await engine_unreachable() else {DOCKER: 1}
        options |= {
            "address": "local",
            "_node_ip_address": "127.0.0.1",
            "_temp_dir": str(folder),
            "include_dashboard": False,
            "resources": docker,
        }
    else:
        options["address"] = address
    try:
        with _without_secrets():
            await asyncio.wait_for(thread.call(lambda: ray.init(**options)), _INIT_SEC)
    except TimeoutError:
        raise JobError(f"the Ray cluster at {address} did not answer within {_INIT_SEC:g} s") from None
    except (ConnectionError, RuntimeError, ValueError, OSError, RayError) as error:
        raise JobError(f"--on ray: {_refusal(address, error)}") from None
    finally:
        await asyncio.to_thread(shutil.rmtree, code, ignore_errors=True)
    # Each trial takes two connections of the relay, and the usual limit is 1,024 files.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    # What it tells drivers of nodes goes to stdout, where the result is.
    ray._private.worker._worker_logs_enabled = False
    cluster = Cluster(thread, timeout_sec, folder)
    await cluster.begin()
    return cluster


async def _probe(address: str) -> None:
    """Ask whether anything listens at HOST:PORT, which takes Ray minutes. Raises JobError."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(host, int(port)), _PROBE_SEC)
        writer.close()
    except (OSError, TimeoutError, ValueError):
        raise JobError(f"no Ray cluster answers at {address}") from None


async def _disconnect(thread: _RayThread, cluster: Cluster) -> None:
    if cluster.is_lost:
        # It would wait for the cluster, now and at the interpreter's end.
        atexit.unregister(ray.shutdown)
        return
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(thread.call(ray.shutdown), _SHUTDOWN_SEC)
    if cluster.private_folder is not None:
        await asyncio.to_thread(remove_tree, cluster.private_folder)


def _refusal(address: str, error: BaseException) -> str:
    said = describe(error)
    if "Version mismatch" in str(error):
        said = " ".join(str(error).split())
    if isinstance(error, ConnectionError) or "Could not find any running Ray" in said:
        return (
            "no Ray cluster was found: start one (ray start --head), name one (--on ray=HOST:PORT), or "
            "take --on ray=local"
            if address == "auto"
            else f"no Ray cluster answers at {address}"
        )
    return said


def _stage_code() -> Path:
    """Copy what nodes need of this checkout into a folder, and return it."""
    package = Path(__file__).resolve().parents[2]
    target = Path(tempfile.mkdtemp(prefix="capstan-code-"))
    shutil.copytree(package, target / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("src/config/models.toml", "locks/pip.txt", "locks/runner.txt"):
        if (package.parent / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(package.parent / name, target / name)
    return target


@contextlib.contextmanager
def _without_secrets() -> Generator[None]:
    """Take the secrets from the environment, which the processes of a private Ray would inherit."""
    taken = {name: os.environ.pop(name) for name in _SECRETS if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(taken)


_SECRETS = (*SECRET_VARIABLES, "SERVICE_TOKEN")
