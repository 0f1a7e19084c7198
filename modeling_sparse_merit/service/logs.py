# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Structured logs: one JSON object per line, without audio, text, emotions or names of files."""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime
from typing import Any, TextIO

from ..monitoring.drift import Measured
from .calls import Call

logger = logging.getLogger("modeling_sparse_merit.service")


class JsonFormatter(logging.Formatter):
    """Formats a record as a line of JSON: `time`, `level`, `event`, and the fields of the event.

    Of an exception, the class and the places in the code are logged; its message might quote a request.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line, without line break."""
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            frames = traceback.extract_tb(record.exc_info[2])
            fields["error"] = record.exc_info[0].__name__
            fields["trace"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        return json.dumps(fields)


def start_logging(stream: TextIO | None = None) -> None:
    """Sends the logs of the service and of its HTTP server to a stream, standard output by default."""
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(JsonFormatter())
    for name in (logger.name, "uvicorn.error"):
        named = logging.getLogger(name)
        named.handlers, named.propagate = [handler], False
        named.setLevel(logging.INFO)


def log_call(call: Call) -> None:
    """Logs a request that has ended."""
    milliseconds = {f"{stage}_ms": round(1000 * seconds, 1) for stage, seconds in call.stages.items()}
    fields = {"id": call.id, "status": call.status, "outcome": call.outcome, **milliseconds}
    logger.info("request", extra={"fields": {**fields, "audio_seconds": round(call.audio_seconds, 3)}})


def log_drift(signal: str, drift: Measured) -> None:
    """Logs that the drift of a signal has become small, large, or none.

    Args:
        signal: its name.
        drift: what was measured.
    """
    fields = {"signal": signal, "change": drift.size, "psi": round(drift.psi, 4), "limit": round(drift.limit, 4)}
    logger.log(logging.WARNING if drift.size else logging.INFO, "drift", extra={"fields": fields})


def log_error(error: BaseException) -> None:
    """Logs an error of the service."""
    logger.error("error", exc_info=(type(error), error, error.__traceback__))
