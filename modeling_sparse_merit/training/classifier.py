# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""
Trains a classifier of sounds: `accelerate launch -m modeling_sparse_merit.training.classifier CONFIG.yaml`.

CONFIG.yaml and the command line set the fields of `ClassifierSettings`. Without `noise`, the classifier is trained on
the sounds as they are; with it, on mixtures (noise injection); with `cleaned_by` too, on mixtures that an enhancer has
processed. The best model on the dev split is saved in OUTPUT_DIR/best. A run that was stopped resumes from its newest
checkpoint when it is started again.
"""

import warnings
from collections.abc import Sequence
from dataclasses import field
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field

from ..data.datasets import DatasetError, read_datasets
from ..data.labels import class_numbers, class_weights
from ..data.mixing import SAMPLING_RATE
from ..fields import Names, checked_dataclass, names_of, require, unknown_names
from ..inference.classifiers import load_classifier
from ..metrics import UndefinedScoreWarning, icbhi_score, macro_f1, unweighted_average_recall
from ..models.cnn14.configuration_cnn14 import Cnn14Config
from ..models.cnn14.modeling_cnn14 import Cnn14ForAudioClassification
from .arguments import parse_fields
from .cascade import Enhancement, build_enhancement
from .dataset import EpochSampler, MixedClips, class_frequencies, decoded
from .records import sound_data
from .settings import EQUAL_CLASSES
from .sounds import SoundTrainingSettings, callbacks, load_mixtures, start, waveform_extractor
from .trainer import ScoringTrainer, checkpoint_to_resume, run, training_arguments, write_best

LABEL = "label"


@checked_dataclass
class ClassifierSettings(SoundTrainingSettings):
    """
    Settings of a training of a classifier of sounds, in addition to those of [`SoundTrainingSettings`].

    Args:
        model: Checkpoint to fine-tune, any for `AutoModelForAudioClassification`: a folder or a Hub id. By default a
            new CNN14 is trained. `config` has fields of its configuration.
        cleaned_by: Enhancer that processes every mixture first, and stays frozen: the folder or Hub id of an
            [`AudioEnhancerModel`], or what [`TrainingSettings`] takes.
        label_column: Column of `data` with the labels.
        labels: Classes to learn, as the datasets name them. Clips with another label are left out.
        class_weights: Weights of the classes in the loss of CNN14.
        sampling: Clips of an epoch: natural (each once), class_balanced, oversampled or undersampled.
        choose_by: Score on the dev split that selects the checkpoint. icbhi_score takes the first of `labels` as
            normal, and the others as abnormal.

    Raises:
        ValueError: A field has a wrong value or contradicts another one; the message names it.
    """

    output_dir: str = "runs/classifier"
    model: str | None = None
    cleaned_by: str | None = None
    label_column: str = LABEL
    labels: Annotated[Names, Field(min_length=2)] = field(
        default_factory=lambda: ["normal", "crackle", "wheeze", "both"]
    )
    class_weights: Literal["inverse_frequency", "effective_number", "none"] = "none"
    sampling: Literal["natural", "class_balanced", "oversampled", "undersampled"] = "natural"
    choose_by: Literal["macro_f1", "icbhi_score"] = "macro_f1"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "cleaned_by", self.noise or not self.cleaned_by, "null, because there is no `noise` to remove")
        require(
            self,
            "class_weights",
            self.class_weights == "none" or (self.sampling == "natural" and not self.model),
            "none, since `sampling` balances the classes already, or `model` has a loss of its own",
        )
        if not self.model and (unknown := unknown_names(map(str, self.config), names_of(Cnn14Config))):
            raise ValueError(f"`config` has fields that Cnn14Config lacks: {unknown}")


class ClassifierCollator:
    """
    Collates examples of [`MixedClips`] into arguments of the model.

    Args:
        feature_extractor: The feature extractor of the model.
        enhance: Enhances the mixtures first; None leaves them as they are.
    """

    def __init__(self, feature_extractor: Any, enhance: Enhancement | None = None):
        self.feature_extractor, self.enhance = feature_extractor, enhance

    def __call__(self, clips: Sequence[dict[str, Any] | None]) -> dict[str, torch.Tensor]:
        examples = decoded(clips)
        sounds = [example["noisy"] for example in examples]
        sounds = sounds if self.enhance is None else self.enhance(sounds)
        batch = self.feature_extractor(sounds, sampling_rate=SAMPLING_RATE, padding=True, return_tensors="pt")
        return {**batch, "labels": torch.tensor([example["targets"][LABEL] for example in examples])}


class ClassifierTrainer(ScoringTrainer):
    """
    A trainer that scores the dev split by macro-F1, UAR and, if that selects checkpoints, the ICBHI score.

    Args:
        labels: The classes.
        choose_by: The score that selects checkpoints.
        sampler: Draws the clips of an epoch.
        arguments: As for `Trainer`.
    """

    def __init__(self, labels: list[str], choose_by: str, sampler: EpochSampler, **arguments: Any):
        super().__init__(sampler, **arguments)
        self.labels, self.choose_by = labels, choose_by

    def rows(self, batch: dict[str, Any], outputs: Any) -> list[dict[str, Any]]:
        loss, predicted = outputs.loss.item(), outputs.logits.argmax(-1).tolist()
        pairs = zip(batch["labels"].tolist(), predicted, strict=True)
        return [{"loss": loss, "label": label, "predicted": prediction} for label, prediction in pairs]

    def summarize(self, rows: list[dict[str, Any]]) -> dict[str, float]:
        """Mean loss and the scores; "score" is the chosen one, 0 where it is undefined."""
        loss, *columns = ([row[name] for row in rows] for name in ("loss", "label", "predicted"))
        labels, predicted = ([self.labels[index] for index in column] for column in columns)
        scores = {
            "loss": float(np.mean(loss)),
            "macro_f1": macro_f1(labels, predicted, self.labels),
            "uar": unweighted_average_recall(labels, predicted, self.labels),
        }
        if self.choose_by == "icbhi_score":
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UndefinedScoreWarning)
                icbhi = icbhi_score(labels, predicted, self.labels)
            scores |= {"icbhi_score": icbhi.pop("score"), **icbhi}
        return scores | {"score": float(np.nan_to_num(scores[self.choose_by]))}


def main(arguments: list[str] | None = None) -> None:
    """Trains a classifier. The arguments, by default those of the command line, are described at [`parse_fields`]."""
    description = "Trains a classifier of sounds. CONFIG.yaml comes first, then what overrides it."
    settings = parse_fields(ClassifierSettings, arguments, description)
    checkpoint = checkpoint_to_resume(settings)
    start(settings)
    (train_clips, labels), (dev_clips, _) = (load_clips(settings, split) for split in ("train", "dev"))
    is_weighted = settings.class_weights != "none"  # otherwise, a class may be without training clips
    weights = class_weights(labels, settings.labels, settings.class_weights) if is_weighted else None
    model, feature_extractor = build(settings, weights)
    enhance = build_enhancement(settings.cleaned_by, torch.device("cpu")) if settings.cleaned_by else None
    trainer = ClassifierTrainer(
        settings.labels,
        settings.choose_by,
        build_sampler(train_clips, labels, settings),
        model=model,
        args=training_arguments(settings),
        train_dataset=train_clips,
        eval_dataset=dev_clips,
        data_collator=ClassifierCollator(feature_extractor, enhance),
        callbacks=callbacks(settings, train_clips),
    )
    run(trainer, settings, checkpoint)
    if trainer.is_world_process_zero():
        write_best(
            trainer, trainer.accelerator.unwrap_model(trainer.model), feature_extractor, settings, sound_data(settings)
        )


def build(settings: ClassifierSettings, weights: list[float] | None) -> tuple[Any, Any]:
    """
    The model and its feature extractor.

    Args:
        settings: Settings of the run.
        weights: Weight of each class.
    """
    names = dict(enumerate(settings.labels))
    classes: dict[str, Any] = {"id2label": names, "label2id": {label: index for index, label in names.items()}}
    if settings.model is None:
        config = Cnn14Config(**classes, **{"class_weights": weights, **settings.config})
        return Cnn14ForAudioClassification(config), waveform_extractor()
    return load_classifier(settings.model, ignore_mismatched_sizes=True, **classes, **settings.config)


def load_clips(settings: ClassifierSettings, split: str) -> tuple[MixedClips, list[int]]:
    """
    The labelled clips of one split, and their classes.

    Args:
        settings: Settings of the run.
        split: Split of the datasets.

    Raises:
        DatasetError: A dataset is missing, lacks a column, or has no labelled clip.
    """
    rows = read_datasets(settings.data, split=split)
    if settings.label_column not in rows.features:
        raise DatasetError(
            f"{', '.join(settings.data)}: no column {settings.label_column!r} (`label_column`); the columns are "
            f"{', '.join(rows.column_names)}"
        )
    numbers = class_numbers(rows, settings.labels, settings.label_column)
    classes = [numbers.get(value) for value in rows[settings.label_column]]
    kept = [row for row, label in enumerate(classes) if label is not None]
    if not kept:
        raise DatasetError(f"no clip of the split {split!r} has one of the labels {settings.labels}")
    labels = [label for label in classes if label is not None]
    return load_mixtures(settings, split, kept, [{LABEL: label} for label in labels]), labels


def build_sampler(clips: MixedClips, labels: list[int], settings: ClassifierSettings) -> EpochSampler:
    """
    Draws the training clips in random order.

    Args:
        clips: The training clips.
        labels: Their classes.
        settings: Settings of the run.
    """
    classes = np.asarray(labels)
    return EpochSampler(
        settings.per_device_train_batch_size,
        clips.lengths(),
        settings.seed,
        None if settings.sampling == "natural" else class_frequencies(classes, settings.sampling),
        order="random",
        classes=classes if settings.sampling in EQUAL_CLASSES else None,
    )


if __name__ == "__main__":
    main()
