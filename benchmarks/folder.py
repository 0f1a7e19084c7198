# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""
Speed of processing a folder of recordings in batches and one by one, and start-up time of the command:
`python -m benchmarks.folder`.

Both sides decode, run the embedded checkpoint and write the same files. One by one is what a loop over
`pipe(recording)` does. Writes `folder.json` and `folder.md` to `benchmarks/results/MACHINE`.
"""

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
import typer

from modeling_sparse_merit import (
    BATCH_SECONDS,
    DEFAULT_CHECKPOINT,
    SpeechEnhancementAndEmotionPipeline,
    enhance_recordings,
    find_recordings,
    load_audio,
    read_audio,
    write_audio,
)
from modeling_sparse_merit.cli.enhance import DEMO_RECORDING
from modeling_sparse_merit.models.sparse_merit.audio import resample

from .timing import in_turn, peak_memory, results_folder

KINDS = ((16_000, ".wav", 1), (8_000, ".wav", 1), (44_100, ".wav", 2), (16_000, ".flac", 1), (44_100, ".mp3", 1))
SHORTEST, LONGEST = 0.5, 12.0  # seconds
LENGTHS = {
    "mostly short": lambda generator: float(np.exp(generator.uniform(np.log(SHORTEST), np.log(LONGEST)))),
    "any length alike": lambda generator: generator.uniform(SHORTEST, LONGEST),
}
COMMAND = [sys.executable, "-m", "modeling_sparse_merit.cli"]
IMPORT = "from transformers import PreTrainedModel"


def make_folder(folder: Path, number: int, length: Callable[[np.random.Generator], float], seed: int = 0) -> float:
    """Writes ragged recordings, segments of the demo's speech in noise, and returns their seconds in all."""
    generator = np.random.default_rng(seed)
    speech, seconds = load_audio(DEMO_RECORDING), 0.0
    for index in range(number):
        rate, suffix, channels = KINDS[index % len(KINDS)]
        samples = round(16_000 * length(generator))
        clip = np.resize(np.roll(speech, -generator.integers(len(speech))), samples)
        clip = generator.uniform(0.3, 0.9) * clip + 0.02 * generator.standard_normal(samples, dtype=np.float32)
        clip = resample(clip.clip(-1, 1).astype(np.float32), 16_000, rate).clip(-1, 1)
        path = folder / f"speaker_{index % 7}" / f"{index:04d}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.stack([clip] * channels, axis=1), rate)
        seconds += samples / 16_000
    return seconds


def one_by_one(pipe: SpeechEnhancementAndEmotionPipeline, folder: Path, output: Path) -> Iterator[dict[str, Any]]:
    """Reads, processes and writes each recording in turn."""
    for recording in find_recordings([str(folder)], output)[0]:
        waveform, rate = read_audio(recording.path)
        result = pipe({"array": waveform, "sampling_rate": rate})
        recording.target.parent.mkdir(parents=True, exist_ok=True)
        enhanced = resample(result["audio"], result["sampling_rate"], rate)[: len(waveform)]
        write_audio(recording.target, np.pad(enhanced, (0, len(waveform) - len(enhanced))), rate)
        scores = {entry["label"]: entry["score"] for entry in result["emotion"]}
        yield {"file": str(recording.path), "enhanced": str(recording.target), "scores": scores}


def in_batches(pipe: SpeechEnhancementAndEmotionPipeline, folder: Path, output: Path) -> Iterator[dict[str, Any]]:
    """What `sparse-merit enhance` does."""
    return enhance_recordings(pipe, find_recordings([str(folder)], output)[0])


SIDES = {"one by one": one_by_one, "batches": in_batches}


def compare_speed(folder: Path, length: str, number: int, rounds: int) -> dict[str, Any]:
    """Times both sides in turn, and compares their files and records."""
    pipe = _pipeline()
    seconds = make_folder(folder / "in", number, LENGTHS[length])
    sides = {name: _call(side, pipe, folder / "in", folder / name) for name, side in SIDES.items()}
    times = in_turn(sides, rounds)
    median, lowest, highest = times["batches"].speed_against(times["one by one"])
    return {
        "recordings": number,
        "seconds of audio": round(seconds),
        "seconds": {name: round(timing.median, 2) for name, timing in times.items()},
        "times as fast": {"median": round(median, 2), "lowest": round(lowest, 2), "highest": round(highest, 2)},
        **_differences(sides["one by one"](), sides["batches"]()),
    }


def measure_memory(folder: Path) -> dict[str, dict[str, float]]:
    """Peak memory in MiB of each side and number of recordings, each in a process of its own."""
    measured = {}
    for number in (200, 800, 3200):
        make_folder(folder / str(number), number, LENGTHS["mostly short"])
        measured[f"batches, {number}"] = peak_memory(_prepare, "batches", folder / str(number), folder / "out")
    measured["one by one, 200"] = peak_memory(_prepare, "one by one", folder / "200", folder / "out")
    return {name: {kind: round(value) for kind, value in peaks.items()} for name, peaks in measured.items()}


def measure_start(folder: Path, rounds: int) -> dict[str, float]:
    """
    Seconds from the start of a process to its end: `--help`, one recording of 3 s, and what no package on torch and
    transformers can be below, to import a model's base class from there; the median.
    """
    recording = folder / "three_seconds.wav"
    soundfile.write(recording, load_audio(DEMO_RECORDING)[:48_000], 16_000)
    enhance = ["enhance", str(recording), "-o", str(folder / "out"), "--overwrite", "--device", "cpu"]
    sides = {
        "--help": _process([*COMMAND, "--help"]),
        "enhance, 3 s": _process([*COMMAND, *enhance]),
        "from transformers import PreTrainedModel, alone": _process([sys.executable, "-c", IMPORT]),
    }
    return {name: round(timing.median, 2) for name, timing in in_turn(sides, rounds).items()}


def _pipeline() -> SpeechEnhancementAndEmotionPipeline:
    return SpeechEnhancementAndEmotionPipeline.from_pretrained(DEFAULT_CHECKPOINT, device="cpu")


def _call(side: Callable[..., Iterator], *arguments: Any) -> Callable[[], list[dict[str, Any]]]:
    return lambda: list(side(*arguments))


def _prepare(side: str, folder: Path, output: Path) -> Callable[[], list[dict[str, Any]]]:
    return _call(SIDES[side], _pipeline(), folder, output)


def _process(command: list[str]) -> Callable[[], Any]:
    return lambda: subprocess.run(command, check=True, capture_output=True)


def _differences(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> dict[str, Any]:
    pairs = list(zip(one, other, strict=True))
    samples = ([soundfile.read(record["enhanced"])[0] for record in pair] for pair in pairs)
    return {
        "other emotions": sum(a["emotion"] != b["emotion"] for a, b in pairs),
        "largest difference of a score": max(
            abs(a["scores"][k] - b["scores"][k]) for a, b in pairs for k in a["scores"]
        ),
        "largest difference of a sample": max(float(np.abs(a - b).max()) for a, b in samples),
    }


def _table(title: str, rows: dict[str, list[Any]]) -> str:
    columns = list(rows.pop(""))
    lines = [f"| {title} | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    return "\n".join(lines + [f"| {name} | " + " | ".join(map(str, row)) + " |" for name, row in rows.items()])


def describe(results: dict[str, Any]) -> str:
    """The results in Markdown."""
    speed = {
        "": ["audio (s)", "one by one (s)", "batches (s)", "times as fast", "other emotions", "samples differ by"]
    }
    for name, measured in results["speed"].items():
        ratio = measured["times as fast"]
        speed[f"{measured['recordings']}, {name}"] = [
            measured["seconds of audio"],
            *measured["seconds"].values(),
            f"**{ratio['median']}** ({ratio['lowest']} to {ratio['highest']})",
            measured["other emotions"],
            f"{measured['largest difference of a sample']:.1e}",
        ]
    memory = {"": ["whole process (MiB)", "while it runs (MiB)"]}
    memory |= {name: list(peaks.values())[:2] for name, peaks in results["memory"].items()}
    start = {"": ["seconds"], **{name: [value] for name, value in results["start"].items()}}
    return "\n\n".join(
        (
            "# A folder of recordings",
            f"`python -m benchmarks.folder`: {SHORTEST} to {LONGEST} s, of 8, 16 and 44.1 kHz, WAV, FLAC and MP3, "
            f"by the embedded checkpoint on {results['threads']} CPU threads, {results['batch_seconds']:g} s of audio "
            "at once; median of rounds in turn (lowest to highest).",
            _table("recordings", speed),
            _table("peak memory", memory),
            _table("from the start to the end of the process", start),
        )
    )


def main(number: int = 200, rounds: int = 3) -> None:
    """Measures everything and writes the results."""
    with tempfile.TemporaryDirectory() as folder:
        speeds = {
            name: compare_speed(Path(folder, str(index)), name, number, rounds) for index, name in enumerate(LENGTHS)
        }
        results = {
            "threads": torch.get_num_threads(),
            "batch_seconds": BATCH_SECONDS,
            "measured": time.strftime("%Y-%m-%d"),
            "speed": speeds,
            "memory": measure_memory(Path(folder)),
            "start": measure_start(Path(folder), 2 * rounds + 1),
        }
    (results_folder() / "folder.json").write_text(json.dumps(results, indent=2) + "\n")
    (results_folder() / "folder.md").write_text(describe(results) + "\n")
    print(describe(results))


if __name__ == "__main__":
    typer.run(main)
