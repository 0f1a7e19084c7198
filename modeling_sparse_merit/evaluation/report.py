# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Turns per-clip rows into a report: scores of every system in every condition with intervals, and comparisons with
the baseline. The report is written as strict JSON and as Markdown with figures, and printed as tables."""

import json
import math
import os
import warnings
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import product
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from ..files import replacing
from ..metrics import SCORE_TITLES, UndefinedScoreWarning, expected_calibration_error
from ..models.sparse_merit.tasks import Task
from .conditions import Condition
from .configuration import NOISY, EvaluationConfig
from .figures import draw_figures
from .markdown import (
    compact_table,
    format_score,
    labels_note,
    list_measures,
    list_transmissions,
    mean_of,
    render_markdown,
)
from .statistics import (
    Comparison,
    Resampling,
    Score,
    average_comparison,
    compare_macro_f1,
    compare_measure,
    emotion_scores,
    holm,
    measure_score,
)
from .task_scores import compare_ratings, task_scores


@dataclass(frozen=True)
class ConditionResults:
    """The outputs of all members of one system in one condition.

    Attributes:
        clips: the first member's rows.
        members: the rows of each member.
        predicted: predicted class numbers (members, labelled clips); None without the emotion task.
        confidences: largest probabilities (members, labelled clips); None if unknown.
        scores: `{measure: (members, clips)}`, NaN where undefined; empty without the enhancement task.
    """

    clips: list[dict]
    members: list[list[dict]]
    predicted: np.ndarray | None
    confidences: np.ndarray | None
    scores: dict[str, np.ndarray]


@dataclass(frozen=True)
class Group:
    """A group of labelled clips for which emotion recognition is also scored separately.

    Attributes:
        places: indices among the labelled clips (clips,).
        scored: the classes that occur in these clips.
        speakers: number of speakers.
        resampling: resamples of these clips.
    """

    places: np.ndarray
    scored: list[int]
    speakers: int
    resampling: Resampling


class Protocol:
    """What all systems and conditions have in common: the clips, their labels, and their resamples.

    Args:
        clips: the rows of any system in any condition.
        labels: the emotion classes; clips with another emotion, or none, count as unlabelled.
        config: provides measures, number of resamples and seed.
        groups: `{kind: {name: rows}}`, clips that are also scored separately.
        tasks: the further tasks of all systems, by name.
    """

    def __init__(
        self,
        clips: list[dict],
        labels: list[str],
        config: EvaluationConfig,
        groups: Mapping[str, Mapping[str, Sequence[int]]],
        tasks: Mapping[str, Task],
    ):
        self.tasks = tasks
        self.labels, self.measures = labels, list(config.measures)
        self.rows = [clip["row"] for clip in clips]
        self.labelled = [index for index, clip in enumerate(clips) if clip["emotion"] in labels]
        self.true = np.array([labels.index(clips[index]["emotion"]) for index in self.labelled], dtype=np.int64)
        speakers = [clip["speaker"] for clip in clips]
        self.resampling = Resampling(speakers, config.bootstrap_resamples, config.seed)
        self.labelled_resampling = Resampling(
            [speakers[index] for index in self.labelled], config.bootstrap_resamples, config.seed
        )
        self.groups = {
            kind: {name: group for name, rows in named.items() if (group := self._group(rows, speakers, config))}
            for kind, named in groups.items()
        }

    def _group(self, rows: Sequence[int], speakers: list[str | None], config: EvaluationConfig) -> Group | None:
        """A group of clips; None if no clip is labelled."""
        chosen = set(rows)
        places = [place for place, index in enumerate(self.labelled) if self.rows[index] in chosen]
        if not places:
            return None
        spoken = [speakers[self.labelled[place]] for place in places]
        resampling = Resampling(spoken, config.bootstrap_resamples, config.seed)
        return Group(np.array(places), np.unique(self.true[places]).tolist(), len({*spoken} - {None}), resampling)

    def results(self, system: str, condition: Condition, members: list[list[dict]]) -> ConditionResults:
        """Converts the rows of one system in one condition to arrays.

        Args:
            system: name of the system.
            condition: the test condition.
            members: rows of each member.

        Raises:
            ValueError: the rows are of other clips than those of the protocol, so scores would not be comparable.
        """
        for member, clips in enumerate(members):
            if [clip["row"] for clip in clips] != self.rows:
                raise ValueError(
                    f"The {len(clips)} stored rows of {system}, member {member}, {condition.name} do not match the "
                    f"{len(self.rows)} clips of the evaluation. Delete the file of this condition and evaluate again."
                )
        predicted, confidences = self._predicted(members), self._confidences(members)
        return ConditionResults(members[0], members, predicted, confidences, self._scores(members))

    def _predicted(self, members: list[list[dict]]) -> np.ndarray | None:
        chosen = [[clips[index] for index in self.labelled] for clips in members]
        if not self.labelled or any(clip["predicted"] is None for clips in chosen for clip in clips):
            return None
        return np.array([[self.labels.index(self._choice(clip)) for clip in clips] for clips in chosen])

    def _choice(self, clip: dict) -> str:
        """The predicted label, or the most probable one of these labels if it is none of them."""
        if clip["predicted"] in self.labels:
            return clip["predicted"]
        return max(self.labels, key=lambda name: clip[f"probability_{name}"])

    def _confidences(self, members: list[list[dict]]) -> np.ndarray | None:
        names = [f"probability_{label}" for label in self.labels]
        values = [[[clips[index].get(name) for name in names] for index in self.labelled] for clips in members]
        probabilities = np.array(values, dtype=np.float64)  # (members, labelled clips, labels), None becomes NaN
        return probabilities.max(-1) if probabilities.size and np.isfinite(probabilities).all() else None

    def _scores(self, members: list[list[dict]]) -> dict[str, np.ndarray]:
        by_measure = {}
        for name in self.measures:
            scores = [[clip.get(f"enhanced_{name}") for clip in clips] for clips in members]
            if any(score is not None for values in scores for score in values):
                values = np.array(scores, dtype=np.float64)  # (members, clips), None becomes NaN
                by_measure[name] = np.where(np.isfinite(values), values, np.nan)
        return by_measure


def build_report(
    record: dict[str, Any],
    rows: dict[str, list[list[dict]]],
    config: EvaluationConfig,
    groups: Mapping[str, Mapping[str, Sequence[int]]] | None = None,
    tasks: Mapping[str, Task] | None = None,
) -> dict[str, Any]:
    """Scores, intervals and comparisons of an evaluation.

    Args:
        record: settings, systems and test set; `labels` are the emotion classes. The report starts with it.
        rows: `{system: [rows of all conditions of each member]}`.
        config: the settings of the evaluation.
        groups: `{"corpus" | "gender" | "subset": {name: rows}}`, clips for which emotion recognition is also scored
            separately, see `FrozenTestSet.group_clips`.
        tasks: the further tasks of all systems, by name, see `list_further_tasks`.

    Returns:
        The record with `results`, `{system: {"members": number, "labels": known ones, "conditions": [summary]}}`, and
        `comparisons` with the baseline (None without one). With `model` in place of `systems`, the summaries of that
        checkpoint are also at the top level as `conditions`, for the model card. If systems know different labels,
        `shared_labels` are those that all know; they are compared on them, by `shared_emotion` of each summary.

    Raises:
        ValueError: two systems were not evaluated on the same clips.
    """
    grouped = {system: [rows_by_condition(member) for member in members] for system, members in rows.items()}
    conditions = next(iter(grouped.values()))[0]
    known = {system: _known_labels(members, record["labels"]) for system, members in rows.items()}

    def protocol_of(labels: list[str]) -> Protocol:
        return Protocol(next(iter(conditions.values())), labels, config, groups or {}, tasks or {})

    compared = protocol_of(record["labels"])
    own = {system: compared if labels == record["labels"] else protocol_of(labels) for system, labels in known.items()}
    outputs = {system: _outputs(system, members, conditions, own[system]) for system, members in grouped.items()}
    results = {
        system: {
            "members": len(rows[system]),
            "labels": known[system],
            "conditions": _summaries(system, outputs, own[system]),
        }
        for system in rows
    }
    if any(labels != record["labels"] for labels in known.values()):
        record = {**record, "shared_labels": _shared_labels(known)}
        compared = protocol_of(record["shared_labels"])
        outputs = {system: _outputs(system, members, conditions, compared) for system, members in grouped.items()}
        _add_shared(results, outputs, compared)
    comparisons = _comparisons(outputs, config.baseline, compared) if config.baseline else None
    report = {**record, "results": results, "comparisons": comparisons}
    if config.systems is None:
        (checkpoint,) = set(results) - {NOISY}
        report["conditions"] = results[checkpoint]["conditions"]
    return report


def rows_by_condition(rows: list[dict]) -> dict[Condition, list[dict]]:
    """Rows grouped by condition in order of appearance, and sorted by clip number."""
    grouped: dict[str, list[dict]] = {}
    for row in rows:
        grouped.setdefault(row["condition"], []).append(row)
    return {
        Condition(first["pool"], first["snr_db"], first.get("transmission")): sorted(clips, key=itemgetter("row"))
        for clips in grouped.values()
        for first in clips[:1]
    }


def _outputs(
    system: str, members: list[dict[Condition, list[dict]]], conditions: Iterable[Condition], protocol: Protocol
) -> dict[Condition, ConditionResults]:
    """The outputs of one system in each condition."""
    return {
        condition: protocol.results(system, condition, [member.get(condition, []) for member in members])
        for condition in conditions
    }


def _known_labels(members: list[list[dict]], labels: list[str]) -> list[str]:
    """The labels that a system can choose between, by its first prediction; all without the emotion task."""
    first: dict = next((row for row in members[0] if row["predicted"] is not None), {})
    return [label for label in labels if first.get(f"probability_{label}") is not None] or labels


def _shared_labels(known: Mapping[str, list[str]]) -> list[str]:
    """The labels that all systems know; none if there are fewer than two."""
    first, *others = known.values()
    shared = [label for label in first if all(label in some for some in others)]
    return shared if len(shared) > 1 else []


def _add_shared(
    results: dict[str, dict], outputs: dict[str, dict[Condition, ConditionResults]], protocol: Protocol
) -> None:
    """Adds `shared_emotion` to each summary: the emotion scores on the labels that all systems know."""
    for system, result in results.items():
        for summary, given in zip(result["conditions"], outputs[system].values(), strict=True):
            # without the ECE: probabilities of these labels alone do not add up to 1
            chosen = given.predicted
            summary["shared_emotion"] = None if chosen is None else _emotion(system, chosen, None, protocol)


def _stream(system: str) -> int:
    return zlib.crc32(system.encode())  # the same on every machine, unlike hash()


def _summaries(system: str, outputs: dict[str, dict[Condition, ConditionResults]], protocol: Protocol) -> list[dict]:
    """The scores of one system in each condition."""
    conditions = []
    for condition, given in outputs[system].items():
        predicted, confidences = given.predicted, given.confidences
        noisy = outputs[NOISY][condition].scores if NOISY in outputs else {}
        conditions.append(
            {
                "condition": condition.name,
                "pool": condition.pool,
                "snr_db": condition.snr_db,
                "transmission": condition.transmission,
                "clips": len(given.clips),
                "emotion": None if predicted is None else _emotion(system, predicted, confidences, protocol),
                "enhancement": {
                    name: _measure(system, noisy.get(name), given.scores.get(name), protocol)
                    for name in protocol.measures
                },
                "expert_use": summarise_expert_use(given.clips),
            }
        )
        if predicted is not None and any(protocol.groups.values()):
            conditions[-1]["groups"] = {
                kind: {
                    name: _group_scores(system, predicted, confidences, group, protocol)
                    for name, group in groups.items()
                }
                for kind, groups in protocol.groups.items()
                if groups
            }
        if further := task_scores(given.members, protocol.tasks, protocol.resampling, _stream(system)):
            conditions[-1]["tasks"] = further
    _warn_of_undefined(system, conditions)
    return conditions


def _emotion(system: str, predicted: np.ndarray, confidences: np.ndarray | None, protocol: Protocol) -> dict[str, Any]:
    """All scores of emotion recognition with their intervals, and the confusion counts summed over members."""
    labels = protocol.labels
    scores = emotion_scores(protocol.true, predicted, len(labels), protocol.labelled_resampling, _stream(system))
    per_class = [score.describe() for score in scores["per_class_f1"]]
    summary: dict[str, Any] = {"clips": len(protocol.true), **_described(scores)}
    summary |= _described(_calibration(protocol.true, predicted, confidences))
    summary["per_class_f1"] = {label: score["mean"] for label, score in zip(labels, per_class, strict=True)}
    summary["per_class_f1_interval"] = {
        label: score["interval"] for label, score in zip(labels, per_class, strict=True)
    }
    cells = protocol.true * len(labels) + predicted  # (members, clips)
    counts = np.bincount(cells.ravel(), minlength=len(labels) ** 2)
    return {**summary, "confusion": counts.reshape(len(labels), len(labels)).tolist()}


def _group_scores(
    system: str, predicted: np.ndarray, confidences: np.ndarray | None, group: Group, protocol: Protocol
) -> dict[str, Any]:
    """Scores of emotion recognition for a group of clips; macro-F1 is the mean over the classes that occur in it."""
    true, predicted = protocol.true[group.places], predicted[:, group.places]
    confidences = None if confidences is None else confidences[:, group.places]
    stream, classes = _stream(system), len(protocol.labels)
    scores = emotion_scores(true, predicted, classes, group.resampling, stream, group.scored)
    calibration = _described(_calibration(true, predicted, confidences))
    return {"clips": len(true), "speakers": group.speakers, **_described(scores), **calibration}


def _calibration(true: np.ndarray, predicted: np.ndarray, confidences: np.ndarray | None) -> dict[str, Score]:
    """The ECE of each member, without intervals: resampling adds spread within each bin, which increases the ECE, so a
    percentile interval would lie above it."""
    if confidences is None:
        return {}
    pairs = zip(confidences, predicted == true, strict=True)
    errors = np.array([expected_calibration_error(*pair) for pair in pairs])
    return {"expected_calibration_error": Score(errors, {"clip": None, "speaker": None})}


def _described(scores: Mapping[str, object]) -> dict[str, Any]:
    """Each score under its name, with intervals and spread under `NAME_FIELD`; lists of scores are left out."""
    summary = {}
    for name, score in scores.items():
        if not isinstance(score, Score):
            continue
        described = score.describe()
        summary[name] = described.pop("mean")
        summary |= {f"{name}_{field}": value for field, value in described.items()}
    return summary


def _measure(
    system: str, noisy: np.ndarray | None, enhanced: np.ndarray | None, protocol: Protocol
) -> dict[str, dict | None]:
    """One speech measure of input and output, and its gain over the clips for which both are defined."""

    def summarise(scores: np.ndarray | None) -> dict[str, Any] | None:
        if scores is None:
            return None
        described = measure_score(scores, protocol.resampling, _stream(system)).describe()
        defined = np.isfinite(scores)
        counts = {"clips": int(defined.any(0).sum()), "undefined": int((~defined).sum())}
        return {"mean": described.pop("mean"), "interval": described.pop("interval"), **counts, **described}

    # the noisy input is its own output, so it has no gain
    gain = None if noisy is None or enhanced is None or enhanced is noisy else enhanced - noisy
    return {"noisy": summarise(noisy), "enhanced": summarise(enhanced), "difference": summarise(gain)}


def summarise_expert_use(rows: list[dict]) -> dict[str, list[float]] | None:
    """Share of all frames routed to each expert of one member, `{task: (experts,)}`; None without a sparse router.
    Experts of different trainings are unrelated, so members are not averaged."""
    frames = np.array([row["frames"] for row in rows], dtype=np.float64)  # (clips,)
    use: dict[str, list[float]] = {}
    for column in (name for name in rows[0] if name.startswith("expert_") and rows[0][name] is not None):
        task = column.removeprefix("expert_").rpartition("_")[0]
        shares = np.array([row[column] for row in rows])  # (clips,)
        use.setdefault(task, []).append(float((shares * frames).sum() / frames.sum()))
    return use or None


def _warn_of_undefined(system: str, conditions: list[dict]) -> None:
    messages = []
    for summary in conditions:
        undefined = [
            f"{SCORE_TITLES[name]} of {measure['enhanced']['undefined']} enhanced clips"
            for name, measure in summary["enhancement"].items()
            if measure["enhanced"] and measure["enhanced"]["undefined"]
        ]
        messages += [f"{summary['condition']}: {', '.join(undefined)}"] if undefined else []
    if messages:
        reason = f"undefined and left out of the means: {'; '.join(messages)}."
        warnings.warn(f"{system}: {reason}", UndefinedScoreWarning, stacklevel=4)


def _comparisons(
    outputs: dict[str, dict[Condition, ConditionResults]], baseline: str, protocol: Protocol
) -> dict[str, Any]:
    """Comparisons of all systems with the baseline, in each condition and averaged over the pools at each SNR."""
    by_condition, pooled = [], []
    for system in outputs:
        if system == baseline:
            continue
        for measure in ("macro_f1", *protocol.measures):
            compared = {
                condition: comparison
                for condition in outputs[system]
                if (comparison := _compare(outputs, (system, baseline), condition, measure, protocol))
            }
            by_condition += [
                _comparison(system, measure, condition.name, condition, comparison)
                for condition, comparison in compared.items()
            ]
            levels: dict[Condition, list[Comparison]] = {}
            for condition in (condition for condition in compared if condition.pool is not None):
                levels.setdefault(replace(condition, pool=None), []).append(compared[condition])
            for level, inside in levels.items():
                name = f"{level.snr_db:g}dB" + (f"@{level.transmission}" if level.transmission else "")
                pooled.append(_comparison(system, measure, name, level, average_comparison(inside)))
    return {
        "baseline": baseline,
        "by_condition": _corrected(by_condition),
        "pooled": _corrected(pooled),
        "tasks": _corrected(_rating_comparisons(outputs, baseline, protocol)),
    }


def _rating_comparisons(
    outputs: dict[str, dict[Condition, ConditionResults]], baseline: str, protocol: Protocol
) -> list[dict]:
    """Comparisons of the CCC of every rating in each condition."""
    return [
        {"task": task, **_comparison(system, f"ccc_{rating}", condition.name, condition, comparison)}
        for system in outputs
        if system != baseline
        for condition, ours in outputs[system].items()
        for task, rating, comparison in compare_ratings(
            ours.members,
            outputs[baseline][condition].members,
            protocol.tasks,
            protocol.resampling,
            (_stream(system), _stream(baseline)),
        )
    ]


def _compare(
    outputs: dict[str, dict[Condition, ConditionResults]],
    systems: tuple[str, str],
    condition: Condition,
    measure: str,
    protocol: Protocol,
) -> Comparison | None:
    """The comparison of two systems; None if one of them lacks the task."""
    ours, baseline = (outputs[system][condition] for system in systems)
    streams = _stream(systems[0]), _stream(systems[1])
    if measure == "macro_f1":
        if ours.predicted is None or baseline.predicted is None:
            return None
        classes, resampling = len(protocol.labels), protocol.labelled_resampling
        return compare_macro_f1(protocol.true, ours.predicted, baseline.predicted, classes, resampling, streams)
    if measure not in ours.scores or measure not in baseline.scores:
        return None
    return compare_measure(ours.scores[measure], baseline.scores[measure], protocol.resampling, streams)


def _comparison(system: str, measure: str, name: str, condition: Condition, comparison: Comparison) -> dict[str, Any]:
    return {"system": system, "measure": measure, "condition": name, **asdict(condition), **comparison.describe()}


def _corrected(comparisons: list[dict]) -> list[dict]:
    """Adds `p_holm` and `speaker_p_holm`, corrected over all comparisons of one measure."""
    for measure in {comparison["measure"] for comparison in comparisons}:
        family = [comparison for comparison in comparisons if comparison["measure"] == measure]
        for name in ("p", "speaker_p"):
            for comparison, adjusted in zip(family, holm([member[name] for member in family]), strict=True):
                comparison[f"{name}_holm"] = adjusted
    return comparisons


def write_report(folder: str | os.PathLike, report: dict[str, Any], rows: dict[str, list[list[dict]]]) -> None:
    """Writes `results.json`, `figures/*.png` and `results.md` atomically.

    Existing spectrograms of examples, `figures/spectrograms_*.png`, are included. Without matplotlib the figures are
    left out, with a warning that says how to install it.

    Args:
        folder: folder of the report.
        report: from `build_report`.
        rows: as given to `build_report`.
    """
    folder = Path(folder)
    write_json(folder / "results.json", report)
    try:
        figures = draw_figures(folder / "figures", report, rows)
    except ImportError as error:
        warnings.warn(f"The report has no figures. {error}", stacklevel=2)
        figures = []
    figures += sorted((folder / "figures").glob("spectrograms_*.png"))
    text = render_markdown(report, [path.relative_to(folder).as_posix() for path in figures])
    write_text(folder / "results.md", text)


def write_json(path: Path, report: dict[str, Any]) -> None:
    """Writes strict JSON atomically; NaN and infinities become null.

    Args:
        path: the file to write.
        report: the content.
    """
    write_text(path, json.dumps(_strict(report), indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a file atomically.

    Args:
        path: the file to write.
        text: the content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _strict(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_report(report: dict[str, Any], console: Console | None = None) -> None:
    """Prints the report as tables. For one system, each row is a condition, with speech measures as input → output.
    For several systems, one table per noise pool and transmission shows the available scores of the paper against SNR.

    Args:
        report: from `build_report`.
        console: where to print; standard output by default.
    """
    console = console or Console()
    systems = [system for system in report["results"] if system != NOISY]
    title = f"{report['clips']['evaluated']} clips of {report['clips']['speakers']} speakers"
    if len(systems) == 1:
        summaries = report["results"][systems[0]]["conditions"]
        console.print(_table_of_one(summaries, f"{title}, input → output"))
        for task in summaries[0].get("tasks", {}):
            console.print(_table_of_task(task, summaries))
        return
    for measure in list_measures(report)[:2]:
        for transmission, pool in product(list_transmissions(report), list(report["noise"]) or [None]):
            header, rows = compact_table(report, measure, "[bold]{}[/bold]", pool, transmission)
            after = f" after {transmission}" if transmission else ""
            if rows:
                console.print(_table_of_several(header, rows, f"{SCORE_TITLES[measure]}{after}: {title}"))
    if note := labels_note(report):
        console.print(note)


def _table_of_several(header: list[str], rows: list[list[str]], title: str) -> Table:
    table = Table(header[0], title=title)
    for name in header[1:]:
        table.add_column(name.replace(": ", "\n"), justify="right")
    for cells in rows:
        table.add_row(*cells)
    return table


def _table_of_one(summaries: list[dict], title: str) -> Table:
    measures = list(summaries[0]["enhancement"])
    table = Table(title=title)
    table.add_column("condition", no_wrap=True)
    for heading in ("macro-F1 [95 %]", "UAR", *(SCORE_TITLES[name] for name in measures)):
        table.add_column(heading, justify="right")
    for summary in summaries:
        cells = [_arrow(name, summary["enhancement"][name]) for name in measures]
        table.add_row(summary["condition"], *_emotion_cells(summary["emotion"]), *cells)
    return table


def _table_of_task(task: str, summaries: list[dict]) -> Table:
    names = [name for name in summaries[0]["tasks"][task] if name != "clips"]
    table = Table("condition", title=f"{task} [95 %]")
    for name in names:
        table.add_column(name, justify="right")
    for summary in summaries:
        scores = [summary["tasks"][task][name] for name in names]
        cells = [format_score("macro_f1", score["mean"], score["interval"]) for score in scores]
        table.add_row(summary["condition"], *cells)
    return table


def _emotion_cells(emotion: dict[str, Any] | None) -> tuple[str, str]:
    if emotion is None:
        return "–", "–"
    macro_f1 = format_score("macro_f1", emotion["macro_f1"], emotion["macro_f1_interval"])
    return macro_f1, format_score("macro_f1", emotion["unweighted_average_recall"])


def _arrow(name: str, measure: dict[str, dict | None]) -> str:
    return " → ".join(format_score(name, mean_of(measure[side])) for side in ("noisy", "enhanced"))
