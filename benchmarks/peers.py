# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Enhancers of other packages next to checkpoints of this one: quality, speed, memory and size.

The quality is that of an evaluation, which is run first; finished conditions are not repeated. Speed is that of one
thread, all systems in turn on the same recording; memory is measured in a process for each. Of a cascade, the
enhancement alone is timed. Writes `peers.json`, `peers.md` and `peers.png` to `benchmarks/results/peers`.

    make runs/peers
    OMP_NUM_THREADS=1 PYTHONPATH=runs/peers python -m benchmarks.peers benchmarks/peers.yaml

`runs/peers` contains the packages that clash with others, so that they are installed without their dependencies.
"""

import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import torch
import typer
from huggingface_hub import ModelCard
from transformers.utils import SAFE_WEIGHTS_NAME, cached_file

from benchmarks.options import NameOption
from benchmarks.timing import Timing, in_turn, peak_memory
from benchmarks.writing import RESULTS, commit, write_results
from modeling_sparse_merit import load_audio
from modeling_sparse_merit.cli.enhance import DEMO_RECORDING
from modeling_sparse_merit.evaluation.configuration import NOISY, EvaluationConfig
from modeling_sparse_merit.evaluation.enhancers import Enhancer
from modeling_sparse_merit.evaluation.markdown import condition_score, format_score, list_measures
from modeling_sparse_merit.evaluation.predictions import System
from modeling_sparse_merit.evaluation.run import evaluate
from modeling_sparse_merit.evaluation.systems import Cascade, CheckpointSystem, build_systems
from modeling_sparse_merit.files import replacing
from modeling_sparse_merit.metrics import SCORE_TITLES
from modeling_sparse_merit.models.sparse_merit.audio import SAMPLING_RATE
from modeling_sparse_merit.models.sparse_merit.sources import locate
from modeling_sparse_merit.plotting.style import COLOURS, GREY

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SECONDS, ROUNDS = 10, 5  # of the recording that is timed
SHOWN = "pesq_wb"
"""The measure of the picture."""
WIDTH, HEIGHT, DPI = 80 / 25.4, 66 / 25.4, 300  # inches
POINT, GAP = 7, 6  # size of the text and its distance from a point, in points
TEXT = {"fontsize": POINT, "va": "bottom"}


def recording() -> np.ndarray:
    """Speech in noise of `SECONDS` at 16 kHz, (samples,)."""
    return np.resize(load_audio(DEMO_RECORDING), SECONDS * SAMPLING_RATE)


def load(path: str, name: str) -> System:
    """The first member of a system of an evaluation; of a cascade, its enhancement.

    Args:
        path: the YAML file of the evaluation.
        name: name of the system.
    """
    config = EvaluationConfig.from_yaml(path)
    alone = replace(config, model=None, systems={name: config.members()[name][0]}, baseline=None)
    system = build_systems(alone)[0][name][0]
    return system.enhancement if isinstance(system, Cascade) else system


def prepare(path: str, name: str) -> Callable[[], Any]:
    """A call that enhances the recording with one system, loaded in this process. Arguments as in `load`."""
    torch.set_num_threads(1)
    return partial(load(path, name).predict, [recording()])


def size_on_disk(system: Any) -> int | None:
    """Bytes of the networks and native libraries that a system needs; None if it has none."""
    if isinstance(system, Enhancer):
        return sum(path.stat().st_size for path in system.files) or None
    return Path(cached_file(locate(system.name), SAFE_WEIGHTS_NAME)).stat().st_size


def licence(system: Any) -> str:
    """The licence of a model: that of the package, or that of the card."""
    if isinstance(system, Enhancer):
        return system.licence
    card = Path(locate(system.name), "README.md")
    return str(ModelCard.load(card).data.get("license", "")) if card.is_file() else ""


def mean_scores(report: dict[str, Any], name: str) -> dict[str, float | None]:
    """Mean of each score over the conditions in noise, without transmission; None for a system without the task."""
    noisy = [
        summary
        for summary in report["results"][name]["conditions"]
        if summary["pool"] is not None and summary["transmission"] is None
    ]
    means: dict[str, float | None] = {}
    for measure in list_measures(report):
        scores = [condition_score(summary, measure) if _has(summary, measure) else None for summary in noisy]
        values = [score["mean"] for score in scores if score and score["mean"] is not None]
        means[measure] = fmean(values) if values and len(values) == len(noisy) else None
    return means


def scores_by_condition(report: dict[str, Any]) -> dict[str, dict[str, dict[str, float | None]]]:
    """{condition: {system: {measure: mean}}}; None for a system without the task, and for unchanged clean speech."""
    by_condition: dict[str, dict[str, dict[str, float | None]]] = {}
    for name, results in report["results"].items():
        for summary in results["conditions"]:
            scores = {measure: condition_score(summary, measure) for measure in list_measures(report)}
            means = {measure: score and score["mean"] for measure, score in scores.items()}
            by_condition.setdefault(summary["condition"], {})[name] = means
    return by_condition


def _has(summary: dict[str, Any], measure: str) -> bool:
    return measure in summary["enhancement"] or bool(summary["emotion"])


def measure_system(path: str, name: str, system: Any) -> dict[str, Any]:
    """Memory, size and identity of a system.

    Args:
        path: the YAML file of the evaluation.
        name: name of the system.
        system: the same, loaded.
    """
    peak = peak_memory(prepare, path, name)
    return {
        **system.describe(),
        "licence": licence(system),
        "bytes": size_on_disk(system),
        "memory_mib": peak["total"] - peak["before"],
        "is_peer": not isinstance(system, CheckpointSystem),
    }


def summarize(
    report: dict[str, Any], measured: dict[str, dict[str, Any]], timings: dict[str, Timing], baseline: str
) -> dict[str, dict[str, Any]]:
    """All numbers of each system, by its name; the noisy input has only scores.

    Args:
        report: of the evaluation.
        measured: from `measure_system`.
        timings: of the recording.
        baseline: the system that speed is relative to.
    """
    rows: dict[str, dict[str, Any]] = {NOISY: {"scores": mean_scores(report, NOISY)}}
    for name, facts in measured.items():
        ratio, low, high = timings[name].speed_against(timings[baseline])
        rows[name] = {
            "scores": mean_scores(report, name),
            "real_time_factor": timings[name].median / SECONDS,
            "speed": {"median": ratio, "low": low, "high": high},
            **facts,
        }
    return rows


# Report --------------------------------------------------------------------------------------------------------------


def render(result: dict[str, Any]) -> str:
    """The results as Markdown."""
    systems, measures = result["systems"], result["measures"]
    header = [*(SCORE_TITLES[measure] for measure in measures), "real-time factor", f"speed, {result['baseline']} = 1"]
    header += ["memory (MiB)", "size (MB)", "parameters", "sampling rate (Hz)", "licence"]
    lines = [
        "# Next to other enhancement models",
        "",
        f"`{result['command']}`, commit {result['commit']}, {result['cpu']}, load {result['load_before']:.1f} before.",
        "",
        f"- Scores: means over {', '.join(result['conditions'])}, of {result['clips']} clips each. Macro-F1: of the "
        "emotion model that gets the enhanced speech; of the system itself if it is no cascade.",
        f"- Speed: {SECONDS} s of speech, one thread, in turn, median of {ROUNDS} rounds; in brackets, the lowest and "
        "highest ratio of a round. Checkpoints do all of their tasks in one pass.",
        "- Memory: peak of a process above what it needs to import this package. Size: networks and native libraries, "
        "without onnxruntime and torch.",
        "",
        f"| | {' | '.join(header)} |",
        "|---" * (len(header) + 1) + "|",
    ]
    lines += [f"| {name} | {' | '.join(_cells(row, measures))} |" for name, row in systems.items()]
    lines += ["", f"![quality against real-time factor]({result['name']}.png)", "", "## By condition"]
    for measure in measures:
        lines += [
            "",
            f"### {SCORE_TITLES[measure]}",
            "",
            f"| | {' | '.join(systems)} |",
            "|---" * (len(systems) + 1) + "|",
        ]
        for condition, scores in result["by_condition"].items():
            cells = (format_score(measure, scores[name][measure]) for name in systems)
            lines.append(f"| {condition} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cells(row: dict[str, Any], measures: list[str]) -> list[str]:
    scores = [format_score(measure, row["scores"][measure]) for measure in measures]
    if "real_time_factor" not in row:
        return [*scores, *[""] * 7]
    speed = "{median:.2f} ({low:.2f} to {high:.2f})".format(**row["speed"])
    size = f"{row['bytes'] / 1e6:.1f}" if row["bytes"] else "–"
    cells = [f"{row['real_time_factor']:.4f}", speed, f"{row['memory_mib']:.0f}", size, f"{row['parameters']:,}"]
    return [*scores, *cells, str(row.get("sampling_rate", SAMPLING_RATE)), row["licence"]]


def draw(result: dict[str, Any]) -> "Figure":
    """Quality against real-time factor, 80 mm wide."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, HEIGHT), layout="constrained")
    axes = figure.subplots()
    systems = {name: row for name, row in result["systems"].items() if name != NOISY}
    for row in systems.values():
        look = {"color": COLOURS[0], "marker": "o"} if row["is_peer"] else {"color": COLOURS[1], "marker": "s"}
        axes.plot(row["real_time_factor"], row["scores"][SHOWN], linestyle="", markersize=4, **look)
    axes.axhline(result["systems"][NOISY]["scores"][SHOWN], color=GREY, linewidth=0.8, linestyle="--")
    axes.set_xscale("log")
    axes.margins(x=0.12, y=0.1)
    axes.set_xlabel("real-time factor on one thread", fontsize=POINT)
    axes.set_ylabel(f"{SCORE_TITLES[SHOWN]}, mean in noise", fontsize=POINT)
    axes.tick_params(labelsize=POINT, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    place = (0.98, result["systems"][NOISY]["scores"][SHOWN])
    axes.annotate("noisy", place, (0, 2), ("axes fraction", "data"), "offset points", ha="right", color=GREY, **TEXT)
    figure.draw_without_rendering()  # the layout is then known
    _label(axes, {name: (row["real_time_factor"], row["scores"][SHOWN]) for name, row in systems.items()})
    return figure


def _label(axes: Any, points: dict[str, tuple[float, float]]) -> None:
    """Writes names next to points, at the first place where they cover nothing: towards the middle of the figure, on
    the other side, above, below; else further up."""
    from matplotlib.transforms import Bbox

    places = axes.transData.transform(list(points.values()))  # (points, 2), pixels
    radius, middle = GAP * axes.figure.dpi / 72 / 2, axes.bbox.x0 + axes.bbox.width / 2
    taken = [Bbox([place - radius, place + radius]) for place in places] + [axes.texts[0].get_window_extent()]
    for (name, point), (x, _) in zip(points.items(), places, strict=True):
        sides = [("left", GAP, -GAP / 2), ("right", -GAP, -GAP / 2)][:: 1 if x < middle else -1]
        around = [*sides, ("center", 0, GAP / 2), ("center", 0, -2 * GAP)]
        text = axes.annotate(name, point, (0, 0), textcoords="offset points", **TEXT)
        for side, right, up in (*around, *(("center", 0, GAP / 2 + step) for step in range(1, 100))):
            text.set(ha=side, position=(right, up))
            box = text.get_window_extent()
            if axes.bbox.x0 < box.x0 and box.x1 < axes.bbox.x1 and not any(map(box.overlaps, taken)):
                break
        taken.append(box)


def main(
    config: Annotated[Path, typer.Argument(help="Evaluation of the systems; its baseline is the unit of speed.")],
    name: NameOption = "peers",
) -> None:
    """Evaluates, times and measures all systems, and writes the results."""
    torch.set_num_threads(1)
    measured_commit, load_before = commit(), os.getloadavg()[0]
    baseline = EvaluationConfig.from_yaml(config).baseline
    if baseline is None:
        raise typer.BadParameter(f"{config} has no `baseline`; name the system that speed is relative to.")
    report = evaluate(config)
    systems = {system: load(str(config), system) for system in report["systems"] if system != NOISY}
    timings = in_turn({key: partial(system.predict, [recording()]) for key, system in systems.items()}, ROUNDS)
    measured = {key: measure_system(str(config), key, system) for key, system in systems.items()}
    result = {
        "name": name,
        "command": shlex.join(["python", "-m", "benchmarks.peers", *sys.argv[1:]]),
        "commit": measured_commit,
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "load_before": load_before,
        "clips": report["clips"]["evaluated"],
        "conditions": [one["condition"] for one in report["results"][NOISY]["conditions"] if one["pool"] is not None],
        "measures": list_measures(report),
        "baseline": baseline,
        "systems": summarize(report, measured, timings, baseline),
        "by_condition": scores_by_condition(report),
    }
    write_results(RESULTS / "peers" / name, result, render(result))
    with replacing(RESULTS / "peers" / f"{name}.png") as temporary:
        draw(result).savefig(temporary, dpi=DPI, format="png")
    print(render(result))


if __name__ == "__main__":
    typer.run(main)
