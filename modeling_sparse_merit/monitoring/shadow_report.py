# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Reports of shadow mode: agreement, latency, failures and drift of a candidate, and a check of requirements."""

import json
import math
import operator
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.markdown import markdown_table
from ..evaluation.statistics import Resampling, compare_macro_f1, emotion_scores
from ..files import replacing
from .drift import Measured, Reference, measured, signals
from .sources import checked_lines

SCHEMA_VERSION = 1
SIDES = PRIMARY, SHADOW = ("primary", "shadow")
RECORD, FEEDBACK = "shadow.jsonl", "feedback.jsonl"
REPORT = "shadow_report"
QUANTILES = {"p50": 50, "p95": 95, "p99": 99}
RESAMPLES, SEED = 1_000, 0
MEASURES = {
    "recordings": "recordings that were compared",
    "agreement": "share of equal emotions",
    "kappa": "Cohen's kappa of the emotions",
    "score_difference": "mean absolute difference of the scores",
    "failures": "share of copies that the candidate did not analyse",
    "p95_ratio": "95th percentile of the candidate's milliseconds over the primary's",
    "p95_ms": "95th percentile of the candidate's milliseconds",
    "drift": "largest PSI of the candidate's signals",
    "macro_f1_gain": "macro-F1 of the candidate minus that of the primary, with corrected emotions",
}
"""What `--require` can name."""
COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True)
class Requirement:
    """A condition for a candidate, such as `kappa>=0.6`.

    Args:
        measure: a key of `MEASURES`.
        comparison: a key of `COMPARISONS`.
        bound: the number.
    """

    measure: str
    comparison: str
    bound: float

    def __str__(self) -> str:
        return f"{self.measure}{self.comparison}{self.bound:g}"

    def is_met_by(self, value: float | None) -> bool:
        """Whether a value meets the requirement; an unknown one does not."""
        return value is not None and COMPARISONS[self.comparison](value, self.bound)


def parse_requirements(text: str) -> list[Requirement]:
    """Reads requirements that are separated by commas.

    Raises:
        ValueError: a requirement is invalid.
    """
    requirements = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(r"(\w+)\s*(>=|<=|>|<)\s*([-+]?[\d.]+(?:e[-+]?\d+)?)", part)
        if match is None or match[1] not in MEASURES:
            raise ValueError(
                f"--require has {part!r}; expected a measure, one of >=, <=, >, <, and a number, such as kappa>=0.6. "
                f"The measures are {', '.join(MEASURES)}."
            )
        requirements.append(Requirement(match[1], match[2], float(match[3])))
    return requirements


def read_comparisons(folder: Path) -> list[dict[str, Any]]:
    """The lines that `sparse-merit serve --record` wrote, the oldest first.

    Raises:
        FileNotFoundError: there is no record.
        OSError: it cannot be read.
        ValueError: a line is invalid.
    """
    full = [path for path in folder.glob("shadow-*.jsonl") if path.stem.removeprefix("shadow-").isdigit()]
    full.sort(key=lambda path: int(path.stem.removeprefix("shadow-")))
    paths = [*full, *(path for path in [folder / RECORD] if path.exists())]
    if not paths:
        raise FileNotFoundError(f"{folder} has no {RECORD}: start sparse-merit serve with --shadow and --record.")
    return [line for path in paths for line in checked_lines(path, _is_comparison, "comparison")]


def read_corrections(path: Path) -> list[dict[str, Any]]:
    """The corrected emotions that the service stored.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line is invalid.
    """
    return list(checked_lines(path, _is_correction, "correction"))


def _is_comparison(line: Mapping[str, Any]) -> bool:
    similarity = line["si_sdr"]
    return (
        all(isinstance(line[name], str) for name in ("time", "id"))
        and _is_number(line["seconds"])
        and (line["primary"] is None or _is_side(line["primary"]))
        and isinstance(line["shadow"]["outcome"], str)
        and _is_side(line["shadow"])
        and isinstance(similarity, list)
        and all(value is None or _is_number(value) for value in similarity)
    )


def _is_side(side: Mapping[str, Any]) -> bool:
    return _is_number(side["ms"]) and all(
        isinstance(result["channel"], int | str)
        and isinstance(result["emotion"], str | None)
        and isinstance(result.get("reason"), str | None)
        and (result.get("level_dbfs") is None or _is_number(result["level_dbfs"]))
        and all(_is_number(score) for score in result["scores"].values())
        for result in side["results"]
    )


def _is_correction(line: Mapping[str, Any]) -> bool:
    return isinstance(line["id"], str) and isinstance(line["channel"], int | str) and isinstance(line["emotion"], str)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def build_report(
    lines: Sequence[Mapping[str, Any]],
    feedback: Sequence[Mapping[str, Any]] = (),
    reference: Reference | None = None,
    requirements: Sequence[Requirement] = (),
) -> dict[str, Any]:
    """The report of a candidate.

    Args:
        lines: from `read_comparisons`.
        feedback: corrections of the service, of which the last one of a recording counts.
        reference: what the recordings are compared with; without one, the candidate's results are compared with those
            of the primary model.
        requirements: conditions to check.

    Raises:
        ValueError: there are no lines.
    """
    if not lines:
        raise ValueError("The record is empty: no copy was analysed yet.")
    pairs = list(_pairs(lines))
    outcomes = Counter(line["shadow"]["outcome"] for line in lines)
    report: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "from": lines[0]["time"],
        "to": lines[-1]["time"],
        "copies": len(lines),
        "outcomes": dict(sorted(outcomes.items())),
        "failures": sum(_has_failed(line) for line in lines) / len(lines),
        "latency": {side: _latency(lines, side) for side in SIDES},
        "agreement": _agreement(pairs),
        "si_sdr": _si_sdr(lines),
        "drift": _drift(lines, reference),
        "feedback": _feedback(lines, feedback),
    }
    values = measures(report)
    report["measures"] = values
    report["requirements"] = [
        {"requirement": str(each), "value": values[each.measure], "is_met": each.is_met_by(values[each.measure])}
        for each in requirements
    ]
    return report


def measures(report: Mapping[str, Any]) -> dict[str, float | None]:
    """The values of `MEASURES`; None where one is unknown."""
    agreement, latency, feedback = report["agreement"] or {}, report["latency"], report["feedback"] or {}
    primary, candidate = (latency[side] and latency[side]["p95_ms"] for side in SIDES)
    drifts = [each["psi"] for each in report["drift"]["signals"].values()]
    return {
        "recordings": float(agreement.get("recordings", 0)),
        "agreement": agreement.get("agreement"),
        "kappa": agreement.get("kappa"),
        "score_difference": agreement.get("score_difference"),
        "failures": report["failures"],
        "p95_ratio": candidate / primary if primary and candidate is not None else None,
        "p95_ms": candidate,
        "drift": max(drifts, default=None),
        "macro_f1_gain": feedback.get("difference"),
    }


def _has_failed(line: Mapping[str, Any]) -> bool:
    """Whether the candidate failed on a recording. Without a primary model, nobody knows if the recording is valid."""
    excused = ("invalid", "large") if line["primary"] is None else ()
    return line["shadow"]["outcome"] not in ("ok", *excused)


def _pairs(lines: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """The results of both models for each track that both analysed."""
    for line in lines:
        if line["primary"] is not None:
            theirs = {result["channel"]: result for result in line["shadow"]["results"]}
            for result in line["primary"]["results"]:
                if result["channel"] in theirs:
                    yield result, theirs[result["channel"]]


def _named(result: Mapping[str, Any]) -> str | None:
    return result["emotion"] or result.get("reason")


def _agreement(pairs: Sequence[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> dict[str, Any] | None:
    named = [(_named(ours), _named(theirs)) for ours, theirs in pairs]
    named = [(ours, theirs) for ours, theirs in named if ours is not None and theirs is not None]
    if not named:
        return None
    names = sorted({name for pair in named for name in pair if name})
    table = np.zeros((len(names), len(names)), int)
    for ours, theirs in named:
        table[names.index(str(ours)), names.index(str(theirs))] += 1
    differences = [
        abs(ours["scores"][label] - theirs["scores"][label])
        for ours, theirs in pairs
        for label in ours["scores"].keys() & theirs["scores"].keys()
    ]
    return {
        "recordings": len(named),
        "agreement": float(np.trace(table) / table.sum()),
        "kappa": cohen_kappa(table),
        "score_difference": float(np.mean(differences)) if differences else None,
        "names": names,
        "confusion": table.tolist(),
    }


def cohen_kappa(table: np.ndarray) -> float | None:
    """Cohen's kappa (1960): agreement above what chance gives, 1 at best.

    Args:
        table: (classes, classes), counts of pairs.

    Returns:
        None if both always name the same class, where kappa is undefined.
    """
    shares = table / table.sum()
    expected = float(shares.sum(axis=0) @ shares.sum(axis=1))
    return None if expected == 1 else float((np.trace(shares) - expected) / (1 - expected))


def _latency(lines: Sequence[Mapping[str, Any]], side: str) -> dict[str, Any] | None:
    both = [line for line in lines if line["shadow"]["results"]]  # the same recordings for both models
    done = [(line[side]["ms"], line["seconds"]) for line in both if line[side]]
    if not done:
        return None
    milliseconds, seconds = np.array(done, float).T
    quantiles = {f"{name}_ms": float(np.percentile(milliseconds, place)) for name, place in QUANTILES.items()}
    return {**quantiles, "real_time_factor": float(milliseconds.sum() / 1000 / seconds.sum())}


def _si_sdr(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    values = [value for line in lines for value in line["si_sdr"] if value is not None]
    return {"median_db": float(np.median(values)), "recordings": len(values)} if values else None


def _drift(lines: Sequence[Mapping[str, Any]], reference: Reference | None) -> dict[str, Any]:
    """PSI of the candidate's signals."""
    results = {side: [each for line in lines if line[side] for each in line[side]["results"]] for side in SIDES}
    labels = sorted({label for some in results.values() for result in some for label in result["scores"]})
    against = reference.model if reference else PRIMARY
    if reference is None:
        reference = Reference.of(PRIMARY, labels, [signals(each, labels) for each in results["primary"]])
    elif labels and not set(labels) <= set(reference.labels):
        raise ValueError(
            f"The reference has the emotions {', '.join(reference.labels)}, and the record {', '.join(labels)}: "
            "give a reference of the same model."
        )
    candidate = Reference.of(
        "shadow", reference.labels, [signals(each, reference.labels) for each in results["shadow"]]
    )
    drifts = {
        name: measured(values, candidate.recordings[name], reference, name)
        for name, values in candidate.histograms.items()
        if name in reference.histograms
    }
    is_known = against != PRIMARY  # the limit is that of other recordings than those of the reference
    return {"against": against, "signals": {name: _described(drift, is_known) for name, drift in drifts.items()}}


def _described(drift: Measured, has_limit: bool) -> dict[str, Any]:
    return {"psi": drift.psi, **({"limit": drift.limit, "size": drift.size} if has_limit else {})}


def _feedback(lines: Sequence[Mapping[str, Any]], feedback: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Macro-F1 of the models on the recordings with a corrected emotion, and a paired permutation test of two models;
    recordings for which one of them names no emotion are left out."""
    right = {(each["id"], each["channel"]): each["emotion"] for each in feedback}
    corrected: list[tuple[str, ...]] = []
    for line in lines:
        named = [
            {each["channel"]: each["emotion"] for each in (line[side] or {"results": []})["results"]} for side in SIDES
        ]
        sides = named if line["primary"] is not None else named[1:]
        for channel in sides[-1]:
            emotions = [right.get((line["id"], channel)), *(side.get(channel) for side in sides)]
            if None not in emotions:
                corrected.append(tuple(str(emotion) for emotion in emotions))
    corrected = [emotions for emotions in corrected if len(emotions) == len(corrected[-1])]  # the latest arrangement
    if not corrected:
        return None
    labels = sorted({emotion for emotions in corrected for emotion in emotions})
    true, *predicted = np.array([[labels.index(each) for each in emotions] for emotions in corrected]).T
    resampling = Resampling([None] * len(corrected), RESAMPLES, SEED)
    facts = {"recordings": len(corrected), "labels": labels}
    if len(predicted) == 1:
        score = emotion_scores(true, predicted[0][None], len(labels), resampling, 1)["macro_f1"].describe()
        return {**facts, "shadow": score["mean"], "shadow_interval": score["interval"]}
    primary, candidate = (each[None] for each in predicted)
    compared = compare_macro_f1(true, candidate, primary, len(labels), resampling, (1, 0)).describe()
    return {
        **facts,
        "primary": compared["baseline"],
        "shadow": compared["score"],
        "difference": compared["difference"],
        "difference_interval": compared["difference_interval"],
        "p_value": compared["p"],
    }


def write_report(report: Mapping[str, Any], folder: Path) -> Path:
    """Writes `shadow_report.json` and `shadow_report.md`.

    Args:
        report: from `build_report`.
        folder: where to write; created if missing.

    Returns:
        The path of the Markdown.
    """
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"json": json.dumps(report, indent=2, ensure_ascii=False) + "\n", "md": render_report(report)}
    for suffix, text in texts.items():
        with replacing(folder / f"{REPORT}.{suffix}") as temporary:
            temporary.write_text(text, encoding="utf-8")
    return folder / f"{REPORT}.md"


def render_report(report: Mapping[str, Any]) -> str:
    """The report as Markdown."""
    agreement, feedback = report["agreement"], report["feedback"]
    sections = [
        "# Shadow mode",
        f"{report['copies']} copies from {report['from']} to {report['to']}: "
        + ", ".join(f"{count} {outcome}" for outcome, count in report["outcomes"].items())
        + ".",
    ]
    if agreement:
        sections += ["## Agreement", _agreement_text(agreement), _confusion(agreement)]
    if report["si_sdr"]:
        sections.append(
            f"SI-SDR of the candidate's enhanced speech, with the primary's as reference: median "
            f"{report['si_sdr']['median_db']:.1f} dB ({report['si_sdr']['recordings']} recordings)."
        )
    sections += ["## Latency", _latency_table(report["latency"])]
    if report["drift"]["signals"]:
        sections += ["## Drift", _drift_text(report["drift"])]
    if feedback:
        sections += ["## Corrected emotions", _feedback_text(feedback)]
    if report["requirements"]:
        sections += ["## Requirements", _checklist(report["requirements"])]
    return "\n\n".join(sections) + "\n"


def _agreement_text(agreement: Mapping[str, Any]) -> str:
    kappa = "undefined" if agreement["kappa"] is None else f"{agreement['kappa']:.3f}"
    equal = f"{100 * agreement['agreement']:.1f} % equal emotions"
    text = f"{agreement['recordings']} recordings, {equal}, Cohen's kappa {kappa}"
    if agreement["score_difference"] is not None:
        text += f", mean absolute difference of the scores {agreement['score_difference']:.3f}"
    return text + "."


def _confusion(agreement: Mapping[str, Any]) -> str:
    names = agreement["names"]
    rows = [[name, *map(str, counts)] for name, counts in zip(names, agreement["confusion"], strict=True)]
    return markdown_table(["primary \\ candidate", *names], rows)


def _latency_table(latency: Mapping[str, Any]) -> str:
    rows = [
        [side, *(f"{values[f'{name}_ms']:.0f} ms" for name in QUANTILES), f"{values['real_time_factor']:.4f}"]
        for side, values in latency.items()
        if values
    ]
    note = (
        "Decoding and model for recordings that both analysed, without waiting for other requests. The candidate runs "
        "with low priority and on the threads of `--shadow-threads`, so its times are upper bounds."
    )
    return f"{markdown_table(['', *QUANTILES, 'real-time factor'], rows)}\n\n{note}"


def _drift_text(drift: Mapping[str, Any]) -> str:
    text = f"Population stability index (PSI) of the candidate against {drift['against']}"
    if drift["against"] == PRIMARY:
        rows = [[name, f"{each['psi']:.3f}"] for name, each in drift["signals"].items()]
        return f"{text}, on the same recordings.\n\n{markdown_table(['signal', 'PSI'], rows)}"
    rows = [
        [name, f"{each['psi']:.3f}", f"{each['limit']:.3f}", each["size"] or "none"]
        for name, each in drift["signals"].items()
    ]
    table = markdown_table(["signal", "PSI", "limit", "change"], rows)
    return f"{text}. Chance exceeds the limit in 1 % of samples.\n\n{table}"


def _feedback_text(feedback: Mapping[str, Any]) -> str:
    text = f"{feedback['recordings']} recordings. Macro-F1 of the candidate {feedback['shadow']:.3f}"
    if "primary" not in feedback:
        return f"{text} {_interval(feedback['shadow_interval'])}."
    p_value = "undefined" if feedback["p_value"] is None else f"{feedback['p_value']:.4f}"
    return (
        f"{text}, of the primary model {feedback['primary']:.3f}; difference {feedback['difference']:+.3f} "
        f"{_interval(feedback['difference_interval'])}, p = {p_value} (paired permutation test)."
    )


def _interval(bounds: Sequence[float] | None) -> str:
    return f"[{bounds[0]:.3f}, {bounds[1]:.3f}]" if bounds else "[no interval]"


def _checklist(requirements: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for each in requirements:
        value = "unknown" if each["value"] is None else f"{each['value']:.4g}"
        lines.append(f"- [{'x' if each['is_met'] else ' '}] `{each['requirement']}`: {value}")
    return "\n".join(lines)
