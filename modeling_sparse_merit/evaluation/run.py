# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Runs an evaluation on one process or several: all systems in all conditions. Each finished condition is written to
disk before the next one starts."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import PartialState

from ..files import remove_unfinished
from ..models.sparse_merit.audio import load_audio
from ..models.sparse_merit.tasks import Task, columns_of
from ..plotting.spectrograms import plot_spectrogram_rows
from ..plotting.style import save_figure
from .conditions import Condition
from .configuration import NOISY, EvaluationConfig
from .conversations import are_conversations, evaluate_conversations
from .examiner import Examiner, Measurement, limit_blas, scoring_processes
from .fingerprint import check_same_run, fingerprinted_writer
from .noisy_set import TEXT, FrozenTestSet, load_test_set
from .processes import join_processes
from .report import build_report, print_report, write_report
from .systems import SpeechTextSystem, System, build_systems, list_further_tasks
from .versions import package_versions

SIDES = ("noisy", "enhanced", "clean")


def evaluate(config_path: str | Path, output: str | Path | None = None, **overrides: Any) -> dict[str, Any]:
    """Evaluates emotion recognition and enhancement of systems on clean and noisy clips.

    The results of each condition are written to `OUTPUT/clips/SYSTEM/MEMBER/CONDITION.parquet`. Interrupted runs
    resume with the next condition, and systems, pools and SNRs can be added to a finished run. The report is printed,
    and written to `OUTPUT/results.json`, `OUTPUT/results.md` and `OUTPUT/figures`. `OUTPUT/examples/SYSTEM` holds one
    enhanced clip at the lowest SNR of each pool.

    Conversation models are evaluated on datasets with embeddings, see `evaluate_conversations`.

    Under `accelerate launch`, batches are distributed over the processes; results equal those of a single process.

    Args:
        config_path: YAML file with the fields of `EvaluationConfig`.
        output: folder of the results; None takes the configured one.
        overrides: fields of `EvaluationConfig` that replace the configured ones unless None.

    Returns:
        The content of `results.json`, in every process.

    Raises:
        ValueError: a field is invalid, or the folder holds results of other settings, weights or data.
        ImportError: a package of the extras `train` (mixing, datasets) or `metrics` is not installed.
    """
    config = EvaluationConfig.from_yaml(config_path, output=output, **overrides)
    if are_conversations(config):
        return evaluate_conversations(config)
    state = join_processes(config.device)
    clips = measure_clips(config, state)
    if state.is_main_process:
        with _pinned_threads(config.threads):
            groups = clips.test_set.group_clips(config.subsets)
            report = build_report(clips.record, clips.rows, config, groups, clips.tasks)
            _draw_examples(config, clips.test_set, list(clips.record["systems"]))
            write_report(Path(config.output), report, clips.rows)
            print_report(report)
    state.wait_for_everyone()
    return json.loads((Path(config.output) / "results.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class MeasuredClips:
    """The results of all clips.

    Attributes:
        record: systems, data and versions.
        rows: `{system: [rows of all conditions of each member]}`.
        test_set: the clips in each condition.
        tasks: the further tasks of all systems, by name.
    """

    record: dict[str, Any]
    rows: dict[str, list[list[dict]]]
    test_set: FrozenTestSet
    tasks: dict[str, Task]


def measure_clips(config: EvaluationConfig, state: PartialState) -> MeasuredClips:
    """Measures all systems in all conditions, and writes the results of each clip, but no report.

    Args:
        config: the settings.
        state: the processes, from `join_processes`.

    Raises:
        ValueError: the folder holds results of other settings, weights or data.
    """
    if state.is_main_process:
        remove_unfinished(Path(config.output))
    with _pinned_threads(config.threads):
        with state.main_process_first():  # its test set and caches are then available to the others
            systems, labels = build_systems(config)
            tasks = list_further_tasks(systems, config.task_columns)
            test_set = load_test_set(config, labels, columns_of(tasks))
        _check_texts(systems, test_set)
        described = {name: [member.describe() for member in members] for name, members in systems.items()}
        record = _record(config, described, labels, test_set)
        measurements = _list_measurements(config, record, test_set)
        with scoring_processes(config.workers or max(1, (os.cpu_count() or 1) // state.num_processes)) as executor:
            _measure(systems, measurements, Examiner(config, labels, test_set, state, executor))
    state.wait_for_everyone()
    return MeasuredClips(record, _read_rows(measurements), test_set, tasks)


@contextmanager
def _pinned_threads(threads: int) -> Iterator[None]:
    """Fixes the number of threads: it changes the order of summation, and so the last bits of results."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with limit_blas():
            yield
    finally:
        torch.set_num_threads(before)


def _check_texts(systems: dict[str, list[System]], test_set: FrozenTestSet) -> None:
    """Refuses clips without a text, where a system needs it."""
    needing = [
        name
        for name, members in systems.items()
        if any(isinstance(member, SpeechTextSystem) and member.needs_text for member in members)
    ]
    if needing and (rows := test_set.rows_without_text()):
        raise ValueError(
            f"{len(rows)} of {len(test_set.rows)} clips of {test_set.name} have no `text`, such as clip {rows[0]}, "
            f"which the systems {needing} need. Add the transcripts to the column `text` of the speech datasets, or "
            "evaluate models of speech alone, or of both that were trained with `modality_dropout`."
        )


def _record(
    config: EvaluationConfig, described: dict[str, list[dict]], labels: list[str], test_set: FrozenTestSet
) -> dict[str, Any]:
    """The record of systems, data and versions; the same for any number of processes."""
    return {
        "config": config.record(),
        **({} if config.systems else {"model": described["model"][0]}),
        "systems": described,
        "labels": labels,
        "clips": test_set.count_clips(labels),
        "noise": {pool: {"recordings": count} for pool, count in test_set.count_noises().items()},
        "versions": package_versions(),
    }


def _list_measurements(config: EvaluationConfig, record: dict[str, Any], test_set: FrozenTestSet) -> list[Measurement]:
    """All members of all systems in all conditions.

    Raises:
        ValueError: the folder holds results of another run.
    """
    measurements = []
    for name, members in record["systems"].items():
        for member, description in enumerate(members):
            for condition in test_set.conditions:
                path = Path(config.output) / "clips" / name / str(member) / f"{condition.name}.parquet"
                fingerprint = _fingerprint(record, description, condition, test_set)
                check_same_run(path, fingerprint)
                is_shown = name != NOISY and member == 0 and condition in test_set.shown_conditions
                example = _example_path(config, name, condition) if is_shown else None
                measurements.append(Measurement(name, member, condition, path, fingerprint, example))
    return measurements


def _example_path(config: EvaluationConfig, system: str, condition: Condition) -> Path:
    return Path(config.output) / "examples" / system / f"{condition.name}.wav"


def _fingerprint(
    record: dict[str, Any], description: dict[str, Any], condition: Condition, test_set: FrozenTestSet
) -> dict[str, Any]:
    """Everything that determines the rows of a condition; other systems and conditions can be added later."""
    # systems identified by their weights may have moved
    system = {name: value for name, value in description.items() if name != "name" or "sha256" not in description}
    return {
        "condition": condition.name,
        "system": system,
        "labels": record["labels"],
        **({"labels_from": sources} if (sources := record["config"]["labels_from"]) else {}),
        "clips": test_set.sha256(condition, with_text=TEXT in description.get("modalities", ())),
        "settings": {name: record["config"][name] for name in ("measures", "batch_seconds", "threads")},
        "package versions": record["versions"],
    }


def _measure(systems: dict[str, list[System]], measurements: list[Measurement], examiner: Examiner) -> None:
    """Runs the measurements that are not on disk, releasing each system afterwards to save memory."""
    for name, members in systems.items():
        titles = [f"{name} {member}" for member in range(len(members))] if members[1:] else [name]
        for member, title in enumerate(titles):
            system = members.pop(0)
            for measurement in measurements:
                # all processes check before the main one writes: it waits for the rows of all
                if (measurement.system, measurement.member) == (name, member) and not measurement.path.exists():
                    rows = examiner.rows(system, measurement, title)
                    if examiner.state.is_main_process:
                        _write_rows(measurement, rows)


def _draw_examples(config: EvaluationConfig, test_set: FrozenTestSet, systems: list[str]) -> None:
    """Draws the noisy, enhanced and clean example clip at the lowest SNR of each pool."""
    for system in systems:
        rows = {}
        for condition in test_set.shown_conditions:
            if (path := _example_path(config, system, condition)).exists():
                example = test_set.example(condition, test_set.shown_clip)
                rows[condition.name] = dict(zip(SIDES, (example.noisy, load_audio(path), example.clean), strict=True))
        if rows:
            path = Path(config.output) / "figures" / f"spectrograms_{system}.png"
            with suppress(ImportError):  # without matplotlib, the report warns that it has no figures
                path.parent.mkdir(parents=True, exist_ok=True)
                save_figure(plot_spectrogram_rows(rows), path)


def _write_rows(measurement: Measurement, rows: list[dict]) -> None:
    arrow = pa.Table.from_pylist(rows)
    with fingerprinted_writer(measurement.path, arrow.schema, measurement.fingerprint) as writer:
        writer.write_table(arrow.cast(writer.schema))


def _read_rows(measurements: list[Measurement]) -> dict[str, list[list[dict]]]:
    """`rows[system][member]` are all rows of all conditions."""
    rows: dict[str, list[list[dict]]] = {}
    for measurement in measurements:
        members = rows.setdefault(measurement.system, [])
        if measurement.member == len(members):
            members.append([])
        members[-1] += pq.read_table(measurement.path).to_pylist()
    return rows
