# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Effect of cutting long recordings into windows: clips joined into one recording, and a shifted recording.

Sixty clips at 0 dB are enhanced alone, and as one recording, whose pieces are then compared with the clean clips. The
same recording without its first 5 s, half of a window, is compared with the same part of the whole one. Writes
`NAME_SPLIT.json` and `.md` to `benchmarks/results/windows`.

    python -m benchmarks.windows --name whisper --model runs/whisper/best --speech tables/ravdess \
        --speech tables/emodb --speech tables/nemo --noise tables/esc10 --split dev
"""

import sys

import numpy as np
import torch
import typer

from benchmarks.intervals import estimate, shown
from benchmarks.options import ModelOption, NameOption, NoiseOption, SpeechOption, SplitOption
from benchmarks.writing import RESULTS, commit, write_results
from modeling_sparse_merit import DEFAULT_CHECKPOINT, SpeechEnhancementAndEmotionPipeline
from modeling_sparse_merit.data.datasets import read_dataset, read_datasets
from modeling_sparse_merit.data.mixing import MixingRecipe
from modeling_sparse_merit.metrics.speech import si_sdr, stoi
from modeling_sparse_merit.models.sparse_merit.audio import load_audio
from modeling_sparse_merit.models.sparse_merit.cutting import CHUNK_LENGTH_S, SAMPLING_RATE

MEASURES = {"SI-SDR (dB)": (si_sdr, 2), "STOI": (stoi, 4)}
"""What is measured, and the digits that are shown."""
SHIFT = round(CHUNK_LENGTH_S / 2 * SAMPLING_RATE)
SETTLED = 10 * SAMPLING_RATE  # samples, beyond which the beginning of a recording no longer matters


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
    return [pipe(recording, sampling_rate=SAMPLING_RATE, tasks="enhancement")["audio"] for recording in recordings]


def scores(clean: list[np.ndarray], enhanced: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Of each measure, the score of each clip."""
    pairs = list(zip(clean, enhanced, strict=True))
    return {name: np.array([measure(*pair) for pair in pairs]) for name, (measure, _) in MEASURES.items()}


def difference_db(signal: np.ndarray, reference: np.ndarray) -> float:
    """Power of what two signals differ by, in dB relative to the reference; -200 where they are the same."""
    signal, reference = signal.astype(np.float64), reference.astype(np.float64)
    return float(10 * np.log10(np.square(signal - reference).sum() / np.square(reference).sum() + 1e-20))


def compare(pipe: SpeechEnhancementAndEmotionPipeline, noisy: list[np.ndarray], clean: list[np.ndarray]) -> dict:
    """The scores of clips alone and joined, and what a later beginning changes."""
    ends, joined = np.cumsum([len(clip) for clip in noisy])[:-1], np.concatenate(noisy)
    whole, shifted = enhance(pipe, [joined, joined[SHIFT:]])
    sides = {"noisy": noisy, "alone": enhance(pipe, noisy), "joined": np.split(whole, ends)}
    results = {name: scores(clean, side) for name, side in sides.items()}
    measures = {}
    for measure in MEASURES:
        row: dict = {name: float(results[name][measure].mean()) for name in sides}
        row["joined - alone"] = estimate(results["joined"][measure] - results["alone"][measure])
        measures[measure] = row
    later = whole[SHIFT:]
    shift = {
        "everything": difference_db(shifted, later),
        "beyond the first 10 s": difference_db(shifted[SETTLED:], later[SETTLED:]),
    }
    return {"seconds": len(joined) / SAMPLING_RATE, "measures": measures, "shift_db": shift}


def main(
    name: NameOption,
    speech: SpeechOption,
    noise: NoiseOption,
    model: ModelOption = None,
    split: SplitOption = "test",
    clips: int = 60,
    snr_db: float = 0.0,
    seed: int = 0,
) -> None:
    torch.set_num_threads(1)
    measured = commit()
    noisy, clean = mixtures(speech, noise, split, clips, snr_db, seed)
    pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(model or DEFAULT_CHECKPOINT)
    command = f"python -m benchmarks.windows {' '.join(sys.argv[1:])}"
    facts = {"command": command, "commit": measured, "seed": seed, "clips": clips, "snr_db": snr_db}
    write({**facts, **compare(pipe, noisy, clean)}, f"{name}_{split}")


def write(result: dict, name: str) -> None:
    lines = [
        "# Windows",
        "",
        f"`{result['command']}`, commit {result['commit']}: {result['clips']} clips at {result['snr_db']:g} dB, "
        f"{result['seconds']:.0f} s, enhanced alone and joined into one recording. Means over the clips; the "
        "difference with its 95 % bootstrap interval over the clips.",
        "",
        "| | noisy | alone | joined | joined - alone |",
        "|---|---|---|---|---|",
    ]
    for measure, row in result["measures"].items():
        digits = MEASURES[measure][1]
        means = [f"{row[side]:.{digits}f}" for side in ("noisy", "alone", "joined")]
        lines.append(f"| {measure} | {' | '.join(means)} | {shown(row['joined - alone'], digits, '+')} |")
    shift = [f"{place} {value:.1f} dB" for place, value in result["shift_db"].items()]
    lines += [
        "",
        f"The recording without its first {SHIFT / SAMPLING_RATE:g} s against the same part of the whole, power of "
        f"the difference relative to the output: {', '.join(shift)}.",
    ]
    write_results(RESULTS / "windows" / name, result, "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    typer.run(main)
