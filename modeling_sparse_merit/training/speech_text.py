# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""
Trains a model of speech and text: `accelerate launch -m modeling_sparse_merit.training.speech_text CONFIG.yaml`.

CONFIG.yaml and the command line set the fields of `SpeechTextSettings`. The model with the best mean metric of its
tasks on the whole dev split is saved in OUTPUT_DIR/best, ready for `from_pretrained`. A run that was stopped resumes
from its newest checkpoint when it is started again.
"""

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from pydantic import Field
from torch import nn
from transformers import EarlyStoppingCallback, SchedulerType

from ..data.datasets import DatasetError, read_datasets
from ..data.labels import class_weights
from ..fields import (
    Count,
    Names,
    NonNegative,
    Positive,
    PositiveCount,
    Probability,
    checked_dataclass,
    require,
)
from ..models.sparse_merit.configuration_speech_text import SPEECH, TEXT
from ..models.sparse_merit.modeling_speech_text import SpeechTextForEmotion
from ..models.sparse_merit.processing_speech_text import SpeechTextProcessor
from ..models.sparse_merit.sources import locate
from ..models.sparse_merit.tasks import EMOTION, Task
from .arguments import parse_fields
from .dataset import EpochSampler, class_frequencies
from .embeddings import EmbeddingFolder, embed_clips
from .records import speech_text_data
from .settings import EQUAL_CLASSES, Entries, Fraction, YamlMapping
from .speech_text_clips import ClipDataset, Collator
from .targets import Targets, add_classes, batch_targets, compares_clips, configured_tasks, has_target
from .trainer import LogFile, ScoringTrainer, checkpoint_to_resume, run, start_logging, training_arguments, write_best
from .validation import predicted_pair, selection, summarize_clips

TRAINED = {"text": (TEXT,), "speech": (SPEECH,), "fusion": (), "joint": (SPEECH, TEXT)}
"""Encoders that a stage trains."""


@checked_dataclass
class SpeechTextSettings:
    """
    Settings of a training of speech and text. Every field can be set in the YAML file and on the command line, which
    has precedence. Fields that [`TrainingSettings`] has too mean the same.

    Args:
        output_dir: Folder of the logs, the checkpoints and the result, `best`.
        resume: Continue from the newest checkpoint in `output_dir`, if there is one.
        seed: Seed of the initial weights and of the order of the clips.
        stage: text and speech train a model of one modality with its encoder; fusion trains the heads on the
            embeddings of two frozen encoders; joint trains everything. `freeze_speech` and `freeze_text` in `config`
            have precedence.
        speech_model: Sparse MERIT checkpoint, or model of a speech stage: a name, a folder or a Hub id.
        text_model: Text encoder of transformers, or model of a text stage: a folder or a Hub id.
        config: Fields of SpeechTextConfig that differ from the models or the defaults.
        task_columns: Columns of `data` that the tasks in `clip_tasks` learn from, {task: column or columns}.
        labels: Emotions to learn, as the datasets name them.
        class_weights: Weights of the classes in the emotion loss.
        class_weight_beta: Beta of `class_weights: effective_number`.
        sampling: Clips of an epoch: natural (each once), class_balanced, oversampled or undersampled.
        train_sampling_strategy: Order of the clips of an epoch: random, or group_by_length, where a batch has texts
            of similar length.
        data: Datasets: folders, files or Hub ids, with the columns `audio` and `text`, as the models need them. The
            splits 'train' and 'dev' are used. Clips without a target are left out.
        max_seconds: Training clips that are longer, in seconds, are cropped at a random position.
        embedding_cache: Folder for the embeddings of frozen encoders, in place of the memory.
        dataloader_num_workers: Processes that decode clips; 0 does so in the main process.
        epochs: Number of epochs.
        per_device_train_batch_size: Clips in a batch of each process, in training and in validation.
        gradient_accumulation_steps: Batches per optimizer step.
        learning_rate: Peak learning rate of AdamW.
        weight_decay: Weight decay of matrices; biases and norms have none.
        warmup_ratio: Share of the steps with a linear warm-up.
        lr_scheduler_type: Schedule of the learning rate after the warm-up.
        max_grad_norm: Norm to which gradients are clipped.
        mixed_precision: Precision of the forward pass; no is float32.
        lora_rank: Rank of adapters (LoRA) on the encoders that the stage trains, which are merged into `best`; 0
            trains the encoders themselves.
        lora_alpha: Scale of the adapters: they are multiplied by lora_alpha / lora_rank.
        lora_dropout: Dropout in front of the adapters.
        patience: Epochs without a better score after which the training ends; 0 never ends it early.
        save_steps: Optimizer steps after which a checkpoint is written within an epoch; 0 writes none. There is always
            one at the end of each epoch.
        save_total_limit: Checkpoints to keep; older ones are deleted.

    Raises:
        ValueError: A field has a wrong value or contradicts another one; the message names it.
    """

    RENAMED: ClassVar[dict[str, str]] = {"speech": "data"}
    REQUIRED: ClassVar[tuple[str, ...]] = ("stage", "data")

    output_dir: str = "runs/speech-text"
    resume: bool = True
    seed: Count = 0
    stage: Literal["text", "speech", "fusion", "joint"] = "fusion"
    speech_model: str | None = None
    text_model: str | None = None
    config: Entries = field(default_factory=YamlMapping)
    task_columns: Entries = field(default_factory=YamlMapping)

    # Labels and data
    labels: Annotated[Names, Field(min_length=1)] = field(default_factory=lambda: ["angry", "sad", "happy", "neutral"])
    class_weights: Literal["inverse_frequency", "effective_number", "none"] = "none"
    class_weight_beta: Annotated[float, Field(gt=0, lt=1), "a number between 0 and 1"] = 0.999
    sampling: Literal["natural", "class_balanced", "oversampled", "undersampled"] = "natural"
    train_sampling_strategy: Literal["group_by_length", "random"] = "random"
    data: Names = field(default_factory=list)
    max_seconds: Positive = 12.0
    embedding_cache: str | None = None
    dataloader_num_workers: Count = 0

    # Optimization
    epochs: PositiveCount = 10
    per_device_train_batch_size: PositiveCount = 32
    gradient_accumulation_steps: PositiveCount = 1
    learning_rate: Positive = 1e-3
    weight_decay: NonNegative = 0.01
    warmup_ratio: Probability = 0.1
    lr_scheduler_type: SchedulerType = "linear"  # type: ignore[assignment]  # `use_enum_values`
    max_grad_norm: Positive = 1.0
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    lora_rank: Count = 0
    lora_alpha: PositiveCount = 16
    lora_dropout: Fraction = 0.0
    patience: Count = 0
    save_steps: Count = 0
    save_total_limit: PositiveCount = 2

    def __post_init__(self) -> None:
        needed = {"text": ("text_model",), "speech": ("speech_model",)}.get(self.stage, ("speech_model", "text_model"))
        for name in ("speech_model", "text_model"):
            expected = f"a model, which the stage {self.stage} needs" if name in needed else "null"
            require(self, name, bool(getattr(self, name)) == (name in needed), expected)
        require(self, "data", self.data, "at least one dataset")
        by_length = self.train_sampling_strategy == "group_by_length"
        require(self, "train_sampling_strategy", self.stage == "text" or not by_length, "random, except for texts")
        require(self, "lora_rank", not self.lora_rank or TRAINED[self.stage], "0, since fusion trains no encoder")
        require(
            self,
            "class_weights",
            self.sampling == "natural" or self.class_weights == "none",
            f"none, since `sampling` {self.sampling} balances the classes already",
        )
        if self.lora_rank and self.config.get("modality_dropout"):
            raise ValueError(
                "`lora_rank` and `modality_dropout` are set; expected one of them: adapters leave the vectors of a "
                "missing modality untrained."
            )

    # What functions for `TrainingSettings` read
    @property
    def tasks(self) -> None:
        """All tasks of the model are trained."""

    @property
    def speech(self) -> list[str]:
        """The datasets."""
        return self.data

    @property
    def streaming(self) -> bool:
        """Datasets are not streamed."""
        return False


class SpeechTextTrainer(ScoringTrainer):
    """
    A trainer that scores the whole dev split by the metrics of the tasks.

    Args:
        tasks: The tasks by name.
        sampler: Draws the clips of an epoch.
        arguments: As for `Trainer`.
    """

    def __init__(self, tasks: Mapping[str, Task], sampler: EpochSampler, **arguments: Any):
        super().__init__(sampler, **arguments)
        self.tasks = tasks

    def rows(self, batch: dict[str, Any], outputs: Any) -> list[dict[str, Any]]:
        clips = len(next(iter(outputs.task_outputs.values())) if outputs.logits is None else outputs.logits)
        losses = {f"loss_{name}": loss.item() for name, loss in outputs.losses.items()}
        targets = {name: batch_targets(batch, name) for name in self.tasks}
        pairs = {name: (target, outputs.of(name)) for name, target in targets.items() if target is not None}

        def row(place: int) -> dict[str, Any]:
            return {
                name: predicted_pair(self.tasks[name], target[place], output[place])
                for name, (target, output) in pairs.items()
            }

        return [losses | row(place) for place in range(clips)]

    def summarize(self, rows: list[dict[str, Any]]) -> dict[str, float]:
        """Scores of the tasks, "TASK/SCORE"; "score" is the mean of their metrics."""
        scores = summarize_clips(rows, self.tasks, plain_model(self.model).config)
        return scores | {"score": selection(scores, self.tasks, si_sdr_weight=0.0)}


def main(arguments: list[str] | None = None) -> None:
    """Trains a model. The arguments, by default those of the command line, are described at [`parse_fields`]."""
    description = "Trains a model of speech and text. CONFIG.yaml comes first, then what overrides it."
    settings = parse_fields(SpeechTextSettings, arguments, description)
    start_logging()
    add_classes(settings)
    options = training_arguments(settings)
    checkpoint = checkpoint_to_resume(settings)
    torch.manual_seed(settings.seed)  # the heads
    model, processor = build(settings)
    tasks = configured_tasks(settings, model.tasks)
    train_clips, dev_clips = (load_clips(settings, split, tasks, model) for split in ("train", "dev"))
    compares_clips(settings, tasks, settings.per_device_train_batch_size * options.world_size)
    if EMOTION in tasks:
        model.config.class_weights = class_weights(
            train_clips.labels, settings.labels, settings.class_weights, settings.class_weight_beta
        )
    model.to(options.device)  # type: ignore[arg-type]  # transformers declares it wrongly
    for clips in (train_clips, dev_clips):
        embed_once(model, processor, clips, settings)
    trainer = SpeechTextTrainer(
        tasks,
        build_sampler(train_clips, settings),
        model=add_adapters(model, settings) if settings.lora_rank else model,
        args=options,
        train_dataset=train_clips,
        eval_dataset=dev_clips,
        data_collator=Collator(processor),
        callbacks=[LogFile(), *([EarlyStoppingCallback(settings.patience)] if settings.patience else [])],
    )
    run(trainer, settings, checkpoint)
    if trainer.is_world_process_zero():
        save_best(trainer, processor, settings)


def embed_once(
    model: SpeechTextForEmotion, processor: SpeechTextProcessor, clips: ClipDataset, settings: SpeechTextSettings
) -> None:
    """
    Gives clips their embeddings if all encoders are frozen.

    Args:
        model: The model, in whose device they are computed.
        processor: Its processor.
        clips: The clips.
        settings: Settings of the run, for `embedding_cache`.
    """
    if not any(parameter.requires_grad for encoder in encoders(model) for parameter in encoder.parameters()):
        cache = settings.embedding_cache
        folder = EmbeddingFolder(Path(cache), model, processor) if cache else None
        clips.embeddings = embed_clips(model, processor, clips, folder)


def build(settings: SpeechTextSettings) -> tuple[SpeechTextForEmotion, SpeechTextProcessor]:
    """The model, with encoders frozen as the stage says, and its processor."""
    speech = settings.speech_model and locate(settings.speech_model)
    frozen = {f"freeze_{name}": name not in TRAINED[settings.stage] for name in (SPEECH, TEXT)}
    fields = {**frozen, **settings.config}
    if EMOTION in fields.get("tasks", (EMOTION,)):
        fields["id2label"] = dict(enumerate(settings.labels))
        fields["label2id"] = {label: index for index, label in enumerate(settings.labels)}
    model = SpeechTextForEmotion.from_parts(speech, settings.text_model, **fields)
    return model, SpeechTextProcessor.from_parts(speech, settings.text_model)


def load_clips(
    settings: SpeechTextSettings, split: str, tasks: Mapping[str, Task], model: SpeechTextForEmotion
) -> ClipDataset:
    """
    The clips of one split that have a target.

    Args:
        settings: Settings of the run.
        split: The split.
        tasks: The tasks by name.
        model: The model, whose modalities are read.

    Raises:
        DatasetError: A dataset is missing, lacks a column, or has no clip with a target.
    """
    modalities = list(model.config.embedding_sizes)
    rows = read_datasets(settings.data, split=split, required="audio" if SPEECH in modalities else "text")
    reader = Targets(rows, tasks, settings.labels)
    targets = [reader.of(row) for row in rows.select_columns(reader.columns)]
    kept = [index for index, target in enumerate(targets) if has_target(target)]
    if not kept:
        raise DatasetError(f"no clip of the split {split!r} has a target of the tasks {list(tasks)}")
    seconds = settings.max_seconds if split == "train" else None
    return ClipDataset(rows.select(kept), [targets[index] for index in kept], modalities, seconds)


def build_sampler(clips: ClipDataset, settings: SpeechTextSettings) -> EpochSampler:
    """
    Draws the training clips.

    Args:
        clips: The training clips.
        settings: Settings of the run.
    """
    classes = np.asarray(clips.labels)
    frequencies = None if settings.sampling == "natural" else class_frequencies(classes, settings.sampling)
    by_length = settings.train_sampling_strategy == "group_by_length"
    return EpochSampler(
        settings.per_device_train_batch_size,
        [len(text or "") for text in clips.rows["text"]] if by_length else [1.0] * len(clips),
        settings.seed,
        frequencies,
        order=settings.train_sampling_strategy,
        classes=classes if settings.sampling in EQUAL_CLASSES else None,
    )


def add_adapters(model: SpeechTextForEmotion, settings: SpeechTextSettings) -> PeftModel:
    """
    Freezes the model except for its heads, and adds adapters to the encoders that the stage trains.

    Args:
        model: The model.
        settings: Settings of the run.
    """
    trained = [*TRAINED[settings.stage]]
    layers = {SPEECH: "speech.encoder.encoder.layers.", TEXT: "text."}
    targets = [
        name
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear) and any(name.startswith(layers[modality]) for modality in trained)
    ]
    poolings = [f"{name}_pooling" for name in trained if list(getattr(model, f"{name}_pooling").parameters())]
    adapters = LoraConfig(
        r=settings.lora_rank,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=targets,
        modules_to_save=[*(f"heads.{name}" for name in model.heads), *poolings],
    )
    return get_peft_model(model, adapters)


def encoders(model: SpeechTextForEmotion) -> list[nn.Module]:
    """The encoders of a model with their poolings."""
    modalities = model.config.embedding_sizes
    return [getattr(model, name) for modality in modalities for name in (modality, f"{modality}_pooling")]


def plain_model(model: Any) -> SpeechTextForEmotion:
    """The model itself: what adapters are added to, if it has any."""
    plain = model.get_base_model() if isinstance(model, PeftModel) else model
    assert isinstance(plain, SpeechTextForEmotion)
    return plain


def save_best(trainer: SpeechTextTrainer, processor: SpeechTextProcessor, settings: SpeechTextSettings) -> None:
    """
    Writes the best model to `best`, see [`write_best`]; adapters are merged into it.

    Args:
        trainer: After its training, which has loaded the best weights.
        processor: The processor of the model.
        settings: Settings of the run.
    """
    model: Any = trainer.accelerator.unwrap_model(trainer.model)
    if isinstance(model, PeftModel):
        model = model.merge_and_unload()
    write_best(trainer, model, processor, settings, speech_text_data(settings, trainer.tasks))


if __name__ == "__main__":
    main()
