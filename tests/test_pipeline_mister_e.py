# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The pipeline of conversations: recordings and texts in, emotions and gate weights out."""

from pathlib import Path

import pytest
import soundfile
import torch
from conftest import make_speech
from test_modeling_speech_text import TEXT_CONFIGS, make_tokenizer, speech_config
from test_remote_code import files_of, run_elsewhere

from modeling_sparse_merit import (
    ConversationPipeline,
    MisterEConfig,
    MisterEForConversationEmotion,
    SparseMeritFeatureExtractor,
    SpeechTextConfig,
    SpeechTextForEmotion,
    SpeechTextPipeline,
    SpeechTextProcessor,
)

LABELS = ["neutral", "joy", "anger"]
SIZES = {"context_hidden_size": 8, "context_num_layers": 1, "cross_modal_size": 12, "attention_size": 6}


@pytest.fixture(scope="module")
def embedders() -> dict:
    torch.manual_seed(0)
    speech = SpeechTextForEmotion(SpeechTextConfig(speech_config=speech_config(), head_hidden_size=8)).eval()
    text = SpeechTextForEmotion(SpeechTextConfig(text_config=TEXT_CONFIGS["bert"], head_hidden_size=6)).eval()
    return {
        "speech": SpeechTextPipeline(model=speech, processor=SpeechTextProcessor(SparseMeritFeatureExtractor())),
        "text": SpeechTextPipeline(model=text, processor=SpeechTextProcessor(None, make_tokenizer())),
    }


def make_pipeline(embedders, **fields) -> ConversationPipeline:
    torch.manual_seed(1)
    labels = {"id2label": dict(enumerate(LABELS))}
    config = MisterEConfig(**{"speech_size": 8, "text_size": 6, **SIZES, **labels, **fields})
    return ConversationPipeline(model=MisterEForConversationEmotion(config).eval(), embedders=embedders)


@pytest.fixture(scope="module")
def conversation() -> list[dict]:
    recordings = [{"array": make_speech(0.5, seed=seed), "sampling_rate": 16_000} for seed in range(2)]
    return [
        {"audio": recordings[0], "text": "i am so glad"},
        {"text": "hello"},
        {"audio": recordings[1], "text": " "},
    ]


def test_each_utterance_has_its_emotions_and_gate_weights(embedders, conversation):
    results = make_pipeline(embedders)(conversation)
    assert len(results) == 3
    for result in results:
        scores = [entry["score"] for entry in result["emotion"]]
        assert {entry["label"] for entry in result["emotion"]} == set(LABELS)
        assert sum(scores) == pytest.approx(1) and scores == sorted(scores, reverse=True)
        assert sum(result["gate"].values()) == pytest.approx(1)
    assert [result["gate"]["speech"] == 0 for result in results] == [False, True, False]
    assert [result["gate"]["text"] == 0 for result in results] == [False, False, True]


def test_results_are_those_of_the_model_on_embeddings(embedders, conversation):
    pipe = make_pipeline(embedders, speech_size=0)
    model, processor = embedders["text"].model, embedders["text"].processor
    texts = [{"text": each["text"]} for each in conversation[:2]]
    with torch.no_grad():
        tokens = processor(text=[each["text"] for each in texts], return_tensors="pt")
        hidden = model.hidden_layer(text_embeddings=model.embed_text(**tokens))
        expected = pipe.model(text_embeddings=hidden[None]).logits[0].softmax(-1)
    for result, scores in zip(pipe(texts, top_k=2), expected, strict=True):
        assert len(result["emotion"]) == 2 and result["gate"] == {"text": 1.0}
        for entry in result["emotion"]:
            assert entry["score"] == pytest.approx(scores[LABELS.index(entry["label"])].item(), abs=1e-5)


def test_the_pipeline_is_loaded_from_a_folder(embedders, conversation, tmp_path):
    pipe = make_pipeline(embedders)
    pipe.model.save_pretrained(tmp_path)
    again = ConversationPipeline.from_pretrained(tmp_path, embedders, top_k=1)(conversation)
    for result, expected in zip(again, pipe(conversation), strict=True):
        assert result["emotion"][0]["label"] == expected["emotion"][0]["label"]
        assert result["emotion"][0]["score"] == pytest.approx(expected["emotion"][0]["score"], abs=1e-6)


@pytest.mark.parametrize(
    ("inputs", "options", "error", "message"),
    [
        ([], {}, ValueError, "is empty"),
        ({"text": "hello"}, {}, TypeError, "A conversation is dict"),
        (["hello"], {}, TypeError, "A conversation is list"),
        ([{"text": "hello"}, {"words": "hello"}], {}, ValueError, r"Utterance 1 has the keys \['words'\]"),
        ([{"text": "hello"}], {"embedders": {}}, FileNotFoundError, "someone/text, is neither .* `hf download"),
        ([{"audio": "a.wav"}], {"embedders": {}}, ValueError, "no embedder for speech, and `speech_model` .* is None"),
        ([{"text_embedding": [1.0]}], {}, ValueError, r"text .* utterance 0 has the shape \(1,\); .* \(6,\)"),
        ([{"text": "hello"}], {"top_k": 0}, ValueError, "top_k is 0"),
        ([{"text": "hello"}], {"batch": 2}, TypeError, "Unknown arguments"),
    ],
)
def test_inputs_that_cannot_be_used_say_so(embedders, inputs, options, error, message):
    with pytest.raises(error, match=message):
        make_pipeline(embedders, text_model="someone/text")(inputs, **options)


def test_embeddings_stand_for_recordings_and_texts(embedders, conversation):
    pipe = make_pipeline(embedders)
    embedded = []
    for utterance in conversation:
        keys = {"audio": "speech", "text": "text"}
        given = {keys[name]: clip for name, clip in utterance.items() if clip != " "}
        embedded.append({f"{name}_embedding": pipe.embed(name, clip, embedders) for name, clip in given.items()})
    expected = pipe(conversation)
    assert pipe(embedded, embedders={}) == expected
    as_lists = [{name: values.tolist() for name, values in each.items()} for each in embedded]
    assert pipe(as_lists, embedders={}) == expected


@pytest.fixture(scope="module")
def stages(embedders, tmp_path_factory) -> Path:
    """A folder with the models of both stages: conversation, speech, text."""
    folder = tmp_path_factory.mktemp("stages")
    for name, pipe in embedders.items():
        pipe.save_pretrained(folder / name)
    names = {f"{name}_model": str(folder / name) for name in embedders}
    make_pipeline({}, **names).model.save_pretrained(folder / "conversation")
    return folder


LOAD_AND_RUN = """
import json, sys
from transformers import AutoConfig, AutoModel, pipeline

checkpoint, recording, target = sys.argv[1:]
trusting = {"trust_remote_code": True}
conversation = [{"audio": recording, "text": "hello"}, {"text": "i am so glad"}]
pipe = pipeline(model=checkpoint, device="cpu", **trusting)
try:
    pipe(conversation)
    refusal = ""
except ValueError as error:
    refusal = str(error)
result = pipe(conversation, trust_embedders=True)
pipe.save_pretrained(target + "/saved")
named = pipeline("conversation-emotion", model=target + "/saved", trust_embedders=True, device="cpu", **trusting)
assert named(conversation) == result
parts = (AutoModel.from_pretrained(checkpoint, **trusting), AutoConfig.from_pretrained(checkpoint, **trusting))
homes = sorted({type(part).__module__.split(".")[0] for part in (*parts, pipe)})
names = [type(part).__name__ for part in parts]
print(json.dumps({"names": names, "homes": homes, "result": result, "refusal": refusal}))
"""


def test_the_folder_works_without_the_package_and_loads_the_models_that_it_names(stages, embedders, tmp_path):
    recording = tmp_path / "a.wav"
    soundfile.write(recording, make_speech(0.5), 16_000, subtype="FLOAT")

    loaded = run_elsewhere(LOAD_AND_RUN, stages / "conversation", recording, tmp_path, folder=tmp_path)

    assert loaded["names"] == ["MisterEForConversationEmotion", "MisterEConfig"]
    assert loaded["homes"] == ["transformers_modules"]
    assert "trust_embedders=True" in loaded["refusal"] and str(stages / "speech") in loaded["refusal"]
    pipe = ConversationPipeline.from_pretrained(stages / "conversation", embedders)
    expected = pipe([{"audio": recording, "text": "hello"}, {"text": "i am so glad"}])
    for result, own in zip(loaded["result"], expected, strict=True):
        assert result["gate"] == pytest.approx(own["gate"], abs=1e-6)
        scores, own_scores = ({each["label"]: each["score"] for each in some["emotion"]} for some in (result, own))
        assert scores == pytest.approx(own_scores, abs=1e-6)
    assert files_of(tmp_path / "saved") == files_of(stages / "conversation")


def test_models_are_loaded_only_if_trusted_and_once(stages, embedders, monkeypatch):
    pipe = ConversationPipeline.from_pretrained(stages / "conversation")
    conversation = [{"text": "hello"}, {"text": "i am so glad"}]
    with pytest.raises(ValueError, match=r"Loading .*text, .* runs the code in .*: read it, and pass trust_embedders"):
        pipe(conversation)
    expected = pipe(conversation, embedders=embedders)
    loads = []
    load = pipe._load_embedder
    monkeypatch.setattr(pipe, "_load_embedder", lambda *given: loads.append(given) or load(*given))
    assert pipe(conversation, trust_embedders=True) == expected
    assert pipe(conversation, trust_embedders=True) == expected
    assert loads == [("text", True)]  # the conversation has no speech
