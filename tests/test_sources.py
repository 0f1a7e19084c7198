# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Names of the checkpoints inside the package: short and in full, the same in every working directory."""

import shutil
from pathlib import Path

import pytest

from modeling_sparse_merit import (
    DEFAULT_CHECKPOINT,
    SparseMeritForSpeechEnhancementAndEmotion,
    SpeechEnhancementAndEmotionPipeline,
)
from modeling_sparse_merit.cli.options import resolve_model
from modeling_sparse_merit.evaluation.systems import CheckpointSystem
from modeling_sparse_merit.models.sparse_merit import sources
from modeling_sparse_merit.models.sparse_merit.sources import embedded_name, locate, portable_name
from modeling_sparse_merit.training.build import build_feature_extractor, build_model
from modeling_sparse_merit.training.cascade import EnhancementModel
from modeling_sparse_merit.training.settings import TrainingSettings


@pytest.fixture
def embedded(tiny_checkpoint, tmp_path, monkeypatch) -> Path:
    """Checkpoints `base` and `enhance_free` inside a package, which is not the working directory."""
    package = tmp_path / "site" / "package_of_checkpoints"
    for name in ("base", "enhance_free"):
        shutil.copytree(tiny_checkpoint, package / "checkpoints" / name)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.setattr(sources, "PACKAGE", package.name)
    monkeypatch.chdir(tmp_path)
    return package / "checkpoints"


@pytest.mark.parametrize("name", ["base", "sparse-merit-base"])
def test_short_and_full_names_are_those_of_the_package(embedded, name):
    assert locate(name) == str(embedded / "base")
    assert embedded_name(name) == portable_name(name) == portable_name(embedded / "base") == "sparse-merit-base"
    assert resolve_model(name, None) == str(embedded / "base")


@pytest.mark.parametrize("name", ["base", "sparse-merit-base"])
def test_a_folder_of_that_name_is_given_as_a_path(embedded, tiny_checkpoint, name, caplog):
    caplog.set_level("WARNING", "modeling_sparse_merit")  # which the command may have raised in this process
    here = Path(shutil.copytree(tiny_checkpoint, name))
    assert locate(name) == str(embedded / "base")
    assert f"pass './{name}'" in caplog.text
    caplog.clear()
    for path in (f"./{name}", f"{name}/", here, here.resolve()):
        assert Path(locate(path)).resolve() == here.resolve() == Path(portable_name(locate(path)))
        assert locate(locate(path)) == locate(path)  # it stays a path
    assert not caplog.text


def test_a_folder_without_a_checkpoint_is_no_reason_for_a_warning(embedded, caplog):
    Path("base").mkdir()
    assert locate("base") == str(embedded / "base") and not caplog.text
    with pytest.raises(FileNotFoundError, match=r"has no config\.json"):
        locate("./base")


def test_only_weights_of_the_package_have_its_notice(embedded, tiny_checkpoint, caplog):
    (embedded / "base" / "LICENSE-weights").write_text("SPDX-License-Identifier: CC-BY-NC-4.0\n")
    shutil.copytree(tiny_checkpoint, "base")
    with caplog.at_level("WARNING", "modeling_sparse_merit"):
        SparseMeritForSpeechEnhancementAndEmotion.from_pretrained("base")  # the folder, as in transformers
        assert "licensed under" not in caplog.text
        SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(locate("base"))
        assert "The weights of sparse-merit-base are licensed under CC-BY-NC-4.0" in caplog.text


def test_an_unknown_name_is_refused_with_the_names_that_there_are(embedded):
    with pytest.raises(FileNotFoundError, match=r"inside the package \(base, enhance_free\)"):
        locate("huge")


def test_names_belong_to_no_revision(embedded):
    with pytest.raises(ValueError, match="--revision v1 applies to models on the Hub only"):
        resolve_model("base", "v1")


def test_the_default_is_a_checkpoint_of_the_package():
    assert resolve_model(None, None) == locate(DEFAULT_CHECKPOINT.name) == str(DEFAULT_CHECKPOINT)


def test_pipelines_training_and_evaluation_take_names():
    assert SpeechEnhancementAndEmotionPipeline.from_pretrained("tiny").model.name_or_path == locate("tiny")
    assert CheckpointSystem("tiny").describe()["name"] == "sparse-merit-tiny"
    labels = ["angry", "sad", "happy", "neutral"]
    for settings in (TrainingSettings(model="tiny", labels=labels), TrainingSettings(encoder="tiny", labels=labels)):
        assert build_feature_extractor(settings).normalization == "corpus"
        assert build_model(settings).config.hidden_size == 512
    assert "enhancement" in EnhancementModel("tiny", "cpu").model.config.tasks
