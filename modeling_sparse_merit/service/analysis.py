# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Analysis of recordings: decoding and encoding in worker threads, the model in one thread."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

from ..inference.results import SCHEMA_VERSION, settings_of
from ..inference.tracks import Treatment
from ..models.sparse_merit.audio import SAMPLING_RATE
from ..models.sparse_merit.pipeline_sparse_merit import SpeechEnhancementAndEmotionPipeline
from ..models.sparse_merit.streaming import DetectorFactory, WindowModel
from ..models.sparse_merit.tasks import ENHANCEMENT
from .batching import Batcher, Job
from .calls import Call, Received
from .limits import Limits, Refusal
from .logs import log_error
from .receiving import recording_of
from .responses import encoded, wav_bytes
from .schemas import Options
from .tracks import Decoded, Track, decode

WORKERS = 4  # threads that decode and encode


class Analyser:
    """Analyses recordings.

    Args:
        pipe: the pipeline.
        detector: name of the voice activity detector, and its factory; None for that of the pipeline.
        limits: what is accepted.
        batcher: runs the model.

    Attributes:
        settings: model and options that all results depend on.
        is_ready: whether the model has processed a first recording.
    """

    def __init__(
        self,
        pipe: SpeechEnhancementAndEmotionPipeline,
        detector: tuple[str, DetectorFactory | None],
        limits: Limits,
        batcher: Batcher,
    ):
        vad, self._detector = detector
        self._pipe, self._limits, self._batcher = pipe, limits, batcher
        self.settings = settings_of(pipe, vad=vad)
        self.is_ready = False
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="worker")
        self._model_of = cache(self._new_model)

    async def start(self) -> None:
        """Starts the model's thread, and warms the model up with a second of noise."""
        self._batcher.start()
        noise = wav_bytes(np.random.default_rng(0).normal(0, 0.01, SAMPLING_RATE))
        await self._analyse(noise, "audio/wav", Options.model_validate({}), Call(), threading.Event())
        self.is_ready = True

    def close(self) -> None:
        """Ends all threads, after the requests that have begun."""
        self.is_ready = False
        self._batcher.close()
        self._workers.shutdown()

    async def analyse(
        self, body: bytes, content_type: str, options: Options, call: Call
    ) -> tuple[dict[str, Any], list[bytes]]:
        """Analyses the recording in a body. Cancelling it stops decoding and frees its place in the queue.

        Args:
            body: the body of the request.
            content_type: value of its header.
            options: options of the request.
            call: filled with facts.

        Returns:
            an `Analysis` without audio, and the file of the enhanced speech of each result, if requested.

        Raises:
            Refusal: the recording or the options are invalid, the analysis takes too long, or the model fails.
        """
        is_cancelled = threading.Event()
        try:
            async with asyncio.timeout(self._limits.analysis_seconds):
                return await self._analyse(body, content_type, options, call, is_cancelled)
        except TimeoutError:
            raise Refusal(504, f"The analysis took more than {self._limits.analysis_seconds:g} s.") from None
        finally:
            is_cancelled.set()

    async def _analyse(
        self, body: bytes, content_type: str, options: Options, call: Call, is_cancelled: threading.Event
    ) -> tuple[dict[str, Any], list[bytes]]:
        model = self._model_of(self._tasks(options))
        with call.stage("total"):
            with call.stage("decode"):
                content = await self._in_worker(recording_of, body, content_type)
                decoded = await self._in_worker(self._decoded, content, options, is_cancelled, call)
            tracks = [self._track(each, model, options) for each in decoded]
            await self._run(Job(tracks), call)
            files = await self._in_worker(_files, tracks, options)
        call.add_results(tracks)
        call.received = Received(content, options.channel, options.min_score, options.tasks, tracks)
        return self._body(options, call), files

    def _tasks(self, options: Options) -> tuple[str, ...]:
        """The tasks to compute, in the order of the model."""
        known = self._pipe.model.config.tasks
        chosen = tuple(known) if options.tasks is None else tuple(task for task in known if task in options.tasks)
        if not chosen or not set(options.tasks or ()) <= set(known):
            raise Refusal(422, f"`tasks` must be some of {', '.join(known)}.")
        if options.audio is not None and ENHANCEMENT not in chosen:
            raise Refusal(422, f"`audio` needs the task {ENHANCEMENT}; the tasks are {', '.join(chosen)}.")
        return chosen

    def _new_model(self, tasks: tuple[str, ...]) -> WindowModel:
        return self._pipe.window_model(tasks, self._detector, returns_expert_use=True)

    def _track(self, decoded: Decoded, model: WindowModel, options: Options) -> Track:
        return Track(decoded, self._pipe, model, options.min_score, self._detector)

    async def _in_worker(self, work: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._workers, work, *arguments)

    def _decoded(self, content: bytes, options: Options, is_cancelled: threading.Event, call: Call) -> list[Decoded]:
        begun = time.perf_counter()
        decoded = decode(content, options.channel, self._limits, is_cancelled)
        call.work_seconds += time.perf_counter() - begun
        return decoded

    async def _run(self, job: Job, call: Call) -> None:
        """Runs the model; the future of the job is cancelled with this task."""
        self._batcher.submit(job)
        try:
            await asyncio.wrap_future(job.done)
        except Exception as error:
            log_error(error)
            raise Refusal(500, "The model failed on this recording.") from None
        assert job.begun is not None  # it has ended
        call.work_seconds += job.work_seconds
        call.stages |= {"queue": job.begun - job.submitted, "model": job.ended - job.begun}

    def _body(self, options: Options, call: Call) -> dict[str, Any]:
        treatment = Treatment(channel=options.channel, min_score=options.min_score)
        settings = replace(self.settings, facts={**self.settings.facts, **treatment.facts})
        hidden = () if options.segments else ("segments",)
        results = [{name: value for name, value in record.items() if name not in hidden} for record in call.records]
        facts = {"schema_version": SCHEMA_VERSION, "model": settings.model, "settings_hash": settings.hash}
        return {"id": call.id, **facts, "results": results}


def _files(tracks: list[Track], options: Options) -> list[bytes]:
    return [] if options.audio is None else [encoded(track, options.audio) for track in tracks]
