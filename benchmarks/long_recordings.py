# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""`sparse-merit enhance` on recordings of minutes to hours, and on the same audio as a folder of files of 30 s.

Each run is a separate process on all cores. Its time minus that of a 1-s file (start-up) is given per
minute of audio, and so is its processor time, which depends less on other processes. The recording is
speech with pauses, in noise at 10 dB; five minutes of it repeat. The sides of a round take turns, forward and back.
Writes `NAME.json` and `.md` to the results of this kind of machine, in `long_recordings`.

    python -m benchmarks.long_recordings --name tiny --speech tables/ravdess --speech tables/emodb \
        --speech tables/nemo --noise tables/esc10 --minutes 5 --minutes 30 --minutes 60 --once 180
"""

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import soundfile
import typer

from benchmarks.timing import results_folder
from benchmarks.writing import commit, write_results
from modeling_sparse_merit.data.datasets import read_dataset, read_datasets
from modeling_sparse_merit.data.mixing import MixingRecipe
from modeling_sparse_merit.models.sparse_merit.audio import load_audio
from modeling_sparse_merit.models.sparse_merit.cutting import SAMPLING_RATE

COMMAND = [sys.executable, "-m", "modeling_sparse_merit.cli", "enhance"]
UNIT, PIECE = 5 * 60, 30  # seconds
PAUSES, SNR_DB = (0.3, 2.0), 10.0  # seconds, dB
START = "start"
CLOCKS = ("seconds", "cpu_seconds")


@dataclass(frozen=True)
class Run:
    """A process: seconds on the clock and of the processor, peak of its memory in MiB, and whether what it wrote is as
    long as what it read.
    """

    seconds: float
    cpu_seconds: float
    peak_mib: float
    is_exact: bool


def made_speech(speech: list[str], noise: str, split: str, seed: int) -> np.ndarray:
    """Five minutes of speech with pauses in noise, 16-bit integers (samples,); the noise changes every 30 s."""
    rows, generator = read_datasets(speech, split), np.random.default_rng(seed)
    recipe = MixingRecipe(read_dataset(noise, split), snr_db=SNR_DB, level_db=-25.0, seed=seed)
    parts, samples = [], 0
    while samples < UNIT * SAMPLING_RATE:
        clip = load_audio(rows[int(generator.integers(len(rows)))]["audio"])
        pause = np.zeros(round(generator.uniform(*PAUSES) * SAMPLING_RATE), np.float32)
        parts += [clip, pause]
        samples += len(clip) + len(pause)
    clean = np.concatenate(parts)[: UNIT * SAMPLING_RATE].reshape(-1, PIECE * SAMPLING_RATE)
    noisy = [recipe.apply(piece, recipe.draw(number)).noisy for number, piece in enumerate(clean)]
    return np.round(np.concatenate(noisy).clip(-1, 1) * 32_767).astype(np.int16)


def write_inputs(folder: Path, unit: np.ndarray, minutes: list[int], pieces_of: int) -> dict[str, Path]:
    """Writes the files; returns what the command is given, by name."""
    paths = {START: folder / "start.wav"}
    soundfile.write(paths[START], unit[:SAMPLING_RATE], SAMPLING_RATE)
    for length in minutes:
        paths[f"{length} min"] = folder / f"{length}.wav"
        with soundfile.SoundFile(paths[f"{length} min"], "w", SAMPLING_RATE, 1, "PCM_16") as file:
            for _ in range(length * 60 // UNIT):
                file.write(unit)
    paths[f"{pieces_of} min in pieces"] = folder / "pieces"
    (folder / "pieces").mkdir()
    pieces = unit.reshape(-1, PIECE * SAMPLING_RATE)
    for number in range(pieces_of * 60 // PIECE):
        soundfile.write(folder / "pieces" / f"{number:04d}.wav", pieces[number % len(pieces)], SAMPLING_RATE)
    return paths


def run(source: Path, output: Path, model: str | None, vad: str) -> Run:
    """Runs the command on a file or a folder."""
    chosen = ["--model", model] if model else []
    command = [*COMMAND, str(source), "-o", str(output), "--overwrite", "--quiet", "--device", "cpu", "--vad", vad]
    start, cpu_start, peak = time.perf_counter(), _cpu_seconds(), 0
    process = subprocess.Popen([*command, *chosen])
    while process.poll() is None:
        peak = max(peak, _peak(process.pid))
        time.sleep(0.02)
    seconds = time.perf_counter() - start
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}.")
    sources = sorted(source.glob("*.wav")) if source.is_dir() else [source]
    written = {path.name.removesuffix(".enhanced.wav"): path for path in output.rglob("*.enhanced.wav")}
    is_exact = all(soundfile.info(path).frames == soundfile.info(written[path.stem]).frames for path in sources)
    return Run(seconds, _cpu_seconds() - cpu_start, peak / 1024, is_exact)


def _cpu_seconds() -> float:
    """What all processes that were started here and have ended took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _peak(pid: int) -> int:
    """Peak resident memory of a process so far in KiB, as Linux counts it; 0 when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)


def measure(
    paths: dict[str, Path], once: list[int], model: str | None, vads: list[str], rounds: int, output: Path
) -> dict[str, dict[str, list[Run]]]:
    """The runs by detector and input, in turn; those of `once` minutes run in the last round alone."""
    results: dict[str, dict[str, list[Run]]] = {vad: {name: [] for name in paths} for vad in vads}
    for number in range(rounds):
        names = [name for name in paths if number == rounds - 1 or name not in {f"{length} min" for length in once}]
        sides = [(name, vad) for name in names for vad in vads]
        for name, vad in sides if number % 2 == 0 else reversed(sides):
            done = run(paths[name], output, model, vad)
            results[vad][name].append(done)
            print(number, vad, name, done, f"load {os.getloadavg()[0]:.1f}", flush=True)
    return results


def summary(runs: dict[str, list[Run]]) -> dict[str, dict[str, Any]]:
    """Of each input the medians, and the time of a minute less the start."""
    start = {clock: statistics.median(getattr(done, clock) for done in runs[START]) for clock in CLOCKS}
    rows = {}
    for name, those in runs.items():
        seconds = [done.seconds for done in those]
        row: dict[str, Any] = {
            **{clock: statistics.median(getattr(done, clock) for done in those) for clock in CLOCKS},
            "lowest": min(seconds),
            "highest": max(seconds),
            "peak_mib": max(done.peak_mib for done in those),
            "length_is_exact": all(done.is_exact for done in those),
            "runs": [asdict(done) for done in those],
        }
        if name != START:
            row |= {f"{clock}_per_minute": (row[clock] - start[clock]) / int(name.split()[0]) for clock in CLOCKS}
        rows[name] = row
    return rows


def verdicts(rows: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What was promised, as numbers: spread of the time of a minute, one file over its pieces, and memory."""
    lengths = sorted((name for name in rows if name.endswith("min")), key=lambda name: int(name.split()[0]))
    rates = {clock: [rows[name][f"{clock}_per_minute"] for name in lengths] for clock in CLOCKS}
    (pieces,) = (name for name in rows if name.endswith("pieces"))
    one = rows[pieces.removesuffix(" in pieces")]
    rounds = list(zip(one["runs"], rows[pieces]["runs"], strict=False))
    return {
        "per_minute_spread": {clock: max(values) / min(values) - 1 for clock, values in rates.items()},
        "one_file_over_pieces": {clock: [a[clock] / b[clock] for a, b in rounds] for clock in CLOCKS},
        "memory_longest_over_shortest": rows[lengths[-1]]["peak_mib"] / rows[lengths[0]]["peak_mib"],
        "lengths_exact": all(row["length_is_exact"] for row in rows.values()),
    }


def main(
    name: Annotated[str, typer.Option(help="Of the files that are written.")],
    speech: Annotated[list[str], typer.Option(help="Speech datasets.")],
    noise: Annotated[str, typer.Option(help="A noise dataset.")],
    minutes: Annotated[list[int], typer.Option(help="Lengths, multiples of 5.")],
    once: Annotated[list[int] | None, typer.Option(help="Further lengths, which run in the last round alone.")] = None,
    pieces_of: Annotated[int, typer.Option(help="Which of `minutes` is a folder of pieces too.")] = 30,
    model: Annotated[str | None, typer.Option(help="A checkpoint; the embedded one by default.")] = None,
    vad: Annotated[list[str] | None, typer.Option(help="level, silero or both, which is the default.")] = None,
    split: Annotated[str, typer.Option(help="Of the speech and noise datasets.")] = "dev",
    rounds: int = 3,
    seed: int = 0,
) -> None:
    facts = {"command": f"python -m benchmarks.long_recordings {' '.join(sys.argv[1:])}", "commit": commit()}
    facts |= {"seed": seed, "cores": os.cpu_count(), "rounds": rounds, "load_before": os.getloadavg()[0]}
    once, vads = once or [], vad or ["level", "silero"]
    with tempfile.TemporaryDirectory() as folder:
        unit = made_speech(speech, noise, split, seed)
        paths = write_inputs(Path(folder), unit, [*minutes, *once], pieces_of)
        results = measure(paths, once, model, vads, rounds, Path(folder, "enhanced"))
    rows = {vad: summary(runs) for vad, runs in results.items()}
    checks = {vad: verdicts(those) for vad, those in rows.items()}
    write({**facts, "load_after": os.getloadavg()[0], "rows": rows, "verdicts": checks}, name)


def write(result: dict, name: str) -> None:
    lines = [
        "# Long recordings",
        "",
        f"`{result['command']}`, commit {result['commit']}: processes on {result['cores']} cores, in turn, medians of "
        f"up to {result['rounds']} rounds (lowest to highest), at a load of {result['load_before']:.1f} before and "
        f"{result['load_after']:.1f} after. A minute is counted without the start, that of a file of 1 s.",
        "",
        "| detector | recording | seconds | seconds per minute | processor seconds per minute | peak memory (MiB) | "
        "length is exact |",
        "|---|---|---|---|---|---|---|",
    ]
    for vad, rows in result["rows"].items():
        for recording, row in rows.items():
            seconds = f"{row['seconds']:.1f} ({row['lowest']:.1f} to {row['highest']:.1f})"
            rates = [f"{row[key]:.3f}" if key in row else "" for key in [f"{clock}_per_minute" for clock in CLOCKS]]
            exact = "yes" if row["length_is_exact"] else "no"
            lines.append(
                f"| {vad} | {recording} | {seconds} | {' | '.join(rates)} | {row['peak_mib']:.0f} | {exact} |"
            )
    lines += ["", "One file over its pieces: the median of the rounds (lowest to highest)."]
    lines += ["", "| detector | | per minute differs by | one file over its pieces | memory, longest over shortest |"]
    lines += ["|---|---|---|---|---|"]
    for vad, row in result["verdicts"].items():
        for clock, title in zip(CLOCKS, ("time", "processor time"), strict=True):
            ratios = row["one_file_over_pieces"][clock]
            pieces = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            spread, memory = 100 * row["per_minute_spread"][clock], row["memory_longest_over_shortest"]
            lines.append(f"| {vad} | {title} | {spread:.0f} % | {pieces} | {memory:.2f} |")
    write_results(results_folder() / "long_recordings" / name, result, "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    typer.run(main)
