# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""
Trains Sparse MERIT: `accelerate launch train_accelerate.py CONFIG.yaml [--field value ...]`.

CONFIG.yaml and the command line set the fields of `modeling_sparse_merit.training.settings.TrainingSettings`. The best
checkpoint, by macro-F1 + si_sdr_weight * SI-SDR gain on the whole dev set, ends up in OUTPUT_DIR/best, ready for
`from_pretrained`. A run that was stopped goes on from its newest checkpoint when it is started again.
"""

import json
import logging
import math
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from accelerate import Accelerator, DataLoaderConfiguration
from accelerate.utils import DistributedDataParallelKwargs, ProjectConfiguration, set_seed
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm.auto import tqdm

from modeling_sparse_merit.training import build, checkpoints, data
from modeling_sparse_merit.training.settings import TrainingSettings, parse_settings
from modeling_sparse_merit.training.validation import validate

logger = logging.getLogger("train_accelerate")


def main(arguments: list[str] | None = None) -> None:
    settings = parse_settings(arguments)
    accelerator = start(settings)

    train_clips, dev_clips = data.load_clips(settings, "train"), data.load_clips(settings, "dev")
    feature_extractor = build.build_feature_extractor(settings)
    model = build.build_model(settings, data.class_weights(train_clips.labels, settings.labels))
    train_loader = accelerator.prepare(data.build_loader(train_clips, feature_extractor, settings, shuffle=True))
    dev_loader = accelerator.prepare(data.build_loader(dev_clips, feature_extractor, settings, shuffle=False))

    run = Run(settings, accelerator, model, feature_extractor)
    for stage in build.stages(settings):
        run.train_stage(stage, train_loader, dev_loader)
    accelerator.end_training()


def start(settings: TrainingSettings) -> Accelerator:
    """The accelerator, with logs in `output_dir`."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    accelerator = Accelerator(
        mixed_precision=settings.mixed_precision,
        gradient_accumulation_steps=settings.gradient_accumulation_steps,
        log_with="tensorboard",
        project_config=ProjectConfiguration(settings.output_dir, logging_dir=f"{settings.output_dir}/tensorboard"),
        dataloader_config=DataLoaderConfiguration(even_batches=False),
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],  # WavLM's last norm has no use
    )
    if accelerator.is_main_process:
        Path(settings.output_dir).mkdir(parents=True, exist_ok=True)
        (Path(settings.output_dir) / "settings.json").write_text(
            json.dumps(asdict(settings), indent=2), encoding="utf-8"
        )
    accelerator.init_trackers("sparse_merit")
    set_seed(settings.seed, device_specific=True)
    return accelerator


class Run:
    """A training run: its model, its progress, and what is written on the way."""

    def __init__(self, settings: TrainingSettings, accelerator: Accelerator, model, feature_extractor):
        self.settings, self.accelerator = settings, accelerator
        self.model, self.feature_extractor = model, feature_extractor
        self.folder = Path(settings.output_dir)
        self.average = None
        if settings.average_decay:
            self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(settings.average_decay)).eval()
            self.average.to(accelerator.device)
        checkpoint = checkpoints.newest_checkpoint(self.folder) if settings.resume else None
        self.resume_from = checkpoint
        self.progress = checkpoints.load_progress(checkpoint) if checkpoint else checkpoints.Progress()
        if checkpoint:
            checkpoints.load_weights(checkpoint, model, self.average)

    def train_stage(self, stage: build.Stage, train_loader, dev_loader) -> None:
        """Trains the epochs of one stage that are not done yet."""
        last_epoch = stage.first_epoch + stage.epochs
        if self.progress.epoch >= last_epoch or self.stopped:
            return
        build.set_trainable(self.model, stage, self.settings.train_front_end)
        optimizer = build.build_optimizer(self.model, self.settings)
        steps = math.ceil(len(train_loader) / self.settings.gradient_accumulation_steps) * stage.epochs
        schedule = build.build_schedule(optimizer, self.settings, steps * self.accelerator.num_processes)
        model, optimizer, schedule = self.accelerator.prepare(self.model, optimizer, schedule)
        if self.resume_from is not None and self.progress.epoch > stage.first_epoch:
            self.accelerator.load_state(str(self.resume_from))  # optimizer and schedule, which are this stage's own
        while self.progress.epoch < last_epoch and not self.stopped:
            self.train_epoch(model, optimizer, schedule, train_loader)
            self.progress.epoch += 1
            self.finish_epoch(model, dev_loader, self.progress.epoch == last_epoch)
            if self.exhausted:
                logger.info("No better score for %d validations: the stage ends.", self.settings.patience)
                self.progress.epoch = last_epoch
        self.accelerator.free_memory(model, optimizer, schedule)
        self.resume_from = None

    def train_epoch(self, model, optimizer, schedule, loader) -> None:
        """One pass over the training clips."""
        model.train()
        loader.set_epoch(self.progress.epoch)
        # What is drawn in an epoch depends on its number alone, so a resumed run draws the same.
        set_seed(self.settings.seed + 1_000_003 * (self.progress.epoch + 1), device_specific=True)
        sums: dict[str, torch.Tensor] = {}
        batches = tqdm(loader, f"epoch {self.progress.epoch + 1}", disable=not self.accelerator.is_main_process)
        for batch in batches:
            with self.accelerator.accumulate(model):
                outputs = model(**batch)
                self.accelerator.backward(outputs.loss)
                if self.accelerator.sync_gradients:
                    norm = self.accelerator.clip_grad_norm_(model.parameters(), self.settings.max_grad_norm)
                    sums["gradient_norm"] = sums.get("gradient_norm", 0.0) + norm.detach()
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
            for name, loss in {"total": outputs.loss, **outputs.losses}.items():
                sums[name] = sums.get(name, 0.0) + loss.detach()
            if self.accelerator.sync_gradients:
                self.progress.step += 1
                if self.average is not None:
                    self.average.update_parameters(self.accelerator.unwrap_model(model))
            if self.stopped:
                break
        self.log({f"train/{name}": (value / len(loader)).item() for name, value in sums.items()})

    def finish_epoch(self, model, dev_loader, last: bool) -> None:
        """Validates where it is due, keeps the best model, writes the checkpoint to go on from."""
        if self.progress.epoch % self.settings.eval_every == 0 or last:
            validated = model if self.average is None else self.average
            scores = validate(self.accelerator, validated, dev_loader, len(self.settings.labels))
            score = scores.get("macro_f1", 0.0) + self.settings.si_sdr_weight * scores.get("si_sdr_gain", 0.0)
            self.log({f"dev/{name}": value for name, value in scores.items()} | {"dev/score": score})
            if self.progress.best_score is None or score > self.progress.best_score:
                self.progress.best_score, self.progress.best_epoch = score, self.progress.epoch
                self.save_best(validated, scores)
        checkpoints.save_checkpoint(
            self.accelerator, self.folder, self.progress, self.average, self.settings.keep_checkpoints
        )

    def save_best(self, model, scores: dict[str, float]) -> None:
        """Writes the model that was validated to `best`, whole or not at all."""
        if not self.accelerator.is_main_process:
            return
        partial = self.folder / "best.tmp"
        shutil.rmtree(partial, ignore_errors=True)
        plain = self.accelerator.unwrap_model(model)
        plain = plain.module if isinstance(plain, AveragedModel) else plain
        plain.save_pretrained(partial)
        if self.settings.lora_rank:
            plain.get_base_model().config.save_pretrained(partial)  # the labels, which adapters do not hold
        self.feature_extractor.save_pretrained(partial)
        results = {"epoch": self.progress.epoch, "step": self.progress.step, "dev": scores}
        (partial / "dev_results.json").write_text(json.dumps(results, indent=2), encoding="utf-8")
        checkpoints.replace_folder(partial, self.folder / "best")

    def log(self, values: dict[str, float]) -> None:
        """To the console, TensorBoard and `log.jsonl`."""
        self.accelerator.log(values, step=self.progress.step)
        if self.accelerator.is_main_process:
            entry = {"epoch": self.progress.epoch, "step": self.progress.step}
            entry |= {name: round(value, 5) for name, value in values.items()}
            logger.info(json.dumps(entry))
            with open(self.folder / "log.jsonl", "a", encoding="utf-8") as log:
                log.write(json.dumps(entry) + "\n")

    @property
    def stopped(self) -> bool:
        return bool(self.settings.max_steps) and self.progress.step >= self.settings.max_steps

    @property
    def exhausted(self) -> bool:
        waited = self.progress.epoch - (self.progress.best_epoch or 0)
        return bool(self.settings.patience) and waited >= self.settings.patience * self.settings.eval_every


if __name__ == "__main__":
    main()
