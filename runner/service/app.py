"""The service, put together."""

from __future__ import annotations

import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from fastapi import Depends, FastAPI
from fastapi.security import HTTPBearer

from runner.config import RunConfig, Secrets
from runner.job import JobBusy
from runner.report.shelf import Shelf
from runner.report.web import make_pages
from runner.service.catalogue import Catalogue
from runner.service.desk import Desk
from runner.service.docs import add_docs
from runner.service.orders import OrderDesk, absolute
from runner.service.routes import Parts, make_api, make_health
from runner.service.settings import ServiceSettings
from runner.service.store import Store
from runner.service.uploads import AgentShelf
from runner.web.errors import add_handlers
from runner.web.guard import Guard

OWN_FOLDER = ".service"

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
    desk = Desk(store, base, secrets, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        with _claimed(own):
            desk.start()
            try:
                yield
            finally:
                await desk.stop()
                store.close()

    app = FastAPI(
        title="Capstan evaluation service",
        version="1.0.0",
        description=_ABOUT,
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
    )
    app.state.desk = desk
    add_handlers(app)
    orders = OrderDesk(
        base=base,
        secrets=secrets,
        settings=settings,
        catalogue=Catalogue(settings.tb2_dir.resolve()),
        shelf=AgentShelf(settings.agents_dir, own / "agents"),
    )
    # The guard checks the token, before anything else; this only says so in the schema, and on its page.
    bearer = HTTPBearer(auto_error=False, description="SERVICE_TOKEN")
    wanted = [] if settings.service_token is None else [Depends(bearer)]
    app.include_router(make_health())
    app.include_router(make_api(Parts(desk, orders)), dependencies=wanted)
    add_docs(app)
    app.include_router(make_pages(Shelf(jobs_dir), api=True))
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
