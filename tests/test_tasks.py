# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""A new head is a file of its own and a line in the registry: it trains, evaluates, exports and runs without any other
change. Here are three, one of each kind that works on whole clips."""

import csv
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from torch import nn
from torch.nn import functional as F
from transformers.utils import find_labels
from typer.testing import CliRunner

from modeling_sparse_merit import (
    SparseMeritConfig,
    SparseMeritFeatureExtractor,
    SparseMeritForSpeechEnhancementAndEmotion,
    SpeechEnhancementAndEmotionPipeline,
)
from modeling_sparse_merit.cli import app
from modeling_sparse_merit.convert.onnx import export_onnx, noise
from modeling_sparse_merit.data import prepare
from modeling_sparse_merit.data.corpora import corpus as corpus_named
from modeling_sparse_merit.data.datasets import DatasetError, read_dataset
from modeling_sparse_merit.evaluation import evaluate
from modeling_sparse_merit.hub.model_card import render_card
from modeling_sparse_merit.metrics import concordance_correlation, macro_f1
from modeling_sparse_merit.metrics.verification import equal_error_rate, min_dcf
from modeling_sparse_merit.models.sparse_merit.audio import write_audio
from modeling_sparse_merit.models.sparse_merit.clip_heads import AttentiveStatisticsPooling
from modeling_sparse_merit.models.sparse_merit.handler import EndpointHandler
from modeling_sparse_merit.models.sparse_merit.tasks import TASKS, ClassificationTask, EmbeddingTask, RegressionTask
from modeling_sparse_merit.training import run as training_run

NEW_TASKS = ["attributes", "gender", "speaker"]
ALL_TASKS = ["enhancement", "emotion", *NEW_TASKS]
SPEAKERS = ("speaker0", "speaker1", "speaker2")


class PooledLinear(nn.Module):
    """Pooling over time and a linear layer."""

    def __init__(self, config, size: int):
        super().__init__()
        self.pooling = AttentiveStatisticsPooling(config.hidden_size)
        self.output = nn.Linear(2 * config.hidden_size, size)

    def forward(self, features, frame_mask):
        return self.output(self.pooling(features, frame_mask))


class AttributesHead(PooledLinear):
    def __init__(self, config):
        super().__init__(config, 2)

    def forward(self, features, frame_mask):
        return super().forward(features, frame_mask).sigmoid()

    def loss(self, predicted, targets, config):
        rated = targets.isfinite()
        errors = (predicted - targets.nan_to_num()).square() * rated
        return errors.sum() / rated.sum().clamp(min=1)


class GenderHead(PooledLinear):
    def __init__(self, config):
        super().__init__(config, 2)

    def loss(self, predicted, targets, config):
        labelled = targets != -100
        losses = F.cross_entropy(predicted, targets, reduction="none", ignore_index=-100)
        return losses.sum() / labelled.sum().clamp(min=1)


class SpeakerHead(PooledLinear):
    def __init__(self, config):
        super().__init__(config, 6)
        self.speakers = nn.Parameter(torch.eye(len(SPEAKERS), 6))

    def forward(self, features, frame_mask):
        return F.normalize(super().forward(features, frame_mask), dim=-1)

    def loss(self, predicted, targets, config):
        losses = F.cross_entropy(10 * predicted @ self.speakers.T, targets, reduction="none", ignore_index=-100)
        return losses.sum() / (targets != -100).sum().clamp(min=1)


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    attributes = RegressionTask(AttributesHead, outputs=("valence", "arousal"), minimum=1.0, maximum=7.0)
    monkeypatch.setitem(TASKS, "attributes", attributes)
    gender = ClassificationTask(GenderHead, columns=("gender",), labels=("female", "male"))
    monkeypatch.setitem(TASKS, "gender", gender)
    monkeypatch.setitem(TASKS, "speaker", EmbeddingTask(SpeakerHead, columns=("speaker",), labels=SPEAKERS))


@pytest.fixture
def model(tiny_config):
    torch.manual_seed(0)
    config = SparseMeritConfig(**{**tiny_config.to_dict(), "tasks": ALL_TASKS})
    return SparseMeritForSpeechEnhancementAndEmotion(config).eval()


# The registry --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClassificationTask(GenderHead, columns=("gender",)), "`labels` is None"),
        (lambda: ClassificationTask(GenderHead, labels=("a", "a")), "expected distinct classes"),
        (lambda: RegressionTask(AttributesHead), r"`outputs` is \(\)"),
        (lambda: RegressionTask(AttributesHead, outputs=("a", "b"), columns=("a",)), "a column for each"),
        (lambda: RegressionTask(AttributesHead, outputs=("a",), minimum=7.0, maximum=1.0), "are 7.0, 1.0"),
    ],
)
def test_an_entry_that_cannot_work_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# The model -----------------------------------------------------------------------------------------------------------


def test_a_name_that_is_not_registered_is_refused_with_those_that_are(tiny_config):
    expected = "(?s)`tasks` is .*'dominance'.*'emotion', 'attributes', 'gender', 'speaker'"
    with pytest.raises(StrictDataclassClassValidationError, match=expected):
        SparseMeritConfig(**{**tiny_config.to_dict(), "tasks": ["emotion", "dominance"]})


def test_the_published_tasks_stay_the_default():
    assert SparseMeritConfig().tasks == ["enhancement", "emotion"]


def test_outputs_come_by_task_in_the_scale_of_the_ratings(model):
    outputs = model(torch.randn(2, 6_000))
    assert {name: tuple(value.shape) for name, value in outputs.task_outputs.items()} == {
        "attributes": (2, 2),
        "gender": (2, 2),
        "speaker": (2, 6),
    }
    assert outputs.logits.shape == (2, 4) and outputs.enhanced_values.shape == (2, 6_000)
    assert ((outputs.task_outputs["attributes"] > 1) & (outputs.task_outputs["attributes"] < 7)).all()
    one = model(torch.randn(2, 6_000), tasks=("attributes",))
    assert list(one.task_outputs) == ["attributes"] and one.logits is None and one.enhanced_values is None
    assert model(torch.randn(2, 6_000), tasks=("emotion",)).task_outputs is None


def test_padding_does_not_change_them(model):
    generator = torch.Generator().manual_seed(0)
    clips = [torch.randn(length, generator=generator) for length in (9_000, 5_000)]
    inputs = SparseMeritFeatureExtractor()([clip.numpy() for clip in clips], sampling_rate=16_000, return_tensors="pt")
    together = model(**inputs).task_outputs
    for row, clip in enumerate(clips):
        alone = SparseMeritFeatureExtractor()(clip.numpy(), sampling_rate=16_000, return_tensors="pt")
        for name, value in model(**alone).task_outputs.items():
            torch.testing.assert_close(together[name][row], value[0], rtol=1e-5, atol=1e-5)


def test_losses_by_hand_with_missing_targets(model):
    values, ratings = torch.randn(3, 6_000), torch.tensor([[2.0, torch.nan], [torch.nan, torch.nan], [5.0, 6.0]])
    genders = torch.tensor([1, -100, 0])
    outputs = model(values, task_labels={"attributes": ratings, "gender": genders})
    predicted, logits = outputs.task_outputs["attributes"], outputs.task_outputs["gender"]
    squares = [(predicted[0, 0] - 2) ** 2, (predicted[2, 0] - 5) ** 2, (predicted[2, 1] - 6) ** 2]
    torch.testing.assert_close(outputs.losses["attributes"], sum(squares) / 3)
    entropies = [-logits[row].log_softmax(-1)[label] for row, label in ((0, 1), (2, 0))]
    torch.testing.assert_close(outputs.losses["gender"], sum(entropies) / 2)
    weights = {"attributes": 1.0, "gender": 1.0, "balance": model.config.load_balancing_weight}
    torch.testing.assert_close(outputs.loss, sum(weights[name] * loss for name, loss in outputs.losses.items()))
    outputs.loss.backward()
    assert model.heads["attributes"].output.weight.grad.abs().sum() > 0
    assert model.model.integration.routers["gender"].weight.grad.abs().sum() > 0
    assert model.heads["speaker"].output.weight.grad is None


def test_targets_of_no_task_are_refused(model):
    with pytest.raises(ValueError, match=r"`task_labels` has \['emotion', 'mood'\]; expected .*'attributes'"):
        model(torch.randn(1, 6_000), task_labels={"emotion": torch.tensor([0]), "mood": torch.tensor([0])})


def test_the_trainer_still_needs_labels_alone(model):
    assert find_labels(type(model)) == ["labels"]


# From a corpus to a model in use -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tables(tmp_path_factory, speech_clip) -> dict[str, str]:
    """Eighteen rated clips of three speakers, of which two ratings are missing, and a noise."""
    root = tmp_path_factory.mktemp("rated")
    rows = []
    for index in range(18):
        write_audio(root / f"{index}.wav", speech_clip(0.6 + 0.02 * index, seed=index), 16_000)
        split = ("train", "train", "dev", "test", "test", "test")[index // 3]
        emotion, gender = (("angry", "male"), ("sad", "female"))[index % 2]
        ratings = ("" if index in (4, 9) else str(1 + index % 6), str(1 + 2 * index % 5))
        rows.append((f"{index}.wav", emotion, f"speaker{index // 2 % 3}", split, *ratings, gender))
    (root / "noises").mkdir()
    hiss = 0.1 * np.random.default_rng(0).standard_normal(16_000)
    for split in ("train", "dev", "test"):
        write_audio(root / "noises" / f"{split}.wav", hiss.astype(np.float32), 16_000)
    header = ("file_name", "emotion", "speaker", "split", "valence", "arousal", "gender")
    write_csv(root / "metadata.csv", header, rows)
    noises = [(f"{split}.wav", split) for split in ("train", "dev", "test")]
    write_csv(root / "noises" / "metadata.csv", ("file_name", "split"), noises)
    prepare.write_dataset(corpus_named("folder").build(root), root / "speech")
    prepare.write_dataset(corpus_named("noise").build(root / "noises"), root / "noise")
    return {"speech": str(root / "speech"), "noise": str(root / "noise"), "recording": str(root / "0.wav")}


def write_csv(path: Path, header: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def train(tables: dict[str, str], folder: Path, config: dict, **changes) -> dict[str, float]:
    """A run of two epochs; returns what the log says of its last validation."""
    settings = {
        "output_dir": str(folder),
        "speech": [tables["speech"]],
        "noise": [tables["noise"]],
        "labels": ["angry", "sad"],
        "per_device_train_batch_size": 4,
        "dataloader_num_workers": 0,
        "epochs": 2,
        "learning_rate": 1e-3,
        "config": {name: value for name, value in config.items() if name not in ("id2label", "label2id")},
        **changes,
    }
    path = folder.with_suffix(".yaml")
    path.write_text(json.dumps(settings))
    training_run.main([str(path)])
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return next(line for line in reversed(lines) if "dev/score" in line)


@pytest.fixture(scope="module")
def small(tiny_config):
    own = ("conv_dim", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    names = (*own, "expert_hidden_size", "emotion_hidden_size", "enhancement_hidden_size")
    names = (*names, "num_conv_pos_embeddings", "num_conv_pos_embedding_groups")
    return {name: getattr(tiny_config, name) for name in names}


@pytest.fixture
def trained(tables, small, tmp_path):
    scores = train(tables, tmp_path / "run", {**small, "tasks": ALL_TASKS})
    return tmp_path / "run" / "best", scores


@pytest.mark.slow
def test_new_heads_train_export_and_run(trained, tables, tmp_path):
    checkpoint, scores = trained
    expected = {"macro_f1", "uar", "si_sdr", "gender/macro_f1", "speaker/eer", "attributes/ccc", "attributes/mae"}
    assert {f"dev/{name}" for name in (*expected, "loss_attributes", "expert_use/speaker/0")} <= set(scores)
    metrics = [scores["dev/macro_f1"], scores["dev/attributes/ccc"], scores["dev/gender/macro_f1"]]
    mean = np.mean([*metrics, 1 - scores["dev/speaker/eer"]])
    assert scores["dev/score"] == pytest.approx(mean + 0.05 * scores["dev/si_sdr_gain"], abs=1e-4)

    pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(checkpoint)
    result = pipe(tables["recording"])
    assert set(result) == {"audio", "sampling_rate", "emotion", *NEW_TASKS}
    assert list(result["attributes"]) == ["valence", "arousal"]
    assert all(1 <= value <= 7 for value in result["attributes"].values())
    assert {entry["label"] for entry in result["gender"]} == {"female", "male"}
    assert result["speaker"].shape == (6,) and np.linalg.norm(result["speaker"]) == pytest.approx(1, abs=1e-4)

    differences = export_onnx(pipe.model, pipe.feature_extractor, tmp_path / "onnx")
    assert list(differences) == ["enhanced_values", "logits", *NEW_TASKS]
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    inputs = noise((7_000, 5_000))
    actual = session.run(["attributes"], {name: value.numpy() for name, value in inputs.items()})[0]
    with torch.inference_mode():
        torch.testing.assert_close(
            torch.from_numpy(actual), pipe.model(**inputs).task_outputs["attributes"], rtol=1e-3, atol=1e-3
        )
    assert "valence, arousal, from 1 to 7" in (tmp_path / "onnx" / "README.md").read_text()

    done = CliRunner().invoke(
        app, ["enhance", tables["recording"], "-o", str(tmp_path), "--model", str(checkpoint), "--vad", "level"]
    )
    assert done.exit_code == 0, done.output
    record = json.loads((tmp_path / "results.jsonl").read_text().splitlines()[0])
    assert record["task_outputs"]["attributes"] == pytest.approx(result["attributes"], abs=1e-4)
    assert len(record["task_outputs"]["speaker"]) == 6 and record["emotion"] in ("angry", "sad")
    shown = CliRunner().invoke(app, ["info", "--model", str(checkpoint)]).stdout
    assert "valence, arousal, from 1 to 7" in " ".join(shown.split())


def test_new_heads_are_evaluated_with_intervals_and_stand_in_the_card(trained, tables, tmp_path):
    checkpoint, _ = trained
    settings = {
        "speech": [tables["speech"]],
        "noise": {"hiss": tables["noise"]},
        "snr_db": [0],
        "model": str(checkpoint),
        "bootstrap_resamples": 40,
        "workers": 1,
        "measures": ["si_sdr"],
    }
    (tmp_path / "evaluation.yaml").write_text(json.dumps(settings))
    report = evaluate(tmp_path / "evaluation.yaml", output=tmp_path / "results")

    pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(checkpoint)
    rows = list(read_dataset(tables["speech"], "test"))
    results = [pipe(row["audio"]) for row in rows]
    tasks = report["conditions"][0]["tasks"]
    rated = [index for index, row in enumerate(rows) if row["valence"] is not None]
    assert len(rated) == 8 and tasks["attributes"]["clips"] == 9  # all have a rating of arousal
    valence = concordance_correlation(
        [rows[index]["valence"] for index in rated], [results[index]["attributes"]["valence"] for index in rated]
    )
    assert tasks["attributes"]["ccc_valence"]["mean"] == pytest.approx(valence, abs=1e-3)
    low, high = tasks["attributes"]["ccc_valence"]["interval"]
    assert low < high
    labels = [row["gender"] for row in rows]
    genders = [result["gender"][0]["label"] for result in results]
    assert tasks["gender"]["macro_f1"]["mean"] == pytest.approx(macro_f1(labels, genders, ["female", "male"]))
    correct = [one == other for one, other in zip(labels, genders, strict=True)]
    assert tasks["gender"]["accuracy"]["mean"] == pytest.approx(np.mean(correct))
    vectors = np.stack([result["speaker"] for result in results])
    eer = equal_error_rate([row["speaker"] for row in rows], vectors)
    assert tasks["speaker"]["eer"]["mean"] == pytest.approx(eer, abs=1e-3)
    text = (tmp_path / "results" / "results.md").read_text()
    assert "## Attributes in detail" in text and "ccc_valence" in text and "## Speaker in detail" in text

    (checkpoint / "evaluation.json").write_text((tmp_path / "results" / "results.json").read_text())
    card = render_card(checkpoint)
    assert "**Attributes.** A regression: valence, arousal, from 1 to 7." in card
    assert f"| {tasks['attributes']['ccc_valence']['mean']:.3f} [" in card


def test_an_endpoint_gives_numbers(trained, tables):
    checkpoint, _ = trained
    handler = EndpointHandler.__new__(EndpointHandler)  # its constructor loads the code that travels with the weights
    handler.pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(checkpoint)
    prediction = handler({"inputs": Path(tables["recording"]).read_bytes()})
    assert len(json.loads(json.dumps(prediction))["speaker"]) == 6


def test_a_regression_alone_trains_on_the_rated_clips(tables, small, tmp_path):
    scores = train(tables, tmp_path / "run", {**small, "tasks": ["attributes"]})
    assert scores["dev/score"] == pytest.approx(scores["dev/attributes/ccc"], abs=1e-4)
    assert not any(name in scores for name in ("dev/macro_f1", "dev/si_sdr"))


def test_a_column_that_is_missing_is_named(tables, small, tmp_path, monkeypatch):
    task = RegressionTask(AttributesHead, outputs=("wakefulness", "valence"))
    monkeypatch.setitem(TASKS, "attributes", task)
    with pytest.raises(DatasetError, match="no column 'wakefulness', which the tasks \\['attributes'\\] learn from"):
        train(tables, tmp_path / "run", {**small, "tasks": ["attributes"]})


# Equal error rate ----------------------------------------------------------------------------------------------------


def test_equal_error_rate_by_hand():
    # similarities of the same class 1 and 0.6, of different ones 0.8, 0.8, 0, 0: at 0.8 half are wrong on either side
    vectors = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.8, 0.6]])
    assert equal_error_rate(["a", "a", "b", "b"], vectors) == pytest.approx(0.5)
    # of the same class 0.5, of different ones 0.9 and 0.1: between both thresholds all, then none are rejected
    assert equal_error_rate(
        ["a", "a", "b"], np.array([[1, 0, 0], [0.5, 3**0.5 / 2, 0], [0.9, -0.4, 0.17]])
    ) == pytest.approx(0.5, abs=0.01)
    assert equal_error_rate(["a", "a", "b", "b"], np.array([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1]])) == 0


def test_equal_error_rate_counts_clips_as_often_as_asked():
    generator = np.random.default_rng(0)
    vectors, labels = generator.standard_normal((9, 4)), ["a", "b", "c"] * 3
    once = equal_error_rate(labels, vectors)
    assert equal_error_rate(labels, vectors, np.ones((2, 9))) == pytest.approx([once, once])
    kept = np.array([1, 1, 0, 1, 1, 0, 1, 1, 1.0])
    chosen = [index for index in range(9) if kept[index]]
    expected = equal_error_rate([labels[index] for index in chosen], vectors[chosen])
    assert equal_error_rate(labels, vectors, kept) == pytest.approx(expected)


def test_least_detection_cost_by_hand():
    # thresholds reject (both, one, none) of the pairs of the same class, and accept (0, 2, 2) of four others
    vectors, labels = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.8, 0.6]]), ["a", "a", "b", "b"]
    assert min_dcf(labels, vectors, target=0.5) == pytest.approx((0.5 * 0.5 + 0.5 * 0) / 0.5)
    assert min_dcf(labels, vectors, target=0.99) == pytest.approx(0.01 * 0.5 / 0.01)
    assert min_dcf(labels, vectors) == pytest.approx(0.5)  # at p = 0.01, no false alarm pays
    assert min_dcf(["a", "a", "b", "b"], np.array([[1.0, 0], [1, 0.1], [0, 1], [0.1, 1]])) == 0
    assert min_dcf(labels, vectors, np.ones((2, 4))) == pytest.approx([0.5, 0.5])
    with pytest.raises(ValueError, match="`target` is 1; expected a probability"):
        min_dcf(labels, vectors, target=1)


def test_equal_error_rate_needs_pairs_and_directions():
    with pytest.warns(UserWarning, match="EER"):
        assert np.isnan(equal_error_rate(["a", "b"], np.eye(2)))
    with pytest.raises(ValueError, match="0 or not finite"):
        equal_error_rate(["a", "a"], np.zeros((2, 3)))
