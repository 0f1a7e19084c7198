# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Acoustic descriptors of the clean speech as a target of pre-training. An encoder that predicts them from a noisy
mixture, frame by frame, generalises better to other speakers (PASE, Pascual et al., Interspeech 2019, and PASE+,
Ravanelli et al., ICASSP 2020, use other descriptors).

The column `descriptors` of the speech datasets (`sparse-merit prepare descriptors`) has 22 of them, in 100 frames per
second. Those of the voice itself (pitch, harmonicity, formants) are defined in voiced frames only.
"""

import numpy as np
import torch
from datasets import Dataset
from torch import nn
from torch.nn import functional as F

from ..models.sparse_merit.processes import shared_count

DESCRIPTORS = 22
PITCH = 10  # columns before it hold in every frame; it and those after it in voiced frames, where it is above 0
TARGETS = DESCRIPTORS + 1  # the last one is whether the frame is voiced
HOP = 160  # samples between descriptor frames
LIMIT = 4.0
VOICING_WEIGHT = 0.3


class DescriptorHead(nn.Linear):
    """Predicts standardised descriptors and a logit of voicing: (B, T, hidden_size) -> (B, T, 23)."""

    def __init__(self, hidden_size: int):
        super().__init__(hidden_size, TARGETS)


class DescriptorTargets:
    """Turns the descriptors of a clip into targets for its encoder frames.

    Each descriptor is standardised by the mean and the standard deviation of its values between the 1st and the 99th
    percentile, over the frames in which it is defined, and clipped at +-4.

    Args:
        speech: The training rows, with a column `descriptors`; rows where it is None are skipped.
        max_rows: The statistics use at most this many rows, drawn at random.
        seed: Seed of that draw.

    Attributes:
        mean, std: float32 (22,).

    Raises:
        ValueError: There is no column `descriptors`, or it has no voiced frame.
    """

    def __init__(self, speech: Dataset, max_rows: int = 2000, seed: int = 0):
        if "descriptors" not in speech.column_names:
            raise ValueError(
                f"The speech datasets have no column `descriptors`, only {', '.join(speech.column_names)}. Add one "
                "with `sparse-merit prepare descriptors SPEECH OUT`."
            )
        self.mean, self.std = _statistics(_some_frames(speech, max_rows, seed))

    def targets(
        self,
        descriptors: np.ndarray | list[list[float]] | None,
        num_frames: int,
        offset_samples: int = 0,
        receptive_field: int = 400,
        stride: int = 320,
    ) -> np.ndarray:
        """The targets of the encoder frames of a clip: 22 standardised descriptors, and 1.0 in voiced frames or 0.0.

        Encoder frame t is centred at sample `offset_samples + t * stride + receptive_field / 2` of the recording. It
        gets the descriptor frame with the nearest centre, (k + 1) * 160 (the earlier of two); beyond the last one, the
        last one is repeated.

        Args:
            descriptors: (K, 22) of the whole recording. None, or K = 0, gives NaN, which the loss ignores.
            num_frames: Encoder frames of the clip.
            offset_samples: Sample of the recording that the clip starts at.
            receptive_field: Samples that an encoder frame spans.
            stride: Samples between encoder frames.

        Returns:
            float32 (num_frames, 23).
        """
        if descriptors is None or len(descriptors) == 0:
            return np.full((num_frames, TARGETS), np.nan, np.float32)
        doubled_centres = 2 * (offset_samples + stride * np.arange(num_frames)) + receptive_field  # whole numbers
        nearest = -((HOP - doubled_centres) // (2 * HOP)) - 1  # rounded half down
        frames = np.asarray(descriptors)[nearest.clip(0, len(descriptors) - 1)].astype(np.float32)  # (num_frames, 22)
        standardised = ((frames - self.mean) / self.std).clip(-LIMIT, LIMIT)
        return np.concatenate([standardised, frames[:, PITCH : PITCH + 1] > 0], axis=1, dtype=np.float32)


def descriptor_frames(speech: Dataset, row: int) -> np.ndarray | None:
    """
    The descriptors of one row.

    Args:
        speech: A dataset with a column `descriptors`.
        row: Number of the row.

    Returns:
        float16 (K, 22), or None if the row has none.

    Raises:
        ValueError: A frame has another number of descriptors, as in a dataset of another version.
    """
    cell = speech.with_format("arrow")[row]["descriptors"].combine_chunks()
    if cell.null_count:
        return None
    frames = cell.flatten()  # (K,) lists
    values = frames.flatten().to_numpy(zero_copy_only=False)
    if len(values) != len(frames) * DESCRIPTORS:
        raise ValueError(
            f"Row {row} has {len(values)} descriptors in {len(frames)} frames; expected {DESCRIPTORS} a frame: run "
            "`sparse-merit prepare descriptors` again."
        )
    return values.reshape(-1, DESCRIPTORS)  # (K, 22)


def descriptor_loss(predicted: torch.Tensor, targets: torch.Tensor, frame_mask: torch.Tensor) -> torch.Tensor:
    """The error of predicted descriptors:

        loss = 1/22 * sum_j 1/n_j * sum_(frames where j holds) smooth_l1(predicted_j, target_j)
               + 0.3 * 1/n * sum_(frames) binary_cross_entropy(sigmoid(predicted_22), voiced)

    The first ten descriptors are defined in all n valid frames (n_j = n), the others in voiced ones. Each is averaged
    over its own frames of the whole batch, so that all descriptors have the same weight.

    Args:
        predicted: (B, T, 23), the last one a logit.
        targets: (B, T, 23) of `DescriptorTargets.targets`; frames of NaN are ignored.
        frame_mask: (B, T), true or 1 in frames that are not padding.

    Returns:
        A scalar, float32; 0 if no frame is valid.
    """
    predicted = predicted.float()
    valid = frame_mask.bool() & targets[..., DESCRIPTORS].isfinite()  # (B, T)
    targets = targets.float().nan_to_num()
    voiced = valid & (targets[..., DESCRIPTORS] > 0.5)  # (B, T)
    holds = torch.stack([valid] * PITCH + [voiced] * (DESCRIPTORS - PITCH), dim=-1)  # (B, T, 22)
    errors = F.smooth_l1_loss(predicted[..., :DESCRIPTORS], targets[..., :DESCRIPTORS], reduction="none") * holds
    means = errors.sum((0, 1)) / shared_count(holds.sum((0, 1)))  # (22,)
    voicing = F.binary_cross_entropy_with_logits(
        predicted[..., DESCRIPTORS], targets[..., DESCRIPTORS], reduction="none"
    )
    return means.mean() + VOICING_WEIGHT * (voicing * valid).sum() / shared_count(valid.sum())


def _some_frames(speech: Dataset, max_rows: int, seed: int) -> np.ndarray:
    """The concatenated descriptors of some rows: float32 (frames, 22)."""
    column, frames = speech.select_columns("descriptors"), [np.empty((0, DESCRIPTORS), np.float32)]
    for row in np.random.default_rng(seed).permutation(len(speech)).tolist():
        descriptors = descriptor_frames(column, row)
        if descriptors is not None:
            frames.append(descriptors.astype(np.float32))
        if len(frames) > max_rows:
            break
    every = np.concatenate(frames)
    if not (every[:, PITCH] > 0).any():
        raise ValueError(
            f"None of the {len(speech)} training rows has descriptors with a voiced frame. Add them with "
            "`sparse-merit prepare descriptors SPEECH OUT`."
        )
    return every


def _statistics(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each descriptor, without its extremes: float32 (22,) both."""
    voiced, mean, std = frames[:, PITCH] > 0, np.zeros(DESCRIPTORS), np.ones(DESCRIPTORS)
    for column in range(DESCRIPTORS):
        values = frames[voiced, column] if column >= PITCH else frames[:, column]
        low, high = np.percentile(values, [1, 99])
        values = values[(values >= low) & (values <= high)].astype(np.float64)
        mean[column], std[column] = values.mean(), values.std() + 1e-6
    return mean.astype(np.float32), std.astype(np.float32)
