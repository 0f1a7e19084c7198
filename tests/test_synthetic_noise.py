# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Synthetic noises: repeatable, of the stated kinds, level and length, and usable like recorded ones."""

import io

import numpy as np
import pyarrow as pa
import pytest
import soundfile
from datasets import Dataset, DatasetInfo

from modeling_sparse_merit.cli import app
from modeling_sparse_merit.data import prepare, synthetic_noise
from modeling_sparse_merit.data.datasets import DatasetError, read_dataset, read_datasets, speech_features
from modeling_sparse_merit.data.mixing import MixingRecipe
from modeling_sparse_merit.data.synthetic_noise import coloured_noise, harmonic_noise, impact_noise, slow_envelope
from modeling_sparse_merit.models.sparse_merit.audio import load_audio

RATE = 16_000


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


@pytest.fixture
def speech(tmp_path, speech_clip):
    """A speech dataset: a train clip that speaks, a test clip that is one tone of 1 kHz."""
    tone = 0.3 * np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    rows = []
    for name, wave, split in (("a", speech_clip(seconds=0.7), "train"), ("b", tone, "test")):
        buffer = io.BytesIO()
        soundfile.write(buffer, wave, RATE, format="WAV")
        rows.append({"audio": {"bytes": buffer.getvalue(), "path": f"{name}.wav"}, "split": split, "duration": 1.0})
    info = DatasetInfo(license="CC BY 4.0", citation="Nobody (2026).", features=speech_features())
    arrow = pa.Table.from_pylist(rows, schema=speech_features().arrow_schema)
    prepare.write_dataset(Dataset(arrow, info=info), tmp_path / "one", embed=True)
    return tmp_path / "one"


def kinds(noises: Dataset) -> set[str]:
    return {category.split(",")[0] for category in noises["category"]}


def test_the_command_writes_what_the_seed_says(speech, tmp_path, capsys):
    options = ["--clips", "12", "--seconds", "0.5", "--seed", "3", "--babble", str(speech)]
    app(["prepare", "synthetic_noise", str(tmp_path / "noise"), *options], standalone_mode=False)
    again = synthetic_noise.build(12, 0.5, 3, [speech])
    noises = read_dataset(tmp_path / "noise", "train")

    assert list(noises) == list(again) and "train             12 clips" in capsys.readouterr().out
    assert list(synthetic_noise.build(5, 0.5, 3, [speech])) == list(again)[:5]
    assert list(synthetic_noise.build(12, 0.5, 4, [speech])) != list(again)
    assert noises.info.license == "CC BY 4.0" and noises.info.citation == "Nobody (2026)."
    assert len(read_datasets([tmp_path / "noise", tmp_path / "noise"], "train")) == 24


def test_every_kind_is_there_at_one_level_and_length(speech):
    noises = synthetic_noise.build(60, 0.5, 0, [speech])
    assert kinds(noises) == {"coloured", "harmonic", "impacts", "babble"}
    assert 0.2 < np.mean(["modulated" in category for category in noises["category"]]) < 0.5
    for row in noises:
        wave = load_audio(row["audio"])
        level = 10 * np.log10(np.mean(wave**2))
        assert len(wave) == 8000 and row["duration"] == 0.5
        assert level == pytest.approx(-25, abs=0.1) or (level < -25 and np.abs(wave).max() > 0.99)


def test_without_speech_there_is_no_babble_and_the_noises_are_free():
    noises = synthetic_noise.build(30, 0.25)
    assert kinds(noises) == {"coloured", "harmonic", "impacts"} and noises.info.license == "CC0 1.0"


def test_babble_is_made_of_train_clips_alone(speech):
    noises = synthetic_noise.build(60, 0.5, 0, [speech])
    for row in noises:
        if row["category"] == "babble":
            power = np.abs(np.fft.rfft(load_audio(row["audio"]))) ** 2
            assert power[500] < 0.2 * power.sum()  # 1000 Hz in steps of 2 Hz


def test_the_noises_mix(speech, speech_clip):
    recipe = MixingRecipe(synthetic_noise.build(8, 0.5, 0, [speech]), snr_db=0.0, noise_speed=(0.75, 1.3))
    for index in range(16):
        mixture = recipe.apply(speech_clip(), recipe.draw(index))
        ratio = np.sum((mixture.noisy - mixture.noise) ** 2) / np.sum(mixture.noise**2)
        assert 10 * np.log10(ratio) == pytest.approx(0, abs=0.01)


def test_a_tone_has_lines_and_impacts_have_peaks():
    crests, flatness = {}, {}
    for maker in (coloured_noise, harmonic_noise, impact_noise):
        waves = [maker(np.random.default_rng(seed), RATE) for seed in range(20)]
        crests[maker] = np.median([np.abs(wave).max() / wave.std() for wave in waves])
        powers = [np.abs(np.fft.rfft(wave)) ** 2 for wave in waves]
        flatness[maker] = np.median([np.sort(power)[-100:].sum() / power.sum() for power in powers])
    assert crests[impact_noise] > 1.5 * crests[coloured_noise]
    assert flatness[harmonic_noise] > flatness[coloured_noise]


def test_the_envelope_is_slow_and_never_silent():
    for seed in range(20):
        envelope = slow_envelope(np.random.default_rng(seed), 6 * RATE)
        assert 0.03 <= envelope.min() and envelope.max() <= 1.03
        assert np.abs(np.diff(envelope)).max() < 1 / (6 * RATE / 39)


@pytest.mark.parametrize("arguments", [(0, 1.0, 0), (1, 0.0, 0), (1, float("nan"), 0), (1, 1.0, -1)])
def test_impossible_numbers_are_refused(arguments):
    with pytest.raises(DatasetError, match="`clips` must be 1 or more"):
        synthetic_noise.build(*arguments)
