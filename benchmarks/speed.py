# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""
Speed and memory against the published arrangement, on the same random weights: `python -m benchmarks.speed`.

Every figure is a ratio of two sides timed in turn in one run. The sides are `published` (see `published.py`) and this
package in fp32, bf16 and int8, on a CPU; on a CUDA device (`--device cuda`), fp32, bf16, bf16 compiled and bf16 with
FlexAttention. fp32 must agree with the published arrangement, otherwise there is no result.
"""

import copy
import json
import platform
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.published import PublishedArrangement, run_heads
from benchmarks.speed_figures import draw_curves
from benchmarks.timing import MEBIBYTE, in_turn, peak_memory, results_folder
from modeling_sparse_merit import SparseMeritConfig, SparseMeritForSpeechEnhancementAndEmotion
from modeling_sparse_merit.models.sparse_merit.quantization import (
    Bf16Linear,
    choose_int8,
    is_bf16_fast,
    plain_dtype,
    set_precision,
)

RATE = 16_000
TOLERANCE = 1e-4
LARGE: dict[str, Any] = {}  # the defaults
SMALL = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "conv_dim": (64,) * 7,
    "expert_hidden_size": 1024,
}
LENGTHS = {1: 5, 3: 5, 10: 5, 30: 3, 60: 2}  # seconds of audio: rounds
SMALL_LENGTHS = (1, 3, 10, 30, 60, 180, 600)
PUBLISHED_LIMIT = 60  # seconds; at 180, its attention would hold more than 10 GB
Side = Callable[..., Any]


def random_model(layout: dict[str, Any], **changes: Any) -> SparseMeritForSpeechEnhancementAndEmotion:
    """A model of that layout with random weights, and a position bias that counts."""
    torch.manual_seed(0)
    model = SparseMeritForSpeechEnhancementAndEmotion(SparseMeritConfig(**layout, **changes)).eval()
    torch.nn.init.normal_(model.model.encoder.encoder.layers[0].attention.rel_attn_embed.weight)
    return model


def recording(seconds: float, device: str = "cpu", batch_size: int = 1) -> dict[str, torch.Tensor]:
    """Noise of unit variance, as a model is given it."""
    generator = torch.Generator().manual_seed(1)
    values = torch.randn(batch_size, round(seconds * RATE), generator=generator).to(device)
    return {"input_values": values, "attention_mask": torch.ones_like(values, dtype=torch.long)}


def in_precisions(
    model: SparseMeritForSpeechEnhancementAndEmotion, device: str
) -> dict[str, SparseMeritForSpeechEnhancementAndEmotion]:
    """The model, and copies of it in the other precisions that the device has."""
    model = model.to(device)
    models = {"fp32": model}
    for precision in ("bf16", "int8") if device == "cpu" else ("bf16",):
        models[precision] = copy.deepcopy(model)
        set_precision(models[precision], precision)
    return models


def prepare_sides(model: SparseMeritForSpeechEnhancementAndEmotion, device: str) -> dict[str, Side]:
    """The published arrangement, and this package in each precision, on the same weights."""
    models = in_precisions(model, device)
    sides: dict[str, Side] = {"published": PublishedArrangement(model), **models}
    if device != "cpu":
        bf16 = models["bf16"]
        flex = copy.deepcopy(bf16)
        flex.set_attn_implementation("flex_attention")
        sides |= {"bf16 compiled": torch.compile(copy.deepcopy(bf16), dynamic=True), "bf16 FlexAttention": flex}
    return {name: torch.inference_mode()(side) for name, side in sides.items()}


def largest_difference(sides: dict[str, Side], inputs: dict[str, torch.Tensor]) -> dict[str, float]:
    """Of logits and waveform, against the published arrangement, for each side."""
    expected = sides["published"](**inputs)
    measured = {}
    for name, side in sides.items():
        result = side(**inputs)
        measured[name] = max((result[key].float() - value).abs().max().item() for key, value in expected.items())
    if measured["fp32"] > TOLERANCE:
        raise AssertionError(f"fp32 differs from the published arrangement by {measured['fp32']:.1e}.")
    return measured


def load_side(folder: str, side: str, seconds: float, device: str) -> Callable[[], Any]:
    """What `peak_memory` runs: one side, loaded from a checkpoint, with one recording."""
    load = partial(SparseMeritForSpeechEnhancementAndEmotion.from_pretrained, folder)
    flex = {"attn_implementation": "flex_attention"} if side.endswith("FlexAttention") else {}
    precision = "fp32" if side == "published" else side.split()[0]
    model: Side = load(dtype=precision, **flex).eval().to(device)
    if side == "published":
        model = PublishedArrangement(model)
    elif side.endswith("compiled"):
        model = torch.compile(model, dynamic=True)
    inputs = recording(seconds, device)
    return torch.inference_mode()(lambda: model(**inputs))


# Floors: what the arithmetic alone would take ------------------------------------------------------------------------


def operations(config: SparseMeritConfig, seconds: float, experts_a_frame: float) -> dict[str, float]:
    """Operations of one recording: of `linear` layers and experts, and `other` ones (convolutions, attention)."""
    length, channels, other = round(seconds * RATE), 1, 0.0
    for width, kernel, stride in zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True):
        length = (length - kernel) // stride + 1
        other += 2.0 * length * width * channels * kernel
        channels = width
    width, wide, layers = config.hidden_size, config.intermediate_size, config.num_hidden_layers
    group = width // config.num_conv_pos_embedding_groups
    other += 2.0 * length * width * group * config.num_conv_pos_embeddings
    other += layers * 4.0 * length * length * width
    linear = 2.0 * length * (channels * width + layers * (4 * width * width + 2 * width * wide))
    inputs = config.num_layer_outputs * width
    linear += 2.0 * length * experts_a_frame * config.expert_hidden_size * (inputs + width)
    return {"linear": linear, "other": other}


def product_rates(device: str) -> dict[str, float]:
    """Operations a second of matrix products (499, 1024) x (1024, 4096) as each precision has them, in turn."""
    frames = torch.randn(499, 1024, device=device)
    layer = torch.nn.Linear(1024, 4096, bias=True, device=device)
    sides: dict[str, Callable[[], Any]] = {"fp32": partial(layer, frames)}
    if plain_dtype("bf16") is None:
        sides["bf16"] = partial(Bf16Linear(layer), frames)
    else:
        sides["bf16"] = partial(copy.deepcopy(layer).bfloat16(), frames.bfloat16())
    if device == "cpu":
        low = choose_int8()(layer)
        sides["int8"] = partial(low.multiply, low.round(frames, frames.abs().amax() / low.largest))
    timings = in_turn({name: torch.inference_mode()(side) for name, side in sides.items()}, rounds=15, warm_up=3)
    return {name: 2.0 * 499 * 1024 * 4096 / timing.median for name, timing in timings.items()}


def floor_seconds(
    config: SparseMeritConfig, seconds: float, side: str, rates: dict[str, float], pairs: float
) -> float:
    """How long the operations of a side take at the measured rates."""
    count = operations(config, seconds, config.num_experts if side == "published" else pairs)
    precision = "fp32" if side == "published" else side.split()[0]
    other = rates["bf16" if is_bf16_fast() and precision != "fp32" else "fp32"]
    return count["linear"] / rates[precision] + count["other"] / other


def experts_a_frame(model: SparseMeritForSpeechEnhancementAndEmotion, inputs: dict[str, torch.Tensor]) -> float:
    """How many experts a frame is given to, by one task or by two."""
    with torch.inference_mode():
        logits = model(**inputs, output_router_logits=True).router_logits
    choices = torch.stack([each.argmax(-1) for each in logits.values()])  # (K, B, T)
    return 1.0 + (choices[0] != choices[-1]).float().mean().item()


# What is measured ----------------------------------------------------------------------------------------------------


def measure_lengths(
    model: SparseMeritForSpeechEnhancementAndEmotion, folder: str, device: str, rates: dict[str, float]
) -> list[dict[str, Any]]:
    """The main table: time, floor, memory and difference of each side at each length."""
    sides, rows = prepare_sides(model, device), []
    for seconds, rounds in LENGTHS.items():
        inputs = recording(seconds, device)
        differences = largest_difference(sides, inputs)
        timings = in_turn({name: partial(side, **inputs) for name, side in sides.items()}, rounds, warm_up=0)
        pairs = experts_a_frame(model, inputs)
        for name, timing in timings.items():
            rows.append(
                {
                    "seconds": seconds,
                    "side": name,
                    "time": timing.median,
                    "speed": timing.speed_against(timings["published"]),
                    "floor": floor_seconds(model.config, seconds, name, rates, pairs),
                    "difference": differences[name],
                }
            )
            print(rows[-1], flush=True)
    del sides
    for row in rows:  # the sides above are gone
        row["memory"] = peak_memory(load_side, folder, row["side"], row["seconds"], device)
        print(row["seconds"], row["side"], row["memory"], flush=True)
    return rows


def measure_memory_floor(model: SparseMeritForSpeechEnhancementAndEmotion) -> dict[str, float]:
    """MiB that a process on a CPU cannot be below: Python with its libraries, and the weights in each precision."""
    weights = {
        f"weights, {name}": sum(values.nbytes for values in each.state_dict().values()) / MEBIBYTE
        for name, each in in_precisions(model, "cpu").items()
    }
    return {"Python and libraries": peak_memory(_nothing)["working"], **weights}


def _nothing() -> Callable[[], None]:
    return lambda: None


def measure_parts(model: SparseMeritForSpeechEnhancementAndEmotion, device: str) -> dict[str, dict[str, float]]:
    """Where the time of a clip of 10 s goes: each box of the figure, published and in each precision, in turn."""
    inputs = recording(10, device)
    parts = {"published": _published_parts(PublishedArrangement(model), inputs)}
    parts |= {name: _parts(each, inputs) for name, each in in_precisions(model, device).items()}
    measured: dict[str, dict[str, float]] = {}
    for part in ("feature encoder", "transformer layers", "experts", "heads"):
        timings = in_turn({name: torch.inference_mode()(calls[part]) for name, calls in parts.items()})
        measured[part] = {name: timing.median for name, timing in timings.items()}
    return measured


@torch.inference_mode()
def _published_parts(published: PublishedArrangement, inputs: dict[str, torch.Tensor]) -> dict[str, Callable[[], Any]]:
    encoder, values, mask = published.encoder, inputs["input_values"], inputs["attention_mask"]
    hidden_states = encoder(values, mask, output_hidden_states=True).hidden_states
    frame_mask = encoder._get_feature_vector_attention_mask(hidden_states[0].shape[1], mask)
    projected = encoder.feature_projection(encoder.feature_extractor(values).transpose(1, 2))[0]
    features = published.integrate(hidden_states, frame_mask)
    return {
        "feature encoder": lambda: encoder.feature_projection(encoder.feature_extractor(values).transpose(1, 2)),
        "transformer layers": lambda: encoder.encoder(projected, frame_mask, output_hidden_states=True),
        "experts": lambda: published.integrate(hidden_states, frame_mask),
        "heads": lambda: run_heads(published.model, values, mask, features, frame_mask),
    }


@torch.inference_mode()
def _parts(
    model: SparseMeritForSpeechEnhancementAndEmotion, inputs: dict[str, torch.Tensor]
) -> dict[str, Callable[[], Any]]:
    encoder, values, mask = model.model.encoder, inputs["input_values"], inputs["attention_mask"]
    layers, frame_mask = encoder(values, mask)
    tasks = tuple(model.config.tasks)
    features, _ = model.model.integration(layers, frame_mask, tasks)
    waveform = values.to(model.dtype)
    projected = encoder.feature_projection(encoder.feature_extractor(waveform).transpose(1, 2))[0]
    return {
        "feature encoder": lambda: encoder.feature_projection(encoder.feature_extractor(waveform).transpose(1, 2)),
        "transformer layers": lambda: encoder._layer_outputs(projected, frame_mask),
        "experts": lambda: model.model.integration(layers, frame_mask, tasks),
        "heads": lambda: run_heads(model, values, mask, features, frame_mask),
    }


def measure_experts(counts: tuple[int, ...], device: str) -> list[dict[str, float]]:
    """The expert part alone on 10 s, against the number of experts: seconds of both arrangements, in turn."""
    rows = []
    for count in counts:
        model = random_model(LARGE, num_experts=count).to(device)
        layers = tuple(torch.randn(1, 499, model.config.hidden_size, device=device) for _ in range(25))
        mask = torch.ones(1, 499, dtype=torch.bool, device=device)
        ours = partial(model.model.integration, layers, mask, tuple(model.config.tasks))
        published = partial(PublishedArrangement(model).integrate, layers, mask)
        sides = {"published": torch.inference_mode()(published), "fp32": torch.inference_mode()(ours)}
        timings = in_turn(sides, rounds=5)
        rows.append({"experts": count, **{name: timing.median for name, timing in timings.items()}})
        print(rows[-1], flush=True)
    return rows


def measure_emotion_only(model: SparseMeritForSpeechEnhancementAndEmotion, device: str) -> list[dict[str, Any]]:
    """`tasks=("emotion",)` against a stock WavLM with the experts that its frames are given to, and a classifier."""
    published = PublishedArrangement(model)

    @torch.inference_mode()
    def classifier(input_values: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        states = published.encoder(input_values, attention_mask, output_hidden_states=True).hidden_states
        frame_mask = published.encoder._get_feature_vector_attention_mask(states[0].shape[1], attention_mask)
        features, _ = model.model.integration(states, frame_mask, ("emotion",))
        return model.heads["emotion"](features["emotion"], frame_mask)

    rows = []
    for seconds in (1, 3, 10):
        inputs = recording(seconds, device)
        ours = torch.inference_mode()(partial(model, **inputs, tasks=("emotion",)))
        timings = in_turn({"plain": partial(classifier, **inputs), "ours": ours}, rounds=9)
        rows.append({"seconds": seconds, "speed": timings["ours"].speed_against(timings["plain"])})
    return rows


def measure_curves(device: str) -> dict[str, Any]:
    """The small layout: time and peak memory against length, and time against batch size."""
    model = random_model(SMALL)
    curves: dict[str, Any] = {"length": [], "batch": []}
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        sides = prepare_sides(model, device)
        for seconds in SMALL_LENGTHS:
            inputs, present = recording(seconds, device), _possible(sides, seconds)
            timings = in_turn(
                {n: partial(side, **inputs) for n, side in present.items()}, rounds=1 if seconds > 30 else 3
            )
            for name, timing in timings.items():
                memory = peak_memory(load_side, folder, name, seconds, device)
                curves["length"].append({"seconds": seconds, "side": name, "time": timing.median, "memory": memory})
                print(curves["length"][-1], flush=True)
    for batch_size in (1, 2, 4, 8):
        inputs = recording(4, device, batch_size)
        timings = in_turn({n: partial(side, **inputs) for n, side in sides.items()}, rounds=2)
        curves["batch"] += [{"batch": batch_size, "side": n, "time": t.median} for n, t in timings.items()]
    return curves


def _possible(sides: dict[str, Side], seconds: int) -> dict[str, Side]:
    return {name: side for name, side in sides.items() if name != "published" or seconds <= PUBLISHED_LIMIT}


# The report ----------------------------------------------------------------------------------------------------------


def machine(device: str) -> dict[str, Any]:
    """What the figures hold for."""
    measured = {"torch": torch.__version__, "device": device, "threads": torch.get_num_threads()}
    measured |= {"capability": torch.backends.cpu.get_cpu_capability(), "architecture": platform.machine()}
    return measured | ({"gpu": torch.cuda.get_device_name()} if device != "cpu" else {})


def render(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    facts = ", ".join(f"{name} {value}" for name, value in results["machine"].items())
    rates = ", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in results["rates"].items())
    lines = [
        "# Speed and memory against the published arrangement",
        "",
        f"`{results['command']}`: WavLM-Large layout, three experts, random weights, one recording; {facts}.",
        f"Matrix products (10^9 operations a second): {rates}. The floor is what the operations alone take at these "
        "rates. Memory is the peak of a process of its own while it runs; in brackets, with imports and loading, in "
        "which the file of the weights is mapped: such pages the system takes back when others need them.",
        "",
        "| length | side | time (s) | speed: median (lowest, highest) | of the floor | memory (MiB) | share "
        "| difference |",
        "|---|---|---|---|---|---|---|---|",
    ]
    where = "device" if results["machine"]["device"] != "cpu" else "working"
    for row in results["lengths"]:
        base = next(r for r in results["lengths"] if r["seconds"] == row["seconds"] and r["side"] == "published")
        median, low, high = row["speed"]
        memory = row["memory"]
        lines.append(
            f"| {row['seconds']} s | {row['side']} | {row['time']:.2f} | {median:.2f} ({low:.2f}, {high:.2f}) "
            f"| {row['time'] / row['floor']:.2f} x | {memory[where]:.0f} ({memory['total']:.0f}) "
            f"| {memory[where] / base['memory'][where]:.0%} | {row['difference']:.0e} |"
        )
    if "memory_floor" in results:
        parts = ", ".join(f"{name} {size:.0f}" for name, size in results["memory_floor"].items())
        lines += ["", f"What memory cannot be below, in MiB: {parts}."]
    lines += ["", "Where 10 s go, in seconds:", "", *_table(results["parts"])]
    lines += ["", "The expert part alone, 10 s, in seconds, and times that of three experts:", ""]
    lines += ["| experts | published | | this package | |", "|---|---|---|---|---|"]
    three = next(row for row in results["experts"] if row["experts"] == 3)
    for row in results["experts"]:
        pairs = (f"{row[side]:.2f} | {row[side] / three[side]:.2f}" for side in ("published", "fp32"))
        lines.append(f"| {row['experts']} | {' | '.join(pairs)} |")
    lines += ["", "Emotion only, against a stock WavLM with the experts of its frames and a classifier, fp32:", ""]
    lines += ["| length | speed: median (lowest, highest) |", "|---|---|"]
    for row in results["emotion_only"]:
        lines.append("| {} s | {:.2f} ({:.2f}, {:.2f}) |".format(row["seconds"], *row["speed"]))
    return "\n".join(lines) + "\n"


def _table(rows: dict[str, dict[str, float]]) -> list[str]:
    names = list(next(iter(rows.values())))
    head = [f"| | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    return head + [f"| {part} | {' | '.join(f'{row[n]:.3f}' for n in names)} |" for part, row in rows.items()]


def main(
    output: Annotated[
        Path | None, typer.Option(help="Folder of the report; by default `benchmarks/results/MACHINE/speed`.")
    ] = None,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
) -> None:
    """Measures everything and writes the report."""
    torch.backends.cudnn.allow_tf32 = False  # fp32 is fp32
    command = "python -m benchmarks.speed" + (f" --device {device}" if device != "cpu" else "")
    results: dict[str, Any] = {"command": command, "machine": machine(device), "rates": product_rates(device)}
    model = random_model(LARGE)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        results["lengths"] = measure_lengths(model, folder, device, results["rates"])
    if device == "cpu":
        results["memory_floor"] = measure_memory_floor(model)
    results["parts"] = measure_parts(model, device)
    results["emotion_only"] = measure_emotion_only(model, device)
    del model
    results["experts"] = measure_experts((1, 3, 5, 8), device)
    results["curves"] = measure_curves(device)
    output = output or results_folder(device) / "speed"
    output.mkdir(parents=True, exist_ok=True)
    (output / "speed.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (output / "speed.md").write_text(render(results), encoding="utf-8")
    draw_curves(results, output)


if __name__ == "__main__":
    typer.run(main)
