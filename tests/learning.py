# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""A step of learning, alone or as one of several processes: `torch.distributed.run ... tests/learning.py FILE`."""

import sys
from typing import Any

import torch
from conftest import TINY_SIZES
from safetensors.torch import save_file
from torch.nn.parallel import DistributedDataParallel

from modeling_sparse_merit import SparseMeritConfig
from modeling_sparse_merit import SparseMeritForSpeechEnhancementAndEmotion as Model

VARIANTS: list[dict[str, Any]] = [
    {},
    {"enhancement_mask": "magnitude", "router": "dense"},
    {"enhancement_mask": "deep_filter", "n_fft": 512, "win_length": 512, "hop_length": 256, "focal_gamma": 2.0},
]
CLIP_TASKS = {
    "valence": {"kind": "regression", "outputs": ["valence"], "minimum": 0, "maximum": 1, "loss": "mse"},
    "arousal": {"kind": "regression", "outputs": ["arousal"], "minimum": 0, "maximum": 1},
    "intent": {"kind": "classification", "labels": ["a", "b", "c"], "class_weights": [1.0, 2.0, 0.5]},
    "speaker": {"kind": "embedding", "size": 4, "labels": ["x", "y"]},
}
STILL = dict.fromkeys(("hidden_dropout", "attention_dropout", "final_dropout", "feat_proj_dropout"), 0.0)
NAN = torch.nan


def batch(rows: list[int]) -> dict[str, Any]:
    """Four clips of each of some processes, of other lengths and with other labels."""
    torch.manual_seed(1)
    noise = torch.randn(2, 4, 8_000)
    lengths = torch.tensor([[8_000, 3_000, 5_000, 6_000], [2_000, 4_000, 7_000, 2_500]])
    mask = (torch.arange(8_000) < lengths[..., None]).long()
    both = {
        "input_values": noise * mask,
        "attention_mask": mask,
        "clean_values": 0.5 * noise * mask,
        "labels": torch.tensor([[0, 1, -100, -100], [2, -100, 1, 3]]),
        "valence_labels": torch.tensor([[0.1, NAN, 0.9, NAN], [0.4, 0.2, 0.8, 0.6]])[..., None],
        "arousal_labels": torch.tensor([[0.3, 0.5, 0.1, NAN], [0.4, NAN, 0.8, 0.6]])[..., None],
        "intent_labels": torch.tensor([[0, -100, -100, -100], [2, 1, 1, -100]]),
        "speaker_labels": torch.tensor([[0, 1, -100, -100], [-100, 0, 1, 1]]),
    }
    own = {name: value[rows].flatten(0, 1) for name, value in both.items()}
    return own | {"task_labels": {name: own.pop(f"{name}_labels") for name in CLIP_TASKS}}


def learned(variant: dict[str, Any], rows: list[int]) -> dict[str, torch.Tensor]:
    """The losses, averaged over the processes, and the gradients after one step of a model."""
    torch.manual_seed(0)
    fields = {**TINY_SIZES, "tasks": ["enhancement", "emotion", *CLIP_TASKS], "clip_tasks": CLIP_TASKS}
    model = Model(SparseMeritConfig(**{**fields, "class_weights": [1.0, 3.0, 0.2, 0.7], **STILL, **variant})).train()
    several = torch.distributed.is_initialized()
    trained = DistributedDataParallel(model, find_unused_parameters=True) if several else model
    outputs = trained(**batch(rows))
    outputs.loss.backward()
    losses = {f"loss {name}": loss.detach().clone() for name, loss in outputs.losses.items()}
    for loss in losses.values() if several else ():
        torch.distributed.all_reduce(loss)
        loss /= torch.distributed.get_world_size()
    return losses | {name: each.grad for name, each in model.named_parameters() if each.grad is not None}


if __name__ == "__main__":
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    for number, variant in enumerate(VARIANTS):
        values = learned(variant, [rank])
        if rank == 0:
            save_file(
                {name: value.contiguous() for name, value in values.items()}, f"{sys.argv[1]}{number}.safetensors"
            )
    torch.distributed.destroy_process_group()
