# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Builds the service and runs it with uvicorn, in one process."""

import asyncio
import math
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from .. import BATCH_SECONDS, LAWFUL_USE
from ..inference.batching import PASS_SECONDS
from ..models.sparse_merit.pipeline_sparse_merit import SpeechEnhancementAndEmotionPipeline
from ..models.sparse_merit.streaming import DetectorFactory
from ..models.sparse_merit.tasks import EMOTION, TASKS
from .analysis import Analyser
from .app import create_app
from .authentication import Token, check_host
from .batching import Batcher
from .calls import Call
from .feedback import Feedback
from .gate import Gate
from .limits import Limits
from .logs import log_call, logger, start_logging
from .metrics import Metrics

HEAD_SECONDS = 10  # for the head of a request, and until the next request of a connection
SPARE_CONNECTIONS = 100  # besides those in the queue: health checks, metrics, requests that are refused


@dataclass(frozen=True)
class ServiceOptions:
    """Options of the service.

    Args:
        limits: what is accepted.
        batch_seconds: seconds of audio in a batch, including padding; 0 turns batching off. None is 10 on a CPU, where
            longer batches are not faster, and 40 elsewhere.
        max_wait_ms: longest time in milliseconds that a recording waits for others in its batch.
        token: that clients must send; None for none.
        feedback_file: where corrections are appended; None refuses them.
        detector: name of the voice activity detector, and its factory; None for that of the pipeline.
    """

    limits: Limits = field(default_factory=Limits)
    batch_seconds: float | None = None
    max_wait_ms: float = 5.0
    token: Token | None = None
    feedback_file: Path | None = None
    detector: tuple[str, DetectorFactory | None] = ("level", None)


def build(pipe: SpeechEnhancementAndEmotionPipeline, options: ServiceOptions) -> Gate:
    """The service as an ASGI application.

    Args:
        pipe: the pipeline.
        options: options of the service.

    Raises:
        OSError: the feedback file cannot be written.
        ValueError: feedback needs a model with the task emotion.
    """
    metrics = Metrics(pipe, lambda: gate.length)
    on_cpu = pipe.device.type == "cpu"
    seconds = (PASS_SECONDS if on_cpu else BATCH_SECONDS) if options.batch_seconds is None else options.batch_seconds
    batcher = Batcher(seconds, options.max_wait_ms, metrics.observe_batch)
    analyser = Analyser(pipe, options.detector, options.limits, batcher)
    feedback = _feedback(pipe, analyser, options.feedback_file)
    gate = Gate(create_app(analyser, metrics, options.limits, feedback), options.token, options.limits)

    def observe(call: Call) -> None:
        metrics.observe(call)
        log_call(call)
        if feedback is not None and call.outcome == "ok":
            feedback.remember(call)

    gate.observers.append(observe)
    return gate


def _feedback(pipe: SpeechEnhancementAndEmotionPipeline, analyser: Analyser, path: Path | None) -> Feedback | None:
    if path is None:
        return None
    if EMOTION not in pipe.model.config.tasks:
        raise ValueError(
            f"--feedback-file needs a model with the task emotion; this one has {pipe.model.config.tasks}."
        )
    return Feedback(path, TASKS[EMOTION].describe(pipe.model.config)["labels"], analyser.settings)


def serve(pipe: SpeechEnhancementAndEmotionPipeline, options: ServiceOptions, host: str, port: int) -> None:
    """Runs the service until SIGTERM or Ctrl-C; requests that have begun are finished.

    Args:
        pipe: the pipeline.
        options: options of the service.
        host: address to bind to.
        port: port to bind to.

    Raises:
        OSError: the feedback file cannot be written.
        ValueError: the address needs a token, or feedback needs a model with the task emotion.
        SystemExit: the port is taken.
    """
    check_host(host, options.token)
    gate = build(pipe, options)
    start_logging()
    logger.warning("notice", extra={"fields": {"notice": LAWFUL_USE}})
    uvicorn.Server(configuration(gate, options.limits, host, port)).run()


def configuration(gate: Gate, limits: Limits, host: str, port: int) -> uvicorn.Config:
    """The configuration of uvicorn.

    Args:
        gate: the service.
        limits: what is accepted.
        host: address to bind to.
        port: port to bind to; 0 is any free one.
    """
    return uvicorn.Config(
        gate,
        host=host,
        port=port,
        http=_Protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        limit_concurrency=limits.queue + SPARE_CONNECTIONS,
        timeout_keep_alive=HEAD_SECONDS,
        timeout_graceful_shutdown=math.ceil(limits.analysis_seconds),
    )


class _Protocol(H11Protocol):
    """Closes a connection if the head of a request is not complete in time.

    uvicorn closes idle connections, but stops its timer at the first byte of a request; here it runs to the end of the
    head, at which uvicorn stops it as well.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        self.conn.receive_data(data)
        self.handle_events()
