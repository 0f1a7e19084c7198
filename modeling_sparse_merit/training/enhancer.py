# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""
Trains an audio enhancer: `accelerate launch -m modeling_sparse_merit.training.enhancer CONFIG.yaml`.

CONFIG.yaml and the command line set the fields of `EnhancerSettings`. The model with the largest mean gain of SI-SDR
on the dev split is saved in OUTPUT_DIR/best, ready for `AudioEnhancerModel.from_pretrained`. A run that was stopped
resumes from its newest checkpoint when it is started again.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import Wav2Vec2FeatureExtractor

from ..data.mixing import SAMPLING_RATE
from ..fields import Positive, PositiveCount, checked_dataclass, names_of, require, unknown_names
from ..models.audio_enhancer.configuration_audio_enhancer import AudioEnhancerConfig
from ..models.audio_enhancer.modeling_audio_enhancer import AudioEnhancerModel
from .arguments import parse_fields
from .dataset import EpochSampler, MixedClips, decoded
from .records import sound_data
from .sounds import SoundTrainingSettings, callbacks, load_mixtures, start, waveform_extractor
from .trainer import ScoringTrainer, checkpoint_to_resume, run, training_arguments, write_best
from .validation import enhancement_scores


@checked_dataclass
class EnhancerSettings(SoundTrainingSettings):
    """
    Settings of a training of an audio enhancer, in addition to those of [`SoundTrainingSettings`]. `config` has fields
    of [`AudioEnhancerConfig`].

    Args:
        max_seconds: Training clips that are longer, in seconds, are cropped at a random position.
        mixtures: Mixtures of each recording in an epoch, each with its own crop and noise.

    Raises:
        ValueError: A field has a wrong value or contradicts another one; the message names it.
    """

    output_dir: str = "runs/enhancer"
    max_seconds: Positive = 4.0
    mixtures: PositiveCount = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "noise", self.noise, "at least one noise dataset")
        if unknown := unknown_names(map(str, self.config), names_of(AudioEnhancerConfig)):
            raise ValueError(f"`config` has fields that AudioEnhancerConfig lacks: {unknown}")


class EnhancerCollator:
    """
    Collates examples of [`MixedClips`] into arguments of the model.

    Args:
        feature_extractor: The feature extractor of the model.
    """

    def __init__(self, feature_extractor: Wav2Vec2FeatureExtractor):
        self.feature_extractor = feature_extractor

    def __call__(self, clips: Sequence[dict[str, Any] | None]) -> dict[str, torch.Tensor]:
        examples = decoded(clips)
        noisy = [example["noisy"] for example in examples]
        batch = self.feature_extractor(noisy, sampling_rate=SAMPLING_RATE, padding=True, return_tensors="pt")
        clean = [torch.from_numpy(example["clean"]) for example in examples]
        return {**batch, "clean_values": pad_sequence(clean, batch_first=True)}  # (B, S)


class EnhancerTrainer(ScoringTrainer):
    """A trainer that scores the dev split by SI-SDR and segmental SNR."""

    def rows(self, batch: dict[str, Any], outputs: Any) -> list[dict[str, Any]]:
        rows = []
        signals = batch["clean_values"], batch["input_values"], outputs.enhanced_values
        for place, length in enumerate(batch["attention_mask"].sum(-1).tolist()):
            clean, noisy, enhanced = (signal[place, :length].float().cpu().numpy() for signal in signals)
            rows.append({"loss": outputs.loss.item(), **enhancement_scores(clean, noisy, enhanced)})
        return rows

    def summarize(self, rows: list[dict[str, Any]]) -> dict[str, float]:
        """Means of the loss and of the scores; "score" is the gain of SI-SDR in dB."""
        means = {name: float(np.nanmean([row[name] for row in rows])) for name in rows[0]}
        return means | {"score": means["si_sdr_gain"]}


def main(arguments: list[str] | None = None) -> None:
    """Trains an enhancer. The arguments, by default those of the command line, are described at [`parse_fields`]."""
    description = "Trains an audio enhancer. CONFIG.yaml comes first, then what overrides it."
    settings = parse_fields(EnhancerSettings, arguments, description)
    checkpoint = checkpoint_to_resume(settings)
    start(settings)
    model, feature_extractor = AudioEnhancerModel(AudioEnhancerConfig(**settings.config)), waveform_extractor()
    train_clips = load_mixtures(settings, "train", max_seconds=settings.max_seconds)
    trainer = EnhancerTrainer(
        build_sampler(train_clips, settings),
        model=model,
        args=training_arguments(settings),
        train_dataset=train_clips,
        eval_dataset=load_mixtures(settings, "dev"),
        data_collator=EnhancerCollator(feature_extractor),
        callbacks=callbacks(settings, train_clips),
    )
    run(trainer, settings, checkpoint)
    if trainer.is_world_process_zero():
        write_best(
            trainer, trainer.accelerator.unwrap_model(trainer.model), feature_extractor, settings, sound_data(settings)
        )


def build_sampler(clips: MixedClips, settings: EnhancerSettings) -> EpochSampler:
    """
    Draws the mixtures of an epoch in random order.

    Args:
        clips: The training clips.
        settings: Settings of the run.
    """
    frequencies = np.full(len(clips), float(settings.mixtures))
    return EpochSampler(
        settings.per_device_train_batch_size, clips.lengths(), settings.seed, frequencies, order="random"
    )


if __name__ == "__main__":
    main()
