# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Labels that the checkpoint has start from its rows of the classifier; own words can be mapped onto them."""

import json
import logging
import re
from dataclasses import asdict

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from modeling_sparse_merit import SparseMeritConfig, SparseMeritFeatureExtractor
from modeling_sparse_merit.training import build
from modeling_sparse_merit.training.settings import TrainingSettings, parse_settings

BASE = ["angry", "sad", "happy", "neutral"]
WEIGHT, BIAS = "heads.emotion.classifier.weight", "heads.emotion.classifier.bias"


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint, tmp_path_factory):
    """A checkpoint whose classifier has a bias, so that rows can be told apart by it as well."""
    folder = tmp_path_factory.mktemp("labels")
    SparseMeritConfig.from_pretrained(tiny_checkpoint, class_weights=[1.0, 2.0, 3.0, 4.0]).save_pretrained(folder)
    SparseMeritFeatureExtractor.from_pretrained(tiny_checkpoint).save_pretrained(folder)
    weights = load_file(tiny_checkpoint / "model.safetensors")
    weights[BIAS] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def classifier_of(checkpoint, labels, rank=0, **changes):
    """The model, and weight and bias of its classifier."""
    settings = TrainingSettings(model=str(checkpoint), labels=labels, lora_rank=rank, **changes)
    model = build.build_model(settings)
    plain = model.get_base_model() if rank else model
    classifier = plain.heads["emotion"].modules_to_save["default"] if rank else plain.heads["emotion"]
    return plain, classifier.classifier.weight.detach(), classifier.classifier.bias.detach()


@pytest.mark.parametrize("rank", [0, 4])
@pytest.mark.parametrize(
    "labels",
    [
        BASE,
        ["neutral", "happy", "sad", "angry"],
        ["sad", "angry"],
        ["calm", "neutral", *BASE[:3], "tense"],
        ["calm", "tense"],
    ],
    ids=["same", "another order", "subset", "superset", "none of them"],
)
def test_rows_of_known_labels_are_taken_over_by_name(checkpoint, labels, rank):
    base = load_file(checkpoint / "model.safetensors")
    model, weight, bias = classifier_of(checkpoint, labels, rank)
    assert weight.shape[0] == bias.shape[0] == model.config.num_labels == len(labels)
    assert list(model.config.id2label.values()) == labels and model.config.label2id[labels[-1]] == len(labels) - 1
    for place, label in enumerate(labels):
        if label in BASE:
            assert torch.equal(weight[place], base[WEIGHT][BASE.index(label)])
            assert bias[place] == BASE.index(label) + 1
        else:
            assert not (base[WEIGHT] == weight[place]).all(dim=1).any() and bias[place] == 0
            assert 0 < weight[place].std() < 3 * model.config.initializer_range
    for name, value in model.state_dict().items():
        if rank == 0 and "classifier" not in name:
            assert torch.equal(value, base[name]), name


def test_weights_of_classes_are_those_of_the_run_and_not_of_the_checkpoint(checkpoint):
    assert classifier_of(checkpoint, BASE)[0].config.class_weights == [1.0, 2.0, 3.0, 4.0]
    assert classifier_of(checkpoint, BASE[::-1])[0].config.class_weights is None


@pytest.mark.parametrize("rank", [0, 4])
def test_own_words_start_from_labels_of_the_checkpoint(checkpoint, rank, caplog):
    with caplog.at_level(logging.INFO):
        model, _, bias = classifier_of(checkpoint, ["upset=angry", "calm", "neutral", "furious=angry"], rank)
    assert list(model.config.id2label.values()) == ["upset", "calm", "neutral", "furious"]
    assert bias.tolist() == [1, 0, 4, 1]
    assert "upset (from angry), neutral, furious (from angry); new rows: calm" in caplog.text


def test_a_classifier_that_the_checkpoint_does_not_hold_has_no_rows_to_take_over(checkpoint, caplog):
    with caplog.at_level(logging.INFO):
        _, _, bias = classifier_of(checkpoint, ["sad", "angry"], config={"emotion_hidden_size": 8})
    assert bias.tolist() == [0, 0] and "none; new rows: sad, angry" in caplog.text


def test_adapters_without_the_emotion_head_take_renamed_labels_and_no_other_order(checkpoint):
    renamed = ["upset=angry", *BASE[1:]]
    parts = ["routers"]
    settings = TrainingSettings(model=str(checkpoint), labels=renamed, lora_rank=2, lora_train_modules=parts)
    assert build.build_model(settings).config.id2label[0] == "upset"
    for labels in (BASE[::-1], BASE[:2], ["angry=sad", "sad=angry", *BASE[2:]]):
        with pytest.raises(ValueError, match="Add 'emotion'"):
            classifier_of(checkpoint, labels, rank=2, lora_train_modules=parts)


def test_own_words_are_settings_of_the_command_line_and_of_a_file(tmp_path):
    file = tmp_path / "run.yaml"
    file.write_text("model: x\nlabels: [upset=angry, calm = neutral, sad]\n", encoding="utf-8")
    from_file = parse_settings([str(file)])
    from_line = parse_settings(["--model", "x", "--labels", "upset=angry", "calm=neutral", "sad"])
    mapping = parse_settings(
        ["--model", "x", "--labels", "upset", "calm", "sad", "--labels_from", "{upset: angry, calm: neutral}"]
    )
    assert from_file == from_line == mapping
    assert from_file.labels == ["upset", "calm", "sad"] and from_file.labels_from == {
        "upset": "angry",
        "calm": "neutral",
    }
    written = json.loads(json.dumps(asdict(from_file)))
    file.write_text(yaml.safe_dump(written), encoding="utf-8")
    assert parse_settings([str(file)]) == from_file


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": ["upset=angry"]}, "`model` is None: name the checkpoint"),
        ({"model": "x", "labels": ["upset=angry", "upset=sad"]}, "distinct names"),
        ({"model": "x", "labels": ["upset=angry", "upset"]}, "distinct names"),
        ({"model": "x", "labels": ["upset="]}, "OWN=LABEL"),
        ({"model": "x", "labels": ["a=b=c"]}, "OWN=LABEL"),
        ({"model": "x", "labels": [1, 2]}, "`labels` is .1, 2.; expected a list of names"),
        (
            {"model": "x", "labels": ["upset=angry"], "labels_from": {"upset": "sad"}},
            "expected the same source of .'upset'",
        ),
        ({"model": "x", "labels": ["calm"], "labels_from": {"upset": "sad"}}, "names in `labels`"),
    ],
)
def test_labels_that_cannot_be_say_so(fields, message):
    with pytest.raises(ValueError, match=message):
        TrainingSettings(**fields)


def test_an_unknown_label_of_the_checkpoint_lists_those_it_has(checkpoint):
    with pytest.raises(
        ValueError, match=r"upset=anger, but .* expected one of \['angry', 'sad', 'happy', 'neutral'\]"
    ):
        classifier_of(checkpoint, ["upset=anger"])


def test_each_of_resume_and_no_resume_says_what_it_does(capsys):
    with pytest.raises(SystemExit):
        parse_settings(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert re.search(
        r"--resume \[RESUME\] Continue from the newest checkpoint in `output_dir`, if there is one", shown
    )
    assert re.search(r"--no_resume, --no-resume Refuse an output_dir that holds a checkpoint", shown)
