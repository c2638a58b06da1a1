"""The pages over HTTP: their content, and that agents' output is escaped."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import httpx
import pytest

from runner.jobs.results import read_job
from runner.pages.plots import context_size, reward_against_cost, time_by_phase
from runner.pages.render import render
from runner.pages.report import make_report
from runner.pages.views import job_page, trial_page
from tests.runner.pages.report_helpers import clean_environ, model_call, running_viewer, write_job

HOSTILE = [
    "<script>window.hacked=1</script>",
    '"><img src=x onerror="window.hacked=1">',
    "'><svg onload=window.hacked=1>",
    "</script><script>window.hacked=1</script>",
    "</pre></main></body><script>window.hacked=1</script>",
    "javascript:window.hacked=1",
    "{{ 7 * 7 }}{% raw %}",
    "\x1b[31mred\x1b[0m \x1b]0;title\x07",
    "\u202e gnp.exe \u2066",
    "NUL\x00 \ud800 lone",
    "a" * 1_000_000,
]


class ParsedPage(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def links(self) -> list[str]:
        return [value for tag, attrs in self.tags if tag == "a" and (value := attrs.get("href"))]


def check_harmless(page: str, *, scripts: int = 1) -> None:
    """Check that a page has no tags, handlers or addresses but its own."""
    parsed = ParsedPage(page)
    tags = [tag for tag, _ in parsed.tags]
    assert tags.count("script") == scripts and "img" not in tags and "iframe" not in tags
    for tag, attrs in parsed.tags:
        assert not [name for name in attrs if name.startswith("on")], (tag, attrs)
        for name in ("href", "src", "action"):
            value = attrs.get(name)
            assert value is None or value.startswith(("/", "#", "data:,")), (tag, value)
    for character in ("\x1b", "\u202e", "\u2066", "\x00"):
        assert character not in page


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    jobs = tmp_path_factory.mktemp("jobs")
    steps: list[dict[str, Any]] = [{"source": "user", "message": "Do it."}]
    steps += [model_call(number, f"step {number}", f"output {number}") for number in range(1, 6)]
    mark = {
        "context_management": {
            "type": "compaction",
            "strategy": "prune",
            "tokens_before": 9000,
            "tokens_after": 400,
        }
    }
    steps.insert(4, {"source": "system", "message": "Old outputs were cleared.", "extra": mark})
    write_job(jobs / "first", ("alpha", "beta"), attempts=2, steps=steps, output="all tests passed\n")
    other = [*steps[:3], model_call(9, "another way", "other output"), *steps[4:]]
    write_job(
        jobs / "second",
        ("alpha", "gamma"),
        steps=other,
        record={"passed": False, "reward": 0.0, "timed_out": True},
    )
    write_job(
        jobs / "hostile",
        HOSTILE[:5],
        steps=[
            model_call(number, text, text, reasoning_content=text, source=text[:20] or "agent")
            for number, text in enumerate(HOSTILE, 1)
        ],
        record={
            "error": HOSTILE[0],
            "error_type": HOSTILE[1],
            "notes": HOSTILE[:9],
            "status": "errored",
            "reward": None,
        },
        output="".join(HOSTILE[:9]),
    )
    return jobs


@pytest.fixture(scope="module")
def pages(folder: Path):
    with running_viewer("-o", folder) as url, httpx.Client(base_url=url, timeout=30) as client:
        yield client


def test_list_has_every_job_and_labels_scripted_ones(pages: httpx.Client) -> None:
    page = ParsedPage(pages.get("/").text)
    assert {"/jobs/first", "/jobs/second", "/jobs/hostile"} <= set(page.links())
    assert "scripted" in page.text and "4 / 4" not in page.text and "2 / 4" in page.text


def test_job_page_has_rewards_plots_and_the_no_llm_notice(pages: httpx.Client) -> None:
    response = pages.get("/jobs/first")
    page = ParsedPage(response.text)
    text = re.sub(r"\s+", " ", page.text)
    for words in (
        "alpha",
        "beta",
        "Attempt 1",
        "Attempt 2",
        "passed",
        "not passed",
        "pass@1",
        "Cost",
        "$0.1000",
        "50%",
    ):
        assert words in text, words
    assert "No LLM was called." in text
    for title in ("Reward against cost", "Time by phase"):
        assert f">{title}</title>" in response.text


def test_timed_out_and_errored_are_labelled(pages: httpx.Client) -> None:
    assert "timed out" in ParsedPage(pages.get("/jobs/second").text).text
    assert "errored" in ParsedPage(pages.get("/jobs/hostile").text).text


def test_trial_page_has_steps_tokens_cost_and_compactions(pages: httpx.Client) -> None:
    response = pages.get("/jobs/first/trials/trial-0-1__abcdefg")
    page = ParsedPage(response.text)
    text = re.sub(r"\s+", " ", page.text)
    assert [
        attrs["id"]
        for tag, attrs in page.tags
        if tag == "li" and "step" in (attrs.get("class") or "").split()
    ] == [f"step-{number}" for number in range(1, 8)]
    for words in (
        "output 5",
        "2,000 in (1,000 cached), 20 out, $0.0010",
        "context pruned: 9,000 → 400 tokens",
        "all tests passed",
    ):
        assert words in text, words
    assert ">Size of the context</title>" in response.text and "pruned 1 time" in response.text
    assert "Reasoning" in text and '<details id="step-3-reasoning">' in response.text


def test_files_are_downloads(pages: httpx.Client, folder: Path) -> None:
    page = ParsedPage(pages.get("/jobs/first/trials/trial-0-1__abcdefg").text)
    (link,) = [link for link in page.links() if link.endswith("trajectory.json")]
    response = pages.get(link)
    assert response.headers["content-type"] == "application/octet-stream"
    assert response.headers["content-disposition"].startswith("attachment")
    assert (
        response.content
        == (folder / "first" / "trial-0-1__abcdefg" / "agent" / "trajectory.json").read_bytes()
    )


def test_comparison_shows_changed_results_and_the_first_difference(pages: httpx.Client) -> None:
    page = ParsedPage(pages.get("/compare", params={"a": "first", "b": "second"}).text)
    text = re.sub(r"\s+", " ", page.text)
    assert "1 of 1 results changed" in text and "step 4" in text and "only in one" in text
    assert "/jobs/first/trials/trial-0-1__abcdefg#step-4" in page.links()
    same = ParsedPage(pages.get("/compare", params={"a": "first", "b": "first"}).text).text
    assert "0 of 4 results changed" in same and "none: the steps are the same" in same


@pytest.mark.parametrize(
    "path", ["/", "/jobs/hostile", "/compare?a=hostile&b=hostile", "/jobs/%3Cscript%3E", "/compare?a=%22%3E"]
)
def test_agent_output_is_escaped(pages: httpx.Client, path: str) -> None:
    response = pages.get(path)
    check_harmless(response.text)
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("number", range(5))
def test_agent_output_is_escaped_on_trial_pages(pages: httpx.Client, number: int) -> None:
    response = pages.get(f"/jobs/hostile/trials/trial-{number}-1__abcdefg")
    assert response.status_code == 200
    check_harmless(response.text)
    assert "&lt;script&gt;window.hacked" in response.text and "{{ 7 * 7 }}" in response.text
    assert "⟨U+202E⟩" in response.text and "characters left out" in response.text
    assert len(response.text) < 700_000


@pytest.mark.parametrize(
    "path",
    [
        "/jobs/%2e%2e",
        "/jobs/..%2f..%2fetc",
        "/jobs/first%00",
        "/jobs/.service",
        "/jobs/first/trials/nothing",
        "/jobs/first/trials/trial-0-1__abcdefg/files/../../../lock.json",
        "/jobs/first/trials/trial-0-1__abcdefg/files/%2e%2e/%2e%2e/lock.json",
        "/jobs/first/trials/trial-0-1__abcdefg/files//etc/passwd",
        "/jobs/first/trials/%2e%2e/files/second/lock.json",
        "/jobs/first/trials/trial-0-1__abcdefg/files/agent",
        "/static/../web.py",
        "/static/%2e%2e%2fweb.py",
        "/nothing",
    ],
)
def test_names_cannot_leave_the_folder(pages: httpx.Client, path: str) -> None:
    request = pages.build_request("GET", "/")
    request.url = request.url.copy_with(raw_path=path.encode())
    response = pages.send(request)
    assert response.status_code == 404
    check_harmless(response.text)


def test_links_are_not_followed(tmp_path: Path) -> None:
    job = write_job(tmp_path / "jobs" / "job", steps=[model_call(1, "a", "b")])
    (tmp_path / "secret").write_text("the secret")
    trial = job / "trial-0-1__abcdefg"
    (trial / "agent" / "trajectory.json").unlink()
    (trial / "agent" / "trajectory.json").symlink_to(tmp_path / "secret")
    (trial / "agent" / "link").symlink_to(tmp_path)
    (trial / "verifier" / "test-stdout.txt").unlink()
    (trial / "verifier" / "test-stdout.txt").symlink_to(tmp_path / "secret")
    with running_viewer("-o", job.parent) as url:
        base = f"{url}/jobs/job/trials/trial-0-1__abcdefg"
        page = httpx.get(base).text
        assert "the secret" not in page and "agent/link" not in page
        assert httpx.get(f"{base}/files/agent/link/secret").status_code == 404
        assert httpx.get(f"{base}/files/agent/trajectory.json").status_code == 404


@pytest.mark.parametrize(
    "written",
    [
        b"",
        b"no json",
        b"[]",
        b'{"steps": 7}',
        b'{"steps": [1, null, {"source": 3, "tool_calls": {"a": 1}, "metrics": [], "observation": "x"}]}',
        b'{"steps": [{"metrics": {"prompt_tokens": "x", "cost_usd": 9e999}, "tool_calls": [3]}]}',
        b'{"steps": [{"message": [{"type": "text", "text": "part"}, {"type": "image"}]}]}',
        b"[" * 100_000,
        b'{"steps": [{"message": "\\ud800"}]}',
        b"\xff\xfe",
    ],
)
def test_invalid_trajectory_is_not_an_error(tmp_path: Path, written: bytes) -> None:
    job = write_job(tmp_path / "job")
    (job / "trial-0-1__abcdefg" / "agent" / "trajectory.json").write_bytes(written)
    page = render("trial.html", api=False, trial=trial_page(job, "trial-0-1__abcdefg"))
    check_harmless(page)
    page.encode()


def test_running_job_is_live_and_shows_phases(tmp_path: Path) -> None:
    job = write_job(tmp_path / "jobs" / "job", ("a", "b", "c"), ended=1, status="running")
    (job / "trial-1-1__abcdefg" / "agent").mkdir(parents=True)
    (job / "trial-1-1__abcdefg" / "trial.log").write_text("phase: environment\nphase: agent\n")
    with running_viewer("-o", job.parent) as url:
        page = httpx.get(f"{url}/jobs/job").text
        assert "data-live" in page and "running: agent" in re.sub(r"\s+", " ", ParsedPage(page).text)
        assert "waiting" in ParsedPage(page).text
        assert "data-live" in httpx.get(f"{url}/jobs/job/trials/trial-1-1__abcdefg").text
        assert "data-live" not in httpx.get(f"{url}/jobs/job/trials/trial-0-1__abcdefg").text


def test_pages_name_the_node_of_each_trial(tmp_path: Path) -> None:
    job = write_job(tmp_path / "jobs" / "job", ("a", "b"), ended=1, status="running", record={"node": "vm-1"})
    (job / "trial-1-1__abcdefg" / "agent").mkdir(parents=True)
    stored = json.loads((job / "capstan.json").read_text())
    (job / "capstan.json").write_text(json.dumps({**stored, "nodes": {"trial-1-1__abcdefg": "vm-2"}}))
    page = ParsedPage(render("job.html", api=False, job=job_page(job), names=["job"])).text
    assert "Node" in page and "vm-1" in page and "vm-2" in page
    for number, node in enumerate(("vm-1", "vm-2")):
        trial = trial_page(job, f"trial-{number}-1__abcdefg")
        assert node in ParsedPage(render("trial.html", api=False, trial=trial)).text
    here = job_page(write_job(tmp_path / "jobs" / "here"))
    assert "Node" not in ParsedPage(render("job.html", api=False, job=here, names=["here"])).text


def test_unreadable_job_is_listed_with_its_problem(tmp_path: Path) -> None:
    (tmp_path / "jobs" / "broken").mkdir(parents=True)
    (tmp_path / "jobs" / "broken" / "capstan.json").write_text("{")
    with running_viewer("-o", tmp_path / "jobs") as url:
        assert "cannot be read" in httpx.get(url).text
        assert httpx.get(f"{url}/jobs/broken").status_code == 404


@pytest.mark.parametrize("broken", [b"{", b"", b'{"trial_name": 7}', b"\xff\xfe"])
def test_one_unreadable_record_hides_nothing_else(tmp_path: Path, broken: bytes) -> None:
    job = write_job(tmp_path / "jobs" / "job", ("a", "b", "c"))
    (job / "trial-1-1__abcdefg" / "capstan.json").write_bytes(broken)
    with running_viewer("-o", job.parent) as url:
        page = httpx.get(f"{url}/jobs/job")
        text = re.sub(r"\s+", " ", ParsedPage(page.text).text)
        assert page.status_code == 200 and "trial-1-1__abcdefg/capstan.json is unreadable" in text
        assert "trial-0-1__abcdefg ✓ passed" in text and "trial-1-1__abcdefg ! errored" in text
        assert httpx.get(f"{url}/jobs/job/trials/trial-1-1__abcdefg").status_code == 200
        assert httpx.get(f"{url}/compare?a=job&b=job").status_code == 200
    command = [sys.executable, "-m", "runner", "report", str(job), "-o", str(tmp_path / "out.html")]
    subprocess.run(command, cwd=tmp_path, env=clean_environ(), check=True)
    assert "is unreadable" in (tmp_path / "out.html").read_text()
    show = [sys.executable, "-m", "runner", "show", str(job)]
    shown = subprocess.run(show, env=clean_environ(), capture_output=True, text=True, check=True)
    assert "trial-1-1__abcdefg/capstan.json is unreadable" in shown.stdout
    document = subprocess.run(
        [*show, "--json"], env=clean_environ(), capture_output=True, text=True, check=True
    )
    codes = [trial["reason_code"] for trial in json.loads(document.stdout)["trials"]]
    assert codes == [None, "harbor_result_malformed", None]


@pytest.mark.parametrize(("ended", "status"), [(3, "completed"), (2, "interrupted")])
def test_unreadable_record_of_a_job_is_made_from_its_trials(tmp_path: Path, ended: int, status: str) -> None:
    job = write_job(tmp_path / "jobs" / "job", ("a", "b", "c"), ended=ended)
    before = read_job(job).record
    (job / "capstan.json").write_text('{"schema_version": 1, "job_na')
    after = read_job(job).record
    assert after.problem is not None and after.problem.startswith("job/capstan.json is unreadable: ")
    assert after.status == status and after.summary == before.summary
    with running_viewer("-o", job.parent) as url:
        listed = re.sub(r"\s+", " ", ParsedPage(httpx.get(url).text).text)
        assert f"{status} capstan.json unreadable" in listed
        page = httpx.get(f"{url}/jobs/job")
        assert page.status_code == 200 and "job/capstan.json is unreadable" in page.text
    command = [sys.executable, "-m", "runner", "show", str(job)]
    shown = subprocess.run(command, env=clean_environ(), capture_output=True, text=True, check=True)
    assert "job/capstan.json is unreadable" in shown.stdout


def test_only_named_jobs_are_shown(folder: Path) -> None:
    with running_viewer(folder / "first") as url:
        links = ParsedPage(httpx.get(url).text).links()
        assert [link for link in links if link.startswith("/jobs")] == ["/jobs/first"]
        assert httpx.get(f"{url}/jobs/second").status_code == 404


def test_report_is_one_file_without_external_links(tmp_path: Path, folder: Path) -> None:
    for name in ("first", "hostile"):
        text = make_report(folder / name)
        parsed = ParsedPage(text)
        policy = next(a["content"] for t, a in parsed.tags if t == "meta" and a.get("http-equiv"))
        assert policy is not None and "sha256-" in policy and "unsafe" not in policy
        for tag, attrs in parsed.tags:
            for key in ("href", "src"):
                value = attrs.get(key)
                assert value is None or value.startswith(("#", "data:,")), (tag, value)
        assert text.count("<script") == 1


def test_report_of_89_tasks_is_small_and_says_what_it_cut(tmp_path: Path) -> None:
    steps = [model_call(number, f"command {number}", f"line {number}\n" * 2000) for number in range(1, 61)]
    job = write_job(
        tmp_path / "job", [f"task-{number}" for number in range(89)], steps=steps, output="x" * 30_000
    )
    start = time.monotonic()
    text = make_report(job)
    assert len(text.encode()) < 2_000_000
    assert "characters left out" in text and "steps are left out here" in text
    assert text.count('class="trial"') == 89
    assert time.monotonic() - start < 100


def test_report_of_1068_trials_is_small(tmp_path: Path) -> None:
    steps = [model_call(number, f"command {number}", "output\n" * 200) for number in range(1, 8)]
    job = write_job(tmp_path / "job", [f"task-{number}" for number in range(89)], attempts=12, steps=steps)
    text = make_report(job)
    assert len(text.encode()) < 3_000_000 and "Its steps are left out" in text


def test_plots_have_no_active_content() -> None:
    hostile = "<script>alert(1)</script>\"'&"
    plots = [
        reward_against_cost([(0.1, 1.0), (float("nan"), 0.0), (2, -1)]),
        context_size([(n, n * 1000 % 70_000) for n in range(1, 3000)], [(50, "pruned"), (90, "trimmed")]),
        time_by_phase(
            [(f"{hostile}{n}", {"agent": n, "verifier": float("inf") if n == 3 else 1}) for n in range(60)]
        ),
    ]
    ids: list[str] = []
    for svg in plots:
        root = ET.fromstring(svg)
        assert len(svg) < 60_000 and root.get("role") == "img" and root.get("viewBox")
        for element in root.iter():
            assert element.tag.rpartition("}")[2] not in ("script", "style", "image", "a", "foreignObject")
            assert not any(n.startswith("on") or n.endswith(("href", "style")) for n in element.attrib)
            ids += [element.attrib["id"]] if "id" in element.attrib else []
    assert len(ids) == len(set(ids))
    assert reward_against_cost([]) == context_size([(1, 5)]) == time_by_phase([]) == ""


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("view", "-o", "nowhere"), "nowhere: no such folder"),
        (("view", "nowhere"), "nowhere: there is no such folder"),
        (("report", "nowhere"), "nowhere: there is no such folder"),
        (("view", "-o", ".", "--port", "1", "--host", "203.0.113.1"), "cannot be bound"),
    ],
)
def test_invalid_command_prints_one_line(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "runner", *arguments],
        cwd=tmp_path,
        env=clean_environ(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0 and words in done.stderr and done.stderr.count("\n") == 1


def test_report_command_writes_the_file_and_prints_its_size(tmp_path: Path, folder: Path) -> None:
    command = [sys.executable, "-m", "runner", "report", str(folder / "first"), "-o", "out.html"]
    done = subprocess.run(
        command, cwd=tmp_path, env=clean_environ(), capture_output=True, text=True, check=True
    )
    size = (tmp_path / "out.html").stat().st_size
    assert done.stdout == f"out.html: {size:,} bytes\n"
    assert json.loads((folder / "first" / "result.json").read_text())
