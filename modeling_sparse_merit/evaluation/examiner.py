# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""One system in one condition: what it answers about every clip and how that scores, one row a clip. The batches are
shared by the processes of `accelerate launch`, the scoring of each is spread over further ones."""

import multiprocessing
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import gather_object
from threadpoolctl import threadpool_limits
from tqdm.auto import tqdm

from ..data.mixing import SAMPLING_RATE
from ..metrics import speech_scores
from ..models.sparse_merit.audio import write_audio
from .conditions import Condition, Example
from .configuration import EvaluationConfig
from .noisy_set import FrozenTestSet
from .predictions import Prediction, System
from .systems import NoisyInput
from .task_scores import PREFIX

BACKLOG = 256  # clips whose scores are awaited; more would only fill the memory


@dataclass(frozen=True)
class Measurement:
    """One member of one system in one condition.

    Attributes:
        system: what the configuration calls it.
        member: 0, or the number of the seed.
        condition: what the clips are heard in.
        path: the file of its rows.
        fingerprint: all that determines them.
        example: where to write the enhanced speech of one clip, to be heard and looked at; None for no such file.
    """

    system: str
    member: int
    condition: Condition
    path: Path
    fingerprint: dict[str, Any]
    example: Path | None


class Examiner:
    """Lets systems hear the test set.

    Args:
        config: of the evaluation.
        labels: the emotion classes.
        test_set: what is heard.
        state: the processes that share the batches.
        executor: computes scores.
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
        """One row of results for each clip, in the order of their numbers; the same in every process.

        Args:
            system: what is examined.
            measurement: says in which condition.
            title: what the progress bar calls the system.
        """
        condition = measurement.condition
        batches = self.test_set.batches(condition, self.config.batch_seconds)
        # whole batches: a clip's answer depends, in its last bits, on what it is padded with
        mine = batches[self.state.process_index :: self.state.num_processes]
        rows, pending = [], deque()
        hidden = None if self.state.is_main_process else True  # None: where stderr is no terminal
        with tqdm(
            total=sum(map(len, mine)), desc=f"{title} {condition.name}", unit="clip", disable=hidden
        ) as progress:
            for batch in mine:
                pending.extend(self._answered(system, measurement, batch))
                while len(pending) > BACKLOG:
                    rows.append(self._finished(*pending.popleft(), progress))
            rows += [self._finished(*waiting, progress) for waiting in pending]
        return sorted(gather_object(rows), key=lambda row: row["row"])

    def _answered(
        self, system: System, measurement: Measurement, batch: list[int]
    ) -> list[tuple[dict, Future | None]]:
        """For each clip of a batch its row so far, and the scores to come."""
        condition = measurement.condition
        examples = [self.test_set.example(condition, row) for row in batch]
        answers = system.predict([example.noisy for example in examples])
        answered = []
        for example, answer in zip(examples, answers, strict=True):
            row = self.test_set.describe(condition, example.row) | {"samples": len(example.noisy)}
            # clean speech is its own reference: as it is, it has no score
            unscored = answer.enhanced is None or (condition.is_its_target and isinstance(system, NoisyInput))
            answered.append((row | self._answer_row(answer), None if unscored else self._submit(example, answer)))
            if measurement.example and example.row == self.test_set.shown_clip and answer.enhanced is not None:
                measurement.example.parent.mkdir(parents=True, exist_ok=True)
                write_audio(measurement.example, answer.enhanced, SAMPLING_RATE)
        return answered

    def _answer_row(self, answer: Prediction) -> dict:
        row = {"predicted": None}
        if answer.probabilities is not None:
            row["predicted"] = self.labels[int(answer.probabilities.argmax())]
            pairs = zip(self.labels, answer.probabilities, strict=True)
            row |= {f"probability_{label}": float(value) for label, value in pairs}
        row |= {f"{PREFIX}{task}": output for task, output in answer.task_outputs.items()}
        row["frames"] = answer.num_frames
        for task, shares in answer.expert_use.items():
            row |= {f"expert_{task}_{expert}": float(share) for expert, share in enumerate(shares)}
        return row

    def _submit(self, example: Example, answer: Prediction) -> Future:
        return self.executor.submit(speech_scores, example.clean, answer.enhanced, self.config.measures)

    def _finished(self, row: dict, scores: Future | None, progress: tqdm) -> dict:
        found = dict.fromkeys(self.config.measures) if scores is None else scores.result()
        progress.update()
        return row | {f"enhanced_{name}": score for name, score in found.items()}


class _InProcess(Executor):
    """Scores at once, in this process."""

    def submit(self, function, /, *arguments) -> Future:
        future = Future()
        future.set_result(function(*arguments))
        return future


@contextmanager
def scoring_processes(workers: int) -> Iterator[Executor]:
    """Processes that compute speech measures; of one, this one does it."""
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
    """One thread for the linear algebra of numpy and scipy: with more, the last bits of a sum may differ."""
    import scipy.linalg  # noqa: F401, only a library that is loaded can be limited

    return threadpool_limits(1, user_api="blas")
