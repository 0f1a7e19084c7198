# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Calibrates the emotion scores of a checkpoint: a temperature and thresholds are chosen on the dev split, in all
conditions together, and measured on the test split, in each of them."""

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from ..fields import read_yaml
from ..metrics.calibration import (
    BINS,
    bin_numbers,
    brier_scores,
    fit_temperature,
    reliability,
    scale_temperature,
)
from ..models.sparse_merit.calibration import CALIBRATION
from ..models.sparse_merit.configuration_sparse_merit import SparseMeritConfig
from ..models.sparse_merit.sources import embedded_name, locate
from ..models.sparse_merit.tasks import EMOTION, TASKS
from ..plotting.evaluation import plot_reliability
from ..plotting.style import save_figure
from .conditions import Condition
from .configuration import EvaluationConfig
from .markdown import format_score, render_calibration, titled_summaries
from .processes import join_processes
from .report import rows_by_condition, write_json, write_text
from .run import MeasuredClips, measure_clips
from .statistics import Resampling, Score, percentile_interval, resampled_score

NOTICE = (
    "Decision support, not a decision: on other speech, speakers, languages or channels than those of the dev clips, "
    "scores and thresholds may mean something else. A person decides."
)
SYSTEM, SIDES = "model", ("before", "after")
SMALLEST = float(np.finfo(np.float32).smallest_subnormal)  # a stored probability of 0 is a smaller one
REPLACED: dict[str, Any] = {
    "systems": None,
    "baseline": None,
    "labels": None,
    "labels_from": {},
    "task_columns": {},
    "subsets": {},
    "clips": "labelled",
    "measures": ["si_sdr"],
    "workers": 1,
}
"""Fields of an evaluation that a calibration sets itself: it measures one model on all of its labels."""

Statistic = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class SplitOutputs:
    """The outputs of a model for the clips of one split.

    Attributes:
        labels: the classes.
        conditions: the conditions.
        logits: logarithms of the probabilities, (conditions, clips, classes).
        true: class of each clip, (clips,).
        speakers: speaker of each clip, None if unknown.
    """

    labels: list[str]
    conditions: list[Condition]
    logits: np.ndarray
    true: np.ndarray
    speakers: list[str | None]

    @property
    def repeated(self) -> np.ndarray:
        """The class of each clip in each condition, (conditions * clips,)."""
        return np.tile(self.true, len(self.conditions))

    def scores(self, temperature: float) -> np.ndarray:
        """Probabilities (conditions, clips, classes)."""
        return scale_temperature(self.logits, temperature)

    def counts(self) -> dict[str, int]:
        """Number of clips and of known speakers."""
        return {"clips": len(self.true), "speakers": len({*self.speakers} - {None})}


def calibrate(
    model: str | os.PathLike,
    speech: Sequence[str | os.PathLike],
    output: str | os.PathLike,
    config: str | os.PathLike | None = None,
    recalls: Mapping[str, float] | None = None,
    device: str | None = None,
) -> dict[str, Any]:
    """Calibrates the emotion scores of a checkpoint.

    Writes `calibration.json` next to the weights if they are in a folder that can be written, else to the output, and
    the report `results.json`, `results.md` and `figures/reliability.png`. The results of each clip are kept in
    `OUTPUT/dev` and `OUTPUT/test`, so that an interrupted run resumes.

    Args:
        model: name of an embedded checkpoint, folder or Hub id of a checkpoint or of adapters.
        speech: speech datasets with the splits dev and test.
        output: folder of the report.
        config: YAML file of `sparse-merit evaluate`, from which noise, SNRs, transmissions and other settings of the
            clips are taken; None takes the recordings as they are. Unless the file states a `noise_split`, noise is
            drawn from the split of the speech.
        recalls: `{emotion: required recall}`; a threshold is chosen for each.
        device: torch device; None is a GPU if available.

    Returns:
        The content of `results.json`.

    Raises:
        ValueError: a field, an emotion or a recall is invalid; the model has no task "emotion"; no temperature fits;
            or the folder holds results of other settings, weights or data.
        OSError: the checkpoint is missing.
    """
    source, output = locate(model), Path(output)
    labels = _emotion_labels(source)
    recalls = _checked_recalls(recalls or {}, labels)
    configs = {split: _split_config(split, source, speech, output, config, device) for split in ("dev", "test")}
    state = join_processes(configs["dev"].device)
    measured = {split: measure_clips(own, state) for split, own in configs.items()}
    report = build_calibration(measured, labels, recalls, configs["test"])
    if state.is_main_process:
        folder = _folder_of(source, output)
        _write(report, output, folder)
        print_calibration(report)
        print(f"{folder / CALIBRATION}\n{output / 'results.md'}")
    state.wait_for_everyone()
    return report


def build_calibration(
    measured: Mapping[str, MeasuredClips], labels: list[str], recalls: Mapping[str, float], config: EvaluationConfig
) -> dict[str, Any]:
    """Fits temperature and thresholds on dev, and measures them on test.

    Args:
        measured: the results of all clips of the splits "dev" and "test".
        labels: the emotion classes.
        recalls: `{emotion: required recall}`.
        config: provides number of resamples and seed.

    Raises:
        ValueError: no temperature fits, or no dev clip has an emotion of `recalls`.
    """
    dev, test = (_outputs_of(measured[split].rows[SYSTEM][0], labels) for split in ("dev", "test"))
    _warn_of_shared_speakers(dev, test)
    temperature = fit_temperature(dev.logits.reshape(-1, len(labels)), dev.repeated)
    resampling = Resampling(test.speakers, config.bootstrap_resamples, config.seed)
    before, after = test.scores(1.0), test.scores(temperature)
    thresholds = {}
    for label, recall in recalls.items():
        number, threshold = labels.index(label), choose_threshold(dev, temperature, label, recall)
        alarms = after[..., number] >= threshold  # (conditions, clips)
        scores = _in_conditions(test, partial(_alarm_scores, alarms, test.true == number, resampling))
        thresholds[label] = {"threshold": threshold, "recall": recall, **scores}
    record = measured["test"].record
    return {
        "schema_version": 1,
        "notice": NOTICE,
        "temperature": temperature,
        "thresholds": thresholds,
        **_in_conditions(test, partial(_agreement, before, after, test.true, resampling)),
        "labels": labels,
        "model": {"name": Path(record["model"]["name"]).name, "sha256": record["model"]["sha256"]},
        "data": {
            "speech": [Path(path).name.removesuffix(".parquet") for path in config.speech],
            "noise": list(config.noise),
            "dev": dev.counts(),
            "test": test.counts(),
        },
        "reliability": _reliability_panels(test, temperature),
        "config": record["config"],
        "versions": record["versions"],
    }


def _warn_of_shared_speakers(dev: SplitOutputs, test: SplitOutputs) -> None:
    if shared := sorted({*dev.speakers} & {*test.speakers} - {None}, key=str):
        warnings.warn(
            f"{len(shared)} speakers are in the dev and in the test clips, such as {shared[0]}, so the scores on test "
            "say little about other speakers. Split the datasets by speaker.",
            stacklevel=3,
        )


def choose_threshold(dev: SplitOutputs, temperature: float, label: str, recall: float) -> float:
    """The largest threshold with the required recall: at least this share of the clips with an emotion, in all
    conditions together, has a score of that emotion that is not below it.

    Args:
        dev: the outputs for the dev clips.
        temperature: the temperature of the scores.
        label: the emotion.
        recall: above 0, at most 1.

    Raises:
        ValueError: no dev clip has this emotion.
    """
    number = dev.labels.index(label)
    of_label = np.sort(dev.scores(temperature)[:, dev.true == number, number].ravel())[::-1]
    if not len(of_label):
        raise ValueError(f"No dev clip has the emotion {label!r}, so it has no threshold; expected one or more.")
    needed = max(1, int(np.ceil(recall * len(of_label) - 1e-9)))
    return float(of_label[needed - 1])


def print_calibration(report: dict[str, Any], console: Console | None = None) -> None:
    """Prints the scores before and after as tables, and that they are no decision.

    Args:
        report: from `build_calibration`.
        console: where to print; standard output by default.
    """
    console = console or Console()
    counts = report["data"]["test"]
    title = f"temperature {report['temperature']:.3g}: {counts['clips']} clips of {counts['speakers']} speakers"
    table = Table("condition", title=title)
    for heading in ("ECE", "Brier score", "accuracy"):
        table.add_column(heading, justify="right")
    for name, summary in titled_summaries(report):
        measures = ("expected_calibration_error", "brier_score", "accuracy")
        table.add_row(name, *(" → ".join(_shown(summary[one][side]) for side in SIDES) for one in measures))
    console.print(table)
    for label, chosen in report["thresholds"].items():
        table = Table("condition", title=f"{label} from {chosen['threshold']:.3g} [95 %]")
        for heading in ("recall", "precision", "share of alarms"):
            table.add_column(heading, justify="right")
        for name, summary in titled_summaries(chosen):
            scores = (summary[one] for one in ("recall", "precision", "alarms"))
            table.add_row(name, *(_shown(score, score["interval"]) for score in scores))
        console.print(table)
    console.print(report["notice"])


def _shown(score: dict[str, Any], interval: Sequence[float] | None = None) -> str:
    return format_score("macro_f1", score["mean"], interval)


def _emotion_labels(source: str) -> list[str]:
    config = SparseMeritConfig.from_pretrained(source)
    if EMOTION not in config.tasks:
        raise ValueError(f"{source} has the tasks {config.tasks}; expected a model with the task {EMOTION!r}.")
    return TASKS[EMOTION].describe(config)["labels"]


def _checked_recalls(recalls: Mapping[str, float], labels: list[str]) -> dict[str, float]:
    for label, recall in recalls.items():
        if label not in labels or not 0 < recall <= 1:
            raise ValueError(
                f"The recall is {label}={recall:g}; expected one of {labels}, and a share above 0 and at most 1."
            )
    return dict(recalls)


def _split_config(
    split: str,
    source: str,
    speech: Sequence[str | os.PathLike],
    output: Path,
    config: str | os.PathLike | None,
    device: str | None,
) -> EvaluationConfig:
    """The settings of the evaluation of one split."""
    given = {} if config is None else read_yaml(Path(config))
    if given.get("test_set"):
        raise ValueError(
            f"{config} has a `test_set`; expected `noise`, `snr_db` and `transmissions`, which the dev clips need too."
        )
    own: dict[str, Any] = {"model": source, "speech": [str(path) for path in speech], "speech_split": split}
    own |= {"noise_split": given.get("noise_split", split), "output": str(output / split)}
    try:
        return EvaluationConfig(**{**given, **REPLACED, **own, **({"device": device} if device else {})})
    except ValueError as error:
        raise ValueError(f"{config}: {error}" if config else str(error)) from None


def _outputs_of(rows: list[dict], labels: list[str]) -> SplitOutputs:
    grouped = rows_by_condition(rows)
    clips = next(iter(grouped.values()))
    probabilities = [[[row[f"probability_{label}"] for label in labels] for row in some] for some in grouped.values()]
    logits = np.log(np.maximum(np.array(probabilities, dtype=np.float64), SMALLEST))
    true = np.array([labels.index(row["emotion"]) for row in clips])
    return SplitOutputs(labels, list(grouped), logits, true, [row["speaker"] for row in clips])


def _in_conditions(test: SplitOutputs, describe: Callable[[list[int]], dict[str, Any]]) -> dict[str, Any]:
    """What a function gives of the numbers of all conditions, and of each one."""
    each = [
        {"condition": condition.name, **asdict(condition), **describe([place])}
        for place, condition in enumerate(test.conditions)
    ]
    return {"overall": describe([*range(len(test.conditions))]), "conditions": each}


def _agreement(
    before: np.ndarray, after: np.ndarray, true: np.ndarray, resampling: Resampling, places: list[int]
) -> dict[str, Any]:
    """ECE, Brier score and accuracy of scores (conditions, clips, classes) before and after the calibration."""
    repeated = np.tile(true, len(places))
    summary: dict[str, Any] = {"clips": len(true)}
    for name, build, is_biased in (
        ("expected_calibration_error", _ece, True),
        ("brier_score", _brier, False),
        ("accuracy", _accuracy, False),
    ):
        summary[name] = {}
        for side, scores in zip(SIDES, (before[places], after[places]), strict=True):
            statistic = build(scores.reshape(-1, scores.shape[-1]), repeated)
            score = _scored(statistic, len(true), len(places), resampling)
            summary[name][side] = _described(score, is_biased)
    return summary


def _ece(scores: np.ndarray, true: np.ndarray) -> Statistic:
    confidences, correct = scores.max(-1), scores.argmax(-1) == true
    # n_b * (accuracy_b - confidence_b), (clips, bins)
    gaps = np.eye(BINS)[bin_numbers(confidences)] * (correct - confidences)[:, None]
    return lambda counts: np.abs(np.einsum("rc,cb->rb", counts, gaps)).sum(1) / counts.sum(1)


def _brier(scores: np.ndarray, true: np.ndarray) -> Statistic:
    return _mean_of(brier_scores(scores, true), np.ones(len(true)))


def _accuracy(scores: np.ndarray, true: np.ndarray) -> Statistic:
    return _mean_of(scores.argmax(-1) == true, np.ones(len(true)))


def _mean_of(values: np.ndarray, weights: np.ndarray) -> Statistic:
    """The weighted mean of values (clips,); NaN where all weights are 0."""

    def statistic(counts: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            # not `@`: the order of summation in BLAS depends on the number of threads
            return np.einsum("rc,c->r", counts, 1.0 * values * weights) / np.einsum("rc,c->r", counts, 1.0 * weights)

    return statistic


def _alarm_scores(
    alarms: np.ndarray, positive: np.ndarray, resampling: Resampling, places: list[int]
) -> dict[str, Any]:
    """Recall, precision and share of alarms (conditions, clips), where the emotion of some clips is `positive`."""
    raised, repeated = alarms[places].ravel(), np.tile(positive, len(places))
    statistics = {
        "recall": _mean_of(raised, repeated),
        "precision": _mean_of(repeated, raised),
        "alarms": _mean_of(raised, np.ones_like(raised)),
    }
    described = {
        name: _described(_scored(statistic, len(positive), len(places), resampling))
        for name, statistic in statistics.items()
    }
    return {"clips": len(positive), "of_label": int(positive.sum()), **described}


def _scored(statistic: Statistic, num_clips: int, num_conditions: int, resampling: Resampling) -> Score:
    """Bootstraps a statistic of clips in several conditions; a resampled clip is in all of them."""

    def of_clips(counts: np.ndarray) -> np.ndarray:
        return statistic(np.tile(counts, num_conditions))[:, None]

    return resampled_score(of_clips, num_clips, 1, resampling, 0)


def _described(score: Score, is_biased: bool = False) -> dict[str, Any]:
    """The score, and its 95 % intervals over clips and over speakers."""
    intervals = {
        unit: _basic_interval(score.mean, draws) if is_biased else percentile_interval(draws)
        for unit, draws in score.draws.items()
    }
    return {"mean": score.mean, "interval": intervals["clip"], "speaker_interval": intervals["speaker"]}


def _basic_interval(value: float, draws: np.ndarray | None) -> list[float] | None:
    """The basic bootstrap interval, 2 * score - percentiles (Davison and Hinkley, 1997, section 5.2), not below 0.

    Resampling adds spread within each bin and so increases the ECE as much as the sampling of clips did; this interval
    corrects for that. It can lie below the score, which few clips make too large.
    """
    bounds = percentile_interval(draws)
    return bounds and [max(0.0, 2 * value - bound) for bound in reversed(bounds)]


def _reliability_panels(test: SplitOutputs, temperature: float) -> dict[str, dict[str, list[list[float]]]]:
    """Points of the reliability diagrams: clean, noisy, and after each transmission."""
    groups: dict[str, list[int]] = {}
    for place, condition in enumerate(test.conditions):
        groups.setdefault(condition.transmission or ("clean" if condition.pool is None else "noisy"), []).append(place)
    panels: dict[str, dict[str, list[list[float]]]] = {}
    for name, places in groups.items():
        for side, divisor in zip(SIDES, (1.0, temperature), strict=True):
            scores = test.scores(divisor)[places]  # (conditions, clips, classes)
            correct = scores.argmax(-1) == test.true
            panels.setdefault(name, {})[side] = reliability(scores.max(-1).ravel(), correct.ravel()).tolist()
    return panels


def _folder_of(source: str, output: Path) -> Path:
    """The folder of the weights if it can be written, else the output."""
    folder = Path(source)
    is_own = folder.is_dir() and embedded_name(folder) is None and os.access(folder, os.W_OK)
    return folder if is_own else output


def _write(report: dict[str, Any], output: Path, folder: Path) -> None:
    """Writes the report, and `calibration.json`, which has no settings of this machine."""
    write_json(output / "results.json", report)
    figures = []
    try:
        figure = plot_reliability(report["reliability"], f"{report['model']['name']}, T = {report['temperature']:.2f}")
        (output / "figures").mkdir(parents=True, exist_ok=True)
        save_figure(figure, output / "figures" / "reliability.png")
        figures.append("figures/reliability.png")
    except ImportError as error:
        warnings.warn(f"The report has no figures. {error}", stacklevel=3)
    write_text(output / "results.md", render_calibration(report, figures))
    travelling = {name: value for name, value in report.items() if name not in ("config", "reliability")}
    write_json(folder / CALIBRATION, travelling)
