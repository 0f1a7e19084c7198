# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""
Sensitivity of layers to int8: `python -m benchmarks.sensitivity tables/nemo tables/urbansound8k`.

One group of linear layers of the embedded checkpoint at a time is quantized to int8, and the outputs for mixtures of
both dev splits are compared with fp32. Writes `sensitivity.json` and `sensitivity.md` to `benchmarks/results/MACHINE`.
"""

import copy
import json
import re
from typing import Annotated, Any

import torch
import typer

from benchmarks.timing import results_folder
from modeling_sparse_merit import (
    DEFAULT_CHECKPOINT,
    SparseMeritFeatureExtractor,
    SparseMeritForSpeechEnhancementAndEmotion,
    load_audio,
)
from modeling_sparse_merit.data.datasets import read_dataset
from modeling_sparse_merit.data.mixing import MixingRecipe
from modeling_sparse_merit.models.sparse_merit.quantization import choose_int8

GROUPS = {
    "attention": r"\.attention\.(q|k|v|out)_proj$",
    "feed-forward": r"\.feed_forward\.\w+_dense$",
    "experts": r"\.experts\.\d+\.\w+_dense$",
    "feature projection": r"\.feature_projection\.projection$",
    "routers": r"\.routers\.\w+$",
    "emotion head": r"heads\.emotion\.(pooling\.)?(dense|classifier)$",
    "enhancement head": r"heads\.enhancement\.\w+_dense$",
}
IN_INT8 = ("attention", "feed-forward", "experts")
Inputs = dict[str, torch.Tensor]


def in_int8(
    model: SparseMeritForSpeechEnhancementAndEmotion, groups: tuple[str, ...]
) -> SparseMeritForSpeechEnhancementAndEmotion:
    """A copy with those groups in int8."""
    model = copy.deepcopy(model)
    pattern = re.compile("|".join(GROUPS[group] for group in groups))
    for name, layer in list(model.named_modules()):
        if isinstance(layer, torch.nn.Linear) and pattern.search(name):
            low = choose_int8()(layer)
            parent, _, child = name.rpartition(".")
            is_asked = "routers" in name or "projection.projection" in name
            setattr(model.get_submodule(parent), child, AsLinear(low, layer) if is_asked else low)
    return model


class AsLinear(torch.nn.Linear):
    """A layer with the weights that an int8 layer has, for those whose weights the model asks for."""

    def __init__(self, low: torch.nn.Module, layer: torch.nn.Linear):
        super().__init__(layer.in_features, layer.out_features)
        self.load_state_dict({"weight": low(torch.eye(layer.in_features)).T - layer.bias[:, None], "bias": layer.bias})


@torch.inference_mode()
def outputs(model: SparseMeritForSpeechEnhancementAndEmotion, recordings: list[Inputs]) -> list[dict[str, Any]]:
    return [dict(model(**inputs, output_router_logits=True)) for inputs in recordings]


def compare(actual: list[dict[str, Any]], expected: list[dict[str, Any]]) -> dict[str, float]:
    """Mean differences between two lists of outputs over recordings."""
    pairs = list(zip(actual, expected, strict=True))
    scores = [(one["logits"].softmax(-1) - two["logits"].softmax(-1)).abs().max() for one, two in pairs]
    labels = [float(one["logits"].argmax(-1) != two["logits"].argmax(-1)) for one, two in pairs]
    choices = [
        (one["router_logits"][task].argmax(-1) != two["router_logits"][task].argmax(-1)).float().mean()
        for one, two in pairs
        for task in two["router_logits"]
    ]
    speech = [snr(one["enhanced_values"], two["enhanced_values"]) for one, two in pairs]
    parts = {"score": scores, "emotion": labels, "expert": choices, "speech": speech}
    return {name: float(torch.tensor(values).mean()) for name, values in parts.items()}


def snr(actual: torch.Tensor, expected: torch.Tensor) -> torch.Tensor:
    """dB by which a waveform exceeds its change."""
    return 10 * torch.log10(expected.square().sum() / (actual - expected).square().sum().clamp(min=1e-12))


def render(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "# Which layers bear int8",
        "",
        f"`{results['command']}`: the embedded checkpoint, {results['recordings']} mixtures at {results['snr_db']:g} "
        f"dB, each group of layers alone in int8 ({results['kind']}), against fp32; means over mixtures. Of routers "
        "and the feature projection, the weights alone. Bold: what the package has in int8.",
        "",
        "| in int8 | share of the weights | enhanced speech over its change (dB) | largest change of a score "
        "| other emotions | frames that go to another expert |",
        "|---|---|---|---|---|---|",
    ]
    for row in results["groups"]:
        lines.append(
            f"| {row['groups']} | {row['share']:.1%} | {row['speech']:.1f} | {row['score']:.4f} "
            f"| {row['emotion']:.1%} | {row['expert']:.2%} |"
        )
    return "\n".join(lines) + "\n"


def mix(speech: str, noise: str, number: int, snr_db: float) -> list[Inputs]:
    """Mixtures of two datasets, as inputs of the model."""
    extractor = SparseMeritFeatureExtractor.from_pretrained(DEFAULT_CHECKPOINT)
    recipe = MixingRecipe(read_dataset(noise, split="dev"), snr_db=snr_db, seed=0)
    mixtures = []
    for index, row in enumerate(read_dataset(speech, split="dev").select(range(number))):
        noisy = recipe.apply(load_audio(row["audio"]), recipe.draw(index)).noisy
        mixtures.append(dict(extractor(noisy, sampling_rate=16_000, return_tensors="pt")))
    return mixtures


def main(
    speech: Annotated[str, typer.Argument(help="Speech dataset.")],
    noise: Annotated[str, typer.Argument(help="Noise dataset.")],
    number: Annotated[int, typer.Option(help="Number of speech clips.")] = 100,
    snr_db: Annotated[float, typer.Option(help="Signal-to-noise ratio in dB.")] = 0.0,
) -> None:
    """Measures every group and writes the results."""
    model = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(DEFAULT_CHECKPOINT).eval()
    recordings = mix(speech, noise, number, snr_db)
    expected, total = outputs(model, recordings), sum(weight.numel() for weight in model.parameters())
    rows = []
    sets = {group: (group,) for group in GROUPS} | {
        f"**{', '.join(IN_INT8)}**": IN_INT8,
        "all of these": tuple(GROUPS),
    }
    for name, groups in sets.items():
        pattern = re.compile("|".join(GROUPS[group] for group in groups))
        sizes = [layer.weight.numel() for where, layer in model.named_modules() if pattern.search(where)]
        difference = compare(outputs(in_int8(model, groups), recordings), expected)
        rows.append({"groups": name, "share": sum(sizes) / total, **difference})
        print(rows[-1], flush=True)
    command = f"python -m benchmarks.sensitivity {speech} {noise}"
    facts = {"command": command, "kind": choose_int8().__name__, "recordings": number, "snr_db": snr_db}
    results = {**facts, "groups": rows}
    (results_folder() / "sensitivity.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (results_folder() / "sensitivity.md").write_text(render(results), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
