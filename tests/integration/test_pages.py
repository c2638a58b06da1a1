"""The pages in a real browser (Debian's chromium), with jobs of the scripted model."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright

from runner.pages.report import make_report
from tests.needs import TASK_ENVIRONMENT, program
from tests.runner.job_helpers import write_agent, write_task
from tests.runner.pages.report_helpers import (
    clean_environ,
    model_call,
    run_real_job,
    running_viewer,
    write_job,
)
from tests.runner.pages.test_report_pages import HOSTILE

pytestmark = pytest.mark.timeout(180)

# An agent that takes its time, so that a page can follow it.
SLOW = """
import json
steps = []
for number in range(1, 5):
    await environment.exec("sleep 1.5")
    steps.append({"step_id": number, "source": "agent", "message": f"slow step {number}"})
    trajectory = {"schema_version": "ATIF-v1.8", "steps": steps}
    (self.logs_dir / "trajectory.json").write_text(json.dumps(trajectory))
await environment.exec("touch /app/done")
return "done"
"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = program("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run two jobs with different agents, and write one with hostile content."""
    folder = tmp_path_factory.mktemp("jobs")
    some = ("--task", "sales-report", "--task", "repair-config")
    run_real_job(folder, *some, "-k", "2", "--job-name", "capstan")
    run_real_job(folder, *some, "--agent", "nop", "--model", "live", "--job-name", "nop")
    steps = [
        model_call(number, text, text, reasoning_content=text, source=text[:20] or "agent")
        for number, text in enumerate(HOSTILE, 1)
    ]
    record = {"error": HOSTILE[0], "status": "errored", "reward": None, "notes": HOSTILE[:9]}
    write_job(folder / "hostile", HOSTILE[:5], steps=steps, record=record, output="".join(HOSTILE[:9]))
    return folder


@pytest.fixture(scope="module")
def url(jobs: Path) -> Iterator[str]:
    with running_viewer("-o", jobs) as url:
        yield url


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """Open a page. An error in the browser, such as a refused script, fails the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    errors: list[str] = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("dialog", lambda dialog: errors.append(f"dialog: {dialog.message}"))
    yield page
    context.close()
    assert errors == []


def open_trial(page: Page, url: str, job: str = "capstan") -> None:
    page.goto(f"{url}/jobs/{job}")
    page.get_by_role("region", name="Trials").get_by_role("link").first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("attempt 1")


def test_a_finished_job_is_opened_from_the_list(page: Page, url: str) -> None:
    page.goto(url)
    page.get_by_role("link", name="capstan", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("capstan")
    expect(page.get_by_role("note")).to_contain_text("No LLM was called.")
    rewards = page.get_by_role("region", name="Rewards by task")
    expect(rewards.get_by_role("row", name=re.compile("sales-report"))).to_contain_text("passed, attempt 2")
    expect(page.get_by_role("img", name=re.compile("Reward against cost"))).to_be_visible()
    rewards.get_by_role("link", name=re.compile("attempt 1 at sales-report")).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("sales-report, attempt 1")
    expect(page.get_by_role("heading", name="Verifier")).to_be_visible()
    expect(page.get_by_text("2024-01.csv: OK")).to_be_visible()
    with page.expect_download() as download:
        page.get_by_role("link", name="agent/trajectory.json").click()
    assert download.value.suggested_filename == "trajectory.json"


def test_j_and_k_move_through_the_steps(page: Page, url: str) -> None:
    page.goto(f"{url}/jobs/capstan")
    page.get_by_role("link", name=re.compile("attempt 1 at sales-report")).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("sales-report, attempt 1")
    page.wait_for_load_state()
    for key, step in (("j", 1), ("j", 2), ("j", 3), ("k", 2), ("k", 1), ("k", 1)):
        page.keyboard.press(key)
        focused = page.locator(":focus")
        expect(focused).to_have_id(f"step-{step}")
        expect(focused).to_be_in_viewport()
    for _ in range(3):
        page.keyboard.press("j")
    reasoning = page.locator("#step-4-reasoning")
    expect(reasoning).not_to_have_attribute("open", "")
    page.keyboard.press("o")
    expect(reasoning).to_have_attribute("open", "")


def test_search_finds_and_opens_steps(page: Page, url: str) -> None:
    page.goto(f"{url}/jobs/capstan")
    page.get_by_role("link", name=re.compile("attempt 1 at sales-report")).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("sales-report, attempt 1")
    page.wait_for_load_state()  # with the script, which handles the keys
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.type("quoted decimal commas")
    expect(page.locator("#found")).to_have_text("1 step found")
    expect(page.get_by_text("quoted decimal commas").first).to_be_visible()
    page.keyboard.press("Enter")
    expect(page.locator(":focus")).to_have_class(re.compile("is-found"))
    page.keyboard.press("/")
    page.keyboard.press("Escape")
    expect(page.locator(".is-found")).to_have_count(0)
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog", name="Keys")).not_to_be_visible()


def test_two_jobs_are_compared(page: Page, url: str) -> None:
    page.goto(f"{url}/jobs/capstan")
    page.get_by_label("Compare with").select_option("nop")
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_role("heading", level=2)).to_have_text("2 of 2 results changed")
    row = page.get_by_role("region", name="Results of both jobs").get_by_role(
        "row", name=re.compile("sales-report 1")
    )
    expect(row).to_contain_text("changed")
    page.get_by_label("Second").select_option("capstan")
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_text("none: the steps are the same").first).to_be_visible()


def test_running_job_is_followed_to_its_end(page: Page, tmp_path: Path) -> None:
    write_task(tmp_path / "tasks" / "easy")
    write_agent(tmp_path / "agent", SLOW)
    command = [sys.executable, "-m", "runner", "run", "tasks", "--agent", "agent", "--env", TASK_ENVIRONMENT]
    command += [
        "--model",
        f"script:{Path(__file__).parents[2] / 'examples' / 'scripts'}",
        "--job-name",
        "slow",
    ]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=clean_environ(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        (tmp_path / "jobs").mkdir(exist_ok=True)
        with running_viewer("-o", tmp_path / "jobs") as url:
            page.goto(url)
            for _ in range(100):
                if page.get_by_role("link", name="slow").count():
                    break
                page.wait_for_timeout(100)
                page.reload()
            page.get_by_role("link", name="slow").click()
            page.get_by_role("region", name="Trials").get_by_role("link").click()
            page.evaluate("window.same = 1")  # lost if the page is reloaded
            expect(page.get_by_text("slow step 1")).to_be_visible(timeout=20_000)
            expect(page.locator("main .is-running")).to_be_visible()
            page.locator("#step-1").focus()
            expect(page.get_by_text("slow step 3")).to_be_visible(timeout=20_000)
            expect(page.locator(":focus")).to_have_id("step-1")
            expect(page.locator("main .is-passed")).to_be_visible(timeout=30_000)
            expect(page.locator("main")).not_to_have_attribute("data-live", "")
            assert page.evaluate("window.same") == 1
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.parametrize("number", range(5))
def test_agent_output_is_never_executed(page: Page, url: str, number: int) -> None:
    page.goto(f"{url}/jobs/hostile")
    page.get_by_role("region", name="Trials").get_by_role("link").nth(number).click()
    expect(page.locator(".step").first).to_be_visible()
    for summary in page.locator("summary").all()[:20]:
        summary.click()
    page.goto(f"{url}/compare?a=hostile&b=capstan")
    page.wait_for_load_state()
    assert page.evaluate("window.hacked") is None


def test_a_report_opens_from_the_disk(page: Page, jobs: Path, tmp_path: Path) -> None:
    for name in ("capstan", "hostile"):
        (tmp_path / f"{name}.html").write_text(make_report(jobs / name), encoding="utf-8")
        page.goto((tmp_path / f"{name}.html").as_uri())
        expect(page.get_by_role("heading", level=1)).to_have_text(name)
        page.get_by_role("region", name="Trials").get_by_role("link").first.click()
        expect(page.locator("details.trial").first).to_have_attribute("open", "")
        page.keyboard.press("j")
        expect(page.locator(":focus")).to_have_class(re.compile("step"))
        assert page.evaluate("window.hacked") is None
    page.goto((tmp_path / "capstan.html").as_uri())
    page.keyboard.press("/")
    page.keyboard.type("quoted decimal commas")
    expect(page.locator("#found")).to_have_text("2 steps found")


PAGES = (
    "/",
    "/jobs/capstan",
    "/jobs/hostile",
    "trial",
    "hostile-trial",
    "/compare?a=capstan&b=nop",
    "/nothing",
    "report",
)


def goto(page: Page, url: str, jobs: Path, tmp_path: Path, place: str) -> None:
    if place == "report":
        (tmp_path / "report.html").write_text(make_report(jobs / "capstan"), encoding="utf-8")
        page.goto((tmp_path / "report.html").as_uri())
        page.locator("details.trial").first.evaluate("trial => { trial.open = true }")
    elif place == "trial":
        open_trial(page, url)
    elif place == "hostile-trial":
        page.goto(f"{url}/jobs/hostile/trials/trial-0-1__abcdefg")
    else:
        page.goto(url + place)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("place", PAGES)
def test_axe_finds_nothing_serious(
    browser: Browser, url: str, jobs: Path, tmp_path: Path, place: str, scheme: Literal["light", "dark"]
) -> None:
    # The pages' policy refuses foreign scripts such as axe. Only this context admits them.
    context = browser.new_context(color_scheme=scheme, bypass_csp=True)
    page = context.new_page()
    goto(page, url, jobs, tmp_path, place)
    violations = Axe().run(page).response["violations"]
    serious = [
        (v["id"], v["nodes"][0]["html"][:200]) for v in violations if v["impact"] in ("serious", "critical")
    ]
    context.close()
    assert serious == []


@pytest.mark.parametrize("width", [400, 1600])
@pytest.mark.parametrize("place", PAGES)
def test_no_page_is_wider_than_the_window(
    browser: Browser, url: str, jobs: Path, tmp_path: Path, place: str, width: int
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 900})
    page = context.new_page()
    goto(page, url, jobs, tmp_path, place)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    context.close()
