"""The responses about a job, Terminal-Bench-server's and our own, read from the job's folder."""

from __future__ import annotations

import json
from datetime import datetime
from itertools import dropwhile
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from runner.jobs import JobDirectory, JobError
from runner.jobs.results import StoredJob, read_job
from runner.json_values import JsonObject, as_object, objects_in
from runner.pages.index import UnstartedJob
from runner.pages.trajectory import NoTrajectory, content_text, read_steps
from runner.results import Reason, TrialRecord, regular_file_inside
from runner.results.scoring import JobSummary
from runner.service.store import JobEntry, JobStore, State
from runner.web.errors import ServiceError, disk_full

# Longer contents are cut in their middle. The list of turns is always complete.
MAX_CONTENT_CHARS = 100_000
MAX_OUTPUT_BYTES = 20_000
MAX_LISTED = 100

Role = Literal["system", "user", "assistant", "tool"]
_ROLES: dict[str, Role] = {"system": "system", "user": "user", "agent": "assistant"}


class Turn(BaseModel):
    """One step of the run."""

    step: int
    role: Role
    content: str


class Evaluation(BaseModel):
    """The last step: the verifier's result.

    The first line of `output` is `reward: ` and a number or `none`. Lines about the run may follow
    (`error: …`), and after an empty line the end of the verifier's output.
    """

    step: int
    action: Literal["evaluation"] = "evaluation"
    output: str


class CallStat(BaseModel):
    """Model calls of the run as the relay metered them. The cost is in US dollars.

    If no LLM was called, `model` is `scripted` or `replayed`, and nothing was spent.
    """

    model_config = ConfigDict(protected_namespaces=())

    model: str
    api_calls: int
    total_cost: float


class TaskResponse(BaseModel):
    """The answer to `POST /api/tasks`. `final_answer` is "True" if the reward is 1 or more."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "final_answer": "True",
                    "trajectory": [
                        {"step": 1, "role": "user", "content": "Recover the lost commits."},
                        {"step": 2, "role": "assistant", "content": "shell_command(git reflog)"},
                        {"step": 3, "role": "tool", "content": "d7d3e4b HEAD@{0}: checkout"},
                        {"step": 4, "action": "evaluation", "output": "reward: 1\n\n2 passed in 0.03s"},
                    ],
                    "call_stat": {"model": "deepseek-v4-pro", "api_calls": 2, "total_cost": 0.0031},
                }
            ]
        }
    )

    final_answer: Literal["True", "False"]
    trajectory: list[Turn | Evaluation]
    call_stat: CallStat


class TrialResponse(BaseModel):
    """One attempt at one task."""

    trial: str = Field(examples=["fix-git__k3f9a1x"])
    task: str = Field(examples=["fix-git"])
    attempt: int
    status: Literal["completed", "errored", "cancelled"]
    reward: float | None
    passed: bool
    timed_out: bool
    error: str | None = None
    cost_usd: float | None = None
    seconds: float | None = None
    marks: list[str] = Field(default_factory=list)
    node: str | None = Field(None, description="the machine of a cluster that it ran on")


class JobResponse(BaseModel):
    """A job and, once it has started, its figures. In state `waiting_for_key`, see `error`."""

    id: str = Field(examples=["2026-11-21__05-00-45-k3f9a1"])
    kind: Literal["task", "job"]
    state: State
    place: int | None = Field(None, description="number of queued jobs before this one")
    created_at: str
    started_at: str | None = None
    finished_at: str | None = None
    agent: str = Field(description="the agent's name, or that of its file before it has run")
    model: str = Field(description="where responses come from: live, scripted, replayed", examples=["live"])
    canned: bool = Field(description="no LLM was called: the responses are scripted or replayed")
    model_name: str = Field(examples=["deepseek-v4-pro"])
    attempts: int
    tasks: int
    error: dict[str, str] | None = None
    summary: JobSummary | None = None
    trials: list[TrialResponse] | None = None


def job_response(entry: JobEntry, store: JobStore, *, trials: bool) -> JobResponse:
    """Return the current state of a job, with its trials if asked."""
    stored = _stored_job(entry)
    failed = entry.error_message is not None
    return JobResponse(
        id=entry.id,
        kind=entry.kind,
        state=entry.state,
        place=store.place(entry) if entry.state == "queued" else None,
        created_at=entry.created_at,
        started_at=entry.started_at,
        finished_at=entry.finished_at,
        agent=stored.trials[0].agent.name if stored and stored.trials else Path(entry.config.agent).name,
        model=stored.record.model.label if stored else entry.config.mode.label,
        canned=stored.record.model.canned if stored else entry.config.mode.canned,
        model_name=entry.config.model_name,
        attempts=entry.config.attempts,
        tasks=len(entry.config.tasks),
        error={"code": entry.error_code or "error", "message": entry.error_message or ""} if failed else None,
        summary=stored.record.summary if stored else None,
        trials=[_trial(record) for record in stored.trials] if stored and trials else None,
    )


def unstarted_jobs(store: JobStore, job_id: str | None) -> list[UnstartedJob]:
    """Return the job with this id if it has no folder, or for None such jobs, newest first.

    Those are all that wait, and the newest of those that ended before they began.
    """
    try:
        entries = store.newest(MAX_LISTED) if job_id is None else [store.get(job_id)]
    except KeyError:
        return []
    if job_id is None:
        waiting = store.in_state("queued", "running", "waiting_for_key")
        known = {entry.number: entry for entry in [*waiting, *entries]}
        entries = [known[number] for number in sorted(known, reverse=True)]
    return [
        UnstartedJob(
            name=entry.id,
            state=entry.state,
            agent=Path(entry.config.agent).name,
            model=entry.config.mode.label,
            tasks=tuple(Path(task).name for task in entry.config.tasks),
            attempts=entry.config.attempts,
            created_at=datetime.fromisoformat(entry.created_at).astimezone(),
            place=store.place(entry) if entry.state == "queued" else None,
            problem=entry.error_message,
        )
        for entry in entries
        if not JobDirectory(entry.folder).record.is_file()
    ]


def task_response(entry: JobEntry) -> TaskResponse:
    """Return the answer of Terminal-Bench-server. Raises ServiceError if there is no verdict."""
    if entry.state == "failed":
        message = entry.error_message or "the task could not be run"
        if entry.error_code == "disk_full":
            raise disk_full(message)
        raise ServiceError(502, entry.error_code or "job_failed", message)
    if entry.state == "cancelled":
        raise ServiceError(409, "cancelled", "the task was cancelled")
    stored = _stored_job(entry)
    if stored is None or not stored.trials:
        raise ServiceError(500, "result_missing", f"the folder of job {entry.id} is gone")
    record = stored.trials[0]
    if record.reason_code is Reason.RESULT_MALFORMED:
        raise ServiceError(500, "result_missing", record.error or "the result cannot be read")
    if record.errored and record.agent.ended is None:
        # "False" would be a verdict on a model that was never called.
        code = "model_unreachable" if record.reason_code is Reason.MODEL_UNREACHABLE else "task_failed"
        raise ServiceError(502, code, record.error or "the task could not be run")
    folder = stored.directory.trial(record.trial_name).root
    turns = _turns(entry, record, folder)
    metered = record.metered
    return TaskResponse(
        final_answer="True" if record.passed else "False",
        trajectory=[*turns, Evaluation(step=len(turns) + 1, output=_evaluation(record, folder))],
        call_stat=CallStat(
            model=entry.config.mode.source if record.model.canned else entry.config.model_name,
            api_calls=metered.calls if metered else 0,
            total_cost=metered.cost_usd if metered and not record.model.canned else 0.0,
        ),
    )


def trajectory_file(entry: JobEntry, trial: str) -> Path:
    """Return the path of a trial's trajectory. Raises ServiceError if there is none."""
    path = regular_file_inside(entry.folder, f"{trial}/agent/trajectory.json") if _is_name(trial) else None
    if path is None:
        raise ServiceError(
            404, "trajectory_missing", "this job has no such trial, or it has no trajectory yet"
        )
    return path


def _is_name(text: str) -> bool:
    return bool(text) and "/" not in text and not text.startswith(".") and text.isprintable()


def _stored_job(entry: JobEntry) -> StoredJob | None:
    try:
        return read_job(entry.folder)
    except JobError:
        return None


def _trial(record: TrialRecord) -> TrialResponse:
    return TrialResponse(
        trial=record.trial_name,
        task=record.task_name,
        attempt=record.attempt,
        status=record.status,
        reward=record.reward,
        passed=record.passed,
        timed_out=record.timed_out,
        error=record.error,
        cost_usd=record.metered.cost_usd if record.metered else None,
        seconds=record.seconds,
        marks=record.marks,
        node=record.node,
    )


def _evaluation(record: TrialRecord, folder: Path) -> str:
    reward = "none" if record.reward is None else f"{record.reward:g}"
    lines = [f"reward: {reward}"]
    if record.model.canned:
        lines.append(f"No LLM was called: the responses are {record.model.label.partition(' (')[0]}.")
    if record.error:
        lines.append(f"error: {record.error}")
    if record.metered and record.metered.last_error:
        lines.append(f"error: the last model call failed: {record.metered.last_error}")
    if record.timed_out:
        lines.append("the agent reached its time limit")
    path = regular_file_inside(folder, "verifier/test-stdout.txt")
    if path is not None:
        text = path.read_bytes()[-MAX_OUTPUT_BYTES:].decode("utf-8", "replace")
        lines += ["", text.strip()]
    return "\n".join(lines).strip()


def _turns(entry: JobEntry, record: TrialRecord, folder: Path) -> list[Turn]:
    """Return the agent's trajectory (ATIF) as messages, without its system prompt.

    The first one is the user's, and holds the instruction. An agent without a readable trajectory
    has only that.
    """
    try:
        steps = read_steps(folder)
    except NoTrajectory:
        steps = []
    messages = [message for step in steps for message in step_messages(step)]
    messages = list(dropwhile(lambda message: message[0] == "system", messages))
    if not messages or messages[0][0] != "user":
        messages.insert(0, ("user", _instruction(entry, record)))
    return [
        Turn(step=n, role=role, content=cut(content, MAX_CONTENT_CHARS))
        for n, (role, content) in enumerate(messages, 1)
    ]


def _instruction(entry: JobEntry, record: TrialRecord) -> str:
    if entry.config.instruction is not None:
        return entry.config.instruction
    try:
        return Path(record.task_path, "instruction.md").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def step_messages(step: JsonObject) -> list[tuple[Role, str]]:
    """Return a step's message, with its reasoning and calls, and then the tools' results."""
    texts = [content_text(step.get(name)) for name in ("reasoning_content", "message")]
    parts = [text for text in texts if text]
    for call in objects_in(step.get("tool_calls")):
        try:
            arguments = json.dumps(call.get("arguments"), ensure_ascii=False)
        except RecursionError:
            arguments = "…"
        parts.append(f"{call.get('function_name')}({arguments})")
    role = _ROLES.get(str(step.get("source")), "assistant")
    messages: list[tuple[Role, str]] = [(role, "\n\n".join(parts))]
    for result in objects_in(as_object(step.get("observation")).get("results")):
        messages.append(("tool", content_text(result.get("content"))))
    return messages


def cut(text: str, limit: int) -> str:
    """Return a text without lone surrogates, cut in its middle if it has too many characters."""
    text = text.encode("utf-8", "replace").decode("utf-8")
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters left out …]\n{text[-half:]}"
