# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Described tables and descriptor targets: frames that line up in time, statistics and a loss worked out by hand."""

import builtins
import io

import numpy as np
import pyarrow as pa
import pytest
import soundfile
import torch
from datasets import Dataset, DatasetInfo

from modeling_sparse_merit.cli import app
from modeling_sparse_merit.data import acoustic_features, prepare
from modeling_sparse_merit.data.datasets import DatasetError, read_dataset, read_datasets, speech_features
from modeling_sparse_merit.models.sparse_merit.audio import load_audio
from modeling_sparse_merit.training.descriptors import (
    DESCRIPTORS,
    TARGETS,
    DescriptorHead,
    DescriptorTargets,
    descriptor_loss,
)

RATE = 16_000


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def speech(tmp_path, speech_clip):
    """A speech dataset of two train clips, a dev clip and a test clip, in a folder."""
    rows = []
    for seed, split in enumerate(["train", "dev", "test", "train"]):
        buffer = io.BytesIO()
        soundfile.write(buffer, speech_clip(seconds=0.5, seed=seed), RATE, format="WAV", subtype="FLOAT")
        audio = {"bytes": buffer.getvalue(), "path": f"{seed}.wav"}
        rows.append({"audio": audio, "emotion": seed, "speaker": f"s{seed}", "split": split, "duration": 0.5})
    info = DatasetInfo(license="CC BY 4.0", description="Four people.", features=speech_features())
    arrow = pa.Table.from_pylist(rows, schema=speech_features().arrow_schema)
    prepare.write_dataset(Dataset(arrow, info=info), tmp_path / "speech", embed=True)
    return tmp_path / "speech"


def described(*clips: np.ndarray | None) -> Dataset:
    """A table of given descriptors, (frames, DESCRIPTORS) each."""
    column = {"descriptors": [None if clip is None else clip.tolist() for clip in clips]}
    feature = acoustic_features.described_features(speech_features())["descriptors"]
    return Dataset.from_dict(column).cast_column("descriptors", feature)


# The table -----------------------------------------------------------------------------------------------------------


def test_train_clips_are_described_at_every_speed_and_test_clips_not_at_all(speech, tmp_path):
    pytest.importorskip("parselmouth", reason="praat-parselmouth is not installed: extra `pretraining`")
    options = ["--speeds", "1.0", "1.25", "--processes", "2"]
    app(["prepare", "descriptors", str(speech), str(tmp_path / "out"), *options], standalone_mode=False)
    one = acoustic_features.build(speech, tmp_path, speeds=(1.0, 1.25))
    read = read_dataset(tmp_path / "out")

    assert list(read) == sorted(one, key=lambda row: row["split"])  # any number of processes, any order of the shards
    train, dev = read_dataset(tmp_path / "out", "train"), read_dataset(tmp_path / "out", "dev")
    assert len(read) == 5 and train["speaker"] == ["s0", "s0", "s3", "s3"] and train["speed"] == [1, 1.25, 1, 1.25]
    assert dev["speaker"] == ["s1"] and dev["speed"] == [1]
    assert train["duration"] == pytest.approx([0.5, 0.4, 0.5, 0.4])
    assert read.info.license == "CC BY 4.0" and read.info.description.startswith("Four people.")
    for row in read:
        assert len(load_audio(row["audio"])) == round(row["duration"] * RATE)
        frames = np.array(row["descriptors"])
        assert frames.shape[1] == len(acoustic_features.NAMES) == DESCRIPTORS and np.isfinite(frames).all()
        assert 0 <= row["duration"] * 100 - len(frames) < 1
    both = read_datasets([tmp_path / "out", speech], "train")
    assert len(both) == 6 and both["descriptors"][-1] is None


def test_descriptor_frames_lie_where_they_say():
    pytest.importorskip("parselmouth", reason="praat-parselmouth is not installed: extra `pretraining`")
    click = np.zeros(RATE, np.float32)
    click[8000] = 1  # at 500 ms: the centre of frame 49
    level = acoustic_features.describe(click)[:, 0].astype(float)
    received = np.flatnonzero(level > level.min() + 20)
    assert received.mean() == pytest.approx(49, abs=1) and len(received) < 8


def test_descriptors_do_not_depend_on_the_level(speech_clip):
    pytest.importorskip("parselmouth", reason="praat-parselmouth is not installed: extra `pretraining`")
    clip = speech_clip(seconds=0.5)
    np.testing.assert_allclose(
        acoustic_features.describe(clip), acoustic_features.describe(clip / 8), rtol=0.01, atol=0.01
    )


def test_what_exceeds_full_scale_is_scaled_down_and_nothing_else():
    samples = np.array([0.5, -0.25, 0.0, 0.125], np.float32)
    np.testing.assert_array_equal(load_audio(acoustic_features.flac(samples)), samples)
    np.testing.assert_allclose(load_audio(acoustic_features.flac(samples * 4)), samples * 2, atol=2**-15)


def test_without_praat_the_error_names_the_extra(speech, tmp_path, monkeypatch):
    real = builtins.__import__

    def refuse(name, *rest, **named):
        if name == "parselmouth":
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(DatasetError, match=r"modeling-sparse-merit\[pretraining\]"):
        acoustic_features.build(speech, tmp_path)


def test_impossible_speeds_are_refused(speech, tmp_path):
    with pytest.raises(DatasetError, match=r"speeds must be factors from 0.5 to 2.*0.0"):
        acoustic_features.build(speech, tmp_path, speeds=(1.0, 0.0))


# Targets -------------------------------------------------------------------------------------------------------------


def numbered(frames: int, voiced=()) -> np.ndarray:
    """Frame k holds k in columns 0 to 9; the others are 0, and 100 + k where it is voiced."""
    values = np.zeros((frames, DESCRIPTORS), np.float32)
    values[:, :10] = np.arange(frames)[:, None]
    values[list(voiced), 10:] = 100 + np.array(list(voiced))[:, None]
    return values


def test_statistics_leave_out_extremes_and_what_is_unvoiced():
    frames = numbered(201, voiced=(3, 4, 5, 6, 7))
    frames[200, :10] = 60_000  # beyond the 99th percentile
    targets = DescriptorTargets(described(frames, None))
    # Of 0 to 199 and the extreme, 2 to 198 lie between the percentiles (2.0 and 198.0): mean 100.
    np.testing.assert_allclose(targets.mean[:10], 100, rtol=1e-6)
    np.testing.assert_allclose(targets.std[:10], np.std(np.arange(2, 199)), rtol=1e-6)
    # Of 103 to 107, the percentiles are 103.04 and 106.96: 104, 105 and 106 are left.
    np.testing.assert_allclose(targets.mean[10:], 105, rtol=1e-6)
    np.testing.assert_allclose(targets.std[10:], np.sqrt(2 / 3), rtol=1e-4)


@pytest.fixture
def targets():
    made = DescriptorTargets(described(numbered(4, voiced=range(4))))
    made.mean, made.std = np.zeros(DESCRIPTORS, np.float32), np.full(DESCRIPTORS, 100, np.float32)
    return made


def chosen(made: np.ndarray) -> list[int]:
    """Which descriptor frames of `numbered` the encoder frames took."""
    return np.rint(made[:, 0] * 100).astype(int).tolist()


def test_each_encoder_frame_takes_the_nearest_descriptor_frame(targets):
    frames = numbered(50)
    # WavLM: centres 200, 520, 840 samples; descriptor frames are centred at 160, 320, 480, 640, 800 ...
    assert chosen(targets.targets(frames, 3)) == [0, 2, 4]
    # a span of 800: centres 400, 720, 1040, each between two, of which the earlier is taken
    assert chosen(targets.targets(frames, 3, receptive_field=800)) == [1, 3, 5]
    # a clip that starts 1600 samples into the recording, ten descriptor frames later
    assert chosen(targets.targets(frames, 3, offset_samples=1600)) == [10, 12, 14]


def test_the_last_descriptor_frame_is_repeated(targets):
    assert chosen(targets.targets(numbered(4), 4)) == [0, 2, 3, 3]


def test_targets_are_standardised_clipped_and_tell_voicing(targets):
    frames = numbered(5, voiced=[2])
    frames[4, :10] = 1000
    made = targets.targets(frames, 3)
    assert made.dtype == np.float32 and made.shape == (3, TARGETS)
    np.testing.assert_allclose(made[:, 0], [0, 0.02, 4])
    np.testing.assert_allclose(made[1, 10:DESCRIPTORS], 1.02)
    assert made[:, -1].tolist() == [0, 1, 0]


def test_a_clip_without_descriptors_has_targets_of_nan(targets):
    for nothing in (None, [], np.zeros((0, DESCRIPTORS))):
        made = targets.targets(nothing, 3)
        assert made.shape == (3, TARGETS) and np.isnan(made).all()


def test_statistics_are_those_of_a_repeatable_draw():
    clips = [numbered(20, voiced=range(20)) + shift for shift in range(0, 100, 10)]
    first, again = (DescriptorTargets(described(*clips), max_rows=2, seed=1) for _ in range(2))
    other = DescriptorTargets(described(*clips), max_rows=2, seed=2)
    np.testing.assert_array_equal(first.mean, again.mean)
    assert not np.array_equal(first.mean, other.mean)


def test_a_table_that_cannot_be_learned_from_is_refused():
    with pytest.raises(ValueError, match="no column `descriptors`.*sparse-merit prepare descriptors"):
        DescriptorTargets(Dataset.from_dict({"audio": ["a"]}))
    for useless in (described(None, None), described(numbered(3))):
        with pytest.raises(ValueError, match="voiced frame"):
            DescriptorTargets(useless)


# Loss ----------------------------------------------------------------------------------------------------------------


def test_the_loss_worked_out_by_hand():
    predicted, target = torch.zeros(2, 2, TARGETS), torch.zeros(2, 2, TARGETS)
    mask = torch.tensor([[1, 1], [1, 0]])
    target[0, 0, -1] = 1.0  # the only voiced frame
    target[0, :, 0] = torch.tensor([0.5, 2.0])  # smooth L1: 0.5 * 0.25 = 0.125 and 2 - 0.5 = 1.5
    target[0, :, 12] = torch.tensor([3.0, 3.0])  # 2.5, in the voiced frame alone
    target[1, 1] = 9.0  # padding
    target[1, 0, 12] = 9.0  # unvoiced
    expected = ((0.125 + 1.5 + 0) / 3 + 2.5 / 1) / DESCRIPTORS + 0.3 * np.log(2)
    assert descriptor_loss(predicted, target, mask).item() == pytest.approx(expected, rel=1e-6)


def test_clips_without_descriptors_and_padding_change_nothing():
    generator = torch.Generator().manual_seed(0)
    predicted, target = (torch.randn(1, 5, TARGETS, generator=generator) for _ in range(2))
    target[..., -1] = (target[..., -1] > 0).float()
    alone = descriptor_loss(predicted, target, torch.ones(1, 5))

    nothing = torch.full((1, 8, TARGETS), torch.nan)
    padded = torch.cat([torch.cat([target, nothing[:, :3]], 1), nothing])
    head = torch.cat(
        [torch.cat([predicted, torch.randn(1, 3, TARGETS)], 1), torch.randn(1, 8, TARGETS)]
    ).requires_grad_()
    mask = torch.tensor([[True] * 5 + [False] * 3, [True] * 8])
    loss = descriptor_loss(head, padded, mask)
    torch.testing.assert_close(loss, alone)
    loss.backward()
    assert head.grad.isfinite().all() and (head.grad[1] == 0).all() and (head.grad[0, 5:] == 0).all()


def test_without_any_target_the_loss_is_zero_and_has_a_gradient():
    predicted = torch.randn(1, 4, TARGETS, requires_grad=True)
    loss = descriptor_loss(predicted, torch.full((1, 4, TARGETS), torch.nan), torch.ones(1, 4))
    loss.backward()
    assert loss.item() == 0 and (predicted.grad == 0).all()


def test_a_head_learns_the_targets():
    torch.manual_seed(0)
    features, head = torch.randn(2, 30, 8), DescriptorHead(8)
    target = features @ torch.randn(8, TARGETS)
    target[..., -1] = (target[..., -1] > 0).float()
    optimiser = torch.optim.Adam(head.parameters(), lr=0.1)
    losses = []
    for _ in range(100):
        optimiser.zero_grad()
        losses.append(descriptor_loss(head(features), target, torch.ones(2, 30)))
        losses[-1].backward()
        optimiser.step()
    assert head(features).shape == (2, 30, TARGETS) and losses[-1] < 0.1 * losses[0]
