# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""What an evaluation measures, as one YAML file: the systems, the test clips, the noise, and how the work is split."""

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from ..data.transmission import TRANSMISSIONS
from ..fields import Count, Number, Positive, PositiveCount, checked_dataclass, read_yaml, require
from ..metrics import DEFAULT_SPEECH_MEASURES, SPEECH_MEASURES
from ..models.sparse_merit.configuration_sparse_merit import PRECISIONS
from ..models.sparse_merit.tasks import EMOTION, ENHANCEMENT

NOISY = "noisy"
"""The system that leaves its input as it is: what every gain is measured against."""
TEST_SET_FIELDS = ("speech", "speech_split", "noise", "noise_split", "snr_db", "clean", "transmissions")
"""What a test set is made of."""

# they change how fast and where results are written, never a result, and so are left out of the record
UNRECORDED_FIELDS = ("workers", "output")


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
    first, second = _checkpoints(system[ENHANCEMENT]), _checkpoints(system[EMOTION])
    return [{ENHANCEMENT: one, EMOTION: other} for one, other in zip(first, second, strict=True)]


FileName = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]  # pools and systems name files
PathName = Annotated[str, BeforeValidator(lambda path: str(path) if isinstance(path, Path) else path), "a path"]
Split = Annotated[str, "the name of a split"]
Subset = Annotated[dict[str, Annotated[list[Any], Field(min_length=1)]], Field(min_length=1)]
Systems = Annotated[
    dict[FileName, Annotated[list[Any], BeforeValidator(_members)]],
    Field(min_length=1),
    f"a checkpoint or a list of some, {{model: ..., precision: {'|'.join(PRECISIONS)}}}, {{reference: ...}}, or "
    "{enhancement: ..., emotion: ...} with one checkpoint or lists of equal length, for each name of letters, digits, "
    "'_', '-' and '.'",
]


@checked_dataclass
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
        AfterValidator(_distinct),
        AfterValidator(lambda names: _known(names, TRANSMISSIONS)),
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
    output: PathName = "evaluation"

    def __post_init__(self):
        for entry in fields(self) if self.test_set else ():
            default = entry.default if entry.default_factory is MISSING else entry.default_factory()
            unset = entry.name not in TEST_SET_FIELDS or getattr(self, entry.name) == default
            require(self, entry.name, unset, "nothing, as the `test_set` has its own")
        require(
            self, "speech", self.speech or self.test_set, "the paths of one or more datasets, or else a `test_set`"
        )
        require(self, "clean", self.clean or (self.noise and self.snr_db), "true, as no noise or no SNR is given")
        require(self, "model", self.model is None or self.systems is None, "null, as `systems` are given")
        members = self.members()
        named = all((name == NOISY) == (found == [NOISY]) for name, found in members.items())
        require(self, "systems", named, f"the name {NOISY} for the system {NOISY}, and for no other")
        valid_baseline = self.baseline is None or self.baseline in members
        require(self, "baseline", valid_baseline, f"one of the systems {list(members)}, or null")
        is_folder = Path(self.output).suffix != ".json"
        require(self, "output", is_folder, "the path of a folder (results.json is written in it)")

    @classmethod
    def from_yaml(cls, path: str | Path, **overrides: Any) -> "EvaluationConfig":
        """Reads a YAML file.

        Args:
            path: of the file.
            overrides: fields in place of those of the file; None leaves the value of the file.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is no YAML mapping, or a field is unknown, missing or invalid; the error names it.
        """
        values = read_yaml(path) | {name: value for name, value in overrides.items() if value is not None}
        try:
            return cls(**values)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def members(self) -> dict[str, list[Any]]:
        """The members of each system, one for each seed, the noisy input first: a checkpoint (None is that inside the
        package), "noisy", or the mapping of a cascade or a reference."""
        return {NOISY: [NOISY]} | ({"model": [self.model]} if self.systems is None else self.systems)

    def record(self) -> dict[str, Any]:
        """The settings that determine results, JSON-able."""
        return {name: value for name, value in asdict(self).items() if name not in UNRECORDED_FIELDS}
