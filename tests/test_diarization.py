# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The emotion diarization error rate, by hand and as published."""

import pytest

from modeling_sparse_merit import metrics
from modeling_sparse_merit.metrics import emotion_diarization_error_rate


def segments(*entries: tuple[float, float, str | None]) -> list[dict]:
    return [dict(zip(("start", "end", "emotion"), entry, strict=True)) for entry in entries]


def rate(reference: list[dict], prediction: list[dict], duration: float, **options) -> dict[str, float]:
    return emotion_diarization_error_rate([reference], [prediction], [duration], **options)


def test_the_example_of_speechbrain():
    # https://speechbrain.readthedocs.io, speechbrain.utils.EDER: 0.33 s of 1.22 s are wrong, of which 0.02 s have no
    # prediction
    actual = rate(segments((0.39, 1.10, "angry")), segments((0.0, 0.6, "neutral"), (0.6, 1.2, "angry")), 1.22)
    assert actual["emotion_diarization_error_rate"] == pytest.approx(0.2704918032786885)
    assert actual["missed_emotion"] == pytest.approx(0.23 / 1.22) and actual["false_alarm"] == pytest.approx(
        0.1 / 1.22
    )


def test_every_kind_of_error_by_hand():
    reference = segments((0, 2, "neutral"), (2, 6, "angry"), (6, 8, "sad"))
    prediction = segments((0, 1, "happy"), (1, 3, "neutral"), (3, 7, "angry"), (5, 6, "sad"), (7, 8, "sad"))
    assert rate(reference, prediction, 10) == pytest.approx(
        {
            "emotion_diarization_error_rate": 0.6,
            "false_alarm": 0.1,  # happy, of 0 to 1
            "missed_emotion": 0.3,  # neutral where angry, of 2 to 3; nothing where neutral, of 8 to 10
            "confusion": 0.1,  # angry where sad, of 6 to 7
            "overlap": 0.1,  # angry and sad, of 5 to 6
        }
    )


def test_what_is_right_is_no_error():
    reference = segments((0, 2, "neutral"), (2, 5, "happy"))
    assert rate(reference, reference, 5)["emotion_diarization_error_rate"] == 0


def test_silence_is_right_without_a_prediction_and_a_false_alarm_with_one():
    reference = segments((1, 2, "sad"))
    assert rate(reference, reference, 4, background=None)["emotion_diarization_error_rate"] == 0
    loud = segments((0, 4, "sad"))
    assert rate(reference, loud, 4, background=None)["false_alarm"] == pytest.approx(3 / 4)


def test_recordings_count_by_their_time():
    right, wrong = segments((0, 3, "sad")), segments((0, 1, "happy"))
    actual = emotion_diarization_error_rate([right, segments((0, 1, "sad"))], [right, wrong], [3, 1])
    assert actual["confusion"] == actual["emotion_diarization_error_rate"] == pytest.approx(1 / 4)


@pytest.mark.parametrize(
    ("reference", "prediction", "duration", "message"),
    [
        (segments((0, 2, "sad"), (1, 3, "angry")), [], 4, r"Reference 0 has the emotions \['angry', 'sad'\] at 1 s"),
        ([], segments((2, 2, "sad")), 4, "Prediction 0 has a segment from 2 to 2 s"),
        (segments((0, 5, "sad")), [], 4, "within the 4 s"),
        ([], [], 0, "expected more than 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(reference, prediction, duration, message):
    with pytest.raises(ValueError, match=message):
        rate(reference, prediction, duration)


def test_the_module_of_evaluate_gives_the_same(tmp_path):
    module = metrics.load("emotion_diarization_error_rate", cache_dir=str(tmp_path))
    reference, prediction = segments((0.39, 1.10, "angry")), segments((0.0, 0.6, "neutral"), (0.6, 1.2, "angry"))
    for background in ("neutral", None):
        actual = module.compute(
            predictions=[prediction, []],
            references=[{"segments": reference, "duration": 1.22}, {"segments": [], "duration": 1.0}],
            background=background,
        )
        expected = emotion_diarization_error_rate([reference, []], [prediction, []], [1.22, 1.0], background)
        assert actual == pytest.approx(expected)
