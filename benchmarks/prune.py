# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""A checkpoint with narrower feed-forward layers in its encoder: the start of sparse-merit-tiny.

    sparse-merit convert openai/whisper-base runs/whisper-base-1 --layers 1
    python -m benchmarks.prune runs/whisper-base-1 runs/whisper-base-1-pruned --units 640 --speech tables/ravdess

In every feed-forward layer, the hidden units that contribute most to its output on some speech are kept, and the
output weights are fitted again, by least squares, to the output of the whole layer (as in ThiNet, arXiv 1707.06342).
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import nn
from torch.nn import functional as F

from modeling_sparse_merit import SparseMeritFeatureExtractor, SparseMeritForSpeechEnhancementAndEmotion, load_audio
from modeling_sparse_merit.data.datasets import read_datasets

RIDGE = 1e-6  # relative to the mean power of a unit


@torch.no_grad()
def prune(intermediate: nn.Linear, output: nn.Linear, units: torch.Tensor, count: int) -> None:
    """Removes units of a feed-forward layer in place.

    Args:
        intermediate: linear layer from D to H.
        output: linear layer from H to D.
        units: (M, H), what `output` is given for M frames.
        count: how many units are kept, at most H.
    """
    contribution = units.square().mean(0).sqrt() * output.weight.norm(dim=0)  # (H,)
    kept = contribution.topk(count).indices.sort().values
    inputs = F.pad(units[:, kept], (0, 1), value=1.0).double()  # (M, count + 1), the last column for the bias
    gram = inputs.T @ inputs
    gram.diagonal().add_(RIDGE * gram.diagonal().mean())
    fitted = torch.linalg.solve(gram, inputs.T @ output(units).double()).float()  # (count + 1, D)
    intermediate.weight, intermediate.bias = (nn.Parameter(part[kept]) for part in intermediate.parameters())
    output.weight, output.bias = nn.Parameter(fitted[:-1].T.contiguous()), nn.Parameter(fitted[-1])
    intermediate.out_features = output.in_features = count


def main(
    source: Annotated[str, typer.Argument(help="Folder of the checkpoint.")],
    target: Annotated[Path, typer.Argument(help="Folder to write.")],
    units: Annotated[int, typer.Option(help="Hidden units that each feed-forward layer keeps.")],
    speech: Annotated[list[str], typer.Option(help="Speech datasets; clips of their train splits are used.")],
    clips: Annotated[int, typer.Option(help="How many clips, evenly spread over the datasets.")] = 300,
) -> None:
    """Write a checkpoint whose encoder has narrower feed-forward layers."""
    model = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(source).eval()
    feature_extractor = SparseMeritFeatureExtractor.from_pretrained(source)
    layers = [layer.feed_forward for layer in model.model.encoder.encoder.layers]
    recorded: list[list[torch.Tensor]] = [[] for _ in layers]
    hooks = [
        layer.output_dense.register_forward_pre_hook(lambda _, given, units_of=units_of: units_of.append(given[0][0]))
        for layer, units_of in zip(layers, recorded, strict=True)
    ]
    table = read_datasets(speech, split="train")
    for row in range(0, len(table), max(1, len(table) // clips)):
        inputs = feature_extractor([load_audio(table[row]["audio"])], sampling_rate=16_000, return_tensors="pt")
        with torch.inference_mode():
            model.model.encoder(inputs["input_values"])
    for layer, units_of, hook in zip(layers, recorded, hooks, strict=True):
        hook.remove()
        prune(layer.intermediate_dense, layer.output_dense, torch.cat(units_of).clone(), units)
    model.config.intermediate_size = units
    model.save_pretrained(target)
    feature_extractor.save_pretrained(target)


if __name__ == "__main__":
    typer.run(main)
