# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""What trainings by `transformers.Trainer` share: scores of the whole dev split, logs, resuming, the best model."""

import json
import logging
import sys
from abc import ABC, abstractmethod
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import logging as transformers_logging

from ..files import replacing_folder
from .dataset import EpochSampler
from .records import RecordedSettings, write_settings, write_training_data

logger = logging.getLogger("trainer")

SAME_NAMES = (
    *("output_dir", "seed", "dataloader_num_workers", "per_device_train_batch_size"),
    *("gradient_accumulation_steps", "learning_rate", "weight_decay", "lr_scheduler_type", "max_grad_norm"),
    "save_total_limit",
)
"""Settings that `TrainingArguments` has too."""


class TrainerSettings(RecordedSettings, Protocol):
    """Fields of the settings that a training by [`ScoringTrainer`] needs, besides `SAME_NAMES`."""

    output_dir: str
    resume: bool
    epochs: int
    per_device_train_batch_size: int
    warmup_ratio: float

    @property
    def mixed_precision(self) -> str: ...


class Saved(Protocol):
    """A part of a model that is written with it, such as a feature extractor or a processor."""

    def save_pretrained(self, save_directory: Any) -> Any:
        """Writes it to a folder."""


class ScoringTrainer(Trainer, ABC):
    """
    A `Trainer` that scores the whole dev split by measures of its own, and draws clips by an own sampler. A subclass
    implements `rows` and `summarize`.

    Args:
        sampler: Draws the clips of an epoch.
        arguments: As for `Trainer`.
    """

    def __init__(self, sampler: EpochSampler, **arguments: Any):
        super().__init__(**arguments)
        self.sampler = sampler

    @abstractmethod
    def rows(self, batch: dict[str, Any], outputs: Any) -> list[dict[str, Any]]:
        """
        What the scores need of each clip.

        Args:
            batch: Arguments of the model.
            outputs: Its outputs.
        """

    @abstractmethod
    def summarize(self, rows: list[dict[str, Any]]) -> dict[str, float]:
        """Scores of all clips, from their `rows`, with "score", which selects checkpoints."""

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochSampler:
        return self.sampler

    @torch.inference_mode()
    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """
        Scores of the dev split: "PREFIX_SCORE", as `summarize` gives them.

        Args:
            eval_dataset, ignore_keys, metric_key_prefix: As in `Trainer`.
        """
        assert self.model is not None
        model = self.model.eval()
        rows: list[dict[str, Any]] = []
        for batch in self.get_eval_dataloader(eval_dataset):
            with self.compute_loss_context_manager():
                outputs = model(**batch)
            rows += self.accelerator.gather_for_metrics(self.rows(batch, outputs), use_gather_object=True)
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in self.summarize(rows).items()}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class LogFile(TrainerCallback):
    """Writes what `Trainer` logs to `log.jsonl`, one line each."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """As in `TrainerCallback`.

        Args:
            args, state, control, logs, kwargs: As `Trainer` passes them.
        """
        if state.is_world_process_zero:
            assert args.output_dir is not None
            entry: dict[str, float] = {"epoch": round(state.epoch or 0), "step": state.global_step}
            for name, value in (logs or {}).items():
                if isinstance(value, float) and name != "epoch":
                    is_dev = name.startswith("eval_")
                    entry[f"dev/{name.removeprefix('eval_')}" if is_dev else f"train/{name}"] = round(value, 5)
            with open(Path(args.output_dir) / "log.jsonl", "a", encoding="utf-8") as log:
                log.write(json.dumps(entry) + "\n")


def start_logging() -> None:
    """Logs lines with their time, and shows bars on a terminal alone."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    if not sys.stderr.isatty():  # bars would fill a log
        transformers_logging.disable_progress_bar()


def training_arguments(settings: TrainerSettings) -> TrainingArguments:
    """The settings as `Trainer` takes them."""
    return TrainingArguments(
        **{name: getattr(settings, name) for name in SAME_NAMES},
        num_train_epochs=settings.epochs,
        per_device_eval_batch_size=settings.per_device_train_batch_size,
        warmup_steps=settings.warmup_ratio,  # below 1: a share of the steps
        bf16=settings.mixed_precision == "bf16",
        fp16=settings.mixed_precision == "fp16",
        eval_strategy="epoch",
        save_strategy="epoch",
        logging_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="eval_score",
        greater_is_better=True,
        remove_unused_columns=False,
        dataloader_pin_memory=torch.cuda.is_available(),
        ddp_find_unused_parameters=True,
        report_to=["tensorboard"],
        disable_tqdm=not sys.stderr.isatty(),
    )


def checkpoint_to_resume(settings: TrainerSettings) -> str | None:
    """
    The newest complete checkpoint of a run, None for a new one. If the run was stopped while it wrote a checkpoint,
    that one lacks the state of the trainer, which is written last.

    Raises:
        FileExistsError: There is one, and `resume` is false.
    """
    checkpoints = Path(settings.output_dir).glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    steps = {int(path.name.rpartition("-")[2]): str(path) for path in checkpoints if _is_complete(path)}
    checkpoint = steps[max(steps)] if steps else None
    if checkpoint and not settings.resume:
        raise FileExistsError(
            f"{checkpoint} belongs to an earlier run: give another output_dir, or resume it with --resume true."
        )
    return checkpoint


def _is_complete(checkpoint: Path) -> bool:
    try:
        TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    except (OSError, ValueError):
        return False
    return True


def run(trainer: ScoringTrainer, settings: TrainerSettings, checkpoint: str | None) -> None:
    """
    Writes `settings.json`, and trains.

    Args:
        trainer: The trainer.
        settings: Settings of the run.
        checkpoint: From [`checkpoint_to_resume`].
    """
    if trainer.is_world_process_zero():
        Path(settings.output_dir).mkdir(parents=True, exist_ok=True)
        stored = json.dumps(asdict(settings), indent=2)
        (Path(settings.output_dir) / "settings.json").write_text(stored, encoding="utf-8")
    trainer.train(resume_from_checkpoint=checkpoint)


def write_best(
    trainer: ScoringTrainer, model: Any, processor: Saved, settings: TrainerSettings, data: dict[str, Any]
) -> None:
    """
    Writes the best model to `best`, atomically, with its processor, its scores on the dev split, and the settings and
    the data of its training.

    Args:
        trainer: After its training, which has loaded the best weights.
        model: The model of the trainer, without wrappers.
        processor: Processor or feature extractor of the model.
        settings: Settings of the run.
        data: As [`training_data`] and the like return it.
    """
    history = trainer.state.log_history
    best = next(entry for entry in history if entry.get("eval_score") == trainer.state.best_metric)
    scores = {name.removeprefix("eval_"): value for name, value in best.items() if name.startswith("eval_")}
    output_dir = Path(settings.output_dir)
    with replacing_folder(output_dir / "best") as folder:
        model.save_pretrained(folder)
        processor.save_pretrained(folder)
        results = {"epoch": round(best["epoch"]), "step": best["step"], "dev": scores}
        (folder / "dev_results.json").write_text(json.dumps(results, indent=2), encoding="utf-8")
        write_settings(folder, settings)
        write_training_data(folder, data)
    logger.info("Best epoch: %d, score %.4f; saved in %s", results["epoch"], scores["score"], output_dir / "best")
