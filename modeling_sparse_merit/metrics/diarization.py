# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""A measure of emotion over time: which emotion appears when (arXiv 2306.12991)."""

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
    """EDER, the share of the time that has a wrong emotion (Wang, Ravanelli, Yacoubi, 2023, section 3), and its parts.

    Time of the reference with no emotion, that is neutral or `background`, may be a false alarm; time with one may be
    missed or confused; time with several predicted emotions is an overlap. Time without a prediction is missed, unless
    the reference has none there either.

    Args:
        references: of each recording its segments, `{"start", "end", "emotion"}` in seconds, which do not overlap.
        predictions: of each recording its segments, as many recordings.
        durations: of each recording, in seconds.
        background: emotion of the reference where it has no segment: "neutral" as published, or None for no speech,
            which a prediction leaves out.

    Returns:
        `emotion_diarization_error_rate` and its parts `false_alarm`, `missed_emotion`, `confusion` and `overlap`, each
        over the time of all recordings.

    Raises:
        ValueError: the numbers of recordings differ, there is no time, or a segment has no length, lies outside of its
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
        raise ValueError(f"The durations sum up to {total} s: there is no time to measure.")
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
    """The emotions of the segments that a time lies in."""
    return {segment["emotion"] for segment in segments if segment["start"] <= time < segment["end"]}


def _error(true: str | None, given: set[str | None]) -> str | None:
    """What is wrong with the predicted emotions where the reference has `true`; None where nothing is."""
    if given == {true} or (true is None and not given):
        return None
    if len(given) > 1:
        return "overlap"
    emotion = next(iter(given), None)
    if emotion is None or (emotion == NEUTRAL and true is not None):
        return "missed_emotion"
    return "false_alarm" if true in (None, NEUTRAL) else "confusion"
