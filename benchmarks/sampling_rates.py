# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Effect of a limited band: emotion and enhancement of test clips that were resampled, as by telephones.

Each clip is resampled to a lower rate and back before inference. For enhancement the clips are mixed at
5 dB with a pool of noise, and clean, noisy and enhanced speech are compared at the lower rate. Writes
`sampling_rates.json` and `sampling_rates.md` to `benchmarks/results`.

    python -m benchmarks.sampling_rates --speech tables/ravdess --speech tables/emodb --speech tables/nemo \
        --noise tables/urbansound8k
"""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.writing import RESULTS, write_results
from modeling_sparse_merit import DEFAULT_CHECKPOINT, SpeechEnhancementAndEmotionPipeline, __version__, load_audio
from modeling_sparse_merit.data.datasets import read_dataset, read_datasets
from modeling_sparse_merit.data.mixing import MixingRecipe
from modeling_sparse_merit.data.transmission import Transmission
from modeling_sparse_merit.files import sha256_of_files
from modeling_sparse_merit.metrics import macro_f1
from modeling_sparse_merit.metrics.emotion import confusion, recall_from_confusion
from modeling_sparse_merit.metrics.speech import stoi
from modeling_sparse_merit.models.sparse_merit.audio import resample

RATES = (16_000, 11_025, 8_000)
SNR_DB = 5.0
RESAMPLES = 2_000


def emotion(pipe: SpeechEnhancementAndEmotionPipeline, clips: list[dict[str, Any]], rate: int) -> dict[str, Any]:
    """Macro-F1 with its 95 % interval over clips, and the recall of each emotion, of clean speech."""
    classes = sorted(pipe.model.config.label2id)
    labels = [clip["emotion"] for clip in clips]
    outputs = pipe(
        ({"array": Transmission(rate).band_limit(clip["speech"]), "sampling_rate": 16_000} for clip in clips),
        tasks="emotion",
        top_k=1,
    )
    predictions = [output["emotion"][0]["label"] for output in outputs]
    generator, draws = np.random.default_rng(0), []
    for _ in range(RESAMPLES):
        drawn = generator.integers(len(clips), size=len(clips))
        draws.append(macro_f1([labels[i] for i in drawn], [predictions[i] for i in drawn], classes))
    recalls = recall_from_confusion(confusion(labels, predictions, classes))
    return {
        "macro_f1": macro_f1(labels, predictions, classes),
        "interval": np.percentile(draws, [2.5, 97.5]).tolist(),
        "recall": dict(zip(classes, recalls.tolist(), strict=True)),
    }


def enhancement(
    pipe: SpeechEnhancementAndEmotionPipeline, clips: list[dict[str, Any]], recipe: MixingRecipe, rate: int
) -> dict[str, float]:
    """Mean STOI of noisy and enhanced speech at a rate."""
    scores: dict[str, list[float]] = {"noisy": [], "enhanced": []}
    for index, clip in enumerate(clips):
        mixture = recipe.apply(clip["speech"], recipe.draw(index))
        noisy = Transmission(rate).band_limit(mixture.noisy)
        output = pipe({"array": noisy, "sampling_rate": 16_000}, tasks="enhancement")
        clean = resample(mixture.clean, 16_000, rate)
        for name, waveform in (("noisy", noisy), ("enhanced", output["audio"])):
            scores[name].append(stoi(clean, resample(waveform, 16_000, rate), rate))
    return {name: float(np.nanmean(values)) for name, values in scores.items()}


def test_clips(tables: list[str], labels: list[str]) -> Iterator[dict[str, Any]]:
    """The test clips with one of these emotions, as 16 kHz speech."""
    rows = read_datasets(tables, split="test")
    names = rows.features["emotion"].names
    for row in rows:
        if row["emotion"] is not None and names[row["emotion"]] in labels:
            yield {"emotion": names[row["emotion"]], "speech": load_audio(row["audio"])}


def render(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    labels = list(results["rates"][0]["recall"])
    lines = [
        "# What the band of a recording costs",
        "",
        f"`{results['command']}`: {results['model']}, {results['clips']} test clips, resampled to the rate and back. "
        f"Macro-F1 and recall of clean speech, with 95 % intervals over clips; STOI at {results['snr_db']:g} dB, "
        "at the rate.",
        "",
        f"| rate (Hz) | macro-F1 | {' | '.join(f'recall of {label}' for label in labels)} | STOI, noisy → enhanced |",
        "|---|---|" + "---|" * len(labels) + "---|",
    ]
    for row in results["rates"]:
        low, high = row["interval"]
        recalls = " | ".join(f"{row['recall'][label]:.2f}" for label in labels)
        speech = f"{row['stoi']['noisy']:.3f} → {row['stoi']['enhanced']:.3f}"
        lines.append(f"| {row['rate']} | {row['macro_f1']:.3f} [{low:.3f}, {high:.3f}] | {recalls} | {speech} |")
    return "\n".join(lines) + "\n"


def main(
    speech: Annotated[list[str], typer.Option(help="Speech datasets with emotions.")],
    noise: Annotated[str, typer.Option(help="Noise dataset.")],
    model: Annotated[str, typer.Option(help="Folder or Hub id of a checkpoint.")] = str(DEFAULT_CHECKPOINT),
) -> None:
    """Measures every rate and writes the results."""
    pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(model)
    clips = list(test_clips(speech, list(pipe.model.config.label2id)))
    recipe = MixingRecipe(read_dataset(noise, split="test"), snr_db=SNR_DB, level_db=None, seed=0)
    rates = []
    for rate in RATES:
        rates.append({"rate": rate, **emotion(pipe, clips, rate), "stoi": enhancement(pipe, clips, recipe, rate)})
        print(rates[-1], flush=True)
    is_default = Path(model) == DEFAULT_CHECKPOINT
    results = {
        "command": " ".join(["python -m benchmarks.sampling_rates", *sys.argv[1:]]),
        "version": __version__,
        "model": f"sparse-merit-{DEFAULT_CHECKPOINT.name}" if is_default else model,
        "sha256": sha256_of_files(sorted(Path(model).glob("*.safetensors"))),
        "clips": len(clips),
        "snr_db": SNR_DB,
        "seed": 0,
        "rates": rates,
    }
    write_results(RESULTS / "sampling_rates", results, render(results))


if __name__ == "__main__":
    typer.run(main)
