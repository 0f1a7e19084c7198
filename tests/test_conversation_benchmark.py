# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The benchmark of conversations with borrowed voices: which voices a line gets, and the comparison of the gate."""

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, Value

from benchmarks.conversation import borrowed
from benchmarks.conversation.__main__ import score
from modeling_sparse_merit import MisterEConfig
from modeling_sparse_merit.training.arguments import parse_fields
from modeling_sparse_merit.training.conversation import ConversationSettings

LABELS = ["neutral", "joy", "anger"]
FEATURES = Features(
    {
        "emotion": ClassLabel(names=LABELS),
        **{name: Value("string") for name in ("split", "dialogue", "text")},
        "turn": Value("int32"),
    }
)
SPLITS = ("train", "dev", "test")
# The first number of a clip is its split, the second one its emotion ("calm" is none of MELD), the third one the clip.
VOICES = {
    split: {
        emotion: [np.array([place, number, clip], np.float32) for clip in range(3)]
        for number, emotion in enumerate([*LABELS, "calm"])
    }
    for place, split in enumerate(SPLITS)
}


def make_rows(number: int = 60) -> Dataset:
    return Dataset.from_list(
        [
            {
                "emotion": row % 3,
                "split": SPLITS[row // 5 % 3],
                "dialogue": f"d{row // 5}",
                "text": f"line {row}",
                "turn": row % 5,
            }
            for row in range(number)
        ],
        FEATURES,
    )


def speech_of(rows: Dataset) -> np.ndarray:
    return np.array(rows["speech_embedding"][:], np.float32)


def test_a_line_borrows_a_clip_of_its_emotion_from_its_split():
    rows = borrowed.borrow(make_rows(), VOICES, seed=0)
    speech = speech_of(rows)
    assert speech[:, 0].tolist() == [SPLITS.index(split) for split in rows["split"]]
    assert speech[:, 1].tolist() == rows["emotion"][:] and set(speech[:, 2]) == {0, 1, 2}
    assert np.array_equal(speech, speech_of(borrowed.borrow(make_rows(), VOICES, seed=0)))
    assert not np.array_equal(speech, speech_of(borrowed.borrow(make_rows(), VOICES, seed=1)))


def test_half_of_the_lines_get_a_clip_of_another_emotion():
    right = borrowed.borrow(make_rows(), VOICES, seed=0)
    rows, wrong = borrowed.mislead(right, VOICES, seed=0)
    before, after, emotions = speech_of(right), speech_of(rows), np.array(rows["emotion"][:])
    assert wrong.sum() == 30 and np.array_equal(before[~wrong], after[~wrong])
    assert (after[wrong, 1] != emotions[wrong]).all() and (after[:, 1] < 3).all()
    assert np.array_equal(before[:, 0], after[:, 0])
    assert rows.column_names.count("speech_embedding") == 1


def test_a_quick_look_takes_whole_dialogues_of_each_split():
    rows = borrowed.first_dialogues(make_rows(), 2)
    assert len(rows) == 30 and set(rows["dialogue"]) == {f"d{number}" for number in range(6)}
    assert borrowed.first_dialogues(rows, None) is rows


def test_the_weight_of_the_speech_expert_is_compared_on_the_same_lines():
    dialogues = [f"d{row // 5}" for row in range(60)]
    wrong = [np.arange(60) % 2 == 0, np.arange(60) % 2 == 1]  # of two seeds
    right = [np.full(60, 0.6) + 0.001 * np.arange(60)] * 2
    after = [own - 0.2 * chosen for own, chosen in zip(right, wrong, strict=True)]
    compared = borrowed.compare_gate({"right": right, "half wrong": after}, wrong, dialogues)
    assert compared["wrong voice"]["difference"] == pytest.approx(-0.2)
    assert compared["wrong voice"]["speaker_p"] < 0.01 and compared["right voice"]["difference"] == pytest.approx(0)


def test_scores_and_gate_are_written_with_the_caveat():
    rows = borrowed.borrow(make_rows(), VOICES, seed=0)
    names = [LABELS[value] for value in rows["emotion"]]
    members = {"fused": [np.array(names)], "no_gate": [np.array(["joy"] * 60)]}
    scores = score(members, rows, ["line 1"], LABELS, "fused")
    entry = {"right": 0.6, "half wrong": 0.5, "difference": -0.1, "difference_speaker_interval": [-0.2, 0.0]}
    gate = {name: {**entry, "speaker_p": 0.01} for name in ("wrong voice", "right voice")}
    parts = {part: scores for part in borrowed.PARTS}
    result = {"command": "x", "commit": "y", "seeds": 1, "parts": parts, "gate": gate}
    text = borrowed.markdown("name", result)
    assert "**no result about MELD**" in text and "| fused | 1.000 [1.000, 1.000] | 1.000" in text
    assert "| with a wrong voice then | 0.600 | 0.500 | -0.100 [-0.200, +0.000] | 0.0100 |" in text


@pytest.mark.parametrize("path", sorted(borrowed.SYSTEMS.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_systems_are_valid(path):
    settings = parse_fields(ConversationSettings, [str(path), "--data", "x"], "")
    config = MisterEConfig(speech_size=4, text_size=3, num_labels=7, **settings.config)
    assert config.uses_context == (path.stem != "no_context")
