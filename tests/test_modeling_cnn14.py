# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""CNN14: clips of any length, soft labels, augmentation in training alone, and checkpoints that travel."""

import pytest
import torch
from test_remote_code import run_elsewhere
from torch.nn import functional as F
from transformers import AutoModelForAudioClassification

from modeling_sparse_merit import Cnn14Config, Cnn14ForAudioClassification
from modeling_sparse_merit.models.cnn14.modeling_cnn14 import mixup, repeated, soft_cross_entropy, soft_labels

LABELS = {0: "normal", 1: "crackle", 2: "wheeze"}


def make(**changes) -> Cnn14ForAudioClassification:
    torch.manual_seed(0)
    fields = {"channels": [4, 8, 8], "hidden_size": 16, "seconds": 1.0, "id2label": LABELS, **changes}
    model = Cnn14ForAudioClassification(Cnn14Config(**fields))
    for module in model.modules():  # statistics of batch norm as after a training
        if isinstance(module, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    return model


@torch.no_grad()
def test_a_clip_alone_equals_the_clip_in_a_padded_batch():
    model = make().eval()
    clips = [torch.randn(length) for length in (1, 3000, 16_000, 20_000)]
    values, mask = 9.0 * torch.ones(4, 20_000), torch.zeros(4, 20_000, dtype=torch.long)
    for row, clip in enumerate(clips):
        values[row, : len(clip)], mask[row, : len(clip)] = clip, 1
    together = model(values, mask).logits
    for clip, logits in zip(clips, together, strict=True):
        torch.testing.assert_close(model(clip[None]).logits[0], logits, rtol=1e-5, atol=1e-5)


def test_short_clips_are_repeated_with_fades_at_the_joints_and_long_ones_cropped():
    clips = torch.ones(2, 40)
    actual = repeated(clips, torch.tensor([10, 40]), 25, 2)
    faded = [1.0] * 8 + [0.75, 0.25, 0.25, 0.75] + [1.0] * 6 + [0.75, 0.25, 0.25, 0.75] + [1.0] * 3
    assert actual[0].tolist() == faded and actual[1].tolist() == [1.0] * 25
    counted = torch.arange(10.0)[None]
    assert repeated(counted, torch.tensor([10]), 23, 0)[0].tolist() == [*range(10), *range(10), 0, 1, 2]


def test_soft_labels_have_the_cross_entropy_of_torch_and_clips_without_a_label_do_not_count():
    logits, labels, weights = torch.randn(4, 3), torch.tensor([0, 2, -100, 1]), [1.0, 2.0, 3.0]
    actual = soft_cross_entropy(logits, soft_labels(labels, 3), weights)
    torch.testing.assert_close(actual, F.cross_entropy(logits, labels, torch.tensor(weights)))
    assert soft_cross_entropy(logits, torch.zeros(4, 3)) == 0
    with pytest.raises(ValueError, match=r"`labels` has the shape \(4, 2\); expected \(B,\) classes or \(B, 3\)"):
        soft_labels(torch.zeros(4, 2), 3)


def test_mixup_mixes_clips_and_targets_by_the_same_share():
    torch.manual_seed(0)
    mel = torch.eye(3)[:, None].expand(3, 5, 3)  # each clip is its own label
    mixed, targets = mixup(mel, torch.eye(3), 0.5)
    torch.testing.assert_close(mixed[:, 0], targets)
    assert ((targets > 0) & (targets < 1)).any() and torch.allclose(targets.sum(1), torch.ones(3))
    unlabelled = torch.tensor([[1.0, 0, 0], [0, 0, 0], [0, 0, 0]])
    assert mixup(mel, unlabelled, 0.5)[0].equal(mel)


def test_augmentation_and_mixup_are_for_training_alone():
    model, clip, labels = make(conv_dropout=0, head_dropout=0), torch.randn(3, 8000), torch.tensor([0, 1, 2])
    assert not model(clip, labels=labels).loss.equal(model(clip, labels=labels).loss)
    model.eval()
    first = model(clip, labels=labels)
    assert first.loss.equal(model(clip, labels=labels).loss)
    torch.testing.assert_close(first.loss, F.cross_entropy(first.logits, labels))


def test_three_kinds_of_noise_are_learned():
    model = make(seconds=0.5, mixup_alpha=0.2, time_width=8, frequency_width=4, head_dropout=0.1).train()
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(18, 4000, generator=generator)
    labels = torch.arange(18) % 3
    for row, label in enumerate(labels):  # hiss, rumble, or a hiss that comes and goes
        if label == 1:
            noise[row] = noise[row].cumsum(0) / 30
        elif label == 2:
            noise[row] *= torch.sin(torch.arange(4000) / 100).clamp(min=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        model(noise, labels=labels).loss.backward()
        optimizer.step()
    assert (model.eval()(noise).logits.argmax(-1) == labels).float().mean() > 0.9


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"channels": []}, "`channels` is .*; expected 1 to 32 numbers"),
        ({"max_frequency": 9000}, "expected a range of at most 8000 Hz"),
        ({"conv_dropout": 1}, "`conv_dropout` is 1; expected at least 0 and less than 1"),
        ({"seconds": 0.1}, "expected at least 32 frames and 32 bands for 6 blocks"),
        (
            {"class_weights": [1.0], "id2label": LABELS},
            "`class_weights` has 1 numbers; expected a positive one for each of the 3",
        ),
        ({"mixup_alpha": -1}, "`mixup_alpha` is -1; expected a number from 0"),
    ],
)
def test_configurations_that_cannot_be_say_so(fields, message):
    with pytest.raises(Exception, match=message):
        Cnn14Config(**fields)


LOAD = """
import json, sys
import torch
from transformers import AutoModelForAudioClassification

model = AutoModelForAudioClassification.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
torch.manual_seed(0)
logits = model(torch.randn(1, 3000)).logits
model.save_pretrained(sys.argv[2])
print(json.dumps({"home": type(model).__module__.split(".")[0], "logits": logits[0].tolist()}))
"""


@pytest.mark.slow
def test_a_checkpoint_loads_where_the_package_is_not_installed(tmp_path):
    model = make().eval()
    model.save_pretrained(tmp_path / "saved")
    loaded = run_elsewhere(LOAD, tmp_path / "saved", tmp_path / "again", folder=tmp_path)
    torch.manual_seed(0)
    expected = model(torch.randn(1, 3000)).logits[0]
    assert loaded == {"home": "transformers_modules", "logits": pytest.approx(expected.tolist(), abs=1e-5)}
    code = {"configuration_cnn14.py", "modeling_cnn14.py"}
    assert {path.name for path in (tmp_path / "again").iterdir()} == {"config.json", "model.safetensors", *code}


def test_labels_of_ones_own_replace_the_classifier(tmp_path):
    make().save_pretrained(tmp_path)
    two = AutoModelForAudioClassification.from_pretrained(
        tmp_path, num_labels=2, ignore_mismatched_sizes=True, trust_remote_code=True
    )
    assert two(torch.randn(2, 4000), labels=torch.tensor([0, 1])).logits.shape == (2, 2)
