"""The routes of a feed, and how FastAPI documents them in `openapi.json`.

In: a `Feed`. Out: the ASGI application, behind its guard.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from fastapi import FastAPI, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse, Response

from hornbook.errors import HornbookError
from hornbook.feed.bodies import Format
from hornbook.feed.cursors import ANONYMOUS
from hornbook.feed.guard import Application, Guard, Refusal, later
from hornbook.feed.metrics import prometheus
from hornbook.feed.server import WAIT_SECONDS, Feed
from hornbook.feed.status import snapshot, status_page
from hornbook.gather.feed_log import Gone, Unreadable
from hornbook.progress import warn
from hornbook.tokens.feed_protocol import (
    COUNT_HEADER,
    FIRST_HEADER,
    HEAD_HEADER,
    LEASE_HEADER,
    LEASE_SECONDS_HEADER,
    LOG_HEADER,
    NEXT_HEADER,
    PROTOCOL,
    PROTOCOL_HEADER,
)

MAX_NUMBER = 2**63 - 1
NAME = "[A-Za-z0-9._-]{1,64}"

Number = Annotated[int | None, Query(ge=0, le=MAX_NUMBER, description="number of the first text")]
Count = Annotated[int, Query(ge=1, description="texts, at most; the feed's own limit is 1024")]
Wait = Annotated[
    float, Query(ge=0, le=WAIT_SECONDS, description="seconds to wait where there is no text yet")
]
Consumer = Annotated[
    str | None,
    Query(pattern=f"^{NAME}$", description="share the texts with all who give this name"),
]
LeaseSeconds = Annotated[
    float, Query(ge=5, le=3600, description="time until the texts go to somebody else")
]
ReaderName = Annotated[str, Path(pattern=f"^{NAME}$", description="the reader, such as a run")]

DESCRIPTION = f"""
Texts, each with a number that never changes. Every answer has the headers `{PROTOCOL_HEADER}`
(this protocol) and `{LOG_HEADER}` (the log whose numbers they are); a request that has them too is
refused where they differ. An error is JSON: `error`, `hint`. `503` with `Retry-After`: nothing is
wrong, ask again. Answers are compressed with zstd or gzip where the request accepts it.
"""

ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "a value that has no meaning, or another protocol (`supported`)"},
    401: {"description": "no token, or not the right one"},
    409: {"description": "another log's numbers"},
    503: {"description": "no text yet, too busy, or stopping; with `Retry-After`"},
}
GONE: dict[int | str, dict[str, Any]] = {
    410: {"description": "no longer kept, or damaged; `first` is the next number that is there"}
}


class Given(BaseModel):
    """Texts that a consumer was given."""

    consumer: str = Field(pattern=f"^{NAME}$")
    lease: str = Field(max_length=64, description=f"the header `{LEASE_HEADER}` of the answer")


class Place(BaseModel):
    """Where a reader is."""

    next: int = Field(ge=0, le=MAX_NUMBER, description="texts from this number on are kept")


HEADERS = {
    PROTOCOL_HEADER: "version of the protocol",
    LOG_HEADER: "the log's id",
    FIRST_HEADER: "number of the first text",
    COUNT_HEADER: "how many there are",
    NEXT_HEADER: "the cursor to ask for next",
    HEAD_HEADER: "number that the next text to be made will have",
    LEASE_HEADER: "with `consumer`: what to acknowledge",
    LEASE_SECONDS_HEADER: "with `consumer`: how long it lasts",
}
ARRAY = {"type": "array", "items": {"type": "string"}, "minItems": 1}
OBJECT = {
    "type": "object",
    "description": "protocol, log, first, next, head, lease, and texts: each with number, text,"
    " source, licence, meta ... as far as they are known",
}
TEXTS: dict[str, Any] = {
    "description": "at least one text: an array of strings, or an object with all about each",
    "content": {"application/json": {"schema": {"oneOf": [ARRAY, OBJECT]}}},
    "headers": {
        name: {"description": text, "schema": {"type": "string"}} for name, text in HEADERS.items()
    },
}


def application(feed: Feed, token: str | None) -> Application:
    """The routes of a feed behind its guard."""
    app = FastAPI(
        title="hornbook feed",
        version=str(PROTOCOL),
        description=DESCRIPTION,
        docs_url=None,  # FastAPI's pages load scripts from elsewhere
        redoc_url=None,
        openapi_url=None,
    )
    _add_texts(app, feed)
    _add_readers(app, feed)
    _add_state(app, feed)
    _add_errors(app)
    return Guard(app, feed.log.id, token, feed.metrics)


def _add_texts(app: FastAPI, feed: Feed) -> None:
    def check(request: Request, n: int) -> None:
        known = [each.alias for each in request.scope["route"].dependant.query_params]
        for name in request.query_params:  # `curser=5` would hand texts out, at most once
            if name not in known:
                raise Refusal(400, f"there is no parameter {name!r}", f"Known: {', '.join(known)}")
        if n > feed.config.max_n:
            raise Refusal(
                400, f"n is at most {feed.config.max_n} here", "Ask more often",
                max_n=feed.config.max_n,
            )  # fmt: skip

    @app.get("/generate", responses={**ERRORS, **GONE, 200: TEXTS}, response_class=JSONResponse)
    async def generate(
        request: Request,
        cursor: Number = None,
        n: Count = 1,
        format: Format = "array",
        wait: Wait = WAIT_SECONDS,
        consumer: Consumer = None,
        lease_seconds: LeaseSeconds = 300.0,
    ) -> Response:
        """Texts. With `cursor` exactly those from that number on, the same ones every time; with
        `consumer` ones that no other reader of this name has, to be acknowledged: at least once,
        in no order that could be repeated; with neither, ones that nobody asked for in this way
        before, at most once: done with when they are sent."""
        check(request, n)
        if cursor is None:
            name = consumer or ANONYMOUS
            return await feed.by_lease(request, name, n, lease_seconds, wait, format)
        if consumer is not None:
            raise Refusal(400, "`cursor` and `consumer` exclude each other", "Give one of them")
        return await feed.by_cursor(request, cursor, n, wait, format)

    @app.get("/validation", responses={**ERRORS, 200: TEXTS}, response_class=JSONResponse)
    async def validation(request: Request, cursor: Number = None, n: Count = 1) -> Response:
        """Texts of the archive that are held out for ever, always in the same order, as an array.
        The head says how many there are. 404: this feed has none."""
        check(request, n)
        return await feed.validation(request, cursor or 0, n)


def _add_readers(app: FastAPI, feed: Feed) -> None:
    conflict: dict[int | str, dict[str, Any]] = {
        **ERRORS,
        409: {"description": "the lease expired, is not known, or is another log's"},
    }

    async def end(work: Callable[[str, str], bool], given: Given) -> None:
        if not await feed.in_cursors(lambda: work(given.consumer, given.lease)):
            raise Refusal(
                409,
                "no such lease: it expired, or was acknowledged or released before",
                "Acknowledged by you before, nothing is to do; else the texts go to another reader",
            )

    @app.post("/acknowledge", status_code=204, responses=conflict)
    async def acknowledge(given: Given) -> None:
        """The consumer is done with the texts: nobody else gets them."""
        await end(feed.cursors.acknowledge, given)

    @app.post("/release", status_code=204, responses=conflict)
    async def release(given: Given) -> None:
        """The consumer does not want the texts: the next one gets them."""
        await end(feed.cursors.release, given)

    @app.put("/cursors/{name}", status_code=204, responses={**ERRORS, **GONE})
    async def keep(name: ReaderName, place: Place) -> None:
        """Texts from `next` on are kept for this reader, whatever `--keep` says. It never goes
        back."""
        await feed.keep(name, place.next)

    @app.get("/cursors", responses=ERRORS)
    async def cursors() -> dict[str, int]:
        """The readers that texts are kept for, and where they are."""
        return await feed.in_cursors(feed.cursors.all)

    @app.delete("/cursors/{name}", status_code=204, responses=ERRORS)
    async def forget(name: ReaderName) -> None:
        """Nothing is kept for this reader any more."""
        await feed.in_cursors(lambda: feed.cursors.forget(name))


def _add_state(app: FastAPI, feed: Feed) -> None:
    page = status_page()

    async def numbers() -> dict[str, Any]:
        groups, cursors = await feed.in_cursors(lambda: (feed.cursors.groups(), feed.cursors.all()))
        groups.pop(ANONYMOUS, None)  # whoever asked once, and is behind ever after
        return snapshot(feed, {**groups, **cursors})

    @app.get("/healthz")
    async def live() -> dict[str, str]:
        """The process runs. Needs no token."""
        return {"status": "live"}

    @app.get("/readyz", responses=ERRORS)
    async def ready() -> dict[str, str | None]:
        """200: texts can be read now; else 503 with the reason. `status` is `ready`, or `reading
        only` where the disk is full; `problem` also says which teacher is gone."""
        nothing = feed.problem()
        if nothing is not None:
            raise later(nothing)
        status = "reading only" if feed.log.problem else "ready"
        return {"status": status, "problem": feed.production().get("problem")}

    @app.get("/stats", responses=ERRORS)
    async def stats() -> dict[str, Any]:
        """All numbers of this moment."""
        return await numbers()

    @app.get("/metrics", responses=ERRORS, response_class=PlainTextResponse)
    async def metrics() -> Response:
        """The same for Prometheus."""
        text = prometheus(await numbers(), feed.metrics)
        return PlainTextResponse(text, media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/openapi.json", include_in_schema=False)
    async def documentation() -> dict[str, Any]:
        """This protocol, described by OpenAPI 3.1."""
        described = app.openapi()
        bearer = {"type": "http", "scheme": "bearer"}
        described["components"]["securitySchemes"] = {"bearer": bearer}
        return {**described, "security": [{"bearer": []}]}

    @app.get("/", include_in_schema=False)
    async def status() -> Response:
        """The page."""
        return page


def _add_errors(app: FastAPI) -> None:
    said = set[tuple[Any, str]]()

    async def answer(request: Request, error: Exception) -> Response:
        if isinstance(error, Unreadable) and (error.path, error.reason) not in said:
            said.add((error.path, error.reason))  # once: every reader asks for it again
            warn(str(error))
        return _refusal(error).response()

    for kind in (HTTPException, RequestValidationError, HornbookError, Exception):
        app.add_exception_handler(kind, answer)


def _refusal(error: Exception) -> Refusal:
    """What an error of a route is to its client."""
    match error:
        case Refusal():
            return error
        case Gone():
            return Refusal(410, error.what, error.hint or "", first=error.first)
        case Unreadable():
            return later(f"{error.path.name} {error.what}", 30, "Nothing is lost; ask again")
        case HornbookError():  # readers' places cannot be written: the disk is full, for example
            return later(error.what, 30)
        case RequestValidationError():
            first = error.errors()[0]
            if first["type"] == "json_invalid":
                why = first["ctx"]["error"]
                return Refusal(400, f"the body is no JSON: {why}", "openapi.json has what is taken")
            where = ".".join(str(part) for part in first["loc"][1:])
            where = where or "the body (JSON, with Content-Type: application/json)"
            return Refusal(400, f"{where}: {first['msg']}", "openapi.json has what is taken")
        case HTTPException():
            hint, headers = "openapi.json lists the routes", dict(error.headers or {})
            return Refusal(error.status_code, error.detail, hint, headers=headers)
    return Refusal(500, "a mistake of the feed's own; its log says more")
