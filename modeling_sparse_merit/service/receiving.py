# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Receives the body of a request, within limits, and tells when its client is gone."""

import asyncio
import base64
import binascii
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request

from .limits import DISCONNECTED, Limits, Refusal
from .schemas import Recording

Model = TypeVar("Model", bound=BaseModel)
Output = TypeVar("Output")


async def read_body(request: Request, most: int, limits: Limits) -> bytes:
    """Receives a body.

    Args:
        request: the request.
        most: largest size in bytes; checked in the header, and while receiving.
        limits: the longest upload.

    Raises:
        Refusal: the body is too large or too slow, or the client is gone.
    """
    too_large = Refusal(413, f"The body exceeds {most / 1e6:g} MB, the limit of this service.")
    if int(request.headers.get("content-length", 0)) > most:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(limits.transfer_seconds):
            async for chunk in request.stream():
                body += chunk
                if len(body) > most:
                    raise too_large
    except TimeoutError:
        raise Refusal(408, f"The upload took more than {limits.transfer_seconds:g} s.") from None
    except ClientDisconnect:
        raise Refusal(DISCONNECTED, "The client is gone.") from None
    return bytes(body)


async def until_disconnected(request: Request, work: Coroutine[Any, Any, Output]) -> Output:
    """The result of some work, which is cancelled when the client is gone.

    Args:
        request: the request, whose body was received.
        work: the work.

    Raises:
        Refusal: the client is gone.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(request.receive())
    tasks: list[asyncio.Future[Any]] = [working, leaving]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise Refusal(DISCONNECTED, "The client is gone.")
        return working.result()
    finally:
        for task in tasks:
            task.cancel()


def recording_of(body: bytes, content_type: str) -> bytes:
    """The file in a body, which is the file itself or JSON with its base64.

    Args:
        body: the body.
        content_type: value of the header.

    Raises:
        Refusal: the body is empty, or the JSON is invalid.
    """
    if content_type.partition(";")[0].strip().lower() != "application/json":
        if not body:
            raise Refusal(400, "The body is empty; expected the bytes of an audio file, or JSON with `inputs`.")
        return body
    text = parsed(Recording, body).inputs
    encoded = text.partition(",")[2] if text.startswith("data:") else text
    try:
        return base64.b64decode("".join(encoded.split()), validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(400, "`inputs` is no base64; expected that of an audio file. Paths are not opened.") from None


def parsed(model: type[Model], body: bytes) -> Model:
    """The JSON of a body.

    Args:
        model: what is expected.
        body: the body.

    Raises:
        Refusal: the JSON is invalid.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise Refusal(400, problem_of(error.errors(include_input=False, include_url=False))) from None


def problem_of(errors: Sequence[Any]) -> str:
    """A sentence about invalid fields, which are named but for unknown ones; values are not quoted.

    Args:
        errors: those of pydantic.
    """
    sentences = []
    for error in errors:
        text = error["msg"].removeprefix("Value error, ")
        is_unknown = error["type"] == "extra_forbidden" or not error["loc"]
        sentences.append(f"{text}." if is_unknown else f"`{error['loc'][-1]}`: {text}.")
    return " ".join(dict.fromkeys(sentences))
