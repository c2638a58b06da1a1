"""Run a job for the command line: signals, progress, tables and the result line."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from types import FrameType

from runner.cli.common import EXIT_INTERRUPTED, ResultLineOnce, print_json, warn
from runner.config import ConfigError, RunConfig, Secrets
from runner.environments import DockerSettings
from runner.executors.open import open_executor
from runner.jobs import Job, JobHost, create_job, resume_job
from runner.jobs.events import JobObserver
from runner.results import Reason
from runner.results.scoring import JobSummary, failed_line

_OpenJob = Callable[[JobObserver], AbstractAsyncContextManager[Job]]

# timeout(1) signals the program and then its group. Two signals within this time count as one.
SAME_SIGNAL_SEC = 1.0


def run_new_job(config: RunConfig, secrets: Secrets, line: ResultLineOnce, *, as_json: bool) -> int:
    """Run a new job and return the exit code."""
    return _run(lambda observer: create_job(config, secrets, _host(), observer), line, as_json=as_json)


def run_resumed_job(
    path: Path, secrets: Secrets, line: ResultLineOnce, *, changes: Mapping[str, object], as_json: bool
) -> int:
    """Resume a job and return the exit code. `changes` are settings that differ from before."""
    return _run(
        lambda observer: resume_job(path, secrets, _host(), observer, changes=changes),
        line,
        as_json=as_json,
    )


def _host() -> JobHost:
    try:
        return JobHost(open_executor=open_executor, docker=DockerSettings.from_environment(os.environ))
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _run(open_job: _OpenJob, line: ResultLineOnce, *, as_json: bool) -> int:
    # Until the event loop has handlers of its own, SIGTERM must end the program with a result line
    # as well.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return asyncio.run(_session(open_job, line, as_json=as_json))


async def _session(open_job: _OpenJob, line: ResultLineOnce, *, as_json: bool) -> int:
    from runner.cli.progress import make_observer

    observer = make_observer(as_json=as_json)
    job: Job | None = None
    summary: JobSummary | None = None

    def print_verdict() -> None:
        observer.close()
        planned = 0 if job is None else job.results.n_total
        line.print(failed_line(Reason.CANCELLED, total=planned))

    with _interruptible(print_verdict):
        try:
            async with open_job(observer) as job:
                summary = await job.run()
        except asyncio.CancelledError:
            if job is None:
                print_verdict()
                return EXIT_INTERRUPTED
        assert job is not None
        return _report(job, summary, line, as_json=as_json)


def _report(job: Job, summary: JobSummary | None, line: ResultLineOnce, *, as_json: bool) -> int:
    """Print the tables or JSON, and the result line. `summary` is None for an interrupted job."""
    from runner.cli.tables import print_job, shown_path

    interrupted = summary is None
    figures = summary or job.results.summary()
    directory = job.context.directory.root
    if as_json:
        from runner.cli.show import job_document

        print_json(job_document(directory))
    else:
        print_job(directory, sys.stdout)
        if interrupted:
            sys.stdout.write(f"Interrupted. Continue with: capstan resume {shown_path(directory)}\n")
    result = figures.result
    if interrupted and result.status == "completed":
        result = failed_line(Reason.CANCELLED, total=result.total)
    line.print(result)
    if interrupted:
        return EXIT_INTERRUPTED
    return 0 if result.status == "completed" else 1


def _exit_at_once(number: int, frame: FrameType | None) -> None:
    os._exit(EXIT_INTERRUPTED)


@contextlib.contextmanager
def _interruptible(print_verdict: Callable[[], None]):
    """Cancel this task at the first SIGINT or SIGTERM, and exit at once at a later one.

    Args:
        print_verdict: Called before that exit.
    """
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    asked_at: float | None = None

    def stop() -> None:
        nonlocal asked_at
        if asked_at is not None:
            if loop.time() - asked_at < SAME_SIGNAL_SEC:
                return
            print_verdict()
            os._exit(EXIT_INTERRUPTED)
        asked_at = loop.time()
        warn("stopping: ending trials and removing their environments (interrupt again to exit at once)")
        task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
            if asked_at is not None:  # the process is about to end, with the same exit code
                signal.signal(number, _exit_at_once)
