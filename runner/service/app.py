"""The service, put together."""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, Depends, FastAPI
from fastapi.responses import HTMLResponse
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles
from starlette.responses import Response

from runner.config import RunConfig, Secrets
from runner.jobs import JobBusy
from runner.pages.index import JobIndex
from runner.pages.web import make_pages
from runner.service.agent_store import AgentStore
from runner.service.job_request import JobRequestBuilder, absolute
from runner.service.queue import JobQueue
from runner.service.routes import make_api, make_health
from runner.service.settings import ServiceSettings
from runner.service.store import Store
from runner.service.task_index import TaskIndex
from runner.web.errors import add_handlers
from runner.web.guard import Guard

OWN_FOLDER = ".service"

_DOCS_STATIC = "/docs/static"
# Swagger UI writes styles into its elements, and its pictures are data.
_DOCS_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; font-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_DOCS_PAGE = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Capstan: the API</title>
<link rel="stylesheet" href="{_DOCS_STATIC}/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="{_DOCS_STATIC}/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
_DOCS_START = 'SwaggerUIBundle({ url: "/openapi.json", dom_id: "#swagger-ui", deepLinking: true });\n'

_ABOUT = """Runs agents on Terminal-Bench tasks and says how they did.

`POST /api/tasks` and `GET /health` are Terminal-Bench-server's. Errors are JSON:
`{"error": {"code": "…", "message": "…"}}`; the code never changes.
"""


def create_app(settings: ServiceSettings, base: RunConfig, secrets: Secrets) -> FastAPI:
    """The ASGI app. `base` and `secrets` hold what requests leave open: agent, model, key, environment.

    The queue is opened when the app starts, and running jobs are ended in an orderly way when it stops;
    starting raises JobBusy where another service works in the same folder of jobs.
    """
    base = absolute(base)
    jobs_dir = Path(base.jobs_dir)
    own = jobs_dir / OWN_FOLDER
    store = Store(own / "queue.sqlite3")
    queue = JobQueue(store, base, secrets, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with _claimed(own):
            queue.start()
            try:
                yield
            finally:
                await queue.stop()
                store.close()

    app = FastAPI(
        title="Capstan evaluation service",
        version="1.0.0",
        description=_ABOUT,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.queue = queue
    add_handlers(app)
    builder = JobRequestBuilder(
        base=base,
        secrets=secrets,
        settings=settings,
        task_index=TaskIndex(settings.tb2_dir.resolve()),
        agents=AgentStore(settings.agents_dir, own / "agents"),
    )
    # The guard checks the token, before anything else; this only says so in the schema, and on its page.
    bearer = HTTPBearer(auto_error=False, description="SERVICE_TOKEN")
    wanted = [] if settings.service_token is None else [Depends(bearer)]
    app.include_router(make_health())
    app.include_router(make_api(queue, builder), dependencies=wanted)
    _add_docs(app)
    app.include_router(make_pages(JobIndex(jobs_dir), api=True))
    app.add_middleware(Guard, host=settings.service_host, token=settings.service_token)
    return app


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """One service at a time; the kernel gives the folder back when the process dies in any way."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise JobBusy(f"{folder.parent}: another service works here") from None
        yield
    finally:
        os.close(descriptor)


def _add_docs(app: FastAPI) -> None:
    """Serve `/docs` from a copy of Swagger UI that is installed here: no other host is asked."""
    pages = APIRouter(include_in_schema=False)

    @pages.get("/docs")
    async def page() -> HTMLResponse:
        return HTMLResponse(_DOCS_PAGE, headers={"Content-Security-Policy": _DOCS_POLICY})

    @pages.get("/docs/start.js")
    async def start() -> Response:
        return Response(_DOCS_START, media_type="text/javascript")

    app.include_router(pages)
    app.mount(_DOCS_STATIC, StaticFiles(directory=Path(str(files("fastapi_offline"))) / "static"))
