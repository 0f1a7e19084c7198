# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""What is evaluated: a system that hears a batch of recordings and answers with clean speech and emotions."""

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from transformers.utils import SAFE_WEIGHTS_NAME, cached_file

from .. import DEFAULT_CHECKPOINT
from ..experts import count_routed_frames
from ..pipeline_sparse_merit import SpeechEnhancementAndEmotionPipeline


@dataclass
class SystemAnswer:
    """One clip's result.

    Attributes:
        enhanced: (samples,) in the recording's level and length; None without the enhancement task.
        probabilities: (labels,), summing to 1; None without the emotion task.
        expert_use: `{task: (experts,) share of the clip's frames}`; empty without a sparse router.
        num_frames: encoder frames of the clip.
    """

    enhanced: np.ndarray | None
    probabilities: np.ndarray | None
    expert_use: dict[str, np.ndarray] = field(default_factory=dict)
    num_frames: int = 0


class CheckpointSystem:
    """A Sparse MERIT checkpoint of any configuration, from a folder or the Hub.

    Args:
        model: folder or Hub id; None is the checkpoint inside the package.
        labels: emotion classes that are compared, among the model's; None takes all of them in the model's order.
        device: torch device; None is a GPU where there is one.

    Raises:
        ValueError: a label is not one of the model's.
        OSError: there is no checkpoint at `model`.
    """

    def __init__(self, model: str | None = None, labels: list[str] | None = None, device: str | None = None):
        self.name = model or "the checkpoint inside the package"
        source = model or str(DEFAULT_CHECKPOINT)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        loaded = SpeechEnhancementAndEmotionPipeline.from_pretrained(source, device=device)
        self.feature_extractor, self.model = loaded.feature_extractor, loaded.model
        self.sha256 = weights_sha256(source)
        model_labels = [self.model.config.id2label[index] for index in range(self.model.config.num_labels)]
        unknown = sorted(set(labels or []) - set(model_labels))
        if unknown:
            raise ValueError(f"labels: {unknown} are not among the model's classes {model_labels}.")
        self.labels = list(labels) if labels else model_labels
        self._label_ids = [model_labels.index(label) for label in self.labels]

    @property
    def tasks(self) -> list[str]:
        """What the system answers: "enhancement", "emotion" or both."""
        return list(self.model.config.tasks)

    def describe(self) -> dict:
        """What identifies the system in a report."""
        config = self.model.config
        parts = {name: getattr(config, name) for name in ("tasks", "integration", "router", "num_experts")}
        identity = {"name": self.name, "sha256": self.sha256, "device": self.model.device.type}
        parts["normalization"] = self.feature_extractor.normalization
        return {**identity, "parameters": self.model.num_parameters(), **parts}

    @torch.inference_mode()
    def answer(self, recordings: list[np.ndarray]) -> list[SystemAnswer]:
        """Answers for recordings of shape (samples,) at 16 kHz, computed as one padded batch.

        Raises:
            ValueError: the model's output is not finite.
        """
        inputs = self.feature_extractor(
            recordings, sampling_rate=self.feature_extractor.sampling_rate, padding=True, return_tensors="pt"
        ).to(self.model.device)
        outputs = self.model(**inputs, output_router_logits=True)
        enhanced = self._enhanced(outputs.enhanced_values, recordings)
        probabilities = self._probabilities(outputs.logits, len(recordings))
        answers = [SystemAnswer(*pair) for pair in zip(enhanced, probabilities, strict=True)]
        if outputs.router_logits and self.model.config.router == "sparse":
            self._add_expert_use(answers, outputs.router_logits, inputs["attention_mask"])
        return answers

    def _enhanced(self, values: torch.Tensor | None, recordings: list[np.ndarray]) -> list[np.ndarray | None]:
        if values is None:
            return [None] * len(recordings)
        if not torch.isfinite(values).all():
            raise ValueError(f"The enhanced speech of {self.name} holds NaN or Inf: its weights may have diverged.")
        return self.feature_extractor.restore(values.float().cpu(), recordings)

    def _probabilities(self, logits: torch.Tensor | None, num_clips: int) -> list[np.ndarray | None]:
        if logits is None:
            return [None] * num_clips
        if not torch.isfinite(logits).all():
            raise ValueError(f"The emotion scores of {self.name} hold NaN or Inf: its weights may have diverged.")
        return list(logits[:, self._label_ids].float().softmax(-1).cpu().numpy())  # each (labels,)

    def _add_expert_use(
        self, answers: list[SystemAnswer], router_logits: dict[str, torch.Tensor], attention_mask: torch.Tensor
    ):
        for task, logits in router_logits.items():
            frame_mask = self.model._get_feature_vector_attention_mask(logits.shape[1], attention_mask)
            counts = count_routed_frames(logits, frame_mask).cpu().numpy()  # (clips, experts)
            for answer, count in zip(answers, counts, strict=True):
                answer.num_frames = int(count.sum())
                answer.expert_use[task] = count / count.sum()


def weights_sha256(model: str) -> str:
    """SHA-256 of a checkpoint's `model.safetensors`; `model` is a folder or a Hub id.

    Raises:
        OSError: there is no such checkpoint, or it has no `model.safetensors`.
    """
    with Path(cached_file(model, SAFE_WEIGHTS_NAME)).open("rb") as weights:
        return hashlib.file_digest(weights, "sha256").hexdigest()
