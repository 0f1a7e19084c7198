# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The pipeline of the speech-text model: results, transcribers, inputs, and remote code."""

import json

import numpy as np
import pytest
import soundfile
import torch
import transformers
from conftest import TINY_SIZES
from test_modeling_speech_text import TASKS, TEXTS, make_clips, make_model, make_processor
from test_remote_code import CODE, files_of, run_elsewhere

from modeling_sparse_merit import (
    SpeechTextForEmotion,
    SpeechTextPipeline,
    SpeechTextProcessor,
)


@pytest.fixture
def processor() -> SpeechTextProcessor:
    return make_processor()


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    return make_clips()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A folder with a model of speech and text, with ratings, that may lack one of both, and its processor."""
    folder = tmp_path_factory.mktemp("speech_text")
    make_model(**TASKS, modality_dropout=0.2).save_pretrained(folder)
    make_processor().save_pretrained(folder)
    return folder


def test_the_pipeline_describes_what_the_model_computes(checkpoint, processor, clips):
    pipe = SpeechTextPipeline.from_pretrained(checkpoint, sampling_rate=16_000)
    inputs = [{"audio": clip, "text": text} for clip, text in zip(clips, TEXTS, strict=True)]
    inputs += [{"audio": clips[0]}, {"text": "hello", "audio": None}]
    results = pipe(inputs)
    with torch.no_grad():
        outputs = pipe.model(**processor(audio=clips, text=TEXTS, sampling_rate=16_000, return_tensors="pt"))
    for row, result in enumerate(results[:3]):
        scores = {entry["label"]: entry["score"] for entry in result["emotion"]}
        expected = outputs.logits[row].softmax(-1)
        assert [scores[label] for label in pipe.model.config.id2label.values()] == pytest.approx(
            expected.tolist(), abs=1e-5
        )
        rated = outputs.of("attributes")[row].clamp(1, 7).tolist()
        assert list(result["attributes"].values()) == pytest.approx(rated, abs=1e-4)
    assert list(results[0]["attributes"]) == ["valence", "arousal"]
    for alone, together in zip(results, pipe(inputs, batch_size=5), strict=True):
        assert together["attributes"] == pytest.approx(alone["attributes"], abs=1e-4)
    assert len(pipe(inputs[0], top_k=1)["emotion"]) == 1


def test_a_transcriber_gives_the_missing_text(checkpoint, clips):
    received = []

    def transcribe(waveform: np.ndarray) -> str:
        received.append(waveform)
        return " i am so glad "

    pipe = SpeechTextPipeline.from_pretrained(checkpoint, transcriber=transcribe, sampling_rate=16_000)
    spoken = pipe({"audio": clips[0], "text": " "})
    assert spoken.pop("transcript") == "i am so glad"
    assert received[0].dtype == np.float32 and np.array_equal(received[0], clips[0])
    assert spoken == pipe({"audio": clips[0], "text": "i am so glad"}) and len(received) == 1
    silent = pipe({"audio": clips[0]}, transcriber=lambda waveform: "")
    assert silent.pop("transcript") == ""
    assert silent == SpeechTextPipeline.from_pretrained(checkpoint)({"audio": clips[0]}, sampling_rate=16_000)
    with pytest.raises(TypeError, match="expected a text"):
        pipe({"audio": clips[0]}, transcriber=lambda waveform: 3)
    with pytest.raises(TypeError, match="transcriber is 'whisper'"):
        pipe({"audio": clips[0]}, transcriber="whisper")


def test_a_speech_recognition_pipeline_is_a_transcriber(checkpoint, clips, tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps({"<pad>": 0, "<unk>": 1, "|": 2, "H": 3}))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(tmp_path / "vocab.json"))
    config = transformers.Wav2Vec2Config(vocab_size=4, **{name: TINY_SIZES[name] for name in list(TINY_SIZES)[:5]})
    model = transformers.Wav2Vec2ForCTC(config)
    model.lm_head.bias.data[3] = 100.0  # always the letter H
    recogniser = transformers.pipeline(
        "automatic-speech-recognition",
        model=model,
        tokenizer=tokenizer,
        feature_extractor=transformers.Wav2Vec2FeatureExtractor(),
    )
    pipe = SpeechTextPipeline.from_pretrained(checkpoint, transcriber=recogniser)
    assert pipe({"audio": clips[0]}, sampling_rate=16_000)["transcript"] == "H"


@pytest.mark.parametrize(
    ("clip", "error", "message"),
    [
        ("call.flac", TypeError, "A clip is of type str"),
        ({"file": "call.flac"}, ValueError, "the keys \\['file'\\]"),
        ({"audio": None}, ValueError, "without a value for the model"),
        ({"text": "  "}, ValueError, "neither speech nor text"),
    ],
)
def test_a_clip_that_cannot_be_used_is_refused(checkpoint, clip, error, message):
    with pytest.raises(error, match=message):
        SpeechTextPipeline.from_pretrained(checkpoint)(clip)


# Remote code ---------------------------------------------------------------------------------------------------------

LOAD_AND_RUN = """
import json, sys
import torch
from transformers import AutoConfig, AutoModel, AutoProcessor, pipeline

checkpoint, recording, target = sys.argv[1:]
trusting = {"trust_remote_code": True}
processor = AutoProcessor.from_pretrained(checkpoint, **trusting)
model = AutoModel.from_pretrained(checkpoint, **trusting).eval()
parts = (model, processor, processor.feature_extractor, AutoConfig.from_pretrained(checkpoint, **trusting))
pipe = pipeline(model=checkpoint, device="cpu", **trusting)
named = pipeline("speech-text-emotion", model=checkpoint, device="cpu", **trusting)
clip = {"audio": recording, "text": "hello"}
with torch.no_grad():
    logits = model(**processor(text="hello", return_tensors="pt")).logits.tolist()
result = pipe(clip)
assert named(clip) == result
pipe.save_pretrained(target + "/saved")
again = pipeline(model=target + "/saved", device="cpu", **trusting)
assert again(clip) == result
homes = sorted({type(part).__module__.split(".")[0] for part in parts})
names = [type(part).__name__ for part in parts]
print(json.dumps({"names": names, "homes": homes, "logits": logits, "result": result}))
"""


def test_the_folder_works_without_the_package(checkpoint, clips, processor, tmp_path):
    recording = tmp_path / "a.wav"
    soundfile.write(recording, clips[0], 16_000, subtype="FLOAT")

    loaded = run_elsewhere(LOAD_AND_RUN, checkpoint, recording, tmp_path, folder=tmp_path)

    names = ["SpeechTextForEmotion", "SpeechTextProcessor", "SparseMeritFeatureExtractor", "SpeechTextConfig"]
    assert loaded["names"] == names and loaded["homes"] == ["transformers_modules"]
    model = SpeechTextForEmotion.from_pretrained(checkpoint)
    with torch.no_grad():
        logits = model(**processor(text="hello", return_tensors="pt")).logits
    assert torch.equal(torch.tensor(loaded["logits"]), logits)
    pipe = SpeechTextPipeline.from_pretrained(checkpoint, device="cpu")
    assert loaded["result"] == pipe({"audio": recording, "text": "hello"})
    code = {f"{kind}_speech_text.py" for kind in ("configuration", "modeling", "processing", "pipeline")}
    written, original = files_of(tmp_path / "saved"), files_of(checkpoint)
    assert set(written) == set(original) and written["model.safetensors"] == original["model.safetensors"]
    assert {name for name in written if name.endswith(".py")} == CODE | code
