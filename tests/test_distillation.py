# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Distillation: losses worked out by hand, frames that line up, clean speech for the teacher, and no trace of it."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from test_training import LABELS, make_settings, one_thread, small_tables, train_command, write_config  # noqa: F401

from modeling_sparse_merit import (
    SparseMeritConfig,
    SparseMeritFeatureExtractor,
    SparseMeritForSpeechEnhancementAndEmotion,
)
from modeling_sparse_merit.training import build, dataset
from modeling_sparse_merit.training import run as training_run
from modeling_sparse_merit.training.distillation import (
    DistillationObjective,
    LayerImitation,
    frame_shift,
    imitation_loss,
    logits_loss,
)

WHISPER = {
    "feature_encoder": "whisper",
    "relative_attention_bias": False,
    "encoder_window_seconds": 8,
    "conv_dim": [80],
    "conv_kernel": [160],
    "conv_stride": [320],
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "expert_hidden_size": 16,
    "emotion_hidden_size": 16,
    "enhancement_hidden_size": 16,
    "initializer_range": 0.3,
}


def save_teacher(folder, labels=("sad", "neutral", "angry"), **changes) -> str:
    """A random teacher in Whisper's layout, whose labels are more than the student's and in another order."""
    torch.manual_seed(1)
    config = SparseMeritConfig(**{**WHISPER, "id2label": dict(enumerate(labels)), **changes})
    SparseMeritForSpeechEnhancementAndEmotion(config).save_pretrained(folder)
    SparseMeritFeatureExtractor(normalization="corpus", corpus_mean=0.0, corpus_std=1.0).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module", name="teacher")
def teacher_folder(tmp_path_factory) -> str:
    return save_teacher(tmp_path_factory.mktemp("teacher"))


BOTH = {"teacher_layers": [1, -1], "distillation_weight": 2.0, "distillation_logits_weight": 0.5}


def distilling(tables, folder, **changes):
    """Settings of a run that learns both layers and logits."""
    return make_settings(tables, **{"teacher": folder, **BOTH, **changes})


@pytest.fixture
def started(tables, teacher):
    """A run before its first step: settings, training clips, feature extractor and objective."""
    settings = distilling(tables, teacher)
    clips, feature_extractor = dataset.load_clips(settings, "train"), build.build_feature_extractor(settings)
    clips.add_teacher_values(build.load_feature_extractor(teacher))
    torch.manual_seed(0)
    objective = DistillationObjective(settings, Accelerator(cpu=True), build.build_model(settings).eval())
    return settings, clips, feature_extractor, objective


# Losses --------------------------------------------------------------------------------------------------------------


def test_the_loss_of_a_layer_worked_out_by_hand():
    predicted = torch.tensor([[[3.0, 4.0], [1.0, 0.0], [9.0, 9.0]]])
    targets = torch.tensor([[[3.0, 4.0], [0.0, 2.0], [0.0, 0.0]]])
    mask = torch.tensor([[True, True, False]])
    # frame 0 is exact: cosine 1; frame 1: (1 + 2) / 2, cosine 0; frame 2 is padding
    expected = (-np.log(1 / (1 + np.exp(-1))) + 1.5 + np.log(2)) / 2
    assert imitation_loss(predicted, targets, mask).item() == pytest.approx(expected, rel=1e-6)
    assert imitation_loss(predicted, targets, torch.zeros(1, 3, dtype=torch.bool)).item() == 0


def test_the_loss_of_the_logits_worked_out_by_hand():
    logits, teacher = torch.tensor([[0.0, 0.0], [2.0, 2.0]]), torch.tensor([[2 * np.log(3), 0.0], [1.0, 1.0]])
    # at temperature 2 the teacher's first clip has probabilities 3/4 and 1/4, the student 1/2 and 1/2
    expected = 4 * (0.75 * np.log(1.5) + 0.25 * np.log(0.5)) / 2
    assert logits_loss(logits, teacher.float(), 2.0).item() == pytest.approx(expected, rel=1e-6)
    assert logits_loss(teacher + 5, teacher, 2.0).item() == pytest.approx(0, abs=1e-6)


def test_targets_are_standardised_for_each_position():
    generator = np.random.default_rng(0)
    ramp = 3.0 * np.arange(4)[:, None] * np.array([1, 0])  # depends on the position alone
    clips = [ramp[:length] + [0.5, 40] * generator.standard_normal((length, 2)) for length in (4, 4, 2) * 2000]
    imitation = LayerImitation(1, 2, 4)
    counts, totals = np.zeros((4, 1)), np.zeros((4, 2))
    for clip in clips:
        counts[: len(clip)] += 1
        totals[: len(clip)] += clip
    squares = (np.concatenate(clips) ** 2).sum(0)
    imitation.set_statistics(*(torch.from_numpy(each) for each in (counts, totals, squares)))
    np.testing.assert_allclose(imitation.deviation, [0.5, 40], rtol=0.03)
    np.testing.assert_allclose(imitation.mean[:, 0], ramp[:, 0], atol=0.05)
    standardised = imitation.standardised(torch.tensor(ramp[None], dtype=torch.float32))
    np.testing.assert_allclose(standardised, np.zeros((1, 4, 2)), atol=0.1)
    longer = imitation.standardised(torch.zeros(1, 6, 2))
    assert torch.equal(longer[0, 4], longer[0, 3]) and torch.equal(longer[0, 5], longer[0, 3])


def test_deviations_are_those_of_the_frames_themselves():
    frames = np.random.default_rng(1).normal(5, 3, (400, 3))
    imitation = LayerImitation(1, 3, 1)
    sums = np.full((1, 1), 400.0), frames.sum(0)[None], (frames**2).sum(0)
    imitation.set_statistics(*(torch.from_numpy(each) for each in sums))
    np.testing.assert_allclose(imitation.mean[0], frames.mean(0), rtol=1e-6)
    np.testing.assert_allclose(imitation.deviation, frames.std(0), rtol=1e-5)


# Frames --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "shift"), [(160, 0), (320, 0), (400, 1), (1200, 2)])
def test_frames_are_matched_by_their_centres(kernel, shift):
    student = SparseMeritConfig(feature_encoder="log_mel", conv_dim=[8], conv_kernel=[kernel], conv_stride=[320])
    whisper, wavlm = SparseMeritConfig(**WHISPER), SparseMeritConfig()
    # frame 5 of the student is centred at 5 * 320 + kernel / 2, frame u of Whisper at 320 u, of WavLM at 320 u + 200
    distances = [abs(5 * 320 + kernel / 2 - 320 * frame) for frame in range(20)]
    assert frame_shift(student, whisper) == shift == np.argmin(distances) - 5
    distances = [abs(5 * 320 + kernel / 2 - 320 * frame - 200) for frame in range(20)]
    assert frame_shift(student, wavlm) == np.argmin(distances) - 5


def test_the_last_frames_of_a_clip_share_its_last_teacher_frame(started):
    _, _, _, objective = started
    mask = torch.zeros(3, 2000, dtype=torch.long)
    mask[0], mask[1, :1040], mask[2, :150] = 1, 1, 1  # the teacher has (S - 160) // 320 + 1 frames: 6, 3 and none
    expected = [[1, 2, 3, 4, 5, 5], [1, 2, 2, 2, 2, 2], [0] * 6]
    assert objective.teacher.nearest_frames(6, mask).tolist() == expected


# What teacher and student are given ----------------------------------------------------------------------------------


def test_the_teacher_is_given_the_clean_crop_and_the_student_the_mixture(started, teacher):
    settings, clips, feature_extractor, objective = started
    clips.max_seconds = 0.4
    examples = [clips[index] for index in (0, 5)]
    given = {}
    for name, model in (("teacher", objective.teacher.model), ("student", objective.model)):
        encoder = model.model.encoder
        encoder.register_forward_pre_hook(lambda _, inputs, name=name: given.setdefault(name, inputs[0]))
    objective.through(objective.model)(**dataset.Collator(feature_extractor)(examples))
    for row, example in enumerate(examples):
        length = len(example["clean"])
        assert length == 6400
        np.testing.assert_allclose(given["teacher"][row, :length], example["clean"], atol=1e-6)
        noisy = example["noisy"]
        np.testing.assert_allclose(given["student"][row, :length], (noisy - noisy.mean()) / noisy.std(), atol=1e-3)


def test_logits_are_those_of_the_clean_speech_in_the_order_of_the_student(started, teacher):
    _, clips, feature_extractor, objective = started
    example = clips[0]
    batch = dataset.Collator(feature_extractor)([example])
    _, _, logits = objective.teacher(batch["teacher_values"], batch["attention_mask"])
    plain = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(teacher).eval()
    with torch.no_grad():
        expected = plain(torch.from_numpy(example["clean"])[None]).logits[:, [2, 0]]  # angry, sad
    torch.testing.assert_close(logits, expected)


def test_padding_does_not_reach_the_losses(started):
    _, clips, feature_extractor, objective = started
    objective.calibrate([dataset.Collator(feature_extractor)([clips[0], clips[5]])])
    short, long = sorted((clips[0], clips[5]), key=lambda example: len(example["noisy"]))
    assert len(long["noisy"]) > len(short["noisy"]) + 1600
    collate, forward = dataset.Collator(feature_extractor), objective.through(objective.model)
    actual, frames = [], []
    with torch.no_grad():
        for examples in ([short], [long], [short, long]):
            actual.append(forward(**collate(examples)).losses)
            frames.append((len(examples[0]["noisy"]) - 400) // 320 + 1)
    weights = {"distillation": frames[:2], "distillation_logits": [1, 1]}  # a mean over frames, and one over clips
    for name, counts in weights.items():
        alone = np.average([losses[name].item() for losses in actual[:2]], weights=counts)
        assert actual[2][name].item() == pytest.approx(alone, rel=1e-5)


def test_values_in_the_padding_have_no_gradient():
    torch.manual_seed(0)
    imitation, mask = LayerImitation(4, 3, 9), torch.tensor([[True] * 5 + [False] * 3])
    states, target = torch.randn(1, 8, 4, requires_grad=True), torch.randn(1, 8, 3)
    nearest = torch.tensor([[1, 2, 3, 4, 4, 4, 4, 4]])
    loss = imitation(states, target, nearest, mask)
    loss.backward()
    assert (states.grad[0, :5] != 0).all() and (states.grad[0, 5:] == 0).all()
    target[0, 5:] = torch.nan
    torch.testing.assert_close(imitation(states, target, nearest, mask), loss, rtol=0, atol=0)


def test_clips_without_an_emotion_take_part(tables, started):
    settings, clips, feature_extractor, objective = started
    unlabelled = next(index for index, label in enumerate(clips.labels) if label == -100)
    outputs = objective.through(objective.model)(**dataset.Collator(feature_extractor)([clips[unlabelled]]))
    assert outputs.losses["emotion"] == 0
    assert outputs.losses["distillation"] > 0 and outputs.losses["distillation_logits"] > 0
    (gradient,) = torch.autograd.grad(outputs.losses["distillation_logits"], outputs.logits)
    assert gradient.abs().sum() > 0
    tasks = {"emotion": objective.model.tasks["emotion"]}
    alone = dataset.load_clips(distilling(tables, settings.teacher, tasks=["emotion"]), "train", tasks)
    assert len(alone) == len(clips)


def test_the_total_is_the_sum_of_what_settings_weigh(started):
    _, clips, feature_extractor, objective = started
    batch = dataset.Collator(feature_extractor)([clips[0], clips[1]])
    values = batch.pop("teacher_values")
    with torch.no_grad():
        plain = objective.model(**batch).loss
        outputs = objective.through(objective.model)(**batch, teacher_values=values)
    expected = plain + 2.0 * outputs.losses["distillation"] + 0.5 * outputs.losses["distillation_logits"]
    torch.testing.assert_close(outputs.loss, expected)


# Runs ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"student_layers": [1, 2], "epochs": 3},
        {"teacher_layers": [], "distillation_weight": 0.0, "frozen_epochs": 1, "epochs": 2},
    ],
    ids=["layers", "logits"],
)
def test_a_run_resumes_exactly_and_leaves_a_plain_model(tables, teacher, tmp_path, changes):
    before = load_file(f"{teacher}/model.safetensors")
    options = {"teacher": teacher, **BOTH, "learning_rate": 0.003, "average_decay": 0.5, "eval_every": 3, **changes}
    config = write_config(tmp_path / "config.yaml", tables, **options)
    training_run.main([str(config), "--output_dir", str(tmp_path / "whole")])
    log = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    name = "train/distillation" if options["teacher_layers"] else "train/distillation_logits"
    losses = [entry[name] for entry in log if name in entry]
    assert losses[-1] < losses[0]

    best = tmp_path / "whole" / "best"
    model, loading = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(best, output_loading_info=True)
    assert not any(loading.values())
    fresh = SparseMeritForSpeechEnhancementAndEmotion(model.config)
    assert set(load_file(best / "model.safetensors")) == set(fresh.state_dict())
    assert not any("teacher" in name or "distillation" in name for name in model.config.to_dict())
    newest = max((tmp_path / "whole").glob("checkpoint-*"))
    weights = {file.name for file in newest.glob("*.safetensors")}
    assert weights == {"model.safetensors", "model_1.safetensors", "average.safetensors"}
    kept = set(load_file(newest / "model_1.safetensors"))
    pairs = range(len(options["teacher_layers"]))
    parts = ("projection.weight", "projection.bias", "mean", "deviation")
    assert kept == {f"{pair}.{part}" for pair in pairs for part in parts}
    assert all(torch.equal(weight, before[name]) for name, weight in load_file(f"{teacher}/model.safetensors").items())

    stop = ["--max_steps", str(log[0]["step"])]
    training_run.main([str(config), "--output_dir", str(tmp_path / "stopped"), *stop])
    training_run.main([str(config), "--output_dir", str(tmp_path / "stopped")])
    for file in weights:
        again = load_file(tmp_path / "stopped" / newest.name / file)
        for name, weight in load_file(newest / file).items():
            assert torch.equal(again[name], weight), (file, name)


@pytest.mark.slow
def test_two_processes_distil(tables, teacher, tmp_path):
    config = write_config(
        tmp_path / "config.yaml", tables, teacher=teacher, **BOTH, epochs=2, per_device_train_batch_size=2
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, *train_command(config, tmp_path / "run")[1:]]
    result = subprocess.run(command, env=one_thread(), capture_output=True, text=True, check=False, timeout=300)
    assert result.returncode == 0, result.stderr[-3000:]
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert all(np.isfinite(entry["train/distillation"]) for entry in log if "train/distillation" in entry)


# What is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": None}, "`teacher` is None.*both or neither"),
        ({"teacher_layers": []}, "`teacher_layers` is .*expected layers and a weight above 0, or neither"),
        ({"distillation_weight": 0.0}, "`teacher_layers` is .*or neither"),
        ({"distillation_weight": -1.0}, "`distillation_weight` is -1.0; expected a finite number of at least 0"),
        ({"distillation_temperature": 0.0}, "`distillation_temperature` is 0.0; expected a finite number above 0"),
        ({"student_layers": [1]}, "`student_layers` is .*one layer for each of `teacher_layers`"),
        ({"task_balancing": "uncertainty"}, "expected .*'task_balancing': 'fixed'.* not .*uncertainty"),
        ({"descriptor_weight": 1.0}, "expected .*'descriptor_weight': 0.* not .*1.0"),
        (
            {"tasks": ["enhancement"]},
            r"`tasks` is \['enhancement'\]; expected emotion",
        ),
    ],
)
def test_a_wrong_setting_is_named(tables, teacher, changes, message):
    with pytest.raises(ValueError, match=message):
        distilling(tables, teacher, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher_layers": [3, 1]}, r"`teacher_layers` has \[3\]; expected 0 .* to 2"),
        ({"student_layers": [-4, 1]}, r"`student_layers` has \[-4\]; expected 0 .* to 2"),
    ],
)
def test_a_layer_that_does_not_exist_is_named(tables, teacher, changes, message):
    settings = distilling(tables, teacher, **changes)
    with pytest.raises(ValueError, match=message):
        DistillationObjective(settings, Accelerator(cpu=True), build.build_model(settings))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"labels": ["sad", "neutral"]},
            "all labels of the student.* the labels .*sad.*the teacher .* the labels .*neutral",
        ),
        ({"tasks": ["enhancement"]}, r"needs the task emotion in both models.* the labels \[\]"),
        (
            {"feature_encoder": "log_mel", "conv_stride": [160], "encoder_window_seconds": None},
            "every 320 samples and the `teacher` every 160; expected the same",
        ),
    ],
)
def test_a_teacher_that_does_not_fit_is_named(tables, tmp_path, changes, message):
    settings = distilling(tables, save_teacher(tmp_path, **changes))
    with pytest.raises(ValueError, match=message):
        DistillationObjective(settings, Accelerator(cpu=True), build.build_model(settings))
