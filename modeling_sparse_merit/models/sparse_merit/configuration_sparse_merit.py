# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Configuration of Sparse MERIT: all settings of encoder, experts and heads, validated on creation."""

import math
import os
from typing import TYPE_CHECKING, Any

from huggingface_hub.dataclasses import strict
from transformers import WavLMConfig

from .task_config import TaskConfig, check_heads, check_sizes, set_label_defaults
from .tasks import EMOTION, ENHANCEMENT

FEATURE_ENCODERS = ("convolution", "log_mel", "whisper")
ENHANCEMENT_MASKS = ("log1p", "magnitude", "deep_filter")
INTEGRATIONS = ("experts", "weighted_sum", "weighted_sum_experts", "expert_weighted_sums", "last_layer")
ROUTERS = ("sparse", "dense")
ROUTER_GRADIENTS = ("straight_through", "switch", "none")
PRECISIONS = ("fp32", "bf16", "int8")
"""Precisions that `dtype` of `from_pretrained` accepts in addition to the dtypes of torch."""

if TYPE_CHECKING:  # a checkpoint's code holds what its files import, so the pipelines travel with the configuration
    from .pipeline_sparse_merit import SpeechEnhancementAndEmotionPipeline as SpeechEnhancementAndEmotionPipeline

PIPELINE_TASK = "speech-enhancement-and-emotion"  # the task of `transformers.pipeline(model=...)` without a task
PIPELINES = {
    PIPELINE_TASK: "pipeline_sparse_merit.SpeechEnhancementAndEmotionPipeline",
    "audio-classification": "pipeline_sparse_merit.EmotionPipeline",
}
"""Class of each pipeline, by task."""


@strict
class SparseMeritConfig(TaskConfig, WavLMConfig):
    r"""
    Configuration of a [`SparseMeritForSpeechEnhancementAndEmotion`]. The defaults describe the published model
    (WavLM-Large, three experts; arXiv 2509.08470, section III). The fields of `WavLMConfig` describe the encoder.

    Outputs do not depend on batching or padding if `feat_extract_norm` is `"layer"`, the default. With `"group"`
    (WavLM-Base), the first convolution is normalised over time, including the padding, so outputs depend on both.

    Args:
        feature_encoder: How the waveform becomes frames. `"convolution"` is that of WavLM. `"log_mel"` computes
            log-mel bands; `conv_kernel`, `conv_stride` and `conv_dim` then have one number each: half the window, the
            hop and the number of bands. `"whisper"` has the log-mel bands, convolutions and positions of Whisper; the
            three fields are then `(160,)`, `(320,)` and the number of bands.
        relative_attention_bias: Whether attention has WavLM's gated relative position bias. Whisper, HuBERT and
            wav2vec 2.0 have none.
        encoder_window_seconds: Longest segment that the encoder processes at once. A longer recording is encoded in
            overlapping windows of this length; `None` encodes it as a whole.
        encoder_context_seconds: Context on either side of the frames of a window.
        tasks: The heads of the model, at least one: names of the registry `TASKS`, by default `("enhancement",
            "emotion")`, and keys of `clip_tasks`.
        clip_tasks: Further tasks with one output per recording, {name: definition}: ratings such as valence,
            classes, or embeddings such as that of the speaker. See [`clip_task`] for their fields.
        task_weights: Weights of the losses of the tasks other than the enhancement, {name: weight}, 1 by default.
        integration: How the encoder's layer outputs become task features. `"experts"` (Sparse and Dense MERIT),
            `"weighted_sum"` (naive multi-task: a learned sum of layers for each task, no experts),
            `"weighted_sum_experts"` (experts on one shared weighted sum) or `"expert_weighted_sums"` (each expert is a
            learned sum of layers), the ablations of the paper, or `"last_layer"` (the last hidden state is the
            features of all tasks, as in arXiv 2508.07282; no experts).
        router: `"sparse"` sends every frame of a task to its top-1 expert. `"dense"` sends it to all experts, and sums
            their outputs, weighted by probability.
        router_gradient: How the gradient reaches a sparse router. `"straight_through"` keeps the published
            forward pass, `"switch"` multiplies the expert's output by its probability, `"none"` is the published
            behaviour, in which the router does not learn from the tasks.
        num_experts: Number of experts, shared by all tasks.
        expert_hidden_size: Width of the hidden layer of an expert.
        emotion_hidden_size: Width of the hidden layer of the emotion classifier, and of the heads of `clip_tasks`.
        emotion_pooling_heads: Heads of the attentive statistics pooling; the paper has one.
        head_activation: Activation of the same heads, a name in `transformers.activations.ACT2FN`.
        enhancement_hidden_size: Width of the mask estimator's input layer and of its LSTM.
        enhancement_num_layers: Number of bidirectional LSTM layers of the mask estimator.
        enhancement_mask: What the mask of the enhancement head multiplies. `"log1p"`, the published one, is the log1p
            of the noisy magnitude, and the loss is the L1 distance there. `"magnitude"` is the noisy spectrum itself,
            and the loss is that of compressed spectra and of the SNR, see `spectral_loss`. With `"deep_filter"` a
            complex filter over time follows, and the loss compares spectra of three resolutions, see
            [`DeepFilterHead`].
        deep_filter_bins: Number of spectrogram bins, from 0 Hz on, to which the complex filter is applied.
        deep_filter_taps: Frames that the complex filter spans, an odd number.
        enhancement_weight: Weight of the enhancement loss relative to the emotion loss.
        load_balancing_weight: Weight (alpha) of the Switch load-balancing loss of each router.
        class_weights: Weight of each emotion class in the cross entropy, in the order of `id2label`. `None` weighs
            all classes equally.
        focal_gamma: Exponent of the focal loss of the emotion (arXiv 1708.02002), whose authors use 2; 0 gives the
            cross entropy.
        label_smoothing: Share of the emotion's target that is spread over all classes.
        n_fft, hop_length, win_length: Short-time Fourier transform of the enhancement head, in samples at 16 kHz.
        mask_feature_min_masks: Minimum number of feature masks of SpecAugment. `WavLMConfig` does not have this field.
        final_dropout: Dropout before both layers of the emotion classifier.

    Raises:
        ValueError: A field is outside its range; the message names the field, its value and what would be valid.

    Example:
        >>> from modeling_sparse_merit import SparseMeritConfig
        >>> SparseMeritConfig(num_experts=4).router
        'sparse'
    """

    model_type = "sparse_merit"
    # `Trainer` gathers every other output of an evaluation: the logits alone
    keys_to_ignore_at_inference = [
        "losses",
        "enhanced_values",
        "enhanced_log_magnitude",
        "task_outputs",
        "features",
        "router_logits",
        "hidden_states",
        "attentions",
    ]

    hidden_size: int = 1024
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    intermediate_size: int = 4096
    activation_dropout: float | int = 0.0
    feat_proj_dropout: float | int = 0.1
    final_dropout: float | int = 0.5
    layerdrop: float | int = 0.0
    feat_extract_norm: str = "layer"
    do_stable_layer_norm: bool = True
    apply_spec_augment: bool = False
    mask_feature_min_masks: int = 0
    feature_encoder: str = "convolution"
    relative_attention_bias: bool = True
    encoder_window_seconds: float | int | None = None
    encoder_context_seconds: float | int = 1.0
    tasks: list[str] | tuple[str, ...] = (ENHANCEMENT, EMOTION)
    clip_tasks: dict[str, Any] | None = None
    task_weights: dict[str, float] | None = None
    integration: str = "experts"
    router: str = "sparse"
    router_gradient: str = "straight_through"
    num_experts: int = 3
    expert_hidden_size: int = 4096
    emotion_hidden_size: int = 1024
    emotion_pooling_heads: int = 1
    head_activation: str = "relu"
    enhancement_hidden_size: int = 256
    enhancement_num_layers: int = 2
    enhancement_mask: str = "log1p"
    deep_filter_bins: int = 128
    deep_filter_taps: int = 5
    enhancement_weight: float | int = 1.0
    load_balancing_weight: float | int = 0.01
    class_weights: list[float] | None = None
    focal_gamma: float | int = 0.0
    label_smoothing: float | int = 0.0
    n_fft: int = 400
    hop_length: int = 160
    win_length: int = 400

    def __post_init__(self, **kwargs: Any) -> None:
        set_label_defaults(self, kwargs)
        super().__post_init__(**kwargs)

    @classmethod
    def get_config_dict(
        cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """As in `PreTrainedConfig`; for `transformers.pipeline`, `custom_pipelines` lists only the requested task.

        A checkpoint has two pipelines, and `pipeline(model=...)` does not choose between two. Without a task, only the
        pipeline for speech and emotion is listed.

        Args:
            pretrained_model_name_or_path: Folder or Hub id.
            kwargs: As in `PreTrainedConfig`.
        """
        fields, unused = super().get_config_dict(pretrained_model_name_or_path, **kwargs)
        if "_from_pipeline" in kwargs and "custom_pipelines" in fields:
            task = kwargs["_from_pipeline"] or PIPELINE_TASK
            listed = fields["custom_pipelines"]
            fields["custom_pipelines"] = {name: listed[name] for name in listed if name == task}
        return fields, unused

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """As in `PreTrainedConfig`.

        Args:
            config_dict: Fields of the configuration. A `dtype` of fp16 only saves space on disk: the model computes in
                fp32 unless fp16 is requested here.
            kwargs: Fields that override those of the file. `dtype` may be a precision ("fp32", "bf16" or "int8"),
                which `from_pretrained` of the model applies. `class_weights` given with labels belong to these labels.
        """
        for name in ("dtype", "torch_dtype"):
            if str(config_dict.get(name)).removeprefix("torch.") == "float16":
                config_dict = {**config_dict, name: "float32"}
        precision = precision_of(kwargs.get("dtype"))
        if precision is not None:
            del kwargs["dtype"]
        if "class_weights" in kwargs:  # after the labels, which discard those of other labels
            kwargs["class_weights"] = kwargs.pop("class_weights")
        made = super().from_dict(config_dict, **kwargs)
        if precision is not None:
            (made[0] if isinstance(made, tuple) else made)._precision = precision
        return made

    def to_dict(self) -> dict[str, Any]:
        """As in `PreTrainedConfig`; the precision is chosen on loading and is not saved in a checkpoint."""
        return {name: value for name, value in super().to_dict().items() if name != "_precision"}

    @property
    def output_attentions(self) -> bool:
        """Whether the models return attention weights by default. Every `attn_implementation` can return them."""
        return bool(self._output_attentions)

    @output_attentions.setter
    def output_attentions(self, value: bool) -> None:
        """Sets the default."""
        self._output_attentions = value

    def validate_output_attentions(self) -> None:
        """Overrides the check of `PreTrainedConfig`: every implementation can return attention weights."""

    @property
    def num_layer_outputs(self) -> int:
        """L of the paper: the input of the first transformer layer and the output of each layer."""
        return self.num_hidden_layers + 1

    @property
    def loss_weights(self) -> dict[str, float]:
        """The weight of each of the model's `losses` in its `loss`."""
        return {**super().loss_weights, "balance": self.load_balancing_weight}

    def validate_sparse_merit(self) -> None:
        """Part of the validation that `transformers` runs when a configuration is made or saved."""
        _check_sizes(self)
        check_heads(self)
        _check_choices(self)
        _check_encoder(self)


def _check_choices(config: SparseMeritConfig) -> None:
    choices = {
        "feature_encoder": FEATURE_ENCODERS,
        "integration": INTEGRATIONS,
        "router": ROUTERS,
        "router_gradient": ROUTER_GRADIENTS,
        "enhancement_mask": ENHANCEMENT_MASKS,
    }
    for name, valid in choices.items():
        if getattr(config, name) not in valid:
            raise ValueError(f"`{name}` is {getattr(config, name)!r}; expected one of {list(valid)}.")


LARGEST = {
    "hidden_size": 2**16,
    "num_hidden_layers": 1_000,
    "num_attention_heads": 2**12,
    "intermediate_size": 2**20,
    "num_conv_pos_embeddings": 2**16,
    "num_conv_pos_embedding_groups": 2**16,
    "num_experts": 1_000,
    "expert_hidden_size": 2**20,
    "emotion_hidden_size": 2**20,
    "emotion_pooling_heads": 1_000,
    "enhancement_hidden_size": 2**16,
    "enhancement_num_layers": 100,
    "deep_filter_bins": 2**20,
    "deep_filter_taps": 1_001,
    "n_fft": 2**20,
    "hop_length": 2**20,
    "win_length": 2**20,
}
"""Largest valid values of sizes."""


def _check_sizes(config: SparseMeritConfig) -> None:
    check_sizes(config, LARGEST)
    for name in ("enhancement_weight", "load_balancing_weight", "initializer_range"):
        if not 0 <= getattr(config, name) < math.inf:
            raise ValueError(f"`{name}` is {getattr(config, name)}; expected a finite number of at least 0.")
    if not 0 < config.layer_norm_eps <= 1:
        raise ValueError(f"`layer_norm_eps` is {config.layer_norm_eps}; expected more than 0 and at most 1.")
    if config.deep_filter_taps % 2 == 0:
        raise ValueError(f"`deep_filter_taps` is {config.deep_filter_taps}; expected an odd number.")
    if config.win_length > config.n_fft or config.hop_length > config.win_length // 2:
        raise ValueError(
            f"`n_fft`, `win_length`, `hop_length` are {config.n_fft}, {config.win_length}, {config.hop_length}; "
            "expected win_length <= n_fft and hop_length <= win_length / 2, so that the transform can be inverted."
        )


def _check_encoder(config: SparseMeritConfig) -> None:
    if config.layerdrop != 0:
        raise ValueError(
            f"`layerdrop` is {config.layerdrop}; expected 0: a skipped layer has no output, "
            "and all layer outputs are used."
        )
    if config.num_attention_heads < 1 or config.hidden_size % config.num_attention_heads:
        raise ValueError(
            f"`hidden_size` is {config.hidden_size}, `num_attention_heads` {config.num_attention_heads}; expected a "
            "multiple of the number of heads."
        )
    _check_windows(config)
    if config.feature_encoder == "log_mel" and not all(
        len(sizes) == 1 for sizes in (config.conv_kernel, config.conv_stride, config.conv_dim)
    ):
        raise ValueError(
            f"`conv_kernel`, `conv_stride`, `conv_dim` are {config.conv_kernel}, {config.conv_stride}, "
            f"{config.conv_dim}; expected one number each for the feature encoder log_mel: half the window, hop and "
            "bands."
        )
    if config.add_adapter:
        raise ValueError("`add_adapter` is True; expected False: the heads are aligned to the encoder's 50 Hz frames.")


def _check_windows(config: SparseMeritConfig) -> None:
    window, context = config.encoder_window_seconds, config.encoder_context_seconds
    if not 0 <= context < math.inf or (window is not None and not 2 * context < window < math.inf):
        raise ValueError(
            f"`encoder_window_seconds`, `encoder_context_seconds` are {window}, {context}; expected a context of at "
            "least 0 and a window of more than twice that, or None."
        )
    sizes = [list(config.conv_kernel), list(config.conv_stride), [0] * len(config.conv_dim)]
    if config.feature_encoder == "whisper" and sizes != [[160], [320], [0]]:
        raise ValueError(
            f"`conv_kernel`, `conv_stride`, `conv_dim` are {config.conv_kernel}, {config.conv_stride}, "
            f"{config.conv_dim}; expected (160,), (320,) and one number, the mel bands, for the feature encoder "
            "whisper."
        )


def precision_of(dtype: Any) -> str | None:
    """The precision that a `dtype` names, such as "int8" or `torch.int8`; None for other values."""
    name = str(dtype).removeprefix("torch.")
    return name if name in PRECISIONS else None


SparseMeritConfig.register_for_auto_class()


def custom_pipelines() -> dict[str, dict[str, Any]]:
    """The field `custom_pipelines` of a checkpoint: {task: pipeline class and model class}, JSON-clean."""
    return {task: {"impl": name, "pt": ["AutoModelForAudioClassification"]} for task, name in PIPELINES.items()}
