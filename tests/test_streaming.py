# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Windows are joined without a trace; a stream in blocks of any length is what the pipeline gives of the whole."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import TINY

from modeling_sparse_merit import (
    EmotionPipeline,
    SparseMeritConfig,
    SparseMeritFeatureExtractor,
    SparseMeritForSpeechEnhancementAndEmotion,
    SpeechEnhancementAndEmotionPipeline,
)
from modeling_sparse_merit.models.sparse_merit.cutting import Window, WindowCutter
from modeling_sparse_merit.models.sparse_merit.streaming import Assembler, WindowModel, WindowOutput

IDENTITY = SimpleNamespace(clip_tasks=[])
WIDE = {"chunk_length_s": 3.0, "stride_length_s": 0.04}
SETTINGS = [(2.0, (1.6, 0.08)), (1.0, (0.5, 0.0)), (0.5, 0.03), (3.0, 0.04), (6.0, (0.5, 1.0))]


@pytest.fixture(scope="module")
def pipe():
    return SpeechEnhancementAndEmotionPipeline.from_pretrained(TINY, device="cpu")


@pytest.fixture
def conversation(speech_clip):
    """Speech of 8.6 s with pauses, another level, and noise."""
    parts = [speech_clip(2.5, seed=1), np.zeros(9_600), speech_clip(3.0, seed=2) / 8, np.zeros(16_000)]
    samples = np.concatenate([*parts, speech_clip(1.5, seed=3)])
    return (samples + 0.001 * np.random.default_rng(0).standard_normal(len(samples))).astype(np.float32)


def random_blocks(recording, longest=4_000, seed=0):
    ends = np.cumsum(np.random.default_rng(seed).integers(0, longest, 2 * len(recording) // longest + 1))
    return np.split(recording, ends[ends < len(recording)])


def run(stream, blocks):
    """All audio (samples,) and all segments of a stream."""
    outputs = [*(stream.process(block) for block in blocks), stream.finish()]
    return np.concatenate([output.audio for output in outputs]), [s for output in outputs for s in output.segments]


def assert_same_segments(actual, expected):
    assert len(actual) == len(expected)
    for one, other in zip(actual, expected, strict=True):
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-5)
        assert {**one, "scores": None} == {**other, "scores": None}


@pytest.mark.parametrize("arguments", [*SETTINGS, (10.0, 0.04), (2.4, 0.0), (0.1, 0.0)])
@pytest.mark.parametrize("samples", [400, 16_001, 137_600])
def test_what_a_window_keeps_is_kept_whatever_the_windows(conversation, arguments, samples):
    recording, parts = conversation[:samples], []
    cutter, assembler = WindowCutter(*arguments), Assembler(IDENTITY)
    for window in [*cutter.add(recording), *cutter.finish()]:
        parts.append(assembler.add(window, WindowOutput({"enhancement": window.waveform}, {}))[0]["enhancement"])
    np.testing.assert_allclose(np.concatenate(parts), recording, atol=1e-6)


def joined(first, second, context, sizes=(3_200, 3_200)):
    """Two pieces with this context between them, whose windows are made of one number each."""
    end = sum(sizes)
    windows = [
        Window(0, sizes[0], np.zeros(sizes[0] + context, np.float32), 0, False, False),
        Window(sizes[0], end, np.zeros(context + sizes[1], np.float32), context, False, True),
    ]
    assembler, parts = Assembler(IDENTITY), []
    for window, value in zip(windows, (first, second), strict=True):
        output = WindowOutput({"enhancement": np.full(len(window.waveform), value, np.float32)}, {})
        parts.append(assembler.add(window, output)[0]["enhancement"])
    return np.concatenate(parts)


@pytest.mark.parametrize("context, half", [(640, 640), (1_280, 640), (320, 320), (0, 0)])
def test_neighbours_are_cross_faded_with_sines_squared(context, half):
    places = (np.arange(2 * half) + 0.5) / max(2 * half, 1)
    weights = np.concatenate([np.zeros(3_200 - half), np.sin(np.pi / 2 * places) ** 2, np.ones(3_200 - half)])
    np.testing.assert_allclose(joined(2.0, -1.0, context), 2.0 - 3.0 * weights, atol=1e-6)


def test_a_short_last_piece_is_faded_in_as_far_as_it_goes():
    result = joined(0.0, 1.0, 640, sizes=(3_200, 101))
    weights = np.sin(np.pi / 2 * (np.arange(100) + 0.5) / 100) ** 2
    np.testing.assert_allclose(result[3_150:3_250], weights, atol=1e-6)
    assert result[:3_150].max() == 0 and result[3_250:].min() == 1 and len(result) == 3_301
    assert joined(0.0, 1.0, 640, sizes=(3_200, 1)).tolist() == [0.0] * 3_200 + [1.0]


@pytest.mark.parametrize("arguments", SETTINGS)
def test_a_stream_is_what_the_pipeline_gives_of_the_whole(pipe, conversation, arguments):
    chunk, stride = arguments
    whole = pipe(
        conversation, sampling_rate=16_000, chunk_length_s=chunk, stride_length_s=stride, return_segments=True
    )
    stream = pipe.stream(chunk_length_s=chunk, stride_length_s=stride)
    assert len(whole["segments"]) >= 2
    audio, segments = run(stream, random_blocks(conversation))
    np.testing.assert_allclose(audio, whole["audio"], atol=1e-5)
    assert_same_segments(segments, whole["segments"])


@pytest.mark.parametrize("samples", [0, 1, 399, 400, 641, 5_120, 6_400])
def test_a_stream_of_any_length_gives_as_many_samples(pipe, conversation, samples):
    audio, _ = run(pipe.stream(), [conversation[:samples]])
    assert len(audio) == samples
    if samples >= 400:
        options = {"sampling_rate": 16_000, "chunk_length_s": 2.0, "stride_length_s": (1.6, 0.08)}
        np.testing.assert_allclose(audio, pipe(conversation[:samples], **options)["audio"], atol=1e-5)


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_streams_of_other_rates_keep_length_place_and_level(pipe, speech_clip, rate):
    speech = speech_clip(3.0, sampling_rate=rate)
    audio, segments = run(pipe.stream(sampling_rate=rate), random_blocks(speech))
    whole = pipe(speech, sampling_rate=rate, chunk_length_s=2.0, stride_length_s=(1.6, 0.08), return_segments=True)
    assert len(audio) == len(speech) and audio.dtype == np.float32
    assert np.corrcoef(audio, speech)[0, 1] > 0.99
    assert np.square(audio).mean() == pytest.approx(np.square(whole["audio"]).mean(), rel=0.05)
    assert [segment["emotion"] for segment in segments] == [segment["emotion"] for segment in whole["segments"]]
    assert segments[-1]["end"] <= 3.0


@pytest.mark.parametrize("arguments", [(2.0, (1.6, 0.08)), (0.5, 0.03), (3.0, 0.04), (0.2, 0.0), (5.0, (1.0, 2.0))])
def test_no_sample_is_later_than_the_latency(pipe, conversation, arguments):
    stream, returned, lags = pipe.stream(16_000, *arguments), 0, []
    for start in range(0, 96_000, 160):
        returned += len(stream.process(conversation[start : start + 160]).audio)
        lags.append((start + 160 - returned) / 16)
    assert max(lags) <= stream.latency_ms


def test_the_latency_is_the_piece_the_context_after_it_and_half_a_fade(pipe):
    assert pipe.stream().latency_ms == pytest.approx(320 + 80 + 40)
    assert pipe.stream(chunk_length_s=0.5, stride_length_s=(0.2, 0.02)).latency_ms == pytest.approx(280 + 20 + 20)


def test_reset_and_finish_leave_a_new_stream(pipe, conversation):
    clip, stream = conversation[:20_000], pipe.stream(sampling_rate=8_000)
    first = run(stream, [clip])
    second = run(stream, [clip])
    stream.process(clip[::-1].copy())
    stream.reset()
    for audio, segments in (second, run(stream, [clip])):
        np.testing.assert_array_equal(audio, first[0])
        assert segments == first[1]


def test_the_emotion_is_followed_while_somebody_speaks(pipe, conversation):
    stream = pipe.stream()
    assert stream.process(conversation[:160]).emotion == []
    during = [stream.process(conversation[start : start + 8_000]) for start in range(160, 32_000, 8_000)]
    assert during[-1].segments == [] and during[-1].emotion[0]["score"] > 0.25
    assert sum(entry["score"] for entry in during[-1].emotion) == pytest.approx(1, abs=1e-5)
    later = [stream.process(conversation[start : start + 8_000]) for start in range(32_160, 64_000, 8_000)]
    (segment,) = [segment for output in later for segment in output.segments]
    rest = stream.process(np.zeros(0, np.float32))
    assert {entry["label"] for entry in rest.emotion} == set(segment["scores"])
    last = stream.finish()
    assert last.emotion[0]["label"] == last.segments[-1]["emotion"]


def test_blocks_may_be_integers_and_are_refused_where_they_are_no_sound(pipe, speech_clip):
    clip, stream = speech_clip(1.0), pipe.stream()
    integers = np.round(clip * 32768).astype(np.int16)
    expected, _ = run(stream, [integers / np.float32(32768)])
    damaged = clip.copy()
    damaged[3] = np.nan
    stream.process(integers[:8_000])
    for block in (damaged, np.stack([clip, clip])):
        with pytest.raises(ValueError, match="expected finite samples of one channel"):
            stream.process(block)
    rest = stream.process(integers[8_000:]).audio, stream.finish().audio
    np.testing.assert_array_equal(np.concatenate(rest), expected[-sum(map(len, rest)) :])
    with pytest.raises(ValueError, match="The stream"):
        pipe.stream(sampling_rate=0)


def test_silence_has_no_segments_and_no_emotion(pipe):
    stream = pipe.stream()
    output = stream.process(np.zeros(48_000, np.float32))
    assert (output.segments, output.emotion) == ([], [])
    last = stream.finish()
    assert (last.segments, last.emotion) == ([], []) and np.abs(last.audio).max() < 1e-4


def test_tasks_of_a_stream_are_those_asked_for(pipe, conversation):
    whole = run(pipe.stream(**WIDE), [conversation])
    audio, segments = run(pipe.stream(**WIDE, tasks="emotion"), [conversation])
    assert len(audio) == 0
    assert_same_segments(segments, whole[1])
    audio, segments = run(pipe.stream(**WIDE, tasks=("enhancement",)), [conversation])
    np.testing.assert_allclose(audio, whole[0], atol=1e-5)
    assert segments == []
    emotion_pipe = EmotionPipeline(model=pipe.model, feature_extractor=pipe.feature_extractor)
    audio, segments = run(emotion_pipe.stream(**WIDE), [conversation])
    assert len(audio) == 0
    assert_same_segments(segments, whole[1])


def test_a_stream_keeps_the_settings_of_its_pipeline(pipe, conversation):
    def nothing():
        return lambda window, enhanced: np.zeros(-(-(window.end - window.start) // 320), bool)

    parts = {"model": pipe.model, "feature_extractor": pipe.feature_extractor}
    deaf = SpeechEnhancementAndEmotionPipeline(**parts, detector=nothing)
    assert run(deaf.stream(**WIDE), [conversation])[1] == []
    strict = SpeechEnhancementAndEmotionPipeline(**parts, min_score=1.0)
    assert {segment["reason"] for segment in run(strict.stream(**WIDE), [conversation])[1]} == {"unsure"}
    assert all(segment["emotion"] for segment in run(strict.stream(**WIDE, min_score=0.0), [conversation])[1])
    with pytest.raises(ValueError, match="min_score is 2"):
        pipe.stream(min_score=2)


def test_a_detector_sees_each_piece_in_its_order(pipe, conversation):
    pieces = []

    def half_a_second():
        def detect(window, enhanced):
            assert len(enhanced) == len(window.waveform)
            pieces.append((window.start, window.end))
            return np.arange(window.start // 320, -(-window.end // 320)) < 25

        return detect

    _, (segment,) = run(pipe.stream(detector=half_a_second), random_blocks(conversation))
    assert (segment["start"], segment["end"]) == (0.0, 0.5)
    assert [start for start, _ in pieces[1:]] == [end for _, end in pieces[:-1]]
    assert pieces[-1][1] == len(conversation)


@pytest.mark.parametrize("dtype", ["bf16", "int8", torch.bfloat16])
def test_streams_run_in_every_precision(pipe, speech_clip, dtype):
    speech = speech_clip(1.5)
    other = SpeechEnhancementAndEmotionPipeline.from_pretrained(TINY, device="cpu", dtype=dtype)
    expected, _ = run(pipe.stream(), [speech])
    audio, segments = run(other.stream(), [speech])
    assert audio.dtype == np.float32 and len(segments) == 1
    assert np.corrcoef(audio, expected)[0, 1] > 0.99


def a_model(tiny_config, **fields):
    torch.manual_seed(0)
    config = SparseMeritConfig.from_dict(tiny_config.to_dict(), **fields)
    return SparseMeritForSpeechEnhancementAndEmotion(config).eval()


@pytest.mark.parametrize(
    "fields",
    [{"tasks": ["enhancement"]}, {"tasks": ["emotion"]}, {"conv_stride": (5, 2, 2, 2, 2, 2, 1)}],
    ids=["enhancement", "emotion", "160 samples a frame"],
)
def test_other_models_stream_as_their_pipeline_does(tiny_config, conversation, fields):
    parts = {"model": a_model(tiny_config, **fields), "feature_extractor": SparseMeritFeatureExtractor()}
    pipe = SpeechEnhancementAndEmotionPipeline(**parts, device="cpu")
    whole = pipe(conversation, sampling_rate=16_000, return_segments=True, **WIDE)
    audio, segments = run(pipe.stream(**WIDE), random_blocks(conversation))
    np.testing.assert_allclose(audio, whole.get("audio", np.zeros(0)), atol=1e-5)
    assert_same_segments(segments, whole.get("segments", []))


def test_features_are_those_of_the_piece(tiny_config, conversation):
    model = a_model(tiny_config)
    windows = WindowCutter(3.0, (0.5, 0.04)).add(conversation)[:3]
    window_model = WindowModel(model, SparseMeritFeatureExtractor(), None)
    for window, output in zip(windows, window_model.run(windows), strict=True):
        piece = window.piece
        values = (window.waveform - piece.mean()) / np.sqrt(piece.var() + 1e-7)  # scaled by the piece alone
        with torch.no_grad():
            outputs = model(torch.from_numpy(values)[None], output_features=True)
        first, count = window.left // 320, (window.end - window.start) // 320
        expected = outputs.features["emotion"][0, first : first + count]
        torch.testing.assert_close(output.features["emotion"], expected, atol=1e-4, rtol=1e-3)
        denormalized = outputs.enhanced_values[0].numpy() * np.sqrt(piece.var() + 1e-7) + piece.mean()
        np.testing.assert_allclose(output.enhanced["enhancement"], denormalized, atol=1e-5)


def test_a_corpus_scale_is_that_of_every_window(tiny_config, conversation):
    extractor = SparseMeritFeatureExtractor(normalization="corpus", corpus_mean=0.01, corpus_std=0.1)
    pipe = SpeechEnhancementAndEmotionPipeline(model=a_model(tiny_config), feature_extractor=extractor, device="cpu")
    (window, *_) = WindowCutter(3.0).add(conversation)
    inputs = pipe.stream()._model.inputs([window])
    np.testing.assert_allclose(inputs["input_values"][0], (window.waveform - 0.01) / 0.1, atol=1e-5)
    audio, _ = run(pipe.stream(**WIDE), [conversation])
    np.testing.assert_allclose(audio, pipe(conversation, sampling_rate=16_000, **WIDE)["audio"], atol=1e-5)
