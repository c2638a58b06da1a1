"""The pages over HTTP: their routes, for the service as well, and a server of their own."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import uvicorn
from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse
from starlette.responses import FileResponse, Response

from runner.jobs import JobError
from runner.pages.index import JobIndex
from runner.pages.render import render, static
from runner.pages.views import compare, job_page, list_jobs, trial_page
from runner.results import regular_file_inside
from runner.web.guard import Guard
from runner.web.listen import ends_in_order, is_loopback, listen, url_of

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_STATIC = {"style.css": "text/css", "plots.css": "text/css", "page.js": "text/javascript"}
PAGE_SIZE = 100


def make_pages(index: JobIndex, *, api: bool = False) -> APIRouter:
    """The routes of all pages. `api`: there is an API beside them, with its page at /docs."""
    pages = APIRouter(include_in_schema=False)

    def page(template: str, status: int = 200, **values: Any) -> HTMLResponse:
        return HTMLResponse(render(template, api=api, **values), status_code=status, headers=HEADERS)

    def missing(what: str) -> HTMLResponse:
        return page("missing.html", 404, what=what)

    def of_job(name: str, make: Callable[[Path], HTMLResponse]) -> HTMLResponse:
        path = index.find(name)
        if path is None:
            return missing("There is no job of this name here.")
        try:
            return make(path)
        except JobError as error:
            return missing(f"This job cannot be read: {error}")
        except KeyError:
            return missing("This job has no such trial.")

    @pages.get("/")
    def jobs(number: int = 1) -> HTMLResponse:
        found = index.jobs()
        number = min(max(1, number), max(1, -(-len(found) // PAGE_SIZE)))
        shown = dict(list(found.items())[(number - 1) * PAGE_SIZE : number * PAGE_SIZE])
        return page(
            "jobs.html",
            rows=list_jobs(shown),
            total=len(found),
            number=number,
            more=len(found) > number * PAGE_SIZE,
        )

    @pages.get("/jobs/{job}")
    def job(job: str) -> HTMLResponse:
        return of_job(job, lambda path: page("job.html", job=job_page(path), names=list(index.jobs())))

    @pages.get("/jobs/{job}/trials/{trial}")
    def trial(job: str, trial: str) -> HTMLResponse:
        return of_job(job, lambda path: page("trial.html", trial=trial_page(path, trial)))

    @pages.get("/compare")
    def compared(a: str = "", b: str = "") -> HTMLResponse:
        names = list(index.jobs())
        if not a or not b:
            return page("compare.html", names=names, a=a, b=b, comparison=None)
        other = index.find(b)
        if other is None:
            return missing("There is no second job of this name here.")
        return of_job(
            a,
            lambda path: page("compare.html", names=names, a=a, b=b, comparison=compare(path, other)),
        )

    @pages.get("/jobs/{job}/trials/{trial}/files/{file:path}")
    def left_file(job: str, trial: str, file: str) -> Response:
        path = index.find(job)
        plain = path is not None and "/" not in trial and trial not in ("", ".", "..")
        found = regular_file_inside(path / trial, file) if path is not None and plain else None
        if found is None:
            return missing("There is no such file.")
        # Never rendered: it is data that an agent or a task wrote.
        name = quote(found.name.encode("utf-8", "replace"))
        headers = {**HEADERS, "Content-Disposition": f"attachment; filename*=utf-8''{name}"}
        return FileResponse(found, media_type="application/octet-stream", headers=headers)

    @pages.get("/static/{name}")
    def static_file(name: str) -> Response:
        if name not in _STATIC:
            return missing("There is no such file.")
        return Response(
            static(name), media_type=_STATIC[name], headers={**HEADERS, "Cache-Control": "no-cache"}
        )

    return pages


def _add_missing(app: FastAPI) -> None:
    """Answer every other address with a page that says so."""

    @app.exception_handler(404)
    async def _(_: Request, __: Exception) -> HTMLResponse:
        text = render("missing.html", api=False, what="There is nothing at this address.")
        return HTMLResponse(text, status_code=404, headers=HEADERS)


def serve(index: JobIndex, host: str, port: int) -> None:
    """Serve the pages until SIGINT or SIGTERM. Raises ConfigError where the address cannot be had."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(make_pages(index))
    _add_missing(app)
    app.add_middleware(Guard, host=host)
    listener = listen(host, port)
    try:
        config = uvicorn.Config(
            app, lifespan="off", ws="none", log_config=None, access_log=False, server_header=False
        )
        sys.stderr.write(f"Jobs are shown at {url_of(listener)} (Ctrl-C ends it)\n")
        if not is_loopback(host):
            sys.stderr.write(f"WARNING: other machines reach {host}, and can read all of these jobs.\n")
        sys.stderr.flush()
        ends_in_order()
        asyncio.run(uvicorn.Server(config).serve(sockets=[listener]))
    finally:
        listener.close()
