# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The routes of the service."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any

import jinja2
from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from .. import __version__
from .analysis import Analyser
from .calls import Call, Received
from .feedback import Feedback
from .gate import ANALYZE, refused
from .limits import Limits, Refusal
from .metrics import Metrics
from .receiving import parsed, problem_of, read_body, recording_of, until_disconnected
from .responses import MULTIPART, json_response, multipart_response
from .schemas import Accepted, Analysis, Correction, Options, Problem, Recording
from .shadow import Shadow

CORRECTION_BYTES = 4_096
PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The recording or the JSON is invalid."},
    401: {"model": Problem, "description": "The token is missing or wrong."},
    408: {"model": Problem, "description": "The upload is too slow."},
    413: {"model": Problem, "description": "The body is too large, or the recording too long."},
    422: {"model": Problem, "description": "An option is invalid."},
    500: {"model": Problem, "description": "The model failed."},
    503: {"model": Problem, "description": "The queue is full, or the model is not loaded yet. See Retry-After."},
    504: {"model": Problem, "description": "The analysis took too long."},
}
BINARY = {"schema": {"type": "string", "format": "binary"}}
BODIES = {"audio/*": BINARY, "application/json": {"schema": Recording.model_json_schema()}}


def create_app(
    analyser: Analyser | None,
    shadow: Shadow | None,
    metrics: Metrics,
    limits: Limits,
    feedback: Feedback | None,
    close: Callable[[], object],
) -> FastAPI:
    """The service as an ASGI application, without its gate.

    Args:
        analyser: analyses recordings; None if only a candidate does.
        shadow: the candidate of shadow mode; None for none.
        metrics: what `/metrics` shows.
        limits: what is accepted.
        feedback: stores corrections; None refuses them.
        close: called at the end, after the last request.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        if shadow is not None:
            shadow.start()
        starting = asyncio.create_task(analyser.start() if analyser is not None else asyncio.sleep(0))
        try:
            yield
            starting.cancel()
            if analyser is not None:
                await asyncio.to_thread(analyser.close)
        finally:
            await asyncio.to_thread(close)

    app = FastAPI(
        title="Sparse MERIT",
        summary="Emotion and enhanced speech of recordings.",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    app.add_exception_handler(Refusal, _refuse)
    app.add_exception_handler(RequestValidationError, _refuse_options)
    app.add_exception_handler(HTTPException, _refuse_path)
    if analyser is not None:
        _add_analysis(app, analyser, limits)
        _add_operation(app, analyser, metrics)
    elif shadow is not None:
        _add_acceptance(app, shadow, limits)
        _add_operation(app, shadow, metrics)
    _add_feedback(app, feedback, limits)
    return app


def _refuse(request: Request, error: Any) -> Response:
    return refused(error)


def _refuse_options(request: Request, error: Any) -> Response:
    return refused(Refusal(422, problem_of(error.errors())))


def _refuse_path(request: Request, error: Any) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


def _add_analysis(app: FastAPI, analyser: Analyser, limits: Limits) -> None:
    success = {"model": Analysis, "content": {MULTIPART: BINARY}, "description": "The results."}

    @app.post(
        ANALYZE,
        summary="Analyse a recording",
        responses={200: success, **PROBLEMS},
        openapi_extra={"requestBody": {"required": True, "content": BODIES}},
        response_class=JSONResponse,
    )
    async def analyze(request: Request, options: Annotated[Options, Query()]) -> Response:
        """The body is an audio file, or JSON with its base64. With `audio`, the enhanced speech is returned as base64,
        or as parts of a multipart body if the header `Accept` is `multipart/mixed`."""
        if not analyser.is_ready:
            raise Refusal(503, "The model is not ready yet.")
        call: Call = request.state.call
        body = await read_body(request, limits.bytes, limits)
        content_type = request.headers.get("content-type", "")
        work = analyser.analyse(body, content_type, options, call)
        content, files = await until_disconnected(request, work)
        if options.audio is not None and MULTIPART in request.headers.get("accept", ""):
            return await asyncio.to_thread(multipart_response, content, files, options.audio)
        return await asyncio.to_thread(json_response, content, files)


def _add_acceptance(app: FastAPI, shadow: Shadow, limits: Limits) -> None:
    @app.post(
        ANALYZE,
        summary="Accept a recording",
        status_code=202,
        response_description="The recording was accepted for shadow mode.",
        response_model=Accepted,
        responses={status: PROBLEMS[status] for status in (400, 401, 408, 413, 422, 503)},
        openapi_extra={"requestBody": {"required": True, "content": BODIES}},
    )
    async def accept(request: Request, options: Annotated[Options, Query()]) -> Accepted:
        """The body is an audio file, or JSON with its base64. No result is returned: the model is in shadow mode."""
        if not shadow.is_ready:
            raise Refusal(503, "The model is not ready yet.")
        call: Call = request.state.call
        body = await read_body(request, limits.bytes, limits)
        content = await asyncio.to_thread(recording_of, body, request.headers.get("content-type", ""))
        call.received = Received(content, options.channel, options.min_score, options.tasks)
        return Accepted(id=call.id)


def _add_feedback(app: FastAPI, feedback: Feedback | None, limits: Limits) -> None:
    body = {"application/json": {"schema": Correction.model_json_schema()}}
    unknown = {"model": Problem, "description": "The id is unknown, or the service stores no feedback."}

    @app.post(
        "/v1/feedback",
        summary="Correct an emotion",
        status_code=204,
        response_description="The correction is stored.",
        responses={**{status: PROBLEMS[status] for status in (400, 401, 413, 422)}, 404: unknown},
        openapi_extra={"requestBody": {"required": True, "content": body}},
    )
    async def correct(request: Request) -> Response:
        """Stores the right emotion of an analysed recording."""
        if feedback is None:
            raise Refusal(404, "This service stores no feedback: start it with --feedback-file.")
        correction = parsed(Correction, await read_body(request, CORRECTION_BYTES, limits))
        await asyncio.to_thread(feedback.add, correction)
        return Response(status_code=204)


def _add_operation(app: FastAPI, in_charge: Analyser | Shadow, metrics: Metrics) -> None:
    template = (Path(__file__).parent / "page.html").read_text(encoding="utf-8")

    @app.get("/health/live", summary="Whether the process responds", response_description="It does.")
    async def live() -> dict[str, str]:
        return {"status": "live"}

    @app.get(
        "/health/ready",
        summary="Whether the model is loaded and warm",
        response_description="It is.",
        responses={503: {"model": Problem, "description": "Not yet."}},
    )
    async def ready() -> dict[str, str]:
        if not in_charge.is_ready:
            raise Refusal(503, "The model is not ready yet.")
        return {"status": "ready"}

    @app.get("/metrics", summary="Metrics for Prometheus", response_class=Response, response_description="All.")
    async def show_metrics() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/docs", include_in_schema=False)
    async def page() -> Response:
        environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        return HTMLResponse(environment.from_string(template).render(api=app.openapi()))
