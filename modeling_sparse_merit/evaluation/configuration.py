# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""What an evaluation measures, as one YAML file: the systems, the test clips, the noise, and how the work is split."""

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
"""The system that leaves its input as it is: what every gain is measured against."""
TEST_SET_FIELDS = ("speech", "speech_split", "noise", "noise_split", "snr_db", "clean", "transmissions")
"""What a test set is made of."""
FILE_NAME = r"\w[\w.-]*"  # pools and systems name files

# they change how fast and where results are written, never a result, and so are left out of the record
UNRECORDED_FIELDS = ("workers", "output")


@dataclass
class EvaluationConfig:
    """Settings of `sparse-merit evaluate`. Relative paths start at the working directory.

    Attributes:
        test_set: path of a frozen noisy test set (`sparse-merit prepare noisy`), in all of its conditions; None makes
            one in `OUTPUT/test_set` of the following seven.
        speech: paths of speech datasets (columns `audio`, `emotion`, `speaker`, `split`, `duration`).
        speech_split: the split of the speech datasets that is evaluated; None takes every row.
        noise: `{name of the pool: path of its noise dataset}`; empty to evaluate clean speech alone.
        noise_split: the split of the noise datasets that noise is drawn from; None takes every row.
        snr_db: signal-to-noise ratios in dB at which every clip is mixed with every pool.
        clean: also evaluate the recordings as they are.
        transmissions: names in `data.transmission.TRANSMISSIONS`. Every condition is measured as it is and after each
            of them, against the clean speech in the band of the transmission.
        model: name of a checkpoint inside the package, folder or Hub id: a system of the name "model"; None is the
            default checkpoint of the package.
        systems: `{name: system}` in place of `model`. A system is a checkpoint; or a list of checkpoints, which are
            other seeds of one configuration; or `{model: checkpoint, precision: fp32, bf16 or int8}`; or
            `{enhancement: checkpoint, emotion: checkpoint}`, a cascade whose emotion model hears what the first one
            gives back (lists of one length for several seeds); or
            `{reference: name, option: value, ...}`, see `references.build_reference`. `noisy: noisy`, the input as it
            is, is measured in any case.
        baseline: the system that all others are compared with; None compares none.
        measures: which of `metrics.SPEECH_MEASURES` are computed.
        labels: emotion classes among the models'; None takes all those of the first model with the emotion task.
        clips: `"labelled"` evaluates rows whose emotion is one of the labels; `"all"` measures enhancement on every
            row (emotion still on the labelled ones).
        subsets: `{name: {column: [values]}}`, subsets of the labelled clips that emotion recognition is also scored
            on: those whose columns of the speech datasets have one of the values, such as
            `{common: {sentence: ["06", "07"]}}`.
        max_clips: evaluate a random choice of so many clips, for a quick look; None takes all.
        seed: of the mixtures, of the choice for `max_clips` and of the bootstrap.
        bootstrap_resamples: resamples behind each 95 % interval.
        batch_seconds: audio in one batch, padding included; a longer clip makes a batch of its own.
        threads: CPU threads of torch in each process. The last bits of an answer depend on their number, so it is
            given here, not found out; on a CPU of many cores, start several processes or raise it.
        workers: processes that compute speech measures; None is one for each CPU core.
        device: torch device of the model; None is a GPU where there is one.
        output: folder of the report and of `clips/SYSTEM/MEMBER/CONDITION.parquet`, a row for each clip.
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
        self._check_tables()
        self._check_selection()
        self._check_systems()
        self._check_machinery()

    def _check_tables(self):
        if isinstance(self.speech, (str, Path)):
            self.speech = [self.speech]
        self._require("test_set", _is_optional(self.test_set, (str, Path)), "the path of a frozen test set, or null")
        self.test_set = None if self.test_set is None else str(self.test_set)
        for entry in fields(self) if self.test_set else ():
            default = entry.default if entry.default_factory is MISSING else entry.default_factory()
            unset = entry.name not in TEST_SET_FIELDS or getattr(self, entry.name) == default
            self._require(entry.name, unset, "nothing, as the `test_set` has its own")
        valid_speech = _is_list_of(self.speech, (str, Path)) and (self.speech or self.test_set)
        self._require("speech", valid_speech, "one or more table paths, or else a `test_set`")
        self.speech = [str(path) for path in self.speech]
        self.noise = {} if self.noise is None else self.noise
        valid_noise = isinstance(self.noise, Mapping) and all(
            _is_file_name(pool) and isinstance(path, (str, Path)) for pool, path in self.noise.items()
        )
        self._require("noise", valid_noise, "{pool: table path}, pool names of letters, digits, '_', '-' and '.'")
        self.noise = {pool: str(path) for pool, path in self.noise.items()}
        for name in ("speech_split", "noise_split"):
            self._require(name, _is_optional(getattr(self, name), str), "the name of a split, or null for every row")

    def _check_selection(self):
        valid_snr = _is_list_of(self.snr_db, (int, float)) and all(map(math.isfinite, self.snr_db))
        # what is written alike would share a file of results; + 0.0 makes 0 of -0
        valid_snr = valid_snr and _distinct([f"{snr_db + 0.0:g}" for snr_db in self.snr_db])
        self._require("snr_db", valid_snr, "a list of finite numbers, distinct in their first six digits")
        self.snr_db = [snr_db + 0.0 for snr_db in self.snr_db]
        self._require("clean", isinstance(self.clean, bool), "true or false")
        self._require("clean", self.clean or (self.noise and self.snr_db), "true where no noise and SNR is given")
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
            wrong = [name for name, found in members.items() if not found or (name == NOISY) != (found == [NOISY])]
            self._require(
                "systems",
                not wrong,
                f"for {wrong} a checkpoint or a list of some, {{model: ..., precision: {'|'.join(PRECISIONS)}}}, "
                "{enhancement: ..., emotion: ...} with one checkpoint or lists of one length, {reference: ...}, or "
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
        """Read a YAML file; `overrides` that are not None replace its fields.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is no YAML mapping, a field is unknown, missing or invalid; the error names it.
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
            raise ValueError(f"{path}: the field 'speech' (one or more table paths), or 'test_set', is missing.")
        return cls(**settings)

    def members(self) -> dict[str, list[Any]]:
        """The members of each system, one for each seed, the noisy input first: a checkpoint (None is that inside the
        package), "noisy", or the mapping of a cascade or a reference."""
        return {NOISY: [NOISY]} | ({"model": [self.model]} if self.systems is None else self.systems)

    def record(self) -> dict[str, Any]:
        """The settings that determine results, JSON-able."""
        return {name: value for name, value in asdict(self).items() if name not in UNRECORDED_FIELDS}


def _members(system: Any) -> list[Any]:
    """The members of one system as they are written; empty where they are not valid."""
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
