# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Scores of the whole dev set: macro-F1 and UAR of the emotion, segmental SNR and SI-SDR of the speech, expert use."""

from collections import defaultdict
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from ..metrics.emotion import macro_f1, unweighted_average_recall
from ..metrics.speech import segmental_snr, si_sdr
from ..models.sparse_merit.experts import count_routed_frames
from .dataset import UNLABELLED

EXPERT_USE = "expert_use/"


@torch.inference_mode()
def validate(
    accelerator: Accelerator, model: torch.nn.Module, loader: Any, num_labels: int, tasks: list[str] | None = None
) -> dict[str, float]:
    """
    Args:
        accelerator: Gathers the clips of all processes.
        model: A [`SparseMeritForSpeechEnhancementAndEmotion`], in any wrapper.
        loader: Batches of a fixed dev set, prepared by the accelerator so that each clip is in one batch.
        num_labels: Number of classes.
        tasks: What is scored, all of the model's tasks by default.

    Returns:
        Mean losses, "si_sdr", "si_sdr_gain", "segmental_snr", "segmental_snr_gain" (dB, mean over clips), "macro_f1"
        and "uar" (over the labelled clips, if any), "expert_use/TASK/I" (share of the task's frames for expert I).
    """
    model.eval()
    rows = []
    for batch in loader:
        outputs = model(**batch, tasks=tasks, output_router_logits=True)
        rows += _clip_rows(batch, outputs, accelerator.unwrap_model(model))
    model.train()
    return _summary(gather_object(rows), num_labels)


def _clip_rows(batch: dict[str, torch.Tensor], outputs: Any, model: torch.nn.Module) -> list[dict[str, Any]]:
    use = _expert_use(batch, outputs, model)
    rows = []
    for i, length in enumerate(batch["attention_mask"].sum(-1).tolist()):
        row = {"label": batch["labels"][i].item()}
        row |= {f"loss_{name}": loss.item() for name, loss in outputs.losses.items()}
        if outputs.logits is not None:
            row["prediction"] = outputs.logits[i].argmax(-1).item()
        if outputs.enhanced_values is not None:
            values = (batch["clean_values"], batch["input_values"], outputs.enhanced_values)
            row |= _speech_scores(*(value[i, :length].float().cpu().numpy() for value in values))
        rows.append(row | {name: counts[i].item() for name, counts in use.items()})
    return rows


def _speech_scores(clean: np.ndarray, noisy: np.ndarray, enhanced: np.ndarray) -> dict[str, float]:
    scores = {}
    for name, measure in (("si_sdr", si_sdr), ("segmental_snr", segmental_snr)):
        scores[name] = measure(clean, enhanced)
        scores[f"{name}_gain"] = scores[name] - measure(clean, noisy)
    return scores


def _expert_use(batch: dict[str, torch.Tensor], outputs: Any, model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Frames of each clip that go to each expert, {"expert_use/TASK/I": (B,)}."""
    plain = getattr(model, "module", model)  # out of the average of the weights
    use = {}
    for task, logits in (outputs.router_logits or {}).items():
        frame_mask = plain._get_feature_vector_attention_mask(logits.shape[1], batch["attention_mask"])
        counts = count_routed_frames(logits, frame_mask).unbind(-1)
        use |= {f"{EXPERT_USE}{task}/{expert}": count for expert, count in enumerate(counts)}
    return use


def _summary(rows: list[dict[str, Any]], num_labels: int) -> dict[str, float]:
    values = defaultdict(list)
    for row in rows:
        for name, value in row.items():
            values[name].append(value)
    scores = {name: float(np.nanmean(values[name])) for name in values if name not in ("label", "prediction")}
    for task in {name.split("/")[1] for name in scores if name.startswith(EXPERT_USE)}:
        names = [name for name in scores if name.startswith(f"{EXPERT_USE}{task}/")]
        total = sum(scores[name] for name in names)
        scores |= {name: scores[name] / total for name in names}
    labelled = [
        (row["label"], row["prediction"]) for row in rows if "prediction" in row and row["label"] != UNLABELLED
    ]
    if labelled:
        labels, predictions = zip(*labelled, strict=True)
        scores["macro_f1"] = macro_f1(labels, predictions, range(num_labels))
        scores["uar"] = unweighted_average_recall(labels, predictions, range(num_labels))
    return scores
