# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Training on conversations: order of turns, missing embeddings, the result, resuming, seeds, the average, errors."""

import json
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from datasets import ClassLabel, Dataset, Features, List, Value
from safetensors.torch import load_file
from typer.testing import CliRunner

from modeling_sparse_merit import MisterEForConversationEmotion
from modeling_sparse_merit.cli import app
from modeling_sparse_merit.data.datasets import DatasetError, read_dataset
from modeling_sparse_merit.data.prepare import write_dataset
from modeling_sparse_merit.training import conversation
from modeling_sparse_merit.training.arguments import documented_fields
from modeling_sparse_merit.training.conversation import ConversationSettings
from modeling_sparse_merit.training.conversations import collate, embedding_sizes, read_conversations

LABELS = ["neutral", "joy", "anger"]
FEATURES = Features(
    {
        "emotion": ClassLabel(names=LABELS),
        "turn": Value("int32"),
        **{name: Value("string") for name in ("dialogue", "split")},
        **{name: List(Value("float32")) for name in ("speech_embedding", "text_embedding")},
    }
)
CONFIG = {
    "context_hidden_size": 8,
    "context_num_layers": 1,
    "cross_modal_size": 8,
    "cross_modal_layers": 1,
    "attention_size": 6,
    "context_dropout": 0.0,
}


def make_rows(dialogues: int = 18, seed: int = 0) -> list[dict]:
    """Utterances whose class is that of the text embedding of the utterance before, in shuffled order with gaps."""
    generator, rows = np.random.default_rng(seed), []
    for number in range(dialogues):
        split, before = ("train", "train", "dev")[number % 3], 0
        for place in range(5):
            own = int(generator.integers(3))
            rows.append(
                {
                    "emotion": before if place else None,
                    "turn": 2 * place,
                    "dialogue": f"{split}_{number}",
                    "split": split,
                    "speech_embedding": None if place == 3 else generator.standard_normal(4).tolist(),
                    "text_embedding": np.eye(3)[own].tolist(),
                }
            )
            before = own
    return [rows[index] for index in generator.permutation(len(rows))]


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("conversations") / "data"
    write_dataset(Dataset.from_list(make_rows(), FEATURES), folder)
    return folder


def train(data: Path, output_dir: Path, **changes) -> list[dict]:
    """A run with one seed; returns its log."""
    settings = {
        "output_dir": str(output_dir),
        "labels": LABELS,
        "data": [str(data)],
        "config": CONFIG,
        "epochs": 3,
        "learning_rate": 0.01,
        **changes,
    }
    conversation.train(ConversationSettings(**settings))
    return [json.loads(line) for line in (output_dir / "0" / "log.jsonl").read_text().splitlines()]


def test_every_setting_is_documented():
    assert list(documented_fields(ConversationSettings)) == [field.name for field in fields(ConversationSettings)]


def test_utterances_are_in_the_order_of_their_turns(data):
    rows = read_dataset(data, "train", required=None)
    conversations = read_conversations(rows, LABELS, {"speech": 4, "text": 3})
    assert len(conversations) == 12 and {len(each) for each in conversations} == {5}
    for each in conversations:
        assert [rows[int(row)]["turn"] for row in each.rows] == [0, 2, 4, 6, 8]
        assert {rows[int(row)]["dialogue"] for row in each.rows} == {each.name}
        assert each.present["speech"].tolist() == [True, True, True, False, True] and each.present["text"].all()
        assert each.labels[0] == -100
        assert each.labels[1:].tolist() == each.embeddings["text"][:-1].argmax(-1).tolist()


def test_batches_are_padded_on_the_right(data):
    conversations = read_conversations(read_dataset(data, required=None), LABELS, {"text": 3})
    short = conversations[0]
    cut = type(short)(
        short.name,
        short.rows[:2],
        short.labels[:2],
        {"text": short.embeddings["text"][:2]},
        {"text": short.present["text"][:2]},
    )
    batch = collate([cut, conversations[1]])
    assert batch["utterance_mask"].sum(1).tolist() == [2, 5]
    assert batch["labels"][0, 2:].tolist() == [-100] * 3 and not batch["text_mask"][0, 2:].any()
    assert set(batch) == {"utterance_mask", "labels", "text_embeddings", "text_mask"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"turn": None}, "every row needs both"),
        ({"turn": 0, "dialogue": "same"}, "two rows with the turn 0"),
        ({"text_embedding": None, "speech_embedding": None}, "has no embeddings in speech_embedding and text"),
    ],
)
def test_conversations_that_cannot_be_used_say_so(change, message):
    rows = Dataset.from_list([{**row, **change} for row in make_rows(3)], FEATURES)
    with pytest.raises(DatasetError, match=message):
        read_conversations(rows, LABELS, {"text": embedding_sizes(rows)["text_size"]})


def test_embeddings_of_several_widths_are_refused():
    rows = make_rows(3)
    rows[0]["text_embedding"] = [0.0]
    with pytest.raises(DatasetError, match=r"text_embedding has the widths \[1, 3\]"):
        embedding_sizes(Dataset.from_list(rows, FEATURES))


def test_context_is_learned_and_the_result_can_be_loaded(data, tmp_path):
    (tmp_path / "text").mkdir()  # a model on the Hub would be looked up there
    text_model = str(tmp_path / "text")
    log = train(data, tmp_path / "run", epochs=25, config={**CONFIG, "speech_size": 0}, text_model=text_model)
    assert {"train/loss", "dev/weighted_f1", "dev/macro_f1", "dev/uar"} < set(log[-1])
    best = tmp_path / "run" / "0" / "best"
    results = json.loads((best / "dev_results.json").read_text())
    assert results["dev"]["weighted_f1"] == pytest.approx(max(line["dev/weighted_f1"] for line in log), abs=1e-5)
    assert results["dev"]["weighted_f1"] > 0.9
    model = MisterEForConversationEmotion.from_pretrained(best)
    assert model.config.id2label == dict(enumerate(LABELS)) and model.config.text_model == text_model
    conversations = read_conversations(read_dataset(data, "dev", required=None), LABELS, {"text": 3})
    classes = conversation.predict(model, conversations, 2)
    correct = [
        c == t for own, each in zip(classes, conversations, strict=True) for c, t in zip(own, each.labels, strict=True)
    ]
    assert np.mean(correct) * 5 / 4 > 0.9  # the first of five utterances has no label
    settings = yaml.safe_load((best / "training.yaml").read_text())
    assert settings["data"] == ["data"] and "output_dir" not in settings
    record = yaml.safe_load((best / "training_data.yaml").read_text())
    assert record["corpora"][0]["clips"] == 90 and record["encoders"]["text"]["name"] == "text"


def test_a_stopped_run_resumes_to_the_same_result(data, tmp_path, monkeypatch):
    options = {"epochs": 4, "average_decay": 0.5}
    whole = train(data, tmp_path / "whole", **options)
    plain = conversation.Run._validate

    def stop_in_the_third(self, loss):
        if self.progress.epoch == 3:
            raise KeyboardInterrupt
        plain(self, loss)

    with monkeypatch.context() as patch:
        patch.setattr(conversation.Run, "_validate", stop_in_the_third)
        with pytest.raises(KeyboardInterrupt):
            train(data, tmp_path / "run", **options)
    with pytest.raises(FileExistsError, match="checkpoint-2 belongs to an earlier run"):
        train(data, tmp_path / "run", resume=False, **options)
    resumed = train(data, tmp_path / "run", **options)
    assert [line["train/loss"] for line in resumed] == [line["train/loss"] for line in whole]
    checkpoint = "0/checkpoint-4/average.safetensors"
    expected = load_file(tmp_path / "whole" / checkpoint)
    for name, weight in load_file(tmp_path / "run" / checkpoint).items():
        torch.testing.assert_close(weight, expected[name], msg=name)


def test_each_seed_has_a_run_of_its_own_that_repeats(data, tmp_path):
    train(data, tmp_path / "both", seeds=[0, 1], epochs=1)
    train(data, tmp_path / "alone", epochs=1)
    weights = {
        name: load_file(tmp_path / name / "best" / "model.safetensors") for name in ("both/0", "both/1", "alone/0")
    }
    name = "experts.text.classifier.weight"
    assert torch.equal(weights["both/0"][name], weights["alone/0"][name])
    assert not torch.equal(weights["both/0"][name], weights["both/1"][name])


def test_training_ends_when_the_score_stays(data, tmp_path):
    log = train(data, tmp_path / "run", epochs=9, learning_rate=1e-9, patience=2)
    assert len(log) == 3


def test_the_average_of_the_weights_is_validated_and_saved(data, tmp_path):
    train(data, tmp_path / "run", epochs=1, average_decay=0.9)
    best, average = (
        load_file(tmp_path / "run" / "0" / name)
        for name in ("best/model.safetensors", "checkpoint-1/average.safetensors")
    )
    assert torch.equal(best["gate.dense.weight"], average["module.gate.dense.weight"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"data": []}, "`data` is .*; expected at least one dataset"),
        ({"seeds": [1, 1]}, "expected distinct seeds"),
        ({"seeds": []}, "expected a list of whole numbers"),
        ({"choose_by": "accuracy"}, "expected one of"),
    ],
)
def test_settings_that_cannot_be_say_so(given, message):
    with pytest.raises(ValueError, match=message):
        ConversationSettings(**{"data": ["x"], **given})


def test_a_size_that_the_data_does_not_have_is_refused(data, tmp_path):
    with pytest.raises(ValueError, match="`config.text_size` is 7; expected 3, that of the data, or 0"):
        train(data, tmp_path, config={**CONFIG, "text_size": 7})


def test_conversations_without_any_label_are_an_error(data, tmp_path):
    with pytest.raises(DatasetError, match="no utterance of the split 'train' has one of the labels"):
        train(data, tmp_path, labels=["calm", "tense"])


def test_a_dialogue_in_two_splits_is_reported(data, tmp_path):
    rows = make_rows(3)
    for row in rows:
        row["dialogue"] = row["dialogue"].removeprefix("dev_").removeprefix("train_")
    rows[0] = {**rows[0], "split": "dev" if rows[0]["split"] == "train" else "train"}
    write_dataset(Dataset.from_list(rows, FEATURES), tmp_path / "data")
    with pytest.warns(UserWarning, match="1 values of 'dialogue' are in more than one split"):
        train(tmp_path / "data", tmp_path / "run", epochs=1)


def test_the_command_trains_on_conversations(data, tmp_path):
    settings = {"output_dir": str(tmp_path / "run"), "data": [str(data)], "labels": LABELS, "config": CONFIG}
    (tmp_path / "run.yaml").write_text(json.dumps(settings))
    done = CliRunner().invoke(app, ["train", "conversation", str(tmp_path / "run.yaml"), "--epochs", "1"])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "run" / "0" / "best" / "model.safetensors").exists()
    shutil.rmtree(tmp_path / "run")
