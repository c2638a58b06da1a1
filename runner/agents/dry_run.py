"""The dry run of a submission: fresh environment, construction, setup, and one scripted task.

The task is a small one in the sandbox, and the model is scripted: it asks the agent's own shell-like tool to
write a file, then says that it is done. Nothing here judges how good the agent is, only that it can be run.
"""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from runner.agents.host import AgentHost
from runner.agents.limits import AgentLimits
from runner.agents.outcome import AgentOutcome
from runner.agents.package import AgentPackage
from runner.agents.requirements import RequirementsError, prepare_interpreter
from runner.environments import EnvironmentFailure, EnvironmentSpec
from runner.environments.sandbox import SandboxEnvironment
from runner.relay import ModelRequest, Relay
from runner.scripted import Reply, ReplyCall, ScriptUpstream
from runner.submission import Archive, Finding, open_archive
from runner.submission.check import CheckReport, Row, check_archive

MODEL = "deepseek-v4-pro"
COST_LIMIT_USD = 1.0
INSTRUCTION = "Write the word done into the file /app/result.txt, then stop."
TASK = Path(__file__).with_name("dry_run_task")
COMMAND = "echo done > /app/result.txt"
_COMMAND_PARAMETERS = ("command", "cmd", "keystrokes", "commands", "script", "code")
CODE_FAILED = "harbor_submission_code_failed"
_CODES: Mapping[str, str] = {
    "construction_failed": CODE_FAILED,
    "raised": "harbor_trial_failed",
    "crashed": "harbor_trial_failed",
    "invalid_return": "harbor_trial_failed",
    "timeout": "harbor_agent_timeout_error",
}
_MENDS: Mapping[str, str] = {
    "construction_failed": "import and construct the agent in a clean environment with these libraries alone",
    "raised": "catch what is raised within run and setup, and return a str that says how the run ended",
    "crashed": "do not exit, fork without end, or write to the file descriptors of the harness",
    "invalid_return": "return a str without lone surrogates, or None",
    "timeout": "end when the model says that it is done, and within seconds of a cancellation",
}


@dataclass(frozen=True, slots=True)
class DryRunSpec:
    """One environment to run in. `requirements` None: what the ZIP's requirements.txt asks for."""

    code: str
    title: str
    requirements: str | None


DRY_RUNS = (
    DryRunSpec("runs_with_requirements", "the libraries of its requirements.txt", None),
    DryRunSpec("runs_offline", "httpx and pydantic alone, as on an offline validator", "httpx\npydantic\n"),
)


@dataclass(frozen=True, slots=True)
class DryRunLimits:
    """Clocks of one run, in seconds."""

    construction_sec: float = 30.0
    run_sec: float = 120.0


@dataclass(frozen=True, slots=True)
class DryRunResult:
    """What is wrong (nothing: it ran), and one line on what happened."""

    findings: tuple[Finding, ...]
    note: str = ""


async def check_submission(
    path: Path, environ: Mapping[str, str], *, with_dry_runs: bool = True
) -> CheckReport:
    """Check a ZIP in every way; the agent is run only where the static checks pass.

    Raises OSError where the file cannot be read.
    """
    archive = await asyncio.to_thread(open_archive, path)
    report = await asyncio.to_thread(check_archive, archive, environ)
    if report.passed and with_dry_runs:
        results = await asyncio.gather(*(dry_run(archive, spec) for spec in DRY_RUNS))
    else:
        note = "not run: --static" if report.passed else "not run: refused above"
        results = [DryRunResult((), note) for _ in DRY_RUNS]
    rows = [
        Row(
            spec.code,
            f"imports, constructs and ends a scripted task with {spec.title}",
            result.findings,
            result.note,
        )
        for spec, result in zip(DRY_RUNS, results, strict=True)
    ]
    return replace(report, rows=(*report.rows, *rows))


async def dry_run(archive: Archive, spec: DryRunSpec, limits: DryRunLimits | None = None) -> DryRunResult:
    """Runs the agent of a ZIP that passed the static checks. Whatever it does ends up in the result."""
    with tempfile.TemporaryDirectory(prefix="capstan-check-", ignore_cleanup_errors=True) as folder:
        try:
            text = spec.requirements
            if text is None:
                text = archive.contents.get("requirements.txt", b"").decode("utf-8")
            interpreter = await prepare_interpreter(text, Path(folder), reuse_own=False)
        except UnicodeDecodeError:
            return _refused(CODE_FAILED, "requirements.txt is not UTF-8 text", "save it as UTF-8")
        except RequirementsError as error:
            return _refused(CODE_FAILED, str(error), "name released versions; offline, use --static")
        package = AgentPackage(Path("submission.zip"), archive.sha256, archive.contents, interpreter)
        try:
            return await _run(package, spec, limits or DryRunLimits(), Path(folder))
        except EnvironmentFailure as error:
            return DryRunResult((), f"not run: {error}")


async def _run(package: AgentPackage, spec: DryRunSpec, limits: DryRunLimits, folder: Path) -> DryRunResult:
    environment = SandboxEnvironment(
        EnvironmentSpec(task_name="check", session_id=f"check-{spec.code}", context_dir=TASK)
    )
    model = _AnyAgent()
    async with Relay(ScriptUpstream([model]), allowed_models=(MODEL,)) as relay:
        account = relay.open_run("check", cost_limit_usd=COST_LIMIT_USD)
        variables = {
            "DEEPSEEK_API_KEY": account.token,
            "DEEPSEEK_BASE_URL": account.base_url,
            "LLM_MODEL": MODEL,
            "LLM_COST_LIMIT": f"{COST_LIMIT_USD:g}",
        }
        try:
            await environment.start()
            host = AgentHost(
                package,
                environment=environment,
                logs_dir=folder / "logs",
                variables=variables,
                model_name=MODEL,
                extra={"extra_env": variables},
                limits=AgentLimits(construction_sec=limits.construction_sec),
                task_name="check",
            )
            outcome = await host.run(
                INSTRUCTION, setup_timeout_sec=limits.run_sec, timeout_sec=limits.run_sec
            )
            wrote = (await environment.exec("cat /app/result.txt")).stdout
        finally:
            await environment.stop()
    return _result(outcome, calls=model.calls, solved=(wrote or "").strip() == "done")


def _result(outcome: AgentOutcome, *, calls: int, solved: bool) -> DryRunResult:
    if outcome.kind in _CODES:
        said = outcome.exception_message or outcome.kind
        named = f"{outcome.exception_type}: {said}" if outcome.exception_type else said
        where = "import or construction" if outcome.kind == "construction_failed" else outcome.phase
        return _refused(_CODES[outcome.kind], f"{where}: {_one_line(named)}", _MENDS[outcome.kind])
    did = "wrote the file" if solved else "ended without the file"
    return DryRunResult((), f"ok: {calls} calls of the scripted model, {did}")


def _refused(code: str, message: str, mend: str) -> DryRunResult:
    return DryRunResult((Finding(code, message, mend),))


def _one_line(text: str, most: int = 300) -> str:
    flat = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return flat if len(flat) <= most else flat[: most - 1] + "…"


class _AnyAgent:
    """A scripted model for an agent of any make: one command through a tool that it offers, then the end."""

    name = "check"

    def __init__(self) -> None:
        self.calls = 0

    def matches(self, request: ModelRequest) -> bool:
        return True

    def respond(self, request: ModelRequest) -> Reply:
        self.calls += 1
        answered = any(message.get("role") == "assistant" for message in request.messages)
        call = None if answered else next(_shell_calls(request.payload.get("tools") or ()), None)
        if call is not None:
            return Reply(reasoning="The task asks for a file.", tool_calls=(call,))
        return Reply(reasoning="The file is written.", content="Done: /app/result.txt holds the word done.")


def _shell_calls(tools: Any) -> Iterator[ReplyCall]:
    """A call of each offered tool that takes a command."""
    for number, tool in enumerate(tools):
        function = tool.get("function", {})
        parameters = function.get("parameters") or {}
        properties: Mapping[str, Any] = parameters.get("properties") or {}
        wanted = next((name for name in _COMMAND_PARAMETERS if name in properties), None)
        if wanted is None:
            continue
        as_list = properties[wanted].get("type") == "array"
        required = (name for name in parameters.get("required", ()) if name != wanted)
        arguments = {name: _sample(properties.get(name, {})) for name in required}
        arguments[wanted] = [COMMAND] if as_list else COMMAND
        yield ReplyCall(f"call_check_{number}", str(function.get("name")), json.dumps(arguments))


_SAMPLES: Mapping[str, Literal[1, False, "check"] | tuple[()]] = {
    "integer": 1,
    "number": 1,
    "boolean": False,
    "array": (),
}


def _sample(schema: Mapping[str, Any]) -> Any:
    """A value that the schema of a parameter allows, near enough."""
    if schema.get("enum"):
        return schema["enum"][0]
    return _SAMPLES.get(str(schema.get("type")), "check")
