# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Speakers and spoken coffee orders by further tasks on the frozen experts of sparse-merit-base.

Adds the tasks of a training to the default checkpoint, evaluates it, and reads the results of each clip. Speakers are
compared within their corpus, since language or acoustics would give others away: EER and minDCF over all pairs of test
clips, also of one gender. Slots are compared with the most frequent value of the training. Writes `further_tasks.json`
and `further_tasks.md` to `benchmarks/results/expansion`.

    sparse-merit train benchmarks/expansion/frozen_in_base.yaml
    python -m benchmarks.further_tasks
"""

import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as parquet
import typer

from benchmarks.writing import RESULTS, commit, write_results
from modeling_sparse_merit import DEFAULT_CHECKPOINT, SparseMeritFeatureExtractor
from modeling_sparse_merit import SparseMeritForSpeechEnhancementAndEmotion as Model
from modeling_sparse_merit.data.corpora.picovoice import SLOTS
from modeling_sparse_merit.data.datasets import read_dataset
from modeling_sparse_merit.evaluation.statistics import Resampling, resampled_score
from modeling_sparse_merit.evaluation.task_scores import PREFIX
from modeling_sparse_merit.metrics.verification import equal_error_rate, min_dcf
from modeling_sparse_merit.models.sparse_merit.task_files import add_task, save_task

CONFIG = Path(__file__).parent / "expansion" / "frozen_in_base_evaluation.yaml"
RUN = Path("runs/further_tasks")
SYSTEMS = ("tasks", "tasks_after_enhancement")
RESAMPLES, SEED = 500, 0


def write_whole() -> None:
    """Writes the default checkpoint with the tasks of the training to `whole`."""
    trained, model = Model.from_pretrained(RUN / "training" / "best"), Model.from_pretrained(DEFAULT_CHECKPOINT)
    with tempfile.TemporaryDirectory() as folder:
        for task in trained.config.tasks:
            file = Path(folder) / f"{task}.safetensors"
            save_task(trained, task, file)
            add_task(model, file)
    model.save_pretrained(RUN / "whole")
    SparseMeritFeatureExtractor.from_pretrained(DEFAULT_CHECKPOINT).save_pretrained(RUN / "whole")


def genders() -> dict[str, str | None]:
    """The gender of each speaker of the corpora of speakers."""
    known = {}
    for corpus in ("ravdess", "emodb", "nemo", "ased", "speechocean762", "baved_levels"):
        dataset = read_dataset(f"tables/{corpus}").select_columns(["speaker", "gender"])
        known |= {row["speaker"]: row["gender"] for row in dataset}
    return known


def verification(rows: list[dict[str, Any]], gender_of: dict[str, str | None]) -> dict[str, Any]:
    """EER and minDCF within each corpus, of all speakers and of those of one gender, with intervals over speakers."""
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["speaker"]:
            corpus = row["speaker"].rpartition("_")[0]
            groups[corpus].append(row)
            if gender_of.get(row["speaker"]):
                groups[f"{corpus}, {gender_of[row['speaker']]}"].append(row)
    return {name: _verified(members) for name, members in sorted(groups.items()) if _num_speakers(members) > 1}


def _num_speakers(rows: list[dict[str, Any]]) -> int:
    return len({row["speaker"] for row in rows})


def _verified(rows: list[dict[str, Any]]) -> dict[str, Any]:
    speakers = [row["speaker"] for row in rows]
    vectors = np.array([row[f"{PREFIX}speaker"] for row in rows])
    resampling = Resampling(speakers, RESAMPLES, SEED)

    def score(measure: Any, counts: np.ndarray) -> np.ndarray:
        return measure(speakers, vectors, counts)[:, None]

    described = {
        name: resampled_score(partial(score, measure), len(rows), 1, resampling, 0).describe()
        for name, measure in (("eer", equal_error_rate), ("min_dcf", min_dcf))
    }
    return {"speakers": _num_speakers(rows), "clips": len(rows), **described}


def slot_accuracies(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Accuracy of each slot, that of its most frequent value, and the share of orders without an error."""
    train = read_dataset("tables/picovoice_slots")
    orders = [row for row in rows if row.get(SLOTS[0]) is not None]
    resampling = Resampling([None] * len(orders), RESAMPLES, SEED)
    correct = {slot: np.array([row[slot] == row[f"{PREFIX}{slot}"] for row in orders]) for slot in SLOTS}
    correct["all"] = np.all(list(correct.values()), axis=0)
    results: dict[str, Any] = {}
    for slot, hits in correct.items():

        def share(counts: np.ndarray, hits: np.ndarray = hits) -> np.ndarray:
            return ((counts * hits).sum(1) / counts.sum(1))[:, None]

        results[slot] = {"clips": len(orders)} | resampled_score(share, len(orders), 1, resampling, 0).describe()
        if slot in SLOTS:
            pairs = zip(train[slot], train["split"], strict=True)
            (most, _), *_ = Counter(value for value, split in pairs if split == "train").most_common(1)
            results[slot]["majority"] = float(np.mean([row[slot] == most for row in orders]))
    return results


def shown(score: dict[str, Any], interval: str) -> str:
    """A score with one of its intervals."""
    low, high = score[interval]
    return f"{score['mean']:.3f} [{low:.3f}, {high:.3f}]"


def as_markdown(results: dict[str, Any]) -> str:
    """The results as tables."""
    lines = [
        "# Speakers and coffee orders on the frozen experts of sparse-merit-base",
        "",
        f"Commit {results['commit']}. Equal error rate (EER) and minDCF (prior 0.01) over all pairs of test clips of "
        "a corpus, and of one gender; speakers are new. Intervals are over speakers, and too narrow with so few.",
        "",
        "| clips | condition | corpus | speakers, clips | EER | minDCF |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for system, conditions in results["systems"].items():
        for condition, parts in conditions.items():
            for group, row in parts["speaker"].items():
                scores = " | ".join(shown(row[name], "speaker_interval") for name in ("eer", "min_dcf"))
                lines.append(f"| {system} | {condition} | {group} | {row['speakers']}, {row['clips']} | {scores} |")
    lines += [
        "",
        "Slots of the coffee orders. Voices are not labelled, so splits may share some. Intervals are over clips.",
        "",
        "| clips | condition | slot | accuracy | most frequent value |",
        "| --- | --- | --- | --- | --- |",
    ]
    for system, conditions in results["systems"].items():
        for condition, parts in conditions.items():
            for slot, row in parts["slots"].items():
                majority = f"{row['majority']:.3f}" if "majority" in row else "–"
                lines.append(f"| {system} | {condition} | {slot} | {shown(row, 'interval')} | {majority} |")
    return "\n".join(lines)


def main() -> None:
    """Evaluates the tasks on the test split."""
    write_whole()
    command = [sys.executable, "-m", "modeling_sparse_merit.cli", "evaluate", "--config", str(CONFIG)]
    subprocess.run(command, check=True)
    gender_of, systems = genders(), {}
    for system in SYSTEMS:
        conditions = {}
        for path in sorted((RUN / "evaluation" / "clips" / system / "0").glob("*.parquet")):
            rows = parquet.read_table(path).to_pylist()
            conditions[path.stem] = {"speaker": verification(rows, gender_of), "slots": slot_accuracies(rows)}
        systems[system] = conditions
    results = {"command": "python -m benchmarks.further_tasks", "commit": commit(), "systems": systems}
    write_results(RESULTS / "expansion" / "further_tasks", results, as_markdown(results))


if __name__ == "__main__":
    typer.run(main)
