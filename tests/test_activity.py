# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Speech activity: the detector by level on signals with known speech, and Silero VAD against its own model."""

import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY

from modeling_sparse_merit import SpeechEnhancementAndEmotionPipeline
from modeling_sparse_merit.inference import silero
from modeling_sparse_merit.inference.silero import BLOCK, CONTEXT, OFFSET, ONSET, SileroDetector
from modeling_sparse_merit.models.sparse_merit.activity import FLOOR, FRAME, RANGE, SMOOTHING, LevelDetector
from modeling_sparse_merit.models.sparse_merit.audio import SAMPLING_RATE, load_audio
from modeling_sparse_merit.models.sparse_merit.cutting import Window, WindowCutter
from modeling_sparse_merit.models.sparse_merit.streaming import LATENCY_CHUNK_S, LATENCY_STRIDE_S, detect_by_level

RECORDING = Path(TINY).parents[1] / "demo" / "noisy_speech.flac"
SPREAD = SMOOTHING // 2  # frames by which smoothing widens a sound
LATENCY = (LATENCY_CHUNK_S, LATENCY_STRIDE_S)


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


def speech_frames(noisy: np.ndarray, enhanced: np.ndarray | None = None) -> np.ndarray:
    """Those of a recording of one piece."""
    return LevelDetector().speech_frames(noisy, enhanced)


def removed(decibels: float, signal: np.ndarray) -> np.ndarray:
    """What an enhancement leaves that removes as much everywhere."""
    return 10 ** (-decibels / 20) * signal


def windows_of(recording: np.ndarray, *window: float | tuple[float, float]) -> list[Window]:
    cutter = WindowCutter(*window)
    return cutter.add(recording) + cutter.finish()


def pieces_at(recording: np.ndarray, cuts: list[int], context: int) -> list[Window]:
    """Windows with borders at some frames, and as many frames of context on either side."""
    windows = []
    for start, end in pairwise([0, *(FRAME * cut for cut in cuts), len(recording)]):
        left = min(start, FRAME * context)
        waveform = recording[start - left : end + FRAME * context]
        windows.append(Window(start, end, waveform, left, False, end == len(recording)))
    return windows


def test_a_tone_that_the_enhancement_keeps_is_speech():
    signal = tones((1, 2))
    assert spans(speech_frames(signal, signal)) == [(50 - SPREAD, 100 + SPREAD)]
    assert spans(speech_frames(signal)) == [(50 - SPREAD, 100 + SPREAD)]


def test_speech_in_noise_is_what_the_enhancement_keeps():
    speech, noise = tones((1, 2)), white_noise(-20)
    (actual,) = spans(speech_frames(speech + noise, speech + 0.01 * noise))
    assert np.abs(np.subtract(actual, (50, 100))).max() <= SPREAD


@pytest.mark.parametrize("decibels", [-10, 6, 10, 20])
def test_how_much_a_model_removes_everywhere_does_not_matter(decibels):
    detector, signal = LevelDetector(), tones((1, 2), dbfs=-10)
    for _ in range(2):
        actual = detector.speech_frames(signal, removed(decibels, signal))
        assert spans(actual) == [(50 - SPREAD, 100 + SPREAD)]


@pytest.mark.parametrize("general", [0, 10])
@pytest.mark.parametrize("decibels, speaks", [(0, True), (5, True), (7, False), (30, False)])
def test_what_loses_more_than_the_clearest_speech_so_far_is_no_speech(general, decibels, speaks):
    detector, signal = LevelDetector(), tones((1, 2))
    assert detector.speech_frames(signal, removed(general, signal)).any()
    assert detector.speech_frames(signal, removed(general + decibels, signal)).any() == speaks


def test_clearer_speech_counts_from_its_start():
    detector, signal = LevelDetector(), tones((1, 2))
    actual = [detector.speech_frames(signal, removed(loss, signal)).any() for loss in (20, 0, 20)]
    assert actual == [True, True, False]


def test_silence_and_clicks_say_nothing_about_the_enhancement():
    detector, signal, click = LevelDetector(), tones((1, 2)), tones((1, 1.01))
    for piece in (np.zeros(FRAME), click):
        assert not detector.speech_frames(piece, piece).any()
    assert detector.speech_frames(signal, removed(20, signal)).any()


def test_each_recording_has_a_detector_of_its_own():
    signal = tones((1, 2))
    assert speech_frames(signal, signal).any() and speech_frames(signal, removed(20, signal)).any()


def test_a_weak_sound_counts_in_a_piece_with_speech_only():
    detector, loud, weak = LevelDetector(), tones((1, 2)), tones((3, 3.5), dbfs=-30)
    assert len(spans(detector.speech_frames(loud + weak, loud + removed(10, weak)))) == 2
    assert len(spans(detector.speech_frames(loud + weak, loud + removed(20, weak)))) == 1
    assert not detector.speech_frames(weak, removed(10, weak)).any()


@pytest.mark.parametrize("pause, parts", [(0.2, 1), (0.38, 1), (0.4, 2), (0.6, 2)])
def test_pauses_shorter_than_12_frames_are_closed(pause, parts):
    """Smoothing makes a pause 8 frames shorter."""
    signal = tones((1, 1.5), (1.5 + pause, 2.5))
    assert len(spans(speech_frames(signal, signal))) == parts


def test_a_click_is_no_speech():
    signal = tones((1, 1.01))
    assert not speech_frames(signal, signal).any()


@pytest.mark.parametrize("frames, actual", [(8, 0), (9, 0), (11, 5), (13, 7)])
def test_bursts_shorter_than_5_frames_are_dropped(frames, actual):
    """Smoothed over 9 frames, the weak tone is loud enough where 8 or 9 of them sound."""
    signal = tones((0, 1)) + tones((2, 2 + frames / 50), dbfs=-20 - RANGE + 0.8)
    assert speech_frames(signal, signal)[80:].sum() == actual


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


def test_without_enhancement_every_sound_is_speech():
    noise = white_noise(-20)
    assert speech_frames(noise).all()
    detector = LevelDetector()
    assert detector.speech_frames(tones((1, 2))).any() and detector.speech_frames(noise).all()


@pytest.mark.parametrize("samples", [0, 1, FRAME - 1, FRAME, FRAME + 1, 5 * FRAME + 7, 31_999])
def test_every_started_frame_has_a_decision(samples):
    signal = tones((0, 4))[:samples]
    for frames in (speech_frames(signal, signal), speech_frames(signal)):
        assert frames.dtype == bool and frames.shape == (-(-samples // FRAME),)


def test_signals_of_unlike_length_are_refused():
    with pytest.raises(ValueError, match="enhanced has 10 samples, expected 20"):
        speech_frames(np.zeros(20), np.zeros(10))


def test_fixed_windows_are_seen_with_their_context():
    signal, detector = tones((1.1, 2)), detect_by_level()
    windows = windows_of(signal, *LATENCY)
    assert all(window.is_fixed for window in windows)
    actual = np.concatenate([detector(window, window.waveform) for window in windows])
    assert spans(actual) == [(55 - SPREAD, 100 + SPREAD)]


def test_other_windows_are_seen_without_their_context():
    (window,) = pieces_at(tones((1, 2)), [], 0)
    before = Window(0, 50 * FRAME, window.waveform[: 70 * FRAME], 0, False, False)
    assert not detect_by_level()(before, before.waveform).any()
    assert detect_by_level()(window, None).sum() == 50 + 2 * SPREAD


@pytest.fixture(scope="module")
def onnxruntime():
    pytest.importorskip("silero_vad", reason="silero-vad is not installed: extra `vad`")
    return pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: extra `vad`")


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    """Silence, the demo, silence, and the demo at a low level; no whole number of frames or blocks."""
    demo, silence = load_audio(RECORDING), np.zeros(SAMPLING_RATE, np.float32)
    return np.concatenate([silence, demo, silence, 0.01 * demo, silence[:333]])


@pytest.fixture(scope="module")
def reference(onnxruntime, speech) -> np.ndarray:
    """Frames of speech by the model that takes block after block."""
    path = Path(find_spec("silero_vad").submodule_search_locations[0], "data", "silero_vad.onnx")
    model = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    padded, state, blocks = np.pad(speech, (CONTEXT, 0)), np.zeros((2, 1, 128), np.float32), [False]
    for start in range(0, len(speech) - BLOCK + 1, BLOCK):
        block = padded[None, start : start + CONTEXT + BLOCK]
        output, state = model.run(None, {"input": block, "state": state, "sr": np.array(SAMPLING_RATE)})
        blocks.append(output[0, 0] >= (OFFSET if blocks[-1] else ONSET))
    centres = np.arange(FRAME // 2, len(speech) + FRAME // 2, FRAME)
    return np.array(blocks[1:])[np.minimum(centres // BLOCK, len(blocks) - 2)]


def silero_frames(windows: list[Window]) -> np.ndarray:
    detector = SileroDetector()
    return np.concatenate([detector(window, None) for window in windows])


@pytest.mark.parametrize("window", [(), LATENCY, (0.3, 0.04), (30.0, 1.0), (1.0, (0.0, 0.04))])
def test_silero_equals_its_model_block_by_block(reference, speech, window):
    assert 0.2 < reference.mean() < 0.9
    np.testing.assert_array_equal(silero_frames(windows_of(speech, *window)), reference)


@pytest.mark.parametrize("longest", [1, 3, 40, 500])
def test_silero_does_not_depend_on_how_a_recording_is_cut(reference, speech, longest):
    steps = np.random.default_rng(longest).integers(1, longest + 1, len(speech))
    cuts = [int(cut) for cut in np.cumsum(steps) if cut < len(speech) // FRAME]
    np.testing.assert_array_equal(silero_frames(pieces_at(speech, cuts, 2)), reference)


def test_silero_without_context_decides_late_at_ends_of_pieces(reference, speech):
    cuts = [*range(37, 400, 37)]
    differing = np.flatnonzero(silero_frames(pieces_at(speech, cuts, 0)) != reference)
    assert set(differing) <= {cut - before for cut in cuts for before in (1, 2)}


@pytest.mark.parametrize("samples", [1, FRAME, BLOCK - 1, BLOCK, 1601])
def test_silero_decides_for_every_started_frame(onnxruntime, samples):
    frames = silero_frames(pieces_at(np.zeros(samples, np.float32), [], 2))
    assert frames.dtype == bool and frames.shape == (-(-samples // FRAME),) and not frames.any()


def test_silence_and_noise_are_no_speech_for_silero(onnxruntime):
    for signal in (np.zeros(64_000, np.float32), white_noise(-20), white_noise(-50), tones((0, 4))):
        assert not silero_frames(windows_of(signal)).any()


def test_recordings_in_threads_share_the_model_alone(reference, speech):
    assert SileroDetector()._model is SileroDetector()._model
    recordings = [speech, speech[::-1].copy(), white_noise(-20), speech]
    alone = [silero_frames(windows_of(recording, *LATENCY)) for recording in recordings]
    with ThreadPoolExecutor(4) as threads:
        together = list(threads.map(lambda recording: silero_frames(windows_of(recording, *LATENCY)), recordings))
    for frames, expected in zip(together, alone, strict=True):
        np.testing.assert_array_equal(frames, expected)
    np.testing.assert_array_equal(together[3], reference)


class Scripted:
    """A model that returns given probabilities, and stores its inputs."""

    def __init__(self, *probabilities: float):
        self.probabilities, self.calls = np.array(probabilities, np.float32), []

    def run(self, _, inputs):
        self.calls.append(inputs)
        actual, self.probabilities = np.split(self.probabilities, [len(inputs["input"])])
        return actual, inputs["h"] + 1, inputs["c"] + 2


def test_speech_begins_at_one_threshold_and_ends_below_another(monkeypatch):
    model = Scripted(0.4, 0.6, 0.4, 0.3, 0.4)
    monkeypatch.setattr(silero, "_session", lambda: model)
    signal = np.arange(5 * BLOCK, dtype=np.float32)
    # Centres of the frames are at 160, 480, 800, 1120, 1440, 1760, 2080, 2400: in blocks 0, 0, 1, 2, 2, 3, 4, 4.
    actual = silero_frames(pieces_at(signal, [4], 0))
    # The first piece has 1280 samples, two whole blocks: its last frame is what block 1 is.
    assert actual.tolist() == [False, False, True, True, True, False, False, False]
    first, second = model.calls
    assert first["input"].shape == (2, CONTEXT + BLOCK) and second["input"].shape == (3, CONTEXT + BLOCK)
    np.testing.assert_array_equal(first["input"][0, :CONTEXT], 0)
    np.testing.assert_array_equal(first["input"][1], signal[BLOCK - CONTEXT : 2 * BLOCK])
    np.testing.assert_array_equal(second["input"][0], signal[2 * BLOCK - CONTEXT : 3 * BLOCK])
    assert (second["h"] == 1).all() and (second["c"] == 2).all()


@pytest.fixture(scope="module")
def pipe(onnxruntime) -> SpeechEnhancementAndEmotionPipeline:
    return SpeechEnhancementAndEmotionPipeline.from_pretrained(TINY)


def test_the_pipeline_takes_silero_as_its_detector(pipe, speech):
    options = {"sampling_rate": SAMPLING_RATE, "detector": SileroDetector, "return_segments": True}
    results = pipe([speech, white_noise(-20)], **options)
    assert [bool(result["segments"]) for result in results] == [True, False]
    assert pipe(white_noise(-20), sampling_rate=SAMPLING_RATE, return_segments=True)["segments"]


def test_a_stream_takes_silero_as_its_detector(pipe, speech):
    stream = pipe.stream(detector=SileroDetector)
    for recording, speaks in ((speech, True), (white_noise(-20), False)):
        outputs = [stream.process(block) for block in np.array_split(recording, 50)] + [stream.finish()]
        assert any(output.segments for output in outputs) == speaks


@pytest.fixture
def no_model():
    silero._session.cache_clear()
    yield
    silero._session.cache_clear()


@pytest.mark.parametrize("missing", ["silero_vad", "onnxruntime"])
def test_a_missing_package_is_named_with_its_extra(no_model, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=r"pip install 'modeling-sparse-merit\[vad\]'"):
        SileroDetector()


def test_an_old_package_is_refused(no_model, onnxruntime, monkeypatch):
    monkeypatch.setattr(silero, "MODEL", "data/missing.onnx")
    with pytest.raises(ImportError, match="silero-vad>=6.2.3"):
        SileroDetector()
