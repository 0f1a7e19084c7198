# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Speech activity: the detector by level on signals whose answer is known, and the one that runs Silero VAD."""

import sys
from pathlib import Path

import numpy as np
import pytest

from modeling_sparse_merit import DEFAULT_CHECKPOINT
from modeling_sparse_merit.inference.silero import BLOCK, CONTEXT, SileroVoiceActivity
from modeling_sparse_merit.models.sparse_merit.activity import FLOOR, FRAME, SMOOTHING, speech_frames
from modeling_sparse_merit.models.sparse_merit.audio import SAMPLING_RATE, load_audio

RECORDING = Path(DEFAULT_CHECKPOINT).parents[1] / "demo" / "noisy_speech.flac"
SPREAD = SMOOTHING // 2  # frames by which smoothing widens a sound


def tones(*spans: tuple[float, float], seconds: float = 4.0, dbfs: float = -20.0) -> np.ndarray:
    """A 400-Hz tone of an RMS in dBFS during each span in seconds, and digital silence elsewhere."""
    times = np.arange(round(seconds * SAMPLING_RATE)) / SAMPLING_RATE
    sounding = np.any([(start <= times) & (times < end) for start, end in spans], axis=0)
    return (10 ** (dbfs / 20) * np.sqrt(2) * np.sin(2 * np.pi * 400 * times) * sounding).astype(np.float32)


def white_noise(dbfs: float, seconds: float = 4.0) -> np.ndarray:
    samples = np.random.default_rng(0).standard_normal(round(seconds * SAMPLING_RATE))
    return (10 ** (dbfs / 20) * samples).astype(np.float32)


def spans(frames: np.ndarray) -> list[tuple[int, int]]:
    """Starts and ends of the runs of speech, in frames."""
    edges = np.flatnonzero(np.diff(frames.astype(int), prepend=0, append=0))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def test_a_tone_that_the_enhancement_keeps_is_speech():
    signal = tones((1, 2))
    assert spans(speech_frames(signal, signal)) == [(50 - SPREAD, 100 + SPREAD)]
    assert spans(speech_frames(signal)) == [(50 - SPREAD, 100 + SPREAD)]


def test_speech_in_noise_is_what_the_enhancement_keeps():
    speech, noise = tones((1, 2)), white_noise(-20)
    (found,) = spans(speech_frames(speech + noise, speech + 0.01 * noise))
    assert np.abs(np.subtract(found, (50, 100))).max() <= SPREAD


@pytest.mark.parametrize("loss, speaks", [(0, True), (5, True), (7, False), (30, False)])
def test_what_the_enhancement_removes_is_no_speech(loss, speaks):
    signal = tones((1, 2))
    assert speech_frames(signal, 10 ** (-loss / 20) * signal).any() == speaks


def test_a_weak_sound_counts_in_a_piece_with_speech_only():
    loud, weak = tones((1, 2)), tones((3, 3.5), dbfs=-30)
    assert len(spans(speech_frames(loud + weak, loud + 0.3 * weak))) == 2  # 10.5 dB are lost
    assert len(spans(speech_frames(loud + weak, loud + 0.1 * weak))) == 1  # 20 dB are lost
    assert not speech_frames(weak, 0.3 * weak).any()


@pytest.mark.parametrize("pause, parts", [(0.2, 1), (0.6, 2)])
def test_short_pauses_are_closed(pause, parts):
    signal = tones((1, 1.5), (1.5 + pause, 2.5))
    assert len(spans(speech_frames(signal, signal))) == parts


def test_a_click_is_no_speech():
    signal = tones((1, 1.01))
    assert not speech_frames(signal, signal).any()


def test_a_sound_far_below_the_loudest_is_no_speech():
    signal = tones((1, 2)) + tones((3, 3.5), dbfs=-65)
    assert len(spans(speech_frames(signal, signal))) == 1


@pytest.mark.parametrize("enhanced", [True, False])
@pytest.mark.parametrize("dbfs, speaks", [(0, True), (-50, True), (FLOOR + 3, True), (FLOOR - 3, False), (-90, False)])
def test_the_level_does_not_matter_above_the_floor(dbfs, speaks, enhanced):
    signal = tones((1, 2), dbfs=dbfs)
    assert speech_frames(signal, signal if enhanced else None).any() == speaks


def test_silence_dither_and_an_offset_are_no_speech():
    dither = np.round(np.random.default_rng(0).triangular(-1, 0, 1, 32_000)) / 32_768
    for signal in (np.zeros(32_000), dither, np.full(32_000, 0.5)):
        assert not speech_frames(signal, signal).any()
        assert not speech_frames(signal).any()


def test_steady_noise_is_no_speech_without_enhancement():
    assert not speech_frames(white_noise(-20)).any()
    speech = tones((1, 2), dbfs=-5)
    (found,) = spans(speech_frames(white_noise(-30) + speech))
    assert np.abs(np.subtract(found, (50, 100))).max() <= SPREAD


@pytest.mark.parametrize("samples", [0, 1, FRAME - 1, FRAME, FRAME + 1, 5 * FRAME + 7, 31_999])
def test_every_started_frame_has_an_answer(samples):
    signal = tones((0, 4))[:samples]
    for frames in (speech_frames(signal, signal), speech_frames(signal)):
        assert frames.dtype == bool and frames.shape == (-(-samples // FRAME),)


def test_signals_of_unlike_length_are_refused():
    with pytest.raises(ValueError, match="enhanced has 10 samples, expected 20"):
        speech_frames(np.zeros(20), np.zeros(10))


@pytest.fixture(scope="module")
def silero() -> SileroVoiceActivity:
    pytest.importorskip("silero_vad")
    pytest.importorskip("onnxruntime")
    return SileroVoiceActivity()


@pytest.fixture
def detector(silero):
    silero.reset()
    return silero


def test_silero_finds_speech_and_no_silence(detector):
    speech, silence = load_audio(RECORDING), np.zeros(2 * SAMPLING_RATE, np.float32)
    frames = detector.speech_frames(np.concatenate([silence, speech, silence]))
    assert not frames[:90].any() and not frames[-60:].any()
    assert frames[100:-100].mean() > 0.5


def test_silero_gives_the_same_however_a_recording_is_cut(detector):
    speech = load_audio(RECORDING)[: 3 * SAMPLING_RATE]
    whole = detector.speech_probabilities(speech)
    assert whole.dtype == np.float32 and whole.shape == (len(speech) // BLOCK,)
    detector.reset()
    pieces = np.split(speech, [1, 300, 1000, 20_001])
    np.testing.assert_allclose(np.concatenate([detector.speech_probabilities(p) for p in pieces]), whole, atol=1e-5)


def test_frames_of_silero_are_those_of_the_whole_but_at_ends_of_pieces(detector):
    speech = load_audio(RECORDING)[: 3 * SAMPLING_RATE]
    whole = detector.speech_frames(speech)
    detector.reset()
    borders = [50 * FRAME, 103 * FRAME]
    parts = [detector.speech_frames(piece) for piece in np.split(speech, borders)]
    assert [len(part) for part in parts] == [50, 53, 47]
    differing = np.flatnonzero(np.concatenate(parts) != whole)
    assert set(differing) <= {48, 49, 101, 102}


@pytest.mark.parametrize("samples", [0, 1, FRAME, BLOCK - 1, BLOCK, 1601])
def test_silero_answers_for_every_started_frame(detector, samples):
    frames = detector.speech_frames(np.zeros(samples, np.float32))
    assert frames.dtype == bool and frames.shape == (-(-samples // FRAME),)


class Scripted:
    """A model that answers with given probabilities, and keeps what it was given."""

    def __init__(self, *probabilities: float):
        self.probabilities, self.inputs = list(probabilities), []

    def run(self, _, inputs):
        self.inputs.append(inputs["input"])
        return np.array([[self.probabilities.pop(0)]], np.float32), inputs["state"] + 1


def test_speech_begins_at_one_threshold_and_ends_below_another(detector, monkeypatch):
    model = Scripted(0.4, 0.6, 0.4, 0.3, 0.4)
    monkeypatch.setattr(detector, "_session", model)
    signal = np.arange(5 * BLOCK, dtype=np.float32)
    # Centres of the frames are at 160, 480, 800, 1120, 1440, 1760, 2080, 2400: in blocks 0, 0, 1, 2, 2, 3, 4, 4.
    assert detector.speech_frames(signal).tolist() == [False, False, True, True, True, False, False, False]
    assert all(given.shape == (1, CONTEXT + BLOCK) for given in model.inputs)
    np.testing.assert_array_equal(model.inputs[0][0, :CONTEXT], 0)
    np.testing.assert_array_equal(model.inputs[1][0], signal[BLOCK - CONTEXT : 2 * BLOCK])


def test_samples_that_wait_have_the_last_answer(detector, monkeypatch):
    monkeypatch.setattr(detector, "_session", Scripted(0.9, 0.1))
    assert detector.speech_frames(np.zeros(FRAME)).tolist() == [False]
    assert detector.speech_frames(np.zeros(2 * FRAME)).tolist() == [True, True]  # block 0 is complete
    assert detector.speech_frames(np.zeros(10)).tolist() == [True]
    assert detector.speech_frames(np.zeros(FRAME)).tolist() == [False]  # block 1 is complete


@pytest.mark.parametrize("missing", ["silero_vad", "onnxruntime"])
def test_a_missing_package_is_named_with_its_extra(monkeypatch, missing):
    pytest.importorskip("silero_vad")
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r"pip install 'modeling-sparse-merit\[vad\]'"):
        SileroVoiceActivity()
