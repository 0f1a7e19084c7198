# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The report of a reader study: scores, confidence and time by condition, and paired tests within readers."""

import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.statistics import (
    draw_counts,
    draw_swaps,
    holm,
    percentile_interval,
    permutation_p_value,
    swapped_mean,
)
from .study import KEY_FILE, RESPONSES

NOTICE = "A test of software on a few recordings; no clinical claim."
RESAMPLES = 2_000
MEASURES = ("accuracy", "specificity", "sensitivity", "score", "confidence", "seconds")


def report_study(folder: Path, normal: str | None = None, seed: int = 0) -> dict[str, Any]:
    """Scores the responses in `responses/*.json`, and writes `report.json` and `report.md`.

    Args:
        folder: the folder of the study.
        normal: the label of normal clips, for specificity and sensitivity, which is the share of other clips with
            their own label; None for "normal", if there is such a label.
        seed: seed of the intervals and the tests.

    Returns:
        "scores": {condition: {measure: {"mean", "interval"}}}, with intervals over persons, or over clips if these
        are unknown; "comparisons": paired differences of each two conditions, with p-values of permutations of the
        conditions within reader and clip, after Holm's correction; and the numbers of readers, clips and responses.

    Raises:
        FileNotFoundError: this is not the folder of a study, or it has no responses.
        ValueError: a file of responses is damaged or of another study, or `normal` is not a label.
    """
    try:
        key = json.loads((folder / KEY_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} has no {KEY_FILE}; expected the folder of `reader-study make`.") from None
    if normal is None:
        normal = "normal" if "normal" in key["labels"] else None
    elif normal not in key["labels"]:
        raise ValueError(f"`normal` is {normal!r}; expected one of {key['labels']}.")
    rows = [row for path in sorted((folder / RESPONSES).glob("*.json")) for row in read_responses(path, key)]
    if not rows:
        raise FileNotFoundError(f"{folder / RESPONSES} has no responses; put the files of the readers there.")
    results = {
        "notice": NOTICE,
        **{name: key[name] for name in ("title", "dataset", "noise", "enhancer", "snr_db", "labels")},
        "normal": normal,
        "readers": {reader: sum(row["reader"] == reader for row in rows) for reader in key["readers"]},
        "responses": len(rows),
        "clips": len({row["clip"] for row in rows}),
        "persons": len({row["unit"] for row in rows}),
        "scores": {
            name: _scores([row for row in rows if row["condition"] == name], normal, seed)
            for name in key["conditions"]
        },
        "comparisons": _comparisons(rows, key["conditions"], normal, seed),
    }
    (folder / "report.json").write_text(json.dumps(results, indent=1, ensure_ascii=False), encoding="utf-8")
    (folder / "report.md").write_text(as_markdown(results), encoding="utf-8")
    return results


def read_responses(path: Path, key: dict[str, Any]) -> list[dict[str, Any]]:
    """The responses of a reader, each with its clip, condition and true label.

    Args:
        path: the file that the page saved.
        key: content of `key.json`.

    Raises:
        ValueError: the file is damaged or of another study; the message says what is wrong.
    """
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        study, reader, responses = given["study"], given["reader"], given["responses"]
        rows = [{**key["readers"][reader][each["id"]], **_checked(each, key), "reader": reader} for each in responses]
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no file that a page of this study saved: {error!r}.") from error
    if study != key["study"]:
        raise ValueError(f"{path} is of the study {study}; expected {key['study']}.")
    if len({row["id"] for row in rows}) < len(rows):
        raise ValueError(f"{path} has two responses to one recording; expected one.")
    return rows


def _checked(response: dict[str, Any], key: dict[str, Any]) -> dict[str, Any]:
    label, confidence, seconds = response["label"], response["confidence"], response["seconds"]
    is_time = math.isfinite(seconds) and seconds >= 0
    if label not in key["labels"] or confidence not in range(1, 6) or not is_time:
        raise ValueError(
            f"The response to {response['id']} is {label!r}, confidence {confidence}, {seconds} s; expected one of "
            f"{key['labels']}, 1 to 5, and a time."
        )
    return {"id": response["id"], "response": label, "confidence": confidence, "seconds": seconds}


def _values(rows: Sequence[dict[str, Any]], normal: str | None) -> dict[str, np.ndarray]:
    """Each measure of each response, NaN where it does not count: {measure: (responses,)}."""
    correct = np.array([row["response"] == row["label"] for row in rows], float)
    is_normal = np.array([row["label"] == normal for row in rows])
    values = {
        "accuracy": correct,
        **{name: np.array([row[name] for row in rows], float) for name in ("confidence", "seconds")},
    }
    if normal is not None:
        values["specificity"] = np.where(is_normal, correct, np.nan)
        values["sensitivity"] = np.where(is_normal, np.nan, correct)
    return values


def _means(values: dict[str, np.ndarray], counts: np.ndarray) -> dict[str, np.ndarray]:
    """Each measure for counts (resamples, responses) of the responses: {measure: (resamples,)}."""
    means = {}
    for name, each in values.items():
        defined = np.isfinite(each)
        with np.errstate(invalid="ignore"):
            means[name] = counts[:, defined] @ each[defined] / counts[:, defined].sum(1)
    if "specificity" in means:
        means["score"] = (means["specificity"] + means["sensitivity"]) / 2
    return means


def _scores(rows: Sequence[dict[str, Any]], normal: str | None, seed: int) -> dict[str, dict[str, Any]]:
    values = _values(rows, normal)
    means = _means(values, np.ones((1, len(rows))))
    units = np.unique([str(row["unit"] or row["clip"]) for row in rows], return_inverse=True)[1]
    counts = draw_counts(units, RESAMPLES, seed) if rows else None
    draws = {} if counts is None else _means(values, counts)
    return {
        name: {"mean": float(means[name][0]), "interval": percentile_interval(draws.get(name))}
        for name in MEASURES
        if name in means
    }


def _comparisons(
    rows: Sequence[dict[str, Any]], conditions: Sequence[str], normal: str | None, seed: int
) -> list[dict[str, Any]]:
    """Differences of each two conditions, over the clips that a reader labelled in both."""
    by_place = {(row["reader"], row["clip"], row["condition"]): row for row in rows}
    tested: list[dict[str, Any]] = []
    for first, second in itertools.combinations(conditions, 2):
        pairs = [
            (row, other)
            for (reader, clip, condition), row in by_place.items()
            if condition == second and (other := by_place.get((reader, clip, first))) is not None
        ]
        if not pairs:
            continue
        ours, base = (_values([pair[side] for pair in pairs], normal) for side in (0, 1))
        swaps = draw_swaps(np.arange(len(pairs)), seed)
        differences = {name: swapped_mean(ours[name][None], base[name][None], swaps.clips) for name in ours}
        if "specificity" in differences:
            both = differences["specificity"], differences["sensitivity"]
            differences["score"] = (both[0][0] + both[1][0]) / 2, (both[0][1] + both[1][1]) / 2
        for name in (name for name in MEASURES if name in differences):
            observed, permuted = differences[name]
            p = permutation_p_value(observed, permuted, swaps.exhaustive)
            pair = {"condition": second, "than": first, "measure": name, "pairs": len(pairs)}
            tested.append({**pair, "difference": observed, "p": p})
    return [{**each, "p_holm": p} for each, p in zip(tested, holm([each["p"] for each in tested]), strict=True)]


def as_markdown(results: dict[str, Any]) -> str:
    """The report as text.

    Args:
        results: as `report_study` returns them.
    """
    scores = results["scores"]
    measures = list(next(iter(scores.values())))
    readers = sum(map(bool, results["readers"].values()))
    lines = [
        f"# {results['title']}",
        "",
        f"{results['notice']}",
        "",
        f"{results['responses']} responses of {readers} readers to {results['clips']} clips of {results['dataset']}, "
        f"in noise of {results['noise']} at {results['snr_db']:g} dB, enhanced by {results['enhancer'] or 'nothing'}. "
        "95 % intervals are over persons, or over clips if these are unknown.",
        "",
        "| condition | " + " | ".join(measures) + " |",
        "| --- |" + " --- |" * len(measures),
        *(f"| {name} | " + " | ".join(map(_cell, each.values())) + " |" for name, each in scores.items()),
        "",
        "Paired differences over the clips that a reader labelled in both conditions. The p-values are of permutations"
        " within reader and clip, after Holm's correction.",
        "",
        "| conditions | measure | pairs | difference | p |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for each in results["comparisons"]:
        names = f"{each['condition']} - {each['than']} | {each['measure']}"
        numbers = f"{each['pairs']} | {_number(each['difference'], '+.3f')} | {_number(each['p_holm'], '.4f')}"
        lines.append(f"| {names} | {numbers} |")
    return "\n".join(lines) + "\n"


def _cell(score: dict[str, Any]) -> str:
    """Mean and interval."""
    interval = [_number(bound) for bound in score["interval"] or ()]
    return _number(score["mean"]) + (f" [{', '.join(interval)}]" if interval else "")


def _number(value: float | None, form: str = ".3f") -> str:
    return "–" if value is None or not math.isfinite(value) else format(value, form)
