# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Tasks that a configuration defines: losses by hand and against the published modules, models, training, reports."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.errors import StrictDataclassClassValidationError
from safetensors.torch import load_file
from scipy import stats
from test_tasks import small, tables, train  # noqa: F401

from modeling_sparse_merit import (
    SparseMeritConfig,
    SparseMeritForSpeechEnhancementAndEmotion,
    SpeechEnhancementAndEmotionPipeline,
)
from modeling_sparse_merit.data.datasets import read_dataset
from modeling_sparse_merit.evaluation import evaluate, statistics
from modeling_sparse_merit.hub.export import export_checkpoint
from modeling_sparse_merit.metrics.regression import concordance_correlation
from modeling_sparse_merit.models.sparse_merit.clip_heads import (
    AttentiveStatisticsPooling,
    ClipHead,
    angular_margin_loss,
    classification_loss,
    concordance_loss,
    squared_error_loss,
)
from modeling_sparse_merit.training.dataset import EpochSampler
from modeling_sparse_merit.training.settings import TrainingSettings
from modeling_sparse_merit.training.targets import compares_clips, configured_tasks

ATTRIBUTES = {"kind": "regression", "outputs": ["valence", "arousal"], "minimum": 1.0, "maximum": 7.0}
CLIP_TASKS = {
    "attributes": ATTRIBUTES,
    "gender": {"kind": "classification", "labels": ["female", "male"], "focal_gamma": 2.0},
    "speaker": {"kind": "embedding", "size": 6, "labels": ["speaker0", "speaker1"]},
}
NAN = math.nan


# Losses --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def published(reference_data):
    """Inputs and outputs of the published modules of arXiv 2508.07282."""
    return load_file(reference_data / "golden" / "speech_text" / "golden.safetensors")


def test_pooling_is_that_of_the_published_module(published):
    pooling = AttentiveStatisticsPooling(24)
    pooling.dense.weight.data = published["pooling.weights.sap_linear.weight"]
    pooling.dense.bias.data = published["pooling.weights.sap_linear.bias"]
    pooling.score.weight.data = published["pooling.weights.attention"].T
    features = published["pooling.features"].requires_grad_()
    mask = torch.arange(features.shape[1]) < published["pooling.frames"][:, None]
    pooled = pooling(features, mask)
    torch.testing.assert_close(pooled, published["pooling.output"], atol=1e-5, rtol=0)
    (pooled * published["pooling.output_gradient"]).sum().backward()
    torch.testing.assert_close(features.grad, published["pooling.features_gradient"], atol=1e-5, rtol=0)


class First(torch.nn.Module):
    """The first argument, in place of a pooling."""

    def forward(self, features, frame_mask):
        return features


@pytest.mark.parametrize("activation", ["relu", "mish"])
@pytest.mark.parametrize(("task", "size"), [("attributes", 3), ("categories", 8)])
def test_heads_are_those_of_the_published_module(published, tiny_config, task, size, activation):
    config = SparseMeritConfig(
        **{**tiny_config.to_dict(), "hidden_size": 24, "emotion_hidden_size": 32, "head_activation": activation}
    )
    head = ClipHead(config, size).eval()
    prefix = f"head.{task}.weights."
    for ours, theirs in (("dense", "fc.0.0"), ("layer_norm", "fc.0.1"), ("classifier", "out.0")):
        getattr(head, ours).weight.data = published[f"{prefix}{theirs}.weight"]
        getattr(head, ours).bias.data = published[f"{prefix}{theirs}.bias"]
    head.pooling = First()
    output = head(published["head.input"], None)
    torch.testing.assert_close(output, published[f"head.{task}.{activation}.output"], atol=1e-5, rtol=0)


def test_losses_and_gradients_are_the_published_ones(published):
    predictions = published["ccc.predictions"].requires_grad_()
    loss = concordance_loss(predictions, published["ccc.targets"])
    torch.testing.assert_close(loss, published["ccc.loss"], atol=1e-5, rtol=0)
    loss.backward()
    torch.testing.assert_close(predictions.grad, published["ccc.predictions_gradient"], atol=1e-5, rtol=0)
    for name, options in (
        ("focal", {"focal_gamma": 2.0}),
        ("weighted_cross_entropy", {"class_weights": published["classes.weights"].tolist()}),
    ):
        logits = published["classes.logits"].clone().requires_grad_()
        loss = classification_loss(logits, published["classes.labels"], **options)
        torch.testing.assert_close(loss, published[f"classes.{name}"], atol=1e-5, rtol=0)
        loss.backward()
        torch.testing.assert_close(logits.grad, published[f"classes.{name}_gradient"], atol=1e-5, rtol=0)


def test_the_concordance_is_that_of_the_metric_and_leaves_out_missing_ratings():
    generator = torch.Generator().manual_seed(0)
    predicted, targets = (torch.randn(9, 2, generator=generator) for _ in range(2))
    targets[3, 0] = targets[7, 1] = NAN
    expected = 0.0
    for place in range(2):
        rated = targets[:, place].isfinite()
        expected += 1 - concordance_correlation(targets[rated, place].numpy(), predicted[rated, place].numpy())
    assert concordance_loss(predicted, targets).item() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "targets",
    [
        [[0.2]],  # one clip
        [[0.1], [NAN], [NAN]],  # one rated clip
        [[0.38333], [0.38333], [0.38333]],  # constant
        [[NAN], [NAN]],  # no rating at all
    ],
)
def test_what_has_no_concordance_counts_nothing(targets):
    targets = torch.tensor(targets)
    predicted = torch.linspace(0, 1, len(targets))[:, None].requires_grad_()
    loss = concordance_loss(predicted, targets)
    loss.backward()
    assert loss.item() == 0.0 and predicted.grad.abs().max() == 0.0


def test_equal_predictions_have_a_finite_gradient():
    predicted = torch.full((4, 1), 0.5, requires_grad=True)
    loss = concordance_loss(predicted, torch.tensor([[0.1], [0.4], [0.6], [0.9]]))
    loss.backward()
    assert loss.item() == pytest.approx(1.0) and predicted.grad.isfinite().all()


def test_squared_errors_by_hand():
    predicted, targets = torch.tensor([[0.5, 0.0], [1.0, 1.0]]), torch.tensor([[0.0, NAN], [1.0, 0.5]])
    assert squared_error_loss(predicted, targets).item() == pytest.approx(0.25 / 2 + 0.25)
    assert squared_error_loss(predicted, targets * NAN).item() == 0.0


def test_the_angular_margin_by_hand():
    # 60 degrees from the first class, 30 from the second; the margin of 15 degrees is added to the true angle
    embedding = torch.tensor([[math.cos(math.pi / 3), math.sin(math.pi / 3)]])
    vectors = torch.tensor([[2.0, 0.0], [0.0, 3.0]])
    loss = angular_margin_loss(embedding, torch.tensor([0]), vectors, math.pi / 12, 10.0)
    logits = [10 * math.cos(math.radians(75)), 10 * math.cos(math.radians(30))]
    assert loss.item() == pytest.approx(math.log(math.exp(logits[0]) + math.exp(logits[1])) - logits[0], abs=1e-4)


def test_unknown_speakers_do_not_count_and_opposite_ones_have_a_gradient():
    embeddings = torch.tensor([[-1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    known = angular_margin_loss(embeddings[:1], torch.tensor([0]), vectors, 0.2, 30.0)
    both = angular_margin_loss(embeddings, torch.tensor([0, 2]), vectors, 0.2, 30.0)
    assert both.item() == pytest.approx(known.item())
    both.backward()
    assert embeddings.grad.isfinite().all() and embeddings.grad[0].abs().sum() > 0
    assert angular_margin_loss(embeddings, torch.tensor([-100, 2]), vectors, 0.2, 30.0).item() == 0.0


TWO_PROCESSES = """
import torch
from accelerate import Accelerator
from types import SimpleNamespace
from torch import nn
from modeling_sparse_merit.models.sparse_merit.clip_heads import RatingHead, concordance_loss

accelerator = Accelerator(cpu=True)
torch.manual_seed(0)
linear = nn.Linear(4, 2)
sizes = {"hidden_size": 4, "emotion_hidden_size": 4, "emotion_pooling_heads": 1}
config = SimpleNamespace(**sizes, head_activation="relu", final_dropout=0.0)
head = RatingHead(config, 2, 0.0, 1.0, "ccc").train()
inputs, targets = torch.randn(8, 4), torch.rand(8, 2)
targets[5, 1] = torch.nan
model = accelerator.prepare(linear)
own = slice(4 * accelerator.process_index, 4 * accelerator.process_index + 4)
loss = head.loss(model(inputs[own]), targets[own], config)
accelerator.backward(loss)
actual = linear.weight.grad.clone()
linear.zero_grad()
expected = concordance_loss(linear(inputs), targets)
expected.backward()
assert accelerator.num_processes == 2
torch.testing.assert_close(loss, expected)
torch.testing.assert_close(actual, linear.weight.grad)
"""


@pytest.mark.slow
def test_two_processes_have_the_concordance_of_all_their_clips(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(TWO_PROCESSES, encoding="utf-8")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": f"{os.path.dirname(__file__)}/.."}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    result = subprocess.run([*launcher, str(script)], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]


# Configuration -------------------------------------------------------------------------------------------------------


def configured(tiny_config, clip_tasks=None, **changes):
    clip_tasks = CLIP_TASKS if clip_tasks is None else clip_tasks
    fields = {**tiny_config.to_dict(), "tasks": ["emotion", *clip_tasks], "clip_tasks": clip_tasks, **changes}
    return SparseMeritConfig(**fields)


@pytest.mark.parametrize(
    ("clip_tasks", "message"),
    [
        ({"emotion": ATTRIBUTES}, "has the name 'emotion'"),
        ({"Valence": ATTRIBUTES}, "expected lower-case letters"),
        ({"keys": ATTRIBUTES}, "has the name 'keys'"),
        (
            {"valence": {"kind": "ordinal"}},
            r"expected a `kind` out of \['regression', 'classification', 'embedding'\]",
        ),
        ({"valence": {**ATTRIBUTES, "range": 3}}, r"unknown fields \['range'\]"),
        ({"valence": {"kind": "regression", "outputs": ["valence"]}}, r"without \['minimum', 'maximum'\]"),
        ({"valence": {**ATTRIBUTES, "loss": "mae"}}, r"`loss` is 'mae'; expected one of \['ccc', 'mse'\]"),
        ({"valence": {**ATTRIBUTES, "maximum": 0.0}}, "expected `minimum` < `maximum`"),
        ({"intent": {"kind": "classification", "labels": ["one"]}}, "at least two `labels`"),
        ({"intent": {"kind": "classification", "labels": ["a", "b"], "class_weights": [1.0]}}, "`class_weights`"),
        ({"speaker": {"kind": "embedding", "margin": 2.0}}, "`margin` of at least 0"),
    ],
)
def test_a_definition_that_cannot_work_is_refused(tiny_config, clip_tasks, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        configured(tiny_config, clip_tasks)


def test_a_task_that_would_learn_nothing_is_refused(tiny_config):
    with pytest.raises(
        StrictDataclassClassValidationError, match=r"defines \['speaker'\], but `tasks` is \['emotion'\]"
    ):
        configured(tiny_config, {"speaker": {"kind": "embedding"}}, tasks=["emotion"])
    with pytest.raises(
        StrictDataclassClassValidationError, match=r"for some of \['emotion', 'attributes', 'gender', 'speaker'\]"
    ):
        configured(tiny_config, task_weights={"pitch": 1.0})
    with pytest.raises(StrictDataclassClassValidationError, match="`head_activation` is 'square'; expected one of"):
        configured(tiny_config, head_activation="square")


def test_a_configuration_is_stored_as_json(tiny_config, tmp_path):
    config = configured(tiny_config, task_weights={"attributes": 0.5})
    config.save_pretrained(tmp_path)
    read = SparseMeritConfig.from_pretrained(tmp_path)
    assert read.clip_tasks == CLIP_TASKS and read.tasks == ["emotion", *CLIP_TASKS]
    weights = {"emotion": 1.0, "attributes": 0.5, "gender": 1.0, "speaker": 1.0, "balance": 0.01}
    assert read.loss_weights == weights


# Models --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def model(tiny_config):
    torch.manual_seed(0)
    return SparseMeritForSpeechEnhancementAndEmotion(configured(tiny_config)).eval()


def test_outputs_do_not_depend_on_padding(model):
    values = torch.randn(1, 6_000)
    mask = torch.cat([torch.ones(1, 6_000), torch.zeros(1, 4_000)], dim=1).long()
    alone = model(values).task_outputs
    padded = model(torch.nn.functional.pad(values, (0, 4_000)), mask).task_outputs
    assert {name: tuple(value.shape) for name, value in alone.items()} == {
        "attributes": (1, 2),
        "gender": (1, 2),
        "speaker": (1, 6),
    }
    for name, value in alone.items():
        torch.testing.assert_close(padded[name], value, rtol=1e-5, atol=1e-5)
    assert alone["speaker"].norm(dim=-1).item() == pytest.approx(1.0, abs=1e-5)


def test_every_loss_is_that_of_its_definition(model):
    values = torch.randn(3, 6_000)
    targets = {
        "attributes": torch.tensor([[2.0, 6.0], [5.0, NAN], [3.0, 1.0]]),
        "gender": torch.tensor([0, 1, -100]),
        "speaker": torch.tensor([1, 0, 5]),
    }
    outputs = model(values, task_labels=targets)
    predicted = outputs.task_outputs
    expected = {
        "attributes": concordance_loss((predicted["attributes"] - 1) / 6, (targets["attributes"] - 1) / 6),
        "gender": classification_loss(predicted["gender"], targets["gender"], focal_gamma=2.0),
        "speaker": angular_margin_loss(
            predicted["speaker"], targets["speaker"], model.heads["speaker"].class_vectors, 0.2, 30.0
        ),
    }
    for name, loss in expected.items():
        torch.testing.assert_close(outputs.losses[name], loss)
    with pytest.raises(ValueError, match=r"expected \(3, 2\), a number for each clip and rating"):
        model(values, task_labels={"attributes": torch.ones(3)})


def test_without_ratings_the_loss_is_finite_and_trains_the_others(model):
    outputs = model(
        torch.randn(1, 6_000),
        labels=torch.tensor([1]),
        task_labels={"attributes": torch.full((1, 2), NAN), "speaker": torch.tensor([-100])},
    )
    outputs.loss.backward()
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert model.heads["emotion"].classifier.weight.grad.abs().sum() > 0


def test_only_requested_tasks_are_computed(model):
    outputs = model(torch.randn(1, 6_000), tasks=("attributes",))
    assert list(outputs.task_outputs) == ["attributes"] and outputs.logits is None


def test_weights_of_checkpoints_without_clip_tasks_keep_their_names(tiny_config):
    names = SparseMeritForSpeechEnhancementAndEmotion(tiny_config).state_dict()
    heads = {name for name in names if name.startswith("heads.emotion.")}
    parts = ("pooling.dense.weight", "pooling.dense.bias", "pooling.score.weight", "dense.weight", "dense.bias")
    parts += ("layer_norm.weight", "layer_norm.bias", "classifier.weight", "classifier.bias")
    assert heads == {f"heads.emotion.{part}" for part in parts}


def test_the_last_layer_replaces_experts(tiny_config):
    config = configured(tiny_config, integration="last_layer")
    model = SparseMeritForSpeechEnhancementAndEmotion(config).eval()
    outputs = model.model(torch.randn(2, 6_000))
    torch.testing.assert_close(outputs.features["attributes"], outputs.last_hidden_state)
    assert not outputs.router_logits and not list(model.model.integration.parameters())
    model(torch.randn(2, 6_000), labels=torch.tensor([0, 1])).loss.backward()
    assert model.model.encoder.encoder.layer_norm.weight.grad.abs().sum() > 0


# Training ------------------------------------------------------------------------------------------------------------


def test_too_few_clips_for_a_concordance_are_refused():
    config = {"tasks": ["attributes"], "clip_tasks": {"attributes": ATTRIBUTES}}
    settings = TrainingSettings(config=config, per_device_train_batch_size=8, gradient_accumulation_steps=4)
    tasks = configured_tasks(settings)
    with pytest.raises(ValueError, match=r"a batch has 8 clips, too few for the CCC loss of \['attributes'\]"):
        compares_clips(settings, tasks, clips=8)
    assert compares_clips(settings, tasks, clips=32)
    settings.config["clip_tasks"]["attributes"] = {**ATTRIBUTES, "loss": "mse"}
    assert not compares_clips(settings, configured_tasks(settings), clips=8)


def test_heads_that_adapters_would_not_train_are_refused():
    config = {"tasks": ["emotion", "attributes"], "clip_tasks": {"attributes": ATTRIBUTES}}
    with pytest.raises(ValueError, match=r"without the `clip_tasks` \['attributes'\]"):
        TrainingSettings(model="tiny", lora_rank=4, config=config)


def test_columns_fit_their_task():
    config = {"tasks": ["attributes"], "clip_tasks": {"attributes": ATTRIBUTES}}
    settings = TrainingSettings(config=config, task_columns={"attributes": ["v", "a"]})
    assert configured_tasks(settings)["attributes"].columns == ("v", "a")
    with pytest.raises(ValueError, match="expected 2 columns"):
        configured_tasks(TrainingSettings(config=config, task_columns={"attributes": "v"}))
    with pytest.raises(ValueError, match=r"`clip_tasks` of `config`, \['attributes'\]"):
        TrainingSettings(config=config, task_columns={"intent": "intent"})


@pytest.mark.parametrize(("sampling", "size"), [("oversampled", 9), ("undersampled", 2)])
def test_batches_have_equally_many_clips_of_each_class(sampling, size):
    classes = np.array([0] * 9 + [1] * 2 + [2] * 5 + [-100] * 4)
    sizes = {0: 9, 1: 2, 2: 5, -100: np.inf}
    frequencies = np.array([size / sizes[label] for label in classes])
    sampler = EpochSampler(6, [1.0] * 20, 0, frequencies, classes=classes)
    drawn = list(sampler)
    assert len(sampler) == len(drawn) == 3 * size and len(set(drawn)) == len(drawn)  # repeats are other mixtures
    labels = classes[np.array(drawn) % 20]
    for start in range(0, len(labels) - 5, 6):
        assert np.bincount(labels[start : start + 6]).tolist() == [2, 2, 2]
    assert np.bincount(labels).tolist() == [size] * 3
    sampler.set_epoch(1)
    assert list(sampler) != drawn


def test_batches_whose_size_is_not_divisible_differ_by_one_clip():
    classes = np.repeat([0, 1, 2], 8)
    labels = classes[np.array(list(EpochSampler(4, [1.0] * 24, 0, np.ones(24), classes=classes)))]
    counts = [np.bincount(labels[start : start + 4], minlength=3) for start in range(0, 24, 4)]
    assert all(sorted(count) == [1, 1, 2] for count in counts)


@pytest.fixture(scope="module")
def trained(tables, small, tmp_path_factory):  # noqa: F811
    clip_tasks = {
        "attributes": ATTRIBUTES,
        "sex": {"kind": "classification"},
        "voice": {"kind": "embedding", "size": 6},
    }
    folder = tmp_path_factory.mktemp("clip_tasks") / "run"
    config = {**small, "tasks": ["emotion", *clip_tasks], "clip_tasks": clip_tasks}
    scores = train(tables, folder, config, task_columns={"sex": "gender", "voice": "speaker"})
    return folder / "best", scores


def test_defined_tasks_are_trained_with_the_classes_of_the_training_clips(trained):
    checkpoint, scores = trained
    config = SparseMeritConfig.from_pretrained(checkpoint)
    assert config.clip_tasks["sex"]["labels"] == ["female", "male"]
    assert config.clip_tasks["voice"]["labels"] == ["speaker0", "speaker1", "speaker2"]
    metrics = [scores[f"dev/{name}"] for name in ("macro_f1", "attributes/ccc", "sex/macro_f1")]
    assert scores["dev/score"] == pytest.approx(np.mean([*metrics, 1 - scores["dev/voice/eer"]]), abs=1e-4)


def test_defined_tasks_are_evaluated_and_compared(trained, tables, tmp_path):  # noqa: F811
    checkpoint = str(trained[0])
    other = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(checkpoint)
    torch.nn.init.normal_(other.heads["attributes"].classifier.weight)
    other.save_pretrained(tmp_path / "other")
    SpeechEnhancementAndEmotionPipeline.from_pretrained(checkpoint).feature_extractor.save_pretrained(
        tmp_path / "other"
    )
    settings = {
        "speech": [tables["speech"]],
        "systems": {"one": checkpoint, "other": str(tmp_path / "other")},
        "baseline": "one",
        "task_columns": {"sex": "gender", "voice": "speaker"},
        "bootstrap_resamples": 40,
        "workers": 1,
        "measures": ["si_sdr"],
    }
    (tmp_path / "evaluation.yaml").write_text(json.dumps(settings))
    report = evaluate(tmp_path / "evaluation.yaml", output=tmp_path / "results")
    rows = [row for row in read_dataset(tables["speech"], "test") if row["valence"] is not None]
    expected = {}
    for name, path in settings["systems"].items():
        pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(path, min_score=0.0)
        outputs = [pipe(row["audio"], tasks=("attributes",))["attributes"]["valence"] for row in rows]
        expected[name] = concordance_correlation([row["valence"] for row in rows], outputs)
        actual = report["results"][name]["conditions"][0]["tasks"]["attributes"]["ccc_valence"]["mean"]
        if 1 < min(outputs) and max(outputs) < 7:  # the pipeline limits ratings to their scale
            assert actual == pytest.approx(expected[name], abs=1e-3)
    (comparison,) = [entry for entry in report["comparisons"]["tasks"] if entry["measure"] == "ccc_valence"]
    conditions = [report["results"][name]["conditions"][0]["tasks"]["attributes"] for name in ("other", "one")]
    difference = conditions[0]["ccc_valence"]["mean"] - conditions[1]["ccc_valence"]["mean"]
    assert comparison["difference"] == pytest.approx(difference, abs=1e-6) and 0 < comparison["p"] <= 1
    assert "Differences from `one`:" in (tmp_path / "results" / "results.md").read_text()

    exported = export_checkpoint(checkpoint, tmp_path / "exported", results=tmp_path / "results")
    ccc = conditions[1]["ccc_valence"]
    shown = f"{ccc['mean']:z.3f} [{ccc['interval'][0]:z.3f}, {ccc['interval'][1]:z.3f}]"
    kept = [row for split in ("train", "dev") for row in read_dataset(tables["speech"], split)]
    rated = sum(row["valence"] is not None for row in kept)
    row = f"| valence | 1 to 7 | {shown} | {Path(tables['speech']).stem} ({rated} clips) |"
    card = (exported / "README.md").read_text()
    assert row in card and "| attributes/ccc_valence |" in card
    results = {result.metric_name: result.metric_value for result in ModelCard(card).data.eval_results}
    assert results["CCC of valence"] == ccc["mean"]


def test_p_values_of_the_concordance_are_those_of_scipy():
    generator = np.random.default_rng(3)
    true = generator.normal(size=8)
    ours, baseline = true + generator.normal(0, 0.5, size=(1, 8)), true + generator.normal(0, 1, size=(1, 8))
    swaps = statistics.Resampling([None] * 8, 10, seed=0).swaps["clip"]
    difference, permuted = statistics.swapped_ccc(true, ours, baseline, swaps.clips)

    def statistic(x, y, axis):
        pairs = zip(np.atleast_2d(x), np.atleast_2d(y), strict=True)
        values = [concordance_correlation(true, one) - concordance_correlation(true, other) for one, other in pairs]
        return np.array(values) if np.ndim(x) > 1 else np.float64(values[0])

    expected = stats.permutation_test(
        (ours[0], baseline[0]), statistic, permutation_type="samples", vectorized=True, n_resamples=np.inf
    )
    assert difference == pytest.approx(expected.statistic)
    assert statistics.permutation_p_value(difference, permuted, exhaustive=True) == pytest.approx(expected.pvalue)
