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

from ..files import replacing, replacing_folder
from .dataset import EpochSampler
from .interruption import INTERRUPTED, Interruption, write_errors
from .records import RecordedSettings, write_settings, write_training_data
from .resuming import refuse_changes

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
    save_steps: int
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

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """
        As in `Trainer`.

        Args:
            args, kwargs: As in `Trainer`.

        Raises:
            FloatingPointError: The loss is not finite.
        """
        loss = super().training_step(*args, **kwargs)
        if not torch.isfinite(loss):
            kept = newest_checkpoint(Path(self.args.output_dir or "."))
            raise FloatingPointError(
                f"The loss of step {self.state.global_step + 1} is {loss.item()}. The newest checkpoint is "
                f"{kept or 'none'}. Check the recordings, or give a lower learning_rate and another output_dir."
            )
        return loss

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


class Checkpoints(TrainerCallback):
    """
    Asks `Trainer` for checkpoints within an epoch; it writes the others at the ends of epochs, after the validation.

    Args:
        save_steps: Steps between two of them; 0 for none.
        interruption: Ends the training with a checkpoint when it is requested.
    """

    def __init__(self, save_steps: int, interruption: Interruption):
        self.save_steps, self.interruption = save_steps, interruption

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """As in `TrainerCallback`.

        Args:
            args, state, control, kwargs: As `Trainer` passes them.
        """
        if _is_within_epoch(state):
            is_due = bool(self.save_steps) and state.global_step % self.save_steps == 0
            control.should_save = control.should_save or is_due or self.interruption.requested
            control.should_training_stop = control.should_training_stop or self.interruption.requested
        return control

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> TrainerControl:
        """As in `TrainerCallback`.

        Args:
            args, state, control, kwargs: As `Trainer` passes them.
        """
        if self.interruption.requested:
            control.should_training_stop = True
            if _is_within_epoch(state):  # its checkpoint is written
                control.should_save = control.should_evaluate = False
        return control


def _is_within_epoch(state: TrainerState) -> bool:
    """Whether the last step was not the last one of its epoch."""
    return not float(state.epoch or 0).is_integer()


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
        logging_nan_inf_filter=False,  # `training_step` refuses such losses
        report_to=["tensorboard"],
        disable_tqdm=not sys.stderr.isatty(),
    )


def checkpoint_to_resume(settings: TrainerSettings) -> str | None:
    """
    The newest complete checkpoint of a run, None for a new one.

    Raises:
        FileExistsError: There is one, and `resume` is false.
        ValueError: There is one of a run with other settings; the message names them.
    """
    checkpoint = newest_checkpoint(Path(settings.output_dir))
    if checkpoint is None:
        return None
    if not settings.resume:
        raise FileExistsError(
            f"{checkpoint} belongs to an earlier run: give another output_dir, or resume it with --resume true."
        )
    refuse_changes(settings, checkpoint)
    return str(checkpoint)


def newest_checkpoint(folder: Path) -> Path | None:
    """
    The newest complete checkpoint in the folder of a run. If the run was stopped while it wrote one, that one lacks
    the state of the trainer, which is written last.

    Args:
        folder: Folder of the run.
    """
    checkpoints = folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*")
    steps = {int(path.name.rpartition("-")[2]): path for path in checkpoints if _is_complete(path)}
    return steps[max(steps)] if steps else None


def _is_complete(checkpoint: Path) -> bool:
    try:
        TrainerState.load_from_json(str(checkpoint / TRAINER_STATE_NAME))
    except (OSError, ValueError):
        return False
    return True


def run(trainer: ScoringTrainer, settings: TrainerSettings, checkpoint: str | None) -> None:
    """
    Writes `settings.json`, and trains. A SIGTERM ends the training with a checkpoint.

    Args:
        trainer: The trainer.
        settings: Settings of the run.
        checkpoint: From [`checkpoint_to_resume`].

    Raises:
        OutputError: Nothing more can be written, for example because the disk is full.
        SystemExit: A SIGTERM ended the training; the exit status is [`INTERRUPTED`].
    """
    folder = Path(settings.output_dir)
    with write_errors(folder, lambda: newest_checkpoint(folder)):
        if trainer.is_world_process_zero():
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(folder / "settings.json") as temporary:
                temporary.write_text(json.dumps(asdict(settings), indent=2), encoding="utf-8")
        with Interruption() as interruption:
            trainer.add_callback(Checkpoints(settings.save_steps, interruption))
            trainer.train(resume_from_checkpoint=checkpoint)
            if interruption.requested:
                logger.info("A SIGTERM ended the training; the same command resumes it.")
                raise SystemExit(INTERRUPTED)


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
