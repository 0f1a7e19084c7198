# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The configuration: published defaults, a JSON round trip, and errors that name the field and what would be valid."""

import pytest

from modeling_sparse_merit import SparseMeritConfig


def test_defaults_describe_the_published_model():
    config = SparseMeritConfig()
    assert (config.hidden_size, config.num_hidden_layers, config.num_layer_outputs) == (1024, 24, 25)
    assert (config.num_experts, config.expert_hidden_size, config.emotion_hidden_size) == (3, 4096, 1024)
    assert (config.enhancement_hidden_size, config.enhancement_num_layers) == (256, 2)
    assert (config.n_fft, config.win_length, config.hop_length) == (400, 400, 160)
    assert (config.tasks, config.integration, config.router) == (["enhancement", "emotion"], "experts", "sparse")
    assert (config.layerdrop, config.apply_spec_augment, config.do_stable_layer_norm) == (0.0, False, True)
    assert config.id2label == {0: "angry", 1: "sad", 2: "happy", 3: "neutral"}


def test_survives_saving(tmp_path):
    labels = {0: "calm", 1: "tense"}
    config = SparseMeritConfig(num_experts=5, tasks=["emotion"], id2label=labels, class_weights=[0.5, 1.5])
    config.save_pretrained(tmp_path)
    loaded = SparseMeritConfig.from_pretrained(tmp_path)
    assert loaded.to_dict() == config.to_dict()
    assert loaded.num_labels == 2 and loaded.id2label == labels and loaded.label2id == {"calm": 0, "tense": 1}


def test_takes_a_number_of_labels():
    assert SparseMeritConfig(num_labels=7).num_labels == 7


@pytest.mark.parametrize(
    ("field", "value", "valid"),
    [
        ("tasks", [], "at least one"),
        ("tasks", ["transcription"], "enhancement"),
        ("tasks", ["emotion", "emotion"], "distinct"),
        ("integration", "attention", "weighted_sum"),
        ("router", "top2", "dense"),
        ("router_gradient", "reinforce", "straight_through"),
        ("num_experts", 0, "from 1 to 1000"),
        ("load_balancing_weight", -0.1, "at least 0"),
        ("load_balancing_weight", float("nan"), "finite number"),
        ("enhancement_weight", float("inf"), "finite number"),
        ("hidden_size", 1000, "multiple of the number of heads"),
        ("num_attention_heads", 0, "from 1 to 4096"),
        ("hop_length", 300, "win_length / 2"),
        ("layerdrop", 0.1, "expected 0"),
        ("add_adapter", True, "expected False"),
        ("class_weights", [1.0, 2.0], "4 positive numbers"),
        ("class_weights", [1.0, 1.0, 1.0, float("nan")], "4 positive numbers"),
    ],
)
def test_error_names_field_value_and_what_is_valid(field, value, valid):
    with pytest.raises(Exception, match=field) as error:
        SparseMeritConfig(**{field: value})
    assert str(value) in str(error.value) and valid in str(error.value)
