# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""References from folders of results: those of `sparse-merit enhance` and `watch`, and those of `evaluate`."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.figures import expert_columns
from ..extras import import_extra
from ..inference.results import RESULTS
from .drift import Reference, expert_signals, signals

EVALUATION = "results.json"
NOISY = "noisy"
CLEAN = "clean"


def build_reference(folders: Sequence[Path], system: str | None = None, condition: str = CLEAN) -> Reference:
    """The reference of the results in some folders. All must be of one model.

    Args:
        folders: folders with `results.jsonl` of recordings, or with an evaluation.
        system: which system of an evaluation; needed if it has several.
        condition: which of its conditions; "all" takes all of them.

    Raises:
        OSError: a folder has no results.
        ValueError: the results are of several models or have no recordings, or the system or the condition is unknown.
        ImportError: an evaluation needs a package of the extra `metrics`.
    """
    contents = [_read(folder, system, condition) for folder in folders]
    labels = {tuple(labels) for _, labels, _ in contents}
    if len(labels) > 1:
        raise ValueError(
            f"{', '.join(map(str, folders))} have results of models with different emotions, "
            f"{'; '.join(', '.join(names) for names in sorted(labels))}: give those of one model."
        )
    clips = [clip for _, _, some in contents for clip in some]
    if not clips:
        raise ValueError(f"{', '.join(map(str, folders))}: no recording was analysed there.")
    return Reference.of(contents[0][0], contents[0][1], clips)


Clips = list[dict[str, np.ndarray]]


def _read(folder: Path, system: str | None, condition: str) -> tuple[str, list[str], Clips]:
    """Model, emotions and signals of the recordings of a folder."""
    try:
        if (folder / EVALUATION).is_file():
            return _evaluation(folder, system, condition)
        if (folder / RESULTS).is_file():
            return _recordings(folder / RESULTS)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder} has results of another form: {type(error).__name__}: {error}.") from error
    raise FileNotFoundError(
        f"{folder} has neither {RESULTS} (of sparse-merit enhance or watch) nor {EVALUATION} (of evaluate)."
    )


def _recordings(path: Path) -> tuple[str, list[str], Clips]:
    records = [record for record in json_lines(path) if "error" not in record]
    settings = {record.get("settings_hash") for record in records}
    if len(settings) > 1:
        raise ValueError(
            f"{path} has results of {len(settings)} models or settings: enhance its recordings again, with one."
        )
    # `scores` has all emotions; without speech it is empty
    labels = next((list(record["scores"]) for record in records if record.get("scores")), [])
    model = str(records[0].get("model")) if records else ""
    return model, sorted(labels), [signals(record, sorted(labels)) for record in records]


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file of JSON lines; a last line that is incomplete, of a killed process, is left out.

    Raises:
        OSError: the file cannot be read.
        ValueError: another line is no JSON object.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    for number, line in enumerate(lines, start=1):
        if not line:
            continue
        try:
            value = json.loads(line)
            if not isinstance(value, dict):
                raise ValueError("it is no object")
        except ValueError as error:
            if number == len(lines):  # without a line break
                return
            raise ValueError(f"{path}, line {number}, is no JSON object: {error}.") from None
        yield value


def checked_lines(path: Path, is_valid: Callable[[dict[str, Any]], bool], what: str) -> Iterator[dict[str, Any]]:
    """The lines of a file, each of which is checked.

    Args:
        path: the file.
        is_valid: whether a line is what it should be.
        what: the name of that, for messages.

    Raises:
        OSError: the file cannot be read.
        ValueError: a line is something else.
    """
    for number, line in enumerate(json_lines(path), start=1):
        try:
            good = is_valid(line)
        except (KeyError, TypeError, AttributeError):
            good = False
        if not good:
            raise ValueError(f"{path}: entry {number} is no {what}. Remove the line, or give another file.")
        yield line


def _evaluation(folder: Path, system: str | None, condition: str) -> tuple[str, list[str], Clips]:
    report = json.loads((folder / EVALUATION).read_text(encoding="utf-8"))
    name = _chosen("system", system, [name for name in report["systems"] if name != NOISY])
    rows_in = folder / "clips" / name / "0"
    known = sorted(path.stem for path in rows_in.glob("*.parquet"))
    chosen = known if condition == "all" else [_chosen("condition", condition, known)]
    parquet = import_extra("pyarrow.parquet", "metrics")
    rows = [row for each in chosen for row in parquet.read_table(rows_in / f"{each}.parquet").to_pylist()]
    labels = sorted(report["labels"])
    tasks = expert_columns(rows) if rows else {}
    return name, labels, [_row_signals(row, labels, tasks) for row in rows]


def _chosen(kind: str, name: str | None, known: Sequence[str]) -> str:
    if name in known:
        return str(name)
    if name is None and len(known) == 1:
        return known[0]
    given = f"has no {kind} {name!r}" if name is not None else f"has several {kind}s"
    raise ValueError(f"The evaluation {given}: give --{kind} with one of {', '.join(known)}.")


def _row_signals(
    row: Mapping[str, Any], labels: Sequence[str], tasks: Mapping[str, Sequence[str]]
) -> dict[str, np.ndarray]:
    scores = {label: value for label in labels if (value := row.get(f"probability_{label}")) is not None}
    frames = {task: [row[column] for column in columns] for task, columns in tasks.items()}
    return signals({"emotion": row["predicted"], "scores": scores}, labels) | expert_signals(frames)
