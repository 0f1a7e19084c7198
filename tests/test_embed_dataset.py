# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""`sparse-merit embed`: columns, missing clips, resuming, and models that cannot give embeddings."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from conftest import make_speech
from datasets import Dataset, Features
from test_modeling_speech_text import TEXT_CONFIGS, make_tokenizer, speech_config
from typer.testing import CliRunner

from modeling_sparse_merit import (
    SparseMeritFeatureExtractor,
    SpeechTextConfig,
    SpeechTextForEmotion,
    SpeechTextProcessor,
    write_audio,
)
from modeling_sparse_merit.cli import app
from modeling_sparse_merit.data.datasets import read_dataset, speech_features, text_features
from modeling_sparse_merit.data.prepare import write_dataset
from modeling_sparse_merit.training import embed_dataset as module
from modeling_sparse_merit.training.embed_dataset import embed_dataset

TEXTS = ["i am so glad", "hello", "i am so glad", " "]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A dataset of four utterances, of which one has no recording and one no text, and models of both modalities."""
    root = tmp_path_factory.mktemp("embed")
    rows = []
    for turn, text in enumerate(TEXTS):
        write_audio(root / f"{turn}.wav", make_speech(0.4, seed=turn), 16_000)
        audio = None if turn == 1 else {"path": str(root / f"{turn}.wav"), "bytes": None}
        rows.append({"audio": audio, "text": text, "dialogue": "d0", "turn": turn, "split": "train", "duration": 0.4})
    features = Features({**speech_features(), **text_features()})
    table = pa.Table.from_pylist([{**dict.fromkeys(features), **row} for row in rows], features.arrow_schema)
    write_dataset(Dataset(table), root / "data")
    torch.manual_seed(0)
    parts = {
        "speech": ({"speech_config": speech_config()}, SpeechTextProcessor(SparseMeritFeatureExtractor())),
        "text": ({"text_config": TEXT_CONFIGS["bert"]}, SpeechTextProcessor(None, make_tokenizer())),
    }
    for name, (config, processor) in parts.items():
        model = SpeechTextForEmotion(SpeechTextConfig(**config, head_hidden_size=8))
        model.save_pretrained(root / name)
        processor.save_pretrained(root / name)
    return root


def test_the_command_adds_the_hidden_layer_of_both_models(folder, tmp_path):
    arguments = ["embed", str(folder / "data"), str(tmp_path / "out"), "--device", "cpu"]
    arguments += [part for name in ("speech", "text") for part in (f"--{name}", str(folder / name))]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    rows = read_dataset(tmp_path / "out")
    speech, text = rows["speech_embedding"][:], rows["text_embedding"][:]
    assert [value is None for value in speech] == [False, True, False, False]
    assert [value is None for value in text] == [False, False, False, True]
    assert text[0] == text[2] and text[0] != text[1] and {len(value) for value in text[:3]} == {8}

    model = SpeechTextForEmotion.from_pretrained(folder / "text").eval()
    tokens = SpeechTextProcessor.from_pretrained(folder / "text")(text="hello", return_tensors="pt")
    with torch.no_grad():
        hidden = torch.tensor(text[1])[None]
        head = model.heads["emotion"]
        torch.testing.assert_close(head.classifier(head.activation(hidden)), model(**tokens).logits)
    assert "text_embedding: hidden layer of text, weights " in rows.info.description
    assert not (tmp_path / "out.embeddings").exists()
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 2 and "--overwrite" in refused.stderr


def test_an_interrupted_run_resumes_without_the_encoder(folder, tmp_path, monkeypatch):
    first = embed_dataset(folder / "data", tmp_path, text=str(folder / "text"))

    def refuse(*arguments):
        raise AssertionError("the encoder was run")

    with monkeypatch.context() as patch:
        patch.setattr(module.SpeechTextForEmotion, "embed_text", refuse)
        again = embed_dataset(folder / "data", tmp_path, text=str(folder / "text"))
    assert first["text_embedding"][:3] == again["text_embedding"][:3]
    assert len(list(tmp_path.rglob("*.safetensors"))) == 3  # two texts and a blank one


def test_other_weights_have_other_embeddings(folder, tmp_path):
    model = SpeechTextForEmotion.from_pretrained(folder / "text")
    torch.nn.init.normal_(model.text.embeddings.word_embeddings.weight)
    model.save_pretrained(tmp_path / "other")
    SpeechTextProcessor.from_pretrained(folder / "text").save_pretrained(tmp_path / "other")
    values = [
        np.array(embed_dataset(folder / "data", tmp_path / "cache", text=str(source))["text_embedding"][0])
        for source in (folder / "text", tmp_path / "other")
    ]
    assert np.abs(values[0] - values[1]).max() > 0.1


def test_models_that_give_no_embeddings_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="No model was given"):
        embed_dataset(folder / "data", tmp_path)
    with pytest.raises(ValueError, match="has speech and the tasks .* expected text alone"):
        embed_dataset(folder / "data", tmp_path, text=str(folder / "speech"))
