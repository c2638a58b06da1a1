"""The sources of settings, and the errors of wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from runner.config import ConfigError, Origin, RunConfig, load_config, parse_model_mode


def test_flags_win_over_environment_over_dotenv_over_file_over_defaults(tmp_path: Path) -> None:
    (tmp_path / "capstan.toml").write_text('attempts = 2\nrules = "harbor"\nmax_retries = 7\nlimit = 9\n')
    (tmp_path / ".env").write_text("CAPSTAN_ATTEMPTS=3\nCAPSTAN_RULES=validator\nCAPSTAN_MAX_RETRIES=8\n")
    environ = {"CAPSTAN_ATTEMPTS": "4", "CAPSTAN_RULES": "harbor"}
    resolved = load_config({"attempts": 5, "limit": None}, environ=environ, directory=tmp_path)
    config, origins = resolved.config, resolved.origins
    assert (config.attempts, origins["attempts"]) == (5, Origin.FLAG)
    assert (config.rules, origins["rules"]) == ("harbor", Origin.ENVIRONMENT)
    assert (config.max_retries, origins["max_retries"]) == (8, Origin.DOTENV)
    assert (config.limit, origins["limit"]) == (9, Origin.FILE)
    assert (config.setup_timeout_sec, origins["setup_timeout_sec"]) == (360.0, Origin.DEFAULT)


def test_the_validators_own_variables_are_read(tmp_path: Path) -> None:
    environ = {
        "LLM_MODEL": "deepseek-v4-pro",
        "LLM_COST_LIMIT": "2.5",
        "DEEPSEEK_BASE_URL": "http://127.0.0.1:1",
        "DEEPSEEK_API_KEY": " sk-secret ",
    }
    resolved = load_config(environ=environ, directory=tmp_path)
    assert resolved.config.cost_limit_usd == 2.5
    assert resolved.config.base_url == "http://127.0.0.1:1"
    assert resolved.secrets.api_key is not None
    assert resolved.secrets.api_key.get_secret_value() == "sk-secret"
    assert "sk-secret" not in repr(resolved) + resolved.config.model_dump_json()


def test_the_key_is_read_from_dotenv(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text('DEEPSEEK_API_KEY="sk-dotenv"\n')
    resolved = load_config(environ={}, directory=tmp_path)
    assert resolved.secrets.api_key is not None and resolved.key_origin is Origin.DOTENV


def test_lists_are_split_at_commas(tmp_path: Path) -> None:
    resolved = load_config(environ={"CAPSTAN_TASKS": "a, b ,"}, directory=tmp_path)
    assert resolved.config.tasks == ("a", "b")


@pytest.mark.parametrize(
    ("environ", "file", "message"),
    [
        ({"CAPSTAN_ATTEMPTS": "many"}, "", "environment variable CAPSTAN_ATTEMPTS"),
        ({"LLM_COST_LIMIT": "-1"}, "", "LLM_COST_LIMIT"),
        ({"CAPSTAN_MODEL": "gpt"}, "", "must be live, record:FILE, replay:FILE or script:PATH"),
        ({"DEEPSEEK_BASE_URL": "ftp://x"}, "", "must start with http"),
        ({"CAPSTAN_JOB_NAME": "../x"}, "", "CAPSTAN_JOB_NAME"),
        ({}, "attempts = 0", "capstan.toml: attempts"),
        ({}, "attemps = 1", "unknown setting attemps"),
        ({}, 'api_key = "x"', "secrets belong in the environment or in .env"),
        ({}, "attempts =", "not valid TOML"),
        ({"CAPSTAN_CONFIG": "/nowhere.toml"}, "", "no such config file"),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_its_place(
    tmp_path: Path, environ: dict[str, str], file: str, message: str
) -> None:
    if file:
        (tmp_path / "capstan.toml").write_text(file)
    with pytest.raises(ConfigError) as caught:
        load_config(environ=environ, directory=tmp_path)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_model_modes() -> None:
    assert not parse_model_mode("live").canned
    script = parse_model_mode("script:examples/scripts")
    assert script.canned and script.label == "scripted (examples/scripts)"
    assert parse_model_mode("record:a:b.jsonl").path == Path("a:b.jsonl")
    for wrong in ("", "live:x", "script:", "replay", "other:x"):
        with pytest.raises(ValueError, match="must be live"):
            parse_model_mode(wrong)


def test_the_identity_of_a_job_excludes_its_folder_and_concurrency() -> None:
    one = RunConfig(tasks=("t",), concurrency=1, jobs_dir="a", job_name="x")
    two = RunConfig(tasks=("t",), concurrency=9, jobs_dir="b", job_name="y")
    assert one.identity_digest() == two.identity_digest()
    assert one.identity_digest() != RunConfig(tasks=("t",), attempts=2).identity_digest()


def test_a_phase_has_its_own_multiplier_or_the_general_one() -> None:
    config = RunConfig(timeout_multiplier=2, agent_timeout_multiplier=3)
    assert (config.multiplier("agent"), config.multiplier("verifier")) == (3, 2)
