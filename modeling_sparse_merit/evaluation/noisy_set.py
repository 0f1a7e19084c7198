# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The frozen noisy test set: every clip in every condition, mixed in advance. It is a speech dataset whose rows hold
the samples and their SHA-256, so that all systems are evaluated on identical input, now and later."""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import soundfile
from datasets import Dataset, Features, Value
from tqdm.auto import tqdm

from ..data.datasets import AUDIO, read_dataset, read_datasets
from ..data.mixing import SAMPLING_RATE
from ..files import sha256_of_samples
from ..inference.batching import cut_batches
from ..models.sparse_merit.audio import load_audio
from .conditions import (
    Clips,
    Condition,
    Example,
    Listener,
    choose_clips,
    column_names,
    dataset_sha256,
    list_conditions,
    load_noise,
)
from .configuration import EvaluationConfig
from .fingerprint import check_same_run, fingerprinted_writer

CORPUS = "corpus"
"""A column that test sets of earlier versions do not have."""
TEXT = "text"
"""A column of speech datasets that speech-text models read."""
COLUMNS = {
    "clean": AUDIO,
    CORPUS: Value("string"),
    "row": Value("int64"),
    "condition": Value("string"),
    "pool": Value("string"),
    "snr_db": Value("float64"),
    "transmission": Value("string"),
    "mixture": Value("string"),
    "noise_file": Value("string"),
    "noise_offset": Value("int64"),
    "speech_gain": Value("float64"),
    "noise_gain": Value("float64"),
    "sha256": Value("string"),
    "clean_sha256": Value("string"),
}
"""Columns of a frozen test set in addition to those of its speech datasets."""


class FrozenTestSet:
    """The evaluated clips of a frozen test set, in each of its conditions.

    Args:
        dataset: a dataset with the columns `COLUMNS`; `transmission` is optional.
        config: selects the clips.
        labels: the emotion classes; a clip with another emotion, or none, counts as unlabelled.
        name: name of the dataset in error messages.
        columns: columns with the targets of further tasks; those that the dataset lacks are left out.

    Attributes:
        conditions: clean first, then each pool at increasing SNRs; then the same for each transmission.
        rows: numbers of the clips; a clip has the same number in each condition.

    Raises:
        ValueError: columns are missing, a condition lacks a clip or has it twice, or no clip is left.
    """

    def __init__(
        self, dataset: Dataset, config: EvaluationConfig, labels: list[str], name: str, columns: Sequence[str] = ()
    ):
        missing = sorted({"audio", "duration", *COLUMNS} - {"transmission", CORPUS, *dataset.column_names})
        if missing:
            raise ValueError(
                f"{name} is not a frozen test set: it lacks the columns {missing}. "
                "Make one with `sparse-merit prepare noisy SPEECH NOISE OUT`."
            )
        self.dataset, self.name = dataset, name
        self._target_columns = [column for column in columns if column in dataset.column_names]
        self._facts = self._read_facts(labels)
        self._places = self._place_clips()
        self.conditions = self._sorted_conditions()
        emotions = {fact["row"]: fact["emotion"] for fact in self._facts}
        self.rows = choose_clips(emotions, labels, config, name)
        for condition, places in self._places.items():
            if absent := sorted(set(self.rows) - set(places)):
                raise ValueError(
                    f"{name} lacks the clips {absent} in the condition {condition.name}; expected all clips in every "
                    "condition. Download or create the test set again."
                )

    def _read_facts(self, labels: list[str]) -> list[dict[str, Any]]:
        """The columns of each row except its audio."""
        names = {"emotion", "speaker", "source_file", "duration", TEXT, *self._target_columns, *COLUMNS} - {"clean"}
        columns = {name: column_names(self.dataset, name) for name in names}
        columns["emotion"] = [emotion if emotion in labels else None for emotion in columns["emotion"]]
        return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]

    def _place_clips(self) -> dict[Condition, dict[int, int]]:
        """`{condition: {number of a clip: its row in the dataset}}`."""
        places: dict[Condition, dict[int, int]] = {}
        for index, fact in enumerate(self._facts):
            clips = places.setdefault(Condition(fact["pool"], fact["snr_db"], fact["transmission"]), {})
            if clips.setdefault(fact["row"], index) != index:
                raise ValueError(
                    f"{self.name} has clip {fact['row']} twice in the condition {fact['condition']}. Remove one row."
                )
        return places

    def _sorted_conditions(self) -> list[Condition]:
        pools = list(dict.fromkeys([None, *(condition.pool for condition in self._places)]))
        transmissions = list(dict.fromkeys([None, *(condition.transmission for condition in self._places)]))

        def place(condition: Condition) -> tuple[int, int, float]:
            order = transmissions.index(condition.transmission), pools.index(condition.pool)
            return *order, condition.snr_db or 0.0

        return sorted(self._places, key=place)

    @property
    def shown_clip(self) -> int:
        """The example clip of the figures, with median length."""
        places = self._places[self.conditions[0]]
        return sorted(self.rows, key=lambda row: self._facts[places[row]]["duration"])[len(self.rows) // 2]

    @property
    def shown_conditions(self) -> list[Condition]:
        """The conditions of the example clip: the lowest SNR of each pool, without transmission."""
        noisy = [one for one in reversed(self.conditions) if one.pool is not None and one.transmission is None]
        first = {condition.pool: condition for condition in noisy}
        return list(reversed(first.values()))

    def describe(self, condition: Condition, row: int) -> dict[str, Any]:
        """The columns that identify a clip in the per-clip results.

        Args:
            condition: the test condition.
            row: number of the clip.
        """
        fact = self._facts[self._places[condition][row]]
        return {
            "condition": condition.name,
            **{name: fact[name] for name in ("pool", "snr_db", "transmission")},
            **{name: fact[name] for name in ("row", "source_file", "speaker", "emotion")},
            **{name: fact[name] for name in self._target_columns},
            **{name: fact[name] for name in ("mixture", "sha256")},
        }

    def example(self, condition: Condition, row: int) -> Example:
        """One clip in one condition.

        Args:
            condition: the test condition.
            row: number of the clip.

        Raises:
            ValueError: the samples differ from those that were frozen.
        """
        index = self._places[condition][row]
        entry, fact = self.dataset[index], self._facts[index]
        noisy, clean = load_audio(entry["audio"]), load_audio(entry["clean"])
        if (sha256_of_samples(noisy), sha256_of_samples(clean)) != (fact["sha256"], fact["clean_sha256"]):
            raise ValueError(
                f"Clip {row} ({fact['source_file']}) in the condition {condition.name} of {self.name} has changed: "
                "its samples have another SHA-256. Download or create the test set again."
            )
        return Example(row, noisy, clean, fact)

    def batches(self, condition: Condition, seconds: float) -> list[list[int]]:
        """Batches of clips of similar length. They depend on the clips only.

        Args:
            condition: the test condition.
            seconds: maximum duration of a batch, including padding; a longer clip forms its own batch.

        Returns:
            Numbers of the clips of each batch.
        """
        places = self._places[condition]
        durations = [self._facts[places[row]]["duration"] for row in self.rows]
        return [[self.rows[place] for place in batch] for batch in cut_batches(durations, seconds)]

    def sha256(self, condition: Condition, with_text: bool = False) -> str:
        """SHA-256 of everything that the results of a condition depend on: samples, emotions and names of its
        clips.

        Args:
            condition: the test condition.
            with_text: also of their texts, on which speech-text models depend.
        """
        own = ("row", "sha256", "clean_sha256", "emotion", "speaker", "source_file", "duration")
        names = (*own, *self._target_columns, *([TEXT] if with_text else []))
        places = self._places[condition]
        facts = [[self._facts[places[row]][name] for name in names] for row in self.rows]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def count_clips(self, labels: list[str]) -> dict[str, Any]:
        """Statistics of the evaluated clips for the report, and their SHA-256."""
        by_row = {fact["row"]: fact for fact in self._facts}
        clips = [by_row[row] for row in self.rows]
        emotions = Counter(clip["emotion"] for clip in clips)
        digests = [[condition.name, self.sha256(condition)] for condition in self.conditions]
        return {
            "evaluated": len(clips),
            "labelled": {label: emotions[label] for label in labels},
            "speakers": len({clip["speaker"] for clip in clips} - {None}),
            **({"with_text": number} if (number := len(self.rows) - len(self.rows_without_text())) else {}),
            "sha256": hashlib.sha256(json.dumps(digests).encode()).hexdigest(),
        }

    def rows_without_text(self) -> list[int]:
        """Numbers of the evaluated clips whose text is missing or blank."""
        return [row for row, text in self._values(TEXT).items() if not (text or "").strip()]

    def group_clips(self, subsets: Mapping[str, Mapping[str, Sequence[Any]]]) -> dict[str, dict[str, list[int]]]:
        """Groups of clips that are also scored separately.

        Args:
            subsets: `EvaluationConfig.subsets`.

        Returns:
            `{"corpus" | "gender" | "subset": {name: rows}}`; without corpora or genders if all clips have the same.

        Raises:
            ValueError: the test set lacks a column, or no clip has the values of a subset.
        """
        groups: dict[str, dict[str, list[int]]] = {}
        for column in (CORPUS, "gender"):
            by_value: dict[str, list[int]] = {}
            for row, value in self._values(column).items():
                if value is not None:
                    by_value.setdefault(value, []).append(row)
            groups[column] = dict(sorted(by_value.items())) if len(by_value) > 1 else {}
        groups["subset"] = {name: self._subset(name, columns) for name, columns in subsets.items()}
        return groups

    def _subset(self, name: str, columns: Mapping[str, Sequence[Any]]) -> list[int]:
        rows = set(self.rows)
        for column, allowed in columns.items():
            if column not in self.dataset.column_names:
                raise ValueError(
                    f"The subset {name!r} needs the column {column!r}; the columns are "
                    f"{sorted(self.dataset.column_names)}."
                )
            values = self._values(column)
            rows &= {row for row, value in values.items() if str(value) in map(str, allowed)}
            if not rows:
                present = ", ".join(sorted({str(value) for value in values.values()})[:20])
                raise ValueError(
                    f"The subset {name!r} is empty: {column!r} should be one of {list(allowed)}, but its values are "
                    f"{present}."
                )
        return sorted(rows)

    def _values(self, column: str) -> dict[int, Any]:
        """A column of the evaluated clips, by their numbers."""
        values, places = column_names(self.dataset, column), self._places[self.conditions[0]]
        return {row: values[places[row]] for row in self.rows}

    def count_noises(self) -> dict[str, int]:
        """The number of noise recordings used from each pool."""
        evaluated = set(self.rows)
        used = {(fact["pool"], fact["noise_file"]) for fact in self._facts if fact["row"] in evaluated}
        pools = dict.fromkeys(condition.pool for condition in self.conditions if condition.pool is not None)
        return {pool: sum(used_pool == pool for used_pool, _ in used) for pool in pools}


def load_test_set(config: EvaluationConfig, labels: list[str], columns: Sequence[str] = ()) -> FrozenTestSet:
    """The configured test set. Without `test_set`, the described one is created in `OUTPUT/test_set`; conditions that
    exist already are reused.

    Args:
        config: settings of the evaluation.
        labels: the emotion classes.
        columns: columns with the targets of further tasks.

    Raises:
        ValueError: that folder holds a test set of other datasets or another seed, or a recording is unusable.
        ImportError: a package of the extra `train` is not installed.
    """
    if config.test_set is not None:
        return FrozenTestSet(read_dataset(config.test_set), config, labels, config.test_set, columns)
    clips, noise = Clips(config, labels), load_noise(config)
    speech = {"speech": dataset_sha256(clips.dataset), "clips": clips.rows, "seed": config.seed}
    noise_sha256 = {pool: dataset_sha256(dataset) for pool, dataset in noise.items()}
    paths = []
    for condition in list_conditions(config):
        path, pool = Path(config.output) / "test_set" / f"{condition.name}.parquet", condition.pool
        fingerprint = {"condition": condition.name, **speech, "noise": None if pool is None else noise_sha256[pool]}
        check_same_run(path, fingerprint)
        if not path.exists():
            listener = Listener(clips, condition, None if pool is None else noise[pool], config.seed)
            _write_condition(path, frozen_rows(clips, condition, listener), clips.dataset.features, fingerprint)
        paths.append(path)
    return FrozenTestSet(read_datasets(paths), config, labels, str(Path(config.output) / "test_set"), columns)


def frozen_features(speech: Features) -> Features:
    """The schema of a frozen test set made from speech datasets with the given schema."""
    return Features({**speech, **COLUMNS})


def frozen_rows(clips: Clips, condition: Condition, listener: Listener) -> Iterator[dict[str, Any]]:
    """Yields one row per clip: its columns in the speech datasets, `audio` and `clean` as 24-bit FLAC, and the facts
    of `Listener.example`. `sha256` and `clean_sha256` are those of the decoded float32 samples.

    Args:
        clips: the clips of the speech datasets.
        condition: the test condition.
        listener: mixes the clips in this condition.
    """
    for row in tqdm(clips.rows, desc=f"mixing {condition.name}", unit="clip", disable=None):
        example, speech = listener.example(row), clips.dataset[row]
        name = f"{row:06d}_{Path(speech.get('source_file') or 'clip').stem}.{condition.name}.flac"
        noisy, clean = _flac(example.noisy), _flac(example.clean)
        yield speech | {
            "audio": {"bytes": noisy, "path": name},
            "clean": {"bytes": clean, "path": name},
            "duration": len(example.noisy) / SAMPLING_RATE,
            CORPUS: clips.corpora[row],
            "row": row,
            "condition": condition.name,
            "pool": condition.pool,
            "snr_db": condition.snr_db,
            "transmission": condition.transmission,
            "sha256": sha256_of_samples(load_audio(noisy)),
            "clean_sha256": sha256_of_samples(load_audio(clean)),
            **example.facts,
        }


def _flac(waveform: np.ndarray) -> bytes:
    """(samples,) at 16 kHz as a FLAC file of 24 bits."""
    file = io.BytesIO()
    soundfile.write(file, waveform, SAMPLING_RATE, format="FLAC", subtype="PCM_24")
    return file.getvalue()


def _write_condition(
    path: Path, rows: Iterator[dict[str, Any]], speech: Features, fingerprint: dict[str, Any]
) -> None:
    """Writes a hundred rows at a time, since a condition may not fit into memory."""
    schema = frozen_features(speech).arrow_schema
    with fingerprinted_writer(path, schema, fingerprint) as writer:
        while some := list(islice(rows, 100)):
            # with the schema of the file: the writer also compares its metadata
            writer.write_table(pa.Table.from_pylist(some, writer.schema))
