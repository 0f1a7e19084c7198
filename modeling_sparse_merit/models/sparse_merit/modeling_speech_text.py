# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Emotion and ratings from speech and text: late fusion of a speech and a text encoder (arXiv 2508.07282)."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple

from .clip_heads import AttentiveStatisticsPooling, EmbeddingHead
from .configuration_sparse_merit import SparseMeritConfig
from .configuration_speech_text import SPEECH, TEXT, SpeechTextConfig, clip_tasks_of, speech_text_pipelines
from .encoder import SparseMeritEncoder
from .experts import load_balancing_loss
from .modeling_sparse_merit import SparseMeritForSpeechEnhancementAndEmotion, SparseMeritModel, check_unused
from .tasks import EMOTION, TaskInputs, targets_of, weighted_sum

INPUTS = {SPEECH: "`input_values` or `speech_embeddings`", TEXT: "`input_ids` or `text_embeddings`"}
OWN_FIELDS = ("architectures", "auto_map", "custom_pipelines")
"""Fields of a checkpoint's configuration that do not describe a part of another model."""


@dataclass
class SpeechTextOutput(ModelOutput):
    """
    Output of [`SpeechTextForEmotion`].

    Attributes:
        loss: Scalar, the weighted sum of `losses`; None without targets.
        losses: {task: scalar}, and "balance" of a sparse router that is trained.
        logits: (B, classes) of the emotion.
        task_outputs: {task: output} of the other tasks: logits (B, classes), ratings (B, K), embeddings (B, size).
        speech_embeddings: (B, 2 * H * D), before the heads; NaN for a clip without speech.
        text_embeddings: (B, D), or (B, 2 * D) with the pooling "attentive_statistics"; NaN for a clip without text.
    """

    loss: torch.Tensor | None = None
    losses: dict[str, torch.Tensor] | None = None
    logits: torch.Tensor | None = None
    task_outputs: dict[str, torch.Tensor] | None = None
    speech_embeddings: torch.Tensor | None = None
    text_embeddings: torch.Tensor | None = None

    def of(self, task: str) -> torch.Tensor | None:
        """The output of the head of a task; None if the model does not have it."""
        return self.logits if task == EMOTION else (self.task_outputs or {}).get(task)


class MeanPooling(nn.Module):
    """Mean over the valid frames or tokens: (B, T, D) -> (B, D)."""

    def forward(self, features: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
        """
        Args:
            features: (B, T, D).
            frame_mask: (B, T), true for what belongs to the clip.
        """
        valid = frame_mask[..., None]  # (B, T, 1)
        total = features.float().masked_fill(~valid, 0.0).sum(1)  # (B, D)
        return (total / valid.sum(1).clamp(min=1)).to(features.dtype)


class SpeechTextForEmotion(PreTrainedModel):
    """
    Emotion, and ratings or other `clip_tasks`, from speech, text, or both. Each encoder is pooled over time into an
    embedding. The heads take the embeddings, that of the speech first.

    Example:
        >>> import torch
        >>> from transformers import RobertaConfig
        >>> from modeling_sparse_merit import SpeechTextConfig, SpeechTextForEmotion
        >>> text = RobertaConfig(vocab_size=100, hidden_size=24, num_hidden_layers=1, num_attention_heads=2)
        >>> model = SpeechTextForEmotion(SpeechTextConfig(text_config=text))
        >>> model(input_ids=torch.tensor([[0, 31, 41, 2]])).logits.shape
        torch.Size([1, 4])
    """

    config: SpeechTextConfig
    config_class = SpeechTextConfig
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # `Trainer`: losses are means over a batch, whatever `num_items_in_batch` is
    _supports_sdpa = True

    def __init__(self, config: SpeechTextConfig):
        super().__init__(config)
        config.validate_speech_text()  # `from_pretrained` may have changed it
        # CODEPATH: None in models of text alone
        if config.speech_config is not None:
            speech = config.speech_config
            self.speech = SparseMeritModel(speech)
            self.speech_pooling = AttentiveStatisticsPooling(speech.hidden_size, speech.emotion_pooling_heads)
        # CODEPATH: None in models of speech alone
        if config.text_config is not None:
            is_mean, width = config.text_pooling == "mean", config.text_config.hidden_size
            self.text = _text_model(AutoModel.from_config(config.text_config))
            self.text_pooling = MeanPooling() if is_mean else AttentiveStatisticsPooling(width)
        # CODEPATH: 0 in the published system, which has both modalities of every clip
        sizes = config.embedding_sizes if config.modality_dropout else {}
        self.absent = nn.ParameterDict({name: nn.Parameter(torch.zeros(size)) for name, size in sizes.items()})
        self.tasks = config.task_definitions
        self.heads = nn.ModuleDict({name: task.head(config) for name, task in self.tasks.items()})
        self.post_init()
        self.freeze()

    @classmethod
    def from_parts(
        cls,
        speech: str | os.PathLike | None = None,
        text: str | os.PathLike | None = None,
        **config_overrides: Any,
    ) -> "SpeechTextForEmotion":
        """
        A model with pretrained encoders. Its heads are randomly initialised.

        Args:
            speech: Folder or Hub id of a Sparse MERIT checkpoint, whose encoder, integration and pooling of one task
                are taken: the first of `tasks` that it has, or else its first clip task. Or of a
                [`SpeechTextForEmotion`] with speech.
            text: Folder or Hub id of a text encoder, or of a [`SpeechTextForEmotion`] with text.
            config_overrides: Fields of [`SpeechTextConfig`]. By default, tasks and labels are those of `speech`, or
                else of a speech-text model `text`.

        Raises:
            ValueError: No part is given, a part is of another kind, or an untrained pooling would be frozen.
        """
        parts = {name: _read_part(source, name) for name, source in ((SPEECH, speech), (TEXT, text)) if source}
        fields = _fields_of(parts, config_overrides)
        poolings: dict[str, nn.Module | None] = {}
        if SPEECH in parts:
            parts[SPEECH], poolings[SPEECH] = _speech_of(parts[SPEECH], fields["tasks"])
        if TEXT in parts:
            parts[TEXT], poolings[TEXT] = _text_of(parts[TEXT])
        model = cls(SpeechTextConfig(**fields, **{f"{name}_config": part.config for name, part in parts.items()}))
        for name, part in parts.items():
            setattr(model, name, part)
            model._set_pooling(name, poolings[name])
        model.freeze()
        return model

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """
        As in `PreTrainedModel`, from safetensors unless `use_safetensors=False` is passed. The configuration says what
        is frozen.

        Args:
            pretrained_model_name_or_path: Folder or Hub id.
            args, kwargs: As in `PreTrainedModel`.
        """
        kwargs.setdefault("use_safetensors", True)
        loaded = super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded).freeze()  # loading makes all parameters trainable
        return loaded

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """
        As in `PreTrainedModel`. The folder also holds the code: without this package, `AutoModel` and `pipeline` load
        it with `trust_remote_code=True`.

        Args:
            save_directory: Folder to write.
            args, kwargs: As in `PreTrainedModel`.
        """
        self.config.custom_pipelines = speech_text_pipelines()
        super().save_pretrained(save_directory, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, AttentiveStatisticsPooling):
            init.normal_(module.score.weight, std=self.config.initializer_range)  # all tokens count alike at first
        elif isinstance(module, EmbeddingHead) and module.class_vectors is not None:
            init.normal_(module.class_vectors)
        elif isinstance(module, nn.ParameterDict):
            for vector in module.values():
                init.zeros_(vector)

    def freeze(self) -> None:
        """Freezes the parameters that the configuration says are frozen, and those that are not used."""
        for part in self.modules():
            if isinstance(part, SparseMeritEncoder):
                part.freeze_unused()
        for part in self._frozen_parts():
            part.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "SpeechTextForEmotion":
        """As in `nn.Module`; frozen parts stay in evaluation mode, without dropout."""
        super().train(mode)
        for part in self._frozen_parts():
            part.eval()
        return self

    @can_return_tuple
    def forward(
        self,
        input_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        text_attention_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        speech_embeddings: torch.Tensor | None = None,
        text_embeddings: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> SpeechTextOutput:
        """
        Args:
            input_values: (B, S) waveform at 16 kHz, as the feature extractor scales it.
            attention_mask: (B, S), 1 for samples and 0 for padding; 0 throughout for a clip without speech.
            input_ids: (B, T) tokens.
            text_attention_mask: (B, T), 1 for tokens and 0 for padding; 0 throughout for a clip without text.
            labels: (B,) or (B, 1) emotion classes; -100 for a clip without a label.
            speech_embeddings: As in [`SpeechTextOutput`]. The speech encoder is then not run.
            text_embeddings: As in [`SpeechTextOutput`]. The text encoder is then not run.
            kwargs: `task_labels`, {task: targets} of the other tasks: classes (B,), -100 for none, or ratings (B, K),
                NaN for none; and `return_dict`.

        Raises:
            ValueError: A modality is missing that the model needs, or one is given that it does not have; targets do
                not fit their task.
            TypeError: An unknown argument.
        """
        # not a named argument: `Trainer` requires every argument whose name contains "label"
        task_labels = kwargs.pop("task_labels", None) or {}
        check_unused(kwargs)
        targets = targets_of(self.tasks, task_labels, labels=labels)
        given = {SPEECH: (input_values, speech_embeddings), TEXT: (input_ids, text_embeddings)}
        self._check_modalities([name for name, values in given.items() if any(each is not None for each in values)])
        balance = None
        if input_values is not None and speech_embeddings is None:
            speech_embeddings, balance = self._embed_speech(input_values, attention_mask)
        if input_ids is not None and text_embeddings is None:
            text_embeddings = self.embed_text(input_ids, text_attention_mask)
        joined = self._joined({SPEECH: speech_embeddings, TEXT: text_embeddings})  # (B, hidden_size)
        outputs: dict[str, torch.Tensor] = {}
        losses: dict[str, torch.Tensor] = {}
        for name, task in self.tasks.items():
            inputs = TaskInputs(joined, targets=targets.get(name))
            outputs_of_head, loss = task.run(name, self.heads[name], inputs, self.config)
            outputs |= outputs_of_head
            losses |= {} if loss is None else {name: loss}
        if losses and balance is not None:
            losses["balance"] = balance
        return SpeechTextOutput(
            loss=weighted_sum(losses, self.config.loss_weights),
            losses=losses or None,
            logits=outputs.pop("logits", None),
            task_outputs=outputs or None,
            speech_embeddings=speech_embeddings,
            text_embeddings=text_embeddings,
        )

    def hidden_layer(
        self, speech_embeddings: torch.Tensor | None = None, text_embeddings: torch.Tensor | None = None
    ) -> torch.Tensor:
        """
        The hidden layer of the emotion head in front of its activation, the embedding of a clip that a conversation
        model takes.

        Args:
            speech_embeddings, text_embeddings: As in [`SpeechTextOutput`].

        Returns:
            (B, head_hidden_size).

        Raises:
            ValueError: The model does not have the emotion task, or a clip lacks a modality that the model needs.
        """
        if EMOTION not in self.tasks:
            raise ValueError(f"This model has the tasks {list(self.tasks)}; expected {EMOTION!r} among them.")
        given = {SPEECH: speech_embeddings, TEXT: text_embeddings}
        self._check_modalities([name for name, values in given.items() if values is not None])
        head: Any = self.heads[EMOTION]
        return head.hidden(self._joined(given))

    def embed_speech(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            input_values, attention_mask: As in `forward`.

        Returns:
            (B, 2 * H * D), NaN for a clip without speech.
        """
        return self._embed_speech(input_values, attention_mask)[0]

    def embed_text(self, input_ids: torch.Tensor, text_attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        """
        Args:
            input_ids, text_attention_mask: As in `forward`.

        Returns:
            (B, D) or (B, 2 * D), NaN for a clip without text.
        """
        mask = torch.ones_like(input_ids) if text_attention_mask is None else text_attention_mask
        present = mask.bool().any(1)  # (B,)
        embeddings = self._absent_embeddings(TEXT, len(input_ids))
        if present.any():  # an encoder returns NaN for a clip without tokens
            states = self.text(input_ids=input_ids[present], attention_mask=mask[present]).last_hidden_state
            embeddings[present] = self.text_pooling(states, mask[present].bool()).to(embeddings.dtype)
        return embeddings

    def _embed_speech(
        self, input_values: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Embeddings, and the load-balancing loss of a sparse router that is trained."""
        mask = torch.ones_like(input_values, dtype=torch.long) if attention_mask is None else attention_mask
        present, balance = mask.bool().any(1), None  # (B,)
        embeddings = self._absent_embeddings(SPEECH, len(input_values))
        if present.any():
            outputs = self.speech(input_values[present], mask[present], return_dict=True)
            ((task, features),) = outputs.features.items()  # (b, T, D)
            embeddings[present] = self.speech_pooling(features, outputs.frame_mask).to(embeddings.dtype)
            # CODEPATH: the published system has no router; it is frozen with the encoder unless both are trained
            if outputs.router_logits and self.speech.config.router == "sparse" and not self.config.freeze_speech:
                balance = load_balancing_loss(outputs.router_logits[task], outputs.frame_mask)
        return embeddings, balance

    def _absent_embeddings(self, modality: str, batch_size: int) -> torch.Tensor:
        """(B, width), all NaN."""
        size = (batch_size, self.config.embedding_sizes[modality])
        return torch.full(size, torch.nan, dtype=self.dtype, device=self.device)

    def _joined(self, embeddings: dict[str, torch.Tensor | None]) -> torch.Tensor:
        """
        The input of the heads, (B, hidden_size).

        Args:
            embeddings: {modality: (B, width)}, None or NaN where it is missing.

        Raises:
            ValueError: A clip lacks a modality that the model needs.
        """
        batch_size = next(len(values) for values in embeddings.values() if values is not None)
        complete = {}
        for name in self.config.embedding_sizes:
            values = embeddings[name]
            complete[name] = self._absent_embeddings(name, batch_size) if values is None else values.to(self.dtype)
        present = torch.stack([~values.isnan().all(1) for values in complete.values()])  # (modalities, B)
        self._check_present(present)
        if not self.absent:
            return torch.cat(list(complete.values()), dim=-1)
        if self.training:
            present = self._drop_modalities(present)
        pairs = zip(complete.items(), present, strict=True)
        kept = [values.where(here[:, None], self.absent[name]) for (name, values), here in pairs]
        return torch.cat(kept, dim=-1)

    def _drop_modalities(self, present: torch.Tensor) -> torch.Tensor:
        """(2, B), true for a modality that is present, without one of both for a share of the clips."""
        chance = torch.rand(present.shape[1], device=present.device)  # (B,): below half the share, the speech is lost
        share = self.config.modality_dropout
        lost = torch.stack([chance < share / 2, (chance >= share / 2) & (chance < share)])  # (2, B)
        return present & ~(lost & present.all(0))

    def _check_modalities(self, given: list[str]) -> None:
        own = list(self.config.embedding_sizes)
        if unknown := [name for name in given if name not in own]:
            raise ValueError(f"This model has no {unknown[0]} encoder: leave {INPUTS[unknown[0]]} out.")
        if not given:
            expected = ", ".join(INPUTS[name] for name in own)
            raise ValueError(f"`forward` got neither a recording nor a text; expected {expected}.")

    def _check_present(self, present: torch.Tensor) -> None:
        """Refuses clips without a modality that the model needs. `present`: (modalities, B)."""
        if self.absent:
            if not present.any(0).all():
                raise ValueError("A clip has neither speech nor text. Leave it out.")
            return
        missing = [name for name, here in zip(self.config.embedding_sizes, present, strict=True) if not here.all()]
        if missing:
            raise ValueError(
                f"This model needs {missing[0]}, which a clip does not have: pass {INPUTS[missing[0]]}, or "
                "leave the clip out. A model of both that is trained with `modality_dropout` needs one of them."
            )

    def _set_pooling(self, modality: str, pooling: nn.Module | None) -> None:
        """Takes over a pooling of the kind that the configuration says. An untrained one must not be frozen."""
        name = f"{modality}_pooling"
        if type(pooling) is type(getattr(self, name)):
            setattr(self, name, pooling)
        elif self.config.freeze_text and not isinstance(self.text_pooling, MeanPooling):
            raise ValueError(
                f"`text_pooling` is {self.config.text_pooling!r}, which has to be trained, and `freeze_text` is True; "
                "expected `freeze_text=False`, or `text_pooling='mean'`."
            )

    def _frozen_parts(self) -> list[nn.Module]:
        frozen = {SPEECH: self.config.freeze_speech, TEXT: self.config.freeze_text}
        names = [name for name in self.config.embedding_sizes if frozen[name]]
        return [part for name in names for part in (getattr(self, name), getattr(self, f"{name}_pooling"))]


def count_speech_text_parameters(config: SpeechTextConfig) -> int:
    """Number of parameters of a model with this configuration, without allocating its weights."""
    with torch.device("meta"):
        return SpeechTextForEmotion(config).num_parameters()


def _text_model(model: Any) -> PreTrainedModel:
    """A text encoder without the pooler of models such as BERT, which is not used, and without a decoder's cache."""
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    if getattr(model.config, "use_cache", False):
        model.config.use_cache = False
    return model


def _read_part(source: str | os.PathLike, modality: str) -> Any:
    """The model of which a part is taken, in fp32."""
    model_type = SpeechTextConfig.get_config_dict(source)[0].get("model_type")
    if model_type == SpeechTextConfig.model_type:
        model = SpeechTextForEmotion.from_pretrained(source, dtype=torch.float32)
        if modality not in model.config.embedding_sizes:
            raise ValueError(f"{str(source)!r} has no {modality} encoder.")
        return model
    if modality == TEXT:
        return AutoModel.from_pretrained(source, dtype=torch.float32)
    if model_type != SparseMeritConfig.model_type:
        raise ValueError(
            f"{str(source)!r} holds a model of type {model_type!r}; expected {SparseMeritConfig.model_type!r} or "
            f"{SpeechTextConfig.model_type!r}. `SparseMeritForSpeechEnhancementAndEmotion.from_encoder` makes one "
            "from a pretrained encoder."
        )
    return SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(source, dtype=torch.float32)


def _fields_of(parts: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """Fields of a model: tasks and labels of the first part that has them, the pooling of the text, and overrides."""
    fields: dict[str, Any] = {}
    for part in reversed(parts.values()):
        if hasattr(part, "heads"):
            tasks = list(clip_tasks_of(part.config))
            fields = {"tasks": tasks, "clip_tasks": part.config.clip_tasks, "id2label": part.config.id2label}
    if TEXT in parts:
        fields["text_pooling"] = getattr(parts[TEXT].config, "text_pooling", "mean")
    chosen: Any = overrides.get("tasks", fields.get("tasks"))
    definitions = {name: each for name, each in (fields.get("clip_tasks") or {}).items() if name in chosen}
    return fields | {"clip_tasks": definitions or None} | overrides


def _speech_of(part: Any, tasks: Sequence[str]) -> tuple[SparseMeritModel, nn.Module]:
    """The speech model of a part, for one task, and the pooling of that task."""
    if isinstance(part, SpeechTextForEmotion):
        return part.speech, part.speech_pooling
    own = list(clip_tasks_of(part.config))
    if not own:
        raise ValueError(f"The speech model has the tasks {part.config.tasks}; expected one with a pooling.")
    task = next((name for name in tasks if name in own), own[0])
    fields = {name: value for name, value in part.config.to_dict().items() if name not in OWN_FIELDS}
    definition = {name: value for name, value in (part.config.clip_tasks or {}).items() if name == task}
    fields |= {"tasks": [task], "clip_tasks": definition or None, "task_weights": None}
    model = SparseMeritModel(SparseMeritConfig(**fields))
    weights = part.model.state_dict()
    model.load_state_dict({name: weights[name] for name in model.state_dict()})
    return model, part.heads[task].pooling


def _text_of(part: Any) -> tuple[PreTrainedModel, nn.Module | None]:
    """The text model of a part, and its pooling; None for the mean."""
    return (part.text, part.text_pooling) if isinstance(part, SpeechTextForEmotion) else (_text_model(part), None)


SpeechTextForEmotion.register_for_auto_class("AutoModel")
