# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""
The effect of each change to the computation: `python -m benchmarks.changes`.

Each change is timed in turn with what it replaced, on the same weights and inputs, and both must give the same result.
Writes `changes.json` and `changes.md` to `benchmarks/results/MACHINE`.
"""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any

import torch
import typer
from torch.nn import functional as F
from transformers.models.wavlm.modeling_wavlm import WavLMAttention, WavLMFeatureEncoder

from benchmarks.published import PublishedArrangement
from benchmarks.speed import LARGE, RATE, machine, random_model
from benchmarks.timing import in_turn, peak_memory, results_folder
from modeling_sparse_merit import DEFAULT_CHECKPOINT, SparseMeritConfig
from modeling_sparse_merit.models.sparse_merit.attention import SparseMeritAttention, reversed_key_mask
from modeling_sparse_merit.models.sparse_merit.encoder import ConvolutionFeatureEncoder
from modeling_sparse_merit.models.sparse_merit.enhancement import MAGNITUDE_FLOOR, Spectrogram
from modeling_sparse_merit.models.sparse_merit.experts import LayerFrames, MixtureOfExperts
from modeling_sparse_merit.models.sparse_merit.quantization import Bf16Linear, Int8Linear, choose_int8, is_bf16_fast

FP32, BF16 = torch.float32, torch.bfloat16
Sides = tuple[Callable[[], torch.Tensor], Callable[[], torch.Tensor]]


@dataclass(frozen=True)
class Change:
    """
    What was changed, and where it is measured.

    Attributes:
        prepare: Returns what was before and what is now, as calls.
        tolerance: How far both may differ, as a share of the largest number.
        is_taken: False for what was tried and left out: "now" then is the trial.
    """

    name: str
    where: str
    prepare: Callable[[], Sides]
    tolerance: float = 1e-4
    is_taken: bool = True


def frames_of(seconds: float) -> int:
    return round(seconds * 50) - 1


def convolutions(seconds: float, dtype: torch.dtype) -> Sides:
    """WavLM's feature encoder on one recording, and ours, in segments and with channels last."""
    config = SparseMeritConfig(**LARGE)
    ours = ConvolutionFeatureEncoder(config).eval()
    stock = WavLMFeatureEncoder(config).eval()
    stock.load_state_dict(ours.state_dict())
    waveform = torch.randn(1, round(seconds * RATE)).to(dtype)
    return partial(stock.to(dtype), waveform), partial(ours.to(dtype), waveform)


def attention_layer(dtype: torch.dtype) -> SparseMeritAttention:
    config = SparseMeritConfig(**LARGE)
    config._attn_implementation = "sdpa"
    return SparseMeritAttention(config, has_relative_position_bias=True).to(dtype).eval()


def attention(seconds: float, dtype: torch.dtype) -> Sides:
    """One layer of WavLM's attention, whose bias an earlier layer computed, and ours."""
    ours = attention_layer(dtype)
    buckets = {"num_buckets": ours.num_buckets, "max_distance": ours.max_distance}
    stock = WavLMAttention(ours.embed_dim, ours.num_heads, **buckets).to(dtype).eval()
    stock.load_state_dict(ours.state_dict())
    hidden = torch.randn(1, frames_of(seconds), ours.embed_dim).to(dtype)
    mask = torch.ones(hidden.shape[:2], dtype=torch.bool)
    return _attend(stock, hidden, mask), _attend(ours, hidden, reversed_key_mask(mask, dtype))


def attention_in_steps(seconds: float) -> Sides:
    """Our attention in bf16 by torch's fused kernel, and by two products with a softmax between."""
    by_steps = attention_layer(BF16)
    fused = copy.deepcopy(by_steps)
    fused._is_eager_faster = lambda query: False
    hidden = torch.randn(1, frames_of(seconds), by_steps.embed_dim).to(BF16)
    mask = reversed_key_mask(torch.ones(hidden.shape[:2], dtype=torch.bool), BF16)
    return _attend(fused, hidden, mask), _attend(by_steps, hidden, mask)


def _attend(layer: WavLMAttention, hidden: torch.Tensor, mask: torch.Tensor) -> Callable[[], torch.Tensor]:
    bias = layer(hidden, mask)[2]
    return lambda: layer(hidden, mask, bias)[0]


def experts(before: str) -> Sides:
    """Three experts, two tasks, 10 s: the arrangement `before`, and each pair of a frame and an expert once."""
    model = random_model(LARGE)
    integration, tasks = model.model.integration, tuple(model.config.tasks)
    layers = tuple(torch.randn(1, frames_of(10), model.config.hidden_size) for _ in range(25))
    mask = torch.ones(1, frames_of(10), dtype=torch.bool)

    def now() -> torch.Tensor:
        features, _ = integration(layers, mask, tasks)
        return torch.stack([features[task] for task in tasks])

    def on_every_frame() -> torch.Tensor:
        features = PublishedArrangement(model).integrate(layers, mask)
        return torch.stack([features[task] for task in tasks])

    def task_by_task() -> torch.Tensor:
        return torch.stack([integration(layers, mask, (task,))[0][task] for task in tasks])

    return {"on every frame": on_every_frame, "task by task": task_by_task}[before], now


def routers_together() -> Sides:
    """The routers of both tasks one after the other, on the layers side by side; and one product, layer by layer."""
    integration, frames = layer_frames()
    routers = integration.routers

    def one_by_one() -> torch.Tensor:
        inputs = frames[:]
        return torch.stack([router(inputs) for router in routers.values()])

    return one_by_one, lambda: integration._router_logits(frames, tuple(routers))


def frames_for_each_expert() -> Sides:
    """What three experts are given: chosen from all frames side by side; and each expert's made for it alone."""
    _, frames = layer_frames()
    places = torch.rand(len(frames), 3).topk(2, dim=-1).indices  # of three experts, two a frame
    chosen = [(places == expert).any(-1).nonzero().squeeze(-1) for expert in range(3)]

    def of_all() -> torch.Tensor:
        inputs = frames[:]
        return torch.stack([inputs[own].sum(0) for own in chosen])

    return of_all, lambda: torch.stack([frames[own].sum(0) for own in chosen])


def layer_frames() -> tuple[MixtureOfExperts, LayerFrames]:
    """An integration of large size, and 10 s of layer outputs as it gives them to routers and experts."""
    integration = random_model(LARGE).model.integration
    layers = tuple(torch.randn(1, frames_of(10), 1024) for _ in integration.layer_norms)
    return integration, LayerFrames(integration.layer_norms, layers, torch.arange(frames_of(10)))


def layer_norms_together() -> Sides:
    """What the experts are given: a layer norm for each layer output and a concatenation, and one norm of them all."""
    norms = random_model(LARGE).model.integration.layer_norms
    layers = [torch.randn(frames_of(10), 1024) for _ in norms]
    weight, bias = (torch.stack([getattr(norm, name) for norm in norms]) for name in ("weight", "bias"))  # (L, D)

    def together() -> torch.Tensor:
        normed = F.layer_norm(torch.stack(layers, dim=1), (1024,), eps=norms[0].eps)  # (T, L, D)
        return normed.mul_(weight).add_(bias).flatten(1)

    return lambda: torch.cat(norms(layers), dim=-1), together


def linear(before: str, now: str) -> Sides:
    """A feed-forward layer of the encoder, 1024 to 4096, on 10 s, as this machine has it in two precisions."""
    layer = torch.nn.Linear(1024, 4096)
    rest = BF16 if is_bf16_fast() else FP32  # in which the layers around one in low precision compute
    frames = torch.randn(frames_of(10), 1024)
    low = copy.deepcopy(layer).to(rest)
    kinds = {"fp32": layer, "bf16": low if is_bf16_fast() else Bf16Linear(layer), "int8": choose_int8()(low)}
    kinds |= {"all bf16": copy.deepcopy(layer).to(BF16), "int8, torch": Int8Linear(low)}
    inputs = dict.fromkeys(kinds, frames.to(rest)) | {"fp32": frames, "all bf16": frames.to(BF16)}
    return partial(kinds[before], inputs[before]), partial(kinds[now], inputs[now])


def spectra() -> tuple[Spectrogram, torch.Tensor]:
    """The transform of the embedded checkpoint, and ten spectra of 4 s."""
    config = SparseMeritConfig.from_pretrained(DEFAULT_CHECKPOINT)
    transform = Spectrogram(config.n_fft, config.hop_length, config.win_length)
    waveform = torch.randn(10, 4 * RATE)
    return transform, transform.transform(waveform, torch.full((10,), waveform.shape[1]))


def compressed_magnitude() -> Sides:
    """(|X| + 1e-6)^0.3 by torch's own functions, and by sums of squares and a logarithm."""
    transform, spectrum = spectra()
    return lambda: (spectrum.abs() + MAGNITUDE_FLOOR) ** 0.3, lambda: transform.compressed_magnitude(spectrum)


def overlap_add() -> Sides:
    """The way from windowed frames to a waveform by `fold`, and by a sum for each overlap."""
    transform, spectrum = spectra()
    frames = torch.fft.irfft(spectrum, transform.n_fft)
    length = transform.n_fft + (frames.shape[1] - 1) * transform.hop_length
    sizes = {"kernel_size": (1, transform.n_fft), "stride": (1, transform.hop_length)}
    folded = lambda: F.fold(frames.transpose(1, 2), (1, length), **sizes).flatten(1)  # noqa: E731
    return folded, lambda: transform._overlap_add(frames)


ALWAYS = [
    Change("convolutions in segments, channels last", "feature encoder, 10 s, fp32", partial(convolutions, 10, FP32)),
    Change("convolutions in segments, channels last", "feature encoder, 60 s, fp32", partial(convolutions, 60, FP32)),
    Change("attention: bias as a view, no weights", "one layer, 10 s, fp32", partial(attention, 10, FP32)),
    Change("attention: bias as a view, no weights", "one layer, 60 s, fp32", partial(attention, 60, FP32)),
    Change("experts on the frames that are theirs", "3 experts, 10 s, fp32", partial(experts, "on every frame")),
    Change("experts for both tasks at once", "3 experts, 10 s, fp32", partial(experts, "task by task")),
    Change("frames made for each expert, not for all", "3 experts, 10 s, fp32", frames_for_each_expert),
    Change("routers of both tasks in one product", "10 s, fp32", routers_together),
    Change("bf16 for fp32", "1024 to 4096, 10 s", partial(linear, "fp32", "bf16"), 0.05),
    Change("int8 for bf16", "1024 to 4096, 10 s", partial(linear, "bf16", "int8"), 0.05),
    Change("magnitude and power without `abs` and `pow`", "spectra of 40 s", compressed_magnitude),
    Change("overlap-add by sums, not by `fold`", "spectra of 40 s", overlap_add),
    Change("layer norms of all layers as one", "10 s, fp32", layer_norms_together, is_taken=False),
]
WHERE_BF16_IS_FAST = [
    Change(
        "convolutions in segments, channels last", "feature encoder, 10 s, bf16", partial(convolutions, 10, BF16), 0.05
    ),
    Change("attention: bias as a view, no weights", "one layer, 10 s, bf16", partial(attention, 10, BF16), 0.05),
    Change("attention: bias as a view, no weights", "one layer, 60 s, bf16", partial(attention, 60, BF16), 0.05),
    Change("attention in three steps, not fused", "one layer, 10 s, bf16", partial(attention_in_steps, 10), 0.05),
]
WHERE_IT_IS_SLOW = [
    Change("bf16 weights alone, not all in bf16", "1024 to 4096, 10 s", partial(linear, "all bf16", "bf16"), 0.05),
    Change(
        "int8 by oneDNN's kernel, not `_int_mm`", "1024 to 4096, 10 s", partial(linear, "int8, torch", "int8"), 0.05
    ),
]
CHANGES = ALWAYS + (WHERE_BF16_IS_FAST if is_bf16_fast() else WHERE_IT_IS_SLOW)


def prepare(index: int, side: int) -> Callable[[], Any]:
    """What `peak_memory` runs: one side of one change."""
    torch.manual_seed(0)
    with torch.inference_mode():
        return torch.inference_mode()(CHANGES[index].prepare()[side])


def measure(index: int, rounds: int) -> dict[str, Any]:
    """Times and peak memory of both sides of a change, which must agree."""
    change = CHANGES[index]
    sides = {"before": prepare(index, 0), "now": prepare(index, 1)}
    before, now = (side().float() for side in sides.values())
    difference = ((now - before).abs().max() / before.abs().max()).item()
    if not difference <= change.tolerance:
        raise AssertionError(f"{change.name}, {change.where}: both sides differ by {difference:.1e}.")
    timings = in_turn(sides, rounds)
    return {
        "change": change.name,
        "where": change.where,
        "taken": change.is_taken,
        "milliseconds": {name: 1000 * timing.median for name, timing in timings.items()},
        "speed": timings["now"].speed_against(timings["before"]),
        "difference": difference,
        "memory": {name: peak_memory(prepare, index, number)["working"] for number, name in enumerate(sides)},
    }


def render(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    facts = ", ".join(f"{name} {value}" for name, value in results["machine"].items())
    lines = [
        "# What each change brought",
        "",
        f"`python -m benchmarks.changes`: each part by itself, WavLM-Large sizes, random weights; {facts}. Peak "
        "memory is that of a process of its own, with its libraries.",
        "",
        "| change | measured on | before (ms) | now (ms) | times as fast (lowest, highest) | peak memory (MiB) |",
        "|---|---|---|---|---|---|",
    ]
    for row in results["changes"]:
        times, memory, (median, low, high) = row["milliseconds"], row["memory"], row["speed"]
        name = row["change"] if row["taken"] else f"not taken: {row['change']}"
        lines.append(
            f"| {name} | {row['where']} | {times['before']:.1f} | {times['now']:.1f} "
            f"| {median:.2f} ({low:.2f}, {high:.2f}) | {memory['before']:.0f} to {memory['now']:.0f} |"
        )
    return "\n".join(lines) + "\n"


def main(rounds: Annotated[int, typer.Option(help="Times that each side is timed.")] = 9) -> None:
    """Measures every change and writes the results."""
    measured = []
    for index in range(len(CHANGES)):
        measured.append(measure(index, rounds))
        print(measured[-1], flush=True)
    results = {"machine": machine("cpu"), "changes": measured}
    (results_folder() / "changes.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (results_folder() / "changes.md").write_text(render(results), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
