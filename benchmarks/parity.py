# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""
Differences between converted weights and the published implementation: `python -m benchmarks.parity GOLDEN_FOLDER`.

The folder contains `checkpoint/` in the published layout, and `golden.safetensors` with the outputs of the published
implementation at every stage. Each variant is converted, saved, loaded, and run on the recordings; the table shows the
largest absolute difference of each stage.
"""

import tempfile
from collections import defaultdict
from pathlib import Path

import torch
import typer
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file

from modeling_sparse_merit import SparseMeritFeatureExtractor, SparseMeritForSpeechEnhancementAndEmotion
from modeling_sparse_merit.convert.published import convert
from modeling_sparse_merit.models.sparse_merit.experts import load_balancing_loss

VARIANTS = {
    "sparse": None,
    "dense": "dense",
    "weighted_sum_sparse": "weighted_sum_sparse",
    "weighted_sum_dense": "weighted_sum_dense",
    "expert_weighted_sum_sparse": "expert_weighted_sum_sparse",
    "multitask": "multitask",
}
TASKS = {"se": "enhancement", "ser": "emotion"}


def measure(golden: Path, variant: str) -> dict[str, float]:
    """Returns the largest absolute difference of each stage of one variant, over all recordings."""
    results = load_file(golden / "golden.safetensors")
    with tempfile.TemporaryDirectory() as folder:
        convert(golden / "checkpoint", Path(folder) / "model", variant=VARIANTS[variant])
        model = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(Path(folder) / "model").eval()
        feature_extractor = SparseMeritFeatureExtractor.from_pretrained(Path(folder) / "model")
    maxima: dict[str, float] = defaultdict(float)
    for clip in sorted(name.split(".")[0] for name in results if name.endswith(".raw")):
        recording = results[f"{clip}.raw"].numpy()
        for name, value in stages(model, feature_extractor, recording).items():
            expected = results.get(f"{clip}.{name}", results.get(f"{clip}.{variant}.{name}"))
            if expected is not None:
                maxima[name] = max(maxima[name], (value - expected).abs().max().item())
    return dict(maxima)


@torch.inference_mode()
def stages(model, feature_extractor, recording) -> dict[str, torch.Tensor]:
    """Returns what the model computes of one recording, by the names of the golden file, without batch dimension."""
    inputs = feature_extractor(recording, sampling_rate=16_000, return_tensors="pt")
    outputs = model(**inputs, output_router_logits=True, output_hidden_states=True)
    core = model.model(**inputs)
    values = {
        "input_values": inputs["input_values"][0],
        "hidden_states": torch.stack(outputs.hidden_states)[:, 0],  # (L, B, T, D) -> (L, T, D)
        "enhanced_log1p": outputs.enhanced_log_magnitude[0].T,  # (F, bins) -> (bins, F)
        "enhanced": outputs.enhanced_values[0],
    }
    for short, task in TASKS.items():
        if task in outputs.router_logits:
            logits = outputs.router_logits[task]
            values[f"{short}_features"] = core.features[task][0]
            values[f"{short}_router_probs"] = logits[0].softmax(-1)
            values[f"switch_load_balancing_loss.{short}"] = load_balancing_loss(logits, core.frame_mask)
    if outputs.logits is not None:
        pooling = model.heads["emotion"].pooling
        values |= {"pooled": pooling(core.features["emotion"], core.frame_mask)[0], "logits": outputs.logits[0]}
    return values


def main(golden: Path) -> None:
    """Prints the table of maxima."""
    maxima = {variant: measure(golden, variant) for variant in VARIANTS}
    table = Table("stage", *VARIANTS)
    for stage in maxima["sparse"]:
        table.add_row(stage, *(f"{maxima[v][stage]:.1e}" if stage in maxima[v] else "-" for v in VARIANTS))
    Console(width=140).print(table)


if __name__ == "__main__":
    typer.run(main)
