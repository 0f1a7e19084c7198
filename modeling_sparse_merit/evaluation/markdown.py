# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The report as Markdown: the tables of the paper (systems against noise and SNR), the gains over the baseline, all
scores with their intervals, and undefined scores."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..metrics import SCORE_TITLES

THREE_DECIMALS = ("macro_f1", "stoi", "estoi")
LEVELS = (0.05, 0.01)  # significance levels, marked by one and two arrows


def format_score(measure: str, value: float | None, interval: Sequence[float] | None = None, sign: str = "") -> str:
    """Formats a score with the usual decimals of its measure, such as "0.512 [0.430, 0.590]"; a dash if undefined.

    Args:
        measure: a name of `SCORE_TITLES`.
        value: the score; None if undefined.
        interval: its lower and upper bound.
        sign: "+" shows the sign of positive numbers too.
    """
    if value is None or value != value:
        return "–"
    form = f"{sign}z.{3 if measure in THREE_DECIMALS else 2}f"  # z: never "-0.00"
    bounds = f" [{', '.join(format(bound, form) for bound in interval)}]" if interval else ""
    return f"{value:{form}}{bounds}"


def render_markdown(report: dict[str, Any], figures: Sequence[str]) -> str:
    """The text of `results.md`.

    Args:
        report: from `build_report`.
        figures: paths of the figures, relative to the report.
    """
    emotion, *measures = list_measures(report)
    sections = [
        "# Evaluation",
        _measured(report),
        labels_note(report),
        _legend(report),
        _systems(report),
        *(_compact_section(report, name) for name in (emotion, *measures)),
        *_gains(report),
        _emotion_details(report),
        *_group_details(report),
        *_task_details(report),
        *(_measure_details(report, name) for name in measures),
        _undefined(report, measures),
        *_figure_section(figures),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def render_conversations(report: dict[str, Any], figures: Sequence[str]) -> str:
    """The text of `results.md` of conversation models.

    Args:
        report: from `evaluate_conversations`.
        figures: paths of the figures, relative to the report.
    """
    labels, config, clips = report["labels"], report["config"], report["clips"]
    results = {system: result["conditions"][0] for system, result in report["results"].items()}
    emotions = {system: condition["emotion"] for system, condition in results.items()}
    names = {"weighted_f1": "weighted F1", "macro_f1": "macro-F1", "unweighted_average_recall": "UAR"}

    def cell(emotion: dict[str, Any], measure: str) -> str:
        return format_score("macro_f1", emotion[measure], emotion[f"{measure}_speaker_interval"])

    counted = ", ".join(f"{label} {count}" for label, count in clips["labelled"].items())
    scores = [[system, *(cell(emotion, name) for name in names)] for system, emotion in emotions.items()]
    per_class = [
        [system, *(format_score("macro_f1", emotion["per_class_f1"][label]) for label in labels)]
        for system, emotion in emotions.items()
    ]
    sections = [
        "# Evaluation of conversations",
        f"{clips['evaluated']} utterances of {clips['speakers']} dialogues; {counted}. Means over the seeds; "
        f"brackets: 95 % bootstrap intervals ({config['bootstrap_resamples']} resamples of whole dialogues, seed "
        f"{config['seed']}).",
        markdown_table(["system", *names.values()], scores),
        "F1 of each class:",
        markdown_table(["system", *labels], per_class),
    ]
    if report["comparisons"]:
        sections += [_conversation_comparisons(report)]
    for system, condition in results.items():
        if len((gate := condition["gate"])["experts"]) > 1:
            sections += [f"## Weights of the experts of {system}", *gate_tables(gate)]
    return "\n\n".join([*sections, *_figure_section(figures)]) + "\n"


def gate_tables(gate: dict[str, Any]) -> list[str]:
    """Tables of the mean weights of the experts, by class and by place in the dialogue.

    Args:
        gate: from `gate_weights`.
    """

    def rows(groups: dict[str, list[float]]) -> list[list[str]]:
        return [[name, *(f"{weight:.3f}" for weight in weights)] for name, weights in groups.items()]

    return [
        markdown_table(["true class", *gate["experts"]], rows({**gate["by_class"], "all": gate["mean"]})),
        markdown_table(["place in the dialogue", *gate["experts"]], rows(gate["by_place"])),
    ]


def _conversation_comparisons(report: dict[str, Any]) -> str:
    """Differences in macro-F1 from the baseline, with p-values over dialogues."""
    baseline = report["config"]["baseline"]
    rows = [
        [
            entry["system"],
            format_score("macro_f1", entry["difference"], entry["difference_speaker_interval"], "+"),
            _p_value(entry["speaker_p_holm"]),
        ]
        for entry in report["comparisons"]["by_condition"]
    ]
    return markdown_table(["system", f"macro-F1, difference from {baseline}", "p over dialogues (Holm)"], rows)


def render_calibration(report: dict[str, Any], figures: Sequence[str]) -> str:
    """The text of the `results.md` of a calibration.

    Args:
        report: from `build_calibration`.
        figures: paths of the figures, relative to the report.
    """
    dev, test = report["data"]["dev"], report["data"]["test"]
    clips = "{clips} clips of {speakers} speakers".format
    number = len(report["conditions"])
    sections = [
        f"# Calibration of {report['model']['name']}",
        f"**{report['notice']}**",
        f"Temperature {report['temperature']:.4g}, fitted on {clips(**dev)} (dev) in {number} conditions together. "
        f"The scores below are those of {clips(**test)} (test). Brackets hold 95 % intervals over clips, then over "
        "speakers; those of the ECE are basic bootstrap intervals, which correct for its bias when clips are few.",
        "## Scores before and after",
        markdown_table(CALIBRATION_COLUMNS, calibration_rows(report)),
    ]
    for label, chosen in report["thresholds"].items():
        sections.append(
            f"## Threshold for {label}\n\n{label} is reported from a calibrated score of {chosen['threshold']:.4g}, "
            f"the largest with a recall of {chosen['recall']:g} on dev."
        )
        header = ["condition", "recall", "precision", "share of alarms", f"{label}, clips"]
        sections.append(markdown_table(header, alarm_rows(chosen)))
    return "\n\n".join([*sections, *_figure_section(figures)]) + "\n"


CALIBRATION_COLUMNS = ["condition", "ECE before", "ECE after", "Brier before", "Brier after", "accuracy", "clips"]


def calibration_rows(report: dict[str, Any]) -> list[list[str]]:
    """Cells of `CALIBRATION_COLUMNS` for each condition, and for all together if there are several.

    Args:
        report: from `build_calibration`, or the content of a `calibration.json`.
    """

    def cells(summary: dict[str, Any]) -> list[str]:
        sides = [
            _both_intervals(summary[name][side])
            for name in ("expected_calibration_error", "brier_score")
            for side in ("before", "after")
        ]
        accuracy = summary["accuracy"]
        shown = [_both_intervals(accuracy["after"])]
        if accuracy["before"]["mean"] != accuracy["after"]["mean"]:
            shown.insert(0, _both_intervals(accuracy["before"]))
        return [*sides, " → ".join(shown), str(summary["clips"])]

    return [[title, *cells(summary)] for title, summary in titled_summaries(report)]


def alarm_rows(chosen: dict[str, Any]) -> list[list[str]]:
    """Recall, precision, share of alarms and number of clips of an emotion in each condition.

    Args:
        chosen: an entry of `thresholds`.
    """
    return [
        [
            title,
            *(_both_intervals(summary[name]) for name in ("recall", "precision", "alarms")),
            str(summary["of_label"]),
        ]
        for title, summary in titled_summaries(chosen)
    ]


def titled_summaries(report: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The summaries of all conditions together, if there are several, and of each, with their titles.

    Args:
        report: from `build_calibration`, or one of its `thresholds`.
    """
    together = [("all", report["overall"])] if len(report["conditions"]) > 1 else []
    return [*together, *((_condition_title(summary), summary) for summary in report["conditions"])]


def _both_intervals(score: dict[str, Any]) -> str:
    """A score with its intervals over clips and over speakers."""
    # with the comma, as Markdown takes "[a] [b]" for a link
    over_speakers = f", {_bounds('macro_f1', score['speaker_interval'])}" if score["speaker_interval"] else ""
    return f"{format_score('macro_f1', score['mean'], score['interval'])}{over_speakers}"


def list_measures(report: dict[str, Any]) -> list[str]:
    """All scores in the order of the report, starting with those of the paper."""
    measured = next(iter(report["results"].values()))["conditions"][0]["enhancement"]
    return sorted(["macro_f1", *measured], key=list(SCORE_TITLES).index)


def list_transmissions(report: dict[str, Any]) -> list[str | None]:
    """The transmissions of the conditions, in their order; None stands for conditions without transmission."""
    conditions = next(iter(report["results"].values()))["conditions"]
    return list(dict.fromkeys(summary.get("transmission") for summary in conditions))


def _measured(report: dict[str, Any]) -> str:
    """A sentence about the test set."""
    clips = report["clips"]
    emotions = ", ".join(f"{label} {count}" for label, count in clips["labelled"].items())
    noises = ", ".join(f"{pool} ({noise['recordings']} recordings)" for pool, noise in report["noise"].items())
    in_noise = f" Noise: {noises}." if noises else ""
    with_text = f", {number} of them with text" if (number := clips.get("with_text")) else ""
    return f"{clips['evaluated']} clips of {clips['speakers']} speakers{with_text}; labelled: {emotions}.{in_noise}"


def labels_note(report: dict[str, Any]) -> str:
    """Which labels systems are compared on, if they know different ones; empty otherwise."""
    shared = report.get("shared_labels")
    if shared is None:
        return ""
    known = "; ".join(f"{system}: {', '.join(result['labels'])}" for system, result in _recognising(report).items())
    if shared:
        compared = f"Emotion recognition is compared on the labels that all know, {', '.join(shared)}: on the clips "
        compared += "with these labels, and with these labels alone to choose from."
    else:
        compared = "No two labels are known to all, so emotion recognition is not compared; `labels: [OWN=LABEL]` "
        compared += "states the LABEL that stands for OWN in other systems."
    return (
        f"The systems know different labels ({known}). {compared} The details show each system on all of its labels."
    )


def _recognising(report: dict[str, Any]) -> dict[str, dict]:
    """The results of the systems with emotion scores."""
    results = report["results"].items()
    return {system: result for system, result in results if any(each["emotion"] for each in result["conditions"])}


def _systems(report: dict[str, Any]) -> str:
    """A table of the systems: description, number of seeds and parameters."""
    rows = [
        [system, "; ".join(str(member["name"]) for member in members), str(len(members)), _parameters(members[0])]
        for system, members in report["systems"].items()
    ]
    return markdown_table(["system", "what it is", "seeds", "parameters"], rows, text_columns=2)


def _parameters(description: dict[str, Any]) -> str:
    parts = [description, *(description[part] for part in ("enhancement", "emotion") if part in description)]
    total = sum(part.get("parameters", 0) for part in parts)
    return f"{total:,}" if total else "–"


def _legend(report: dict[str, Any]) -> str:
    config, comparisons = report["config"], report["comparisons"]
    lines = [
        "How to read the tables",
        "- **bold**: the best of a column.",
        f"- [low, high]: 95 % bootstrap interval ({config['bootstrap_resamples']} resamples of the clips, seed "
        f"{config['seed']}): how a score varies with the choice of clips. Over speakers, whole speakers are drawn: "
        "how it varies with who speaks; with fewer than about 20 of them, such an interval is too narrow.",
        "- A system of several seeds has the mean over its seeds; its intervals draw seeds, too.",
        "- ECE: expected calibration error of the largest probability, 15 equal-width bins (Guo et al., 2017).",
        "- A score that is undefined for a clip is left out of the mean and counted at the end.",
    ]
    if comparisons:
        lines.append(
            f"- ↑ ↓: better or worse than the baseline `{comparisons['baseline']}` with p < 0.05; ↑↑ ↓↓: p < 0.01. By "
            "a paired permutation test that swaps the two systems' predictions clip by clip, two-sided, with Holm's "
            "correction over all cells of a table. It holds for these trained models: seeds are not drawn. p over "
            "speakers, in the full tables: the test swaps all clips of a speaker at once, so it also holds for other "
            "speakers."
        )
    return "\n".join([lines[0] + ":\n", *lines[1:]])


def _heading(title: str) -> str:
    return f"## {title[0].upper()}{title[1:]}"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int = 1) -> str:
    """A table of Markdown.

    Args:
        header: titles of the columns.
        rows: cells of each row.
        text_columns: number of columns before those with numbers.
    """
    ruler = ["---"] * text_columns + ["---:"] * (len(header) - text_columns)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, ruler, *rows))


def condition_score(summary: dict[str, Any], measure: str) -> dict[str, Any] | None:
    """A system's score in one condition: mean, intervals over clips and speakers, seeds; None without such a task.

    Args:
        summary: an entry of `report["results"][system]["conditions"]`.
        measure: "macro_f1", "unweighted_average_recall", "accuracy" or a speech measure.
    """
    if measure in summary["enhancement"]:
        return summary["enhancement"][measure]["enhanced"]
    emotion = summary.get("shared_emotion", summary["emotion"])  # on the labels that all systems know
    return None if emotion is None else _emotion_score(emotion, measure)


def _emotion_score(emotion: dict[str, Any], measure: str) -> dict[str, Any]:
    fields = ("interval", "speaker_interval", "seeds")
    return {"mean": emotion[measure]} | {name: emotion[f"{measure}_{name}"] for name in fields}


def mean_of(score: dict[str, Any] | None) -> float | None:
    """The mean of a score; None if there is no score."""
    return None if score is None else score["mean"]


def compact_table(
    report: dict[str, Any],
    measure: str,
    bold: str = "**{}**",
    pool: str | None = None,
    transmission: str | None = None,
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table of systems against conditions with one transmission, as in the paper. Systems and
    conditions without the score are left out; arrows mark significant differences from the baseline.

    Args:
        report: from `build_report`.
        measure: "macro_f1" or a speech measure.
        bold: format of the best score of a column.
        pool: show only clean speech and this pool; None shows all.
        transmission: transmission of the conditions; None shows those without.
    """
    scores = {
        system: [condition_score(summary, measure) for summary in of_transmission(result, transmission)]
        for system, result in report["results"].items()
    }
    scores = {system: cell for system, cell in scores.items() if any(cell)}
    conditions = of_transmission(next(iter(report["results"].values())), transmission)
    columns = [
        index
        for index, cell in enumerate(zip(*scores.values(), strict=True))
        if any(cell) and pool in (None, conditions[index]["pool"] or pool)
    ]
    marks = _marks(report, measure)
    rows = [[system] for system in scores]
    for index in columns:
        texts = [format_score(measure, mean_of(cell[index])) for cell in scores.values()]
        scored = [text for text in texts if text != "–"]
        best = max(scored, key=float) if len(scored) > 1 else None
        for row, system, text in zip(rows, scores, texts, strict=True):
            mark = marks.get((system, conditions[index]["condition"]), "")
            row.append((bold.format(text) if text == best else text) + mark)
    return ["system", *_column_titles([conditions[index] for index in columns])], rows


def of_transmission(result: dict[str, Any], transmission: str | None) -> list[dict]:
    """The conditions of one system with a given transmission.

    Args:
        result: an entry of `report["results"]`.
        transmission: name of the transmission; None gives the conditions without.
    """
    return [summary for summary in result["conditions"] if summary.get("transmission") == transmission]


def _compact_section(report: dict[str, Any], measure: str) -> str:
    """One table for the conditions without transmission, and one for each transmission."""
    parts = []
    for transmission in list_transmissions(report):
        header, rows = compact_table(report, measure, transmission=transmission)
        if rows:
            parts += [f"### After {transmission}"] if transmission else []
            parts.append(markdown_table(header, rows))
    return "\n\n".join([_heading(SCORE_TITLES[measure]), *parts]) if parts else ""


def _column_titles(conditions: Sequence[dict]) -> list[str]:
    """Titles of the columns; the name of a pool is shown in its first column only."""
    titles, pool = [], None
    for summary in conditions:
        if summary["pool"] is None:
            titles.append("clean")
        else:
            name = "" if summary["pool"] == pool else f"{summary['pool']}: "
            titles.append(f"{name}{summary['snr_db']:g} dB")
        pool = summary["pool"]
    return titles


def _marks(report: dict[str, Any], measure: str) -> dict[tuple[str, str], str]:
    """`{(system, condition): mark}` for the differences from the baseline."""
    comparisons = report["comparisons"]["by_condition"] if report["comparisons"] else []
    return {
        (comparison["system"], comparison["condition"]): _mark(comparison)
        for comparison in comparisons
        if comparison["measure"] == measure
    }


def _mark(comparison: dict[str, Any]) -> str:
    """One arrow, up or down, for each level at which the difference is significant."""
    p_value, arrow = comparison["p_holm"], "↑" if comparison["difference"] > 0 else "↓"
    return "" if p_value is None else arrow * sum(p_value < level for level in LEVELS)


def _gains(report: dict[str, Any]) -> list[str]:
    """Differences from the baseline averaged over the pools, first as short tables, then in full."""
    if not report["comparisons"] or not report["comparisons"]["pooled"]:
        return []
    pooled = report["comparisons"]["pooled"]
    title = f"## Gains over `{report['comparisons']['baseline']}`, mean over the noise pools"
    note = (
        "Difference of the scores, each the mean over the pools, and (relative gain). A relative gain is given only "
        "where the baseline is above 0: a percentage of negative decibels has no meaning."
    )
    glances = [_gain_table(pooled, measure) for measure in list_measures(report)]
    return [title, note, *filter(None, glances), "### In full", _comparison_table(pooled)]


def _gain_table(pooled: list[dict], measure: str) -> str:
    family = [comparison for comparison in pooled if comparison["measure"] == measure]
    if not family:
        return ""
    cells = {(comparison["system"], _level(comparison)): _gain(comparison) for comparison in family}
    systems, levels = (list(dict.fromkeys(values)) for values in zip(*cells, strict=True))
    rows = [[system, *(cells.get((system, level), "–") for level in levels)] for system in systems]
    return f"### {SCORE_TITLES[measure]}\n\n" + markdown_table(["system", *levels], rows)


def _level(condition: dict[str, Any]) -> str:
    """SNR and transmission."""
    return f"{condition['snr_db']:g} dB{_after(condition)}"


def _after(condition: dict[str, Any]) -> str:
    return f", {condition['transmission']}" if condition.get("transmission") else ""


def _gain(comparison: dict[str, Any]) -> str:
    relative = comparison["relative_gain_percent"]
    share = "" if relative is None else f" ({relative:+.1f} %)"
    difference = format_score(comparison["measure"], comparison["difference"], sign="+")
    return f"{difference}{share}{_mark(comparison)}"


def _comparison_table(comparisons: list[dict]) -> str:
    header = [
        "measure",
        "SNR",
        "system",
        "score",
        "baseline",
        "difference",
        "over speakers",
        "relative",
        "p",
        "p (Holm)",
        "p over speakers",
        "(Holm)",
    ]
    order, rows = list(SCORE_TITLES), []
    for comparison in sorted(comparisons, key=lambda one: (order.index(one["measure"]), one["snr_db"])):
        measure, relative = comparison["measure"], comparison["relative_gain_percent"]
        form = partial(format_score, measure)
        rows.append(
            [
                SCORE_TITLES[measure],
                _level(comparison),
                comparison["system"],
                form(comparison["score"]),
                form(comparison["baseline"]),
                form(comparison["difference"], comparison["difference_interval"], "+"),
                _bounds(measure, comparison["difference_speaker_interval"], "+"),
                "–" if relative is None else f"{relative:+.1f} %",
                *(_p_value(comparison[name]) for name in ("p", "p_holm", "speaker_p", "speaker_p_holm")),
            ]
        )
    return markdown_table(header, rows, text_columns=3)


def _p_value(p_value: float | None) -> str:
    return "–" if p_value is None else f"{p_value:.4f}"


def _bounds(measure: str, interval: Sequence[float] | None, sign: str = "") -> str:
    return f"[{', '.join(format_score(measure, bound, sign=sign) for bound in interval)}]" if interval else "–"


def _detail_rows(report: dict[str, Any], cells: Callable[[dict], list[str] | None]) -> list[list[str]]:
    """One row for each condition and system that has these scores."""
    systems = list(report["results"])
    rows = []
    for summaries in zip(*(report["results"][system]["conditions"] for system in systems), strict=True):
        for system, summary in zip(systems, summaries, strict=True):
            if cell := cells(summary):
                rows.append([_condition_title(summary), system, *cell])
    return rows


def _condition_title(summary: dict[str, Any]) -> str:
    return f"clean{_after(summary)}" if summary["pool"] is None else f"{summary['pool']}, {_level(summary)}"


def _score_cells(measure: str, score: dict[str, Any]) -> list[str]:
    """Cells of a score: value with interval, interval over speakers, spread over seeds."""
    seeds = score["seeds"]
    spread = "–"
    if seeds:
        low, high = (format_score(measure, seeds[bound]) for bound in ("min", "max"))
        spread = f"{format_score(measure, seeds['std'])} ({low} to {high})"
    return [
        format_score(measure, score["mean"], score["interval"]),
        _bounds(measure, score["speaker_interval"]),
        spread,
    ]


def _emotion_details(report: dict[str, Any]) -> str:
    """All scores of emotion recognition, and the F1 of each class."""
    labels = report["labels"]

    def scores(summary: dict) -> list[str] | None:
        if summary["emotion"] is None:
            return None
        emotion = summary["emotion"]
        others = [_emotion_score(emotion, name) for name in ("unweighted_average_recall", "accuracy")]
        return [
            *_score_cells("macro_f1", _emotion_score(emotion, "macro_f1")),
            *(format_score("macro_f1", score["mean"], score["interval"]) for score in others),
            format_score("macro_f1", emotion.get("expected_calibration_error")),
        ]

    def per_class(summary: dict) -> list[str] | None:
        emotion = summary["emotion"]
        return emotion and [
            format_score("macro_f1", emotion["per_class_f1"].get(label), emotion["per_class_f1_interval"].get(label))
            for label in labels
        ]

    rows = _detail_rows(report, scores)
    if not rows:
        return ""
    header = [
        "condition",
        "system",
        "macro-F1",
        "over speakers",
        "std over seeds (range)",
        "UAR",
        "accuracy = micro-F1",
        "ECE",
    ]
    parts = ["## Emotion in detail", markdown_table(header, rows, text_columns=2), "F1 of each class:"]
    per_class_table = markdown_table(["condition", "system", *labels], _detail_rows(report, per_class), text_columns=2)
    return "\n\n".join([*parts, per_class_table])


def _group_details(report: dict[str, Any]) -> list[str]:
    """Emotion recognition by corpus, by gender, and in the configured subsets."""
    summaries = [summary for result in report["results"].values() for summary in result["conditions"]]
    sections = []
    for kind in dict.fromkeys(kind for summary in summaries for kind in summary.get("groups", {})):
        names = dict.fromkeys(name for summary in summaries for name in summary.get("groups", {}).get(kind, {}))
        rows = [row for name in names for row in _detail_rows(report, partial(_group_cells, kind=kind, name=name))]
        header = [
            "condition",
            "system",
            kind,
            "clips",
            "speakers",
            "macro-F1",
            "over speakers",
            "UAR",
            "over speakers",
        ]
        table = markdown_table([*header, "ECE"], rows, text_columns=3)
        note = "Macro-F1 is the mean over the classes that occur in the clips; the model chooses among all classes."
        sections.append(f"## Emotion by {kind}\n\n{table}\n\n{note}")
    return sections


def _group_cells(summary: dict[str, Any], kind: str, name: str) -> list[str] | None:
    scores = summary.get("groups", {}).get(kind, {}).get(name)
    if scores is None:
        return None
    cells = [name, str(scores["clips"]), str(scores["speakers"])]
    for measure in ("macro_f1", "unweighted_average_recall"):
        cells.append(format_score("macro_f1", scores[measure], scores[f"{measure}_interval"]))
        cells.append(_bounds("macro_f1", scores[f"{measure}_speaker_interval"]))
    return [*cells, format_score("macro_f1", scores.get("expected_calibration_error"))]


def _task_details(report: dict[str, Any]) -> list[str]:
    """All scores of each further task, with intervals over clips and over speakers."""
    summaries = [summary for result in report["results"].values() for summary in result["conditions"]]
    sections = []
    for task in dict.fromkeys(task for summary in summaries for task in summary.get("tasks", {})):
        first = next(summary["tasks"][task] for summary in summaries if task in summary.get("tasks", {}))
        names = [name for name in first if name != "clips"]
        header = [cell for name in names for cell in (name, "over speakers")]
        rows = _detail_rows(report, partial(_task_cells, task=task, names=names))
        table = markdown_table(["condition", "system", *header, "clips"], rows, text_columns=2)
        sections.append("\n\n".join([f"{_heading(task)} in detail", table, *_rating_gains(report, task)]))
    return sections


def _rating_gains(report: dict[str, Any], task: str) -> list[str]:
    """Differences in CCC from the baseline, if there is one."""
    comparisons = report["comparisons"] or {"tasks": []}
    rows = [
        [
            comparison["measure"],
            _condition_title(comparison),
            comparison["system"],
            format_score("macro_f1", comparison["difference"], comparison["difference_interval"], "+"),
            _bounds("macro_f1", comparison["difference_speaker_interval"], "+"),
            *(_p_value(comparison[name]) for name in ("p", "p_holm", "speaker_p", "speaker_p_holm")),
        ]
        for comparison in comparisons["tasks"]
        if comparison["task"] == task
    ]
    header = [
        "measure",
        "condition",
        "system",
        "difference",
        "over speakers",
        "p",
        "p (Holm)",
        "p over speakers",
        "(Holm)",
    ]
    if not rows:
        return []
    return [f"Differences from `{comparisons['baseline']}`:", markdown_table(header, rows, text_columns=3)]


def _task_cells(summary: dict[str, Any], task: str, names: Sequence[str]) -> list[str] | None:
    scores = summary.get("tasks", {}).get(task)
    return scores and [
        *(cell for name in names for cell in _score_cells("macro_f1", scores[name])[:2]),
        str(scores["clips"]),
    ]


def _measure_details(report: dict[str, Any], measure: str) -> str:
    """Output and gain over the noisy input."""

    def cells(summary: dict) -> list[str] | None:
        scores = summary["enhancement"][measure]
        if not scores["enhanced"]:
            return None
        gain = scores["difference"]
        shown = format_score(measure, gain["mean"], gain["interval"], "+") if gain else "–"
        over_speakers = _bounds(measure, gain["speaker_interval"], "+") if gain else "–"
        return [*_score_cells(measure, scores["enhanced"]), shown, over_speakers]

    if not (rows := _detail_rows(report, cells)):
        return ""
    header = [
        "condition",
        "system",
        "output",
        "over speakers",
        "std over seeds (range)",
        "gain over noisy",
        "over speakers",
    ]
    return f"{_heading(SCORE_TITLES[measure])} in detail\n\n{markdown_table(header, rows, text_columns=2)}"


def _undefined(report: dict[str, Any], measures: Sequence[str]) -> str:
    """A table of the number of undefined scores."""
    rows = [
        [
            _condition_title(summary),
            system,
            SCORE_TITLES[name],
            f"{score['undefined']} of {summary['clips'] * result['members']}",
        ]
        for system, result in report["results"].items()
        for summary in result["conditions"]
        for name in measures
        if (score := summary["enhancement"][name]["enhanced"]) and score["undefined"]
    ]
    if not rows:
        return "## Undefined scores\n\nNone."
    table = markdown_table(["condition", "system", "measure", "undefined"], rows, text_columns=3)
    return f"## Undefined scores\n\n{table}"


def _figure_section(figures: Sequence[str]) -> list[str]:
    return ["## Figures", *(f"![{Path(path).stem.replace('_', ' ')}]({path})" for path in figures)] if figures else []
