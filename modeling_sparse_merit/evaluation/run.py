# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The evaluation itself: system by system, condition by condition, batch by batch, on one process or several; each
finished condition is on disk before the next."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from .. import __version__
from ..files import remove_unfinished
from ..inference.distributed import join_processes
from ..models.sparse_merit.audio import load_audio
from .conditions import Condition
from .configuration import NOISY, EvaluationConfig
from .examiner import Examiner, Measurement, limit_blas, scoring_processes
from .figures import spectrogram_triples
from .fingerprint import check_same_run, fingerprinted_writer
from .noisy_set import FrozenTestSet, load_test_set
from .report import build_report, print_report, write_report
from .systems import System, build_systems

PACKAGES = (
    *("torch", "transformers", "datasets", "numpy", "scipy", "soundfile", "soxr", "audiomentations"),
    *("pesq", "pystoi", "scikit-learn"),
)


def evaluate(config_path: str | Path, output: str | Path | None = None, **overrides: Any) -> dict[str, Any]:
    """Measure systems on clean and noisy clips: emotion recognition and enhancement.

    Each condition's clips are written to `OUTPUT/clips/SYSTEM/MEMBER/CONDITION.parquet` when it is finished; a run
    that was interrupted goes on with the next one, and systems, pools and ratios can be added to a finished run. The
    report is written to `OUTPUT/results.json`, `OUTPUT/results.md` and `OUTPUT/figures`, and printed. One clip in the
    loudest noise of each pool is in `OUTPUT/examples/SYSTEM`, as the system cleans it.

    Under `accelerate launch` the processes share the batches; every number is the same as on one process.

    Args:
        config_path: YAML file with the fields of `EvaluationConfig`.
        output: folder of the results, in place of the configured one.
        overrides: fields of `EvaluationConfig` in place of the configured ones; None leaves the configured value.

    Returns:
        What `results.json` holds, in every process.

    Raises:
        ValueError: a field is invalid, or the folder holds results of other settings, weights or data.
        ImportError: a package of the extras `train` (mixing, tables) or `metrics` is not installed.
    """
    config = EvaluationConfig.from_yaml(config_path, output=output, **overrides)
    state = join_processes(config.device)
    if state.is_main_process:
        remove_unfinished(Path(config.output))
    with _pinned_threads(config.threads):
        with state.main_process_first():  # what it makes or caches is there for the others
            systems, labels = build_systems(config)
            test_set = load_test_set(config, labels)
        described = {name: [member.describe() for member in members] for name, members in systems.items()}
        record = _record(config, described, labels, test_set)
        measurements = _list_measurements(config, record, test_set)
        with scoring_processes(config.workers or max(1, (os.cpu_count() or 1) // state.num_processes)) as executor:
            _measure(systems, measurements, Examiner(config, labels, test_set, state, executor))
        if state.is_main_process:
            rows = _read_rows(measurements)
            report = build_report(record, rows, config, test_set.group_clips(config.subsets))
            _draw_examples(config, test_set, list(record["systems"]))
            write_report(Path(config.output), report, rows)
            print_report(report)
    state.wait_for_everyone()
    return json.loads((Path(config.output) / "results.json").read_text(encoding="utf-8"))


@contextmanager
def _pinned_threads(threads: int) -> Iterator[None]:
    """Sums are added up in another order with another number of threads, and their last bits differ."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with limit_blas():
            yield
    finally:
        torch.set_num_threads(before)


def _record(
    config: EvaluationConfig, described: dict[str, list[dict]], labels: list[str], test_set: FrozenTestSet
) -> dict[str, Any]:
    """What was measured, with what; the same for any number of processes."""
    return {
        "config": config.record(),
        **({} if config.systems else {"model": described["model"][0]}),
        "systems": described,
        "labels": labels,
        "clips": test_set.count_clips(labels),
        "noise": {pool: {"recordings": count} for pool, count in test_set.count_noises().items()},
        "versions": {"modeling-sparse-merit": __version__, **{name: _version(name) for name in PACKAGES}},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _list_measurements(config: EvaluationConfig, record: dict[str, Any], test_set: FrozenTestSet) -> list[Measurement]:
    """Every member of every system in every condition.

    Raises:
        ValueError: results of another run are there.
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
    """Everything that determines a condition's rows, but not the other systems and conditions: more can be added."""
    # what is known by its weights may lie elsewhere now
    system = {name: value for name, value in description.items() if name != "name" or "sha256" not in description}
    return {
        "condition": condition.name,
        "system": system,
        "labels": record["labels"],
        "clips": test_set.sha256(condition),
        "settings": {name: record["config"][name] for name in ("measures", "batch_seconds", "threads")},
        "package versions": record["versions"],
    }


def _measure(systems: dict[str, list[System]], measurements: list[Measurement], examiner: Examiner):
    """Measures what is not on disk. A system that is done is let go, as not all models may fit into memory."""
    for name, members in systems.items():
        titles = [f"{name} {member}" for member in range(len(members))] if members[1:] else [name]
        for member, title in enumerate(titles):
            system = members.pop(0)
            for measurement in measurements:
                # every process looks before the main one, which needs the rows of all, writes
                if (measurement.system, measurement.member) == (name, member) and not measurement.path.exists():
                    rows = examiner.rows(system, measurement, title)
                    if examiner.state.is_main_process:
                        _write_rows(measurement, rows)


def _draw_examples(config: EvaluationConfig, test_set: FrozenTestSet, systems: list[str]):
    """One clip in the loudest noise of each pool, as it is heard, as a system cleans it, and as it should be."""
    for system in systems:
        triples = []
        for condition in test_set.shown_conditions:
            if (path := _example_path(config, system, condition)).exists():
                heard = test_set.example(condition, test_set.shown_clip)
                triples.append((condition.name, heard.noisy, load_audio(path), heard.clean))
        if triples:
            path = Path(config.output) / "figures" / f"spectrograms_{system}.png"
            with suppress(ImportError):  # of matplotlib, without which the report warns that it has no figures
                path.parent.mkdir(parents=True, exist_ok=True)
                spectrogram_triples(path, triples)


def _write_rows(measurement: Measurement, rows: list[dict]):
    table = pa.Table.from_pylist(rows)
    with fingerprinted_writer(measurement.path, table.schema, measurement.fingerprint) as writer:
        writer.write_table(table.cast(writer.schema))


def _read_rows(measurements: list[Measurement]) -> dict[str, list[list[dict]]]:
    """`rows[system][member]` are all rows of all conditions."""
    rows: dict[str, list[list[dict]]] = {}
    for measurement in measurements:
        members = rows.setdefault(measurement.system, [])
        if measurement.member == len(members):
            members.append([])
        members[-1] += pq.read_table(measurement.path).to_pylist()
    return rows
