"""The review page over HTTP, for one person on this computer.

A page on loopback can be asked by every page that the person has open. So its address holds a
secret, and a request is refused unless it names this very server as its host (a foreign name that
was made to point here does not) and, if a page sent it, comes from this server's own page. What is
served runs no script but its own file, and no picture is found by a path.
"""

from __future__ import annotations

import hmac
from dataclasses import asdict
from importlib.resources import files
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp
from typing_extensions import override

from imagepipeline_dagster.errors import CorrectableError
from imagepipeline_dagster.loopback import LOOPBACK
from imagepipeline_dagster.markup import template
from imagepipeline_dagster.moderation.review.session import Decided, PictureUnknown, ReviewSession
from imagepipeline_dagster.moderation.verdicts import Verdict
from imagepipeline_dagster.storage.contract import ObjectMissing
from imagepipeline_dagster.tables.overrides import OverrideDecision

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    # Pictures that nobody released stay out of the browser's own store.
    "Cache-Control": "no-store",
}
_FILES = {"page.js": "text/javascript", "base.css": "text/css", "page.css": "text/css"}
_LARGEST_BODY = 10_000  # bytes


class _Asked(BaseModel):
    """A decision as the page sends it."""

    model_config = ConfigDict(extra="forbid")

    decision: Literal["keep", "reject", "quarantine", "undo"]
    prompt_set: str = ""
    image_sha256: str = ""
    reason: str = Field(default="", max_length=500)


def review_app(session: ReviewSession, *, title: str, token: str) -> ASGIApp:
    """Return the page of a session; each of its addresses begins with `/TOKEN/`."""
    handlers = _Handlers(session, title)
    return Starlette(
        routes=[
            Route("/{token}/", handlers.page, methods=["GET"]),
            Route("/{token}/samples", handlers.samples, methods=["GET"]),
            Route("/{token}/thumbnails/{sha256}", handlers.thumbnail, methods=["GET"]),
            Route("/{token}/pictures/{sha256}", handlers.picture, methods=["GET"]),
            Route("/{token}/decisions", handlers.decide, methods=["POST"]),
            Route("/{token}/{name}", handlers.file, methods=["GET"]),
        ],
        middleware=[Middleware(_Guard, token=token)],
    )


class _Guard(BaseHTTPMiddleware):
    """Refuses whatever does not come from this server's own page, and binds every answer."""

    def __init__(self, app: ASGIApp, *, token: str) -> None:
        super().__init__(app)
        self._token = token.encode()

    @override
    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        if self._is_own(request):
            answer = await call_next(request)
        else:
            answer = PlainTextResponse("Open the address that the command printed.", 403)
        answer.headers.update(_HEADERS)
        return answer

    def _is_own(self, request: Request) -> bool:
        _, port = request.scope["server"]
        hosts = {f"{name}:{port}" for name in (LOOPBACK, "localhost")}
        host, origin = request.headers.get("host"), request.headers.get("origin")
        # Pages send their origin with every POST; what asks for a page sends none.
        of_this_page = origin == f"http://{host}" or (origin is None and request.method == "GET")
        token = request.url.path.split("/")[1].encode()
        return host in hosts and of_this_page and hmac.compare_digest(token, self._token)


class _Handlers:
    """Answers of one session; each that waits for a disk or a database does so in a thread."""

    def __init__(self, session: ReviewSession, title: str) -> None:
        self._session = session
        self._title = title

    def page(self, _request: Request) -> Response:
        """The page without its samples."""
        page = template("moderation/review/page.html.jinja").render(
            title=self._title, reviewer=self._session.reviewer, verdicts=list(Verdict)
        )
        return HTMLResponse(page)

    def file(self, request: Request) -> Response:
        """The page's script, or one of its styles."""
        name = request.path_params["name"]
        if name not in _FILES:
            return _nothing()
        content = files(__package__).joinpath(name).read_bytes()
        return Response(content, media_type=_FILES[name])

    def samples(self, _request: Request) -> Response:
        """The samples, and how it stands with each."""
        try:
            return JSONResponse([asdict(sample) for sample in self._session.samples()])
        except CorrectableError as error:
            return _problem(str(error), 503)

    def thumbnail(self, request: Request) -> Response:
        """The thumbnail of one of the session's pictures."""
        thumbnail = self._session.thumbnail(request.path_params["sha256"])
        return Response(thumbnail, media_type="image/webp") if thumbnail else _nothing()

    def picture(self, request: Request) -> Response:
        """One of the session's pictures as it was delivered; never as anything but a picture."""
        try:
            picture, format_ = self._session.picture(request.path_params["sha256"])
        except (PictureUnknown, ObjectMissing):
            return _nothing()
        return Response(picture, media_type=f"image/{format_.lower()}")

    async def decide(self, request: Request) -> Response:
        """Record a decision, or take the last one back."""
        if int(request.headers.get("content-length", _LARGEST_BODY + 1)) > _LARGEST_BODY:
            return _problem("That is too long.", 413)
        try:
            asked = _Asked.model_validate_json(await request.body())
            return JSONResponse(asdict(await run_in_threadpool(self._decided, asked)))
        except ValidationError:
            return _problem("That is no decision of this page.", 400)
        except CorrectableError as error:
            return _problem(str(error), 409)

    def _decided(self, asked: _Asked) -> Decided:
        if asked.decision == "undo":
            return self._session.undo()
        return self._session.decide(
            asked.prompt_set,
            asked.image_sha256,
            OverrideDecision(asked.decision),
            reason=asked.reason,
        )


def _nothing() -> Response:
    return PlainTextResponse("There is nothing of that name here.", 404)


def _problem(text: str, status: int) -> Response:
    return JSONResponse({"error": text}, status)
