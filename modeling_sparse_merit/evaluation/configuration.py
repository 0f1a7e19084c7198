# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""What an evaluation measures, as one YAML file: the model, the test clips, the noise, and how the work is split."""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

# they change how fast and where results are written, never a result, and so are left out of the record
UNRECORDED_FIELDS = ("workers", "output")


@dataclass
class EvaluationConfig:
    """Settings of `sparse-merit evaluate`. Relative paths start at the working directory.

    Attributes:
        speech: paths of speech tables (columns `audio`, `emotion`, `speaker`, `split`, `duration`).
        speech_split: the split of the speech tables that is evaluated; None takes every row.
        noise: `{name of the pool: path of its noise table}`; empty to evaluate clean speech alone.
        noise_split: the split of the noise tables that noise is drawn from; None takes every row.
        snr_db: signal-to-noise ratios in dB at which every clip is mixed with every pool.
        clean: also evaluate the recordings as they are.
        model: checkpoint folder or Hub id; None is the checkpoint inside the package.
        labels: emotion classes among the model's; None takes all of them.
        clips: `"labelled"` evaluates rows whose emotion is one of the labels; `"all"` measures enhancement on every
            row (emotion still on the labelled ones).
        max_clips: evaluate a random choice of so many clips, for a quick look; None takes all.
        seed: of the mixtures, of the choice for `max_clips` and of the bootstrap.
        bootstrap_resamples: resamples behind each 95 % interval.
        batch_seconds: audio in one batch, padding included; a longer clip makes a batch of its own.
        workers: processes that compute PESQ and STOI; None is one for each CPU core.
        device: torch device of the model; None is a GPU where there is one.
        output: folder of `results.json` and of `clips/CONDITION.parquet`, a row for each clip.
    """

    speech: list[str]
    speech_split: str | None = "test"
    noise: dict[str, str] = field(default_factory=dict)
    noise_split: str | None = "test"
    snr_db: list[float] = field(default_factory=lambda: [-5.0, 0.0, 5.0, 10.0])
    clean: bool = True
    model: str | None = None
    labels: list[str] | None = None
    clips: str = "labelled"
    max_clips: int | None = None
    seed: int = 0
    bootstrap_resamples: int = 1000
    batch_seconds: float = 60.0
    workers: int | None = None
    device: str | None = None
    output: str = "evaluation"

    def __post_init__(self):
        self._check_tables()
        self._check_selection()
        self._check_machinery()

    def _check_tables(self):
        if isinstance(self.speech, (str, Path)):
            self.speech = [self.speech]
        self._require("speech", _is_list_of(self.speech, (str, Path)) and self.speech, "one or more table paths")
        self.speech = [str(path) for path in self.speech]
        self.noise = {} if self.noise is None else self.noise
        valid_noise = isinstance(self.noise, Mapping) and all(
            isinstance(pool, str) and re.fullmatch(r"[\w.-]+", pool) and isinstance(path, (str, Path))
            for pool, path in self.noise.items()
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
        valid_labels = _is_list_of(self.labels, str) and self.labels and _distinct(self.labels)
        self._require(
            "labels", self.labels is None or valid_labels, "distinct class names, or null for the model's own"
        )
        self._require("clips", self.clips in ("labelled", "all"), "'labelled' or 'all'")
        self._require("max_clips", self.max_clips is None or _is_positive_int(self.max_clips), "1 or more, or null")

    def _check_machinery(self):
        self._require("model", _is_optional(self.model, (str, Path)), "a checkpoint folder, a Hub id, or null")
        self.model = None if self.model is None else str(self.model)
        self._require("seed", type(self.seed) is int and self.seed >= 0, "a whole number, 0 or more")
        self._require("bootstrap_resamples", _is_positive_int(self.bootstrap_resamples), "1 or more")
        valid_seconds = isinstance(self.batch_seconds, (int, float)) and self.batch_seconds > 0
        self._require("batch_seconds", valid_seconds, "seconds above 0")
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
        if "speech" not in settings:
            raise ValueError(f"{path}: the field 'speech' (one or more table paths) is missing.")
        return cls(**settings)

    def record(self) -> dict[str, Any]:
        """The settings that determine results, JSON-able."""
        return {name: value for name, value in asdict(self).items() if name not in UNRECORDED_FIELDS}


def _is_list_of(value: Any, kind: type | tuple[type, ...]) -> bool:
    return isinstance(value, (list, tuple)) and all(
        isinstance(item, kind) and not isinstance(item, bool) for item in value
    )


def _is_optional(value: Any, kind: type | tuple[type, ...]) -> bool:
    return value is None or isinstance(value, kind)


def _is_positive_int(value: Any) -> bool:
    return type(value) is int and value >= 1


def _distinct(values: list) -> bool:
    return len(set(values)) == len(values)
