# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The benchmark of enhanced speech: recorded pairs, the choice of clips, and what a comparison says."""

import json
import shutil

import numpy as np
import pytest
import soundfile

from benchmarks.enhancement_quality import compare, measure, read_pairs, recorded_set, render, spread, summarize


def test_recorded_pairs_match_independent_scores(reference_data, tmp_path):
    golden = reference_data / "golden/speech_metrics"
    for path in golden.glob("p232_003.*.flac"):
        shutil.copy(path, tmp_path)
    pairs = recorded_set(tmp_path)
    scores = measure(pairs, 16_000, {}, None, tmp_path)
    assert list(scores) == ["clean", "noisy", "cmgan"]
    names = {"pesq_wb": "pesq_wb", "stoi": "stoi", "segmental_snr": "ssnr", "si_sdr": "si_sdr"}
    names |= {name: name for name in ("csig", "cbak", "covl")}
    for expected in json.loads((golden / "scores.json").read_text()):
        if expected["file"] == "p232_003":
            (actual,) = (scores[name] for name in scores if f".{name}" in expected["processed"])
            for name, theirs in names.items():
                assert actual[name] == [pytest.approx(expected[theirs], abs=1e-2 if name[0] == "c" else 1e-3)]
    assert np.isnan(scores["clean"]["si_sdr"]).all()  # infinite
    results = {"command": "", "commit": "", "seed": 0, "clips": "", "systems": {}}
    text = render(results | {"rates": {"16000": summarize({pairs.name: scores}, [])}})
    assert "| recorded pairs | cmgan | 3.54, +0.73 (+0.73 to +0.73) | 0.975, " in text


def test_kept_scores_are_not_computed_again(tmp_path):
    generator = np.random.default_rng(0)
    for version in ("clean", "noisy"):
        soundfile.write(tmp_path / f"a.{version}.flac", 0.1 * generator.standard_normal(16_000), 16_000)
    first = measure(recorded_set(tmp_path), 8_000, {}, None, tmp_path)
    (path, *_) = (path for path in tmp_path.glob("*.json") if json.loads(path.read_text()) == first["noisy"])
    path.write_text(json.dumps({"stoi": [0.5]}))
    assert measure(recorded_set(tmp_path), 8_000, {}, None, tmp_path)["noisy"] == {"stoi": [0.5]}


def test_pairs_that_do_not_fit_are_named(tmp_path):
    with pytest.raises(ValueError, match="holds no pair"):
        read_pairs(tmp_path)
    soundfile.write(tmp_path / "a.clean.flac", np.zeros(100), 16_000)
    with pytest.raises(ValueError, match=r"lacks a\.noisy\.flac"):
        read_pairs(tmp_path)
    soundfile.write(tmp_path / "a.noisy.flac", np.zeros(90), 16_000)
    with pytest.raises(ValueError, match="'clean': 100, 'noisy': 90"):
        read_pairs(tmp_path)


def test_clips_are_spread_over_speakers():
    speakers = ["a"] * 10 + ["b"] * 2 + ["c"] * 5
    places = spread(speakers, 8, seed=0)
    assert [speakers[place] for place in places] == ["a"] * 3 + ["b"] * 2 + ["c"] * 3
    assert places == sorted(set(places)) and places == spread(speakers, 8, seed=0) != spread(speakers, 8, seed=1)
    assert spread(speakers, 99, seed=0) == list(range(17))


def test_clips_that_lose_are_counted():
    undefined = float("nan")
    inputs = [{"distillmos": [3.0, 3.0, 3.0, 3.0], "si_sdr": [undefined] * 4}] * 2
    outputs = [
        {"distillmos": [2.7, 2.9, 3.5, 3.0], "si_sdr": [10.0, 20.0, undefined, undefined]},
        {"distillmos": [2.5, 3.1, 3.3, undefined], "si_sdr": [undefined] * 4},
    ]
    compared = compare(inputs, outputs)
    assert compared["distillmos"]["losers"] == pytest.approx(2 / 6)  # the fourth clip is undefined in a condition
    assert compared["distillmos"]["mean"] == pytest.approx(21 / 7)
    difference = compared["distillmos"]["difference"]
    assert difference["mean"] == pytest.approx((-0.4 + 0.0 + 0.4) / 3)
    assert difference["low"] == pytest.approx(-0.4) and difference["high"] == pytest.approx(0.4)
    assert compared["si_sdr"] == {"mean": 15.0, "difference": None}
