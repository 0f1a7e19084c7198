# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Configuration of an evaluation, read from YAML: systems, test clips, noise, and distribution of the work."""

import math
import re
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from ..data.transmission import TRANSMISSIONS
from ..metrics import DEFAULT_SPEECH_MEASURES, SPEECH_MEASURES
from ..models.sparse_merit.configuration_sparse_merit import PRECISIONS
from ..models.sparse_merit.tasks import EMOTION, ENHANCEMENT

NOISY = "noisy"
"""Name of the system that returns its input unchanged; gains of speech measures are relative to it."""
TEST_SET_FIELDS = ("speech", "speech_split", "noise", "noise_split", "snr_db", "clean", "transmissions")
"""Fields that describe a test set."""
FILE_NAME = r"\w[\w.-]*"  # pools and systems name files

# fields that change speed or location of the results, but never a result; not recorded
UNRECORDED_FIELDS = ("workers", "output")


@dataclass
class EvaluationConfig:
    """Settings of `sparse-merit evaluate`. Relative paths start at the working directory.

    Attributes:
        test_set: path of a frozen noisy test set (`sparse-merit prepare noisy`), used in all its conditions; None
            creates one in `OUTPUT/test_set` from the following seven fields.
        speech: paths of speech datasets (columns `audio`, `emotion`, `speaker`, `split`, `duration`).
        speech_split: the split of the speech datasets that is evaluated; None takes every row.
        noise: `{name of the pool: path of its noise dataset}`; empty to evaluate clean speech only.
        noise_split: the split of the noise datasets that noise is drawn from; None takes every row.
        snr_db: signal-to-noise ratios in dB at which every clip is mixed with every pool.
        clean: also evaluate the recordings without added noise.
        transmissions: names in `data.transmission.TRANSMISSIONS`. Every condition is evaluated without and with each
            of them; the reference is the clean speech in the band of the transmission.
        model: name of an embedded checkpoint, folder or Hub id; the system is named "model". None is the
            default checkpoint of the package.
        systems: `{name: system}` in place of `model`. A system is a checkpoint; or a list of checkpoints that are
            trainings of one configuration with different seeds; or
            `{model: checkpoint, precision: fp32, bf16 or int8}`; or `{enhancement: checkpoint, emotion: checkpoint}`,
            a cascade whose emotion model gets the enhanced speech (lists of equal length for several seeds); or
            `{reference: name, option: value, ...}`, see `references.build_reference`. `noisy: noisy`, the unchanged
            input, is always evaluated.
        baseline: the system that all others are compared with; None makes no comparisons.
        measures: speech measures to compute, names of `metrics.SPEECH_MEASURES`.
        labels: emotion classes to evaluate; None takes those of the first model with the emotion task.
        clips: `"labelled"` evaluates rows whose emotion is one of the labels; `"all"` measures enhancement on every
            row (emotion still on the labelled ones).
        subsets: `{name: {column: [values]}}`, subsets of the labelled clips for which emotion recognition is also
            scored separately: clips whose columns of the speech datasets have one of the values, such as `{common:
            {sentence: ["06", "07"]}}`.
        max_clips: evaluate a random subset of this size, for a quick look; None takes all clips.
        seed: seed of the mixtures, of the subset for `max_clips` and of the bootstrap.
        bootstrap_resamples: number of resamples for each 95 % interval.
        batch_seconds: seconds of audio in one batch, including padding; a longer clip forms its own batch.
        threads: CPU threads of torch in each process. The last bits of an output depend on their number, so it is
            fixed here rather than detected; on a CPU with many cores, start several processes or raise it.
        workers: processes that compute speech measures; None is one per CPU core.
        device: torch device of the model; None is a GPU if available.
        output: folder of the report and of `clips/SYSTEM/MEMBER/CONDITION.parquet`, with one row per clip.
    """

    test_set: str | None = None
    speech: list[str] = field(default_factory=list)
    speech_split: str | None = "test"
    noise: dict[str, str] = field(default_factory=dict)
    noise_split: str | None = "test"
    snr_db: list[float] = field(default_factory=lambda: [-5.0, 0.0, 5.0, 10.0])
    clean: bool = True
    transmissions: list[str] = field(default_factory=list)
    model: str | None = None
    systems: dict[str, Any] | None = None
    baseline: str | None = None
    measures: list[str] = field(default_factory=lambda: list(DEFAULT_SPEECH_MEASURES))
    labels: list[str] | None = None
    clips: str = "labelled"
    subsets: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    max_clips: int | None = None
    seed: int = 0
    bootstrap_resamples: int = 1000
    batch_seconds: float = 60.0
    threads: int = 1
    workers: int | None = None
    device: str | None = None
    output: str = "evaluation"

    def __post_init__(self):
        self._check_datasets()
        self._check_selection()
        self._check_systems()
        self._check_machinery()

    def _check_datasets(self):
        if isinstance(self.speech, (str, Path)):
            self.speech = [self.speech]
        self._require("test_set", _is_optional(self.test_set, (str, Path)), "the path of a frozen test set, or null")
        self.test_set = None if self.test_set is None else str(self.test_set)
        for entry in fields(self) if self.test_set else ():
            default = entry.default if entry.default_factory is MISSING else entry.default_factory()
            unset = entry.name not in TEST_SET_FIELDS or getattr(self, entry.name) == default
            self._require(entry.name, unset, "nothing, as the `test_set` has its own")
        valid_speech = _is_list_of(self.speech, (str, Path)) and (self.speech or self.test_set)
        self._require("speech", valid_speech, "one or more dataset paths, or else a `test_set`")
        self.speech = [str(path) for path in self.speech]
        self.noise = {} if self.noise is None else self.noise
        valid_noise = isinstance(self.noise, Mapping) and all(
            _is_file_name(pool) and isinstance(path, (str, Path)) for pool, path in self.noise.items()
        )
        self._require("noise", valid_noise, "{pool: dataset path}, pool names of letters, digits, '_', '-' and '.'")
        self.noise = {pool: str(path) for pool, path in self.noise.items()}
        for name in ("speech_split", "noise_split"):
            self._require(name, _is_optional(getattr(self, name), str), "the name of a split, or null for every row")

    def _check_selection(self):
        valid_snr = _is_list_of(self.snr_db, (int, float)) and all(map(math.isfinite, self.snr_db))
        # values with the same text would share a results file; + 0.0 turns -0 into 0
        valid_snr = valid_snr and _distinct([f"{snr_db + 0.0:g}" for snr_db in self.snr_db])
        self._require("snr_db", valid_snr, "a list of finite numbers, distinct in their first six digits")
        self.snr_db = [snr_db + 0.0 for snr_db in self.snr_db]
        self._require("clean", isinstance(self.clean, bool), "true or false")
        self._require("clean", self.clean or (self.noise and self.snr_db), "true unless noise and SNRs are given")
        valid_transmissions = _is_list_of(self.transmissions, str) and _distinct(self.transmissions)
        valid_transmissions = valid_transmissions and set(self.transmissions) <= set(TRANSMISSIONS)
        self._require("transmissions", valid_transmissions, f"some of {list(TRANSMISSIONS)}, each once")
        valid_labels = _is_list_of(self.labels, str) and self.labels and _distinct(self.labels)
        self._require(
            "labels", self.labels is None or valid_labels, "distinct class names, or null for the model's own"
        )
        self._require("clips", self.clips in ("labelled", "all"), "'labelled' or 'all'")
        self._require(
            "subsets", _is_subsets(self.subsets), "{name: {column: [values]}}, such as {women: {gender: [female]}}"
        )
        self._require("max_clips", self.max_clips is None or _is_positive_int(self.max_clips), "1 or more, or null")

    def _check_systems(self):
        self._require("model", _is_optional(self.model, (str, Path)), "a checkpoint folder, a Hub id, or null")
        self._require("model", self.model is None or self.systems is None, "null where `systems` are given")
        self.model = None if self.model is None else str(self.model)
        if self.systems is not None:
            valid_names = isinstance(self.systems, Mapping) and self.systems and all(map(_is_file_name, self.systems))
            self._require("systems", valid_names, "{name: system}, names of letters, digits, '_', '-' and '.'")
            members = {name: _members(system) for name, system in self.systems.items()}
            wrong = [name for name, some in members.items() if not some or (name == NOISY) != (some == [NOISY])]
            self._require(
                "systems",
                not wrong,
                f"for {wrong} a checkpoint or a list of some, {{model: ..., precision: {'|'.join(PRECISIONS)}}}, "
                "{enhancement: ..., emotion: ...} with one checkpoint or lists of equal length, {reference: ...}, or "
                "`noisy: noisy`",
            )
            self.systems = members
        valid_baseline = self.baseline is None or self.baseline in self.members()
        self._require("baseline", valid_baseline, f"one of the systems {list(self.members())}, or null")
        valid_measures = _is_list_of(self.measures, str) and self.measures and _distinct(self.measures)
        valid_measures = valid_measures and set(self.measures) <= set(SPEECH_MEASURES)
        self._require("measures", valid_measures, f"some of {list(SPEECH_MEASURES)}, each once")

    def _check_machinery(self):
        self._require("seed", type(self.seed) is int and self.seed >= 0, "a whole number, 0 or more")
        self._require("bootstrap_resamples", _is_positive_int(self.bootstrap_resamples), "1 or more")
        valid_seconds = isinstance(self.batch_seconds, (int, float)) and self.batch_seconds > 0
        self._require("batch_seconds", valid_seconds, "seconds above 0")
        self._require("threads", _is_positive_int(self.threads), "1 or more")
        self._require("workers", self.workers is None or _is_positive_int(self.workers), "1 or more, or null")
        self._require("device", _is_optional(self.device, str), "a torch device such as 'cpu' or 'cuda', or null")
        valid_output = isinstance(self.output, (str, Path)) and Path(self.output).suffix != ".json"
        self._require("output", valid_output, "the path of a folder (results.json is written in it)")
        self.output = str(self.output)

    def _require(self, name: str, valid: Any, expected: str):
        if not valid:
            raise ValueError(f"EvaluationConfig.{name} is {getattr(self, name)!r}; expected {expected}.")

    @classmethod
    def from_yaml(cls, path: str | Path, **overrides: Any) -> "EvaluationConfig":
        """Reads the configuration from a YAML file.

        Args:
            path: the YAML file.
            overrides: values that replace fields of the file unless None.

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: the file is not a YAML mapping, or a field is unknown, missing or invalid; the message names
                it.
        """
        try:
            settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise ValueError(f"{path} is not valid YAML: {error}") from error
        if not isinstance(settings, dict):
            raise ValueError(f"{path} must hold a mapping of fields such as 'speech: [...]', not {settings!r}.")
        settings |= {name: value for name, value in overrides.items() if value is not None}
        known = [entry.name for entry in fields(cls)]
        unknown = sorted(set(settings) - set(known), key=str)
        if unknown:
            raise ValueError(f"{path}: unknown field(s) {unknown}; the fields are {known}.")
        if not {"speech", "test_set"} & set(settings):
            raise ValueError(f"{path}: the field 'speech' (one or more dataset paths), or 'test_set', is missing.")
        return cls(**settings)

    def members(self) -> dict[str, list[Any]]:
        """The members of each system, one per seed, starting with the noisy input: a checkpoint (None is the default
        of the package), "noisy", or the mapping of a cascade or a reference."""
        return {NOISY: [NOISY]} | ({"model": [self.model]} if self.systems is None else self.systems)

    def record(self) -> dict[str, Any]:
        """The settings that determine results, JSON-serializable."""
        return {name: value for name, value in asdict(self).items() if name not in UNRECORDED_FIELDS}


def _members(system: Any) -> list[Any]:
    """The members of one system as configured; empty if they are invalid."""
    if not isinstance(system, Mapping):
        members = list(system) if isinstance(system, (list, tuple)) else [system]
        return [str(member) for member in members] if _is_list_of(members, (str, Path)) else []
    if isinstance(system.get("reference"), str):
        return [dict(system)]
    if set(system) == {"model", "precision"} and system["precision"] in list(PRECISIONS):
        return [{"model": member, "precision": system["precision"]} for member in _members(system["model"])]
    if set(system) != {ENHANCEMENT, EMOTION}:
        return []
    front, back = _members(system[ENHANCEMENT]), _members(system[EMOTION])
    if len(front) != len(back) or not _is_list_of(front + back, str):
        return []
    return [{ENHANCEMENT: first, EMOTION: second} for first, second in zip(front, back, strict=True)]


def _is_file_name(name: Any) -> bool:
    return isinstance(name, str) and re.fullmatch(FILE_NAME, name) is not None


def _is_list_of(value: Any, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, (list, tuple)) and all(
        isinstance(item, kind) and not isinstance(item, bool) for item in value
    )


def _is_subsets(subsets: Any) -> bool:
    def holds_lists(columns: Any) -> bool:
        return (
            isinstance(columns, Mapping)
            and bool(columns)
            and all(
                isinstance(column, str) and isinstance(values, (list, tuple)) and values
                for column, values in columns.items()
            )
        )

    return isinstance(subsets, Mapping) and all(
        isinstance(name, str) and holds_lists(columns) for name, columns in subsets.items()
    )


def _is_optional(value: Any, kind: type | tuple[type, ...]) -> bool:
    return value is None or isinstance(value, kind)


def _is_positive_int(value: Any) -> bool:
    return type(value) is int and value >= 1


def _distinct(values: list) -> bool:
    return len(set(values)) == len(values)
