# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Conversation models on the Hub: evaluation, card, export and push, and what `info` says."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import yaml
from conftest import make_speech
from datasets import Dataset
from hub_server import TOKEN
from huggingface_hub import ModelCard, snapshot_download
from safetensors.torch import load_file
from test_card import section
from test_conversation_training import CONFIG, FEATURES, LABELS, make_rows
from test_pipeline_mister_e import embedders, stages  # noqa: F401  # fixtures
from test_remote_code import files_of
from typer.testing import CliRunner

from modeling_sparse_merit import ConversationPipeline, MisterEConfig, MisterEForConversationEmotion
from modeling_sparse_merit.cli import app
from modeling_sparse_merit.data.prepare import write_dataset
from modeling_sparse_merit.evaluation import EvaluationConfig, evaluate
from modeling_sparse_merit.evaluation.conversations import gate_weights
from modeling_sparse_merit.hub.export import export_checkpoint
from modeling_sparse_merit.hub.model_card import render_card
from modeling_sparse_merit.hub.push import check_checkpoint, push_checkpoint

CODE = {f"{name}.py" for name in ("context", "cross_modal", "losses")}
CODE |= {f"{kind}_mister_e.py" for kind in ("configuration", "modeling", "pipeline")}
NAMES = {"speech": "someone/speech", "text": "someone/text"}
DATA = {
    "name": "my-conversations",
    "encoders": {"text": {"name": "someone/encoder", "license": "mit", "source": "https://huggingface.co/x"}},
    "corpora": [{"name": "Calls", "use": "conversations", "license": "CC0", "clips": 90}],
}


def save(folder: Path, seed: int = 0, **fields) -> Path:
    torch.manual_seed(seed)
    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
    config = MisterEConfig(
        **{**CONFIG, **labels, "speech_size": 4, "text_size": 3, "text_model": "runs/a/text", **fields}
    )
    MisterEForConversationEmotion(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two seeds of a model of both modalities, one of text alone, and a dataset."""
    folder = tmp_path_factory.mktemp("conversations")
    for seed in range(2):
        save(folder / "both" / str(seed), seed)
    save(folder / "text", speech_size=0)
    rows = [{**row, "split": row["split"].replace("dev", "test")} for row in make_rows()]
    write_dataset(Dataset.from_list(rows, FEATURES), folder / "data")
    return folder


@pytest.fixture(scope="module")
def report(folder) -> dict:
    settings = {
        "speech": [str(folder / "data")],
        "systems": {"both": [str(folder / "both" / seed) for seed in "01"], "text": str(folder / "text")},
        "baseline": "text",
        "bootstrap_resamples": 20,
    }
    (folder / "evaluation.yaml").write_text(json.dumps(settings))
    done = CliRunner().invoke(
        app, ["evaluate", "--config", str(folder / "evaluation.yaml"), "-o", str(folder / "out")]
    )
    assert done.exit_code == 0, done.output
    return json.loads((folder / "out" / "results.json").read_text())


def test_the_evaluation_scores_labelled_utterances_over_dialogues(report, folder):
    assert report["clips"] == {
        "evaluated": 24,  # six dialogues of five utterances, of which the first has no label
        "labelled": report["clips"]["labelled"],
        "speakers": 6,
    }
    assert sum(report["clips"]["labelled"].values()) == 24
    emotion = report["results"]["both"]["conditions"][0]["emotion"]
    assert sum(map(sum, emotion["confusion"])) == 48  # of both seeds
    assert emotion["weighted_f1_speaker_interval"][0] <= emotion["weighted_f1"]
    assert emotion["weighted_f1"] <= emotion["weighted_f1_speaker_interval"][1]
    (comparison,) = report["comparisons"]["by_condition"]
    assert comparison["system"] == "both" and comparison["speaker_p"] is not None
    text = (folder / "out" / "results.md").read_text()
    assert "24 utterances of 6 dialogues" in text and "## Weights of the experts of both" in text
    assert "experts of text" not in text
    names = {path.stem for path in (folder / "out" / "figures").glob("*.png")}
    assert names == {"confusion_both", "gate_both", "confusion_text"}


def test_the_weights_of_the_gate_are_averaged_by_class_and_by_place(report):
    gate = report["results"]["both"]["conditions"][0]["gate"]
    assert gate["experts"] == ["speech", "text", "cross_modal"] and set(gate["by_class"]) == set(LABELS)
    assert list(gate["by_place"]) == ["2", "3 to 4", "5 to 8"]  # the first utterance of each dialogue has no label
    for group in (gate["by_class"], gate["by_place"]):
        assert all(sum(weights) == pytest.approx(1) for weights in group.values())
    assert report["results"]["text"]["conditions"][0]["gate"]["mean"] == [1.0]

    weights, places = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [0.2, 0.8]]), np.array([0, 2, 3, 40])
    means = gate_weights(weights, np.array(["a", "b", "a", "b"]), places, ["x", "y"], ["a", "b", "c"])
    assert means["by_class"] == {"a": [0.5, 0.5], "b": pytest.approx([0.35, 0.65])}
    assert means["by_place"] == {"1": [1.0, 0.0], "3 to 4": [0.25, 0.75], "17 on": [0.2, 0.8]}


def test_evaluations_that_cannot_be_say_so(folder, tiny_checkpoint, tmp_path):
    settings = {"speech": [str(folder / "data")], "output": str(tmp_path / "out")}
    for change, message in (
        ({"model": str(folder / "text"), "noise": {"babble": "x"}}, "`noise` is .*; expected nothing"),
        ({"systems": {"a": str(folder / "text"), "b": str(tiny_checkpoint)}}, "evaluate them in two evaluations"),
    ):
        (tmp_path / "evaluation.yaml").write_text(json.dumps({**settings, **change}))
        with pytest.raises(ValueError, match=message):
            evaluate(tmp_path / "evaluation.yaml")
    save(tmp_path / "other", id2label={0: "a", 1: "b"}, label2id={"a": 0, "b": 1})
    both = {"systems": {"a": str(folder / "text"), "b": str(tmp_path / "other")}}
    (tmp_path / "evaluation.yaml").write_text(json.dumps({**settings, **both}))
    with pytest.raises(ValueError, match="The model b has the labels .*; expected those of the first model"):
        evaluate(tmp_path / "evaluation.yaml")
    assert EvaluationConfig(**{**settings, **both}).members()["a"] == [str(folder / "text")]


def test_an_exported_folder_is_complete_and_may_be_pushed(report, folder, tmp_path):
    source = shutil.copytree(folder / "both" / "0", tmp_path / "source")
    (source / "training_data.yaml").write_text(yaml.safe_dump(DATA))
    own = {"model": report["systems"]["both"][0], "systems": {"both": report["systems"]["both"][:1]}}
    results = tmp_path / "results.json"
    results.write_text(json.dumps({**report, **own}))
    options = ["--model", str(source), "--speech-model", NAMES["speech"], "--text-model", NAMES["text"]]
    done = CliRunner().invoke(app, ["export", str(tmp_path / "exported"), *options])
    assert done.exit_code == 0, done.output
    exported = tmp_path / "exported"
    added = {"README.md", "requirements.txt"}  # no handler.py, which takes recordings
    assert set(files_of(exported)) == {"config.json", "model.safetensors", "training_data.yaml", *CODE, *added}
    check_checkpoint(exported)
    config = json.loads((exported / "config.json").read_text())
    assert {name: config[f"{name}_model"] for name in NAMES} == NAMES
    assert ConversationPipeline.from_pretrained(exported).model.config.text_model == NAMES["text"]


def test_a_pushed_model_loads_the_models_of_its_embeddings_that_were_downloaded(hub, stages, tmp_path):  # noqa: F811
    for name in NAMES:
        push_checkpoint(export_checkpoint(stages / name, tmp_path / name), NAMES[name], token=TOKEN)
    exported = export_checkpoint(stages / "conversation", tmp_path / "conversation", embedders=NAMES)
    done = CliRunner().invoke(app, ["push", str(exported), "someone/conversations", "--token", TOKEN])
    assert done.exit_code == 0, done.output

    pipe = ConversationPipeline.from_pretrained("someone/conversations")
    with pytest.raises(FileNotFoundError, match="run `hf download someone/text`"):
        pipe([{"text": "hello"}], trust_embedders=True)
    snapshot_download("someone/text")
    hub.requests.clear()
    local = ConversationPipeline.from_pretrained(stages / "conversation", trust_embedders=True)
    assert pipe([{"text": "hello"}], trust_embedders=True) == local([{"text": "hello"}])
    assert hub.requests == []


def test_models_that_only_this_computer_has_are_reported_and_not_pushed(folder, tmp_path):
    notes: list[str] = []
    exported = export_checkpoint(folder / "text", tmp_path / "exported", report=notes.append)
    assert len(notes) == 1 and "runs/a/text, which only this computer has" in notes[0]
    with pytest.raises(ValueError, match=r"text embeddings are from runs/a/text, .*--text-model USER/MODEL"):
        check_checkpoint(exported)
    with pytest.raises(ValueError, match="A model of speech embeddings was given, a/b, but this model takes text"):
        export_checkpoint(folder / "text", tmp_path / "other", embedders={"speech": "a/b"})
    (exported / "pipeline_mister_e.py").unlink()
    with pytest.raises(ValueError, match="code that auto_map refers to is missing: pipeline_mister_e.py"):
        check_checkpoint(exported)


def test_other_models_have_no_embeddings(tiny_checkpoint, tmp_path):
    with pytest.raises(ValueError, match="only conversation models have some"):
        export_checkpoint(tiny_checkpoint, tmp_path / "exported", embedders=NAMES)


def test_the_card_has_the_measured_figures_and_those_of_the_authors_with_their_caveat(report, folder, tmp_path):
    source = shutil.copytree(folder / "text", tmp_path / "my-text")
    (source / "training_data.yaml").write_text(yaml.safe_dump(DATA))
    dev = {"epoch": 2, "step": 9, "dev": {"weighted_f1": 0.5678, "macro_f1": 0.4}}
    (source / "dev_results.json").write_text(json.dumps(dev))
    assert "Not measured: no `evaluation.json`" in render_card(source)
    exported = export_checkpoint(source, tmp_path / "exported", results=folder / "out", report=lambda note: None)

    card = (exported / "README.md").read_text()

    emotion = report["results"]["text"]["conditions"][0]["emotion"]
    low, high = emotion["weighted_f1_speaker_interval"]
    for row in (
        "| experts | text |",
        "| text embeddings | `text`, not published; width 3 |",
        "| context | the whole conversation |",
        "| text | someone/encoder | mit | https://huggingface.co/x |",
        f"| {emotion['weighted_f1']:.3f} [{low:.3f}, {high:.3f}] |",
        "| weighted_f1 | 0.568 |",
        "| 0 | neutral |",
    ):
        assert row in card, row
    results = " ".join(section(card, "Results").split())
    assert "70.9 on IEMOCAP and 69.5 on MELD" in results and "chooses the epoch by the test split" in results
    assert "24 utterances of 6 dialogues from data, split `test`" in results
    assert "Weights of the experts" not in card and "audio" not in card.replace("audio-", "")
    data = ModelCard(card).data
    assert (data.pipeline_tag, data.model_name) == ("text-classification", "my-conversations")
    scores = {result.metric_name: result.metric_value for result in data.eval_results}
    assert scores["macro-F1"] == pytest.approx(emotion["macro_f1"])


def test_the_code_of_the_card_runs(stages, tmp_path, monkeypatch):  # noqa: F811
    monkeypatch.chdir(tmp_path)
    for name in ("1.wav", "2.wav"):
        soundfile.write(tmp_path / name, make_speech(0.6), 16_000)
    blocks = re.findall(r"^```python\n(.*?)^```$", render_card(stages / "conversation"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    code = "\n".join(blocks).replace("USER/conversation", str(stages / "conversation"))
    for name in ("speech", "text"):
        code = code.replace(f"{name.upper()}_MODEL", str(stages / name))
    names: dict[str, Any] = {}
    exec(code.replace(', revision="COMMIT_HASH"', ""), names)
    assert set(names["results"][0]) == {"emotion", "gate"} and names["gate"].shape == (5, 3)


def test_half_stores_fp16_that_is_loaded_in_fp32(folder, tmp_path):
    exported = export_checkpoint(folder / "text", tmp_path / "half", half=True, report=lambda note: None)
    stored = load_file(exported / "model.safetensors")["experts.text.classifier.weight"]
    model = ConversationPipeline.from_pretrained(exported).model
    assert stored.dtype == torch.float16 and model.dtype == torch.float32


def test_info_describes_experts_and_embeddings(folder):
    done = CliRunner().invoke(app, ["info", "--model", str(folder / "both" / "0")])
    assert done.exit_code == 0, done.output
    shown = " ".join(done.output.split())
    assert "Experts speech, text, cross_modal, learned gate" in shown and "Text embeddings `text`, not" in shown
