# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""What the trainings of an enhancer and of a classifier of sounds share: settings, mixtures, epochs."""

from dataclasses import field
from typing import Any, ClassVar, Literal

import torch
from transformers import (
    EarlyStoppingCallback,
    SchedulerType,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    Wav2Vec2FeatureExtractor,
)

from ..data.datasets import read_datasets
from ..data.high_pass import RandomHighPass
from ..data.mixing import SAMPLING_RATE, MixingRecipe
from ..fields import Count, Names, NonNegative, Positive, PositiveCount, Probability, checked_dataclass, require
from .dataset import MixedClips
from .settings import Entries, Range, YamlMapping
from .targets import Target
from .trainer import LogFile, start_logging


@checked_dataclass
class SoundTrainingSettings:
    """
    Settings that a training of an enhancer and one of a classifier share. Every field can be set in the YAML file and
    on the command line, which has precedence. Fields that [`TrainingSettings`] has too mean the same.

    Args:
        output_dir: Folder of the logs, the checkpoints and the result, `best`.
        resume: Continue from the newest checkpoint in `output_dir`, if there is one.
        seed: Seed of the initial weights, of the order of the clips and of their mixtures.
        config: Fields of the configuration of the model that differ from its defaults.
        data: Datasets of sounds: folders, files or Hub ids. The splits 'train' and 'dev' are used.
        noise: Noise datasets. The splits 'train' and 'dev' are used.
        snr_db: Range of the signal-to-noise ratio in dB.
        eval_snr_db: Range of the signal-to-noise ratio of the dev set in dB.
        high_pass: Range of the frequency in Hz, drawn for each clip, below which sounds are filtered out before they
            are mixed; null keeps all. Otherwise an enhancer learns to keep little but the rumble of a stethoscope,
            which has most of the energy of a recording.
        level_db: Range of the level of the sounds, RMS in dB relative to full scale; null keeps their own.
        noise_speed: Range of the speed factor of the noise.
        clean_probability: Share of the training clips without noise.
        dataloader_num_workers: Processes that decode and mix clips; 0 does so in the main process.
        epochs: Number of epochs.
        per_device_train_batch_size: Clips in a batch of each process, in training and in validation.
        gradient_accumulation_steps: Batches per optimizer step.
        learning_rate: Peak learning rate of AdamW.
        weight_decay: Weight decay of matrices; biases and norms have none.
        warmup_ratio: Share of the steps with a linear warm-up.
        lr_scheduler_type: Schedule of the learning rate after the warm-up.
        max_grad_norm: Norm to which gradients are clipped.
        mixed_precision: Precision of the forward pass; no is float32.
        patience: Epochs without a better score after which the training ends; 0 never ends it early.
        save_steps: Optimizer steps after which a checkpoint is written within an epoch; 0 writes none. There is always
            one at the end of each epoch.
        save_total_limit: Checkpoints to keep; older ones are deleted.

    Raises:
        ValueError: A field has a wrong value or contradicts another one; the message names it.
    """

    REQUIRED: ClassVar[tuple[str, ...]] = ("data", "noise")

    output_dir: str = "runs/sounds"
    resume: bool = True
    seed: Count = 0
    config: Entries = field(default_factory=YamlMapping)

    # Data
    data: Names = field(default_factory=list)
    noise: Names = field(default_factory=list)
    snr_db: Range = field(default_factory=lambda: [0.0, 15.0])
    eval_snr_db: Range = field(default_factory=lambda: [0.0, 15.0])
    high_pass: Range | None = None
    level_db: Range | None = None
    noise_speed: Range = field(default_factory=lambda: [1.0, 1.0])
    clean_probability: Probability = 0.0
    dataloader_num_workers: Count = 0

    # Optimization
    epochs: PositiveCount = 30
    per_device_train_batch_size: PositiveCount = 8
    gradient_accumulation_steps: PositiveCount = 1
    learning_rate: Positive = 5e-4
    weight_decay: NonNegative = 0.01
    warmup_ratio: Probability = 0.1
    lr_scheduler_type: SchedulerType = "cosine"  # type: ignore[assignment]  # `use_enum_values`
    max_grad_norm: Positive = 1.0
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    patience: Count = 0
    save_steps: Count = 0
    save_total_limit: PositiveCount = 2

    def __post_init__(self) -> None:
        require(self, "data", self.data, "at least one dataset")
        require(self, "high_pass", not self.high_pass or self.high_pass[0] > 0, "two numbers above 0, or null")


class EpochCallback(TrainerCallback):
    """
    Tells the training clips the epoch, for which their mixtures are drawn.

    Args:
        clips: The training clips.
    """

    def __init__(self, clips: MixedClips):
        self.clips = clips

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """As in `TrainerCallback`.

        Args:
            args, state, control, kwargs: As `Trainer` passes them.
        """
        self.clips.set_epoch(round(state.epoch or 0))


def start(settings: SoundTrainingSettings) -> None:
    """Prepares the process: logging, seed, and denormal numbers, which slow a CPU down, as 0."""
    start_logging()
    torch.set_flush_denormal(True)
    torch.manual_seed(settings.seed)


def callbacks(settings: SoundTrainingSettings, clips: MixedClips) -> list[TrainerCallback]:
    """
    The callbacks of a training.

    Args:
        settings: Settings of the run.
        clips: The training clips.
    """
    patience = [EarlyStoppingCallback(settings.patience)] if settings.patience else []
    return [LogFile(), EpochCallback(clips), *patience]


def load_mixtures(
    settings: SoundTrainingSettings,
    split: str,
    rows: list[int] | None = None,
    targets: list[dict[str, Target]] | None = None,
    max_seconds: float | None = None,
) -> MixedClips:
    """
    The sounds of one split in noise; without `noise`, as they are. Mixtures of any split but train are fixed.

    Args:
        settings: Settings of the run.
        split: Split of the datasets.
        rows: The rows to take; all by default.
        targets: {"label": class} of each of these rows.
        max_seconds: Longer training clips are cropped; None keeps them whole.

    Raises:
        DatasetError: A dataset is missing or lacks a column.
    """
    is_training = split == "train"
    sounds = read_datasets(settings.data, split=split)
    sounds = sounds if rows is None else sounds.select(rows)
    clean_probability = settings.clean_probability if is_training else 0.0
    low, high = settings.snr_db if is_training else settings.eval_snr_db
    speed = tuple(settings.noise_speed) if is_training else None
    recipe = MixingRecipe(
        read_datasets(settings.noise, split=split) if settings.noise else sounds,
        snr_db=(low, high),
        level_db=None if settings.level_db is None else (settings.level_db[0], settings.level_db[1]),
        augment=None if settings.high_pass is None else RandomHighPass(*settings.high_pass),
        noise_speed=None if speed is None else (speed[0], speed[1]),
        seed=settings.seed,
        clean_probability=clean_probability if settings.noise else 1.0,
    )
    targets = [{} for _ in range(len(sounds))] if targets is None else targets
    return MixedClips(sounds, recipe, targets, max_seconds if is_training else None, fixed=not is_training)


def waveform_extractor() -> Wav2Vec2FeatureExtractor:
    """The feature extractor of models that take waveforms as they are: it pads, and returns the mask."""
    return Wav2Vec2FeatureExtractor(sampling_rate=SAMPLING_RATE, do_normalize=False, return_attention_mask=True)
