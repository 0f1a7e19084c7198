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
from ..monitoring.drift import Drift, Reference, expert_signals, signals
from ..monitoring.shadow_report import FEEDBACK
from .analysis import Analyser
from .app import create_app
from .authentication import Token, check_host
from .batching import Batcher
from .calls import Call, emotion_labels
from .candidate import Candidate
from .feedback import Feedback
from .gate import Gate
from .limits import Limits
from .logs import log_call, log_drift, logger, start_logging
from .metrics import PRIMARY, SHADOW, Metrics
from .recording import Recorder
from .shadow import Comparison, Shadow, ShadowOptions

HEAD_SECONDS = 10  # for the head of a request, and until the next request of a connection
KEEPS_AUDIO = "The record of shadow mode has the recordings themselves: keep them only with the callers' consent."
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
        feedback_file: where corrections are appended; None is `feedback.jsonl` of `record`, or refuses them.
        detector: name of the voice activity detector, and its factory; None for that of the pipeline.
        candidate: the model of shadow mode; None for none.
        shadow: limits of shadow mode.
        record: folder of the record of shadow mode; None keeps none.
        records_audio: whether the record has the recordings.
        reference: what drift is measured against; None measures none.
    """

    limits: Limits = field(default_factory=Limits)
    batch_seconds: float | None = None
    max_wait_ms: float = 5.0
    token: Token | None = None
    feedback_file: Path | None = None
    detector: tuple[str, DetectorFactory | None] = ("level", None)
    candidate: Candidate | None = None
    shadow: ShadowOptions = field(default_factory=ShadowOptions)
    record: Path | None = None
    records_audio: bool = False
    reference: Reference | None = None


class Service:
    """The service and its parts.

    Args:
        pipe: the primary model; None for shadow mode without one, in which requests are accepted and nothing is told.
        options: options of the service.

    Attributes:
        gate: the service as an ASGI application.

    Raises:
        OSError: the feedback file or the record cannot be written.
        ValueError: feedback needs a model with the task emotion, or the reference is of a model with other emotions.
    """

    def __init__(self, pipe: SpeechEnhancementAndEmotionPipeline | None, options: ServiceOptions):
        self._options = options
        self._labels = [] if pipe is None else emotion_labels(pipe.model.config)
        self._metrics = Metrics(lambda: self.gate.length, None if pipe is None else pipe.device)
        self._analyser = None if pipe is None else self._new_analyser(pipe)
        self._drift = self._new_drift()
        self._shadow = self._new_shadow()
        self._recorder = None if options.record is None else Recorder(options.record, options.records_audio)
        self._feedback = self._new_feedback()
        app = create_app(self._analyser, self._shadow, self._metrics, options.limits, self._feedback, self.close)
        self.gate = Gate(app, options.token, options.limits)
        self.gate.observers.append(self._observe)

    def _new_analyser(self, pipe: SpeechEnhancementAndEmotionPipeline) -> Analyser:
        options, on_cpu = self._options, pipe.device.type == "cpu"
        seconds = options.batch_seconds
        if seconds is None:
            seconds = PASS_SECONDS if on_cpu else BATCH_SECONDS
        batcher = Batcher(seconds, options.max_wait_ms, self._metrics.observe_batch)
        self._metrics.start_at_zero(PRIMARY, self._labels)
        return Analyser(pipe, options.detector, options.limits, batcher)

    def _new_drift(self) -> Drift | None:
        reference = self._options.reference
        if reference is None:
            return None
        if self._analyser is not None and sorted(self._labels) != sorted(reference.labels):
            raise ValueError(
                f"The reference has the emotions {', '.join(reference.labels)}, and the model "
                f"{', '.join(self._labels)}: make one of this model with sparse-merit monitor-reference."
            )
        drift = Drift(reference, log_drift)
        self._metrics.add_drift(drift)
        return drift

    def _new_shadow(self) -> Shadow | None:
        if self._options.candidate is None:
            return None
        shadow = Shadow(
            self._options.candidate,
            self._options.shadow,
            on_comparison=self._compare,
            on_drop=self._metrics.count_dropped,
            on_restart=self._metrics.count_restart,
            on_loaded=lambda description: self._metrics.start_at_zero(SHADOW, description.labels),
        )
        self._metrics.add_shadow(shadow)
        return shadow

    def _new_feedback(self) -> Feedback | None:
        path, record = self._options.feedback_file, self._options.record
        path = record / FEEDBACK if path is None and record is not None else path
        if path is None:
            return None
        if self._analyser is not None and not self._labels:
            raise ValueError("--feedback-file needs a model with the task emotion; this one has another task.")
        model = "" if self._analyser is None else self._analyser.settings.model
        return Feedback(path, self._known_labels, model)

    def _known_labels(self) -> list[str]:
        """The emotions of both models."""
        return list(dict.fromkeys([*self._labels, *(self._shadow.labels if self._shadow else ())]))

    def _observe(self, call: Call) -> None:
        """Notes a request that has ended, and passes a copy to the candidate."""
        self._metrics.observe(call)
        log_call(call)
        if call.outcome == "ok":
            self._note(call)
        is_copied = self._shadow is not None and call.outcome in ("ok", "accepted") and self._shadow.offer(call)
        if not is_copied:
            call.received = None  # the connection may keep the request

    def _compare(self, comparison: Comparison) -> None:
        """Notes a comparison, in the thread of the candidate."""
        self._metrics.observe_comparison(comparison)
        if self._analyser is None and comparison.candidate.outcome == "ok":
            self._note(comparison.candidate)
        if self._recorder is not None:
            try:
                self._recorder.add(comparison)
            except Exception:
                self._metrics.count_unrecorded()
                raise

    def _note(self, call: Call) -> None:
        """Remembers the results of the model in charge for feedback and drift."""
        if self._feedback is not None:
            self._feedback.remember(call)
        if self._drift is not None:
            labels, experts = self._drift.reference.labels, expert_signals(call.expert_frames)
            for place, record in enumerate(call.records):
                self._drift.add(signals(record, labels) | (experts if place == 0 else {}))

    def close(self) -> None:
        """Ends the candidate and the record, after the last request. May be repeated."""
        if self._shadow is not None:
            self._shadow.close()
        if self._recorder is not None:
            self._recorder.close()


def serve(pipe: SpeechEnhancementAndEmotionPipeline | None, options: ServiceOptions, host: str, port: int) -> None:
    """Runs the service until SIGTERM or Ctrl-C; requests that have begun are finished.

    Args:
        pipe: the primary model; None for shadow mode without one.
        options: options of the service.
        host: address to bind to.
        port: port to bind to.

    Raises:
        OSError: the feedback file or the record cannot be written.
        ValueError: the address needs a token, or see `Service`.
        SystemExit: the port is taken.
    """
    check_host(host, options.token)
    service = Service(pipe, options)
    start_logging()
    logger.warning("notice", extra={"fields": {"notice": LAWFUL_USE}})
    if options.records_audio:
        logger.warning("notice", extra={"fields": {"notice": KEEPS_AUDIO}})
    try:
        uvicorn.Server(configuration(service.gate, options.limits, host, port)).run()
    finally:
        service.close()  # uvicorn does not, if it is interrupted twice


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
