"""The help of every command, held against the settings that it describes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command

from runner import __version__
from runner.cli.app import app, main
from runner.config import RunConfig
from runner.config.sources import CONTRACT_VARIABLES, PREFIX, _flags
from runner.service.settings import ServiceSettings

# Defaults that a help text puts into words, because they depend on the machine or the moment.
IN_WORDS = {
    "as cores and memory allow": None,
    "no limit": None,
    "none": None,
    "that of --timeout-multiplier": None,
    "the time": None,
    "false": False,
    "this machine's address in the cluster, a free port": None,
}
# The commands that are about a cluster say which they take where none is set.
ON_CLUSTER = ("CAPSTAN_ON", "ray")


def commands(command: Any, name: str = "capstan") -> Iterator[tuple[str, Any]]:
    """Every command with its subcommands, by the words that call it."""
    yield name, command
    for child, below in getattr(command, "commands", {}).items():
        yield from commands(below, f"{name} {child}")


def described_settings() -> set[tuple[str, str | None]]:
    """Every variable that some help text names, with the default that it gives."""
    found: set[tuple[str, str | None]] = set()
    for _, command in commands(get_command(app)):
        for parameter in command.params:
            text = getattr(parameter, "help", None) or ""
            if match := re.search(r"\[env: (\w+)\](?: \[default: ([^\]]+)\])?", text):
                found.add((match[1], match[2]))
    return found


def actual_settings() -> dict[str, Any]:
    """Every variable that is read, with its default."""
    run = {
        PREFIX + name.upper(): field.get_default(call_default_factory=True)
        for name, field in RunConfig.model_fields.items()
    }
    contract = {
        variable: RunConfig.model_fields[name].default for variable, name in CONTRACT_VARIABLES.items()
    }
    service = {name.upper(): field.default for name, field in ServiceSettings.model_fields.items()}
    return {**run, **contract, **service, "CAPSTAN_CONFIG": "capstan.toml"}


@pytest.mark.parametrize("command", ["run", "serve", "resume", "doctor", "cluster"])
def test_an_error_names_the_flag_as_it_is_written(command: str) -> None:
    for parameter in get_command(app).commands[command].params:  # type: ignore[attr-defined]
        if parameter.name in RunConfig.model_fields:
            (place,) = _flags({parameter.name: "given"}).places.values()
            assert place == (parameter.opts[-1] if parameter.opts[-1] != "tasks" else "TASKS")


@pytest.mark.parametrize(
    ("variable", "default"),
    sorted(described_settings() - {ON_CLUSTER}, key=lambda pair: (pair[0], str(pair))),
)
def test_variables_and_defaults_in_help_are_the_real_ones(variable: str, default: str | None) -> None:
    actual = actual_settings()
    assert variable in actual
    if default is None:
        assert actual[variable] in (None, (), "", {})
    elif default in IN_WORDS:
        assert actual[variable] is IN_WORDS[default]
    else:
        assert default in (str(actual[variable]), str(actual[variable]).removesuffix(".0"))


def test_every_setting_of_a_job_has_a_flag_or_is_left_to_files() -> None:
    """A new setting is either offered by `capstan run` or named here."""
    only_in_files = {"INSTRUCTION", "MODEL_PARAMS", "RETRY_WAIT_SEC", "SETUP_TIMEOUT_SEC", "BASE_URL"}
    by_contract = {PREFIX + CONTRACT_VARIABLES[name].upper() for name in CONTRACT_VARIABLES}
    offered = {variable for variable, _ in described_settings()} | by_contract
    names = {PREFIX + name.upper() for name in RunConfig.model_fields}
    assert names - offered == {PREFIX + name for name in only_in_files} - by_contract


@pytest.mark.parametrize("name", [name for name, _ in commands(get_command(app))])
def test_every_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*name.split()[1:], "--help"]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"Usage: {name}") and "Show this message" in printed


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"capstan {__version__}\n"
