# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Pictures of results: what is drawn, where, and in which colours."""

import time
import warnings
from pathlib import Path

import numpy as np
import pytest

from modeling_sparse_merit.inference.overview import Overview
from modeling_sparse_merit.inference.plotting import plot_result
from modeling_sparse_merit.inference.timeline import (
    clock,
    draw_timeline,
    emotion_colours,
    merged_spans,
    shares_of_time,
)

RATE = 1_000
LABELS = ["angry", "happy", "neutral", "sad"]


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return 0.1 * np.random.default_rng(seed).standard_normal(samples, dtype=np.float32)


def timeline(seconds: float, length: float = 4.0) -> list[dict]:
    """Segments with pauses of 1 s, each fifth one unsure."""
    starts = np.arange(0.3, seconds - length, length + 1).tolist()
    return [
        {
            "start": start,
            "end": start + length,
            "emotion": None if number % 5 == 4 else LABELS[number % 3],
            "scores": dict.fromkeys(LABELS, 0.25),
        }
        for number, start in enumerate(starts)
    ]


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved, which are saved nonetheless."""
    figure = pytest.importorskip("matplotlib.figure").Figure
    saved, save = [], figure.savefig

    def record(self, path, **options):
        saved.append(self)
        save(self, path, **options)

    monkeypatch.setattr(figure, "savefig", record)
    return saved


def test_usual_emotions_keep_their_colours_whatever_others_there_are():
    few, many = emotion_colours(["sad", "angry"]), emotion_colours([*LABELS, "fear", "bored", "proud", "anxious"])
    assert few.items() <= many.items() and len(set(many.values())) == len(many)
    assert emotion_colours(["bored"])["bored"] == emotion_colours(["bored", "sad"])["bored"]


def test_close_segments_of_one_emotion_are_one_span():
    times = [(0, 1, "sad"), (1.1, 2, "sad"), (2.5, 3, "sad"), (3, 4, None), (4, 5, "sad")]
    segments = [{"start": start, "end": end, "emotion": emotion} for start, end, emotion in times]
    assert merged_spans(segments, gap=0.2) == [(0, 2, "sad"), (2.5, 3, "sad"), (3, 4, "unsure"), (4, 5, "sad")]


def test_clock():
    assert (clock(65, False), clock(600, False), clock(5, True), clock(3_725, True)) == (
        *("1:05", "10:00"),
        *("0:00:05", "1:02:05"),
    )


def test_a_short_recording_of_one_segment_is_drawn_as_one_without(tmp_path, figures):
    side, segments = Overview.of(noise(3 * RATE), RATE), timeline(3, length=2)
    for number, shown in enumerate((None, segments)):
        plot_result(tmp_path / f"{number}.png", side, side, {"angry": 0.7, "sad": 0.3}, "a.wav", 500, shown)
    first, second = (Path(tmp_path / f"{number}.png").read_bytes() for number in (0, 1))
    assert first == second
    assert [axes.get_ylim() for axes in figures[0].axes if axes.images] == [(0, 0.5)] * 2


@pytest.mark.parametrize(
    ("seconds", "label", "enhances"),
    [(90, "Time (s)", True), (600, "Time (m:ss)", False), (3_600, "Time (h:mm:ss)", True)],
)
def test_a_timeline_is_drawn_below_the_waveforms(tmp_path, figures, seconds, label, enhances):
    side = Overview.of(noise(seconds * RATE), RATE)
    scores = dict(zip(LABELS, (0.4, 0.3, 0.2, 0.1), strict=True)) if enhances else {}
    begin = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot_result(tmp_path / "a.png", side, side if enhances else None, scores, "a $1$.wav", 400, timeline(seconds))
    assert time.monotonic() - begin < 30
    (figure,) = figures
    rows = [axes for axes in figure.axes if axes.get_xlim() == (0, seconds)]
    assert len(rows) == (5 if enhances else 3) and rows[-1].get_xlabel() == label
    (strip,) = (axes for axes in rows if axes.get_ylabel() == "Emotion")
    assert len({(axes.get_position().x0, axes.get_position().x1) for axes in rows}) == 1
    drawn = strip.collections or {patch.get_facecolor() for patch in strip.patches}  # spans, or shares
    assert len(drawn) == 4  # three emotions, and unsure
    assert [axes.get_ylim() for axes in rows if axes.images] == [(0, 0.4)] * (1 + enhances)


@pytest.mark.parametrize("length", [9, 2])
def test_names_are_within_their_spans_or_in_a_legend(tmp_path, figures, length):
    segments = timeline(90, length)
    plot_result(tmp_path / "a.png", Overview.of(noise(90 * RATE), RATE), None, {}, "a.wav", 500, segments)
    (figure,) = figures
    (strip,) = (axes for axes in figure.axes if axes.get_ylabel() == "Emotion")
    for text in strip.texts:
        box = text.get_window_extent().transformed(strip.transData.inverted())
        assert any(segment["start"] < box.x0 and box.x1 < segment["end"] for segment in segments)
    legends = [[text.get_text() for text in legend.get_texts()] for legend in figure.legends]
    if length == 9:
        assert len(strip.texts) == len(segments) and legends == []
    else:
        assert len(strip.texts) < len(segments)
        assert legends == [["angry", "happy", "neutral", "unsure"]]


def test_a_long_recording_without_speech_has_an_empty_strip(tmp_path, figures):
    plot_result(tmp_path / "a.png", Overview.of(np.zeros(20 * RATE), RATE), None, {}, "a.wav", 500, [])
    (strip,) = (axes for axes in figures[0].axes if axes.get_ylabel() == "Emotion")
    assert not strip.collections and not figures[0].legends


def test_shares_of_time_by_hand():
    spans = [(0.0, 1.0, "sad"), (1.5, 2.5, "angry"), (3.0, 4.0, "sad")]
    shares = shares_of_time(spans, 4.0, bins=2)
    assert {emotion: list(values) for emotion, values in shares.items()} == {"angry": [0.25, 0.25], "sad": [0.5, 0.5]}


def test_a_timeline_of_many_spans_is_drawn_as_shares():
    axes = pytest.importorskip("matplotlib.figure").Figure().add_subplot()
    axes.set(xlim=(0, 1000), ylim=(0, 1))
    segments = [{"start": 5.0 * i, "end": 5.0 * i + 4, "emotion": ("sad", "angry")[i % 2]} for i in range(200)]
    draw_timeline(axes, segments, ["angry", "sad"])
    tops = [patch.get_y() + patch.get_height() for patch in axes.patches]
    assert len(axes.patches) == 200 and max(tops) == pytest.approx(0.8)
