# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Checkpoints that go into the package: their files, their licence, and the notice at the first load."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import TINY
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from typer.testing import CliRunner

from modeling_sparse_merit import (
    EmotionPipeline,
    SparseMeritConfig,
    SparseMeritFeatureExtractor,
    SparseMeritForSpeechEnhancementAndEmotion,
)
from modeling_sparse_merit.cli import app
from modeling_sparse_merit.hub.embedded import document_checkpoint, embed_checkpoint, render_license
from modeling_sparse_merit.hub.model_card import render_card

PACKAGE = Path(__file__).parents[1] / "modeling_sparse_merit"
FILES = {"config.json", "preprocessor_config.json", "model.safetensors", "README.md", "LICENSE-weights"}
WHISPER = {
    "name": "Whisper base",
    "license": "MIT",
    "copyright": "Copyright (c) 2022 OpenAI",
    "source": "https://github.com/openai/whisper",
    "license_text": "Permission is granted, if this notice is included.\n",
}
BASE = {
    "name": "sparse-merit-base",
    "license": "cc-by-nc-sa-4.0",
    "encoder": WHISPER,
    "limits": {"Children": "Not tested."},
    "corpora": [
        {
            "name": "Stage",
            "use": "emotion",
            "license": "CC BY-NC 4.0",
            "commercial_use": False,
            "source": "[s](http://s)",
        },
        {"name": "Street", "use": "noise", "license": "CC0", "commercial_use": True},
    ],
}
FREE = {
    "name": "sparse-merit-enhance_free",
    "license": "cc-by-4.0",
    "corpora": [{"name": "Open", "use": "clean speech", "license": "CC BY 4.0", "commercial_use": True}],
}


def records_of(folder: Path, data: dict) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "training_data.yaml").write_text(yaml.safe_dump(data))
    return folder


@pytest.fixture(scope="module")
def enhancement_alone(tiny_config, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("alone") / "best"
    torch.manual_seed(0)
    config = SparseMeritConfig(**{**tiny_config.to_dict(), "tasks": ["enhancement"]})
    SparseMeritForSpeechEnhancementAndEmotion(config).save_pretrained(folder)
    SparseMeritFeatureExtractor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def site(tiny_checkpoint, enhancement_alone, tmp_path_factory) -> Path:
    """A copy of the package with two more checkpoints in it."""
    site = tmp_path_factory.mktemp("site")
    package = Path(
        shutil.copytree(PACKAGE, site / "modeling_sparse_merit", ignore=shutil.ignore_patterns("__pycache__"))
    )
    for name, model, data in (("base", tiny_checkpoint, BASE), ("enhance_free", enhancement_alone, FREE)):
        embed_checkpoint(model, package / "checkpoints" / name, records_of(site / name, data), half=True)
    return site


def run(site: Path, *command: str, **variables: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(site), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **variables}
    done = subprocess.run([sys.executable, *command], cwd=site, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done


def test_a_training_result_becomes_the_files_of_a_checkpoint_in_fp16(site, tiny_checkpoint):
    folder = site / "modeling_sparse_merit" / "checkpoints" / "base"
    assert {path.name for path in folder.iterdir()} == FILES
    weights = load_file(folder / "model.safetensors")
    assert torch.float16 in {weight.dtype for weight in weights.values()}
    assert SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(folder).dtype == torch.float32
    before = {name: (folder / name).read_bytes() for name in FILES}
    document_checkpoint(folder, site / "base")
    assert {name: (folder / name).read_bytes() for name in FILES} == before


def test_a_checkpoint_without_a_known_licence_replaces_nothing(tiny_checkpoint, tmp_path):
    folder = Path(shutil.copytree(TINY, tmp_path / "tiny"))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match="expected a name and one of"):
        embed_checkpoint(tiny_checkpoint, folder, records_of(tmp_path / "records", {**BASE, "license": "unheard-of"}))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_the_licence_names_its_identifier_the_encoder_and_the_corpora(tmp_path):
    text = render_license(records_of(tmp_path, BASE))
    assert (
        "\nSPDX-License-Identifier: CC-BY-NC-SA-4.0 AND MIT\nhttps://creativecommons.org/licenses/by-nc-sa/4.0/\n"
        in text
    )
    assert "Encoder: Whisper base, Copyright (c) 2022 OpenAI, MIT, https://github.com/openai/whisper\n" in text
    assert "\n\nPermission is granted, if this notice is included.\n\nTrained on\n" in text
    assert "- Stage; CC BY-NC 4.0; http://s\n- Street; CC0\n" in text
    with pytest.raises(ValueError, match="expected a name and one of apache-2.0"):
        render_license(records_of(tmp_path, {**BASE, "license": "unheard-of"}))
    with pytest.raises(FileNotFoundError, match=r"training_data\.yaml is missing"):
        render_license(tmp_path / "nowhere")


def test_the_card_says_what_the_licences_allow_and_how_to_get_free_weights(tiny_checkpoint, tmp_path):
    card = render_card(tiny_checkpoint, records_of(tmp_path, BASE))
    assert "| Stage | emotion | – | – | – | CC BY-NC 4.0 | no | [s](http://s) |" in card
    assert "| Street | noise | – | – | – | CC0 | yes |" in card
    assert "### Commercial use" in card and "sparse-merit convert openai/whisper-base" in card
    assert "Whisper base (Copyright (c) 2022 OpenAI; licence: MIT;" in card
    assert "- **Children.** Not tested." in card


def test_the_card_of_an_enhancement_has_nothing_of_emotion(enhancement_alone, tmp_path):
    card = render_card(enhancement_alone, records_of(tmp_path, FREE))
    data = ModelCard(card).data
    assert data.pipeline_tag == "audio-to-audio" and "speech-emotion-recognition" not in data.tags
    for words in (
        "### Commercial use",
        "**Emotion",
        "lie detector",
        "2024/1689",
        "emotion_timeline",
        "logits",
        "Bias",
    ):
        assert words not in card
    assert "Enhanced speech is an estimate" in card and "license: cc-by-4.0" in card


LOAD_TWICE = """
from modeling_sparse_merit import SpeechEnhancementAndEmotionPipeline as P
for name in ("enhance_free", "base", "./modeling_sparse_merit/checkpoints/base"):
    P.from_pretrained(name, device="cpu")
"""


DEMO = ("-m", "modeling_sparse_merit.cli", "demo", "-o")


def test_the_licence_is_said_once(site):
    said = run(site, "-c", LOAD_TWICE).stderr
    assert said.count("licensed under") == 1 and "sparse-merit-base are licensed under CC-BY-NC-SA-4.0" in said
    assert "LICENSE-weights" in said and "TRANSFORMERS_NO_ADVISORY_WARNINGS=1" in said


def test_the_command_line_says_it_once_on_stderr(site):
    done = run(site, *DEMO, "of_base", "--model", "base")
    assert done.stderr.count("licensed under") == 1 and "licensed under" not in done.stdout


@pytest.mark.slow
def test_the_licence_can_be_silenced_and_that_of_free_weights_is_not_said(site):
    assert "licensed under" not in run(site, "-c", LOAD_TWICE, TRANSFORMERS_NO_ADVISORY_WARNINGS="1").stderr
    done = run(site, *DEMO, "of_free", "--model", "enhance_free")
    assert (
        "licensed under" not in done.stderr and '"emotion": null' in (site / "of_free" / "results.jsonl").read_text()
    )


@pytest.mark.slow
def test_a_quiet_stream_prints_errors_alone(site):
    (site / "silence.pcm").write_bytes(bytes(64_000))
    stream = ("-m", "modeling_sparse_merit.cli", "stream", "silence.pcm", "--json", "--model", "base")
    assert run(site, *stream).stderr.count("licensed under") == 1
    assert run(site, *stream, "--quiet").stderr == ""


def test_what_needs_the_emotion_refuses_an_enhancement_clearly(enhancement_alone, tmp_path):
    with pytest.raises(ValueError, match=r"has the tasks \['enhancement'\]; expected a model with the task 'emotion'"):
        EmotionPipeline.from_pretrained(enhancement_alone)
    recording = PACKAGE / "demo" / "noisy_speech.flac"
    command = ["enhance", str(recording), "-o", str(tmp_path / "out"), "--model", str(enhancement_alone)]
    result = CliRunner().invoke(app, [*command, "--segments", "csv"])
    assert result.exit_code == 2 and "--segments needs a model with the task emotion" in " ".join(
        result.stderr.split()
    )
