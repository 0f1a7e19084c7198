# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Emotion over time in made calls: one label for the whole, fixed windows, and the timeline of the pipeline.

Two speakers take turns with pauses of 0.3 to 2 s, clean and in noise at 0 dB. The measure is the emotion diarization
error rate, in which pauses have no emotion. Writes `NAME_SPLIT.json` and `.md` to `benchmarks/results/calls`.

    python -m benchmarks.calls --name tiny --speech tables/ravdess --speech tables/emodb --speech tables/nemo \
        --noise tables/esc10 --split dev --calls 20
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import numpy as np
import torch
import typer
from datasets import Dataset

from benchmarks.intervals import estimate, shown
from benchmarks.options import ModelOption, NameOption, NoiseOption, SpeechOption, SplitOption
from benchmarks.writing import RESULTS, commit, write_results
from modeling_sparse_merit import DEFAULT_CHECKPOINT, SpeechEnhancementAndEmotionPipeline
from modeling_sparse_merit.data.datasets import read_dataset, read_datasets
from modeling_sparse_merit.data.mixing import MixingRecipe
from modeling_sparse_merit.inference.silero import SileroDetector
from modeling_sparse_merit.metrics.diarization import ERRORS, emotion_diarization_error_rate
from modeling_sparse_merit.models.sparse_merit.audio import load_audio
from modeling_sparse_merit.models.sparse_merit.cutting import FRAME, SAMPLING_RATE
from modeling_sparse_merit.models.sparse_merit.streaming import DetectorFactory, detect_by_level
from modeling_sparse_merit.models.sparse_merit.tasks import EMOTION

TURNS, PAUSES = (6, 12), (0.3, 2.0)  # number, and seconds
SPEECH = 35.0  # dB below the loudest frame of a clip: where its speech begins and ends
FIXED = 3 * SAMPLING_RATE  # samples
SNRS = (None, 0.0)
TOTAL = "emotion_diarization_error_rate"
DIFFERENCES = [(one, other) for one in ("timeline, level", "timeline, silero") for other in ("one label", "fixed 3 s")]

Segments = list[dict[str, Any]]
"""`{"start", "end", "emotion"}`, in seconds."""


@dataclass(frozen=True)
class Call:
    """A call (samples,) at 16 kHz and what is felt in it."""

    waveform: np.ndarray
    reference: Segments

    @property
    def seconds(self) -> float:
        return len(self.waveform) / SAMPLING_RATE


def speech_of(clip: np.ndarray, depth_db: float = SPEECH) -> np.ndarray:
    """A clip without the silence before and after its speech."""
    power = np.convolve(np.square(clip, dtype=np.float64), np.ones(FRAME) / FRAME, "same")
    loud = np.flatnonzero(power > power.max() * 10 ** (-depth_db / 10))
    return clip[loud[0] : loud[-1] + 1]


def rows_by_speaker(rows: Dataset, labels: list[str]) -> dict[str, list[tuple[int, str]]]:
    """The rows with one of the emotions, and their emotion, by speaker."""
    names, results = rows.features["emotion"].names, {}
    for row, (emotion, speaker) in enumerate(zip(rows["emotion"], rows["speaker"], strict=True)):
        if emotion is not None and names[emotion] in labels:
            results.setdefault(speaker, []).append((row, names[emotion]))
    return results


def made_calls(rows: Dataset, labels: list[str], recipe: MixingRecipe | None, count: int, seed: int) -> Iterator[Call]:
    """Calls of two speakers each; mixed with noise by the recipe, if any."""
    by_speaker, generator = rows_by_speaker(rows, labels), np.random.default_rng(seed)
    for number in range(count):
        speakers = generator.choice(sorted(by_speaker), 2, replace=False)
        parts, reference, end = [], [], 0
        for turn in range(generator.integers(*TURNS)):
            choices = by_speaker[speakers[turn % 2]]
            row, emotion = choices[generator.integers(len(choices))]
            clip = speech_of(load_audio(rows[row]["audio"]))
            pause = generator.normal(0, 1e-4, round(generator.uniform(*PAUSES) * SAMPLING_RATE))
            times = {"start": end / SAMPLING_RATE, "end": (end + len(clip)) / SAMPLING_RATE}
            reference.append({**times, "emotion": emotion})
            parts += [clip, pause.astype(np.float32)]
            end += len(clip) + len(pause)
        waveform = np.concatenate(parts)
        yield Call(waveform if recipe is None else recipe.apply(waveform, recipe.draw(number)).noisy, reference)


def emotion_of_clip(pipe: SpeechEnhancementAndEmotionPipeline, clip: np.ndarray) -> str:
    """What the model says of a waveform as one clip, whatever is in it."""
    inputs = pipe.feature_extractor([clip], sampling_rate=SAMPLING_RATE, return_tensors="pt")
    with torch.inference_mode():
        logits = pipe.model(**inputs, tasks=(EMOTION,)).logits
    return pipe.model.config.id2label[int(logits[0].argmax())]


def one_label(pipe: SpeechEnhancementAndEmotionPipeline, call: Call) -> Segments:
    return [{"start": 0.0, "end": call.seconds, "emotion": emotion_of_clip(pipe, call.waveform)}]


def fixed_windows(pipe: SpeechEnhancementAndEmotionPipeline, call: Call) -> Segments:
    segments = []
    for start in range(0, len(call.waveform), FIXED):
        clip = call.waveform[start : start + FIXED]
        if len(clip) >= SAMPLING_RATE // 20:  # less is too short for the model
            times = {"start": start / SAMPLING_RATE, "end": (start + len(clip)) / SAMPLING_RATE}
            segments.append({**times, "emotion": emotion_of_clip(pipe, clip)})
    return segments


def timeline(detector: DetectorFactory, pipe: SpeechEnhancementAndEmotionPipeline, call: Call) -> Segments:
    return pipe.emotion_timeline(call.waveform, sampling_rate=SAMPLING_RATE, detector=detector)


METHODS: dict[str, Callable[[SpeechEnhancementAndEmotionPipeline, Call], Segments]] = {
    "one label": one_label,
    "fixed 3 s": fixed_windows,
    "timeline, level": partial(timeline, detect_by_level),
    "timeline, silero": partial(timeline, SileroDetector),
}


def measure(pipe: SpeechEnhancementAndEmotionPipeline, calls: list[Call]) -> dict:
    """The error rate of each method with its parts, and the differences between methods, paired over the calls."""
    seconds = np.array([call.seconds for call in calls])
    rates, methods = {}, {}
    for name, method in METHODS.items():
        rows = [
            emotion_diarization_error_rate([call.reference], [method(pipe, call)], [call.seconds], background=None)
            for call in calls
        ]
        rates[name] = np.array([row[TOTAL] for row in rows])
        parts = {key: float(np.average([row[key] for row in rows], weights=seconds)) for key in ERRORS}
        methods[name] = {TOTAL: estimate(rates[name], seconds), **parts}
    differences = {f"{one} - {other}": estimate(rates[one] - rates[other], seconds) for one, other in DIFFERENCES}
    facts = {"calls": len(calls), "seconds": float(seconds.sum()), "turns": sum(len(call.reference) for call in calls)}
    return {**facts, "methods": methods, "differences": differences}


def main(
    name: NameOption,
    speech: SpeechOption,
    noise: NoiseOption,
    model: ModelOption = None,
    split: SplitOption = "test",
    count: Annotated[int, typer.Option("--calls", help="Of each condition.")] = 60,
    seed: int = 0,
) -> None:
    torch.set_num_threads(1)
    measured = commit()
    pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(model or DEFAULT_CHECKPOINT)
    rows, noises = read_datasets(speech, split), read_dataset(noise, split)
    labels, conditions = list(pipe.model.config.id2label.values()), {}
    for snr_db in SNRS:
        recipe = None if snr_db is None else MixingRecipe(noises, snr_db=snr_db, level_db=None, seed=seed)
        calls = list(made_calls(rows, labels, recipe, count, seed))
        conditions["clean" if snr_db is None else f"{snr_db:g} dB"] = measure(pipe, calls)
    command = f"python -m benchmarks.calls {' '.join(sys.argv[1:])}"
    write({"command": command, "commit": measured, "seed": seed, "conditions": conditions}, f"{name}_{split}")


def write(result: dict, name: str) -> None:
    lines = [
        "# Emotion over time",
        "",
        f"`{result['command']}`, commit {result['commit']}. Emotion diarization error rate and its parts, in percent "
        "of the time; 95 % bootstrap intervals over the calls, of the differences paired.",
    ]
    for condition, results in result["conditions"].items():
        facts = f"{results['calls']} calls, {results['turns']} turns, {results['seconds'] / 60:.0f} min"
        lines += ["", f"## {condition}: {facts}", ""]
        lines += ["| | error rate | false alarm | missed | confusion | overlap |", "|---|---|---|---|---|---|"]
        for method, row in results["methods"].items():
            parts = [f"{100 * row[key]:.1f}" for key in ERRORS]
            lines.append(f"| {method} | {shown(_percent(row[TOTAL]), 1)} | {' | '.join(parts)} |")
        lines += ["", "| difference | |", "|---|---|"]
        lines += [f"| {pair} | {shown(_percent(row), 1, '+')} |" for pair, row in results["differences"].items()]
    write_results(RESULTS / "calls" / name, result, "\n".join(lines))
    print("\n".join(lines))


def _percent(estimated: dict[str, float]) -> dict[str, float]:
    return {key: 100 * value for key, value in estimated.items()}


if __name__ == "__main__":
    typer.run(main)
