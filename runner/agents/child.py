"""The program in the agent's process: imports ``agent:Agent``, runs it, carries its calls to the runner.

Stdlib only, and nothing of the runner: it is started with the submission's own interpreter, where nothing
else need be. It speaks JSON lines (protocol.py) over its stdin and stdout; they are moved away first, so that
what the agent and its subprocesses print goes to the log and cannot break the protocol.
"""

# ruff: noqa: ASYNC230, ASYNC240

import asyncio
import base64
import builtins
import concurrent.futures
import contextlib
import dataclasses
import importlib
import itertools
import json
import logging
import os
import shlex
import sys
import tarfile
import tempfile
import threading
import traceback
from pathlib import Path

CHUNK_BYTES = 256 * 1024
FIGURES_BYTES = 256 * 1024
TEXT_CHARS = 64_000
FIGURES_PERIOD_SEC = 1.0
FIGURES = ("n_input_tokens", "n_cache_tokens", "n_output_tokens", "cost_usd", "model_usage")
FIGURES += ("rollout_details", "metadata")


class HostConnection:
    """The pipes to the runner. Safe to use from any thread and any event loop."""

    def __init__(self):
        self._incoming, self._outgoing = os.dup(0), os.dup(1)
        quiet = os.open(os.devnull, os.O_RDONLY)
        os.dup2(quiet, 0)
        os.dup2(2, 1)
        os.close(quiet)
        self._writing = threading.Lock()
        self._waiting = {}
        self._numbers = itertools.count(1)
        self.line_bytes = 1 << 20
        self.started = concurrent.futures.Future()
        self.on_cancel = lambda: None
        self.on_answer = lambda: None

    def send(self, message):
        line = json.dumps(message, separators=(",", ":")).encode("ascii") + b"\n"
        if len(line) > self.line_bytes:
            raise OSError(7, "Argument list too long")
        with self._writing:
            while line:
                line = line[os.write(self._outgoing, line) :]

    def listen(self):
        """Hands on what the runner says until the runner is gone. Runs in a thread of its own."""
        parts = []
        while True:
            data = os.read(self._incoming, 1 << 20)
            if not data:
                os._exit(70)
            parts.append(data)
            if b"\n" not in data:
                continue
            *lines, rest = b"".join(parts).split(b"\n")
            parts = [rest]
            for line in lines:
                self._handle(json.loads(line))

    def _handle(self, message):
        if message["type"] == "start":
            return self.started.set_result(message)
        if message["type"] == "cancel":
            return self.on_cancel()
        future = self._waiting.pop(message["id"], None)
        if future is None or not future.set_running_or_notify_cancel():
            return None
        if "error" in message:
            return future.set_exception(rebuild(message["error"]))
        return future.set_result(message["result"])

    def request(self, method, **params):
        """The call's number, and a future of the runner's answer."""
        number, future = next(self._numbers), concurrent.futures.Future()
        self._waiting[number] = future
        try:
            self.send({"type": "call", "id": number, "method": method, "params": params})
        except BaseException:
            del self._waiting[number]
            raise
        return number, future

    async def call(self, method, **params):
        number, future = self.request(method, **params)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            self._waiting.pop(number, None)
            self.send({"type": "abandon", "id": number})
            raise
        finally:
            self.on_answer()


def rebuild(error):
    """An exception of the same builtin class, RuntimeError for any other (as a timeout of exec is)."""
    kind = getattr(builtins, error["type"], None)
    if not (isinstance(kind, type) and issubclass(kind, Exception)):
        kind = RuntimeError
    with contextlib.suppress(Exception):
        if issubclass(kind, OSError) and error.get("errno"):
            return kind(error["errno"], error["message"])
        return kind(error["message"])
    return RuntimeError(error["message"])


@dataclasses.dataclass
class ExecResult:
    """stdout and stderr merged in stdout (None if empty); stderr is always None."""

    stdout: str | None = None
    stderr: str | None = None
    return_code: int = 0


class ValidatorEnvironment:
    """What the validator's own-runner gives an agent: exec, and a synchronous upload_dir."""

    def __init__(self, connection, task_name):
        self._connection = connection
        self.environment_name = task_name

    async def exec(self, command, cwd=None, env=None, timeout_sec=None, user=None):
        env = dict(env) if env is not None else None
        result = await self._connection.call(
            "exec", command=command, cwd=cwd, env=env, timeout_sec=timeout_sec, user=user
        )
        return ExecResult(result["stdout"], None, result["return_code"])

    def upload_dir(self, source_dir, target_dir):
        with pack(source_dir) as stream:
            steps = upload_steps("dir", stream, target_dir)
            answer = None
            with contextlib.suppress(StopIteration):
                while True:
                    method, params = steps.send(answer)
                    answer = self._connection.request(method, **params)[1].result()


class HarborEnvironment(ValidatorEnvironment):
    """Harbor's environment: all transfers, all of them coroutines."""

    async def upload_file(self, source_path, target_path):
        with Path(source_path).open("rb") as stream:
            mode = os.fstat(stream.fileno()).st_mode & 0o777
            await self._carry(upload_steps("file", stream, target_path, mode))

    async def upload_dir(self, source_dir, target_dir):  # type: ignore[override]
        with pack(source_dir) as stream:
            await self._carry(upload_steps("dir", stream, target_dir))

    async def download_file(self, source_path, target_path):
        Path(target_path).parent.mkdir(parents=True, exist_ok=True)
        with Path(target_path).open("wb") as stream:
            await self._carry(download_steps("file", source_path, stream))

    async def download_dir(self, source_dir, target_dir):
        Path(target_dir).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile() as stream:
            await self._carry(download_steps("dir", source_dir, stream))
            stream.seek(0)
            with tarfile.open(fileobj=stream) as archive:
                archive.extraction_filter = getattr(tarfile, "data_filter", None)  # not in Debian 12's Python
                archive.extractall(target_dir)

    async def is_dir(self, path, user=None):
        return (await self.exec(f"test -d {shlex.quote(str(path))}", None, None, 10, user)).return_code == 0

    async def is_file(self, path, user=None):
        return (await self.exec(f"test -f {shlex.quote(str(path))}", None, None, 10, user)).return_code == 0

    async def _carry(self, steps):
        answer = None
        with contextlib.suppress(StopIteration):
            while True:
                method, params = steps.send(answer)
                answer = await self._connection.call(method, **params)


def pack(folder):
    if not Path(folder).is_dir():
        raise NotADirectoryError(20, "Not a directory", str(folder))
    stream = tempfile.TemporaryFile()  # noqa: SIM115 (the caller closes it)
    with tarfile.open(fileobj=stream, mode="w") as archive:
        archive.add(folder, arcname=".")
    stream.seek(0)
    return stream


def upload_steps(kind, stream, target, mode=None):
    """The calls of an upload; each is sent its answer before the next is asked for."""
    answer = yield "upload_begin", {"kind": kind, "target": str(target), "mode": mode}
    number = answer["transfer"]
    while data := stream.read(CHUNK_BYTES):
        yield "upload_data", {"transfer": number, "data": base64.b64encode(data).decode("ascii")}
    yield "upload_end", {"transfer": number}


def download_steps(kind, source, stream):
    answer = yield "download_begin", {"kind": kind, "source": str(source)}
    number, size, offset = answer["transfer"], answer["size"], 0
    while offset < size:
        answer = yield "download_data", {"transfer": number, "offset": offset, "size": CHUNK_BYTES}
        offset += stream.write(base64.b64decode(answer["data"]))
    yield "download_end", {"transfer": number}


class Context:
    """The fields of Harbor's AgentContext, for the agent to set; ``env`` only where the validator has it."""

    def __init__(self):
        self.__dict__.update(dict.fromkeys(FIGURES))

    def is_empty(self):
        return all(getattr(self, name, None) is None for name in FIGURES)


class Figures:
    """Tells the runner what the agent has put into its context, whenever that has changed."""

    def __init__(self, connection, context):
        self._connection = connection
        self._context = context
        self._last = None

    def report(self):
        found = {name: plain(getattr(self._context, name, None)) for name in FIGURES}
        for name in (None, "rollout_details", "metadata", "model_usage"):
            if name is not None:
                found[name] = None
            text = json.dumps(found, sort_keys=True)
            if len(text) <= FIGURES_BYTES:
                break
        if text != self._last:
            self._last = text
            self._connection.send({"type": "figures", "figures": found})

    async def follow(self):
        while True:
            await asyncio.sleep(FIGURES_PERIOD_SEC)
            self.report()


def plain(value):
    """The value as JSON has it, None if it cannot be."""
    try:
        return json.loads(json.dumps(value, default=simpler), parse_constant=lambda _: None)
    except (TypeError, ValueError, RecursionError, RuntimeError):
        return None


def simpler(value):
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    return repr(value)


def clean(text, limit=TEXT_CHARS):
    text = str(text).encode("utf-8", "backslashreplace").decode("utf-8")
    return text if len(text) <= limit else text[: limit // 2] + "\n[…]\n" + text[-limit // 2 :]


def described(error):
    kept = ""
    with contextlib.suppress(Exception):
        kept = clean("".join(traceback.format_exception(error)))
    message = ""
    with contextlib.suppress(Exception):
        message = clean(error, 4000)
    return {"exception_type": type(error).__name__[:200], "exception_message": message, "traceback": kept}


def introduce(agent):
    """Name, version and info as Harbor's BaseAgent tells them; what an agent lacks is None."""
    told: dict = {"name": None, "version": None, "info": None}
    with contextlib.suppress(Exception):
        told["name"] = clean(agent.name() if callable(agent.name) else agent.name, 200)
    with contextlib.suppress(Exception):
        version = agent.version() if callable(agent.version) else agent.version
        told["version"] = None if version is None else clean(version, 200)
    with contextlib.suppress(Exception):
        info = plain(agent.to_agent_info())
        if isinstance(info, dict) and len(json.dumps(info)) < TEXT_CHARS:
            told["info"] = info
    return told


def ending(value):
    """The last message for what `run` returned."""
    if value is None:
        return {"end": "returned", "message": None}
    if not isinstance(value, str):
        return {"end": "invalid", "what": f"a {type(value).__name__[:100]} instead of a str or None"}
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        return {"end": "invalid", "what": f"text with a lone surrogate (position {error.start})"}
    return {"end": "returned", "message": clean(value)}


async def drive(connection, start):
    """Constructs and runs the agent, and ends the process."""
    loop = asyncio.get_running_loop()
    context = Context()
    harbor = start["rules"] == "harbor"
    if not harbor:
        context.env = dict(start["variables"])  # type: ignore[attr-defined]
    figures = Figures(connection, context)
    connection.on_answer = figures.report
    cancelled = False

    def cancel():
        nonlocal cancelled
        cancelled = True
        body.cancel()

    async def construct():
        module = importlib.import_module("agent")
        extra = dict(start["extra"])
        if start["variables"]:
            extra["extra_env"] = dict(start["variables"])
        if harbor:
            extra.setdefault("logger", logging.getLogger("agent"))
        return module.Agent(logs_dir=Path(start["logs_dir"]), model_name=start["model_name"], **extra)

    async def live():
        environment = (HarborEnvironment if harbor else ValidatorEnvironment)(connection, start["task_name"])
        connection.send({"type": "phase", "phase": "setup"})
        await agent.setup(environment)
        connection.send({"type": "phase", "phase": "execution"})
        return await agent.run(start["instruction"], environment, context)

    async def contained(work):
        try:
            return ending(await work)
        except asyncio.CancelledError as error:
            return {"end": "cancelled"} if cancelled else {"end": "raised", **described(error)}
        except BaseException as error:
            return {"end": "raised", **described(error)}

    try:
        agent = await construct()
    except BaseException as error:
        finish(connection, {"end": "construction_failed", **described(error)})
        return
    connection.send({"type": "constructed", **introduce(agent)})
    body = loop.create_task(contained(live()))
    connection.on_cancel = lambda: loop.call_soon_threadsafe(cancel)
    follower = loop.create_task(figures.follow())
    last = await body
    follower.cancel()
    figures.report()
    finish(connection, last)


def finish(connection, last):
    """Says how it went and is gone: the agent's other tasks, threads and atexit hooks have no say in that."""
    for flush in (logging.shutdown, sys.stdout.flush, sys.stderr.flush):
        with contextlib.suppress(Exception):
            flush()
    with contextlib.suppress(OSError):
        connection.send({"type": "done", **last})
    os._exit(0)


def main():
    connection = HostConnection()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    threading.Thread(target=connection.listen, daemon=True).start()
    start = connection.started.result()
    connection.line_bytes = start["line_bytes"]
    sys.path.insert(0, start["root"])
    try:
        asyncio.run(drive(connection, start))
    except BaseException as error:  # the agent stopped the loop itself, or raised out of it
        finish(connection, {"end": "raised", **described(error)})


if __name__ == "__main__":
    main()
