# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""What long recordings cost: clips joined into one, encoded whole and in windows of several lengths.

Sixty clips at 0 dB are enhanced alone, and as one recording, whose pieces are then compared with the clean clips. The
window is chosen on the dev split. Writes `windows_SPLIT.json` and `windows_SPLIT.md` to `benchmarks/results/windows`.

    python -m benchmarks.windows --model runs/whisper/best --speech tables/ravdess --speech tables/emodb \
        --speech tables/nemo --noise tables/esc10 --split dev
"""

import sys
import time
from typing import Annotated

import numpy as np
import torch
import typer

from benchmarks.writing import RESULTS, write_results
from modeling_sparse_merit import DEFAULT_CHECKPOINT, SpeechEnhancementAndEmotionPipeline
from modeling_sparse_merit.data.datasets import read_dataset, read_datasets
from modeling_sparse_merit.data.mixing import MixingRecipe
from modeling_sparse_merit.metrics.speech import si_sdr
from modeling_sparse_merit.models.sparse_merit.audio import load_audio

WINDOWS = (None, 30.0, 15.0, 8.0, 4.0)


def mixtures(
    speech: list[str], noise: str, split: str, count: int, snr_db: float, seed: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Noisy and clean clips, each (samples,) at 16 kHz."""
    rows = read_datasets(speech, split)
    recipe = MixingRecipe(read_dataset(noise, split), snr_db=snr_db, level_db=None, seed=seed)
    chosen = np.random.default_rng(seed).choice(len(rows), count, replace=False)
    mixed = [recipe.apply(load_audio(rows[int(row)]["audio"]), recipe.draw(int(row))) for row in chosen]
    return [mixture.noisy for mixture in mixed], [mixture.clean for mixture in mixed]


def enhance(pipe: SpeechEnhancementAndEmotionPipeline, recordings: list[np.ndarray]) -> list[np.ndarray]:
    """The enhanced speech of each recording, one at a time."""
    return [pipe(recording, sampling_rate=16_000, tasks="enhancement")["audio"] for recording in recordings]


def score(clean: list[np.ndarray], enhanced: list[np.ndarray]) -> float:
    """Mean SI-SDR in dB."""
    return float(np.mean([si_sdr(*pair) for pair in zip(clean, enhanced, strict=True)]))


def main(
    speech: Annotated[list[str], typer.Option(help="Speech datasets.")],
    noise: Annotated[str, typer.Option(help="A noise dataset.")],
    model: Annotated[str | None, typer.Option(help="A checkpoint; the embedded one by default.")] = None,
    split: Annotated[str, typer.Option(help="Of the speech and noise datasets.")] = "test",
    clips: int = 60,
    snr_db: float = 0.0,
    seed: int = 0,
) -> None:
    torch.set_num_threads(1)
    noisy, clean = mixtures(speech, noise, split, clips, snr_db, seed)
    pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(model or DEFAULT_CHECKPOINT)
    ends, joined = np.cumsum([len(clip) for clip in noisy])[:-1], np.concatenate(noisy)
    result = {
        "command": f"python -m benchmarks.windows {' '.join(sys.argv[1:])}",
        "seconds": len(joined) / 16_000,
        "noisy": score(clean, noisy),
        "alone": score(clean, enhance(pipe, noisy)),
        "joined": [],
    }
    for window in WINDOWS:
        pipe.model.model.encoder.config.encoder_window_seconds = window
        start = time.perf_counter()
        (enhanced,) = enhance(pipe, [joined])
        seconds = time.perf_counter() - start
        row = {"window_seconds": window, "si_sdr": score(clean, np.split(enhanced, ends)), "seconds": seconds}
        result["joined"].append(row)
        print(row, flush=True)
    write(result, split)


def write(result: dict, split: str) -> None:
    lines = [
        "# Long recordings",
        "",
        f"`{result['command']}`: {result['seconds']:.0f} s of clips, enhanced alone and joined into one "
        "recording, on one thread. Mean SI-SDR over the clips, in dB.",
        "",
        f"Noisy {result['noisy']:.2f}, enhanced alone {result['alone']:.2f}. As one recording:",
        "",
        "| window of the encoder | SI-SDR | difference from alone | real-time factor |",
        "|---|---|---|---|",
    ]
    for row in result["joined"]:
        name = "whole" if row["window_seconds"] is None else f"{row['window_seconds']:g} s"
        difference, rate = row["si_sdr"] - result["alone"], row["seconds"] / result["seconds"]
        lines.append(f"| {name} | {row['si_sdr']:.2f} | {difference:+.2f} | {rate:.3f} |")
    write_results(RESULTS / "windows" / f"windows_{split}", result, "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    typer.run(main)
