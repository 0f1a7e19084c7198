# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The pipeline: equal results for every form of recording, alone and in batches; unusable checkpoints are refused."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from conftest import TINY
from datasets import Audio, Dataset
from safetensors.torch import load_file, save_file
from transformers import AudioClassificationPipeline
from transformers.pipelines.pt_utils import KeyDataset

from modeling_sparse_merit import (
    EmotionPipeline,
    SparseMeritConfig,
    SparseMeritFeatureExtractor,
    SparseMeritForSpeechEnhancementAndEmotion,
    SpeechEnhancementAndEmotionPipeline,
)
from modeling_sparse_merit.models.sparse_merit.audio import load_audio

DEMO = Path(TINY).parents[1] / "demo" / "noisy_speech.flac"


@pytest.fixture(scope="module")
def pipe(tiny_checkpoint):
    return SpeechEnhancementAndEmotionPipeline.from_pretrained(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def emotion_pipe(tiny_checkpoint):
    return EmotionPipeline.from_pretrained(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def trained_pipe():
    return SpeechEnhancementAndEmotionPipeline.from_pretrained(TINY, device="cpu")


@pytest.fixture
def dialogue(speech_clip):
    """Three passages of speech, 2.5, 3 and 1.5 s long, with pauses of 0.8 s: 8.6 s at 16 kHz."""
    pause = np.zeros(12_800, np.float32)
    passages = [speech_clip(seconds, seed=seed) for seed, seconds in enumerate((2.5, 3.0, 1.5))]
    return np.concatenate([passages[0], pause, passages[1], pause, passages[2]])


@pytest.fixture
def table(speech_clip, tmp_path):
    """Three WAV files of different rates, as a column of `datasets` that is not decoded."""
    rows = []
    for seed, rate in enumerate((16_000, 22_050, 8_000)):
        path = tmp_path / f"{seed}.wav"
        soundfile.write(path, speech_clip(0.4 + 0.2 * seed, sampling_rate=rate, seed=seed), rate)
        rows.append({"audio": {"bytes": path.read_bytes(), "path": path.name}})
    return Dataset.from_list(rows).cast_column("audio", Audio(sampling_rate=16_000, decode=False))


def scores_of(result):
    return {entry["label"]: entry["score"] for entry in result["emotion"]}


def test_a_recording_gives_ranked_emotions_and_speech_of_its_own_length(pipe, speech_clip):
    clip = speech_clip(seconds=1.3)
    result = pipe(clip, sampling_rate=16_000)

    scores = [entry["score"] for entry in result["emotion"]]
    assert scores == sorted(scores, reverse=True)
    assert sum(scores) == pytest.approx(1, abs=1e-5)
    assert {entry["label"] for entry in result["emotion"]} == {"angry", "sad", "happy", "neutral"}
    assert result["audio"].shape == clip.shape and result["audio"].dtype == np.float32
    assert result["sampling_rate"] == 16_000


def test_it_says_what_the_model_and_the_feature_extractor_say_by_hand(pipe, tiny_checkpoint, speech_clip):
    clip = speech_clip(seconds=1.0)
    feature_extractor = SparseMeritFeatureExtractor.from_pretrained(tiny_checkpoint)
    model = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(tiny_checkpoint).eval()
    with torch.no_grad():
        outputs = model(**feature_extractor(clip, sampling_rate=16_000, return_tensors="pt"))
    exponentials = np.exp(outputs.logits[0].numpy())

    result = pipe(clip, sampling_rate=16_000)

    for index, label in model.config.id2label.items():
        assert scores_of(result)[label] == pytest.approx(exponentials[index] / exponentials.sum(), abs=1e-6)
    expected = feature_extractor.denormalize(outputs.enhanced_values, [clip])[0]
    np.testing.assert_allclose(result["audio"], expected, atol=1e-6)


def test_path_bytes_array_and_dict_are_the_same_recording(pipe, speech_clip, tmp_path):
    clip, rate = speech_clip(seconds=1.0, sampling_rate=22_050), 22_050
    path = tmp_path / "stereo.wav"
    soundfile.write(path, np.stack([clip, clip], axis=1), rate, subtype="FLOAT")
    encoded = io.BytesIO(path.read_bytes())
    forms = [str(path), path, encoded.getvalue(), {"array": clip, "sampling_rate": rate}]

    results = [pipe(form) for form in forms] + [pipe(clip, sampling_rate=rate)]

    for result in results[1:]:
        np.testing.assert_allclose(result["audio"], results[0]["audio"], atol=1e-5)
        assert scores_of(result) == pytest.approx(scores_of(results[0]), abs=1e-5)


def test_a_ragged_batch_equals_each_recording_alone(pipe, speech_clip):
    clips = [
        {"array": speech_clip(seconds=seconds, seed=seed), "sampling_rate": 16_000}
        for seed, seconds in enumerate([1.7, 0.4, 1.01])
    ]
    alone = [pipe(clip) for clip in clips]

    for batch_size in (2, 3):
        together = pipe(clips, batch_size=batch_size)
        assert len(together) == 3
        for one, other in zip(alone, together, strict=True):
            assert one["audio"].shape == other["audio"].shape
            np.testing.assert_allclose(one["audio"], other["audio"], atol=1e-5)
            assert scores_of(one) == pytest.approx(scores_of(other), abs=1e-5)


def test_a_generator_of_recordings_streams(pipe, speech_clip):
    clips = ({"array": speech_clip(seconds=0.5, seed=seed), "sampling_rate": 16_000} for seed in range(3))
    assert [len(result["audio"]) for result in pipe(clips, batch_size=2)] == [8_000] * 3


def test_no_recordings_give_no_results(pipe, emotion_pipe, table):
    for each in (pipe, emotion_pipe):
        assert each([]) == each(()) == each(table.select([])["audio"]) == []
        assert list(each(recording for recording in ())) == []


def test_a_list_of_numbers_is_one_recording(pipe, emotion_pipe, speech_clip):
    clip = speech_clip(seconds=0.5)
    expected = pipe(clip, sampling_rate=16_000)
    for numbers in (clip.tolist(), tuple(clip.tolist()), list(clip)):
        np.testing.assert_array_equal(pipe(numbers, sampling_rate=16_000)["audio"], expected["audio"])
    assert emotion_pipe(clip.tolist(), sampling_rate=16_000) == expected["emotion"]
    first, second = pipe([clip.tolist(), clip[:8_000].tolist()], sampling_rate=16_000)
    assert (len(first["audio"]), len(second["audio"])) == (8_000, 8_000)


def test_channels_are_chosen_or_processed_one_by_one(pipe, emotion_pipe, speech_clip):
    left, right = speech_clip(0.5, seed=1), speech_clip(0.5, seed=2)
    call = {"array": np.stack([left, right]), "sampling_rate": 16_000}
    alone = [pipe(clip, sampling_rate=16_000) for clip in (left, right)]
    np.testing.assert_array_equal(pipe(call, channel="right")["audio"], alone[1]["audio"])
    predictions = pipe(call, channel="each")
    assert [output["channel"] for output in predictions] == [1, 2]
    for output, expected in zip(predictions, alone, strict=True):
        assert scores_of(output) == pytest.approx(scores_of(expected), abs=1e-6)
    both, mono = pipe([call, {"array": left, "sampling_rate": 16_000}], channel="each", top_k=1)
    assert (len(both), len(mono)) == (2, 1) and len(mono[0]["emotion"]) == 1
    assert [len(each) for each in pipe((call for _ in range(2)), channel="each")] == [2, 2]
    assert emotion_pipe(call, channel="each") == [emotion_pipe(call, channel=number) for number in (1, 2)]
    with pytest.raises(ValueError, match="expected one of mix"):
        pipe(call, channel="middle")


def test_a_recording_that_is_too_short_is_named(pipe, tmp_path):
    soundfile.write(tmp_path / "short.wav", np.zeros(240), 16_000)
    with pytest.raises(ValueError, match=r"short.wav lasts 15 ms \(240 samples at 16000 Hz\); .* at least 25 ms"):
        pipe(tmp_path / "short.wav")


def test_a_column_of_datasets_is_many_recordings(pipe, emotion_pipe, table):
    alone = [emotion_pipe(row["audio"]) for row in table]
    by_column = emotion_pipe(table["audio"], batch_size=2)
    by_key = list(emotion_pipe(KeyDataset(table, "audio"), batch_size=2))
    by_stream = list(emotion_pipe(table.to_iterable_dataset()["audio"]))

    for results in (by_column, by_key, by_stream):
        assert len(results) == 3
        for one, other in zip(alone, results, strict=True):
            assert [entry["label"] for entry in one] == [entry["label"] for entry in other]
            assert [e["score"] for e in one] == pytest.approx([e["score"] for e in other], abs=1e-5)
    assert [result["sampling_rate"] for result in pipe(table["audio"])] == [16_000] * 3


def test_audio_classification_equals_the_stock_pipeline(emotion_pipe, speech_clip):
    stock = AudioClassificationPipeline(emotion_pipe.model, feature_extractor=emotion_pipe.feature_extractor)
    clips = [speech_clip(seconds=0.7, seed=seed) for seed in range(3)]

    for function in ("softmax", "sigmoid", "none"):
        ours = emotion_pipe(clips, sampling_rate=16_000, function_to_apply=function, batch_size=3)
        for one, other in zip(ours, stock(clips, function_to_apply=function), strict=True):
            assert [entry["label"] for entry in one] == [entry["label"] for entry in other]
            assert [e["score"] for e in one] == pytest.approx([e["score"] for e in other], abs=1e-5)
    assert emotion_pipe(clips[0], sampling_rate=16_000) == emotion_pipe(
        clips[0], sampling_rate=16_000, function_to_apply="softmax"
    )


def test_audio_classification_keeps_the_likeliest_and_takes_defaults(tiny_checkpoint, emotion_pipe, speech_clip):
    clip = {"array": speech_clip(seconds=0.5), "sampling_rate": 16_000}
    everything = emotion_pipe(clip)
    brief = EmotionPipeline.from_pretrained(tiny_checkpoint, device="cpu", top_k=1, batch_size=2)

    assert sum(entry["score"] for entry in everything) == pytest.approx(1, abs=1e-5)
    assert emotion_pipe(clip, top_k=2) == everything[:2]
    assert brief(clip) == everything[:1]
    for output in brief([clip] * 3):
        assert output == [{"label": everything[0]["label"], "score": pytest.approx(everything[0]["score"], abs=1e-5)}]


def test_audio_classification_needs_a_model_with_emotion(tiny_config):
    config = SparseMeritConfig.from_dict(tiny_config.to_dict(), tasks=["enhancement"])
    model = SparseMeritForSpeechEnhancementAndEmotion(config).eval()
    with pytest.raises(
        ValueError, match=r"The model has the tasks \['enhancement'\]; expected a model with the task 'emotion'"
    ):
        EmotionPipeline(model=model, feature_extractor=SparseMeritFeatureExtractor())


def test_only_the_requested_tasks_are_computed(pipe, speech_clip):
    clip = {"array": speech_clip(seconds=0.5), "sampling_rate": 16_000}
    assert set(pipe(clip, tasks=("emotion",))) == {"emotion"}
    assert set(pipe(clip, tasks="enhancement")) == {"audio", "sampling_rate"}
    assert [set(result) for result in pipe([clip, clip], tasks=["emotion"], batch_size=2)] == [{"emotion"}] * 2


def test_top_k_keeps_the_likeliest(pipe, speech_clip):
    clip = {"array": speech_clip(seconds=0.5), "sampling_rate": 16_000}
    assert pipe(clip, top_k=2)["emotion"] == pipe(clip)["emotion"][:2]
    assert len(pipe(clip, top_k=99)["emotion"]) == 4


def test_wrong_arguments_are_named(pipe, emotion_pipe, speech_clip):
    clip = {"array": speech_clip(seconds=0.5), "sampling_rate": 16_000}
    with pytest.raises(ValueError, match="top_k is 0"):
        pipe(clip, top_k=0)
    with pytest.raises(TypeError, match="topk"):
        pipe(clip, topk=1)
    with pytest.raises(ValueError, match="translation"):
        pipe(clip, tasks=("translation",))
    with pytest.raises(TypeError, match="tasks.*expected top_k, function_to_apply"):
        emotion_pipe(clip, tasks="emotion")
    with pytest.raises(ValueError, match="function_to_apply is 'tanh'"):
        emotion_pipe(clip, function_to_apply="tanh")


def test_half_precision_stays_close_to_full(tiny_checkpoint, pipe, speech_clip):
    half = SpeechEnhancementAndEmotionPipeline.from_pretrained(tiny_checkpoint, dtype=torch.bfloat16, device="cpu")
    clip = {"array": speech_clip(seconds=1.0), "sampling_rate": 16_000}
    result = half(clip)
    assert half.dtype == torch.bfloat16 and result["audio"].dtype == np.float32
    assert scores_of(result) == pytest.approx(scores_of(pipe(clip)), abs=0.05)


def test_a_checkpoint_that_lacks_weights_is_refused(tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "incomplete")
    weights = load_file(folder / "model.safetensors")
    removed = next(name for name in weights if "heads.emotion" in name)
    save_file({k: v for k, v in weights.items() if k != removed}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=f"lacks 1 weights.*{removed}"):
        SpeechEnhancementAndEmotionPipeline.from_pretrained(folder)


def test_a_checkpoint_with_damaged_weights_is_refused(tiny_checkpoint, tmp_path):
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "damaged")
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if "heads.emotion" in name)
    weights[name].view(-1)[0] = float("nan")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=f"NaN or Inf in {name}"):
        SpeechEnhancementAndEmotionPipeline.from_pretrained(folder)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "wavlm"}))
    with pytest.raises(ValueError, match="model of type 'wavlm', expected 'sparse_merit'"):
        SpeechEnhancementAndEmotionPipeline.from_pretrained(tmp_path)


def test_the_embedded_checkpoint_recognises_the_four_emotions(speech_clip):
    pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(TINY, device="cpu")
    clip = speech_clip(seconds=2.0)
    result = pipe({"array": clip, "sampling_rate": 16_000})
    assert set(scores_of(result)) == {"angry", "sad", "happy", "neutral"}
    assert result["audio"].shape == clip.shape and np.isfinite(result["audio"]).all()


def test_by_hand_a_short_clip_is_what_model_and_feature_extractor_give(trained_pipe, speech_clip):
    clip = speech_clip(2.0)
    inputs = trained_pipe.feature_extractor(clip, sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        outputs = trained_pipe.model(**inputs)
    result = trained_pipe(clip, sampling_rate=16_000)
    labels = trained_pipe.model.config.id2label
    scores = (outputs.logits[0] / trained_pipe.calibration.temperature).softmax(-1)
    expected = {labels[index]: score for index, score in enumerate(scores.tolist())}
    assert scores_of(result) == pytest.approx(expected, abs=1e-5)
    denormalized = trained_pipe.feature_extractor.denormalize(outputs.enhanced_values, clip)[0]
    np.testing.assert_allclose(result["audio"], denormalized, atol=1e-5)


WINDOWS = [
    {},
    {"chunk_length_s": 2.0, "stride_length_s": (1.6, 0.08)},
    {"chunk_length_s": 3.0, "stride_length_s": 0.03},
]


@pytest.mark.parametrize("windows", WINDOWS)
@pytest.mark.parametrize("samples", [400, 641, 5_121, 160_000])
def test_the_output_is_as_long_as_the_recording(pipe, dialogue, windows, samples):
    recording = np.concatenate([dialogue, dialogue])[:samples]
    result = pipe(recording, sampling_rate=16_000, **windows)
    assert result["audio"].shape == (samples,) and np.isfinite(result["audio"]).all()


@pytest.mark.parametrize("seconds", [1.0, 2.0])
def test_windows_without_right_context_end_where_the_recording_ends(pipe, speech_clip, seconds):
    options = {"chunk_length_s": 0.5, "stride_length_s": (0.3, 0.0), "return_segments": True}  # pieces of 0.2 s
    clip = speech_clip(seconds)
    results = pipe([clip, clip], sampling_rate=16_000, batch_size=3, **options)
    assert len(results) == 2
    for result in results:
        assert result["audio"].shape == clip.shape and result["segments"][-1]["end"] == seconds


def level(waveform):
    return 10 * np.log10(np.mean(np.square(waveform, dtype=np.float64)))


@pytest.fixture(params=["demo", "made"])
def speech(request, speech_clip):
    return load_audio(DEMO) if request.param == "demo" else speech_clip(3.0)


def test_a_minute_of_silence_changes_nothing_of_the_speech_before(trained_pipe, speech):
    alone = trained_pipe(speech, sampling_rate=16_000)
    silence = np.zeros(60 * 16_000, np.float32)
    followed = trained_pipe(np.concatenate([speech, silence]), sampling_rate=16_000, return_segments=True)
    assert level(followed["audio"][: len(speech)]) == pytest.approx(level(alone["audio"]), abs=0.5)
    assert np.abs(followed["audio"][len(speech) + 16_000 :]).max() < 1e-4
    assert followed["emotion"][0]["label"] == alone["emotion"][0]["label"]
    assert scores_of(followed) == pytest.approx(scores_of(alone), abs=0.05)
    assert followed["segments"][-1]["end"] <= len(speech) / 16_000 + 0.1


def test_a_quiet_voice_is_detected_as_the_loud_one_before(trained_pipe, speech):
    alone = trained_pipe(speech, sampling_rate=16_000)
    both = trained_pipe(np.concatenate([speech, speech / 10]), sampling_rate=16_000, return_segments=True)
    loud, quiet = np.split(both["audio"], 2)
    assert level(loud) == pytest.approx(level(alone["audio"]), abs=0.5)
    assert level(quiet) + 20 == pytest.approx(level(alone["audio"]), abs=0.5)
    assert {segment["emotion"] for segment in both["segments"]} == {alone["emotion"][0]["label"]}
    assert scores_of(both) == pytest.approx(scores_of(alone), abs=0.1)


def test_a_word_in_a_long_silence_is_found(trained_pipe, speech_clip):
    recording = np.zeros(40 * 16_000, np.float32)
    recording[20 * 16_000 : 21 * 16_000] = speech_clip(1.0)
    result = trained_pipe(recording, sampling_rate=16_000, chunk_length_s=3.0, return_segments=True)
    (segment,) = result["segments"]
    assert 19.8 <= segment["start"] <= 20.2 and 20.8 <= segment["end"] <= 21.2
    assert scores_of(result) == pytest.approx(segment["scores"], abs=1e-6)


@pytest.mark.parametrize("seconds", [0.025, 30.0])
def test_silence_has_no_emotion(trained_pipe, emotion_pipe, seconds):
    silence = np.zeros(round(16_000 * seconds), np.float32)
    result = trained_pipe(silence, sampling_rate=16_000, return_segments=True)
    assert (result["emotion"], result["segments"], result["reason"]) == ([], [], "no speech")
    assert result["audio"].shape == silence.shape and np.abs(result["audio"]).max() < 1e-4
    assert trained_pipe.emotion_timeline(silence, sampling_rate=16_000) == []
    assert emotion_pipe(silence, sampling_rate=16_000, top_k=2) == [{"label": "no speech", "score": 1.0}]


def test_the_whole_has_the_mean_of_its_segments_weighted_by_their_durations(trained_pipe, dialogue):
    result = trained_pipe(dialogue, sampling_rate=16_000, return_segments=True)
    assert len(result["segments"]) == 3
    durations = [segment["end"] - segment["start"] for segment in result["segments"]]
    for label, score in scores_of(result).items():
        parts = [segment["scores"][label] for segment in result["segments"]]
        assert score == pytest.approx(np.average(parts, weights=durations), abs=1e-5)
    assert trained_pipe(dialogue, sampling_rate=16_000, return_segments=True, top_k=1) | {"audio": 0} == (
        result | {"emotion": result["emotion"][:1], "audio": 0}
    )


@pytest.mark.parametrize("function", ["softmax", "sigmoid", "none"])
def test_audio_classification_averages_what_it_is_told_to_apply(trained_pipe, dialogue, function, monkeypatch):
    emotion_pipe = EmotionPipeline(model=trained_pipe.model, feature_extractor=trained_pipe.feature_extractor)
    original, logits = trained_pipe.model.clip_outputs, []

    def heads(features):
        outputs = original(features)
        logits.append(outputs["emotion"][0].double().numpy())
        return outputs

    with monkeypatch.context() as patched:
        patched.setattr(trained_pipe.model, "clip_outputs", heads)
        output = emotion_pipe(dialogue, sampling_rate=16_000, function_to_apply=function)
    durations = [s["end"] - s["start"] for s in trained_pipe.emotion_timeline(dialogue, sampling_rate=16_000)]
    temperature = emotion_pipe.calibration.temperature
    apply = {
        "softmax": lambda x: np.exp(x / temperature) / np.exp(x / temperature).sum(),
        "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
        "none": lambda x: x,
    }[function]
    expected = np.average([apply(each) for each in logits], axis=0, weights=durations)
    labels = emotion_pipe.model.config.id2label
    assert {e["label"]: e["score"] for e in output} == pytest.approx(
        {labels[index]: value for index, value in enumerate(expected)}, abs=1e-4
    )
    assert [e["score"] for e in output] == sorted((e["score"] for e in output), reverse=True)


def test_a_timeline_has_the_segments_of_a_call(trained_pipe, dialogue):
    called = trained_pipe(dialogue, sampling_rate=16_000, return_segments=True)["segments"]
    timeline = trained_pipe.emotion_timeline(dialogue, sampling_rate=16_000)
    assert timeline == called
    ends = [0.0, *(segment["end"] for segment in timeline)]
    assert all(end <= segment["start"] < segment["end"] for end, segment in zip(ends, timeline, strict=False))
    assert timeline[-1]["end"] <= 8.6
    for segment in timeline:
        assert segment["emotion"] == max(segment["scores"], key=segment["scores"].get)
        assert sum(segment["scores"].values()) == pytest.approx(1, abs=1e-5)
    assert trained_pipe.emotion_timeline(dialogue, sampling_rate=16_000, tasks="enhancement") == called


def test_a_timeline_keeps_the_settings_of_its_pipeline(trained_pipe, dialogue):
    parts = {"model": trained_pipe.model, "feature_extractor": trained_pipe.feature_extractor}
    expected = trained_pipe.emotion_timeline(dialogue, sampling_rate=16_000, chunk_length_s=3.0, min_score=1.0)
    own = SpeechEnhancementAndEmotionPipeline(**parts, sampling_rate=16_000, chunk_length_s=3.0, min_score=1.0)
    assert own.emotion_timeline(dialogue) == expected
    emotion_pipe = EmotionPipeline(**parts, sampling_rate=16_000, function_to_apply="none", top_k=1)
    assert emotion_pipe.emotion_timeline(dialogue, chunk_length_s=3.0, min_score=1.0) == expected
    each = SpeechEnhancementAndEmotionPipeline(**parts, sampling_rate=16_000, channel="each")
    with pytest.raises(ValueError, match='`channel` is "each"; expected one channel'):
        each.emotion_timeline(dialogue)
    assert len(each.emotion_timeline(dialogue, channel="left")) == 3


def test_below_the_least_score_the_emotion_is_unsure(trained_pipe, dialogue):
    sure = trained_pipe(dialogue, sampling_rate=16_000, return_segments=True)
    best = [max(segment["scores"].values()) for segment in sure["segments"]]
    least = (sorted(best)[0] + sorted(best)[1]) / 2  # one segment is below, two are not
    result = trained_pipe(dialogue, sampling_rate=16_000, return_segments=True, min_score=least)
    unsure = [segment["emotion"] is None and segment["reason"] == "unsure" for segment in result["segments"]]
    assert unsure == [score < least for score in best] and sum(unsure) == 1
    assert scores_of(result) == scores_of(sure)
    assert ("reason" in result) == (result["emotion"][0]["score"] < least)
    assert trained_pipe(dialogue, sampling_rate=16_000, min_score=1.0)["reason"] == "unsure"


def test_long_recordings_in_batches_equal_those_alone(trained_pipe, dialogue):
    recordings = [dialogue, np.concatenate([dialogue, dialogue[:90_001]]), dialogue[:20_000]]
    options = {"sampling_rate": 16_000, "return_segments": True, "chunk_length_s": 4.0}
    alone = [trained_pipe(recording, **options) for recording in recordings]
    together = trained_pipe(recordings, batch_size=3, **options)
    streamed = list(trained_pipe((recording for recording in recordings), batch_size=5, **options))
    for results in (together, streamed):
        for one, other in zip(alone, results, strict=True):
            np.testing.assert_allclose(one["audio"], other["audio"], atol=1e-5)
            assert scores_of(one) == pytest.approx(scores_of(other), abs=1e-4)
            times = [[(s["start"], s["end"]) for s in result["segments"]] for result in (one, other)]
            assert times[0] == times[1]


def test_a_column_of_long_recordings_is_processed_one_by_one(trained_pipe, dialogue, tmp_path):
    rows = []
    for index, samples in enumerate((137_600, 60_000)):
        soundfile.write(tmp_path / f"{index}.wav", np.tile(dialogue, 2)[: 2 * samples], 16_000)
        rows.append({"audio": {"bytes": (tmp_path / f"{index}.wav").read_bytes(), "path": f"{index}.wav"}})
    table = Dataset.from_list(rows).cast_column("audio", Audio(sampling_rate=16_000, decode=False))
    results = trained_pipe(table["audio"], batch_size=2, return_segments=True)
    assert [len(result["audio"]) for result in results] == [275_200, 120_000]
    assert [result["segments"] != [] for result in results] == [True, True]


def test_channels_of_a_long_recording_are_processed_one_by_one(trained_pipe, dialogue):
    stereo = {
        "array": np.stack([np.tile(dialogue, 2), np.zeros(2 * len(dialogue), np.float32)]),
        "sampling_rate": 16_000,
    }
    first, second = trained_pipe(stereo, channel="each", return_segments=True, batch_size=2)
    assert (first["channel"], second["channel"]) == (1, 2)
    assert len(first["segments"]) == 5 and second["reason"] == "no speech"
    assert first["audio"].shape == second["audio"].shape == (2 * len(dialogue),)


def test_integers_are_their_fraction_of_full_scale(pipe, speech_clip):
    integers = np.round(speech_clip(1.0) * 32768).astype(np.int16)
    floats = integers / np.float32(32768)
    np.testing.assert_array_equal(
        pipe(integers, sampling_rate=16_000)["audio"], pipe(floats, sampling_rate=16_000)["audio"]
    )


def test_windows_of_a_call_go_with_those_of_the_construction(pipe):
    own = SpeechEnhancementAndEmotionPipeline(
        model=pipe.model, feature_extractor=pipe.feature_extractor, stride_length_s=(1.0, 0.5)
    )
    assert own._preprocess_params["chunk_length_s"] == 10.0
    before, _, _ = own._sanitize_parameters(chunk_length_s=4.0)
    assert (before["chunk_length_s"], before["stride_length_s"]) == (4.0, (1.0, 0.5))
    with pytest.raises(ValueError, match=r"1.5, \(1.0, 0.5\); expected 0.1 s or more"):
        own(np.zeros(16_000), sampling_rate=16_000, chunk_length_s=1.5)
    for wrong in (-0.1, 1.1):
        with pytest.raises(ValueError, match=f"min_score is {wrong}"):
            own(np.zeros(16_000), sampling_rate=16_000, min_score=wrong)


def test_a_detector_of_ones_own_finds_the_speech(trained_pipe, dialogue):
    def second_second():
        def detect(window, enhanced):
            frames = np.arange(window.start // 320, -(-window.end // 320))
            return (50 <= frames) & (frames < 100)

        return detect

    for tasks in (("emotion", "enhancement"), ("emotion",)):
        options = {"sampling_rate": 16_000, "detector": second_second, "return_segments": True, "tasks": tasks}
        for result in trained_pipe([dialogue] * 2, **options):
            assert [(segment["start"], segment["end"]) for segment in result["segments"]] == [(1.0, 2.0)]


def test_models_of_one_task_process_long_recordings(tiny_config, dialogue):
    for task, actual in (("enhancement", {"audio", "sampling_rate"}), ("emotion", {"emotion", "segments"})):
        config = SparseMeritConfig.from_dict(tiny_config.to_dict(), tasks=[task])
        model = SparseMeritForSpeechEnhancementAndEmotion(config).eval()
        one = SpeechEnhancementAndEmotionPipeline(model=model, feature_extractor=SparseMeritFeatureExtractor())
        result = one(np.tile(dialogue, 2), sampling_rate=16_000, return_segments=True, batch_size=2)
        assert set(result) == actual
        if task == "emotion":
            assert len(result["segments"]) == 5


@pytest.mark.parametrize("dtype", ["bf16", "int8"])
def test_other_precisions_give_the_same_for_a_long_recording(trained_pipe, dialogue, dtype):
    other = SpeechEnhancementAndEmotionPipeline.from_pretrained(TINY, device="cpu", dtype=dtype)
    recording = np.tile(dialogue, 2)
    expected, result = (each(recording, sampling_rate=16_000, return_segments=True) for each in (trained_pipe, other))
    assert [s["emotion"] for s in result["segments"]] == [s["emotion"] for s in expected["segments"]]
    assert np.corrcoef(result["audio"], expected["audio"])[0, 1] > 0.99


def test_the_use_of_the_experts_is_that_of_the_model(trained_pipe, speech_clip):
    clip = speech_clip(1.3)
    result = trained_pipe(clip, sampling_rate=16_000, return_expert_use=True)["expert_use"]
    inputs = trained_pipe.feature_extractor([clip], sampling_rate=16_000, return_tensors="pt")
    with torch.inference_mode():
        logits = trained_pipe.model(**inputs, output_router_logits=True).router_logits
    assert list(result) == list(trained_pipe.model.config.tasks) == list(logits)
    for task, shares in result.items():
        assert shares.shape == (65, trained_pipe.model.config.num_experts)  # of 20 ms
        expected = logits[task][0].argmax(-1).numpy()
        np.testing.assert_array_equal(shares.argmax(1), expected)
        np.testing.assert_array_equal(shares.sum(1), 1)
    assert "expert_use" not in trained_pipe(clip, sampling_rate=16_000)


def test_the_use_of_the_experts_covers_a_long_recording(trained_pipe, dialogue):
    recording = np.tile(dialogue, 2)
    options = {"sampling_rate": 16_000, "return_expert_use": True, "tasks": ("emotion",)}
    alone, batched = trained_pipe(recording, **options), trained_pipe(recording, batch_size=3, **options)
    assert list(alone["expert_use"]) == ["emotion"]
    assert alone["expert_use"]["emotion"].shape[0] == -(-len(recording) // 320)
    np.testing.assert_array_equal(batched["expert_use"]["emotion"], alone["expert_use"]["emotion"])


def test_the_use_of_the_experts_depends_on_the_router(tiny_config, dialogue, emotion_pipe):
    uses = {}
    for change in ({"router": "dense"}, {"integration": "weighted_sum"}):
        model = SparseMeritForSpeechEnhancementAndEmotion(SparseMeritConfig.from_dict(tiny_config.to_dict() | change))
        own = SpeechEnhancementAndEmotionPipeline(model=model.eval(), feature_extractor=SparseMeritFeatureExtractor())
        uses |= {tuple(change.values()): own(dialogue, sampling_rate=16_000, return_expert_use=True)["expert_use"]}
    dense = uses["dense",]["emotion"]
    assert dense.sum(1) == pytest.approx(1, abs=1e-5) and 0 < dense.min() and dense.max() < 1
    assert uses["weighted_sum",] == {}
    with pytest.raises(TypeError, match="return_expert_use"):
        emotion_pipe(dialogue, sampling_rate=16_000, return_expert_use=True)
