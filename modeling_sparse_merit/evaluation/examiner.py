# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Evaluates one system in one condition: predictions and scores of every clip, one row per clip. Batches are
distributed over the processes of `accelerate launch`; each process distributes the scoring over worker processes."""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
from accelerate import PartialState
from accelerate.utils import gather_object
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from ..data.mixing import SAMPLING_RATE
from ..metrics import speech_scores
from ..models.sparse_merit.audio import write_audio
from .conditions import Condition, Example
from .configuration import EvaluationConfig
from .noisy_set import TEXT, FrozenTestSet
from .predictions import Prediction, System
from .systems import NoisyInput, SpeechTextSystem
from .task_scores import PREFIX

P = ParamSpec("P")
T = TypeVar("T")
BACKLOG = 256  # clips with pending scores, which bounds the memory


@dataclass(frozen=True)
class Measurement:
    """One member of one system in one condition.

    Attributes:
        system: name in the configuration.
        member: index of the seed, from 0.
        condition: the test condition.
        path: file of the rows.
        fingerprint: everything that determines the rows.
        example: where to write the enhanced speech of one example clip; None writes none.
    """

    system: str
    member: int
    condition: Condition
    path: Path
    fingerprint: dict[str, Any]
    example: Path | None


class Examiner:
    """Runs systems on the test set.

    Args:
        config: settings of the evaluation.
        labels: the emotion classes.
        test_set: the clips.
        state: the processes that the batches are distributed over.
        executor: computes the scores.
    """

    def __init__(
        self,
        config: EvaluationConfig,
        labels: list[str],
        test_set: FrozenTestSet,
        state: PartialState,
        executor: Executor,
    ):
        self.config, self.labels, self.test_set = config, labels, test_set
        self.state, self.executor = state, executor

    def rows(self, system: System, measurement: Measurement, title: str) -> list[dict]:
        """One row of results per clip, ordered by clip number; the same in every process.

        Args:
            system: the system to evaluate.
            measurement: the condition and the files to write.
            title: name of the system in the progress bar.
        """
        condition = measurement.condition
        batches = self.test_set.batches(condition, self.config.batch_seconds)
        # whole batches: the last bits of a clip's output depend on the padding
        own = batches[self.state.process_index :: self.state.num_processes]
        rows: list[dict] = []
        pending: deque[tuple[dict, Future | None]] = deque()
        hidden = None if self.state.is_main_process else True  # None: where stderr is no terminal
        with tqdm(total=sum(map(len, own)), desc=f"{title} {condition.name}", unit="clip", disable=hidden) as progress:
            for batch in own:
                pending.extend(self._predicted(system, measurement, batch))
                while len(pending) > BACKLOG:
                    rows.append(self._finished(*pending.popleft(), progress))
            rows += [self._finished(*waiting, progress) for waiting in pending]
        return sorted(gather_object(rows), key=lambda row: row["row"])

    def _predicted(
        self, system: System, measurement: Measurement, batch: list[int]
    ) -> list[tuple[dict, Future | None]]:
        """For each clip of a batch, its row without scores, and its pending scores."""
        condition = measurement.condition
        examples = [self.test_set.example(condition, row) for row in batch]
        predictions = _predict(system, examples)
        predicted = []
        for example, prediction in zip(examples, predictions, strict=True):
            row = self.test_set.describe(condition, example.row) | {"samples": len(example.noisy)}
            enhanced = prediction.enhanced
            # unchanged clean speech equals its reference, so it has no score
            is_reference = condition.is_its_target and isinstance(system, NoisyInput)
            scores = None if enhanced is None or is_reference else self._submit(example.clean, enhanced)
            predicted.append((row | self._prediction_row(prediction), scores))
            if measurement.example and example.row == self.test_set.shown_clip and enhanced is not None:
                measurement.example.parent.mkdir(parents=True, exist_ok=True)
                write_audio(measurement.example, enhanced, SAMPLING_RATE)
        return predicted

    def _prediction_row(self, prediction: Prediction) -> dict:
        row: dict[str, Any] = {"predicted": None}
        if prediction.probabilities is not None:
            row["predicted"] = self.labels[int(np.nanargmax(prediction.probabilities))]
            for label, value in zip(self.labels, prediction.probabilities, strict=True):
                row[f"probability_{label}"] = None if np.isnan(value) else float(value)
        row |= {f"{PREFIX}{task}": output for task, output in prediction.task_outputs.items()}
        row["frames"] = prediction.num_frames
        for task, shares in prediction.expert_use.items():
            row |= {f"expert_{task}_{expert}": float(share) for expert, share in enumerate(shares)}
        return row

    def _submit(self, clean: np.ndarray, enhanced: np.ndarray) -> Future:
        return self.executor.submit(speech_scores, clean, enhanced, self.config.measures)

    def _finished(self, row: dict, scores: Future | None, progress: tqdm) -> dict:
        values = dict.fromkeys(self.config.measures) if scores is None else scores.result()
        progress.update()
        return row | {f"enhanced_{name}": score for name, score in values.items()}


def _predict(system: System, examples: list[Example]) -> list[Prediction]:
    """Predictions for a batch of clips."""
    recordings = [example.noisy for example in examples]
    if isinstance(system, SpeechTextSystem):
        return system.predict(recordings, [example.facts[TEXT] for example in examples])
    return system.predict(recordings)


class _InProcess(Executor):
    """Computes scores immediately, in this process."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        future: Future[T] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


@contextmanager
def scoring_processes(workers: int) -> Iterator[Executor]:
    """Worker processes that compute speech measures; with one worker, the current process does."""
    if workers == 1:
        yield _InProcess()
        return
    # not "fork": the parent runs torch's threads, and their locks do not survive a fork
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    executor = ProcessPoolExecutor(workers, mp_context=context, initializer=limit_blas)
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


def limit_blas() -> threadpool_limits:
    """Limits the linear algebra of numpy and scipy to one thread: with more, the last bits of a sum may differ."""
    import scipy.linalg  # noqa: F401, only a library that is loaded can be limited

    return threadpool_limits(1, user_api="blas")
