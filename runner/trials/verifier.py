"""Verification to the letter of contracts.md 6: tests in, test.sh run, the reward read."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from runner.environments import Environment, GuardedResult, GuardedRun
from runner.results import Reason
from runner.tasks import Task
from runner.trials.rewards import RewardError, Rewards, read_rewards

LOGS = "/logs/verifier"
TESTS = "/tests"
TEST_SCRIPT = "/tests/test.sh"
OUTPUT = "test-stdout.txt"

PASS_REWARD = 1.0

KEPT_AFTER_TIMEOUT = "reward_kept_after_verifier_timeout"
TAMPERED = "tampered"
NO_NETWORK = "verifier_without_network"

# The messages of uv, pip, apt, curl, wget, git and npm where a name does not resolve or no route is there.
_NO_NETWORK = re.compile(
    rb"could not resolve host|temporary failure (resolving|in name resolution)|name or service not known"
    rb"|failed to lookup address|dns error|network is unreachable|nodename nor servname|bad address '"
    rb"|unable to resolve host address|EAI_AGAIN|no route to host",
    re.IGNORECASE,
)
_SCANNED_BYTES = 4 << 20

NETWORK_NOTE = (
    "the verifier wanted a network and this task has none: put what test.sh fetches into the image, "
    "or let the task opt in with [environment] allow_internet = true"
)


@dataclass(frozen=True)
class Verdict:
    """What verification gave.

    `rewards` None means that there is no reward; then `reason`, `error_type` (Harbor's name) and `error` (one
    line) say why. They are set beside rewards, too, where the verifier's clock ran out after the reward had
    been written. `exit_code` is test.sh's own and decides nothing. `guard` says how the reward was protected
    (see `runner.environments.GuardedResult`).
    """

    rewards: Rewards | None = None
    reason: Reason | None = None
    error_type: str | None = None
    error: str | None = None
    exit_code: int | None = None
    guard: str | None = None
    marks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """A reward of 1 or more."""
        return self.rewards is not None and self.rewards.score >= PASS_REWARD


class Verifier:
    """The verifier of one trial. `folder` is the trial's `verifier/`, where /logs/verifier is brought."""

    def __init__(
        self,
        task: Task,
        environment: Environment,
        folder: Path,
        *,
        timeout_sec: float,
        env: Mapping[str, str],
        log: Callable[[str], None],
    ) -> None:
        self._task = task
        self._environment = environment
        self._folder = folder
        self._timeout_sec = timeout_sec
        self._env = dict(env)
        self._log = log

    async def run(self) -> Verdict:
        """Copy the tests in, run them, read the reward.

        Raises EnvironmentLost (and other errors of the environment) where the container cannot be reached;
        all that the tests themselves do wrong is in the verdict.
        """
        result = await self._run_tests()
        if result.findings:
            # Watched, not protected: whose reward this is can no longer be told, so it does not count.
            return Verdict(
                reason=Reason.RESULT_INVALID,
                error_type="TamperedVerificationError",
                error="the tests or the reward were changed from outside while the tests ran",
                exit_code=result.return_code,
                guard=result.guard,
                marks=(TAMPERED,),
                notes=result.findings,
            )
        return self._verdict(result, [], [])

    async def _run_tests(self) -> GuardedResult:
        self._folder.mkdir(parents=True, exist_ok=True)
        verifier = self._task.config.verifier
        guarded = GuardedRun(
            command=f"({TEST_SCRIPT}) > {LOGS}/{OUTPUT} 2>&1",
            upload={TESTS: self._task.tests_dir},
            collect={LOGS: self._folder},
            executable=(TEST_SCRIPT,),
            env=self._env,
            user=verifier.user,
            timeout_sec=self._timeout_sec,
        )
        result = await self._environment.exec_guarded(guarded)
        if result.timed_out:
            self._log(f"test.sh was still running after {self._timeout_sec:g} s and was stopped")
        else:
            self._log(f"test.sh ended with exit code {result.return_code} (guard: {result.guard})")
        return result

    def _verdict(self, result: GuardedResult, marks: list[str], notes: list[str]) -> Verdict:
        rewards: Rewards | None = None
        failure: RewardError | None = None
        try:
            rewards = read_rewards(self._folder)
        except RewardError as error:
            failure = error
        failed = rewards is None or rewards.score < PASS_REWARD
        isolated = self._task.config.environment.network == "none"
        if failed and isolated and _wanted_network(self._folder / OUTPUT):
            marks.append(NO_NETWORK)
            notes.append(NETWORK_NOTE)
        reason = failure.reason if failure else None
        error_type = failure.kind if failure else None
        message = str(failure) if failure else None
        if result.timed_out:
            reason, error_type = Reason.VERIFIER_TIMEOUT, "VerifierTimeoutError"
            message = f"the tests were still running at their time limit ({self._timeout_sec:g} s)"
            if rewards is not None:
                marks.append(KEPT_AFTER_TIMEOUT)
                notes.append(f"{message}; the reward they had written by then counts")
        elif failure is not None and result.return_code in (126, 127):
            message = (
                f"{message} (test.sh could not run: exit code {result.return_code}; see verifier/{OUTPUT})"
            )
        return Verdict(
            rewards=rewards,
            reason=reason,
            error_type=error_type,
            error=message,
            exit_code=result.return_code,
            guard=result.guard,
            marks=tuple(marks),
            notes=tuple(notes),
        )


def _wanted_network(test_output: Path) -> bool:
    """Return whether the tests' output says that a name or host could not be reached."""
    if test_output.is_symlink() or not test_output.is_file():
        return False
    with test_output.open("rb") as stream:
        return _NO_NETWORK.search(stream.read(_SCANNED_BYTES)) is not None
