# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""How well the detectors tell speech from noise: noise clips without and with voices, made-up noises, and speech that
is clean, mixed with noise, and quiet. Every clip goes through the windows of the pipeline.

Speech is found in a clip where 0.3 s of its frames are speech. The reference of the frames is the clean clip: what is
within 35 dB of its loudest frame. Writes `NAME_SPLIT.json` and `.md` to `benchmarks/results/speech_activity`.

    python -m benchmarks.speech_activity --name tiny --speech tables/ravdess --speech tables/emodb \
        --speech tables/nemo --noise tables/esc10 --noise tables/urbansound8k --noise tables/nonspeech_noisex \
        --mixed tables/esc10 --split dev --clips 40
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
import torch
import typer

from benchmarks.options import ModelOption, NameOption, SpeechOption, SplitOption
from benchmarks.windows import mixtures
from benchmarks.writing import RESULTS, commit, write_results
from modeling_sparse_merit import DEFAULT_CHECKPOINT, SpeechEnhancementAndEmotionPipeline
from modeling_sparse_merit.data.datasets import read_dataset
from modeling_sparse_merit.inference.silero import SileroDetector
from modeling_sparse_merit.models.sparse_merit.audio import load_audio
from modeling_sparse_merit.models.sparse_merit.cutting import FRAME, SAMPLING_RATE, Window, WindowCutter
from modeling_sparse_merit.models.sparse_merit.streaming import DetectorFactory, WindowModel, detect_by_level
from modeling_sparse_merit.models.sparse_merit.tasks import ENHANCEMENT

FOUND = 0.3  # seconds of speech in a clip
REFERENCE = 35.0  # dB below the loudest frame of a clean clip
QUIET = -50.0  # dBFS
SNRS = (10.0, 0.0, -5.0)
VOICES = {
    *("baby_cry", "cry", "children_playing", "crowd", "noisex_babble", "street_music"),
    *("person_sneeze", "cough", "snore"),
}
"""Categories of noise that people make with their voices, or may."""

DETECTORS: dict[str, DetectorFactory] = {"level": detect_by_level, "silero": SileroDetector}


@dataclass(frozen=True)
class Clip:
    """A recording of a condition; `clean` is its speech alone, or None where there is none; `before` is what comes
    before it in its recording, whole frames that are not judged.
    """

    condition: str
    noisy: np.ndarray
    clean: np.ndarray | None = None
    category: str = ""
    before: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))


def enhanced_windows(model: WindowModel, recording: np.ndarray) -> list[tuple[Window, np.ndarray]]:
    """The windows of a recording (samples,), each with its enhanced speech, as long as its waveform."""
    cutter = WindowCutter()
    windows = cutter.add(recording) + cutter.finish()
    return [(window, output.enhanced[ENHANCEMENT]) for window, output in zip(windows, model.run(windows), strict=True)]


def clips(speech: list[str], noise: list[str], mixed: str, split: str, count: int, seed: int) -> Iterator[Clip]:
    """All conditions."""
    noises = [row for dataset in noise for row in read_dataset(dataset, split)]
    talk = read_dataset(speech[0], split)
    for place, row in enumerate(noises):
        kind = "noise with voices" if row["category"] in VOICES else "noise without voices"
        waveform, before = load_audio(row["audio"]), load_audio(talk[place % len(talk)]["audio"])
        yield Clip(kind, waveform, category=row["category"])
        before = before[: len(before) // FRAME * FRAME]
        yield Clip(f"{kind}, after speech", waveform, category=row["category"], before=before)
    yield from synthetic_noises(seed)
    for dataset in speech:
        rows = min(count, len(read_dataset(dataset, split)))
        for snr_db in SNRS:
            noisy, clean = mixtures([dataset], mixed, split, rows, snr_db, seed)
            for pair in zip(noisy, clean, strict=True):
                yield Clip(f"speech at {snr_db:g} dB", *pair)
        for waveform in clean:
            yield Clip("clean speech", waveform, waveform)
            quiet = at_level(waveform, QUIET)
            yield Clip(f"clean speech of {QUIET:g} dBFS", quiet, quiet)


def synthetic_noises(seed: int, seconds: float = 6.0) -> Iterator[Clip]:
    """White, pink and brown noise and the hum of mains, at two levels; silence, and dither of 16 bits."""
    generator, samples = np.random.default_rng(seed), round(seconds * SAMPLING_RATE)
    white = generator.standard_normal(samples)
    spectrum, bins = np.fft.rfft(white), np.maximum(np.arange(samples // 2 + 1), 1)
    times = np.arange(samples) / SAMPLING_RATE
    noises = {
        "white": white,
        "pink": np.fft.irfft(spectrum / np.sqrt(bins), samples),
        "brown": np.fft.irfft(spectrum / bins, samples),
        "hum": sum(np.sin(2 * np.pi * 50 * harmonic * times) / harmonic for harmonic in (1, 2, 3, 5)),
    }
    for name, noise in noises.items():
        for level in (-20.0, QUIET):
            yield Clip("synthetic noise", at_level(noise, level), category=f"{name} {level:g} dBFS")
    yield Clip("synthetic noise", np.zeros(samples, np.float32), category="silence")
    dither = np.round(generator.triangular(-1, 0, 1, samples)) / 32_768
    yield Clip("synthetic noise", dither.astype(np.float32), category="dither")


def at_level(waveform: np.ndarray, dbfs: float) -> np.ndarray:
    """The waveform at an RMS in dBFS, in steps of 16 bits."""
    scaled = waveform / np.sqrt(np.mean(np.square(waveform, dtype=np.float64))) * 10 ** (dbfs / 20)
    return (np.round(scaled * 32_768) / 32_768).astype(np.float32)


def reference(clean: np.ndarray) -> np.ndarray:
    """Frames that are speech, bool (frames,): energy within 35 dB of the loudest frame."""
    frames = np.pad(clean.astype(np.float64), (0, -len(clean) % FRAME)).reshape(-1, FRAME)  # (frames, samples)
    energy = np.square(frames).sum(1)
    return energy > energy.max() * 10 ** (-REFERENCE / 10)


def judge(clip: Clip, detected: np.ndarray) -> dict:
    """What a detector said about one clip."""
    judgement = {"condition": clip.condition, "found": bool(detected.sum() * FRAME >= FOUND * SAMPLING_RATE)}
    if clip.clean is None:
        return {**judgement, "category": clip.category}
    expected = reference(clip.clean)
    hit, extra = detected[expected].mean(), (detected & ~expected).sum() / max(1, (~expected).sum())
    return {**judgement, "frames_found": float(hit), "other_frames": float(extra)}


def summary(judgements: list[dict]) -> dict[str, dict]:
    """By condition: the number of clips, the share in which speech was found, and the shares of frames."""
    rows = {}
    for condition in dict.fromkeys(judgement["condition"] for judgement in judgements):
        those = [judgement for judgement in judgements if judgement["condition"] == condition]
        row = {"clips": len(those), "found": float(np.mean([one["found"] for one in those]))}
        for key in ("frames_found", "other_frames"):
            if key in those[0]:
                row[key] = float(np.mean([one[key] for one in those]))
        if "category" in those[0]:
            row["categories_found"] = sorted(one["category"] for one in those if one["found"])
        rows[condition] = row
    return rows


def main(
    name: NameOption,
    speech: SpeechOption,
    noise: Annotated[list[str], typer.Option(help="Noise datasets.")],
    mixed: Annotated[str, typer.Option(help="The noise dataset that speech is mixed with.")],
    model: ModelOption = None,
    split: SplitOption = "test",
    count: Annotated[int, typer.Option("--clips", help="Of each speech dataset.")] = 60,
    seed: int = 0,
) -> None:
    torch.set_num_threads(1)
    measured = commit()
    pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(model or DEFAULT_CHECKPOINT)
    window_model = WindowModel(pipe.model, pipe.feature_extractor, (ENHANCEMENT,))
    judgements, seconds, total = {key: [] for key in DETECTORS}, dict.fromkeys(DETECTORS, 0.0), 0.0
    for clip in clips(speech, noise, mixed, split, count, seed):
        windows = enhanced_windows(window_model, np.concatenate([clip.before, clip.noisy]))
        total += sum(len(window.piece) for window, _ in windows) / SAMPLING_RATE
        for key, make in DETECTORS.items():
            detector, start = make(), time.perf_counter()
            detected = np.concatenate([detector(*window) for window in windows])
            seconds[key] += time.perf_counter() - start
            judgements[key].append(judge(clip, detected[len(clip.before) // FRAME :]))
    result = {
        "command": f"python -m benchmarks.speech_activity {' '.join(sys.argv[1:])}",
        "commit": measured,
        "seconds": total,
        "detectors": {
            key: {"real_time_factor": seconds[key] / total, "conditions": summary(rows)}
            for key, rows in judgements.items()
        },
    }
    write(result, f"{name}_{split}")


def write(result: dict, name: str) -> None:
    detected = result["detectors"]
    lines = [
        "# Speech activity",
        "",
        f"`{result['command']}`, commit {result['commit']}: {result['seconds']:.0f} s of clips. Clips in which speech "
        "is found (0.3 s of it), in percent; in brackets the share of the speech frames that is found, and of the "
        "other frames that is taken for speech. After speech: a clean clip comes before in the same recording.",
        "",
        f"| condition | clips | {' | '.join(detected)} |",
        "|---|---|" + "---|" * len(detected),
    ]
    for condition, first in next(iter(detected.values()))["conditions"].items():
        cells = [_cell(detector["conditions"][condition]) for detector in detected.values()]
        lines.append(f"| {condition} | {first['clips']} | {' | '.join(cells)} |")
    rates = [f"{detector['real_time_factor']:.4f}" for detector in detected.values()]
    lines += [f"| real-time factor | | {' | '.join(rates)} |", "", "Noise that is taken for speech, after speech:", ""]
    for key, detector in detected.items():
        rows = detector["conditions"]
        names = rows["noise without voices, after speech"]["categories_found"]
        counted = [f"{each} {names.count(each)}" for each in dict.fromkeys(names)]
        lines.append(f"- {key}: {', '.join(counted) or 'none'}")
    write_results(RESULTS / "speech_activity" / name, result, "\n".join(lines))
    print("\n".join(lines))


def _cell(row: dict) -> str:
    text = f"{100 * row['found']:.1f}"
    if "frames_found" in row:
        text += f" ({100 * row['frames_found']:.0f}, {100 * row['other_frames']:.0f})"
    return text


if __name__ == "__main__":
    typer.run(main)
