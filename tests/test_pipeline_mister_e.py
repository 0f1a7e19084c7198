# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The pipeline of conversations: recordings and texts in, emotions and gate weights out."""

import pytest
import torch
from conftest import make_speech
from test_modeling_speech_text import TEXT_CONFIGS, make_tokenizer, speech_config

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
        ([{"text": "hello"}], {"embedders": {}}, ValueError, "there is no embedder for text; .* of someone/text"),
        ([{"text": "hello"}], {"top_k": 0}, ValueError, "top_k is 0"),
        ([{"text": "hello"}], {"batch": 2}, TypeError, "Unknown arguments"),
    ],
)
def test_inputs_that_cannot_be_used_say_so(embedders, inputs, options, error, message):
    with pytest.raises(error, match=message):
        make_pipeline(embedders, text_model="someone/text")(inputs, **options)
