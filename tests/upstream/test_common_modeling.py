# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Common tests of transformers on configuration and models."""

import unittest
from typing import Any
from unittest.mock import patch

import not_shipped  # noqa: F401
import torch
from transformers import AutoConfig, AutoModel
from transformers.models.auto import modeling_auto
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_modeling_common import ModelTesterMixin, floats_tensor, random_attention_mask

from modeling_sparse_merit import SparseMeritConfig, SparseMeritForSpeechEnhancementAndEmotion, SparseMeritModel
from modeling_sparse_merit.models.sparse_merit.modeling_sparse_merit import SparseMeritModelOutput

AutoConfig.register("sparse_merit", SparseMeritConfig)
AutoModel.register(SparseMeritConfig, SparseMeritModel)
# The suite learns from these lists of transformers which class has a loss, and of which labels.
modeling_auto.MODEL_MAPPING_NAMES["sparse_merit"] = SparseMeritModel.__name__
modeling_auto.MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES["sparse_merit"] = (
    SparseMeritForSpeechEnhancementAndEmotion.__name__
)


class SparseMeritModelTester:
    """A tiny configuration and a batch for it. The suite reads the sizes from the attributes."""

    batch_size = 2
    seq_length = 1024  # samples
    is_training = True
    hidden_size = 16
    num_hidden_layers = 2
    num_attention_heads = 2
    encoder_seq_length = 14  # frames: 1024 -> 255 -> 62 -> 14 by three convolutions, (length - 8) // 4 + 1

    def __init__(self, parent: unittest.TestCase, **changes: Any):
        self.parent, self.changes = parent, changes

    def get_config(self) -> SparseMeritConfig:
        fields = {
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_hidden_layers,
            "num_attention_heads": self.num_attention_heads,
            "intermediate_size": 20,
            "conv_dim": (32, 32, 32),
            "conv_kernel": (8, 8, 8),
            "conv_stride": (4, 4, 4),
            "num_conv_pos_embeddings": 16,
            "num_conv_pos_embedding_groups": 2,
            "expert_hidden_size": 24,
            "emotion_hidden_size": 16,
            "enhancement_hidden_size": 16,
        }
        return SparseMeritConfig(**{**fields, **self.changes})

    def prepare_config_and_inputs_for_common(self) -> tuple[SparseMeritConfig, dict[str, torch.Tensor]]:
        shape = [self.batch_size, self.seq_length]
        inputs = {"input_values": floats_tensor(shape), "attention_mask": random_attention_mask(shape)}
        return self.get_config(), inputs


class SparseMeritModelTest(ModelTesterMixin, unittest.TestCase):
    """The layout of WavLM-Large."""

    all_model_classes = (SparseMeritModel, SparseMeritForSpeechEnhancementAndEmotion)
    changes = {}

    def setUp(self) -> None:
        self.model_tester = SparseMeritModelTester(self, **self.changes)
        self.config_tester = ConfigTester(self, config_class=SparseMeritConfig, hidden_size=64)

    def _prepare_for_class(self, inputs_dict: dict[str, Any], model_class: type, return_labels: bool = False) -> dict:
        """As in the suite, with a target for each head."""
        inputs = super()._prepare_for_class(inputs_dict, model_class, return_labels)
        if return_labels and model_class is SparseMeritForSpeechEnhancementAndEmotion:
            inputs["clean_values"] = 0.5 * inputs["input_values"]
        return inputs

    def test_config(self) -> None:
        self.config_tester.run_common_tests()

    def test_model_outputs_equivalence(self) -> None:
        """As in the suite, which subtracts outputs for its message: torch does not subtract a boolean `frame_mask`."""
        to_tuple = SparseMeritModelOutput.to_tuple

        def in_numbers(outputs: SparseMeritModelOutput) -> tuple:
            return tuple(each.long() if each is outputs.frame_mask else each for each in to_tuple(outputs))

        with patch.object(SparseMeritModelOutput, "to_tuple", in_numbers):
            super().test_model_outputs_equivalence()

    @unittest.skip("An audio model has no token embeddings, as WavLM.")
    def test_resize_tokens_embeddings(self) -> None: ...

    @unittest.skip("An audio model has no token embeddings, as WavLM.")
    def test_model_get_set_embeddings(self) -> None: ...


class SparseMeritGroupNormModelTest(SparseMeritModelTest):
    """The layout of WavLM-Base."""

    changes = {"do_stable_layer_norm": False, "feat_extract_norm": "group"}


class SparseMeritLogMelModelTest(SparseMeritModelTest):
    """Log-mel bands in place of convolutions, with a spectral mask: as in the embedded checkpoint."""

    changes = {
        "feature_encoder": "log_mel",
        "enhancement_mask": "magnitude",
        "conv_dim": (40,),
        "conv_kernel": (192,),
        "conv_stride": (64,),
    }


class SparseMeritWhisperModelTest(SparseMeritModelTest):
    """The feature encoder, positions and attention of Whisper."""

    changes = {
        "feature_encoder": "whisper",
        "relative_attention_bias": False,
        "conv_dim": (40,),
        "conv_kernel": (160,),
        "conv_stride": (320,),
    }

    def setUp(self) -> None:
        super().setUp()
        self.model_tester.seq_length = 4_400  # of which (4400 - 160) // 320 + 1 = 14 frames
