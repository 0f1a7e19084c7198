# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""
Trains the systems of this folder with three seeds, and measures how their tasks share the experts.

Finished runs are skipped, and interrupted ones resume. Writes `experts.json` and `experts.md` to
`benchmarks/results/expansion`: the share of the frames of each task that each expert gets on dev, and the cosine
between the gradients of two tasks on the weights of the experts, which is negative where they conflict: a mean over
batches of training clips, for the trained model.

    python -m benchmarks.expansion
    sparse-merit evaluate --config benchmarks/expansion/evaluation.yaml
"""

import itertools
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks.baselines import train
from benchmarks.writing import RESULTS, commit, write_results
from modeling_sparse_merit import SparseMeritFeatureExtractor
from modeling_sparse_merit import SparseMeritForSpeechEnhancementAndEmotion as Model
from modeling_sparse_merit.training.dataset import build_loader, load_clips
from modeling_sparse_merit.training.settings import TrainingSettings, parse_settings
from modeling_sparse_merit.training.targets import configured_tasks
from modeling_sparse_merit.training.validation import EXPERT_USE

FOLDER, RUNS = Path(__file__).parent, Path("runs/expansion")
SYSTEMS = ("two_tasks", "speaker", "attributes", "intent", "frozen")
SHARED = SYSTEMS[:-1]
"""Systems whose tasks all learn the experts."""
BATCHES = 20


def main(seeds: Annotated[int, typer.Option(help="Number of seeds.")] = 3) -> None:
    """Trains all missing runs in runs/expansion/SYSTEM/SEED, and writes the results."""
    use, cosines = defaultdict(list), defaultdict(list)
    for seed, system in itertools.product(range(seeds), SYSTEMS):
        folder = RUNS / system / str(seed)
        arguments = [str(FOLDER / f"{system}.yaml"), "--seed", str(seed), "--output_dir", str(folder)]
        if failure := train(folder, arguments):
            raise SystemExit(failure)
        use[system].append(expert_use(folder / "best"))
        if system in SHARED:
            cosines[system].append(gradient_cosines(folder / "best", parse_settings(arguments)))
    results = {
        "command": "python -m benchmarks.expansion",
        "commit": commit(),
        "seeds": seeds,
        "batches": BATCHES,
        "expert_use": dict(use),
        "gradient_cosines": dict(cosines),
    }
    text = as_markdown(results)
    write_results(RESULTS / "expansion" / "experts", results, text)
    print(text)


def expert_use(best: Path) -> dict[str, list[float]]:
    """The share of the frames of each task for each expert on dev: {task: (experts,)}."""
    dev = json.loads((best / "dev_results.json").read_text(encoding="utf-8"))["dev"]
    shares: dict[str, list[float]] = defaultdict(list)
    for name, share in dev.items():
        if name.startswith(EXPERT_USE):
            shares[name.removeprefix(EXPERT_USE).rpartition("/")[0]].append(share)
    return shares


def gradient_cosines(best: Path, settings: TrainingSettings) -> dict[str, float]:
    """
    The cosine between the gradients of two tasks on the weights of the experts, {"task, task": mean over batches}.

    Args:
        best: folder of the model.
        settings: settings of its training, whose clips are used.
    """
    torch.manual_seed(settings.seed)
    model, feature_extractor = Model.from_pretrained(best).eval(), SparseMeritFeatureExtractor.from_pretrained(best)
    model.requires_grad_(False)
    experts = list(model.model.integration.experts.requires_grad_(True).parameters())
    clips = load_clips(settings, "train", configured_tasks(settings, model.tasks))
    loader = build_loader(clips, feature_extractor, settings, shuffle=True)
    by_pair = defaultdict(list)
    for batch in itertools.islice(loader, BATCHES):
        gradients = dict(task_gradients(model(**batch).losses, list(model.tasks), experts))
        for one, other in itertools.combinations(gradients, 2):
            by_pair[f"{one}, {other}"].append(float(gradients[one] @ gradients[other]))
    return {pair: float(np.mean(values)) for pair, values in by_pair.items()}


def task_gradients(
    losses: dict[str, torch.Tensor], tasks: list[str], weights: list[torch.nn.Parameter]
) -> Iterator[tuple[str, torch.Tensor]]:
    """The gradient of the loss of each task that the batch has targets for: task, unit vector."""
    for task in tasks:
        if task in losses and losses[task].requires_grad:
            parts = torch.autograd.grad(losses[task], weights, retain_graph=True, materialize_grads=True)
            gradient = torch.cat([part.flatten() for part in parts])
            if gradient.any():
                yield task, gradient / gradient.norm()


def as_markdown(results: dict[str, Any]) -> str:
    """The results as tables."""
    lines = [
        "# Further tasks on the same experts",
        "",
        f"Means over {results['seeds']} seeds, with the smallest and the largest of them.",
        "",
        "## Share of the frames of a task that each expert gets, on dev",
        "",
        "| system | task | experts |",
        "| --- | --- | --- |",
    ]
    for system, runs in results["expert_use"].items():
        for task in runs[0]:
            shares = np.array([run[task] for run in runs])  # (seeds, experts)
            texts = [_spread(shares[:, expert]) for expert in range(shares.shape[1])]
            lines.append(f"| {system} | {task} | {'; '.join(texts)} |")
    lines += [
        "",
        "## Cosine between the gradients of two tasks on the weights of the experts",
        "",
        f"Of {results['batches']} batches of training clips.",
        "",
        "| tasks | " + " | ".join(results["gradient_cosines"]) + " |",
        "| --- |" + " ---: |" * len(results["gradient_cosines"]),
    ]
    pairs = dict.fromkeys(pair for runs in results["gradient_cosines"].values() for run in runs for pair in run)
    for pair in pairs:
        cells = [
            _spread(np.array([run[pair] for run in runs])) if pair in runs[0] else "–"
            for runs in results["gradient_cosines"].values()
        ]
        lines.append(f"| {pair} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: np.ndarray) -> str:
    """Mean, least and largest of some numbers."""
    return f"{values.mean():.2f} ({values.min():.2f} to {values.max():.2f})"


if __name__ == "__main__":
    typer.run(main)
