# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Emotion of the utterances of a conversation: a mixture of speech, text and cross-modal experts (MiSTER-E)."""

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput, can_return_tuple

from .configuration_mister_e import CROSS_MODAL, SPEECH, TEXT, MisterEConfig, conversation_pipelines
from .context import ContextExpert
from .cross_modal import CrossModalExpert
from .losses import UNLABELLED, consistency_loss, contrastive_loss, focal_loss


@dataclass
class MisterEOutput(ModelOutput):
    """
    Output of [`MisterEForConversationEmotion`]. Everything is 0 in the padding.

    Attributes:
        loss: Scalar, the weighted sum of `losses`; None without labels.
        losses: {"mix", each of several experts, "contrastive", "consistency": scalar}, as far as the model has them.
        logits: (B, U, C) of the mixture.
        expert_logits: {expert: (B, U, C)}.
        gate: (B, U, E), the weight of each expert in the order of `config.experts`; they add up to 1.
        speech_states: (B, U, D) of the cross-modal expert, None without it.
        text_states: (B, U, D) of the cross-modal expert, None without it.
    """

    loss: torch.Tensor | None = None
    losses: dict[str, torch.Tensor] | None = None
    logits: torch.Tensor | None = None
    expert_logits: dict[str, torch.Tensor] | None = None
    gate: torch.Tensor | None = None
    speech_states: torch.Tensor | None = None
    text_states: torch.Tensor | None = None


class Gate(nn.Module):
    """
    Weights of the experts from their logits. An expert that is not available has weight 0.

    Args:
        config: A [`MisterEConfig`], whose `gate`, `gate_hidden_size`, `gate_temperature` and `experts` are used.
    """

    def __init__(self, config: Any):
        super().__init__()
        experts, self.temperature = len(config.experts), config.gate_temperature
        self.kind = config.gate if experts > 1 else "uniform"
        # CODEPATH: a gate that is not learned has no weights
        if self.kind == "learned":
            self.dense = nn.Linear(experts * config.num_labels, config.gate_hidden_size)
            self.output = nn.Linear(config.gate_hidden_size, experts)

    def forward(self, logits: torch.Tensor, available: torch.Tensor) -> torch.Tensor:
        """
        Args:
            logits: (B, U, E, C).
            available: (B, U, E), true for at least one expert of each utterance.

        Returns:
            (B, U, E), which add up to 1.
        """
        if self.kind == "majority":
            weights = self._of_majority(logits, available).to(logits.dtype)
            return weights / weights.sum(-1, keepdim=True)
        scores = torch.zeros_like(logits[..., 0])
        if self.kind == "learned":
            scores = self.output(self.dense(logits.flatten(2)).relu()) / self.temperature  # (B, U, E * C) -> (B, U, E)
        return scores.masked_fill(~available, -torch.inf).softmax(-1)

    @staticmethod
    def _of_majority(logits: torch.Tensor, available: torch.Tensor) -> torch.Tensor:
        """The experts that predict the most frequent class, or else the last one that is available: (B, U, E)."""
        classes, experts = logits.argmax(-1), available.shape[-1]  # (B, U, E)
        agrees = (classes[..., :, None] == classes[..., None, :]) & available[..., None, :]  # (B, U, E, E)
        rank = torch.arange(experts, device=logits.device)
        support = (agrees.sum(-1) * experts + rank).masked_fill(~available, -1)  # a later expert breaks ties
        leader = support.argmax(-1, keepdim=True)  # (B, U, 1)
        return (classes == classes.gather(-1, leader)) & available


class MisterEForConversationEmotion(PreTrainedModel):
    """
    Emotion of each utterance of a conversation, from embeddings of its speech, its text, or both (arXiv 2602.23300).
    A speech and a text expert, each with the context of the conversation, and a cross-modal expert give logits; a gate
    mixes them. Nothing depends on padding or on who speaks.

    Example:
        >>> import torch
        >>> from modeling_sparse_merit import MisterEConfig, MisterEForConversationEmotion
        >>> sizes = {"context_hidden_size": 8, "cross_modal_size": 16, "attention_size": 12}
        >>> model = MisterEForConversationEmotion(MisterEConfig(speech_size=4, text_size=6, num_labels=7, **sizes))
        >>> outputs = model(speech_embeddings=torch.randn(1, 5, 4), text_embeddings=torch.randn(1, 5, 6))
        >>> outputs.logits.shape, outputs.gate.shape
        (torch.Size([1, 5, 7]), torch.Size([1, 5, 3]))
    """

    config: MisterEConfig
    config_class = MisterEConfig
    main_input_name = "speech_embeddings"
    accepts_loss_kwargs = False  # `Trainer`: losses are means over a batch, whatever `num_items_in_batch` is
    _supports_sdpa = True

    def __init__(self, config: MisterEConfig):
        super().__init__(config)
        config.validate_mister_e()  # `from_pretrained` may have changed it
        sizes = config.embedding_sizes
        used = [name for name in sizes if {name, CROSS_MODAL} & set(config.experts or ())]
        self.absent = nn.ParameterDict({name: nn.Parameter(torch.zeros(sizes[name])) for name in used})
        self.experts = nn.ModuleDict()
        for name in config.experts or ():
            if name == CROSS_MODAL:
                is_context = config.cross_modal_input == "context"
                widths = [config.context_size if is_context else sizes[modality] for modality in (SPEECH, TEXT)]
                self.experts[name] = CrossModalExpert(config, *widths)
            else:
                self.experts[name] = ContextExpert(config, sizes[name])
        self.gate = Gate(config)
        self.post_init()

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """
        As in `PreTrainedModel`, from safetensors unless `use_safetensors=False` is passed.

        Args:
            pretrained_model_name_or_path: Folder or Hub id.
            args, kwargs: As in `PreTrainedModel`.
        """
        kwargs.setdefault("use_safetensors", True)
        return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """
        As in `PreTrainedModel`. The folder also holds the code: without this package, `AutoModel` and `pipeline` load
        it with `trust_remote_code=True`.

        Args:
            save_directory: Folder to write.
            args, kwargs: As in `PreTrainedModel`.
        """
        self.config.custom_pipelines = conversation_pipelines()
        super().save_pretrained(save_directory, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Those of torch: networks of this size learn slowly from the smaller weights of transformers."""
        super()._init_weights(module)
        if isinstance(module, nn.Linear | nn.Conv1d | nn.GRU):
            inputs = module.hidden_size if isinstance(module, nn.GRU) else module.weight[0].numel()
            bound = float(inputs) ** -0.5
            for parameter in module.parameters():
                init.uniform_(parameter, -bound, bound)
        elif isinstance(module, nn.ParameterDict):
            for vector in module.values():
                init.zeros_(vector)

    @can_return_tuple
    def forward(
        self,
        speech_embeddings: torch.Tensor | None = None,
        text_embeddings: torch.Tensor | None = None,
        utterance_mask: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        speech_mask: torch.Tensor | None = None,
        text_mask: torch.Tensor | None = None,
    ) -> MisterEOutput:
        """
        Args:
            speech_embeddings: (B, U, speech_size). None if no utterance has speech.
            text_embeddings: (B, U, text_size). None if no utterance has a text.
            utterance_mask: (B, U), 1 for the utterances of a conversation, which come first, and 0 for padding; by
                default there is no padding.
            labels: (B, U) emotion classes; -100 for an utterance without a label.
            speech_mask: (B, U), 1 for utterances with speech; by default all have it if `speech_embeddings` is given.
            text_mask: (B, U), 1 for utterances with text, accordingly.

        Raises:
            ValueError: No embeddings are given, those of a modality that the model does not have, or tensors do not
                fit together.
        """
        given = {SPEECH: (speech_embeddings, speech_mask), TEXT: (text_embeddings, text_mask)}
        mask = self._checked_mask({name: values for name, (values, _) in given.items()}, utterance_mask)
        embeddings, present = self._complete(given, mask)
        logits, states = self._run_experts(embeddings, mask)
        available = self._available(present, mask)  # {expert: (B, U)}
        stacked = torch.stack(list(logits.values()), dim=2)  # (B, U, E, C)
        gate = self.gate(stacked, torch.stack(list(available.values()), dim=-1))  # (B, U, E)
        mixed = (gate[..., None] * stacked).sum(2)  # (B, U, C)
        losses = None if labels is None else self._losses(labels, mixed, logits, states, available, present, mask)
        valid = mask[..., None]  # (B, U, 1)
        weights = self.config.loss_weights
        weighted = [weights[name] * loss for name, loss in (losses or {}).items()]
        return MisterEOutput(
            loss=torch.stack(weighted).sum() if weighted else None,
            losses=losses,
            logits=mixed * valid,
            expert_logits={name: values * valid for name, values in logits.items()},
            gate=gate * valid,
            **{f"{name}_states": values * valid for name, values in states.items()},
        )

    def _checked_mask(
        self, embeddings: dict[str, torch.Tensor | None], utterance_mask: torch.Tensor | None
    ) -> torch.Tensor:
        """The mask of the utterances, (B, U), after all shapes are checked."""
        own = self.config.embedding_sizes
        shapes = {name: tuple(values.shape) for name, values in embeddings.items() if values is not None}
        if unknown := [name for name in shapes if name not in own]:
            raise ValueError(f"This model has no {unknown[0]}: leave `{unknown[0]}_embeddings` out.")
        if not shapes:
            expected = " or ".join(f"`{name}_embeddings`" for name in own)
            raise ValueError(f"`forward` got no embeddings; expected {expected}.")
        for name, shape in shapes.items():
            if len(shape) != 3 or shape[2] != own[name]:
                raise ValueError(
                    f"`{name}_embeddings` has the shape {shape}; expected (conversations, utterances, {own[name]})."
                )
        first = next(values for values in embeddings.values() if values is not None)
        if len({shape[:2] for shape in shapes.values()}) > 1:
            raise ValueError(
                f"The embeddings have the shapes {shapes}; expected as many conversations and utterances."
            )
        if utterance_mask is None:
            return torch.ones(first.shape[:2], dtype=torch.bool, device=first.device)
        if utterance_mask.shape != first.shape[:2]:
            raise ValueError(
                f"`utterance_mask` has the shape {tuple(utterance_mask.shape)}; expected {tuple(first.shape[:2])}."
            )
        mask = utterance_mask.bool()
        if (mask[:, 1:] & ~mask[:, :-1]).any():
            raise ValueError(
                "`utterance_mask` has a gap; expected the utterances of a conversation, then its padding."
            )
        return mask

    def _complete(
        self, given: dict[str, tuple[torch.Tensor | None, torch.Tensor | None]], mask: torch.Tensor
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Embeddings (B, U, D) with a learned vector where there are none, and where there are some, (B, U)."""
        embeddings, present = {}, {}
        for name, vector in self.absent.items():
            values, is_given = given[name]
            if values is None:
                present[name], values = torch.zeros_like(mask), vector.expand(*mask.shape, -1)
            else:
                present[name] = mask if is_given is None else mask & is_given.bool()
            embeddings[name] = values.to(vector.dtype).where(present[name][..., None], vector)
        return embeddings, present

    def _run_experts(
        self, embeddings: dict[str, torch.Tensor], mask: torch.Tensor
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """{expert: logits (B, U, C)}, and {modality: states (B, U, D)} of the cross-modal expert."""
        logits, states = {}, {}
        inputs = dict(embeddings)
        for name, expert in self.experts.items():
            if name == CROSS_MODAL:
                logits[name], states[SPEECH], states[TEXT] = expert(inputs[SPEECH], inputs[TEXT], mask)
            else:
                logits[name], context = expert(embeddings[name], mask)
                # CODEPATH: "embeddings" in the published system, which runs the experts side by side
                if self.config.cross_modal_input == "context":
                    inputs[name] = context
        return logits, states

    def _available(self, present: dict[str, torch.Tensor], mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        Which experts an utterance has, (B, U) each: without its modality, not that of the modality. An utterance that
        would have none has all of them, which know the context.
        """
        available = {name: torch.ones_like(mask) if name == CROSS_MODAL else present[name] for name in self.experts}
        has_none = ~torch.stack(list(available.values())).any(0)  # (B, U)
        return {name: values | has_none for name, values in available.items()}

    def _losses(
        self,
        labels: torch.Tensor,
        mixed: torch.Tensor,
        logits: dict[str, torch.Tensor],
        states: dict[str, torch.Tensor],
        available: dict[str, torch.Tensor],
        present: dict[str, torch.Tensor],
        mask: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """The losses by name, over the labelled utterances alone."""
        if labels.shape != mask.shape or labels.is_floating_point():
            raise ValueError(
                f"`labels` has the shape {tuple(labels.shape)} and the type {labels.dtype}; expected whole numbers of "
                f"the shape {tuple(mask.shape)}: the class of each utterance, or {UNLABELLED}."
            )
        config, labelled = self.config, mask & (labels != UNLABELLED)  # (B, U)
        losses = {"mix": focal_loss(mixed[labelled], labels[labelled], config.focal_gamma)}
        if len(logits) > 1:
            valid = {name: labelled & values for name, values in available.items()}
            for name, values in logits.items():
                losses[name] = focal_loss(values[valid[name]], labels[valid[name]], config.focal_gamma)
            losses["consistency"] = consistency_loss(logits, valid, config.consistency_reduction)
        if states:
            counted = {name: labelled & present[name] for name in states}
            rows = torch.cat([values[counted[name]] for name, values in states.items()])  # (N, D), speech first
            classes = torch.cat([labels[counted[name]] for name in states])
            losses["contrastive"] = contrastive_loss(rows, classes, config.contrastive_temperature)
        return losses


MisterEForConversationEmotion.register_for_auto_class("AutoModel")
