# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""A card and figures never stay next to weights that they do not describe, and a person's own words are never lost."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from conftest import TINY
from typer.testing import CliRunner

from modeling_sparse_merit import (
    SparseMeritConfig,
    SparseMeritFeatureExtractor,
    SparseMeritForSpeechEnhancementAndEmotion,
)
from modeling_sparse_merit.cli import app
from modeling_sparse_merit.hub.export import export_checkpoint
from modeling_sparse_merit.hub.push import check_checkpoint

RUNNER = CliRunner()


@pytest.fixture(scope="module")
def other(tiny_config, tmp_path_factory) -> Path:
    """Another model, with labels of its own and a record of its training."""
    folder = tmp_path_factory.mktemp("other") / "other"
    torch.manual_seed(7)
    labels = {0: "calm", 1: "tense"}
    config = SparseMeritConfig(**{**tiny_config.to_diff_dict(), "id2label": labels, "label2id": None})
    SparseMeritForSpeechEnhancementAndEmotion(config).save_pretrained(folder)
    SparseMeritFeatureExtractor().save_pretrained(folder)
    return folder


@pytest.fixture
def first(tiny_checkpoint, tmp_path) -> Path:
    """The export of a model with a licence, training scores and an example."""
    source = shutil.copytree(tiny_checkpoint, tmp_path / "first")
    (source / "LICENSE").write_text("Of the first model.")
    (source / "training_data.yaml").write_text(
        "name: first\nlicense: mit\ncorpora: [{name: A, use: emotion, license: MIT}]"
    )
    (source / "dev_results.json").write_text(json.dumps({"epoch": 5, "step": 77, "dev": {"macro_f1": 0.777}}))
    (source / "call.wav").write_bytes(b"RIFF")
    outputs = {"model": {"sha256": sha256(source)}, "examples": [{"file": "call.wav", "emotion": []}]}
    (source / "examples.json").write_text(json.dumps(outputs))
    export("exported", source, tmp_path)
    return tmp_path / "exported"


def sha256(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def export(name: str, model: Path, folder: Path, *options: str):
    result = RUNNER.invoke(app, ["export", str(folder / name), "--model", str(model), *options])
    assert result.exit_code == 0, result.output
    return result


def notes(result) -> str:
    return " ".join(result.stderr.split())


def test_another_model_in_the_same_folder_gets_a_card_of_its_own_and_no_figures_of_the_first(first, other, tmp_path):
    card = (first / "README.md").read_text()
    assert "0.777" in card and "license: mit" in card
    result = export("exported", other, tmp_path, "--overwrite")
    card = (first / "README.md").read_text()
    assert "0.777" not in card and "license: mit" not in card and "| 0 | calm |" in card and sha256(other) in card
    gone = ("LICENSE", "training_data.yaml", "dev_results.json", "examples.json", "call.wav")
    assert not any((first / name).exists() for name in gone)
    assert "belong to the previous weights" in notes(result)
    assert all(name in notes(result) for name in gone)
    check_checkpoint(first)


def test_a_card_that_a_person_edited_is_kept_and_the_command_says_what_may_no_longer_hold(first, other, tmp_path):
    edited = (first / "README.md").read_text().replace("## Use", "## Thanks\n\nTo all who spoke.\n\n## Use")
    (first / "README.md").write_text(edited)
    result = export("exported", other, tmp_path, "--overwrite")
    assert (first / "README.md").read_text() == edited
    said = notes(result)
    assert f"{first / 'README.md'} was written by hand" in said and "may be outdated" in said
    for part in ("`license`", "Thanks", "Inputs and outputs", "On the dev set, during training"):
        assert part in said
    pushed = RUNNER.invoke(app, ["push", str(first), "someone/model", "--token", "none"])
    assert pushed.exit_code == 2 and "README.md describes other weights" in " ".join(pushed.stderr.split())


def test_a_card_by_hand_is_kept_too_and_one_for_the_same_weights_without_alarm(
    first, tiny_checkpoint, other, tmp_path
):
    (first / "README.md").write_text("---\nlicense: mit\n---\n# Handmade\n\nAll about it.\n")
    result = export("exported", other, tmp_path, "--overwrite")
    assert "All about it." in (first / "README.md").read_text() and "`license`, Handmade" in notes(result)
    assert not export("again", tiny_checkpoint, tmp_path).stderr
    assert not export("again", tiny_checkpoint, tmp_path, "--overwrite").stderr
    (tmp_path / "again" / "README.md").write_text((tmp_path / "again" / "README.md").read_text() + "\nA word.\n")
    assert "README.md was edited by hand and is kept" in notes(
        export("again", tiny_checkpoint, tmp_path, "--overwrite")
    )


def test_records_that_belong_to_the_weights_stay_and_appear_in_the_card(tiny_checkpoint, tmp_path):
    export("exported", tiny_checkpoint, tmp_path)
    scores = json.dumps({"epoch": 5, "step": 77, "dev": {"macro_f1": 0.777}})
    (tmp_path / "exported" / "dev_results.json").write_text(scores)
    result = export("exported", tiny_checkpoint, tmp_path, "--overwrite")
    assert not result.stderr and "0.777" in (tmp_path / "exported" / "README.md").read_text()


def test_a_card_next_to_weights_that_were_replaced_is_not_taken_along(first, other, tmp_path):
    shutil.copy(other / "model.safetensors", first)
    shutil.copy(other / "config.json", first)
    for name in ("examples.json", "dev_results.json"):
        (first / name).unlink()
    with pytest.raises(ValueError, match="README.md describes other weights"):
        check_checkpoint(first)
    result = export("second", first, tmp_path)
    assert "describes other weights than those next to it" in notes(result)
    assert sha256(other) in (tmp_path / "second" / "README.md").read_text()


def test_the_card_of_the_embedded_checkpoint_is_taken_along_with_its_figures(tmp_path):
    export_checkpoint(TINY, tmp_path / "tiny")
    card = (tmp_path / "tiny" / "README.md").read_bytes()
    assert card == (TINY / "README.md").read_bytes() and sha256(TINY).encode() in card
    check_checkpoint(tmp_path / "tiny")


def test_results_of_other_weights_are_not_pushed(first):
    (first / "evaluation.json").write_text(json.dumps({"model": {"sha256": "0" * 64}}))
    with pytest.raises(ValueError, match="evaluation.json belongs to other weights than"):
        check_checkpoint(first)


def test_a_report_on_several_systems_gives_the_card_the_figures_of_its_model(tiny_checkpoint, other, tmp_path):
    report = make_comparison({"first": tiny_checkpoint, "other": other})
    (tmp_path / "results.json").write_text(json.dumps(report))
    export("exported", other, tmp_path, "--results", str(tmp_path))
    card = (tmp_path / "exported" / "README.md").read_text()
    written = json.loads((tmp_path / "exported" / "evaluation.json").read_text())
    assert written["labels"] == ["calm", "tense"] and written["model"]["sha256"] == sha256(other)
    assert "0.222" in card and "0.111" not in card and "(calm 3, tense 5)" in card
    check_checkpoint(tmp_path / "exported")

    with pytest.raises(ValueError, match="export with --half, then evaluate that folder"):
        export_checkpoint(other, tmp_path / "half", half=True, results=tmp_path)
    with pytest.raises(ValueError, match=f"belongs to other weights.*first: {sha256(tiny_checkpoint)}"):
        export_checkpoint(TINY, tmp_path / "third", results=tmp_path / "results.json")


def make_comparison(systems: dict[str, Path]) -> dict:
    """A report on several systems, with a macro-F1 of 0.111 for the first, 0.222 for the second."""
    labels = {"first": ["angry", "sad"], "other": ["calm", "tense"]}
    results = {}
    for number, name in enumerate(systems, start=1):
        score = {"macro_f1": number * 0.111, "macro_f1_interval": [0, 1], "unweighted_average_recall": 0.5}
        score |= {"unweighted_average_recall_interval": [0, 1], "accuracy": 0.5, "clips": 8}
        score |= {field: dict.fromkeys(labels[name], value) for field, value in PER_CLASS.items()}
        condition = {"condition": "clean", "pool": None, "snr_db": None, "enhancement": {}, "expert_use": None}
        results[name] = {"members": 1, "labels": labels[name], "conditions": [{**condition, "emotion": score}]}
    return {
        "config": {"speech": ["calls"], "speech_split": "test", "bootstrap_resamples": 10, "seed": 0},
        "systems": {name: [{"name": name, "sha256": sha256(path)}] for name, path in systems.items()},
        "labels": ["angry", "sad", "calm", "tense"],
        "clips": {"evaluated": 9, "speakers": 2, "labelled": {"angry": 1, "sad": 0, "calm": 3, "tense": 5}},
        "noise": {},
        "versions": {"torch": "2"},
        "results": results,
        "comparisons": None,
    }


PER_CLASS = {"per_class_f1": 0.5, "per_class_f1_interval": [0, 1]}


def test_shards_and_adapters_do_not_stay_next_to_the_weights_that_replace_them(tiny_checkpoint, tmp_path):
    target = tmp_path / "exported"
    target.mkdir()
    model = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(tiny_checkpoint)
    model.save_pretrained(target, max_shard_size="100KB")
    assert len(list(target.glob("model-*.safetensors"))) > 1
    (target / "adapter_config.json").write_text("{}")
    export("exported", tiny_checkpoint, tmp_path, "--overwrite")
    assert [path.name for path in target.glob("*.safetensors*")] == ["model.safetensors"]
    assert not (target / "adapter_config.json").exists()
