# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""
Speed of training and of its parts: `python -m benchmarks.training`, in less than four minutes on two cores.

The step of both stages on two layouts (log-mel bands and three layers of 128, and a WavLM of six layers of 512, random
weights), frozen with and without a graph in the encoder, with kept features, and in bf16; batches of similar length
against random ones; seconds of audio that a worker mixes in a second; and how long a step waits for its data. Clips
are synthetic. Writes `training.json` and `training.md` to `benchmarks/results/MACHINE`.
"""

import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from datasets import Audio, ClassLabel, Dataset
from torch.utils.data import DataLoader

import modeling_sparse_merit
from benchmarks.timing import Timing, in_turn, results_folder
from modeling_sparse_merit.models.sparse_merit.audio import write_audio
from modeling_sparse_merit.training import build, dataset
from modeling_sparse_merit.training.feature_cache import CachedLoader
from modeling_sparse_merit.training.settings import TrainingSettings

RATE = 16_000
SECONDS = 4.0
SMALL = {  # trained from scratch on log-mel bands
    "feature_encoder": "log_mel",
    "conv_dim": [128],
    "conv_kernel": [400],
    "conv_stride": [320],
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 384,
    "num_conv_pos_embeddings": 11,
    "num_conv_pos_embedding_groups": 1,
    "expert_hidden_size": 192,
    "emotion_hidden_size": 128,
    "enhancement_mask": "magnitude",
    "enhancement_hidden_size": 128,
    "enhancement_num_layers": 1,
    "n_fft": 512,
    "win_length": 512,
}
WAVLM = {
    "hidden_size": 512,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "intermediate_size": 2048,
    "expert_hidden_size": 512,
    "emotion_hidden_size": 256,
}
LAYOUTS = {"log-mel 3 x 128": (SMALL, 12), "wavlm 6 x 512": (WAVLM, 4)}
MIXING = {
    "plain": {},
    "noise at another speed": {"noise_speed": [0.75, 1.3]},
    "speech at another speed": {"speed": [0.85, 1.15]},
    "in an RIR": {"rir_probability": 1.0},
    "pitch shifted": {"pitch_semitones": [-3.0, 3.0], "pitch_probability": 1.0},
}
AGAINST = {  # what each side is compared with
    "frozen encoder, fp32": "frozen encoder within autograd, fp32",
    "frozen encoder, kept features, fp32": "frozen encoder, fp32",
    "frozen encoder, kept features, bf16": "frozen encoder, bf16",
    "frozen encoder, bf16": "frozen encoder, fp32",
    "all trained, bf16": "all trained, fp32",
    "batches of similar length": "random batches",
}
FROZEN, JOINT = build.Stage(0, 1, encoder_frozen=True), build.Stage(0, 1, encoder_frozen=False)


# Material ------------------------------------------------------------------------------------------------------------


def make_tables(folder: Path) -> dict[str, list[str]]:
    """Datasets of synthetic speech of 1 to 8 seconds, of noise and of impulse responses, as `prepare` writes them."""
    generator = np.random.default_rng(0)
    seconds = {
        "speech": generator.uniform(1.0, 8.0, 96),
        "long_speech": np.full(256, 1.5 * SECONDS),
        "noise": np.full(40, 5.0),
        "rirs": np.full(8, 0.6),
    }
    for name, durations in seconds.items():
        make_table(folder, name, durations, generator)
    return {name: [str(folder / name)] for name in seconds}


def make_table(folder: Path, name: str, durations: np.ndarray, generator: np.random.Generator) -> None:
    rows = []
    for index, duration in enumerate(durations):
        time = np.arange(round(duration * RATE)) / RATE
        wave = generator.standard_normal(len(time))
        wave = wave * np.exp(-time / 0.1) if name == "rirs" else wave * (1.1 + np.sin(2 * np.pi * 3 * time))
        path = folder / f"{name}{index}.flac"
        write_audio(path, (0.1 * wave / np.abs(wave).max()).astype(np.float32), RATE)
        audio = {"bytes": path.read_bytes(), "path": path.name}
        rows.append({"audio": audio, "emotion": index % 4, "duration": float(duration), "split": "train"})
    table = Dataset.from_list(rows).cast_column("audio", Audio(RATE, decode=False))
    table.cast_column("emotion", ClassLabel(names=["angry", "sad", "happy", "neutral"])).save_to_disk(folder / name)


def make_settings(tables: dict[str, list[str]], speech: str = "long_speech", **changes: Any) -> TrainingSettings:
    fixed = {"max_seconds": SECONDS, "dataloader_num_workers": 1, "noise": tables["noise"], "rirs": tables["rirs"]}
    return TrainingSettings(**{"speech": tables[speech], **fixed, **changes})


# Steps ---------------------------------------------------------------------------------------------------------------


def step_times(tables: dict[str, list[str]], folder: Path, layout: str) -> dict[str, Timing]:
    """Seconds of a step of each kind on one layout, on the same clips."""
    config, batch_size = LAYOUTS[layout]
    settings = make_settings(tables, config=config, per_device_train_batch_size=batch_size, dataloader_num_workers=0)
    batch, sides = next(iter(make_loader(settings))), {}
    if "feature_encoder" not in config:
        asking = batch | {"input_values": batch["input_values"].clone().requires_grad_()}  # so all that follows does
        sides["frozen encoder within autograd, fp32"] = partial(make_step(settings, FROZEN), asking)
    for name, precision in (("fp32", "no"), ("bf16", "bf16")):
        settings.mixed_precision = precision
        kept = next(iter(make_cached_loader(settings, folder)))
        sides[f"frozen encoder, {name}"] = partial(make_step(settings, FROZEN), batch)
        sides[f"frozen encoder, kept features, {name}"] = partial(make_step(settings, FROZEN), kept)
        sides[f"all trained, {name}"] = partial(make_step(settings, JOINT), batch)
    return in_turn(sides, rounds=7 if config is SMALL else 3)


def make_step(settings: TrainingSettings, stage: build.Stage) -> Callable[[dict[str, Any]], None]:
    """What trains a model on a batch, as `train_accelerate.py` does."""
    torch.manual_seed(0)
    model, precision = build.build_model(settings), settings.mixed_precision
    build.set_trainable(model, stage, train_feature_encoder=True)
    build.set_training_mode(model, stage.encoder_frozen)
    optimizer = build.build_optimizer(model, settings)

    def step(batch: dict[str, Any]) -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = model(**batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()

    return step


def grouped_times(tables: dict[str, list[str]]) -> dict[str, Timing]:
    """Seconds of an epoch over clips of 1 to 8 s, in batches of similar length and in random ones. These are small,
    since
    the sampler groups few clips loosely: it sorts at least four parts of them apart."""
    settings = make_settings(
        tables, "speech", config=SMALL, per_device_train_batch_size=4, max_seconds=8.0, dataloader_num_workers=0
    )
    loader, step = make_loader(settings), make_step(settings, FROZEN)
    shuffled = DataLoader(
        loader.dataset, settings.per_device_train_batch_size, shuffle=True, collate_fn=loader.collate_fn
    )
    epochs = {"random batches": list(shuffled), "batches of similar length": list(loader)}
    return in_turn({name: partial(train_epoch, step, batches) for name, batches in epochs.items()}, rounds=3)


def train_epoch(step: Callable[[dict[str, Any]], None], batches: list[dict[str, Any]]) -> None:
    for batch in batches:
        step(batch)


# Data ----------------------------------------------------------------------------------------------------------------


def make_loader(settings: TrainingSettings) -> DataLoader:
    clips = dataset.load_clips(settings, "train")
    return dataset.build_loader(clips, build.build_feature_extractor(settings), settings, shuffle=True)


def make_cached_loader(settings: TrainingSettings, folder: Path) -> CachedLoader:
    """Batches with the features of the encoder that `make_step` draws."""
    AcceleratorState._reset_state(reset_partial_state=True)  # which allows a process one precision alone
    accelerator = Accelerator(cpu=True, mixed_precision=settings.mixed_precision)
    torch.manual_seed(0)
    model, feature_extractor = build.build_model(settings).eval(), build.build_feature_extractor(settings)
    return CachedLoader(accelerator.prepare(make_loader(settings)), model, feature_extractor, folder, accelerator)


def mixing_speed(tables: dict[str, list[str]], workers: int, changes: dict[str, Any]) -> float:
    """Seconds of audio that all workers together mix in a second, once each has given a batch."""
    loader = make_loader(
        make_settings(tables, per_device_train_batch_size=4, dataloader_num_workers=workers, **changes)
    )
    seconds = []
    for index, batch in enumerate(loader):
        if index == 2 * workers:  # as many batches are fetched ahead
            start = time.perf_counter()
        seconds.append(batch["attention_mask"].sum().item() / RATE)
    return sum(seconds[2 * workers + 1 :]) / (time.perf_counter() - start)


def waiting_shares(tables: dict[str, list[str]], folder: Path) -> dict[str, float]:
    """The share of the frozen stage's time, on the small layout, in which it waits for one worker."""
    settings = make_settings(tables, config=SMALL, per_device_train_batch_size=12)
    kept = make_cached_loader(settings, folder)
    list(kept)  # the first epoch computes the features
    sides = {"frozen encoder": make_loader(settings), "frozen encoder, kept features": kept}
    return {name: waiting_share(make_step(settings, FROZEN), loader) for name, loader in sides.items()}


def waiting_share(step: Callable[[dict[str, Any]], None], loader: Iterable[dict[str, Any]]) -> float:
    """Of the time of an epoch, from its second batch on: the first one has to be waited for."""
    waited, worked, moment = [], [], time.perf_counter()
    for batch in loader:
        ready = time.perf_counter()
        step(batch)
        done = time.perf_counter()
        waited.append(ready - moment)
        worked.append(done - ready)
        moment = done
    return sum(waited[1:]) / sum(waited[1:] + worked[1:])


# Report --------------------------------------------------------------------------------------------------------------


def measure() -> dict[str, Any]:
    """Everything, as JSON."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tables = make_tables(folder)
        return {
            "versions": {"modeling-sparse-merit": modeling_sparse_merit.__version__, "torch": torch.__version__},
            "machine": {"processor": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
            "steps": {layout: compared(step_times(tables, folder / "features", layout)) for layout in LAYOUTS},
            "epoch": compared(grouped_times(tables)),
            "mixing": {
                kind: {workers: mixing_speed(tables, workers, changes) for workers in (1, 2)}
                for kind, changes in MIXING.items()
            },
            "waiting": waiting_shares(tables, folder / "features"),
        }


def compared(times: dict[str, Timing]) -> dict[str, dict[str, Any]]:
    """Seconds of each side in each round, and how many times faster it is than another (median, lowest, highest)."""
    rows = {}
    for name, timing in times.items():
        rows[name] = {"seconds": timing.seconds}
        if AGAINST.get(name) in times:
            rows[name] |= {"against": AGAINST[name], "times_as_fast": timing.speed_against(times[AGAINST[name]])}
    return rows


def markdown(report: dict[str, Any]) -> str:
    """The report to be read."""
    machine, versions = report["machine"], report["versions"]
    lines = [
        f"torch {versions['torch']}, {machine['threads']} threads, {machine['processor']}, by `python -m "
        "benchmarks.training`. Ratios are medians over rounds in turn, with the lowest and the highest."
    ]
    titles = {f"step, {layout}, {LAYOUTS[layout][1]} clips of 4 s": rows for layout, rows in report["steps"].items()}
    for title, rows in {
        **titles,
        "epoch, log-mel 3 x 128, 96 clips of 1 to 8 s in batches of 4, frozen encoder": report["epoch"],
    }.items():
        lines += ["", f"| {title} | seconds | times as fast | as |", "| --- | ---: | ---: | --- |"]
        lines += [_row(name, row) for name, row in rows.items()]
    lines += ["", "| seconds of audio mixed a second | 1 worker | 2 workers |", "| --- | ---: | ---: |"]
    lines += [f"| {kind} | {results['1']:.0f} | {results['2']:.0f} |" for kind, results in report["mixing"].items()]
    lines += ["", "| share of an epoch that waits for one worker, log-mel 3 x 128 | |", "| --- | ---: |"]
    return "\n".join(lines + [f"| {name} | {share:.1%} |" for name, share in report["waiting"].items()]) + "\n"


def _row(name: str, row: dict[str, Any]) -> str:
    seconds = f"| {name} | {np.median(row['seconds']):.2f} |"
    if "against" not in row:
        return f"{seconds} | |"
    median, lowest, highest = row["times_as_fast"]
    return f"{seconds} {median:.2f} ({lowest:.2f} to {highest:.2f}) | {row['against']} |"


def main() -> None:
    """Measures, writes both files, and prints the second."""
    report = json.loads(json.dumps(measure()))
    for suffix, text in ((".json", json.dumps(report, indent=2) + "\n"), (".md", markdown(report))):
        partial_file = results_folder() / f".training{suffix}.partial"
        partial_file.write_text(text, encoding="utf-8")
        os.replace(partial_file, results_folder() / f"training{suffix}")
    print(markdown(report))


if __name__ == "__main__":
    typer.run(main)
