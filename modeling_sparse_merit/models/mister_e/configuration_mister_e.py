# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Configuration of the conversation model: context networks, cross-modal expert, gate, and loss."""

import math
from typing import TYPE_CHECKING, Any

from huggingface_hub.dataclasses import strict
from transformers import PreTrainedConfig

if TYPE_CHECKING:  # a checkpoint's code holds what its files import, so the pipeline travels with the configuration
    from .pipeline_mister_e import ConversationPipeline as ConversationPipeline

SPEECH, TEXT, CROSS_MODAL = "speech", "text", "cross_modal"
EXPERTS = (SPEECH, TEXT, CROSS_MODAL)
CONVERSATION_TASK = "conversation-emotion"
"""The task of `transformers.pipeline`."""
CHOICES = {
    "cross_modal_input": ("embeddings", "context"),
    "gate": ("learned", "uniform", "majority"),
    "consistency_reduction": ("conversation", "utterance"),
}


SIZES = {
    **dict.fromkeys(["speech_size", "text_size"], (0, 2**16)),
    **dict.fromkeys(["context_hidden_size", "cross_modal_size", "attention_size", "gate_hidden_size"], (1, 2**16)),
    **dict.fromkeys(["context_num_layers", "cross_modal_layers"], (0, 100)),
    "attention_heads": (1, 2**12),
}
"""Valid sizes; the largest ones, far beyond what is useful, refuse files that would fill the memory."""
MOST_KERNELS, WIDEST_KERNEL, MOST_LABELS = 64, 1_001, 100_000


@strict
class MisterEConfig(PreTrainedConfig):
    r"""
    Configuration of a [`MisterEForConversationEmotion`], a mixture of speech and text experts for emotion in
    conversations (MiSTER-E, arXiv 2602.23300). The defaults have the published sizes.

    Args:
        speech_size: Width of the speech embedding of an utterance; 0 for a model of text alone.
        text_size: Width of the text embedding of an utterance; 0 for a model of speech alone.
        experts: Some of `"speech"`, `"text"` and `"cross_modal"`; by default all that the modalities allow.
        context_hidden_size: Width of each direction of the recurrent layers of the speech and the text expert.
        context_num_layers: Number of recurrent layers; 0 for none.
        context_kernels: Widths of the convolutions over utterances, odd unless `causal`. With `(1,)` and
            `context_num_layers=0`, no expert sees other utterances of the conversation.
        context_dropout: Dropout of the speech and the text expert, in front of and behind the recurrent layers.
        cross_modal_size: Width of the cross-modal expert.
        cross_modal_layers: Number of its layers.
        cross_modal_dropout: Dropout of the outputs of its attentions.
        cross_modal_input: `"embeddings"`, or the `"context"` that the other two experts compute.
        attention_size: Width of queries, keys and values of all heads.
        attention_heads: Number of heads, which divides `attention_size`.
        attention_dropout: Dropout of the attention weights.
        gate: `"learned"`; `"uniform"`, the mean of the experts; or `"majority"`, the mean of those that predict the
            most frequent class, or else the last expert.
        gate_hidden_size: Width of the hidden layer of the learned gate.
        gate_temperature: Temperature of its softmax.
        focal_gamma: Exponent of the focal loss of the mixture and of each expert; 0 for cross entropy.
        contrastive_weight, contrastive_temperature: Weight and temperature of the supervised contrastive loss of the
            states of the cross-modal expert.
        consistency_weight: Weight of the symmetric Kullback-Leibler divergence between experts.
        consistency_reduction: `"conversation"` sums the divergence over the utterances of a conversation, as
            published; `"utterance"` averages it.
        causal: Whether an utterance depends on earlier ones alone, for live calls. Recurrent layers then have one
            direction of twice the width.
        layer_norm_eps: Epsilon of the layer norms.
        speech_model, text_model: Folder or Hub id of the [`SpeechTextForEmotion`] whose embeddings are the input.
            [`ConversationPipeline`] loads it.
        speech_revision, text_revision: Commit of that model on the Hub.

    Raises:
        ValueError: A field is outside its range; the message names the field, its value and what would be valid.

    Example:
        >>> from modeling_sparse_merit import MisterEConfig
        >>> MisterEConfig(speech_size=0, text_size=256).experts
        ['text']
    """

    model_type = "mister_e"
    attribute_map = {
        "hidden_size": "context_hidden_size",
        "num_hidden_layers": "context_num_layers",
        "num_attention_heads": "attention_heads",
    }
    # `Trainer` gathers every other output of an evaluation: the logits alone
    keys_to_ignore_at_inference = ["losses", "expert_logits", "gate", "speech_states", "text_states"]

    speech_size: int = 2048
    text_size: int = 2048
    experts: list[str] | tuple[str, ...] | None = None
    context_hidden_size: int = 512
    context_num_layers: int = 3
    context_kernels: list[int] | tuple[int, ...] = (1, 3, 5)
    context_dropout: float | int = 0.2
    cross_modal_size: int = 1024
    cross_modal_layers: int = 4
    cross_modal_dropout: float | int = 0.5
    cross_modal_input: str = "embeddings"
    attention_size: int = 120
    attention_heads: int = 3
    attention_dropout: float | int = 0.1
    gate: str = "learned"
    gate_hidden_size: int = 10
    gate_temperature: float | int = 2.0
    focal_gamma: float | int = 3.0
    contrastive_weight: float | int = 2.0
    contrastive_temperature: float | int = 1.0
    consistency_weight: float | int = 0.1
    consistency_reduction: str = "conversation"
    causal: bool = False
    layer_norm_eps: float = 1e-6
    speech_model: str | None = None
    text_model: str | None = None
    speech_revision: str | None = None
    text_revision: str | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        if kwargs.get("num_labels", 0) > MOST_LABELS:
            raise ValueError(f"`num_labels` is {kwargs['num_labels']}; expected at most {MOST_LABELS}.")
        if self.experts is None:
            self.experts = [name for name in EXPERTS if set(_modalities_of(name)) <= set(self.embedding_sizes)]
        self.experts, self.context_kernels = list(self.experts), list(self.context_kernels)
        super().__post_init__(**kwargs)

    @property
    def embedding_sizes(self) -> dict[str, int]:
        """Width of the embedding of each modality that the model has: "speech", "text"."""
        sizes = {SPEECH: self.speech_size, TEXT: self.text_size}
        return {name: size for name, size in sizes.items() if size}

    @property
    def context_size(self) -> int:
        """Width of the context of an utterance: both directions of the recurrent layers."""
        return 2 * self.context_hidden_size

    @property
    def uses_context(self) -> bool:
        """Whether an utterance depends on others."""
        return self.context_num_layers > 0 or max(self.context_kernels) > 1

    @property
    def loss_weights(self) -> dict[str, float]:
        """The weight of each of the model's `losses` in its `loss`."""
        focal = dict.fromkeys(["mix", *EXPERTS], 1.0)
        return {**focal, "contrastive": self.contrastive_weight, "consistency": self.consistency_weight}

    def validate_mister_e(self) -> None:
        """Part of the validation that `transformers` runs when a configuration is made or saved."""
        experts = list(self.experts or ())
        self._check_experts(experts)
        self._check_numbers()
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(f"`{name}` is {getattr(self, name)!r}; expected one of {list(choices)}.")
        if self.cross_modal_input == "context" and CROSS_MODAL in experts and len(experts) < len(EXPERTS):
            raise ValueError(
                f"`cross_modal_input` is 'context' and `experts` is {experts}; expected {list(EXPERTS)}: the "
                "context is that of the other two."
            )
        if not self.causal and not all(width % 2 for width in self.context_kernels):
            raise ValueError(
                f"`context_kernels` is {self.context_kernels}; expected odd widths, or `causal=True`, whose "
                "convolutions have no centre."
            )

    def _check_experts(self, experts: list[str]) -> None:
        possible = [name for name in EXPERTS if set(_modalities_of(name)) <= set(self.embedding_sizes)]
        ordered = [name for name in possible if name in experts]
        if not ordered or ordered != experts:
            raise ValueError(
                f"`experts` is {experts}; with `speech_size` {self.speech_size} and `text_size` "
                f"{self.text_size}, expected some of {possible}, in this order."
            )

    def _check_numbers(self) -> None:
        for name, (least, largest) in SIZES.items():
            if not least <= getattr(self, name) <= largest:
                raise ValueError(f"`{name}` is {getattr(self, name)}; expected a number from {least} to {largest}.")
        for name in ("focal_gamma", "contrastive_weight", "consistency_weight"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"`{name}` is {getattr(self, name)}; expected a finite number of at least 0.")
        for name in ("context_dropout", "cross_modal_dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}; expected at least 0 and less than 1.")
        for name in ("gate_temperature", "contrastive_temperature", "layer_norm_eps"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"`{name}` is {getattr(self, name)}; expected a finite number above 0.")
        widths = self.context_kernels
        if not 1 <= len(widths) <= MOST_KERNELS or not all(1 <= width <= WIDEST_KERNEL for width in widths):
            raise ValueError(
                f"`context_kernels` is {widths}; expected 1 to {MOST_KERNELS} widths from 1 to {WIDEST_KERNEL}."
            )
        if self.attention_size % self.attention_heads:
            raise ValueError(
                f"`attention_size` is {self.attention_size}; expected a multiple of `attention_heads`, "
                f"{self.attention_heads}."
            )


def _modalities_of(expert: str) -> tuple[str, ...]:
    return (SPEECH, TEXT) if expert == CROSS_MODAL else (expert,)


def conversation_pipelines() -> dict[str, dict[str, Any]]:
    """The field `custom_pipelines` of a checkpoint: {task: pipeline class and model class}, JSON-clean."""
    return {CONVERSATION_TASK: {"impl": "pipeline_mister_e.ConversationPipeline", "pt": ["AutoModel"]}}


MisterEConfig.register_for_auto_class()
