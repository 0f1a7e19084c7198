# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Pitch and share of active speech as targets: made tones whose values are known."""

import numpy as np
import pytest
import soundfile
from datasets import DatasetInfo

from modeling_sparse_merit.cli import app
from modeling_sparse_merit.data import prepare
from modeling_sparse_merit.data.corpora import corpus as corpus_named
from modeling_sparse_merit.data.datasets import read_dataset
from modeling_sparse_merit.data.prosody import COLUMNS, measure

pytest.importorskip("parselmouth", reason="praat-parselmouth is not installed: extra `pretraining`")
RATE = 16_000


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def voice(hertz: float, seconds: float) -> np.ndarray:
    """A tone with ten harmonics."""
    time = np.arange(round(seconds * RATE)) / RATE
    return 0.1 * sum(np.sin(2 * np.pi * hertz * number * time) / number for number in range(1, 11)).astype(np.float32)


def silence(seconds: float) -> np.ndarray:
    return np.zeros(round(seconds * RATE), np.float32)


def test_a_steady_tone_has_its_pitch_and_no_range():
    assert measure(voice(220, 1.0)) == pytest.approx((2.0, 0.0, 1.0), abs=0.01)


def test_two_tones_an_octave_apart_have_their_geometric_mean_and_a_range_of_one():
    waveform = np.concatenate([voice(110, 1.0), voice(220, 1.0)])
    assert measure(waveform) == pytest.approx((1.5, 1.0, 1.0), abs=0.02)


def test_a_tone_for_a_tenth_of_the_time_does_not_change_the_range():
    waveform = np.concatenate([voice(220, 0.9), voice(110, 0.1)])
    log_pitch, pitch_range, _ = measure(waveform)
    assert log_pitch == pytest.approx(1.9, abs=0.02) and pitch_range < 0.02


def test_pauses_lessen_the_share_of_active_speech_and_leave_the_pitch():
    waveform = np.concatenate([silence(0.3), voice(110, 0.5), 0.03 * voice(110, 0.2)])  # 30.5 dB quieter
    log_pitch, _, active_share = measure(waveform)
    assert active_share == pytest.approx(0.5, abs=0.02) and log_pitch == pytest.approx(1.0, abs=0.02)


def test_the_level_changes_nothing():
    waveform = np.concatenate([voice(150, 0.4), silence(0.2), voice(200, 0.4)])
    assert measure(waveform / 16) == pytest.approx(measure(waveform), abs=1e-3)


def test_without_a_voice_there_is_no_pitch():
    assert measure(silence(0.5)) == (None, None, 0.0)
    assert measure(voice(220, 0.01)) == (None, None, 1.0)
    assert measure(np.concatenate([voice(220, 0.06), silence(0.94)]))[:2] == (None, None)


def test_the_command_adds_columns_to_every_split_and_keeps_all_others(tmp_path):
    for name, hertz in (("a", 110), ("b", 220), ("c", None)):
        soundfile.write(tmp_path / f"{name}.wav", silence(0.5) if hertz is None else voice(hertz, 0.5), RATE)
    lines = ["file_name,emotion,split", "a.wav,sad,train", "b.wav,happy,train", "c.wav,,test"]
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    info = DatasetInfo(license="CC0 1.0", description="Three clips.")
    prepare.write_dataset(corpus_named("folder").build(tmp_path, info=info), tmp_path / "speech", embed=True)

    for processes in ("1", "2"):
        arguments = ["prepare", "prosody", str(tmp_path / "speech"), str(tmp_path / f"out_{processes}")]
        app([*arguments, "--processes", processes], standalone_mode=False)

    first, second = (list(read_dataset(tmp_path / f"out_{processes}")) for processes in ("1", "2"))
    rows = {row["source_file"]: row for row in first}
    assert first == second and len(rows) == 3
    assert [rows["a.wav"][name] for name in COLUMNS] == pytest.approx([1, 0, 1], abs=0.01)
    assert rows["b.wav"]["log_pitch"] == pytest.approx(2, abs=0.01)
    assert [rows["c.wav"][name] for name in COLUMNS] == [None, None, 0]
    before = {row["source_file"]: row for row in read_dataset(tmp_path / "speech")}
    assert {file: {name: row[name] for name in before[file]} for file, row in rows.items()} == before
    written = read_dataset(tmp_path / "out_1").info
    assert written.license == "CC0 1.0" and written.description.startswith("Three clips. With pitch")


def test_a_noisy_test_set_is_measured_on_its_clean_speech(tmp_path):
    soundfile.write(tmp_path / "a.wav", voice(220, 1.0), RATE)
    soundfile.write(tmp_path / "noise.wav", np.random.default_rng(0).normal(0, 0.1, RATE), RATE)
    (tmp_path / "metadata.csv").write_text("file_name,split\na.wav,test")
    prepare.write_dataset(corpus_named("folder").build(tmp_path), tmp_path / "speech")
    (tmp_path / "metadata.csv").write_text("file_name,split\nnoise.wav,test")
    prepare.write_dataset(corpus_named("noise").build(tmp_path), tmp_path / "noise")

    names = [str(tmp_path / name) for name in ("speech", "noise", "noisy", "out")]
    app(["prepare", "noisy", *names[:3], "--snr-db", "-5"], standalone_mode=False)
    app(["prepare", "prosody", *names[2:], "--processes", "1"], standalone_mode=False)

    assert read_dataset(names[3])["log_pitch"] == pytest.approx([2, 2], abs=0.01)
