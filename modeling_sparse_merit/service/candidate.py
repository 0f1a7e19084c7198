# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The candidate of shadow mode: a model in a process of its own, which analyses copies of recordings.

Messages are JSON and raw bytes. Nothing that the candidate sends is unpickled, as it may run code of its checkpoint.
"""

import json
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers.utils import logging as transformers_logging

from ..inference.results import settings_of
from ..metrics import UndefinedScoreWarning, si_sdr
from ..models.sparse_merit.audio import SAMPLING_RATE
from ..models.sparse_merit.pipeline_sparse_merit import SpeechEnhancementAndEmotionPipeline
from ..models.sparse_merit.streaming import DetectorFactory
from .calls import Call, emotion_labels
from .limits import Limits, Refusal
from .logs import log_error, start_logging
from .responses import wav_bytes
from .tracks import Track, decode

PACKAGE = __name__.partition(".")[0]
LOWEST_PRIORITY = 19
LARGEST_DB = 100.0


@dataclass(frozen=True)
class Candidate:
    """The model of shadow mode.

    Args:
        source: folder or Hub id of a checkpoint.
        revision: branch or commit of a model on the Hub.
        device: torch device; None is the fastest available.
        precision: "fp32", "bf16" or "int8".
        detector: name of the voice activity detector, and its factory; None for that of the pipeline.
        limits: the longest recording.
        threads: CPU threads of the model.
        further_tasks: names or files of tasks to add.
        niceness: 19 is the lowest priority of the CPU, 0 that of the service.
    """

    source: str | Path
    revision: str | None = None
    device: str | None = None
    precision: str = "fp32"
    detector: tuple[str, DetectorFactory | None] = ("level", None)
    limits: Limits = Limits()
    threads: int = 1
    further_tasks: Sequence[str] = ()
    niceness: int = LOWEST_PRIORITY


def run(candidate: Candidate, connection: Connection) -> None:
    """Analyses recordings until the connection is closed.

    The first message sent is a description of the candidate. Then a message with options, the file and the enhanced
    speech of the primary model come in, and one with the result goes out.

    Args:
        candidate: the model.
        connection: to the service.
    """
    _yield_to_the_service(candidate.niceness)
    start_logging(os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1))
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a checkpoint prints is no line of the log
    logging.getLogger(PACKAGE).setLevel(logging.ERROR)  # no notice of a licence; that of the service has its own level
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    torch.set_num_threads(candidate.threads)
    analyser = _Analyser(candidate)
    _send(connection, analyser.description)
    with suppress(EOFError):
        while True:
            options = json.loads(connection.recv_bytes())
            content = connection.recv_bytes()
            primary = [np.frombuffer(connection.recv_bytes(), np.float32) for _ in range(options["enhanced"])]
            _send(connection, analyser.analyse(content, options, primary))


def _send(connection: Connection, message: dict[str, Any]) -> None:
    connection.send_bytes(json.dumps(message).encode())


def _yield_to_the_service(niceness: int) -> None:
    """The kernel prefers the service to this process, for CPU and memory. The process ends with its parent."""
    for ignored in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)  # the service ends it
    if hasattr(os, "setpgid"):
        os.setpgid(0, 0)  # so that it is ended together with processes of its own
    if hasattr(os, "nice"):
        os.nice(niceness)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    service = multiprocessing.parent_process()
    assert service is not None and service.pid is not None  # it has started this process
    threading.Thread(target=_end_with, args=(service.pid,), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


class _Analyser:
    """Analyses recordings one after another, without batching."""

    def __init__(self, candidate: Candidate):
        self._candidate = candidate
        self._pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(
            candidate.source,
            device=candidate.device,
            dtype=candidate.precision,
            revision=candidate.revision,
            further_tasks=candidate.further_tasks,
        )
        vad, self._detector = candidate.detector
        self._settings = settings_of(self._pipe, vad=vad)
        self._model_of = cache(self._new_model)
        noise = np.random.default_rng(0).normal(0, 0.01, SAMPLING_RATE)
        options = {"channel": "mix", "min_score": 0.0, "tasks": None}
        self._analysed(wav_bytes(noise), options, Call())  # the first analysis is slow

    @property
    def description(self) -> dict[str, Any]:
        """Model, settings and labels."""
        config, integration = self._pipe.model.config, self._pipe.model.model.integration
        experts = {task: router.out_features for task, router in getattr(integration, "routers", {}).items()}
        facts = {"model": self._settings.model, "settings_hash": self._settings.hash}
        return {**facts, "labels": emotion_labels(config), "experts": experts}

    def _new_model(self, tasks: tuple[str, ...]) -> Any:
        return self._pipe.window_model(tasks, self._detector, returns_expert_use=True)

    def analyse(self, content: bytes, options: dict[str, Any], primary: Sequence[np.ndarray]) -> dict[str, Any]:
        """The result of a recording, or the status of its failure.

        Args:
            content: the file.
            options: channel, min_score and tasks of the request; tasks of other models are ignored.
            primary: enhanced speech of the primary model for each track; none if it was not computed.
        """
        call = Call()
        try:
            tracks = self._analysed(content, options, call)
        except Refusal as refusal:
            return {"status": refusal.status}
        except Exception as error:  # of one recording
            log_error(error)
            return {"status": 500}
        call.add_results(tracks)
        pairs = zip(primary, [track.enhanced for track in tracks], strict=False)
        return {
            "status": 200,
            "stages": call.stages,
            "records": call.outlines,
            "audio_seconds": call.audio_seconds,
            "expert_frames": {task: frames.tolist() for task, frames in call.expert_frames.items()},
            "si_sdr": [_similarity(reference, enhanced) for reference, enhanced in pairs],
        }

    def _analysed(self, content: bytes, options: dict[str, Any], call: Call) -> list[Track]:
        known = self._pipe.model.config.tasks
        asked = known if options["tasks"] is None else options["tasks"]
        model = self._model_of(tuple(task for task in known if task in asked) or tuple(known))
        with call.stage("total"):
            with call.stage("decode"):
                decoded = decode(content, options["channel"], self._candidate.limits, threading.Event())
            tracks = [Track(each, self._pipe, model, options["min_score"], self._detector) for each in decoded]
            with call.stage("model"):
                for track in tracks:
                    while track.left:
                        window = track.left.popleft()
                        track.add(window, *model.run([window]))
        return tracks


def _similarity(primary: np.ndarray, candidate: np.ndarray) -> float | None:
    """SI-SDR in dB of the candidate's enhanced speech, with the primary's as reference, within 100 dB; None if one of
    them is missing or silent."""
    if len(primary) != len(candidate) or not len(primary):
        return None
    with warnings.catch_warnings(action="ignore", category=UndefinedScoreWarning):
        value = si_sdr(primary, candidate)
    return None if np.isnan(value) else round(float(np.clip(value, -LARGEST_DB, LARGEST_DB)), 2)
