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
from .data import UNLABELLED


@torch.inference_mode()
def validate(accelerator: Accelerator, model: torch.nn.Module, loader: Any, num_labels: int) -> dict[str, float]:
    """
    Args:
        accelerator: Gathers the clips of all processes, each clip once.
        model: A [`SparseMeritForSpeechEnhancementAndEmotion`], in any wrapper.
        loader: Batches of a fixed dev set, prepared by the accelerator.
        num_labels: Number of classes.

    Returns:
        Mean losses, "macro_f1", "uar", "si_sdr", "si_sdr_gain", "segmental_snr", "segmental_snr_gain" (dB, mean over
        clips), and "expert_use/TASK/I", the share of frames that the task gives to expert I.
    """
    model.eval()
    rows = []
    for batch in loader:
        outputs = model(**batch, output_router_logits=True)
        rows += _clip_rows(batch, outputs)
    model.train()
    rows = gather_object(rows)[: len(loader.dataset)]
    return _summary(rows, num_labels)


def _clip_rows(batch: dict[str, torch.Tensor], outputs: Any) -> list[dict[str, Any]]:
    lengths = batch["attention_mask"].sum(-1).tolist()
    rows = []
    for i, length in enumerate(lengths):
        row = {"label": batch["labels"][i].item()}
        row |= {f"loss_{name}": loss.item() for name, loss in outputs.losses.items()}
        if outputs.logits is not None:
            row["prediction"] = outputs.logits[i].argmax(-1).item()
        if outputs.enhanced_values is not None:
            values = (batch["clean_values"], batch["input_values"], outputs.enhanced_values)
            row |= _speech_scores(*(value[i, :length].float().cpu().numpy() for value in values))
        rows.append(row | _expert_use(outputs, i, length / batch["input_values"].shape[1]))
    return rows


def _speech_scores(clean: np.ndarray, noisy: np.ndarray, enhanced: np.ndarray) -> dict[str, float]:
    scores = {}
    for name, measure in (("si_sdr", si_sdr), ("segmental_snr", segmental_snr)):
        scores[name] = measure(clean, enhanced)
        scores[f"{name}_gain"] = scores[name] - measure(clean, noisy)
    return scores


def _expert_use(outputs: Any, clip: int, valid: float) -> dict[str, float]:
    use = {}
    for task, logits in (outputs.router_logits or {}).items():
        chosen = logits[clip, : max(1, int(valid * logits.shape[1]))].argmax(-1)  # (T,)
        share = torch.bincount(chosen, minlength=logits.shape[-1]) / len(chosen)
        use |= {f"expert_use/{task}/{expert}": value for expert, value in enumerate(share.tolist())}
    return use


def _summary(rows: list[dict[str, Any]], num_labels: int) -> dict[str, float]:
    values = defaultdict(list)
    for row in rows:
        for name, value in row.items():
            values[name].append(value)
    scores = {name: float(np.nanmean(values[name])) for name in values if name not in ("label", "prediction")}
    if "prediction" in values:
        labelled = [(row["label"], row["prediction"]) for row in rows if row["label"] != UNLABELLED]
        labels, predictions = zip(*labelled, strict=True)
        scores["macro_f1"] = macro_f1(labels, predictions, range(num_labels))
        scores["uar"] = unweighted_average_recall(labels, predictions, range(num_labels))
    return scores
