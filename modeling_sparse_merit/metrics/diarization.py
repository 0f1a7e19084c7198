# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Emotion diarization: which emotion appears when (arXiv 2306.12991)."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

ERRORS = ("false_alarm", "missed_emotion", "confusion", "overlap")
NEUTRAL = "neutral"


def emotion_diarization_error_rate(
    references: Sequence[Sequence[Mapping[str, Any]]],
    predictions: Sequence[Sequence[Mapping[str, Any]]],
    durations: Sequence[float],
    background: str | None = NEUTRAL,
) -> dict[str, float]:
    """EDER, the share of time with a wrong emotion (Wang, Ravanelli, Yacoubi, 2023, section 3), and its components.

    Where the reference is neutral or `background`, a predicted emotion is a false alarm. Where it has an emotion, that
    may be missed or confused. Several predicted emotions are an overlap. Time without prediction is missed, unless the
    reference has no emotion there either.

    Args:
        references: segments of each recording, `{"start", "end", "emotion"}` in seconds, without overlap.
        predictions: segments of each recording.
        durations: duration of each recording in seconds.
        background: emotion of the reference outside its segments: "neutral" as published, or None for no speech,
            where no emotion should be predicted.

    Returns:
        `emotion_diarization_error_rate` and its components `false_alarm`, `missed_emotion`, `confusion` and `overlap`,
        each over the time of all recordings.

    Raises:
        ValueError: the numbers of recordings differ, the total duration is 0, or a segment is empty, lies outside its
            recording, or overlaps another one of the reference.
    """
    if not len(references) == len(predictions) == len(durations):
        raise ValueError(
            f"Every recording needs a reference, a prediction and a duration: got {len(references)}, "
            f"{len(predictions)} and {len(durations)}."
        )
    seconds = dict.fromkeys(ERRORS, 0.0)
    for index, (reference, prediction, duration) in enumerate(zip(references, predictions, durations, strict=True)):
        _check(reference, duration, f"Reference {index}")
        _check(prediction, duration, f"Prediction {index}")
        for start, end in pairwise(_boundaries(reference, prediction, duration)):
            true, given = _at(reference, start), _at(prediction, start)
            if len(true) > 1:
                raise ValueError(
                    f"Reference {index} has the emotions {sorted(map(str, true))} at {start:g} s: expected one."
                )
            error = _error(next(iter(true), background), given)
            if error is not None:
                seconds[error] += end - start
    total = sum(durations)
    if not total > 0:
        raise ValueError(f"The durations sum up to {total} s; expected more than 0.")
    rates = {name: value / total for name, value in seconds.items()}
    return {"emotion_diarization_error_rate": sum(rates.values()), **rates}


def _check(segments: Iterable[Mapping[str, Any]], duration: float, name: str) -> None:
    for segment in segments:
        if not 0 <= segment["start"] < segment["end"] <= duration + 1e-6 or not math.isfinite(segment["end"]):
            raise ValueError(
                f"{name} has a segment from {segment['start']} to {segment['end']} s; expected a length above 0 "
                f"within the {duration} s of the recording."
            )


def _boundaries(*parts: Any) -> list[float]:
    *sides, duration = parts
    times = {time for side in sides for segment in side for time in (segment["start"], segment["end"])}
    return sorted({0.0, duration, *(time for time in times if time < duration)})


def _at(segments: Iterable[Mapping[str, Any]], time: float) -> set[str | None]:
    """The emotions of the segments at a given time."""
    return {segment["emotion"] for segment in segments if segment["start"] <= time < segment["end"]}


def _error(true: str | None, given: set[str | None]) -> str | None:
    """The kind of error of predicted emotions given the reference; None if they are correct."""
    if given == {true} or (true is None and not given):
        return None
    if len(given) > 1:
        return "overlap"
    emotion = next(iter(given), None)
    if emotion is None or (emotion == NEUTRAL and true is not None):
        return "missed_emotion"
    return "false_alarm" if true in (None, NEUTRAL) else "confusion"
