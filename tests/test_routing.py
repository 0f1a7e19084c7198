# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The benchmark of routing: mutual information and its permutations, phone classes, and the removal of an expert."""

import numpy as np
import pytest
import torch

from benchmarks import routing
from benchmarks.routing import (
    PERMUTATIONS,
    PHONE_CLASSES,
    Observation,
    describe,
    macro_f1_change,
    mutual_information,
    observe,
    phone_classes,
    removals,
    tables_among_clips,
    tables_of_shifts,
    tables_within_clips,
    without_expert,
)
from benchmarks.routing_figures import draw_figures
from modeling_sparse_merit.evaluation.systems import CheckpointSystem

SILENCE, UNVOICED, VOICED = range(3)


@pytest.fixture
def system(tiny_checkpoint):
    return CheckpointSystem(tiny_checkpoint, device="cpu")


def test_mutual_information_of_known_tables():
    assert mutual_information(np.array([[7, 0], [0, 7]])) == pytest.approx(1)
    assert mutual_information(np.array([[2, 4, 6], [1, 2, 3]])) == pytest.approx(0, abs=1e-12)
    # 3/8 log2(3/2) twice and 1/8 log2(1/2) twice: 1 bit minus the entropy of (3/4, 1/4)
    assert mutual_information(np.array([[3, 1], [1, 3]])) == pytest.approx(0.75 * np.log2(3) - 1)
    assert mutual_information(np.array([[[5, 0], [0, 5]], [[5, 5], [5, 5]]])) == pytest.approx([1, 0])


def test_values_are_permuted_among_clips():
    use = np.array([[10, 0], [10, 0], [0, 10], [0, 10]])  # two clips for each expert
    tables = tables_among_clips(use, np.array([0, 0, 1, 1]), np.random.default_rng(0))
    assert tables[0].tolist() == [[20, 0], [0, 20]]
    # the frames of a clip keep one value; the values follow the expert in 2 of the 6 ways to choose two clips of four
    assert {round(float(bits), 9) for bits in mutual_information(tables)} == {0.0, 1.0}
    relation = describe(tables, ["a", "b"])
    assert relation["bits"] == relation["entropy_bits"] == pytest.approx(1)
    assert relation["permuted_bits"] == pytest.approx(1 / 3, abs=0.1) == relation["p"]
    assert relation["frames"] == {"a": [20, 0], "b": [0, 20]}


def test_values_are_permuted_within_clips():
    use = np.tile([[10, 0], [0, 10]], (40, 1, 1))  # in each clip, the first condition goes to expert 0
    tables = tables_within_clips(use, np.random.default_rng(0))
    assert tables[0].tolist() == [[400, 0], [0, 400]] and (tables.sum(2) == 400).all()
    relation = describe(tables, ["clean", "0 dB"])
    assert relation["bits"] == pytest.approx(1)
    assert relation["p"] == pytest.approx(1 / (1 + PERMUTATIONS)) and relation["permuted_bits"] < 0.2


def test_values_of_frames_are_shifted_within_clips():
    generator = np.random.default_rng(0)
    values = [generator.integers(2, size=100) for _ in range(5)]
    tables = tables_of_shifts([np.eye(2)[each] for each in values], values, 2, generator)
    assert tables[0].tolist() == np.diag(np.bincount(np.concatenate(values))).tolist()
    assert (tables.sum(2) == tables[0].sum(1)).all() and (tables.sum(1) == tables[0].sum(0)).all()
    assert describe(tables, ["a", "b"])["permuted_bits"] < 0.05 < 0.95 < describe(tables, ["a", "b"])["bits"]


def test_phone_classes_of_tone_noise_and_silence():
    generator = np.random.default_rng(0)
    time = np.arange(8_000) / 16_000
    tone = 0.1 * sum(np.sin(2 * np.pi * 150 * harmonic * time) / harmonic for harmonic in (1, 2, 3))
    waveform = np.concatenate([tone, 0.03 * generator.standard_normal(8_000), np.zeros(8_000)])
    classes = phone_classes(waveform, 75)
    # frames at the boundaries of 25 frames hold some of both
    assert (classes[:24] == VOICED).all() and (classes[26:49] == UNVOICED).all() and (classes[51:] == SILENCE).all()
    assert (phone_classes(1e-3 * waveform, 75) == classes).all()  # the level is relative to the clip
    assert (phone_classes(np.zeros(1_600), 5) == SILENCE).all()
    assert PHONE_CLASSES == ("silence", "unvoiced", "voiced")


@pytest.mark.parametrize("router", ["sparse", "dense"])
def test_no_frame_goes_to_a_removed_expert(system, speech_clip, router):
    system.model.config.router = router
    clip = speech_clip(1.0)
    whole, *removed, again = observe(system, clip, clip, [None, 0, 1, 2, None])
    assert list(whole.experts) == list(system.tasks)
    for expert, run in enumerate(removed):
        for task, experts in run.experts.items():
            assert len(experts) == 49 and (experts != expert).all()
            kept = whole.experts[task] != expert
            assert (experts[kept] == whole.experts[task][kept]).all()
        assert np.isfinite(run.si_sdr)
    assert again.si_sdr == whole.si_sdr  # a removal ends


@pytest.mark.parametrize("router", ["sparse", "dense"])
def test_removed_expert_has_no_effect(system, speech_clip, router):
    system.model.config.router = router
    clip = speech_clip(1.0)
    expert = int(observe(system, clip, clip)[0].experts["enhancement"][0])  # that some frame goes to
    whole, removed = observe(system, clip, clip, [None, expert])
    with torch.no_grad():
        system.model.model.integration.experts[expert].output_dense.bias.fill_(100.0)
    changed, still_removed = observe(system, clip, clip, [None, expert])
    assert changed.si_sdr != whole.si_sdr and still_removed.si_sdr == removed.si_sdr


def test_experts_that_cannot_be_removed_are_named(system):
    with pytest.raises(ValueError, match="Expert 3 of 3 cannot be removed"), without_expert(system.model, 3):
        pass


def test_change_of_macro_f1():
    true = np.array([0, 0, 1, 1])
    change = macro_f1_change(true, np.array([0, 0, 0, 0]), true, np.arange(4))
    assert change["mean"] == pytest.approx((2 / 3 + 0) / 2 - 1)  # F1 of one class 2/3, of the other 0; before, 1 and 1
    assert change["low"] <= change["mean"] <= change["high"]
    assert macro_f1_change(true, true, true, np.arange(4)) == {"mean": 0, "low": 0, "high": 0}


def test_removals_leave_out_what_is_not_measured():
    def run(emotion, si_sdr):
        return [[Observation({}, emotion, si_sdr)] * 2] * 3

    classes = np.array([0, 1, -100])
    change = {"si_sdr": {"mean": -1, "low": -1, "high": -1}}
    conditions = ["clean", "0 dB"]
    assert removals({None: run(None, 5.0), 0: run(None, 4.0)}, classes, conditions) == {
        "0": {"clean": change, "0 dB": change, "all": change}
    }
    assert list(removals({None: run(1, None), 0: run(0, None)}, classes, conditions)["0"]["all"]) == ["macro_f1"]
    assert removals({None: run(1, 5.0)}, classes, conditions) == {}


def test_text_and_figures_of_a_run(system, speech_clip, tmp_path):
    clips = routing.Clips(
        [speech_clip(0.6, seed=seed) for seed in range(4)],
        rows=list(range(4)),
        classes=np.array([0, 1, 0, -100]),
        labels={"emotion": ["angry", "sad", "angry", None], "corpus": ["a"] * 4, "speaker": list("abca")},
    )
    conditions = ["clean", "quiet"]
    runs = {
        removed: [
            [*observe(system, clip, clip, [removed]), *observe(system, 0.1 * clip, clip, [removed])]
            for clip in clips.waveforms
        ]
        for removed in (None, 0)
    }
    result = {
        "command": "",
        "commit": "",
        "model": system.describe(),
        "clips": 4,
        "conditions": conditions,
        "relations": routing.relations(runs[None], clips, conditions, 3, seed=0),
        "removals": removals(runs, clips.classes, conditions),
    }
    emotions = result["relations"]["emotion"]["emotion"]["frames"]
    assert {name: sum(counts) for name, counts in emotions.items()} == {"angry": 4 * 29, "sad": 2 * 29}
    assert result["relations"]["enhancement"]["corpus"]["bits"] == pytest.approx(0, abs=1e-9)  # there is one
    text = routing.render(result)
    assert all(heading in text for heading in ("## Use", "## Mutual information", "## Removal"))
    draw_figures(tmp_path / "name", result)
    assert {path.name for path in tmp_path.iterdir()} == {
        "name_use.png",
        "name_information.png",
        "name_removal.png",
    }
