# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Dependence of a clip's level and emotion on its surroundings: silence after it, and louder or quieter speech.

Each clip is enhanced alone and in four recordings; of the same samples, the level of the enhanced speech and the
emotion are compared. Clips are taken as they are, and without the silence around them. Writes `NAME_SPLIT.json` and
`.md` to `benchmarks/results/levels`.

    python -m benchmarks.levels --name tiny --speech tables/ravdess --speech tables/emodb --speech tables/nemo \
        --split dev
"""

import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks.calls import speech_of
from benchmarks.options import ModelOption, NameOption, SpeechOption
from benchmarks.writing import RESULTS, commit, write_results
from modeling_sparse_merit import DEFAULT_CHECKPOINT, SpeechEnhancementAndEmotionPipeline
from modeling_sparse_merit.data.datasets import read_datasets
from modeling_sparse_merit.models.sparse_merit.audio import load_audio
from modeling_sparse_merit.models.sparse_merit.cutting import SAMPLING_RATE

SILENCE = 60 * SAMPLING_RATE  # samples
QUIET = np.float32(0.1)  # 20 dB lower
TRIMMED = 25.0  # dB below the peak of a clip
TOLERANCE = 0.5  # dB

Result = dict[str, Any]
"""What the pipeline says about a recording, with its segments."""


@dataclass(frozen=True)
class Part:
    """A clip in a recording: what the recording is called, its first sample there, its gain, and which clip it is."""

    case: str
    start: int
    gain: float
    clip: int


def process(pipe: SpeechEnhancementAndEmotionPipeline, recording: np.ndarray) -> Result:
    return pipe(recording, sampling_rate=SAMPLING_RATE, return_segments=True)


def recordings(clips: list[np.ndarray], number: int) -> Iterator[tuple[np.ndarray, list[Part]]]:
    """Recordings of one channel that begin with a clip, and what is to be compared in each."""
    clip, following = clips[number], (number + 1) % len(clips)
    size, ends = len(clip), len(clip) + len(clips[following])
    yield np.concatenate([clip, np.zeros(SILENCE, np.float32)]), [Part("before 60 s of silence", 0, 1.0, number)]
    yield (
        np.concatenate([clip, QUIET * clip]),
        [
            Part("before itself, 20 dB lower", 0, 1.0, number),
            Part("20 dB lower, after itself", size, float(QUIET), number),
        ],
    )
    yield (
        np.concatenate([QUIET * clip, clips[following], QUIET * clip]),
        [
            Part("20 dB lower, before another", 0, float(QUIET), number),
            Part("between two that are 20 dB lower", size, 1.0, following),
            Part("20 dB lower, after another", ends, float(QUIET), number),
        ],
    )


def level_db(waveform: np.ndarray) -> float:
    return float(10 * np.log10(np.square(waveform, dtype=np.float64).mean() + 1e-20))


def emotion_within(segments: list[dict[str, Any]], start: float, end: float) -> str | None:
    """The likeliest emotion of the segments that lie in a part, by the means that the pipeline takes."""
    scores: defaultdict[str, float] = defaultdict(float)
    for segment in segments:
        overlap = max(0.0, min(end, segment["end"]) - max(start, segment["start"]))
        for emotion, score in segment["scores"].items():
            scores[emotion] += overlap * score
    return max(scores, key=scores.__getitem__) if any(scores.values()) else None


def judge(part: Part, result: Result, alone: Result) -> dict[str, Any]:
    """What changed of a clip."""
    size = len(alone["audio"])
    level = level_db(result["audio"][part.start : part.start + size]) - level_db(alone["audio"] * part.gain)
    times = (part.start / SAMPLING_RATE, (part.start + size) / SAMPLING_RATE)
    results = emotion_within(result["segments"], *times)
    expected = emotion_within(alone["segments"], 0.0, size / SAMPLING_RATE)
    return {"case": part.case, "clip": part.clip, "level_db": level, "emotion": results, "expected": expected}


def judgements(pipe: SpeechEnhancementAndEmotionPipeline, clips: list[np.ndarray]) -> Iterator[dict[str, Any]]:
    alone = [process(pipe, clip) for clip in clips]
    for number, clip in enumerate(clips):
        for recording, parts in recordings(clips, number):
            result = process(pipe, recording)
            yield from (judge(part, result, alone[part.clip]) for part in parts)
        following = (number + 1) % len(clips)
        size = max(len(clip), len(clips[following]))
        channels = (np.pad(clip, (0, size - len(clip))), np.pad(clips[following], (0, size - len(clips[following]))))
        stereo = np.stack([channels[0], QUIET * channels[1]])  # (2, samples)
        left, right = pipe(stereo, sampling_rate=SAMPLING_RATE, return_segments=True, channel="each")
        yield judge(Part("left of two channels", 0, 1.0, number), left, alone[number])
        yield judge(Part("right of two channels, 20 dB lower", 0, float(QUIET), following), right, alone[following])


def summary(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """By case, how far levels and emotions are those of the clip alone."""
    results = {}
    for case in dict.fromkeys(row["case"] for row in rows):
        those = [row for row in rows if row["case"] == case]
        levels = np.array([row["level_db"] for row in those])
        results[case] = {
            "clips": len(those),
            "median_db": float(np.median(levels)),
            "worst_db": float(levels[np.abs(levels).argmax()]),
            "within_tolerance": float((np.abs(levels) <= TOLERANCE).mean()),
            "same_emotion": float(np.mean([row["emotion"] == row["expected"] for row in those])),
        }
    return results


def main(
    name: NameOption,
    speech: SpeechOption,
    model: ModelOption = None,
    split: Annotated[str, typer.Option(help="Of the speech datasets.")] = "dev",
    clips: int = 20,
    seed: int = 0,
) -> None:
    torch.set_num_threads(1)
    measured = commit()
    rows = read_datasets(speech, split)
    chosen = np.random.default_rng(seed).choice(len(rows), clips, replace=False)
    waveforms = [load_audio(rows[int(row)]["audio"]) for row in chosen]
    pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(model or DEFAULT_CHECKPOINT)
    sets = {"trimmed": [speech_of(clip, TRIMMED) for clip in waveforms], "as they are": waveforms}
    results = {key: list(judgements(pipe, those)) for key, those in sets.items()}
    result = {
        "command": f"python -m benchmarks.levels {' '.join(sys.argv[1:])}",
        "commit": measured,
        "seed": seed,
        "summary": {key: summary(judged) for key, judged in results.items()},
        "judgements": results,
    }
    write(result, f"{name}_{split}")


def write(result: dict, name: str) -> None:
    lines = [
        "# Levels",
        "",
        f"`{result['command']}`, commit {result['commit']}. Level of the enhanced speech of a clip in a recording "
        f"against that of the clip alone: the median, the worst, and the share of clips within {TOLERANCE} dB; and "
        "the share with the emotion of the clip alone.",
        "",
        "| clips | a clip | median (dB) | worst (dB) | within (%) | same emotion (%) |",
        "|---|---|---|---|---|---|",
    ]
    for key, cases in result["summary"].items():
        for case, row in cases.items():
            shares = f"{100 * row['within_tolerance']:.0f} | {100 * row['same_emotion']:.0f}"
            levels = f"{row['median_db']:+.2f} | {row['worst_db']:+.2f}"
            lines.append(f"| {row['clips']}, {key} | {case} | {levels} | {shares} |")
    write_results(RESULTS / "levels" / name, result, "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    typer.run(main)
