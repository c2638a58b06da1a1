"""A server of pages alone, for `runner view`."""

from __future__ import annotations

import asyncio
import sys

import uvicorn
from fastapi import FastAPI

from runner.report.shelf import Shelf
from runner.report.web import add_missing, make_pages
from runner.web.guard import Guard
from runner.web.listen import ends_in_order, is_loopback, listen, url_of


def serve(shelf: Shelf, host: str, port: int) -> None:
    """Serve the pages until SIGINT or SIGTERM. Raises ConfigError where the address cannot be had."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(make_pages(shelf))
    add_missing(app)
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
