# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""
Trains a conversation model: `accelerate launch -m modeling_sparse_merit.training.conversation CONFIG.yaml`.

CONFIG.yaml and the command line set the fields of `ConversationSettings`. The model with the best score on the whole
dev split is saved in OUTPUT_DIR/SEED/best, ready for `from_pretrained`. A run that was stopped resumes from its newest
checkpoint when it is started again.
"""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, field, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed
from pydantic import Field
from torch import nn
from torch.utils.data import DataLoader
from transformers import SchedulerType, get_scheduler

from ..data.datasets import DatasetError, read_datasets
from ..data.prepare import warn_of_overlap
from ..fields import Count, Names, NonNegative, Positive, PositiveCount, Probability, checked_dataclass, require
from ..files import append_line, replacing_folder
from ..metrics.emotion import macro_f1, unweighted_average_recall, weighted_f1
from ..models.mister_e.configuration_mister_e import MisterEConfig
from ..models.mister_e.losses import UNLABELLED
from ..models.mister_e.modeling_mister_e import MisterEForConversationEmotion
from ..models.sparse_merit.modeling_sparse_merit import damaged_weights
from . import checkpoints
from .arguments import parse_fields
from .conversations import Conversation, collate, embedding_sizes, read_conversations
from .dataset import EpochSampler
from .ema import MovingAverage
from .interruption import write_errors
from .records import conversation_data, write_settings, write_training_data
from .settings import Entries, Fraction, YamlMapping
from .trainer import start_logging

logger = logging.getLogger("conversation")


@checked_dataclass
class ConversationSettings:
    """
    Settings of a training on conversations. Every field can be set in the YAML file and on the command line, which has
    precedence. Fields that [`TrainingSettings`] has too mean the same.

    Args:
        output_dir: Folder of the runs; each has a folder for its logs, its checkpoints and its result, `best`, which
            is named by its seed.
        resume: Continue from the newest checkpoint of each run, if there is one.
        seeds: Seeds of the initial weights and of the order of the conversations; one run for each.
        config: Fields of MisterEConfig that differ from the defaults. The sizes are those of the embeddings; a size of
            0 leaves a modality out.
        speech_model: Model that the speech embeddings are from, which is stored in the configuration.
        text_model: Model that the text embeddings are from.
        labels: Emotions to learn, as the datasets name them.
        data: Datasets with embeddings, as `sparse-merit embed` writes them. The splits 'train' and 'dev' are used.
        epochs: Number of epochs.
        per_device_train_batch_size: Conversations in a batch of each process.
        learning_rate: Peak learning rate of AdamW.
        weight_decay: Weight decay of matrices; vectors have none.
        warmup_ratio: Share of the steps with a linear warm-up.
        lr_scheduler_type: Schedule of the learning rate after the warm-up.
        max_grad_norm: Norm to which gradients are clipped.
        average_decay: Decay of an exponential moving average of the weights (EMA), which is then validated and saved;
            0 for none.
        choose_by: Score on the dev split that chooses the epoch.
        patience: Epochs without a better score after which the training ends; 0 never ends it early.
        save_total_limit: Checkpoints to keep; older ones are deleted.

    Raises:
        ValueError: A field has a wrong value; the message names it.
    """

    REQUIRED: ClassVar[tuple[str, ...]] = ("data",)

    output_dir: str = "runs/conversation"
    resume: bool = True
    seeds: Annotated[list[Count], Field(min_length=1), "a list of whole numbers"] = field(default_factory=lambda: [0])
    config: Entries = field(default_factory=YamlMapping)
    speech_model: str | None = None
    text_model: str | None = None

    # Labels and data
    labels: Annotated[Names, Field(min_length=1)] = field(default_factory=lambda: ["angry", "sad", "happy", "neutral"])
    data: Names = field(default_factory=list)

    # Optimization
    epochs: PositiveCount = 12
    per_device_train_batch_size: PositiveCount = 8
    learning_rate: Positive = 1e-3
    weight_decay: NonNegative = 0.01
    warmup_ratio: Probability = 0.1
    lr_scheduler_type: SchedulerType = "linear"  # type: ignore[assignment]  # `use_enum_values`
    max_grad_norm: Positive = 1.0
    average_decay: Fraction = 0.0
    choose_by: Literal["weighted_f1", "macro_f1"] = "weighted_f1"
    patience: Count = 0
    save_total_limit: PositiveCount = 2

    def __post_init__(self) -> None:
        require(self, "data", self.data, "at least one dataset")
        require(self, "seeds", len(set(self.seeds)) == len(self.seeds), "distinct seeds")


class Run:
    """
    A training run with one seed: its model, its progress, its checkpoints and its log.

    Args:
        settings: Settings of the run; `seeds` has one seed.
        accelerator: Of this process.
        splits: {"train" or "dev": conversations}.
        config: Configuration of the model.
        data: What `training_data.yaml` says.

    Raises:
        FileExistsError: The folder has a checkpoint, and `resume` is false.
    """

    def __init__(
        self,
        settings: ConversationSettings,
        accelerator: Accelerator,
        splits: dict[str, list[Conversation]],
        config: MisterEConfig,
        data: dict[str, Any],
    ):
        self.settings, self.accelerator, self.splits, self.data = settings, accelerator, splits, data
        (self.seed,) = settings.seeds
        self.folder = Path(settings.output_dir) / str(self.seed)
        self.resume_from = checkpoint = checkpoints.newest_checkpoint(self.folder)
        if checkpoint and not settings.resume:
            raise FileExistsError(
                f"{checkpoint} belongs to an earlier run: give another output_dir, or resume it with --resume true."
            )
        set_seed(self.seed)
        self.model = MisterEForConversationEmotion(config)
        self.average: MovingAverage | None = None
        if settings.average_decay:
            average = MovingAverage(self.model, settings.average_decay)  # type: ignore[arg-type]  # any module will do
            self.average = average.eval().to(accelerator.device)
        self.progress = checkpoints.load_progress(checkpoint) if checkpoint else checkpoints.Progress()
        if checkpoint:
            checkpoints.load_weights(checkpoint, self.model, self.average)

    def train(self) -> None:
        """
        Trains the epochs that are left.

        Raises:
            FloatingPointError: A loss or a weight is not finite.
            OutputError: Nothing more can be written, for example because the disk is full.
        """
        settings, accelerator = self.settings, self.accelerator
        loader = accelerator.prepare(self._train_loader())
        optimizer = build_optimizer(self.model, settings)
        steps = len(loader) * settings.epochs * accelerator.num_processes
        schedule = get_scheduler(settings.lr_scheduler_type, optimizer, round(settings.warmup_ratio * steps), steps)
        model, optimizer, schedule = accelerator.prepare(self.model, optimizer, schedule)
        if self.resume_from is not None:
            accelerator.load_state(str(self.resume_from))
        while self.progress.epoch < settings.epochs and not self._is_finished():
            loss = self._train_epoch(model, optimizer, schedule, loader)
            self.progress.epoch += 1
            self._validate(loss)
            checkpoints.save_checkpoint(
                accelerator, self.folder, self.progress, self.average, settings.save_total_limit
            )
        accelerator.free_memory(model, optimizer, schedule)

    def _train_loader(self) -> DataLoader:
        conversations, size = self.splits["train"], self.settings.per_device_train_batch_size
        lengths = [float(len(each)) for each in conversations]
        return DataLoader(
            conversations,  # type: ignore[arg-type]  # a list is as good as a `Dataset`
            size,
            sampler=EpochSampler(size, lengths, self.seed, order="random"),
            collate_fn=collate,
        )

    def _is_finished(self) -> bool:
        return bool(self.settings.patience) and self.progress.waited >= self.settings.patience

    def _train_epoch(self, model: nn.Module, optimizer: Any, schedule: Any, loader: Any) -> float:
        """Trains one epoch, and returns its mean loss."""
        loader.set_epoch(self.progress.epoch)
        # Random numbers of an epoch depend on its number alone, so a resumed run repeats them.
        set_seed(self.seed + 1_000_003 * (self.progress.epoch + 1), device_specific=True)
        model.train()
        losses = []
        for batch in loader:
            loss = model(**batch).loss
            self.accelerator.backward(loss)
            self.accelerator.clip_grad_norm_(model.parameters(), self.settings.max_grad_norm)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
            self.progress.step += 1
            if self.average is not None:
                self.average.update_parameters(self.accelerator.unwrap_model(model))
        mean = self.accelerator.reduce(torch.stack(losses).mean(), "mean").item()
        if not math.isfinite(mean) or damaged_weights(self.model.named_parameters()):
            raise FloatingPointError(
                f"A loss of epoch {self.progress.epoch + 1} or a weight after it is not finite. The newest checkpoint "
                f"is {self._newest()}. Use a smaller learning_rate."
            )
        return mean

    def _validate(self, loss: float) -> None:
        """Scores the model on the whole dev split, and saves it if it is the best so far."""
        model: Any = self.model if self.average is None else self.average.module
        scores = self._scores(model)
        self._log({"train/loss": loss, **{f"dev/{name}": value for name, value in scores.items()}})
        self.progress.waited += 1
        score = scores[self.settings.choose_by]
        if self.progress.best_score is None or score > self.progress.best_score:
            self.progress.best_score, self.progress.waited = score, 0
            self._save_best(model, scores)

    def _scores(self, model: MisterEForConversationEmotion) -> dict[str, float]:
        """Each process predicts its share of the dev split; the scores are those of all."""
        accelerator, dev = self.accelerator, self.splits["dev"]
        own = dev[accelerator.process_index :: accelerator.num_processes]
        predicted = predict(model, own, self.settings.per_device_train_batch_size)
        pairs = gather_object(
            [
                pair
                for each, classes in zip(own, predicted, strict=True)
                for pair in zip(each.labels.tolist(), classes, strict=True)
            ]
        )
        labels, classes = zip(*[pair for pair in pairs if pair[0] != UNLABELLED], strict=True)
        measures = {"weighted_f1": weighted_f1, "macro_f1": macro_f1, "uar": unweighted_average_recall}
        known = range(len(self.settings.labels))
        return {name: measure(labels, classes, known) for name, measure in measures.items()}

    def _save_best(self, model: MisterEForConversationEmotion, scores: dict[str, float]) -> None:
        if not self.accelerator.is_main_process:
            return
        best = self.folder / "best"
        with write_errors(best, self._newest), replacing_folder(best) as folder:
            model.save_pretrained(folder)
            results = {"epoch": self.progress.epoch, "step": self.progress.step, "dev": scores}
            (folder / "dev_results.json").write_text(json.dumps(results, indent=2), encoding="utf-8")
            write_settings(folder, self.settings)
            write_training_data(folder, self.data)

    def _log(self, values: dict[str, float]) -> None:
        if not self.accelerator.is_main_process:
            return
        entry: dict[str, float] = {"epoch": self.progress.epoch, "step": self.progress.step}
        entry |= {name: round(value, 5) for name, value in values.items()}
        logger.info(json.dumps(entry))
        self.folder.mkdir(parents=True, exist_ok=True)
        with write_errors(self.folder / "log.jsonl", self._newest):
            append_line(self.folder / "log.jsonl", json.dumps(entry))

    def _newest(self) -> Path | None:
        """The newest checkpoint."""
        return checkpoints.newest_checkpoint(self.folder)


def main(arguments: list[str] | None = None) -> None:
    """Trains a model for each seed. The arguments, by default those of the command line, are described at
    [`parse_fields`]."""
    description = "Trains a conversation model. CONFIG.yaml comes first, then what overrides it."
    settings = parse_fields(ConversationSettings, arguments, description)
    start_logging()
    train(settings)


def train(settings: ConversationSettings) -> None:
    """
    Trains a model for each seed.

    Args:
        settings: Settings of the runs.

    Raises:
        DatasetError: A dataset is missing, or its conversations cannot be used.
    """
    config = build_config(settings)
    splits = {split: load_conversations(settings, config, split) for split in ("train", "dev")}
    data = conversation_data(settings)
    accelerator = Accelerator()
    for seed in settings.seeds:
        run = Run(replace(settings, seeds=[seed]), accelerator, splits, config, data)
        if accelerator.is_main_process:
            run.folder.mkdir(parents=True, exist_ok=True)
            stored = json.dumps(asdict(run.settings), indent=2)
            (run.folder / "settings.json").write_text(stored, encoding="utf-8")
        run.train()
        logger.info("Seed %d: best %s on dev %.4f", seed, settings.choose_by, run.progress.best_score or math.nan)


def build_config(settings: ConversationSettings) -> MisterEConfig:
    """
    The configuration of the model, with the sizes of the embeddings.

    Args:
        settings: Settings of the run.

    Raises:
        ValueError: A size in `config` is neither that of the embeddings nor 0.
    """
    rows = read_datasets(settings.data, required=None)
    warn_of_overlap(rows, "dialogue")
    sizes = embedding_sizes(rows)
    for name, size in sizes.items():
        if settings.config.get(name, size) not in (0, size):
            raise ValueError(f"`config.{name}` is {settings.config[name]}; expected {size}, that of the data, or 0.")
    models = {name: getattr(settings, name) for name in ("speech_model", "text_model")}
    labels = {
        "id2label": dict(enumerate(settings.labels)),
        "label2id": {name: i for i, name in enumerate(settings.labels)},
    }
    return MisterEConfig(**{**sizes, **labels, **models, **settings.config})


def load_conversations(settings: ConversationSettings, config: MisterEConfig, split: str) -> list[Conversation]:
    """
    The conversations of one split.

    Args:
        settings: Settings of the run.
        config: Configuration of the model.
        split: The split.

    Raises:
        DatasetError: A dataset is missing, its conversations cannot be used, or none of them has a label.
    """
    rows = read_datasets(settings.data, split=split, required=None)
    conversations = read_conversations(rows, settings.labels, config.embedding_sizes)
    if not any((each.labels != UNLABELLED).any() for each in conversations):
        raise DatasetError(f"no utterance of the split {split!r} has one of the labels {settings.labels}")
    return conversations


def build_optimizer(model: nn.Module, settings: ConversationSettings) -> torch.optim.Optimizer:
    """
    AdamW, with weight decay for matrices alone.

    Args:
        model: The model.
        settings: Settings of the run.
    """
    matrices, vectors = ([each for each in model.parameters() if (each.ndim > 1) == wide] for wide in (True, False))
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, settings.learning_rate)


@torch.inference_mode()
def predict(
    model: MisterEForConversationEmotion, conversations: Sequence[Conversation], batch_size: int
) -> list[list[int]]:
    """
    The most probable class of each utterance.

    Args:
        model: The model.
        conversations: The conversations.
        batch_size: Conversations in a batch.

    Returns:
        Classes of each conversation.
    """
    model.eval()
    predicted = []
    for start in range(0, len(conversations), batch_size):
        some = conversations[start : start + batch_size]
        batch = {name: value.to(model.device) for name, value in collate(some).items() if name != "labels"}
        classes = model(**batch).logits.argmax(-1).tolist()  # (B, U)
        predicted += [own[: len(each)] for own, each in zip(classes, some, strict=True)]
    return predicted


if __name__ == "__main__":
    main()
