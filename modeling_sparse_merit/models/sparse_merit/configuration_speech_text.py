# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Configuration of the speech-text model: both backbones, pooling, and heads."""

import os
from typing import TYPE_CHECKING, Any

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, PreTrainedConfig

from .configuration_sparse_merit import SparseMeritConfig
from .task_config import TaskConfig, check_heads, check_sizes, set_label_defaults
from .tasks import EMOTION, Task, tasks_of_kind

if TYPE_CHECKING:  # a checkpoint's code holds what its files import, so the pipeline travels with the configuration
    from .pipeline_speech_text import SpeechTextPipeline as SpeechTextPipeline

SPEECH, TEXT = "speech", "text"
TEXT_POOLINGS = ("mean", "attentive_statistics")
SPEECH_TEXT_TASK = "speech-text-emotion"
"""The task of `transformers.pipeline`."""


@strict
class SpeechTextConfig(TaskConfig, PreTrainedConfig):
    r"""
    Configuration of a [`SpeechTextForEmotion`]: late fusion of a speech and a text encoder (arXiv 2508.07282), or one
    of the two alone.

    Args:
        speech_config: A [`SparseMeritConfig`], or its fields. Its `tasks` are the one whose features are pooled.
            `None` for a model of text alone.
        text_config: Configuration of an encoder or a decoder of `transformers`, or its fields with `model_type`.
            `None` for a model of speech alone.
        tasks: The heads: `"emotion"`, with the classes in `id2label`, and keys of `clip_tasks`.
        clip_tasks, task_weights: As in [`SparseMeritConfig`].
        text_pooling: `"mean"` over the tokens of a text, or `"attentive_statistics"`, which is learned.
        head_hidden_size: Width of the hidden layer of the heads.
        head_activation: Their activation, a name in `transformers.activations.ACT2FN`.
        head_dropout: Dropout before both layers of the heads.
        freeze_speech: Whether the speech encoder and its pooling are frozen. Frozen parts have no dropout in training.
        freeze_text: Whether the text encoder and its pooling are frozen.
        modality_dropout: Share of the clips whose speech or text is replaced in training by a learned vector. That
            vector also replaces a missing recording or text; with 0, a model of both needs both.
        class_weights, focal_gamma, label_smoothing: As in [`SparseMeritConfig`].
        initializer_range: Standard deviation of the initial weights of the heads.

    Raises:
        ValueError: A field is outside its range; the message names the field, its value and what would be valid.

    Example:
        >>> from transformers import RobertaConfig
        >>> from modeling_sparse_merit import SparseMeritConfig, SpeechTextConfig
        >>> speech = SparseMeritConfig(tasks=["emotion"], integration="last_layer")
        >>> SpeechTextConfig(speech_config=speech, text_config=RobertaConfig()).embedding_sizes
        {'speech': 2048, 'text': 768}
    """

    model_type = "speech_text"
    has_no_defaults_at_init = True  # transformers 5.16 would make a configuration without parts
    sub_configs = {"speech_config": SparseMeritConfig, "text_config": AutoConfig}
    attribute_map = {"emotion_hidden_size": "head_hidden_size", "final_dropout": "head_dropout"}
    # `Trainer` gathers every other output of an evaluation: the logits alone
    keys_to_ignore_at_inference = ["losses", "task_outputs", "speech_embeddings", "text_embeddings"]

    speech_config: Any = None
    text_config: Any = None
    tasks: list[str] | tuple[str, ...] = (EMOTION,)
    clip_tasks: dict[str, Any] | None = None
    task_weights: dict[str, float] | None = None
    text_pooling: str = "mean"
    head_hidden_size: int = 1024
    head_activation: str = "mish"
    head_dropout: float | int = 0.5
    freeze_speech: bool = True
    freeze_text: bool = True
    modality_dropout: float | int = 0.0
    class_weights: list[float] | None = None
    focal_gamma: float | int = 0.0
    label_smoothing: float | int = 0.0
    initializer_range: float | int = 0.02

    def __post_init__(self, **kwargs: Any) -> None:
        set_label_defaults(self, kwargs)
        if isinstance(self.speech_config, dict):
            self.speech_config = SparseMeritConfig(**self.speech_config)
        if isinstance(self.text_config, dict):
            self.text_config = AutoConfig.for_model(**self.text_config)
        super().__post_init__(**kwargs)

    @property
    def emotion_pooling_heads(self) -> int:
        """0: the heads take pooled embeddings."""
        return 0

    @property
    def hidden_size(self) -> int:
        """Width of the input of the heads: all embeddings, that of the speech first."""
        return sum(self.embedding_sizes.values())

    @property
    def embedding_sizes(self) -> dict[str, int]:
        """Width of the embedding of each modality that the model has: "speech", "text"."""
        speech, text, sizes = self.speech_config, self.text_config, {}
        if speech is not None:
            sizes[SPEECH] = 2 * speech.emotion_pooling_heads * speech.hidden_size
        if text is not None:
            sizes[TEXT] = text.hidden_size * (1 if self.text_pooling == "mean" else 2)
        return sizes

    @property
    def loss_weights(self) -> dict[str, float]:
        """The weight of each of the model's `losses` in its `loss`."""
        balance = {} if self.speech_config is None else {"balance": self.speech_config.load_balancing_weight}
        return {**super().loss_weights, **balance}

    def validate_speech_text(self) -> None:
        """Part of the validation that `transformers` runs when a configuration is made or saved."""
        check_heads(self)
        if waveforms := tasks_of_kind(self.task_definitions, "waveform"):
            raise ValueError(f"`tasks` has {waveforms}; expected 'emotion' and keys of `clip_tasks` alone.")
        if self.text_pooling not in TEXT_POOLINGS:
            raise ValueError(f"`text_pooling` is {self.text_pooling!r}; expected one of {list(TEXT_POOLINGS)}.")
        check_sizes(self, {"head_hidden_size": 2**20})
        for name in ("head_dropout", "modality_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}; expected at least 0 and less than 1.")
        _check_backbones(self)


LARGEST_OF_TEXT = {
    "hidden_size": 2**16,
    "num_hidden_layers": 1_000,
    "num_attention_heads": 2**12,
    "intermediate_size": 2**20,
    "vocab_size": 2**24,
    "max_position_embeddings": 2**24,
}
"""Largest valid values of sizes of a text encoder, where it has them."""


def _check_backbones(config: SpeechTextConfig) -> None:
    speech, text = config.speech_config, config.text_config
    if speech is None and text is None:
        raise ValueError("`speech_config` and `text_config` are None; expected at least one of them.")
    if text is not None:
        check_sizes(text, {name: limit for name, limit in LARGEST_OF_TEXT.items() if hasattr(text, name)})
    if speech is not None and (
        speech.model_type != SparseMeritConfig.model_type or len(speech.tasks) != 1 or not clip_tasks_of(speech)
    ):
        raise ValueError(
            f"`speech_config` has the type {speech.model_type!r} and the tasks {getattr(speech, 'tasks', None)}; "
            f"expected {SparseMeritConfig.model_type!r} and one task, whose features are pooled, such as ['emotion']."
        )
    if text is not None and text.is_encoder_decoder:
        raise ValueError(
            f"`text_config` has the type {text.model_type!r}, an encoder-decoder; expected an encoder, such as "
            "'roberta', or a decoder, such as 'llama'."
        )
    if config.modality_dropout and (speech is None or text is None):
        raise ValueError(
            f"`modality_dropout` is {config.modality_dropout}; expected 0 for a model of one modality, which it needs."
        )


def read_config(source: str | os.PathLike, **where: Any) -> SparseMeritConfig | SpeechTextConfig:
    """
    The configuration of a Sparse MERIT checkpoint or of a speech-text checkpoint.

    Args:
        source: Folder or Hub id.
        where: Arguments for the Hub, such as `revision`.
    """
    model_type = PreTrainedConfig.get_config_dict(source, **where)[0].get("model_type")
    is_speech_text = model_type == SpeechTextConfig.model_type
    return (SpeechTextConfig if is_speech_text else SparseMeritConfig).from_pretrained(source, **where)


def clip_tasks_of(config: SparseMeritConfig) -> dict[str, Task]:
    """The tasks of a configuration that have one output per recording."""
    return {name: task for name, task in config.task_definitions.items() if task.kind != "waveform"}


def speech_text_pipelines() -> dict[str, dict[str, Any]]:
    """The field `custom_pipelines` of a checkpoint: {task: pipeline class and model class}, JSON-clean."""
    return {SPEECH_TEXT_TASK: {"impl": "pipeline_speech_text.SpeechTextPipeline", "pt": ["AutoModel"]}}


SpeechTextConfig.register_for_auto_class()
