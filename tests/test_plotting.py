# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Pictures: what is drawn, where, in which colours, and that they are returned and not shown."""

import itertools
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
from conftest import TINY, make_speech

from modeling_sparse_merit import SpeechEnhancementAndEmotionPipeline, plotting
from modeling_sparse_merit.plotting import (
    Overview,
    plot_confusion,
    plot_expert_shares,
    plot_expert_use,
    plot_recording,
    plot_reliability,
    plot_result,
    plot_robustness,
    plot_spectrograms,
    plot_timeline,
)
from modeling_sparse_merit.plotting.experts import columns_of
from modeling_sparse_merit.plotting.style import COLOURS, GREY, plain_shades, save_figure
from modeling_sparse_merit.plotting.timeline import (
    clock,
    draw_timeline,
    emotion_colours,
    merged_spans,
    shares_of_time,
)

pytest.importorskip("matplotlib")

RATE = 1_000
LABELS = ["angry", "happy", "neutral", "sad"]
POINTS = {-5: (0.4, 0.3, 0.5), 5: (0.6, 0.5, 0.7)}


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


def use_of(choices: list[int], num_experts: int = 3) -> np.ndarray:
    """The use of the experts (T, N) that a sparse router chose."""
    return np.eye(num_experts, dtype=np.float32)[choices]


def strip_of(figure):
    (strip,) = (axes for axes in figure.axes if axes.get_ylabel() == "emotion")
    return strip


# ---- colours ------------------------------------------------------------------------------------------------------

# Simulation of full deuteranopia and protanopia in linear RGB: Machado, Oliveira and Fernandes, A Physiologically-
# based Model for Simulation of Color Vision Deficiency, IEEE TVCG 15(6), 2009, severity 1.0
DEFICIENCIES = {
    "none": np.eye(3),
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def lab_of(colour, deficiency: str) -> np.ndarray:
    """CIE 1976 L*a*b* (3,) of an sRGB colour as it is seen, D65."""
    from matplotlib.colors import to_rgb

    encoded = np.array(to_rgb(colour))
    linear = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(DEFICIENCIES[deficiency]) @ linear, 0, 1)
    ratios = TO_XYZ @ seen / TO_XYZ.sum(1)
    x, y, z = np.where(ratios > (6 / 29) ** 3, np.cbrt(ratios), ratios / (3 * (6 / 29) ** 2) + 4 / 29)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
@pytest.mark.parametrize(
    "colours",
    [
        (*COLOURS, GREY),
        emotion_colours([*LABELS, "fear", "disgust", "surprise", "calm", "contempt"]).values(),
        plain_shades(4),
    ],
    ids=["systems", "emotions", "experts"],
)
def test_colours_are_different_for_colour_blind_readers(colours, deficiency):
    """A difference of 2.3 in CIE L*a*b* is just noticeable; 15 is well apart."""
    seen = [lab_of(colour, deficiency) for colour in colours]
    assert min(np.linalg.norm(one - other) for one, other in itertools.combinations(seen, 2)) > 15


def test_usual_emotions_keep_their_colours_whatever_others_there_are():
    few, many = emotion_colours(["sad", "angry"]), emotion_colours([*LABELS, "fear", "bored", "proud", "anxious"])
    assert few.items() <= many.items() and len(set(many.values())) == len(many)
    assert emotion_colours(["bored"])["bored"] == emotion_colours(["bored", "sad"])["bored"]


# ---- figures ------------------------------------------------------------------------------------------------------


FIGURES = {
    "recording": lambda: plot_recording(Overview.of(noise(3_000), RATE), None, {"sad": 1.0}, "a"),
    "spectrograms": lambda: plot_spectrograms({"recording": noise(3_000), "enhanced": noise(3_000, 1)}),
    "timeline": lambda: plot_timeline(timeline(30), 30),
    "expert use": lambda: plot_expert_use({"emotion": use_of([0, 1, 2, 1])}),
    "expert shares": lambda: plot_expert_shares({"emotion": {"emotion": {"sad": [0.3, 0.7]}}}),
    "robustness": lambda: plot_robustness({"model": {"hiss": POINTS}}, "macro-F1"),
    "reliability": lambda: plot_reliability({"clean": {"before": [(0.9, 0.7, 10)], "after": [(0.7, 0.7, 10)]}}),
    "confusion": lambda: plot_confusion({"": {"clean": [[3, 1], [0, 4]]}}, ["happy", "sad"]),
}


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_figures_are_returned_equal_and_apart_from_pyplot(draw, tmp_path):
    from matplotlib.figure import Figure

    files = [tmp_path / name for name in ("a.png", "b.png")]
    for file in files:
        figure = draw()
        assert type(figure) is Figure and figure.canvas.manager is None  # no window
        save_figure(figure, file)
    assert files[0].read_bytes() == files[1].read_bytes()
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


def test_public_names_exist_and_import_nothing_before_a_picture_is_drawn():
    assert all(callable(getattr(plotting, name)) for name in plotting.__all__)
    code = (
        "import sys, modeling_sparse_merit.plotting as plotting, modeling_sparse_merit.plotting.recording; "
        "sys.exit('matplotlib' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("draw", FIGURES.values(), ids=FIGURES)
def test_without_matplotlib_one_line_says_what_to_install(draw, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'pip install "modeling-sparse-merit\[demo\]"$') as raised:
        draw()
    assert "\n" not in str(raised.value)


# ---- spectrograms -------------------------------------------------------------------------------------------------


def test_a_pair_of_spectrograms_has_common_scales_and_ends_at_the_band():
    figure = plot_spectrograms({"recording": noise(16_000), "enhanced": noise(16_000, 1) / 10}, band=4_000)
    first, second = (axes for axes in figure.axes if axes.images)
    assert (first.get_title(), second.get_title()) == ("recording", "enhanced")
    assert first.get_ylim() == second.get_ylim() == (0, 4) and first.get_xlim() == second.get_xlim() == (0, 1)
    assert first.images[0].get_clim() == second.images[0].get_clim() == (-80, 0)
    means = [axes.images[0].get_array().mean() for axes in (first, second)]
    assert means[0] - means[1] == pytest.approx(20, abs=0.5)  # dB
    assert plot_spectrograms({"a": noise(800)}, RATE).axes[0].get_ylim() == (0, 0.5)


# ---- recordings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "label", "enhances"),
    [(3, "Time (s)", True), (90, "Time (s)", True), (600, "Time (m:ss)", False), (3_600, "Time (h:mm:ss)", True)],
)
def test_rows_of_a_recording_share_its_time_axis(tmp_path, seconds, label, enhances):
    side = Overview.of(noise(seconds * RATE), RATE)
    scores = dict(zip(LABELS, (0.4, 0.3, 0.2, 0.1), strict=True)) if enhances else {}
    use = {task: columns_of(use_of([0, 1, 1, 2] * (50 * seconds // 4))) for task in ("enhancement", "emotion")}
    begin = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        segments = timeline(seconds, min(4.0, seconds / 2))
        figure = plot_recording(side, side if enhances else None, scores, "a $1$.wav", 400, segments, use)
        save_figure(figure, tmp_path / "a.png")
    assert time.monotonic() - begin < 30
    rows = [axes for axes in figure.axes if axes.get_xlim() == (0, seconds)]
    assert len(rows) == (7 if enhances else 5) and rows[-1].get_xlabel() == label
    assert len({(axes.get_position().x0, axes.get_position().x1) for axes in rows}) == 1
    drawn = strip_of(figure).collections or {patch.get_facecolor() for patch in strip_of(figure).patches}
    assert len(drawn) == (1 if seconds == 3 else 4)  # three emotions, and unsure: as spans, or as shares
    assert [axes.get_ylim() for axes in rows if axes.images] == [(0, 0.4)] * (1 + enhances)


@pytest.mark.parametrize("length", [9, 2])
def test_names_are_within_their_spans_or_in_a_legend(length):
    segments = timeline(90, length)
    figure = plot_timeline(segments, 90)
    strip = strip_of(figure)
    figure.draw_without_rendering()
    for text in strip.texts:
        box = text.get_window_extent().transformed(strip.transData.inverted())
        assert any(segment["start"] < box.x0 and box.x1 < segment["end"] for segment in segments)
    legends = [[text.get_text() for text in legend.get_texts()] for legend in figure.legends]
    if length == 9:
        assert len(strip.texts) == len(segments) and legends == []
    else:
        assert len(strip.texts) < len(segments)
        assert legends == [["angry", "happy", "neutral", "unsure"]]


def test_a_recording_without_speech_has_an_empty_strip():
    figure = plot_recording(Overview.of(np.zeros(20 * RATE), RATE), None, {}, "a.wav", 500, [])
    assert not strip_of(figure).collections and not figure.legends


def test_the_result_of_a_pipeline_is_drawn_as_far_as_it_goes():
    pipe, waveform = SpeechEnhancementAndEmotionPipeline.from_pretrained(TINY), make_speech(2.0)
    result = pipe(waveform, sampling_rate=16_000, return_segments=True, return_expert_use=True)
    figure = plot_result(waveform, result, "a.wav", band=4_000)
    assert len([axes for axes in figure.axes if axes.get_xlim() == (0, 2)]) == 2 + 1 + 2 + 2
    assert [axes.get_ylim() for axes in figure.axes if axes.images] == [(0, 4)] * 2
    figure = plot_result(waveform, pipe(waveform, sampling_rate=16_000, tasks="emotion"))
    assert len([axes for axes in figure.axes if axes.get_xlim() == (0, 2)]) == 2


# ---- timelines ----------------------------------------------------------------------------------------------------


def test_close_segments_of_one_emotion_are_one_span():
    times = [(0, 1, "sad"), (1.1, 2, "sad"), (2.5, 3, "sad"), (3, 4, None), (4, 5, "sad")]
    segments = [{"start": start, "end": end, "emotion": emotion} for start, end, emotion in times]
    assert merged_spans(segments, gap=0.2) == [(0, 2, "sad"), (2.5, 3, "sad"), (3, 4, "unsure"), (4, 5, "sad")]


def test_clock():
    assert (clock(65, False), clock(600, False), clock(5, True), clock(3_725, True)) == (
        *("1:05", "10:00"),
        *("0:00:05", "1:02:05"),
    )


def test_shares_of_time_by_hand():
    spans = [(0.0, 1.0, "sad"), (1.5, 2.5, "angry"), (3.0, 4.0, "sad")]
    shares = shares_of_time(spans, 4.0, bins=2)
    assert {emotion: list(values) for emotion, values in shares.items()} == {"angry": [0.25, 0.25], "sad": [0.5, 0.5]}


def test_a_timeline_of_many_spans_is_drawn_as_shares():
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    axes.set(xlim=(0, 1000), ylim=(0, 1))
    segments = [{"start": 5.0 * i, "end": 5.0 * i + 4, "emotion": ("sad", "angry")[i % 2]} for i in range(200)]
    draw_timeline(axes, segments, ["angry", "sad"])
    tops = [patch.get_y() + patch.get_height() for patch in axes.patches]
    assert len(axes.patches) == 200 and max(tops) == pytest.approx(0.8)


# ---- experts ------------------------------------------------------------------------------------------------------


def lanes_of(axes) -> tuple[np.ndarray, np.ndarray]:
    """Edges (columns + 1,) and heights (N, columns) of the lanes of a task, where 1 is a full lane."""
    data = [patch.get_data() for patch in axes.patches]
    return data[0].edges, np.array([each.values - each.baseline for each in data]) / 0.86


def test_the_expert_of_each_frame_has_its_place_in_time():
    figure = plot_expert_use({"enhancement": use_of([2, 2, 0, 1]), "emotion": use_of([1, 1, 1, 1])})
    first, second = figure.axes
    edges, heights = lanes_of(first)
    np.testing.assert_allclose(edges, [0, 0.02, 0.04, 0.06, 0.08])
    np.testing.assert_allclose(heights, [[0, 0, 1, 0], [0, 0, 0, 1], [1, 1, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(lanes_of(second)[1], [[0] * 4, [1] * 4, [0] * 4], atol=1e-6)
    assert first.get_xlim() == second.get_xlim() == (0, 0.08)
    assert "enhancement" in first.get_ylabel() and list(first.get_yticks()) == [0, 1, 2]  # unused experts as well


def test_the_experts_of_a_long_recording_are_shares_of_its_parts():
    choices = [0, 0, 0, 1] * 1_000  # 80 s
    edges, heights = lanes_of(plot_expert_use({"emotion": use_of(choices, 2)}, timeline(80)).axes[1])
    assert len(edges) <= 601 and edges[-1] == pytest.approx(80)
    np.testing.assert_allclose(heights, np.broadcast_to([[0.75], [0.25]], heights.shape), atol=1e-6)


def test_a_model_without_experts_has_no_picture_of_their_use():
    with pytest.raises(ValueError, match="expert_use.* is empty; expected"):
        plot_expert_use({})


# ---- evaluations --------------------------------------------------------------------------------------------------


def test_curves_have_a_panel_for_each_pool_and_a_legend_entry_for_each_system():
    clean = {None: {None: (0.8, 0.7, 0.9)}}
    curves = {f"system {index}": {"hiss": POINTS, "roar": POINTS, **clean} for index in range(9)}
    figure = plot_robustness({"noisy": {"hiss": POINTS, "roar": POINTS}, **curves}, "macro-F1")
    assert [axes.get_title() for axes in figure.axes] == ["hiss", "roar"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["noisy", *curves]
    first = figure.axes[0]
    assert [label.get_text() for label in first.get_xticklabels()] == ["-5", "5", "clean"]
    lines = [line for line in first.get_lines() if len(line.get_ydata()) == 2]
    assert [line.get_ydata().tolist() for line in lines] == [[0.4, 0.6]] * 10
    assert len({line.get_xdata()[0] for line in lines}) == 10  # side by side, closer to their SNR than to another
    assert all(abs(line.get_xdata() - [0, 1]).max() < 0.5 for line in lines)
    bars = [bar.get_segments() for bar in first.collections]
    bounds = [[segment[:, 1].tolist() for segment in each] for each in bars]
    assert bounds == [[[0.3, 0.5], [0.5, 0.7]]] + [[[0.3, 0.5], [0.5, 0.7]], [[0.7, 0.9]]] * 9
    assert len({(line.get_color(), line.get_marker()) for line in lines}) == 10


def test_a_system_has_its_colour_in_every_figure_of_a_report():
    with_both = plot_robustness({"first": {"hiss": POINTS}, "second": {"hiss": POINTS}}, "PESQ-WB")
    alone = plot_robustness({"first": {}, "second": {"hiss": POINTS}}, "macro-F1")
    assert [text.get_text() for text in alone.legends[0].get_texts()] == ["second"]
    assert alone.axes[0].get_lines()[0].get_color() == with_both.axes[0].get_lines()[1].get_color()


def test_a_confusion_matrix_shows_percents_of_each_true_class():
    rows = {"hiss": {"-5 dB": [[2, 2], [2, 2]], "clean": [[3, 1], [0, 4]]}, "roar": {"5 dB": [[4, 0], [0, 0]]}}
    figure = plot_confusion(rows, "ab")
    shown = {axes.get_title(): [text.get_text() for text in axes.texts] for axes in figure.axes if axes.get_visible()}
    assert shown == {
        "-5 dB": ["50"] * 4,
        "clean": ["75", "25", "0", "100"],
        "5 dB": ["100", "0", "0", "0"],
    }
    labels = [axes.get_ylabel() for axes in figure.axes]
    assert labels == ["hiss\ntrue class", "", "roar\ntrue class", ""]


def test_a_reliability_diagram_has_a_panel_for_each_group_and_the_diagonal():
    bins = {"before": [(0.7, 0.5, 20), (0.95, 0.7, 80)], "after": [(0.6, 0.6, 100)]}
    figure = plot_reliability(dict.fromkeys(["clean", "noisy", "gsm", "telephone", "narrowband"], bins))
    shown = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in shown] == ["clean", "noisy", "gsm", "telephone", "narrowband"]
    diagonal, before, after = (line.get_xydata().tolist() for line in shown[0].lines)
    assert diagonal == [[0, 0], [1, 1]] and before == [[0.7, 0.5], [0.95, 0.7]] and after == [[0.6, 0.6]]
    # the area of a point is proportional to its clips
    assert shown[0].collections[0].get_sizes().tolist() == pytest.approx([30, 120])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["before", "after"]


def test_shares_of_experts_are_stacked_to_one():
    bars = {"-5": [0.2, 0.3, 0.5], "5": [0.6, 0.4, 0.0]}
    figure = plot_expert_shares({"SNR (dB)": {"enhancement": bars, "emotion": bars}})
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["expert 2", "expert 1", "expert 0"]
    tops = [patch.get_y() + patch.get_height() for patch in figure.axes[0].patches]
    np.testing.assert_allclose(tops, [0.2, 0.6, 0.5, 1, 1, 1])
