# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The model card: it contains only what the files next to the weights say, and code that runs unchanged."""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import yaml
from datasets import Audio, ClassLabel, Dataset
from huggingface_hub import ModelCard

from modeling_sparse_merit import (
    SparseMeritConfig,
    SparseMeritFeatureExtractor,
    SparseMeritForSpeechEnhancementAndEmotion,
)
from modeling_sparse_merit.evaluation import evaluate
from modeling_sparse_merit.hub.model_card import render_card, write_examples

REPOSITORY = Path(__file__).parents[1]
LABELS = ["angry", "sad", "happy", "neutral"]
TRAINING_DATA = {
    "name": "my-model",
    "license": "cc-by-nc-sa-4.0",
    "corpora": [
        {
            "name": "Stage",
            "id": "someone/stage",
            "use": "emotion",
            "acted": True,
            "language": "pl",
            "license": "CC BY",
        },
        {"name": "Street", "id": "street", "use": "noise", "clips": 77, "license": "CC0", "source": "a recorder"},
    ],
}
TRAINING = {"wavlm": "microsoft/wavlm-large", "learning_rate": 0.00017}
DEV_RESULTS = {"epoch": 23, "step": 1471, "dev": {"macro_f1": 0.6127, "si_sdr_gain": -2.345, "loss_emotion": 9.87}}


def write_dataset(path: Path, waveforms: list[np.ndarray], **columns: list) -> str:
    audio = []
    for waveform in waveforms:
        buffer = io.BytesIO()
        soundfile.write(buffer, waveform, 16_000, format="FLAC")
        audio.append({"bytes": buffer.getvalue(), "path": None})
    durations = [len(waveform) / 16_000 for waveform in waveforms]
    table = Dataset.from_dict({"audio": audio, "split": ["test"] * len(audio), "duration": durations, **columns})
    if "emotion" in columns:
        table = table.cast_column("emotion", ClassLabel(names=LABELS))
    table.cast_column("audio", Audio(sampling_rate=16_000, decode=False)).to_parquet(str(path))
    return str(path)


@pytest.fixture(scope="module")
def tables(tmp_path_factory, speech_clip) -> dict:
    """Five clips of three speakers, and a noise pool: the settings of an evaluation that name them."""
    folder = tmp_path_factory.mktemp("tables_of_this_machine")
    clips = [speech_clip(1.0 + 0.1 * seed, seed=seed) for seed in range(5)]
    noise = [0.1 * np.random.default_rng(seed).standard_normal(24_000).astype(np.float32) for seed in range(2)]
    speech = write_dataset(folder / "theatre.parquet", clips, emotion=[0, 1, 2, 3, 0], speaker=list("aabbc"))
    return {"speech": [speech], "noise": {"hiss": write_dataset(folder / "hiss.parquet", noise)}, "snr_db": [-5, 2.5]}


@pytest.fixture(scope="module")
def measure(tables, tmp_path_factory) -> Callable[[Path], None]:
    """`measure(folder)` evaluates a checkpoint and puts the results next to its weights."""

    def run(checkpoint: Path) -> None:
        folder = tmp_path_factory.mktemp("evaluation")
        settings = {**tables, "model": str(checkpoint), "bootstrap_resamples": 43, "workers": 1, "seed": 6}
        (folder / "evaluation.yaml").write_text(yaml.safe_dump(settings))
        evaluate(folder / "evaluation.yaml", output=folder / "results")
        shutil.copy(folder / "results" / "results.json", checkpoint / "evaluation.json")

    return run


@pytest.fixture(scope="module")
def full_checkpoint(tiny_checkpoint, measure, tmp_path_factory) -> Path:
    """A checkpoint with every file that a card is made from."""
    folder = tmp_path_factory.mktemp("card") / "checkpoint"
    shutil.copytree(tiny_checkpoint, folder)
    measure(folder)
    (folder / "training_data.yaml").write_text(yaml.safe_dump(TRAINING_DATA))
    (folder / "training.yaml").write_text(yaml.safe_dump(TRAINING))
    (folder / "dev_results.json").write_text(json.dumps(DEV_RESULTS))
    return folder


@pytest.fixture
def checkpoint(full_checkpoint, tmp_path) -> Path:
    """A copy of it to change."""
    return Path(shutil.copytree(full_checkpoint, tmp_path / "checkpoint"))


def section(card: str, title: str) -> str:
    """The text below a heading, up to the next one of that rank."""
    return re.search(rf"^## {title}$(.*?)(?=^## |\Z)", card, re.MULTILINE | re.DOTALL).group(1)


def renumber(content: Any, numbers: Iterator[int]) -> Any:
    """The same content with a number of its own, from 1001 on, in the place of every number."""
    if isinstance(content, dict):
        return {key: renumber(value, numbers) for key, value in content.items()}
    if isinstance(content, list):
        return [renumber(value, numbers) for value in content]
    return next(numbers) if type(content) in (int, float) else content


def test_every_number_of_the_results_stands_in_a_file(checkpoint):
    numbers, versions = count(1001), []
    for name in ("evaluation.json", "dev_results.json"):
        content = renumber(json.loads((checkpoint / name).read_text()), numbers)
        versions += content.get("versions", {}).values()
        (checkpoint / name).write_text(json.dumps(content))
    results = section(render_card(checkpoint), "Results")
    # names that hold digits, and the one constant: what an interval is
    for words in ("macro-F1", "macro_f1", "F1 of each class", "95 % intervals", *filter(None, versions)):
        results = results.replace(words, "")
    shown = re.findall(r"-?\d+(?:\.\d+)?", results)
    assert len(shown) > 100
    assert {float(number) for number in shown} <= set(range(1001, next(numbers)))


def test_every_score_of_the_evaluation_is_shown_with_its_interval(full_checkpoint):
    results = section(render_card(full_checkpoint), "Results")
    for condition in json.loads((full_checkpoint / "evaluation.json").read_text())["conditions"]:
        emotion = condition["emotion"]
        low, high = emotion["macro_f1_interval"]
        assert f"| {emotion['macro_f1']:.3f} [{low:.3f}, {high:.3f}] |" in results
        for label in LABELS:
            low, high = emotion["per_class_f1_interval"][label]
            assert f"| {emotion['per_class_f1'][label]:.3f} [{low:.3f}, {high:.3f}] |" in results
        for name, measure in condition["enhancement"].items():
            decimals = 3 if name == "stoi" else 2
            mean, low, high = (
                f"{value:.{decimals}f}" for value in (measure["enhanced"]["mean"], *measure["enhanced"]["interval"])
            )
            assert f"| {mean} [{low}, {high}] |" in results
    assert re.search(r"\| none \| – \|", results) and re.search(r"\| hiss \| -5 \|.*\n\| hiss \| 2.5 \|", results)


def test_the_card_says_what_the_results_were_measured_on_but_not_where(full_checkpoint):
    card = render_card(full_checkpoint)
    assert "5 clips of 3 speakers from theatre, split `test`" in card and "hiss (2 recordings)" in card
    assert "angry 2, sad 1, happy 1, neutral 1" in card and "43 bootstrap resamples" in card
    assert "tables_of_this_machine" not in card


def test_metadata_is_read_by_the_hub_client_and_holds_the_exact_results(full_checkpoint):
    data = ModelCard(render_card(full_checkpoint)).data
    assert (data.pipeline_tag, data.library_name, data.license) == (
        "audio-classification",
        "transformers",
        "cc-by-nc-sa-4.0",
    )
    assert data.base_model == "microsoft/wavlm-large" and data.language == ["pl"]
    assert data.datasets == ["someone/stage", "street"] and data.model_name == "my-model"
    assert {"f1", "pesq", "si_sdr"} <= set(data.metrics)
    conditions = json.loads((full_checkpoint / "evaluation.json").read_text())["conditions"]
    actual = {(result.dataset_config, result.metric_type): result.metric_value for result in data.eval_results}
    assert len(actual) == len(data.eval_results) == 3 * (3 + 4)
    for condition in conditions:
        assert actual[condition["condition"], "f1"] == condition["emotion"]["macro_f1"]
        assert actual[condition["condition"], "stoi"] == condition["enhancement"]["stoi"]["enhanced"]["mean"]
    assert all(result.dataset_split == "test" for result in data.eval_results)


def test_labels_are_listed_in_the_order_of_the_logits(checkpoint):
    config = json.loads((checkpoint / "config.json").read_text())
    config["id2label"] = {"10": "k", "2": "c", "0": "a"}
    (checkpoint / "config.json").write_text(json.dumps(config))
    table = section(render_card(checkpoint), "Inputs and outputs")
    assert re.findall(r"^\| \d+ \| (\w+) \|$", table, re.MULTILINE) == ["a", "c", "k"]


def test_parameters_are_counted_from_the_weights(full_checkpoint):
    model = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(full_checkpoint)
    assert f"| size | {model.num_parameters():,} parameters |" in render_card(full_checkpoint)


def test_what_was_not_measured_is_said_and_no_number_is_shown(tiny_checkpoint):
    card = render_card(tiny_checkpoint)
    results = section(card, "Results")
    assert "Not measured: no `evaluation.json`" in results and "no `dev_results.json`" in results
    assert not re.search(r"\d", results)
    assert "Not recorded: no `training_data.yaml`" in card and "not recorded: no `training.yaml`" in card
    metadata = ModelCard(card).data.to_dict()
    assert not {"model-index", "metrics", "license", "datasets", "language", "base_model", "widget"} & set(metadata)
    assert metadata["pipeline_tag"] == "audio-classification"


def test_training_data_are_shown_with_their_licences(full_checkpoint):
    card = render_card(full_checkpoint)
    table = section(card, "Training data and licences")
    assert (
        "| Stage | emotion | pl | – | – | CC BY | – | – |" in table
        and "| Street | noise | – | 77 | – | CC0 | – | a recorder" in table
    )
    assert "learning_rate: 0.00017" in table and "(https://huggingface.co/microsoft/wavlm-large)" in table
    limits = section(card, "Limits and misuse")
    assert "In Stage, actors" in limits and "in Polish" in limits


def test_limits_name_what_the_model_must_not_be_used_for(tiny_checkpoint):
    limits = section(render_card(tiny_checkpoint), "Limits and misuse")
    for words in ("Not a diagnosis, not a lie detector", "workplace and education", "eli/reg/2024/1689", "Bias"):
        assert words in limits
    assert "actors" not in limits  # nobody said that the training speech was acted


def test_only_a_model_whose_outputs_depend_on_its_batch_says_so(checkpoint):
    assert "in a padded batch" not in render_card(checkpoint)
    config = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**config, "feat_extract_norm": "group"}))
    assert "in a padded batch" in section(render_card(checkpoint), "Limits and misuse")


def test_results_of_other_weights_are_refused(checkpoint, tiny_config):
    other = SparseMeritForSpeechEnhancementAndEmotion(tiny_config)
    other.save_pretrained(checkpoint)
    with pytest.raises(ValueError, match=r"evaluation\.json belongs to other weights.*Evaluate these weights"):
        render_card(checkpoint)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("evaluation.json", "{", r"evaluation\.json is not valid JSON"),
        ("evaluation.json", "[]", r"evaluation\.json holds a list"),
        ("evaluation.json", "{}", r"evaluation\.json belongs to other weights.*states none"),
        ("dev_results.json", '{"epoch": 1, "dev": {}}', "lacks a field.*step"),
        ("training_data.yaml", "corpora: [", r"training_data\.yaml is not valid YAML"),
        ("training_data.yaml", "corpora: [{name: Stage, use: emotion}]", r"Stage.*lacks \['license'\]"),
        ("training_data.yaml", "encoder: {name: E, license: MIT}", r"encoder lacks \['copyright', 'source'\]"),
        ("training_data.yaml", "words", r"training_data\.yaml must hold fields"),
    ],
)
def test_a_damaged_file_is_an_error_that_names_it(checkpoint, name, content, message):
    (checkpoint / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        render_card(checkpoint)


def test_a_result_without_a_field_is_an_error_and_no_empty_cell(checkpoint):
    evaluation = json.loads((checkpoint / "evaluation.json").read_text())
    del evaluation["conditions"][1]["emotion"]["clips"]
    (checkpoint / "evaluation.json").write_text(json.dumps(evaluation))
    with pytest.raises(ValueError, match="lacks a field.*clips"):
        render_card(checkpoint)


def test_other_measures_and_a_frozen_test_set_are_shown_as_well(checkpoint):
    evaluation = json.loads((checkpoint / "evaluation.json").read_text())
    evaluation["config"] |= {"speech": [], "test_set": "tables_of_this_machine/frozen"}
    for condition in evaluation["conditions"]:
        condition["enhancement"] = {"estoi": condition["enhancement"]["stoi"]}
    (checkpoint / "evaluation.json").write_text(json.dumps(evaluation))
    card = render_card(checkpoint)
    results = section(card, "Results")
    assert "### ESTOI" in results and "### STOI" not in results and "### PESQ-WB" not in results
    assert "3 speakers from frozen\n" in results and "tables_of_this_machine" not in card
    actual = [result for result in ModelCard(card).data.eval_results if result.metric_type == "estoi"]
    assert [result.dataset_name for result in actual][:2] == ["frozen, clean", "frozen, hiss_-5dB"]
    assert all(result.dataset_split is None for result in actual)


def test_undefined_scores_are_dashes(checkpoint):
    evaluation = json.loads((checkpoint / "evaluation.json").read_text())
    evaluation["conditions"][0]["enhancement"]["stoi"]["enhanced"] |= {"mean": None, "interval": None, "clips": 0}
    (checkpoint / "evaluation.json").write_text(json.dumps(evaluation))
    card = render_card(checkpoint)
    assert "| none | – | – | – | – | 0 | 0 |" in card
    stoi = [result.dataset_config for result in ModelCard(card).data.eval_results if result.metric_type == "stoi"]
    assert stoi == ["hiss_-5dB", "hiss_2.5dB"]


def test_calibration_and_parts_of_the_test_set_are_shown_where_they_were_measured(checkpoint):
    evaluation = json.loads((checkpoint / "evaluation.json").read_text())
    for condition in evaluation["conditions"]:  # as older versions measured
        condition.pop("groups", None)
        condition["emotion"].pop("expected_calibration_error", None)
    (checkpoint / "evaluation.json").write_text(json.dumps(evaluation))
    assert "ECE" not in render_card(checkpoint) and "### Emotion by" not in render_card(checkpoint)
    for condition in evaluation["conditions"]:
        condition["emotion"]["expected_calibration_error"] = 0.1234
        female = {"macro_f1": 0.25, "macro_f1_speaker_interval": [0.125, 0.375], "clips": 3, "speakers": 2}
        male = {"unweighted_average_recall": 0.5, "expected_calibration_error": 0.25, "clips": 2, "speakers": 1}
        condition["groups"] = {"gender": {"male": male, "female": female}}
    (checkpoint / "evaluation.json").write_text(json.dumps(evaluation))
    results = section(render_card(checkpoint), "Results")
    assert "| accuracy | ECE | clips |" in results and results.count("| 0.123 | 5 |") == 3
    table = re.search(
        r"### Emotion by gender\n\nBrackets show 95 % intervals over speakers.\n\n(.*?)\n\n", results, re.DOTALL
    )
    rows = table[1].splitlines()
    assert rows[0] == "| gender | noise | SNR (dB) | macro-F1 | UAR | ECE | clips | speakers |"
    assert rows[2] == "| female | none | – | 0.250 [0.125, 0.375] | – | – | 3 | 2 |"
    assert rows[6].startswith("| male | hiss | -5 | – | 0.500 | 0.250 | 2 | 1 |")


def test_a_folder_without_a_checkpoint_is_an_error(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="config.json does not exist: give a folder written by save_pretrained"
    ):
        render_card(tmp_path)


@pytest.mark.parametrize(("task", "tag"), [("emotion", "audio-classification"), ("enhancement", "audio-to-audio")])
def test_a_model_of_one_task_speaks_of_that_task_alone(tiny_config, measure, tmp_path, task, tag):
    folder = tmp_path / "one-task"
    SparseMeritForSpeechEnhancementAndEmotion(
        SparseMeritConfig(**{**tiny_config.to_dict(), "tasks": [task]})
    ).save_pretrained(folder)
    SparseMeritFeatureExtractor().save_pretrained(folder)
    measure(folder)
    card = render_card(folder)
    assert ModelCard(card).data.pipeline_tag == tag and f'"tasks": ["{task}"]' in card
    assert ('result["emotion"]' in card) == ("### Emotion" in card) == (task == "emotion")
    assert ('result["audio"]' in card) == ("### PESQ-WB" in card) == (task == "enhancement")
    assert {result.task_type for result in ModelCard(card).data.eval_results} == {
        "audio-classification" if task == "emotion" else "audio-to-audio"
    }


def test_the_code_of_the_card_runs(full_checkpoint, speech_clip, tmp_path):
    soundfile.write(tmp_path / "call.wav", speech_clip(1.0), 16_000)
    blocks = re.findall(r"^```python\n(.*?)^```$", render_card(full_checkpoint), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 5
    code = "\n".join(blocks).replace("USER/my-model", str(full_checkpoint))
    show = (
        "import json; print(json.dumps([sorted(result), clean.shape, scores.shape, classifier('call.wav', top_k=1)]))"
    )
    prediction = run_python(
        f"{code}\n{show}", tmp_path, PYTHONPATH=str(REPOSITORY), HF_MODULES_CACHE=str(tmp_path / "code")
    )
    keys, clean, scores, best = json.loads(prediction.splitlines()[-1])
    assert keys == ["audio", "emotion", "sampling_rate"] and clean == [16_000] and scores == [4] and len(best) == 1


def test_examples_become_a_widget_with_the_outputs_of_the_model(checkpoint, speech_clip, tmp_path):
    (checkpoint / "examples").mkdir()
    soundfile.write(checkpoint / "examples" / "call.wav", speech_clip(1.0), 16_000)
    written = json.loads(write_examples(checkpoint, [checkpoint / "examples" / "call.wav"]).read_text())
    widget = ModelCard(render_card(checkpoint)).data.widget
    assert [(entry["src"], entry["example_title"]) for entry in widget] == [("examples/call.wav", "call")]
    assert widget[0]["output"] == written["examples"][0]["emotion"]
    assert {entry["label"] for entry in widget[0]["output"]} == set(LABELS)
    soundfile.write(tmp_path / "elsewhere.wav", speech_clip(1.0), 16_000)
    with pytest.raises(ValueError, match="elsewhere.wav is outside.*copy it there"):
        write_examples(checkpoint, [tmp_path / "elsewhere.wav"])


@pytest.mark.slow
def test_an_installed_package_renders_the_same_card(full_checkpoint, tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "model_card.md"):
        shutil.copy(REPOSITORY / name, source)
    ignored = shutil.ignore_patterns("__pycache__", "checkpoints", "demo")
    shutil.copytree(REPOSITORY / "modeling_sparse_merit", source / "modeling_sparse_merit", ignore=ignored)
    # from the source distribution, as an index would serve it
    build = "from hatchling import build; build.{}('{}')"
    run_python(build.format("build_sdist", tmp_path), source)
    shutil.unpack_archive(next(tmp_path.glob("*.tar.gz")), tmp_path / "unpacked", filter="data")
    run_python(build.format("build_wheel", tmp_path), next((tmp_path / "unpacked").iterdir()))
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "installed")
    show = "from modeling_sparse_merit.hub import model_card as card; "
    show += f"print(card.__file__, card.render_card({str(full_checkpoint)!r}))"
    path, _, card = run_python(show, tmp_path, PYTHONPATH=str(tmp_path / "installed")).partition(" ")
    assert Path(path).is_relative_to(tmp_path / "installed")
    assert card.strip() == render_card(full_checkpoint).strip()


def run_python(code: str, folder: Path, **variables: str) -> str:
    environment = {**os.environ, **variables, "PYTHONIOENCODING": "utf-8", "HF_HUB_OFFLINE": "1"}
    result = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout
