# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""
Speed of an ONNX export: `python -m benchmarks.onnx_runtime`. torch, onnxruntime in fp32 and in int8 take turns on
the same recording, with as many threads each. The embedded checkpoint, and a model of WavLM-Base's sizes (12 layers of
768, random weights). Writes `onnx_runtime.json` and `.md` to `benchmarks/results/MACHINE`.
"""

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime
import torch
import typer

from benchmarks.timing import MEBIBYTE, in_turn, results_folder
from modeling_sparse_merit import (
    DEFAULT_CHECKPOINT,
    SparseMeritConfig,
    SparseMeritFeatureExtractor,
    SparseMeritForSpeechEnhancementAndEmotion,
)
from modeling_sparse_merit.convert.onnx import GRAPH_FILE, export_onnx
from modeling_sparse_merit.models.sparse_merit.audio import load_audio

RECORDING = DEFAULT_CHECKPOINT.parents[1] / "demo" / "noisy_speech.flac"
BASE = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "expert_hidden_size": 3072,
}


def models() -> dict[str, SparseMeritForSpeechEnhancementAndEmotion]:
    torch.manual_seed(0)
    return {
        "embedded checkpoint": SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(DEFAULT_CHECKPOINT).eval(),
        "12 layers of 768": SparseMeritForSpeechEnhancementAndEmotion(SparseMeritConfig(**BASE)).eval(),
    }


def measure(
    model: SparseMeritForSpeechEnhancementAndEmotion, seconds: float, rounds: int, threads: int
) -> dict[str, dict[str, Any]]:
    """Times, sizes and differences of one model, by side; speeds are against torch."""
    extractor = SparseMeritFeatureExtractor()
    clip = np.resize(load_audio(RECORDING), round(seconds * 16_000))
    inputs = extractor(clip, sampling_rate=16_000, return_tensors="pt")
    inputs["attention_mask"] = inputs["attention_mask"].long()
    arrays = {name: tensor.numpy() for name, tensor in inputs.items()}
    sides = {"torch fp32": lambda: _in_torch(model, inputs)}
    with tempfile.TemporaryDirectory() as folder:
        sizes = {"torch fp32": sum(parameter.nbytes for parameter in model.parameters())}
        for precision in ("fp32", "int8"):
            export_onnx(model, extractor, Path(folder) / precision, precision=precision)
            graph = Path(folder) / precision / GRAPH_FILE
            sizes[f"onnxruntime {precision}"] = graph.stat().st_size
            sides[f"onnxruntime {precision}"] = _runner(graph, arrays, threads)
        timings = in_turn(sides, rounds)
        expected = sides["torch fp32"]()
        return {
            name: {
                "seconds": timings[name].median,
                "speed": timings[name].speed_against(timings["torch fp32"]),
                "mebibytes": sizes[name] / MEBIBYTE,
                "difference": {
                    output: float(np.abs(value - expected[output]).max()) for output, value in side().items()
                },
            }
            for name, side in sides.items()
        }


def _in_torch(
    model: SparseMeritForSpeechEnhancementAndEmotion, inputs: dict[str, torch.Tensor]
) -> dict[str, np.ndarray]:
    with torch.inference_mode():
        outputs = model(**inputs)
    return {name: outputs[name].numpy() for name in ("logits", "enhanced_values")}


def _runner(graph: Path, arrays: dict[str, np.ndarray], threads: int):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return lambda: dict(zip(names, session.run(names, arrays), strict=True))


def as_table(results: dict[str, Any]) -> str:
    settings = results["settings"]
    lines = [
        f"{settings['seconds']:g} s of speech, {settings['threads']} threads, {settings['rounds']} rounds in turn; "
        f"torch {settings['torch']}, onnxruntime {settings['onnxruntime']}. By `python -m benchmarks.onnx_runtime`.",
        "",
        "| Model | Side | Seconds | Speed against torch (range) | MiB | Logits differ | Speech differs |",
        "|---|---|---|---|---|---|---|",
    ]
    for model, sides in results["models"].items():
        for side, row in sides.items():
            median, low, high = row["speed"]
            difference = row["difference"]
            lines.append(
                f"| {model} | {side} | {row['seconds']:.3f} | {median:.2f} ({low:.2f} to {high:.2f}) | "
                f"{row['mebibytes']:.0f} | {difference['logits']:.1e} | {difference['enhanced_values']:.1e} |"
            )
    return "\n".join(lines) + "\n"


def main(
    seconds: Annotated[float, typer.Option(help="Length of the recording.")] = 10.0,
    rounds: Annotated[int, typer.Option(help="Times that each side is timed.")] = 5,
    threads: Annotated[int, typer.Option(help="Of each side.")] = 2,
) -> None:
    """Measures both models and writes the results."""
    torch.set_num_threads(threads)
    measured = {name: measure(model, seconds, rounds, threads) for name, model in models().items()}
    versions = {"torch": torch.__version__, "onnxruntime": onnxruntime.__version__}
    settings = {"seconds": seconds, "rounds": rounds, "threads": threads, **versions}
    results = {"settings": settings, "models": measured}
    report = results_folder() / "onnx_runtime.json"
    report.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    report.with_suffix(".md").write_text(as_table(results), encoding="utf-8")
    typer.echo(as_table(results))


if __name__ == "__main__":
    typer.run(main)
