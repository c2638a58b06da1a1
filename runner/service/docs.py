"""`/docs`: the API's own page, from a copy that lies beside the service (no other host is asked)."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from fastapi import APIRouter, FastAPI
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from starlette.responses import Response

_STATIC = "/docs/static"
# Swagger UI writes styles into its elements, and its pictures are data.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; font-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)
_PAGE = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Capstan: the API</title>
<link rel="stylesheet" href="{_STATIC}/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="{_STATIC}/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
_START = 'SwaggerUIBundle({ url: "/openapi.json", dom_id: "#swagger-ui", deepLinking: true });\n'


def add_docs(app: FastAPI) -> None:
    """Serve the page and its files."""
    pages = APIRouter(include_in_schema=False)

    @pages.get("/docs")
    async def page() -> HTMLResponse:
        return HTMLResponse(_PAGE, headers={"Content-Security-Policy": _POLICY})

    @pages.get("/docs/start.js")
    async def start() -> Response:
        return Response(_START, media_type="text/javascript")

    app.include_router(pages)
    app.mount(_STATIC, StaticFiles(directory=Path(str(files("fastapi_offline"))) / "static"))
