# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Scores of the whole dev set: the metrics of each task by its kind, and the use of the experts."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from ..metrics.speech import segmental_snr, si_sdr
from ..metrics.tasks import clip_scores, selection_score
from ..models.sparse_merit.experts import count_routed_frames
from ..models.sparse_merit.modeling_sparse_merit import SparseMeritForSpeechEnhancementAndEmotion
from ..models.sparse_merit.tasks import EMOTION, ClassificationTask, Task
from .targets import batch_targets

EXPERT_USE = "expert_use/"


@torch.inference_mode()
def validate(
    accelerator: Accelerator, model: torch.nn.Module, loader: Any, tasks: Sequence[str] | None = None
) -> dict[str, float]:
    """
    Scores a model on a dev set.

    Args:
        accelerator: Gathers the clips of all processes.
        model: A [`SparseMeritForSpeechEnhancementAndEmotion`], in any wrapper.
        loader: Batches of a fixed dev set, prepared by the accelerator so that each clip is in one batch.
        tasks: Names of the tasks to score, all of the model's tasks by default.

    Returns:
        Mean losses; "si_sdr", "si_sdr_gain", "segmental_snr", "segmental_snr_gain" of the speech (dB, mean over
        clips); "macro_f1" and "uar" of the emotion over the labelled clips, if any; of any other task "TASK/SCORE",
        see [`clip_scores`]; "expert_use/TASK/I" (share of the task's frames for expert I).
    """
    model.eval()
    plain = accelerator.unwrap_model(model)
    plain = getattr(plain, "module", plain)  # inside the average of the weights
    tasks = list(tasks or plain.config.tasks)
    rows = []
    for batch in loader:
        outputs = model(**batch, tasks=tasks, output_router_logits=True)
        rows += _clip_rows(batch, outputs, plain, tasks)
    model.train()
    return summarize_clips(gather_object(rows), {name: plain.tasks[name] for name in tasks}, plain.config)


def selection(scores: dict[str, float], tasks: Mapping[str, Task], si_sdr_weight: float) -> float:
    """
    The score that selects a checkpoint: the mean over the tasks of their metrics (macro-F1, CCC or 1 - EER), plus
    `si_sdr_weight` times the SI-SDR gain in dB.

    Args:
        scores: As [`validate`] returns them.
        tasks: The tasks that were scored, by name.
        si_sdr_weight: Weight of one decibel.
    """
    clip_tasks = {name: task for name, task in tasks.items() if task.kind != "waveform"}
    values = [selection_score(task, _scores_of(name, scores)) for name, task in clip_tasks.items()]
    return sum(values) / max(1, len(values)) + si_sdr_weight * scores.get("si_sdr_gain", 0.0)


def _scores_of(name: str, scores: dict[str, float]) -> dict[str, float]:
    """The scores of one task without its name."""
    prefix = _prefix(name)
    return {key.removeprefix(prefix): value for key, value in scores.items() if key.startswith(prefix)}


def _prefix(name: str) -> str:
    return "" if name == EMOTION else f"{name}/"


def _clip_rows(
    batch: dict[str, Any], outputs: Any, model: SparseMeritForSpeechEnhancementAndEmotion, tasks: list[str]
) -> list[dict[str, Any]]:
    use = _expert_use(batch, outputs, model)
    rows = []
    for i, length in enumerate(batch["attention_mask"].sum(-1).tolist()):
        row = {f"loss_{name}": loss.item() for name, loss in outputs.losses.items()}
        row |= {name: counts[i].item() for name, counts in use.items()}
        for name in tasks:
            output, targets = outputs.of(name), batch_targets(batch, name)
            if output is None or targets is None:
                continue
            if model.tasks[name].kind == "waveform":
                values = (targets, batch["input_values"], output)
                row |= enhancement_scores(*(value[i, :length].float().cpu().numpy() for value in values))
            else:
                row[name] = predicted_pair(model.tasks[name], targets[i], output[i])
        rows.append(row)
    return rows


def predicted_pair(task: Task, target: torch.Tensor, output: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """
    Target and prediction of a clip, as [`summarize_clips`] takes them.

    Args:
        task: A task with one output per clip.
        target: Class, or ratings (K,).
        output: Logits (classes,), ratings (K,), or embedding (size,).
    """
    predicted = output.argmax(-1) if isinstance(task, ClassificationTask) else output.float()
    return target.cpu().numpy(), predicted.cpu().numpy()


def enhancement_scores(clean: np.ndarray, noisy: np.ndarray, enhanced: np.ndarray) -> dict[str, float]:
    """
    "si_sdr", "si_sdr_gain", "segmental_snr" and "segmental_snr_gain" of a clip, in dB.

    Args:
        clean, noisy, enhanced: (samples,) at 16 kHz.
    """
    scores = {}
    for name, measure in (("si_sdr", si_sdr), ("segmental_snr", segmental_snr)):
        scores[name] = measure(clean, enhanced)
        scores[f"{name}_gain"] = scores[name] - measure(clean, noisy)
    return scores


def _expert_use(
    batch: dict[str, Any], outputs: Any, model: SparseMeritForSpeechEnhancementAndEmotion
) -> dict[str, torch.Tensor]:
    """Frames of each clip that go to each expert, {"expert_use/TASK/I": (B,)}."""
    use: dict[str, torch.Tensor] = {}
    for task, logits in (outputs.router_logits or {}).items():
        frame_mask = model._get_feature_vector_attention_mask(logits.shape[1], batch["attention_mask"])
        counts = count_routed_frames(logits, frame_mask).unbind(-1)
        use |= {f"{EXPERT_USE}{task}/{expert}": count for expert, count in enumerate(counts)}
    return use


def summarize_clips(rows: list[dict[str, Any]], tasks: Mapping[str, Task], config: Any) -> dict[str, float]:
    """
    Scores of all clips: means of values, and the metrics of the tasks.

    Args:
        rows: For each clip, {name: value}, and {task: (target, prediction)} of tasks with one output per clip.
        tasks: The tasks by name.
        config: Configuration of the model.

    Returns:
        As [`validate`].
    """
    values = defaultdict(list)
    for row in rows:
        for name, value in row.items():
            values[name].append(value)
    pairs = {name: values.pop(name) for name in tasks if name in values}
    scores = {name: float(np.nanmean(values[name])) for name in values}
    for routed in {name.split("/")[1] for name in scores if name.startswith(EXPERT_USE)}:
        names = [name for name in scores if name.startswith(f"{EXPERT_USE}{routed}/")]
        total = sum(scores[name] for name in names)
        scores |= {name: scores[name] / total for name in names}
    for name, clips in pairs.items():
        task = tasks[name]
        classes = task.classes(config) if isinstance(task, ClassificationTask) else []
        targets, predictions = (np.stack(side) for side in zip(*clips, strict=True))
        metrics = clip_scores(task, targets, predictions, classes)
        scores |= {f"{_prefix(name)}{score}": value for score, value in metrics.items()}
    return scores
