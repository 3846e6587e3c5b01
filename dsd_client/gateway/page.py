"""The page at `/`: its files, and what a browser may do with them."""

from importlib.resources import files

from fastapi import APIRouter, Response

TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
POLICY = "; ".join(
    [
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
)
"""Nothing from elsewhere, nothing inline: text that a model wrote cannot become code."""
HEADERS = {"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}


def routes() -> APIRouter:
    """The page is open to everybody; what it asks for needs the key."""
    router = APIRouter(include_in_schema=False)
    directory = files("dsd_client.gateway") / "static"
    for file in directory.iterdir():
        _serve(router, file.name, file.read_bytes())
    return router


def _serve(router: APIRouter, name: str, content: bytes) -> None:
    path = "/" if name == "index.html" else f"/page/{name}"
    media_type = TYPES[name.rpartition(".")[2]]

    @router.get(path, response_class=Response)
    async def file() -> Response:
        return Response(content, media_type=media_type, headers=HEADERS)
