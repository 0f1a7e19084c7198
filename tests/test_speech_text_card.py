# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Speech-text models on the Hub: an exported folder works without the package, and its card says what it holds."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
import yaml
from conftest import make_speech
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from test_card import section
from test_evaluation_speech_text import save
from test_pipeline_speech_text import LOAD_AND_RUN
from test_remote_code import CODE, files_of, run_elsewhere
from typer.testing import CliRunner

from modeling_sparse_merit import SpeechTextPipeline
from modeling_sparse_merit.cli import app
from modeling_sparse_merit.files import sha256_of_file
from modeling_sparse_merit.hub.export import export_checkpoint
from modeling_sparse_merit.hub.model_card import render_card
from modeling_sparse_merit.hub.push import check_checkpoint

DATA = {
    "name": "my-fusion",
    "encoders": {
        "speech": {"name": "my-speech", "license": "CC-BY-NC-4.0"},
        "text": {"name": "someone/encoder", "license": "mit", "source": "https://huggingface.co/someone/encoder"},
    },
    "corpora": [
        {"name": "Calls", "use": "speech and text", "license": "CC0", "rated_clips": {"attributes": {"valence": 31}}},
        {"name": "Radio", "use": "speech and text", "license": "MIT", "rated_clips": {"attributes": {"valence": 12}}},
    ],
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    """A model of both modalities, which may lack one of both."""
    return Path(save(tmp_path_factory.mktemp("hub") / "fusion", modality_dropout=0.2))


def write_results(path: Path, checkpoint: Path, **clips) -> Path:
    """A report with one condition and hand-made scores of a checkpoint among other systems."""
    scores = {"mean": 0.4567, "interval": [0.25, 0.61], "speaker_interval": [0.2, 0.7]}
    task = {"clips": 9, "ccc_valence": scores, "mae_valence": {**scores, "mean": 1.25}}
    task |= {"ccc_arousal": {**scores, "mean": -0.0004}, "mae_arousal": scores}
    condition = {"condition": "clean", "pool": None, "snr_db": None, "transmission": None, "clips": 9, "emotion": None}
    condition |= {"enhancement": {}, "expert_use": None, "tasks": {"attributes": task}}
    digest = sha256_of_file(checkpoint / "model.safetensors")
    config = {"speech": ["calls"], "speech_split": "test", "test_set": None, "bootstrap_resamples": 10, "seed": 0}
    report = {
        "config": config,
        "systems": {"fusion": [{"sha256": digest, "precision": "fp32"}], "other": [{"sha256": "0" * 64}]},
        "labels": ["angry", "sad", "happy", "neutral"],
        "clips": {
            "evaluated": 9,
            "labelled": {"angry": 9, "sad": 0, "happy": 0, "neutral": 0},
            "speakers": 3,
            **clips,
        },
        "noise": {},
        "versions": {"torch": "2"},
        "results": {"fusion": {"conditions": [condition]}, "other": {"conditions": [condition]}},
    }
    path.write_text(json.dumps(report))
    return path


@pytest.mark.slow
def test_an_exported_folder_works_without_the_package_and_may_be_pushed(checkpoint, tmp_path):
    source = shutil.copytree(checkpoint, tmp_path / "source")
    (source / "training_data.yaml").write_text(yaml.safe_dump(DATA))
    results = write_results(tmp_path / "results.json", source, with_text=7)

    options = ["--model", str(source), "--results", str(results)]
    done = CliRunner().invoke(app, ["export", str(tmp_path / "exported"), *options])

    assert done.exit_code == 0, done.output
    exported = tmp_path / "exported"
    added = {"README.md", "requirements.txt", "evaluation.json"}  # no handler.py, which takes recordings alone
    assert set(files_of(exported)) == {*files_of(source), *added}
    assert {f"{kind}_speech_text.py" for kind in ("configuration", "modeling", "processing", "pipeline")} | CODE == {
        path.name for path in exported.glob("*.py")
    }
    check_checkpoint(exported)
    assert "| valence | 1 to 7 | 0.457 [0.250, 0.610] |" in (exported / "README.md").read_text()
    soundfile.write(tmp_path / "a.wav", make_speech(0.6), 16_000, subtype="FLOAT")
    loaded = run_elsewhere(LOAD_AND_RUN, exported, tmp_path / "a.wav", tmp_path, folder=tmp_path)
    assert loaded["homes"] == ["transformers_modules"]
    clip = {"audio": tmp_path / "a.wav", "text": "hello"}
    assert loaded["result"] == SpeechTextPipeline.from_pretrained(checkpoint, device="cpu")(clip)


def test_the_card_names_modalities_encoders_and_ratings(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "fusion")
    (folder / "training_data.yaml").write_text(yaml.safe_dump(DATA))
    (folder / "dev_results.json").write_text(
        json.dumps({"epoch": 3, "step": 7, "dev": {"macro_f1": 0.5, "attributes/ccc_valence": 0.125, "loss": 3}})
    )
    write_results(folder / "evaluation.json", folder, with_text=7)

    card = render_card(folder)

    model = SpeechTextPipeline.from_pretrained(folder).model
    assert "estimates **emotion** and **attributes** from speech and text" in card
    for row in (
        "| modalities | speech, text |",
        f"| size | {model.num_parameters():,} parameters |",
        "| speech encoder | WavLM, 2 layers of width 32, integration `last_layer` |",
        "| text encoder | roberta, 2 layers of width 16, pooling `mean` |",
        "| 0 | angry |",
        "| valence | 1 to 7 | 0.457 [0.250, 0.610] | Calls (31 clips) and Radio (12 clips) |",
        "| arousal | 1 to 7 | 0.000 [0.250, 0.610] | not recorded |",
        "| speech | my-speech | CC-BY-NC-4.0 | – |",
        "| text | someone/encoder | mit | https://huggingface.co/someone/encoder |",
        "| attributes/ccc_valence | 0.125 |",
    ):
        assert row in card, row
    assert "One of both may be missing" in card and "The licence of my-speech does not allow commercial use" in card
    assert "9 clips of 3 speakers from calls, split `test`, 7 of them with text" in card
    assert "| none | – | 0.457 [0.250, 0.610] | 1.250 [0.250, 0.610] |" in section(card, "Results")
    assert "| loss |" not in card and "enhance" not in card.replace("enhanced", "")
    data = ModelCard(card).data
    assert (data.pipeline_tag, data.base_model) == ("audio-classification", ["someone/encoder"])
    assert {"text", "audio", "emotion-recognition"} <= set(data.tags)
    scores = {result.metric_name: result.metric_value for result in data.eval_results}
    assert scores == {"CCC of valence": 0.4567, "CCC of arousal": -0.0004}


@pytest.mark.parametrize(("missing", "modality"), [("speech", "text"), ("text", "speech")])
def test_the_card_of_one_modality_speaks_of_that_one_alone(tmp_path, missing, modality):
    folder = Path(save(tmp_path / modality, **{f"{missing}_config": None}))
    card = render_card(folder)
    assert f"| modalities | {modality} |" in card and f"| {missing} encoder |" not in card
    assert ("call.wav" in card) == ("soundfile.read" in card) == (modality == "speech")
    assert ('text="' in card) == ("Transcripts" in card) == (modality == "text")
    assert "Both are needed" not in card and "encoders that the model started from" in card
    tags = {"speech": "audio-classification", "text": "text-classification"}
    assert ModelCard(card).data.pipeline_tag == tags[modality]
    check_checkpoint(export_checkpoint(folder, tmp_path / "exported"))


def test_the_code_of_the_card_runs(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    soundfile.write(tmp_path / "call.wav", make_speech(0.6), 16_000)
    blocks = re.findall(r"^```python\n(.*?)^```$", render_card(checkpoint), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    code = "\n".join(blocks).replace("USER/fusion", str(checkpoint))
    names: dict[str, Any] = {}
    exec(code, names)
    assert sorted(names["result"]) == ["attributes", "emotion"]
    assert names["scores"].shape == (4,) and names["attributes"].shape == (2,)


def test_info_describes_both_encoders(checkpoint):
    done = CliRunner().invoke(app, ["info", "--model", str(checkpoint)])
    assert done.exit_code == 0, done.output
    shown = " ".join(done.output.split())
    assert (
        "Attributes valence, arousal, from 1 to 7" in shown and "Text encoder roberta, 2 layers of width 16" in shown
    )
    assert "there is no model card: Emotion, Training data." in shown


def test_half_stores_fp16_that_is_loaded_in_fp32(checkpoint, tmp_path):
    exported = export_checkpoint(checkpoint, tmp_path / "half", half=True)
    stored = load_file(exported / "model.safetensors")
    assert stored["heads.emotion.classifier.weight"].dtype == torch.float16
    model = SpeechTextPipeline.from_pretrained(exported).model
    exact = load_file(checkpoint / "model.safetensors")["heads.emotion.classifier.weight"]
    assert model.dtype == torch.float32
    assert torch.equal(model.heads["emotion"].classifier.weight, exact.half().float())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("processor_config.json", "processor_config.json is missing .*: save the processor"),
        ("tokenizer_config.json", "tokenizer_config.json is missing"),
        ("pipeline_speech_text.py", "code that auto_map refers to is missing: pipeline_speech_text.py"),
        ("processing_speech_text.py", "code that auto_map refers to is missing: processing_speech_text.py"),
    ],
)
def test_an_incomplete_folder_is_not_pushed(checkpoint, tmp_path, name, message):
    exported = export_checkpoint(checkpoint, tmp_path / "exported")
    (exported / name).unlink()
    with pytest.raises(ValueError, match=message):
        check_checkpoint(exported)


def test_an_encoder_without_a_licence_is_an_error(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "fusion")
    (folder / "training_data.yaml").write_text("encoders: {text: {name: someone/encoder}}")
    with pytest.raises(ValueError, match=r"the text encoder lacks \['license'\]"):
        render_card(folder)
