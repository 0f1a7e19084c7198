# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Common tests of transformers on the conversation model."""

import functools
import unittest
from typing import Any
from unittest.mock import patch

import not_shipped  # noqa: F401
import torch
from transformers import AutoConfig, AutoModel
from transformers.models.auto import modeling_auto
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_modeling_common import ModelTesterMixin, floats_tensor

from modeling_sparse_merit import MisterEConfig, MisterEForConversationEmotion

AutoConfig.register("mister_e", MisterEConfig)
AutoModel.register(MisterEConfig, MisterEForConversationEmotion)
# The suite learns from this list of transformers that there is a loss, of a class for each place of a sequence.
modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES["mister_e"] = MisterEForConversationEmotion.__name__


class MisterEModelTester:
    """A tiny configuration and a batch for it. The suite reads the sizes from the attributes."""

    batch_size = 2
    seq_length = 5  # utterances
    is_training = True
    hidden_size = 8
    num_hidden_layers = 2
    num_attention_heads = 2

    def __init__(self, parent: unittest.TestCase, **changes: Any):
        self.parent, self.changes = parent, changes

    def get_config(self) -> MisterEConfig:
        fields = {
            "speech_size": 6,
            "text_size": 10,
            "context_hidden_size": self.hidden_size,
            "context_num_layers": self.num_hidden_layers,
            "cross_modal_size": 12,
            "cross_modal_layers": 2,
            "attention_size": 6,
            "attention_heads": self.num_attention_heads,
        }
        return MisterEConfig(**{**fields, **self.changes})

    def prepare_config_and_inputs_for_common(self) -> tuple[MisterEConfig, dict[str, torch.Tensor]]:
        config = self.get_config()
        shape = [self.batch_size, self.seq_length]
        embeddings = {
            f"{name}_embeddings": floats_tensor([*shape, size]) for name, size in config.embedding_sizes.items()
        }
        return config, {**embeddings, "utterance_mask": torch.ones(shape, dtype=torch.long)}


class MisterEModelTest(ModelTesterMixin, unittest.TestCase):
    """All three experts, as published."""

    all_model_classes = (MisterEForConversationEmotion,)
    has_attentions = False  # no output
    test_resize_embeddings = False
    changes = {}

    def setUp(self) -> None:
        self.model_tester = MisterEModelTester(self, **self.changes)
        self.config_tester = ConfigTester(
            self, config_class=MisterEConfig, has_text_modality=False, context_hidden_size=16
        )

    def test_config(self) -> None:
        self.config_tester.run_common_tests()

    def test_model_outputs_equivalence(self) -> None:
        """As in the suite, which asks for hidden states without checking that a model has some."""
        forward = MisterEForConversationEmotion.forward

        @functools.wraps(forward)
        def without_hidden_states(*args: Any, output_hidden_states: bool | None = None, **kwargs: Any) -> Any:
            return forward(*args, **kwargs)

        with patch.object(MisterEForConversationEmotion, "forward", without_hidden_states):
            super().test_model_outputs_equivalence()

    @unittest.skip("Experts side by side have no stack of hidden states.")
    def test_hidden_states_output(self) -> None: ...

    @unittest.skip("Experts side by side have no stack of hidden states.")
    def test_retain_grad_hidden_states_attentions(self) -> None: ...

    @unittest.skip("The input are embeddings of utterances; there is no table of tokens.")
    def test_model_get_set_embeddings(self) -> None: ...


class MisterETextModelTest(MisterEModelTest):
    """The text expert alone, without looking ahead."""

    changes = {"speech_size": 0, "causal": True}
