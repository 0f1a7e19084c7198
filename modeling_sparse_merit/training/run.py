# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""
Trains Sparse MERIT: `accelerate launch train_accelerate.py CONFIG.yaml [--field value ...]`.

CONFIG.yaml and the command line set the fields of `modeling_sparse_merit.training.settings.TrainingSettings`. The best
model on the dev set, by the mean metric of the tasks + si_sdr_weight * SI-SDR gain, is saved in OUTPUT_DIR/best, ready
for `from_pretrained`. A run that was stopped resumes from its newest checkpoint when it is started again.

A SIGTERM ends a run after the current step with a checkpoint and the exit status 143.
"""

import json
import logging
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import datasets
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.scheduler import AcceleratedScheduler
from accelerate.utils import DataLoaderConfiguration, DistributedDataParallelKwargs, ProjectConfiguration, set_seed
from peft import PeftModel
from torch import nn
from tqdm.auto import tqdm
from transformers.utils import logging as transformers_logging

from ..data.labels import class_weights
from ..files import append_line, replacing, replacing_folder
from ..models.sparse_merit.encoder import receptive_field
from ..models.sparse_merit.feature_extraction_sparse_merit import SparseMeritFeatureExtractor
from ..models.sparse_merit.tasks import EMOTION
from . import build, checkpoints, dataset
from .calibration import calibrate_fusion
from .cascade import CleanedLoader, build_enhancement
from .ema import MovingAverage
from .epochs import Sums, clips_of_batches, without_first
from .feature_cache import CachedLoader
from .interruption import INTERRUPTED, Interruption, write_errors
from .lora import TrainedModel, describe_adapters, save_adapters, without_adapters
from .pretraining import build_objective
from .records import training_data, write_settings, write_training_data
from .resuming import refuse_changes
from .settings import TrainingSettings, parse_settings
from .targets import add_classes, compares_clips, configured_tasks
from .validation import selection, validate

logger = logging.getLogger("train_accelerate")

CHECKED_STEPS = 16
"""Steps after which losses are checked."""


def main(arguments: list[str] | None = None) -> None:
    """Trains a model. The arguments, by default those of the command line, are described at [`parse_settings`]."""
    settings = parse_settings(arguments)
    add_classes(settings)
    accelerator = start(settings)

    feature_extractor = build.build_feature_extractor(settings)
    model = build.build_model(settings)
    tasks = configured_tasks(settings, without_adapters(model).tasks)
    train_clips, dev_clips = (dataset.load_clips(settings, split, tasks) for split in ("train", "dev"))
    if EMOTION in tasks:
        model.config.class_weights = class_weights(
            train_clips.labels, settings.labels, settings.class_weights, settings.class_weight_beta
        )
    if settings.descriptor_weight:
        assert isinstance(train_clips, dataset.MixedClips)  # `descriptor_weight` excludes `streaming`
        train_clips.add_descriptors(receptive_field(model.config))
    if settings.teacher:
        train_clips.add_teacher_values(build.load_feature_extractor(settings.teacher))
    batch_size = settings.batch_size(len(train_clips))
    compares = compares_clips(settings, tasks, batch_size * accelerator.num_processes)
    train_loader = accelerator.prepare(
        dataset.build_loader(train_clips, feature_extractor, settings, shuffle=True, compares_clips=compares)
    )
    accelerator.even_batches = False  # for the dev loader: a clip that fills up a batch would count twice
    dev_loader = accelerator.prepare(dataset.build_loader(dev_clips, feature_extractor, settings, shuffle=False))
    if settings.cleaned_by:
        enhance = build_enhancement(settings.cleaned_by, accelerator.device)
        train_loader = CleanedLoader(train_loader, enhance, feature_extractor, accelerator.device)
        dev_loader = CleanedLoader(dev_loader, enhance, feature_extractor, accelerator.device)

    run = Run(settings, accelerator, model, feature_extractor)
    if run.resume_from is None:
        if settings.calibration_batches:
            calibrate_fusion(accelerator, model, train_loader, settings.calibration_batches)
        run.balancing.calibrate(train_loader)
    with Interruption() as run.interruption:
        for stage in build.stages(settings):
            run.train_stage(stage, train_loader, dev_loader)
    run.announce_best()
    accelerator.end_training()


def start(settings: TrainingSettings) -> Accelerator:
    """
    Prepares the process: logging, seeds, and an accelerator that logs to `output_dir`.

    Raises:
        ValueError: `output_dir` holds a run with other settings.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("accelerate").setLevel(logging.WARNING)  # it logs every file of a checkpoint
    # Gradients of an LSTM become denormal numbers, which slow a CPU down several times. Threads that torch starts from
    # now on also treat them as 0.
    torch.set_flush_denormal(True)
    if not sys.stderr.isatty():  # bars would fill a log
        datasets.disable_progress_bars()
        transformers_logging.disable_progress_bar()
    accelerator = Accelerator(
        mixed_precision=settings.mixed_precision,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        log_with="tensorboard",
        dataloader_config=DataLoaderConfiguration(non_blocking=torch.cuda.is_available()),
        project_config=ProjectConfiguration(settings.output_dir, logging_dir=f"{settings.output_dir}/tensorboard"),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],  # WavLM's last norm has no use
    )
    if accelerator.is_main_process:
        refuse_changes(settings, checkpoints.newest_checkpoint(Path(settings.output_dir)))
        Path(settings.output_dir).mkdir(parents=True, exist_ok=True)
        with replacing(Path(settings.output_dir) / "settings.json") as temporary:
            temporary.write_text(json.dumps(asdict(settings), indent=2), encoding="utf-8")
    accelerator.init_trackers("sparse_merit")
    set_seed(settings.seed, device_specific=True)
    return accelerator


class Loader(Protocol):
    """The prepared batches of an epoch."""

    dataset: dataset.Clips

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[dict[str, Any]]: ...

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch that batches are drawn for."""


class Run:
    """
    A training run: its model, its progress, its checkpoints and its logs.

    Args:
        settings: Settings of the run.
        accelerator: As [`start`] returns it.
        model: The model, before it is prepared.
        feature_extractor: Its feature extractor, which is saved with it.

    Raises:
        FileExistsError: The folder has a checkpoint, and `resume` is false.
        ValueError: The checkpoint was written within an epoch of another number of processes.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        accelerator: Accelerator,
        model: TrainedModel,
        feature_extractor: SparseMeritFeatureExtractor,
    ):
        self.settings, self.accelerator = settings, accelerator
        self.model, self.feature_extractor = model, feature_extractor
        self.balancing = build_objective(settings, accelerator, model)
        self.folder = Path(settings.output_dir)
        self.data = training_data(settings, configured_tasks(settings, without_adapters(model).tasks))
        self.resume_from = checkpoint = checkpoints.newest_checkpoint(self.folder)
        if checkpoint and not settings.resume:
            raise FileExistsError(
                f"{checkpoint} belongs to an earlier run: give another output_dir, or resume it with --resume true."
            )
        self.interruption = Interruption()
        self.saved_at = time.monotonic()
        self.average = None
        if settings.average_decay:
            self.average = MovingAverage(model, settings.average_decay).eval().to(accelerator.device)
        self.progress = checkpoints.Progress(processes=accelerator.num_processes)
        if checkpoint:
            self.progress = checkpoints.load_progress(checkpoint)
        if checkpoint:
            processes = accelerator.num_processes
            if self.progress.batches and self.progress.processes != processes:
                raise ValueError(
                    f"{checkpoint} was written within an epoch of {self.progress.processes} processes; expected as "
                    f"many, not {processes}, or remove it to resume at the end of an epoch."
                )
            self.progress.processes = processes
            checkpoints.load_weights(checkpoint, model, self.average)
            self.balancing.load(checkpoint)

    def train_stage(self, stage: build.Stage, train_loader: Loader, dev_loader: Loader) -> None:
        """
        Trains the remaining epochs of one stage.

        Args:
            stage: The stage.
            train_loader: Prepared training batches.
            dev_loader: Prepared dev batches.

        Raises:
            OutputError: Nothing more can be written, for example because the disk is full.
            FloatingPointError: A loss or a gradient is not finite; the message names the clips.
            SystemExit: A SIGTERM ended the run; a checkpoint was written.
        """
        last_epoch, progress = stage.first_epoch + stage.epochs, self.progress
        validates = progress.to_validate and stage.first_epoch < progress.epoch <= last_epoch
        if not validates and (progress.epoch >= last_epoch or self.stopped):
            return
        only_tasks = self.settings.tasks or () if self.settings.freeze_experts else ()
        build.set_trainable(self.model, stage, self.settings.train_feature_encoder, only_tasks)
        optimizer = build.build_optimizer(self.model, self.settings, self.balancing.parameters())
        steps = math.ceil(len(train_loader) / self.settings.gradient_accumulation_steps) * stage.epochs
        schedule = build.build_schedule(optimizer, self.settings, steps * self.accelerator.num_processes)
        model, optimizer, schedule = self.accelerator.prepare(self.model, optimizer, schedule)
        self.balancing.prepare()
        if self.resume_from is not None and (progress.epoch > stage.first_epoch or progress.batches):
            self.accelerator.load_state(str(self.resume_from))  # optimizer and schedule, which are this stage's own
        if stage.encoder_frozen and (cache := self.settings.feature_cache):
            train_loader, dev_loader = self.cached(train_loader, Path(cache)), self.cached(dev_loader, Path(cache))
        if progress.epoch == stage.first_epoch and not progress.batches:
            progress.waited = 0
        while progress.to_validate or (progress.epoch < last_epoch and not self.stopped):
            if not progress.to_validate:
                build.set_training_mode(self.model, stage.encoder_frozen)
                self.log(self.train_epoch(model, optimizer, schedule, train_loader))
                progress.to_validate = (
                    progress.epoch % self.settings.eval_every == 0 or progress.epoch == last_epoch or self.stopped
                )
                self.save()
            if progress.to_validate:
                self.validate(model, dev_loader)
                progress.to_validate = False
                newest = self.folder / progress.checkpoint
                if self.settings.patience and progress.waited >= self.settings.patience:
                    logger.info("No better score for %d validations: the stage ends.", self.settings.patience)
                    progress.epoch = last_epoch
                if self.accelerator.is_main_process:
                    checkpoints.save_progress(newest, progress)
        self.accelerator.free_memory(model, optimizer, schedule)
        self.resume_from = None

    def cached(self, loader: Loader, folder: Path) -> CachedLoader:
        """
        Adds cached features of the frozen encoder, which is the same in all processes by now.

        Args:
            loader: The batches.
            folder: Folder of the features.
        """
        settings = self.settings
        dtype = settings.feature_cache_dtype and getattr(torch, settings.feature_cache_dtype)
        return CachedLoader(
            loader,
            self.model,
            self.feature_extractor,
            folder,
            self.accelerator,
            settings.feature_cache_rounds,
            dtype,
            loader.enhance.fingerprint if isinstance(loader, CleanedLoader) else None,
        )

    def train_epoch(
        self, model: nn.Module, optimizer: AcceleratedOptimizer, schedule: AcceleratedScheduler, loader: Loader
    ) -> dict[str, float]:
        """
        Trains one epoch, or the rest of one that was interrupted.

        Args:
            model, optimizer, schedule: As the accelerator has prepared them.
            loader: Prepared training batches.

        Returns:
            {"train/NAME": mean} of the losses and of the gradient norm.

        Raises:
            FloatingPointError, OutputError, SystemExit: As for `train_stage`.
        """
        progress = self.progress
        loader.set_epoch(progress.epoch)
        loader.dataset.set_epoch(progress.epoch)  # accelerate does not, on several processes
        # Random numbers of an epoch depend on its number alone, so a resumed run repeats them.
        set_seed(self.settings.seed + 1_000_003 * (progress.epoch + 1), device_specific=True)
        done = progress.batches
        sums = Sums(progress.sums if self.accelerator.is_main_process else {})
        batches = tqdm(
            without_first(loader, done) if done else loader,
            f"epoch {progress.epoch + 1}",
            total=len(loader),
            initial=done,
            disable=None if self.accelerator.is_main_process else True,
        )
        since_step, unchecked = done, []  # number of the first batch of a step; what `_check` takes
        for number, batch in enumerate(batches, start=done):
            if done and number == done and self.resume_from is not None:
                checkpoints.load_random_states(self.resume_from, self.accelerator)
            with self.accelerator.accumulate(model):
                outputs = self.balancing.through(model)(**batch, tasks=self.settings.tasks)
                loss = self.balancing.backward(outputs)
                if self.accelerator.sync_gradients:
                    self.balancing.finish(progress.step)
                    norm = self.accelerator.clip_grad_norm_(model.parameters(), self.settings.max_grad_norm)
                    sums.add("gradient_norm", norm)
                    losses = {name: each.detach() for name, each in {"total": loss, **outputs.losses}.items()}
                    # gradients in fp16 may be infinite: the step is then skipped, and their scale is reduced
                    tested = loss if self.settings.mixed_precision == "fp16" else norm + loss
                    unchecked.append((range(since_step, number + 1), torch.isfinite(tested.detach()), losses))
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            for name, value in {"total": loss, **outputs.losses, **self.balancing.report()}.items():
                sums.add(name, value)
            progress.batches = number + 1
            if self.accelerator.sync_gradients:
                since_step = number + 1
                progress.step += 1
                if len(unchecked) == CHECKED_STEPS:
                    self._check(unchecked, loader)
                if self.average is not None:
                    self.average.update_parameters(self.accelerator.unwrap_model(model))
                if number + 1 < len(loader) and not self.stopped and (ends := self._saves_now()) is not None:
                    self._check(unchecked, loader)
                    progress.sums = sums.gathered(self.accelerator)
                    self.save()
                    if ends:
                        self._end()
            if self.stopped:
                break
        self._check(unchecked, loader)
        means = {name: total / count for name, (total, count) in sums.gathered(self.accelerator).items()}
        progress.epoch, progress.batches, progress.sums = progress.epoch + 1, 0, {}
        if damaged := int(loader.dataset.damaged.sum()):
            means["damaged_clips"] = damaged
        return {f"train/{name}": mean for name, mean in means.items()}

    def save(self) -> None:
        """Writes a checkpoint; see `checkpoints.save_checkpoint`."""
        checkpoints.save_checkpoint(
            self.accelerator, self.folder, self.progress, self.average, self.settings.save_total_limit
        )
        self.saved_at = time.monotonic()

    def _saves_now(self) -> bool | None:
        """After a step: whether the run ends with a checkpoint, or goes on with one; None to go on without one."""
        every, minutes = self.settings.save_steps, self.settings.save_minutes
        due = bool(minutes) and time.monotonic() - self.saved_at >= 60 * minutes
        ends, due = self._on_any_process(self.interruption.requested, due)
        return ends if ends or due or (every and self.progress.step % every == 0) else None

    def _on_any_process(self, *facts: bool) -> list[bool]:
        """Which of some facts hold in at least one process."""
        if self.accelerator.num_processes == 1:
            return list(facts)
        counts = torch.tensor(facts, dtype=torch.float32, device=self.accelerator.device)
        return (self.accelerator.reduce(counts, "sum") > 0).tolist()

    def _end(self) -> None:
        """Ends the run after a SIGTERM; its newest checkpoint is complete."""
        logger.warning("SIGTERM: the run ends at %s, and resumes there when it is started again.", self.resume_point)
        self.accelerator.end_training()
        raise SystemExit(INTERRUPTED)

    @property
    def resume_point(self) -> Path | None:
        """The newest checkpoint of the run."""
        return checkpoints.newest_checkpoint(self.folder)

    def _check(self, steps: list[tuple[range, torch.Tensor, dict[str, torch.Tensor]]], loader: Loader) -> None:
        """
        Checks that losses and gradients of the last steps are finite: not after each step, which would wait for the
        device, but before each checkpoint.

        Args:
            steps: The numbers of the batches of each step, whether it is finite, and its losses; emptied.
            loader: The training batches.

        Raises:
            FloatingPointError: A step is not; the message names its clips.
        """
        flags = torch.stack([finite for _, finite, _ in steps]).tolist() if steps else []
        if all(flags):
            steps.clear()
            return
        place = flags.index(False)
        batches, _, losses = steps[place]
        values = ", ".join(f"{name} {value.item():.4g}" for name, value in losses.items())
        raise FloatingPointError(
            f"A loss or a gradient of step {self.progress.step - len(steps) + place + 1} (epoch "
            f"{self.progress.epoch + 1}) is not finite: {values}. Clips of this step: "
            f"{', '.join(clips_of_batches(loader, batches))}. The weights before it are kept: newest checkpoint "
            f"{self.resume_point}, best model {self.folder / 'best'}. Look at the clips, or use a smaller "
            "learning_rate or another mixed_precision."
        )

    def validate(self, model: nn.Module, dev_loader: Loader) -> None:
        """
        Scores the model, or the average of its weights, on the whole dev set, and saves it if it is the best so far.

        Args:
            model: The prepared model.
            dev_loader: Prepared dev batches.
        """
        model = model if self.average is None else self.average
        known = without_adapters(self.model).tasks
        tasks = {name: known[name] for name in self.settings.tasks or known}
        scores = validate(self.accelerator, model, self._until_interrupted(dev_loader), list(tasks))
        score = selection(scores, tasks, self.settings.si_sdr_weight)
        self.log({f"dev/{name}": value for name, value in scores.items()} | {"dev/score": score})
        self.progress.waited += 1
        if self.progress.best_score is None or score > self.progress.best_score:
            self.progress.best_score, self.progress.waited = score, 0
            self.save_best(model, scores)

    def _until_interrupted(self, loader: Loader) -> Iterator[dict[str, Any]]:
        """
        The batches of a validation, which a SIGTERM ends: it is repeated when the run resumes. Several processes,
        whose numbers of batches may differ, agree on it before the first batch alone.
        """
        if self._on_any_process(self.interruption.requested)[0]:
            self._end()
        for batch in loader:
            if self.interruption.requested and self.accelerator.num_processes == 1:
                self._end()
            yield batch

    def save_best(self, model: nn.Module, scores: dict[str, float]) -> None:
        """
        Writes a model to `best`, atomically.

        Args:
            model: The prepared model, or the average of its weights.
            scores: Its scores on the dev set, which are saved with it.
        """
        if not self.accelerator.is_main_process:
            return
        plain = self.accelerator.unwrap_model(model)
        plain = plain.module if isinstance(plain, MovingAverage) else plain
        best = self.folder / "best"
        with write_errors(best, lambda: self.resume_point), replacing_folder(best) as folder:
            if isinstance(plain, PeftModel):
                save_adapters(plain, folder)
            else:
                plain.save_pretrained(folder)
            self.feature_extractor.save_pretrained(folder)
            results = {"epoch": self.progress.epoch, "step": self.progress.step, "dev": scores}
            (folder / "dev_results.json").write_text(json.dumps(results, indent=2), encoding="utf-8")
            write_training_data(folder, self.data)
            if self.settings.lora_rank:
                describe_adapters(folder, self.settings)
            else:
                write_settings(folder, self.settings)

    def announce_best(self) -> None:
        """Logs which epoch was the best, its scores on the dev set, and the folder of its model."""
        best = self.folder / "best"
        if not self.accelerator.is_main_process or not (best / "dev_results.json").exists():
            return
        results = json.loads((best / "dev_results.json").read_text(encoding="utf-8"))
        named = {"score": self.progress.best_score, **results["dev"]}
        scores = ", ".join(
            f"{name} {named[name]:.3f}" for name in ("score", "macro_f1", "si_sdr_gain") if name in named
        )
        logger.info("Best epoch: %d of %d (dev: %s). Model: %s", results["epoch"], self.progress.epoch, scores, best)

    def log(self, values: dict[str, float]) -> None:
        """Logs values to the console, TensorBoard and `log.jsonl`."""
        self.accelerator.log(values, step=self.progress.step)
        if self.accelerator.is_main_process:
            entry: dict[str, float] = {"epoch": self.progress.epoch, "step": self.progress.step}
            entry |= {name: round(value, 5) for name, value in values.items()}
            logger.info(json.dumps(entry))
            with write_errors(self.folder / "log.jsonl", lambda: self.resume_point):
                append_line(self.folder / "log.jsonl", json.dumps(entry))

    @property
    def stopped(self) -> bool:
        """Whether the run has reached `max_steps`."""
        return bool(self.settings.max_steps) and self.progress.step >= self.settings.max_steps


if __name__ == "__main__":
    main()
