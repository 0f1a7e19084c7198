# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Sparse MERIT (arXiv 2509.08470): a single-pass model for speech enhancement and speech emotion recognition."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import WavLMConfig
from transformers import initialization as init
from transformers.models.wavlm.modeling_wavlm import WavLMPreTrainedModel
from transformers.utils import ModelOutput, can_return_tuple, logging

from .clip_heads import AttentiveStatisticsPooling, EmbeddingHead
from .configuration_sparse_merit import SparseMeritConfig, custom_pipelines, precision_of
from .deep_filtering import FilterLinear
from .encoder import Capabilities, SparseMeritEncoder, true_lengths
from .experts import LayerWeights, build_integration, load_balancing_loss
from .pretrained import read_encoder, shared_fields
from .quantization import SparseMeritInt8Config, is_quantized, plain_dtype, quantize, set_precision
from .sources import license_notice
from .tasks import TASKS, TaskInputs, targets_of, weighted_sum

logger = logging.get_logger(__name__)

ENCODER_FIELDS = ("feature_encoder", "relative_attention_bias", "encoder_window_seconds", "encoder_context_seconds")
"""Fields of the configuration that describe the encoder, in addition to those of `WavLMConfig`."""
EncoderOutputs = tuple[Any, ...]
"""The L layer outputs, each (B, T, D), the (B, T) mask of the frames that belong to the recording, and attentions."""


@dataclass
class SparseMeritModelOutput(ModelOutput):
    """
    Task features of [`SparseMeritModel`].

    Attributes:
        last_hidden_state: (B, T, D), what `WavLMModel` returns with the same weights.
        features: {task: (B, T, D)}, 0 in the padding.
        frame_mask: (B, T), true for the frames that belong to the recording.
        router_logits: {task: (B, T, N)}; empty for the integration "weighted_sum".
        hidden_states: The L layer outputs, each (B, T, D), the last one before the encoder's final layer norm, when
            requested.
        attentions: The attention weights of each layer, (B, H, T, T), when requested.
    """

    last_hidden_state: torch.Tensor | None = None
    features: dict[str, torch.Tensor] | None = None
    frame_mask: torch.Tensor | None = None
    router_logits: dict[str, torch.Tensor] | None = None
    hidden_states: tuple[torch.Tensor | None, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None


@dataclass
class SparseMeritOutput(ModelOutput):
    """
    Output of [`SparseMeritForSpeechEnhancementAndEmotion`]. Fields that were not requested are None.

    Attributes:
        loss: Scalar, the weighted sum of `losses`; None without targets.
        losses: {task: scalar} and "balance": each unweighted, each only where its target was given.
        logits: (B, classes).
        enhanced_values: (B, S) in the scale of `input_values`, 0 in the padding; None in training with the mask
            "log1p", whose loss does not need it.
        enhanced_log_magnitude: (B, F, n_fft // 2 + 1), only with the mask "log1p".
        task_outputs: {task: output} of the other tasks: logits (B, classes), ratings (B, K), embeddings (B, size).
        features: {task: (B, T, D)}, the input of the heads, when requested.
        router_logits: {task: (B, T, N)}, when requested.
        hidden_states, attentions: As in [`SparseMeritModelOutput`].
    """

    loss: torch.Tensor | None = None
    losses: dict[str, torch.Tensor] | None = None
    logits: torch.Tensor | None = None
    enhanced_values: torch.Tensor | None = None
    enhanced_log_magnitude: torch.Tensor | None = None
    task_outputs: dict[str, torch.Tensor] | None = None
    features: dict[str, torch.Tensor] | None = None
    router_logits: dict[str, torch.Tensor] | None = None
    hidden_states: tuple[torch.Tensor | None, ...] | None = None
    attentions: tuple[torch.Tensor, ...] | None = None

    def of(self, task: str) -> torch.Tensor | None:
        """The output of the head of a task; None if it was not computed."""
        field = TASKS[task].output if task in TASKS else None
        return getattr(self, field) if field is not None else (self.task_outputs or {}).get(task)


class SparseMeritPreTrainedModel(Capabilities, WavLMPreTrainedModel):
    """Weight initialisation and the frame arithmetic of WavLM, for all Sparse MERIT models."""

    config: SparseMeritConfig
    config_class = SparseMeritConfig
    base_model_prefix = "model"
    accepts_loss_kwargs = False  # `Trainer`: losses are means over a batch, whatever `num_items_in_batch` is

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike | None, *args: Any, dtype: Any = None, **kwargs: Any
    ) -> Any:
        """
        Loads a model as in `PreTrainedModel`, optionally in another precision. Only safetensors are read, unless
        `use_safetensors=False` is passed.

        Args:
            pretrained_model_name_or_path: Folder or Hub id.
            dtype: A dtype of torch, or a precision: "fp32", "bf16", or "int8" (also `torch.int8`), which is short for
                `quantization_config=SparseMeritInt8Config()`. On a CPU where bf16 is slow, "bf16" only stores weights
                in bf16 (see `quantization.py`); `torch.bfloat16` always computes in bf16.
            args, kwargs: As in `PreTrainedModel`.

        Raises:
            ValueError: `dtype` is "int8" and `quantization_config` is given as well.
        """
        config = kwargs.get("config")
        precision = precision_of(dtype)
        if precision is None and isinstance(config, SparseMeritConfig):  # which an Auto class gave the dtype
            precision = config.__dict__.pop("_precision", None)
        if precision == "int8":
            if kwargs.get("quantization_config") is not None:
                raise ValueError("`dtype` is 'int8' and `quantization_config` is given; expected only one of them.")
            kwargs["quantization_config"] = SparseMeritInt8Config()
        if precision is not None:
            # "auto" is that of the file, which is mapped: no copy is made before the one that stays
            dtype = plain_dtype(precision) or "auto"
        if dtype is not None:
            kwargs["dtype"] = dtype
        kwargs.setdefault("use_safetensors", True)
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded  # with `output_loading_info`
        for part in model.modules():
            if isinstance(part, SparseMeritEncoder):
                part.freeze_unused()  # loading makes all parameters trainable
        if precision == "bf16" and dtype == "auto":
            set_precision(model, precision)
        if pretrained_model_name_or_path:
            # a folder or a Hub id, as in transformers: names of checkpoints inside the package are not supported here
            _advise_of_license(os.path.abspath(pretrained_model_name_or_path))
        return loaded

    def _quantize(self) -> None:
        """Called by the quantizer of `SparseMeritInt8Config` after the weights are loaded."""
        quantize(self)

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """
        As in `PreTrainedModel`.

        Args:
            save_directory: Folder to write.
            args, kwargs: Passed on to `PreTrainedModel.save_pretrained`.

        Raises:
            ValueError: The model is in int8: its weights are rounded and cannot be recovered.
        """
        if is_quantized(self):
            raise ValueError(
                "This model is in int8: its weights are rounded and cannot be saved. Load it with dtype='fp32' to "
                "save it, and with dtype='int8' to run the saved model in int8."
            )
        super().save_pretrained(save_directory, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, LayerWeights):
            init.zeros_(module.weight)
        elif isinstance(module, AttentiveStatisticsPooling):
            init.normal_(module.score.weight, std=self.config.initializer_range)  # all frames count alike at first
        elif isinstance(module, nn.LSTM):
            bound = module.hidden_size**-0.5
            for parameter in module.parameters():
                init.uniform_(parameter, -bound, bound)
        elif isinstance(module, FilterLinear):
            init.zeros_(module.weight)
        elif isinstance(module, EmbeddingHead) and module.class_vectors is not None:
            init.normal_(module.class_vectors)


class SparseMeritModel(SparseMeritPreTrainedModel):
    """Encoder and integration of its layers: one sequence of features for each task."""

    def __init__(self, config: SparseMeritConfig):
        super().__init__(config)
        self.encoder = SparseMeritEncoder(config)
        self.integration = build_integration(config)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        tasks: tuple[str, ...] | None = None,
        output_hidden_states: bool | int | list[int] | None = None,
        encoder_outputs: EncoderOutputs | None = None,
        output_attentions: bool | None = None,
        **kwargs: Any,
    ) -> SparseMeritModelOutput:
        """
        Args:
            input_values: (B, S) scaled waveform at 16 kHz.
            attention_mask: (B, S), 1 for samples and 0 for padding.
            tasks: The tasks to compute; all of `config.tasks` by default.
            output_hidden_states: Whether to return the encoder's layer outputs, or the indices of those to return
                (the others are None); `config.output_hidden_states` by default.
            encoder_outputs: Outputs of `SparseMeritEncoder` for this input, in any precision. The encoder is then not
                run, and attention weights are returned only if these outputs contain them.
            output_attentions: Whether to return the attention weights; `config.output_attentions` by default. They
                take memory that grows with the square of the length.
            kwargs: `return_dict`; arguments that callers such as peft pass to every model must be None.

        Raises:
            ValueError: A task is not one of the model's, or none is requested.
            TypeError: An unknown argument.
        """
        check_unused(kwargs)
        tasks = self._check_tasks(tasks)
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if output_attentions is None:
            output_attentions = self.config.output_attentions
        if encoder_outputs is None:
            layer_outputs, frame_mask, *attentions = self.encoder(input_values, attention_mask, output_attentions)
        else:
            layer_outputs, frame_mask, *attentions = encoder_outputs
            layer_outputs = tuple(output.to(self.dtype) for output in layer_outputs)
        last_hidden_state = self.encoder.last_hidden_state(layer_outputs)
        is_last = self.config.integration == "last_layer"
        integrated = (last_hidden_state,) if is_last else layer_outputs
        features, router_logits = self.integration(integrated, frame_mask, tasks)
        return SparseMeritModelOutput(
            last_hidden_state=last_hidden_state,
            features=features,
            frame_mask=frame_mask,
            router_logits=router_logits,
            hidden_states=_selected(layer_outputs, output_hidden_states),
            attentions=attentions[0] if attentions and output_attentions else None,
        )

    def _check_tasks(self, tasks: tuple[str, ...] | None) -> tuple[str, ...]:
        tasks = tuple(self.config.tasks if tasks is None else tasks)
        unknown = [task for task in tasks if task not in self.config.tasks]
        if unknown or not tasks:
            raise ValueError(
                f"`tasks` is {tasks}; expected one or more of the tasks of this model, {self.config.tasks}."
            )
        return tasks


class SparseMeritForSpeechEnhancementAndEmotion(SparseMeritPreTrainedModel):
    """
    Sparse MERIT with its heads: speech enhancement and speech emotion recognition in one pass.

    Example:
        >>> import numpy as np
        >>> from modeling_sparse_merit import DEFAULT_CHECKPOINT, SparseMeritFeatureExtractor
        >>> from modeling_sparse_merit import SparseMeritForSpeechEnhancementAndEmotion
        >>> recording = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
        >>> feature_extractor = SparseMeritFeatureExtractor.from_pretrained(DEFAULT_CHECKPOINT)
        >>> model = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(DEFAULT_CHECKPOINT)
        >>> inputs = feature_extractor(recording, sampling_rate=16_000, return_tensors="pt")
        >>> outputs = model(**inputs)
        >>> emotion = model.config.id2label[outputs.logits.argmax(-1).item()]
        >>> clean = feature_extractor.denormalize(outputs.enhanced_values.detach(), recording)[0]
        >>> clean.shape
        (16000,)
    """

    def __init__(self, config: SparseMeritConfig):
        super().__init__(config)
        config.validate_sparse_merit()  # `from_pretrained` may have changed it
        self.model = SparseMeritModel(config)
        self.tasks = config.task_definitions
        self.added_tasks: dict[str, str] = {}  # by `add_task`: SHA-256 of their files
        self.heads = nn.ModuleDict({name: task.head(config) for name, task in self.tasks.items()})
        self.post_init()

    @classmethod
    def from_encoder(
        cls, name_or_path: str | os.PathLike, num_layers: int | None = None, **config_overrides: Any
    ) -> "SparseMeritForSpeechEnhancementAndEmotion":
        """
        A model with the weights of a pretrained encoder. Experts, routers and heads are randomly initialised.

        Args:
            name_or_path: Hub id (such as `microsoft/wavlm-large` or `openai/whisper-base`) or local folder of a WavLM,
                Whisper, HuBERT or wav2vec 2.0 checkpoint.
            num_layers: How many of its transformer layers are kept, from the first; all by default.
            config_overrides: Fields of [`SparseMeritConfig`] that differ from the checkpoint and the defaults.

        Raises:
            ValueError: The architecture is not supported.
        """
        encoder_config, weights = read_encoder(name_or_path, num_layers)
        model = cls(SparseMeritConfig(**{**encoder_config, **config_overrides}))
        load_encoder(model.model.encoder, weights)
        return model

    @classmethod
    def from_wavlm(cls, name_or_path: str, **config_overrides: Any) -> "SparseMeritForSpeechEnhancementAndEmotion":
        """
        Same as [`from_encoder`], for a WavLM checkpoint.

        Args:
            name_or_path, config_overrides: As in [`from_encoder`].
        """
        return cls.from_encoder(name_or_path, **config_overrides)

    @classmethod
    def from_whisper(
        cls, name_or_path: str, num_layers: int | None = None, **config_overrides: Any
    ) -> "SparseMeritForSpeechEnhancementAndEmotion":
        """
        Same as [`from_encoder`], for a Whisper checkpoint. Its input is not normalised: the feature extractor needs
        `normalization="corpus", corpus_mean=0.0, corpus_std=1.0`.

        Args:
            name_or_path, num_layers, config_overrides: As in [`from_encoder`].
        """
        return cls.from_encoder(name_or_path, num_layers, **config_overrides)

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """
        As in `PreTrainedModel`. The folder also holds the code: without this package, `AutoModel`,
        `AutoModelForAudioClassification` and `pipeline` load it with `trust_remote_code=True`.

        Args:
            save_directory: Folder to write.
            args, kwargs: As in `PreTrainedModel`.
        """
        own_class = f"modeling_sparse_merit.{SparseMeritForSpeechEnhancementAndEmotion.__name__}"
        auto_models = dict.fromkeys(("AutoModel", "AutoModelForAudioClassification"), own_class)
        self.config.auto_map = {**(getattr(self.config, "auto_map", None) or {}), **auto_models}
        self.config.custom_pipelines = custom_pipelines()
        super().save_pretrained(save_directory, *args, **kwargs)

    def freeze_feature_encoder(self) -> None:
        """Freezes the feature encoder."""
        self.model.encoder.freeze_feature_encoder()

    def freeze_base_model(self) -> None:
        """Freezes everything except the heads."""
        self.model.requires_grad_(False)

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        clean_values: torch.Tensor | None = None,
        tasks: tuple[str, ...] | None = None,
        output_router_logits: bool = False,
        output_hidden_states: bool | int | list[int] | None = None,
        output_features: bool = False,
        encoder_outputs: EncoderOutputs | None = None,
        output_attentions: bool | None = None,
        **kwargs: Any,
    ) -> SparseMeritOutput:
        """
        Args:
            input_values: (B, S) noisy waveform at 16 kHz, as the feature extractor scales it.
            attention_mask: (B, S), 1 for samples and 0 for padding.
            labels: (B,) or (B, 1) emotion classes; -100 for a clip without a label.
            clean_values: (B, S) clean waveform in the scale of `input_values`.
            tasks: The tasks to compute; all of `config.tasks` by default. Other tasks are skipped.
            output_router_logits: Whether to return the routers' logits.
            output_features: Whether to return the features that each head receives.
            output_hidden_states, encoder_outputs, output_attentions: As in [`SparseMeritModel`].
            kwargs: `task_labels`, {task: targets} of tasks without an argument of their own: classes (B,), -100 for
                none, or ratings (B, K), NaN for none; and `return_dict`. Arguments that callers such as peft pass to
                every model must be None.

        Raises:
            ValueError: A task is not one of the model's, none is requested, or targets do not fit their task.
            TypeError: An unknown argument.
        """
        # not a named argument: `Trainer` requires every argument whose name contains "label"
        task_labels = kwargs.pop("task_labels", None) or {}
        check_unused(kwargs)
        targets = targets_of(self.tasks, task_labels, labels=labels, clean_values=clean_values)
        outputs = self.model(
            input_values,
            attention_mask,
            tasks,
            output_hidden_states,
            encoder_outputs,
            output_attentions,
            return_dict=True,
        )
        batch = (outputs.frame_mask, input_values, true_lengths(input_values, attention_mask))
        values: dict[str, torch.Tensor] = {}
        losses: dict[str, torch.Tensor] = {}
        for name, features in outputs.features.items():
            inputs = TaskInputs(features, *batch, targets.get(name))
            outputs_of_head, loss = self.tasks[name].run(name, self.heads[name], inputs, self.config)
            values |= outputs_of_head
            losses |= {} if loss is None else {name: loss}
        # CODEPATH: "sparse" in the embedded checkpoints, "dense" in Dense MERIT of the paper, which needs no balance
        if losses and outputs.router_logits and self.config.router == "sparse":
            trained = [logits for task, logits in outputs.router_logits.items() if task in losses]
            balances = [load_balancing_loss(logits, outputs.frame_mask) for logits in trained]
            losses["balance"] = sum(balances[1:], start=balances[0])
        own_fields = SparseMeritOutput.__dataclass_fields__
        return SparseMeritOutput(
            loss=weighted_sum(losses, self.config.loss_weights),
            losses=losses or None,
            features=outputs.features if output_features else None,
            router_logits=outputs.router_logits if output_router_logits else None,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            task_outputs={name: value for name, value in values.items() if name not in own_fields} or None,
            **{name: value for name, value in values.items() if name in own_fields},
        )

    def clip_outputs(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """
        Runs the heads of clip tasks on spans of features, which may come from several recordings or windows.

        Args:
            features: {task: (B, T, D)}, as `output_features` returns them, without padding.

        Returns:
            {task: output}, as `of` of [`SparseMeritOutput`] gives them.
        """
        outputs = {}
        for name, values in features.items():
            mask = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
            outputs[name] = self.tasks[name].scaled(self.heads[name](values, mask))
        return outputs


@cache
def _advise_of_license(folder: str) -> None:
    """Logs `license_notice`, once for each checkpoint."""
    if (notice := license_notice(folder)) is not None:
        logger.warning_advice(notice)


def count_parameters(config: SparseMeritConfig) -> int:
    """Number of parameters of a model with this configuration, without allocating its weights."""
    with torch.device("meta"):
        return SparseMeritForSpeechEnhancementAndEmotion(config).num_parameters()


def damaged_weights(weights: Iterable[tuple[str, torch.Tensor]]) -> list[str]:
    """Names of the weights that have NaN or Inf, which is not checked when they are loaded."""
    return [name for name, weight in weights if weight.is_floating_point() and not weight.isfinite().all()]


def load_checked(load: Callable[[], tuple[Any, dict[str, Any]]], source: str) -> Any:
    """
    Loads a model, and refuses weights that are damaged, missing, of other sizes, or not finite.

    Args:
        load: Calls `from_pretrained` with `output_loading_info=True`.
        source: The folder or the Hub id, for messages.

    Returns:
        The model.

    Raises:
        ValueError: The weights are not usable.
    """
    try:
        model, loading = load()
    except (SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "ignore_mismatched_sizes" not in str(error):
            raise
        reason = error if isinstance(error, SafetensorError) else "their sizes are not those of its config.json"
        raise ValueError(f"The weights of {source!r} cannot be used ({reason}): download or save it again.") from error
    if missing := sorted(loading["missing_keys"]):
        names = ", ".join(missing[:5])
        raise ValueError(f"{source!r} lacks {len(missing)} weights, such as {names}: download or save it again.")
    if damaged := damaged_weights((*model.named_parameters(), *model.named_buffers())):
        raise ValueError(f"{source!r} has NaN or Inf in {', '.join(damaged[:5])}: download or train it again.")
    return model


def encoder_fields(config: WavLMConfig) -> dict[str, Any]:
    """Fields of the configuration of a WavLM or a Sparse MERIT that describe the encoder."""
    return shared_fields(config) | {name: getattr(config, name) for name in ENCODER_FIELDS if hasattr(config, name)}


def load_encoder(encoder: SparseMeritEncoder, weights: dict[str, torch.Tensor]) -> None:
    """
    Loads the weights of an encoder. The embedding of SpecAugment may be missing or superfluous.

    Args:
        encoder: The encoder, whose weights are replaced.
        weights: State dict of a `SparseMeritEncoder`, as `read_encoder` returns it.

    Raises:
        RuntimeError: The architectures differ.
    """
    weights = dict(weights)
    learned = weights.pop("masked_spec_embed", None)
    if hasattr(encoder, "masked_spec_embed"):
        weights["masked_spec_embed"] = encoder.masked_spec_embed if learned is None else learned
    missing = {name for name, _ in encoder.named_buffers()} - set(weights)  # mel filters
    own = {name: tensor for name, tensor in encoder.state_dict().items() if name in missing}
    encoder.load_state_dict(weights | own)


def check_unused(arguments: dict[str, Any]) -> None:
    """
    Refuses arguments that would be ignored.

    Args:
        arguments: Arguments of `forward` that it does not know, by name; None and False are allowed.

    Raises:
        TypeError: One has another value.
    """
    given = [name for name, value in arguments.items() if value is not None and value is not False]
    if given:
        raise TypeError(f"`forward` got the unknown arguments {given}. Leave them out.")


def _selected(
    layer_outputs: tuple[torch.Tensor, ...], selection: bool | int | list[int] | None
) -> tuple[torch.Tensor | None, ...] | None:
    """The layer outputs that `output_hidden_states` selects: all, none, or some indices, the others None."""
    if not selection or selection is True:
        return layer_outputs if selection else None
    indices = [selection] if isinstance(selection, int) else selection
    return tuple(
        output if index in indices or index - len(layer_outputs) in indices else None
        for index, output in enumerate(layer_outputs)
    )


SparseMeritForSpeechEnhancementAndEmotion.register_for_auto_class("AutoModel")
