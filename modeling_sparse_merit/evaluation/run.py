# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The evaluation itself: condition by condition, batch by batch, each finished condition on disk before the next."""

import json
import multiprocessing
import os
import shlex
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from tqdm.auto import tqdm

from .. import __version__
from ..metrics import SPEECH_MEASURES, speech_scores
from .conditions import Clips, Condition, Example, Listener, list_conditions, load_noise, table_sha256
from .configuration import EvaluationConfig
from .report import print_report, summarise_condition, write_json
from .systems import CheckpointSystem, SystemAnswer

PACKAGES = (
    *("torch", "transformers", "datasets", "numpy", "scipy", "soundfile", "soxr", "audiomentations"),
    *("pesq", "pystoi", "scikit-learn"),
)
FINGERPRINT_KEY = b"sparse_merit_fingerprint"


def evaluate(config_path: str | Path, output: str | Path | None = None, **overrides: Any) -> dict:
    """Measure a checkpoint on clean and noisy clips: emotion recognition and enhancement, with 95 % intervals.

    Each condition's clips are written to `OUTPUT/clips/CONDITION.parquet` when it is finished; a run that was
    interrupted goes on with the next condition. The summary is written to `OUTPUT/results.json` and printed.

    Args:
        config_path: YAML file with the fields of `EvaluationConfig`.
        output: folder of the results, in place of the configured one.
        overrides: fields of `EvaluationConfig` in place of the configured ones; None leaves the configured value.

    Returns:
        What `results.json` holds.

    Raises:
        ValueError: a field is invalid, or the folder holds results of other settings, weights or data.
        ImportError: a package of the extras `train` (mixing, tables) or `metrics` is not installed.
    """
    config = EvaluationConfig.from_yaml(config_path, output=output, **overrides)
    system = CheckpointSystem(config.model, config.labels, config.device)
    clips, noise = Clips(config, system.labels), load_noise(config)
    record = _record(config, system, clips, noise)
    files = {}
    for condition in list_conditions(config):
        files[condition] = Path(config.output) / "clips" / f"{condition.name}.parquet"
        _check_same_run(files[condition], _fingerprint(record, condition))
    with _scoring_processes(config.workers or os.cpu_count() or 1) as executor:
        for condition, path in files.items():
            if not path.exists():
                listener = Listener(clips, condition, noise.get(condition.pool), config.seed)
                rows = evaluate_condition(system, clips, condition, listener, config.batch_seconds, executor)
                _write_rows(path, rows, _fingerprint(record, condition))
    summaries = [
        summarise_condition(pq.read_table(path).to_pylist(), condition, system.labels, config)
        for condition, path in files.items()
    ]
    report = {**record, "conditions": summaries}
    write_json(Path(config.output) / "results.json", report)
    print_report(report)
    return report


def evaluate_condition(
    system: CheckpointSystem,
    clips: Clips,
    condition: Condition,
    listener: Listener,
    batch_seconds: float,
    executor: Executor,
) -> list[dict]:
    """One row of results for each clip, in the order of the speech tables."""
    rows, pending = [], deque()
    backlog = 256  # clips whose scores are awaited; more would only fill the memory
    with tqdm(total=len(clips.rows), desc=condition.name, unit="clip") as progress:
        for batch in clips.batches(batch_seconds):
            examples = [listener.example(row) for row in batch]
            answers = system.answer([example.noisy for example in examples])
            for example, answer in zip(examples, answers, strict=True):
                row = _clip_row(clips, example) | _answer_row(system, answer)
                pending.append((row, _submit_scores(executor, condition, example, answer)))
            while len(pending) > backlog:
                rows.append(_finished_row(*pending.popleft(), progress))
        rows += [_finished_row(*waiting, progress) for waiting in pending]
    return sorted(rows, key=lambda row: row["row"])


def _clip_row(clips: Clips, example: Example) -> dict:
    return {**clips.describe(example.row), "samples": len(example.noisy), "mixture": example.mixture}


def _answer_row(system: CheckpointSystem, answer: SystemAnswer) -> dict:
    row = {"predicted": None}
    if answer.probabilities is not None:
        row["predicted"] = system.labels[int(answer.probabilities.argmax())]
        row |= {
            f"probability_{label}": float(value)
            for label, value in zip(system.labels, answer.probabilities, strict=True)
        }
    row["frames"] = answer.num_frames
    for task, shares in answer.expert_use.items():
        row |= {f"expert_{task}_{expert}": float(share) for expert, share in enumerate(shares)}
    return row


def _submit_scores(
    executor: Executor, condition: Condition, example: Example, answer: SystemAnswer
) -> dict[str, Future | None]:
    """The clean recordings are their own reference, so there the input has no score."""
    heard = None if condition.pool is None else executor.submit(speech_scores, example.clean, example.noisy)
    enhanced = None if answer.enhanced is None else executor.submit(speech_scores, example.clean, answer.enhanced)
    return {"noisy": heard, "enhanced": enhanced}


def _finished_row(row: dict, futures: dict[str, Future | None], progress: tqdm) -> dict:
    for side, future in futures.items():
        scores = dict.fromkeys(SPEECH_MEASURES) if future is None else future.result()
        row |= {f"{side}_{name}": score for name, score in scores.items()}
    progress.update()
    return row


class _InProcess(Executor):
    """Scores at once, in this process."""

    def submit(self, function, /, *arguments) -> Future:
        future = Future()
        future.set_result(function(*arguments))
        return future


@contextmanager
def _scoring_processes(workers: int) -> Iterator[Executor]:
    if workers == 1:
        yield _InProcess()
        return
    # not "fork": the parent runs torch's threads, and their locks do not survive a fork
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    executor = ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context(method))
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


def _record(config: EvaluationConfig, system: CheckpointSystem, clips: Clips, noise: dict[str, Dataset]) -> dict:
    """What was measured, with what."""
    described = [clips.describe(row) for row in clips.rows]
    labelled = [clip["emotion"] for clip in described if clip["emotion"] is not None]
    return {
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "config": config.record(),
        "model": system.describe(),
        "labels": system.labels,
        "clips": {
            "evaluated": len(described),
            "labelled": {label: labelled.count(label) for label in system.labels},
            "speakers": len({clip["speaker"] for clip in described} - {None}),
            "sha256": clips.sha256,
        },
        "noise": {pool: {"recordings": len(table), "sha256": table_sha256(table)} for pool, table in noise.items()},
        "versions": {"modeling-sparse-merit": __version__, **{name: _version(name) for name in PACKAGES}},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _fingerprint(record: dict, condition: Condition) -> dict[str, Any]:
    """Everything that determines a condition's rows, but not the other conditions: a pool or an SNR can be added."""
    settings = ("speech_split", "noise_split", "clips", "max_clips", "seed", "batch_seconds")
    return {
        "condition": condition.name,
        "model": {name: value for name, value in record["model"].items() if name != "name"},
        "labels": record["labels"],
        "speech": record["clips"]["sha256"],
        "noise": None if condition.pool is None else record["noise"][condition.pool]["sha256"],
        "settings": {name: record["config"][name] for name in settings},
        "package versions": record["versions"],
    }


def _check_same_run(path: Path, fingerprint: dict[str, Any]):
    if not path.exists():
        return
    found = json.loads((pq.read_schema(path).metadata or {}).get(FINGERPRINT_KEY, b"{}"))
    different = [name for name, value in fingerprint.items() if found.get(name) != value]
    if different:
        raise ValueError(
            f"{path} holds results of another run (different: {', '.join(different)}). "
            "Choose another `output` folder, or delete this one to measure again."
        )


def _write_rows(path: Path, rows: list[dict], fingerprint: dict[str, Any]):
    table = pa.Table.from_pylist(rows).replace_schema_metadata({FINGERPRINT_KEY: json.dumps(fingerprint)})
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    pq.write_table(table, temporary)
    os.replace(temporary, path)
