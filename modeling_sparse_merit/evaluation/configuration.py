# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Configuration of an evaluation, read from YAML: systems, test clips, noise, and distribution of the work."""

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from ..data.transmission import TRANSMISSIONS, checked_transmissions
from ..fields import Count, Number, Positive, PositiveCount, checked_dataclass, read_yaml, require, split_labels
from ..metrics import DEFAULT_SPEECH_MEASURES, SPEECH_MEASURES
from ..models.sparse_merit.configuration_sparse_merit import PRECISIONS
from ..models.sparse_merit.tasks import EMOTION, ENHANCEMENT

NOISY = "noisy"
"""Name of the system that returns its input unchanged; gains of speech measures are relative to it."""
TEST_SET_FIELDS = ("speech", "speech_split", "noise", "noise_split", "snr_db", "clean", "transmissions")
"""Fields that describe a test set."""

# fields that change speed or location of the results, but never a result; not recorded
UNRECORDED_FIELDS = ("workers", "feature_cache", "output")


def _distinct(values: list) -> list:
    if len(set(values)) < len(values):
        raise ValueError(values)
    return values


def _distinct_ratios(ratios: list[float]) -> list[float]:
    """Without the sign of -0. Ratios that are written alike would share a file of results."""
    ratios = [ratio + 0.0 for ratio in ratios]
    _distinct([f"{ratio:g}" for ratio in ratios])
    return ratios


def _known(values: list[str], known: Iterable[str]) -> list[str]:
    if not set(values) <= set(known):
        raise ValueError(values)
    return values


def _checkpoints(given: Any) -> list[str]:
    """One checkpoint, or several, as a list."""
    checkpoints = list(given) if isinstance(given, list | tuple) else [given]
    if not checkpoints or not all(isinstance(checkpoint, str | Path) for checkpoint in checkpoints):
        raise ValueError(given)
    return [str(checkpoint) for checkpoint in checkpoints]


def _members(system: Any) -> list[Any]:
    """
    The members of one system.

    Raises:
        ValueError: It is not written as `EvaluationConfig.systems` describes.
    """
    if not isinstance(system, Mapping):
        return _checkpoints(system)
    if isinstance(system.get("reference"), str):
        return [dict(system)]
    if set(system) == {"model", "precision"} and system["precision"] in list(PRECISIONS):
        return [{"model": member, "precision": system["precision"]} for member in _checkpoints(system["model"])]
    if set(system) != {ENHANCEMENT, EMOTION}:
        raise ValueError(system)
    parts = [_parts(system[task]) for task in (ENHANCEMENT, EMOTION)]
    seeds = max(map(len, parts))
    first, second = (part * seeds if isinstance(part[0], dict) else part for part in parts)
    return [{ENHANCEMENT: one, EMOTION: other} for one, other in zip(first, second, strict=True)]


def _parts(given: Any) -> list[Any]:
    """One half of a cascade: a reference, which is the same for every seed, or checkpoints."""
    if isinstance(given, Mapping) and isinstance(given.get("reference"), str):
        return [dict(given)]
    return _checkpoints(given)


FileName = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]  # pools and systems name files
PathName = Annotated[str, BeforeValidator(lambda path: str(path) if isinstance(path, Path) else path), "a path"]
Split = Annotated[str, "the name of a split"]
Subset = Annotated[dict[str, Annotated[list[Any], Field(min_length=1)]], Field(min_length=1)]
Systems = Annotated[
    dict[FileName, Annotated[list[Any], BeforeValidator(_members)]],
    Field(min_length=1),
    f"a checkpoint or a list of some, {{model: ..., precision: {'|'.join(PRECISIONS)}}}, {{reference: ...}}, or "
    "{enhancement: ..., emotion: ...} with checkpoints, lists of equal length or {reference: ...}, for each name of "
    "letters, digits, '_', '-' and '.'",
]


@checked_dataclass
class EvaluationConfig:
    """Settings of `sparse-merit evaluate`. Relative paths start at the working directory.

    Attributes:
        test_set: path of a frozen noisy test set (`sparse-merit prepare noisy`), used in all its conditions; None
            creates one in `OUTPUT/test_set` from the following seven fields.
        speech: paths of speech datasets (columns `audio`, `emotion`, `speaker`, `split`, `duration`, and `text` for
            speech-text models).
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
            `{reference: name, option: value, ...}`, see `references.build_reference`, which can also be a part of a
            cascade. `noisy: noisy`, the unchanged input, is always evaluated.
        baseline: the system that all others are compared with; None makes no comparisons.
        measures: speech measures to compute, names of `metrics.SPEECH_MEASURES`.
        labels: emotion classes to evaluate; None takes those of all models, in order. OWN=LABEL, as in
            `upset=angry`, takes LABEL for OWN in a model that lacks OWN. If models know different labels, each is
            scored on its own, and all are compared on the labels that all know.
        labels_from: the same as a mapping, `{upset: angry}`, for names in `labels`.
        task_columns: columns of the speech datasets that further tasks are scored with, {task: column or columns}. By
            default they have the names of the ratings, or that of the task.
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
        feature_cache: folder in which encoder outputs are stored, for checkpoints in fp32 that share a frozen encoder:
            it then runs once per batch. A second of speech needs 50 x layers x width float32 numbers.
        output: folder of the report and of `clips/SYSTEM/MEMBER/CONDITION.parquet`, with one row per clip.
    """

    test_set: PathName | None = None
    speech: Annotated[
        list[PathName],
        BeforeValidator(lambda speech: [speech] if isinstance(speech, str | Path) else speech),
        "the paths of one or more datasets",
    ] = field(default_factory=list)
    speech_split: Split | None = "test"
    noise: Annotated[
        dict[FileName, PathName],
        BeforeValidator(lambda noise: {} if noise is None else noise),
        "{pool: path of a dataset}, pool names of letters, digits, '_', '-' and '.'",
    ] = field(default_factory=dict)
    noise_split: Split | None = "test"
    snr_db: Annotated[
        list[Number], AfterValidator(_distinct_ratios), "a list of finite numbers, distinct in their first six digits"
    ] = field(default_factory=lambda: [-5.0, 0.0, 5.0, 10.0])
    clean: bool = True
    transmissions: Annotated[
        list[str],
        AfterValidator(lambda names: list(checked_transmissions(names))),
        f"some of {list(TRANSMISSIONS)}, each once",
    ] = field(default_factory=list)
    model: PathName | None = None
    systems: Systems | None = None
    baseline: str | None = None
    measures: Annotated[
        list[str],
        Field(min_length=1),
        AfterValidator(_distinct),
        AfterValidator(lambda names: _known(names, SPEECH_MEASURES)),
        f"some of {list(SPEECH_MEASURES)}, each once",
    ] = field(default_factory=lambda: list(DEFAULT_SPEECH_MEASURES))
    labels: Annotated[list[str], Field(min_length=1), AfterValidator(_distinct), "distinct class names"] | None = None
    labels_from: Annotated[dict[str, str], "{label: label of another model}"] = field(default_factory=dict)
    task_columns: Annotated[dict[str, str | list[str]], "{task: column or columns}"] = field(default_factory=dict)
    clips: Literal["labelled", "all"] = "labelled"
    subsets: Annotated[dict[str, Subset], "{name: {column: [values]}}, such as {women: {gender: [female]}}"] = field(
        default_factory=dict
    )
    max_clips: PositiveCount | None = None
    seed: Count = 0
    bootstrap_resamples: PositiveCount = 1000
    batch_seconds: Positive = 60.0
    threads: PositiveCount = 1
    workers: PositiveCount | None = None
    device: str | None = None
    feature_cache: PathName | None = None
    output: PathName = "evaluation"

    def __post_init__(self) -> None:
        for entry in fields(self) if self.test_set else ():
            default = entry.default if entry.default_factory is MISSING else entry.default_factory()
            unset = entry.name not in TEST_SET_FIELDS or getattr(self, entry.name) == default
            require(self, entry.name, unset, "nothing, because the `test_set` has its own")
        require(
            self, "speech", self.speech or self.test_set, "the paths of one or more datasets, or else a `test_set`"
        )
        require(self, "clean", self.clean or (self.noise and self.snr_db), "true, because no noise or no SNR is given")
        require(self, "model", self.model is None or self.systems is None, "null, because `systems` are given")
        members = self.members()
        named = all((name == NOISY) == (some == [NOISY]) for name, some in members.items())
        require(self, "systems", named, f"the name {NOISY} for the system {NOISY}, and for no other")
        valid_baseline = self.baseline is None or self.baseline in members
        require(self, "baseline", valid_baseline, f"one of the systems {list(members)}, or null")
        is_folder = Path(self.output).suffix != ".json"
        require(self, "output", is_folder, "the path of a folder (results.json is written in it)")
        self._split_labels()

    def _split_labels(self) -> None:
        """Splits OWN=LABEL: `labels` has OWN, `labels_from` {OWN: LABEL}."""
        names, mapped = split_labels(self.labels or [])
        self.labels, self.labels_from = names or None, {**self.labels_from, **mapped}
        own = set(self.labels_from) <= set(names)
        require(self, "labels_from", own, f"names in `labels`, {names}, with their counterparts in other models")
        distinct = len(set(self.labels_from.values())) == len(self.labels_from)
        require(self, "labels_from", distinct, "another label for each")

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
        values = read_yaml(path) | {name: value for name, value in overrides.items() if value is not None}
        try:
            return cls(**values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def members(self) -> dict[str, list[Any]]:
        """The members of each system, one per seed, starting with the noisy input: a checkpoint (None is the default
        of the package), "noisy", or the mapping of a cascade or a reference."""
        return {NOISY: [NOISY]} | ({"model": [self.model]} if self.systems is None else self.systems)

    def record(self) -> dict[str, Any]:
        """The settings that determine results, JSON-serializable."""
        return {name: value for name, value in asdict(self).items() if name not in UNRECORDED_FIELDS}
