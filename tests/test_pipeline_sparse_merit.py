# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The pipeline answers alike for every form of recording, alone and in batches, and refuses unusable checkpoints."""

import io
import json
import shutil

import numpy as np
import pytest
import soundfile
import torch
from datasets import Audio, Dataset
from safetensors.torch import load_file, save_file
from transformers import AudioClassificationPipeline
from transformers.pipelines.pt_utils import KeyDataset

from modeling_sparse_merit import (
    DEFAULT_CHECKPOINT,
    EmotionPipeline,
    SparseMeritConfig,
    SparseMeritFeatureExtractor,
    SparseMeritForSpeechEnhancementAndEmotion,
    SpeechEnhancementAndEmotionPipeline,
)


@pytest.fixture(scope="module")
def pipe(tiny_checkpoint):
    return SpeechEnhancementAndEmotionPipeline.from_pretrained(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def emotion_pipe(tiny_checkpoint):
    return EmotionPipeline.from_pretrained(tiny_checkpoint, device="cpu")


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


def test_a_ragged_batch_answers_as_each_recording_alone(pipe, speech_clip):
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


def test_no_recordings_give_no_answers(pipe, emotion_pipe, table):
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


def test_channels_are_chosen_or_answered_one_by_one(pipe, emotion_pipe, speech_clip):
    left, right = speech_clip(0.5, seed=1), speech_clip(0.5, seed=2)
    call = {"array": np.stack([left, right]), "sampling_rate": 16_000}
    alone = [pipe(clip, sampling_rate=16_000) for clip in (left, right)]
    np.testing.assert_array_equal(pipe(call, channel="right")["audio"], alone[1]["audio"])
    answers = pipe(call, channel="each")
    assert [answer["channel"] for answer in answers] == [1, 2]
    for answer, expected in zip(answers, alone, strict=True):
        assert scores_of(answer) == pytest.approx(scores_of(expected), abs=1e-6)
    both, mono = pipe([call, {"array": left, "sampling_rate": 16_000}], channel="each", top_k=1)
    assert (len(both), len(mono)) == (2, 1) and len(mono[0]["emotion"]) == 1
    assert [len(each) for each in pipe((call for _ in range(2)), channel="each")] == [2, 2]
    assert emotion_pipe(call, channel="each") == [emotion_pipe(call, channel=number) for number in (1, 2)]
    with pytest.raises(ValueError, match="expected one of mix"):
        pipe(call, channel="middle")


def test_a_recording_that_is_too_short_is_named(pipe, tmp_path):
    soundfile.write(tmp_path / "short.wav", np.zeros(240), 16_000)
    with pytest.raises(ValueError, match=r"short.wav lasts 15 ms \(240 samples at 16000 Hz\); the model needs 25 ms"):
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


def test_audio_classification_answers_as_the_stock_pipeline(emotion_pipe, speech_clip):
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
    for answer in brief([clip] * 3):
        assert answer == [{"label": everything[0]["label"], "score": pytest.approx(everything[0]["score"], abs=1e-5)}]


def test_audio_classification_needs_a_model_with_emotion(tiny_config, speech_clip):
    config = SparseMeritConfig.from_dict(tiny_config.to_dict(), tasks=["enhancement"])
    model = SparseMeritForSpeechEnhancementAndEmotion(config).eval()
    pipe = EmotionPipeline(model=model, feature_extractor=SparseMeritFeatureExtractor())
    with pytest.raises(ValueError, match=r"this model has \['enhancement'\]"):
        pipe(speech_clip(seconds=0.5), sampling_rate=16_000)


def test_only_the_tasks_asked_for_are_answered(pipe, speech_clip):
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


def test_the_embedded_checkpoint_hears_the_four_emotions(speech_clip):
    pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(DEFAULT_CHECKPOINT, device="cpu")
    clip = speech_clip(seconds=2.0)
    result = pipe({"array": clip, "sampling_rate": 16_000})
    assert set(scores_of(result)) == {"angry", "sad", "happy", "neutral"}
    assert result["audio"].shape == clip.shape and np.isfinite(result["audio"]).all()
