# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""
Speed of a corpus on Ray Data with one and two actors of one CPU each: `python -m benchmarks.ray_corpora`.

Run it on an otherwise idle machine with two cores or more. The start of Ray and of the actors is reported apart from
the rate: it does not grow with the corpus. Writes `ray_corpora.json` and `ray_corpora.md` to
`benchmarks/results/MACHINE`.
"""

import json
import os
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import ray
import torch
import typer

from modeling_sparse_merit.inference.corpora import load_model
from modeling_sparse_merit.inference.ray_corpora import enhance_dataset, read_sources

from .folder import LENGTHS, make_folder
from .timing import results_folder

ACTORS = (1, 2)


def measure(folder: Path, target: Path, model: str, actors: int) -> dict[str, float]:
    """Processes a folder on a Ray of its own; the rate is that after the first part of the corpus."""
    os.environ["OMP_NUM_THREADS"] = "1"
    ray.init("local", num_cpus=max(ACTORS), include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    seen: list[tuple[float, float]] = []
    begun = time.perf_counter()
    try:
        enhance_dataset(
            read_sources([str(folder)]),
            target,
            partial(load_model, model, device="cpu"),
            actors=actors,
            progress=lambda done, total: seen.append((time.perf_counter(), done)),
        )
    finally:
        ray.shutdown()
    (first, first_done), (last, last_done) = seen[0], seen[-1]
    rate = (last_done - first_done) / (last - first)
    return {
        "seconds": round(time.perf_counter() - begun, 1),
        "until the first part": round(first - begun, 1),
        "times real time": round(rate, 1),
        "hours of all actors for 1,000 hours of audio": round(1000 * actors / rate, 2),
    }


def describe(results: dict[str, Any]) -> str:
    """The results in Markdown."""
    rows = results["actors"]
    columns = list(next(iter(rows.values())))
    lines = ["| actors | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {actors} | " + " | ".join(map(str, row.values())) + " |" for actors, row in rows.items()]
    return (
        "# Corpora on Ray Data\n\n"
        f"`python -m benchmarks.ray_corpora`: {results['recordings']} recordings, {results['seconds of audio']} s, "
        f"with `{results['model']}`; actors of one CPU on one machine with {results['cpus']} CPUs.\n\n"
        + "\n".join(lines)
    )


def main(
    recordings: int = 1000,
    model: str = "base",
    output: Annotated[Path | None, typer.Option(help="Folder of the results; benchmarks/results/MACHINE.")] = None,
) -> None:
    """Measures each number of actors and writes the results."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        seconds = make_folder(folder / "in", recordings, LENGTHS["mostly short"])
        actors = {number: measure(folder / "in", folder / str(number), model, number) for number in ACTORS}
    results = {
        "recordings": recordings,
        "seconds of audio": round(seconds),
        "model": model,
        "cpus": os.cpu_count(),
        "torch": torch.__version__,
        "measured": time.strftime("%Y-%m-%d"),
        "actors": actors,
    }
    output = output or results_folder()
    output.mkdir(parents=True, exist_ok=True)
    (output / "ray_corpora.json").write_text(json.dumps(results, indent=2) + "\n")
    (output / "ray_corpora.md").write_text(describe(results) + "\n")
    print(describe(results))


if __name__ == "__main__":
    typer.run(main)
