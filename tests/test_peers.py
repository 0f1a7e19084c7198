# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The benchmark of enhancers of other packages: means over noise, the table and the picture."""

from itertools import combinations

import pytest

from benchmarks.peers import draw, mean_scores, render, scores_by_condition, summarize
from benchmarks.timing import Timing
from modeling_sparse_merit.evaluation.enhancers import ENHANCERS


def condition(pool: str | None, pesq: float, f1: float | None, transmission: str | None = None) -> dict:
    name = f"{pool or 'clean'}{f'@{transmission}' if transmission else ''}"
    emotion = f1 and {
        "macro_f1": f1,
        **{f"macro_f1_{name}": None for name in ("interval", "speaker_interval", "seeds")},
    }
    enhancement = {"pesq_wb": {"enhanced": {"mean": pesq}}}
    facts = {"condition": name, "pool": pool, "transmission": transmission}
    return {**facts, "enhancement": enhancement, "emotion": emotion}


@pytest.fixture
def result() -> dict:
    """Seven systems; two are equally fast and nearly equally good."""
    scores = {"noisy": 1.5, "ours": 2.4, **dict(zip(ENHANCERS, (1.6, 2.0, 2.01, 2.3, 2.31, 2.6), strict=True))}
    report = {
        "results": {
            name: {
                "conditions": [
                    condition(None, 4.5, 0.9),
                    condition("street", pesq - 0.1, 0.5 if name != "noisy" else None),
                    condition("babble", pesq + 0.1, 0.7 if name != "noisy" else None),
                    condition("street", 1.0, 0.1, "gsm"),
                ]
            }
            for name, pesq in scores.items()
        }
    }
    seconds = {"ours": 0.4, **dict(zip(ENHANCERS, (0.2, 0.8, 0.12, 0.45, 0.54, 2.0), strict=True))}
    facts = {"licence": "MIT", "bytes": 1_500_000, "memory_mib": 30.0, "parameters": 48_228}
    measured = {name: {**facts, "is_peer": name != "ours"} for name in seconds}
    timings = {name: Timing([each, each * 2, each]) for name, each in seconds.items()}
    systems = summarize(report, measured, timings, "ours")
    described = {"name": "peers", "command": "x", "commit": "y", "cpu": "AVX2", "load_before": 0.1, "clips": 3}
    described |= {"conditions": ["street_0dB", "babble_0dB"], "measures": ["macro_f1", "pesq_wb"], "baseline": "ours"}
    return {**described, "systems": systems, "by_condition": scores_by_condition(report), "report": report}


def test_scores_are_means_over_the_noise_without_transmission(result):
    assert mean_scores(result["report"], "ours") == {"macro_f1": pytest.approx(0.6), "pesq_wb": pytest.approx(2.4)}
    assert mean_scores(result["report"], "noisy") == {"macro_f1": None, "pesq_wb": pytest.approx(1.5)}


def test_the_table_has_speed_relative_to_the_baseline(result):
    text = render(result)
    assert "| noisy | – | 1.50 |" in text
    row = "| gtcrn | 0.600 | 2.31 | 0.0540 | 0.74 (0.74 to 0.74) | 30 | 1.5 | 48,228 | 16000 | MIT |"
    assert row in text and "![quality against real-time factor](peers.png)" in text
    assert "### PESQ-WB\n\n| | noisy | ours |" in text and "| babble | 1.60 | 2.50 |" in text


def test_the_picture_is_80_mm_wide_and_its_names_do_not_overlap(result):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: extra `demo`")
    figure = draw(result)
    figure.draw_without_rendering()
    assert figure.get_figwidth() * 25.4 == pytest.approx(80)
    (axes,) = figure.axes
    texts = {text.get_text(): text.get_window_extent() for text in axes.texts}
    assert set(texts) == {"noisy", "ours", *ENHANCERS}
    assert [pair for pair in combinations(texts, 2) if texts[pair[0]].overlaps(texts[pair[1]])] == []
    assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in texts.values())
