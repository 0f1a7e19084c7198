# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""
How well recorded noisy speech is enhanced: `python -m benchmarks.recorded_pairs FOLDER --json pairs.json > pairs.md`.

The folder holds, at one length and aligned in time, `NAME.clean.flac`, `NAME.noisy.flac` and, for each other system
whose output is to be compared, `NAME.SYSTEM.flac`. The noisy input, those systems, `noisereduce` (extra `benchmark`)
and a checkpoint of ours are scored against the clean speech; a table of means and one for each measure are printed.
"""

import importlib.util
import json
import os
import shlex
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from modeling_sparse_merit import __version__, load_audio
from modeling_sparse_merit.evaluation.references import build_reference
from modeling_sparse_merit.evaluation.systems import CheckpointSystem
from modeling_sparse_merit.metrics import SCORE_TITLES, speech_scores

HEADINGS = {
    name: SCORE_TITLES[name] for name in ("pesq_wb", "stoi", "segmental_snr", "si_sdr", "csig", "cbak", "covl")
}
PACKAGES = ("torch", "transformers", "numpy", "pesq", "pystoi")


def read_pairs(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """`{name: {"clean", "noisy", and each other system: (samples,) at 16 kHz}}` of a folder.

    Raises:
        ValueError: there is no pair, a recording lacks a system that another has, or lengths differ.
    """
    pairs: dict[str, dict[str, np.ndarray]] = {}
    for path in sorted(folder.glob("*.*.flac")):
        name, system, _ = path.name.rsplit(".", 2)
        pairs.setdefault(name, {})[system] = load_audio(path)
    systems = {"clean", "noisy"}.union(*pairs.values())
    for name, versions in pairs.items():
        if missing := sorted(systems - set(versions)):
            raise ValueError(f"{folder} lacks {', '.join(f'{name}.{system}.flac' for system in missing)}.")
        if len({len(waveform) for waveform in versions.values()}) > 1:
            lengths = {system: len(waveform) for system, waveform in versions.items()}
            raise ValueError(f"The versions of {name} differ in length: {lengths} samples. Cut or pad them alike.")
    if not pairs:
        raise ValueError(f"{folder} holds no pair; expected NAME.clean.flac and NAME.noisy.flac.")
    return pairs


def enhance(pairs: dict[str, dict[str, np.ndarray]], model: str | None) -> tuple[dict, dict]:
    """What each system made of the noisy recordings, `{system: {name: (samples,)}}`, and what identifies the systems.

    Raises:
        ValueError: the checkpoint has no enhancement, or a file has the name of a system that is measured anyway.
    """
    others = [system for system in next(iter(pairs.values())) if system not in ("clean", "noisy")]
    recorded = {system: {name: versions[system] for name, versions in pairs.items()} for system in ("noisy", *others)}
    running = {"sparse_merit": CheckpointSystem(model)}
    if importlib.util.find_spec("noisereduce"):
        gates = {"noisereduce": False, "noisereduce_stationary": True}
        gates = {name: build_reference("noisereduce", {"stationary": value}, []) for name, value in gates.items()}
        running = gates | running
    else:
        print('noisereduce is left out: pip install "modeling-sparse-merit[benchmark]"', file=sys.stderr)
    if taken := sorted(set(running) & set(recorded)):
        raise ValueError(f"Files are named after {taken}, which are run here; name them otherwise.")
    enhanced = {}
    for system, reference in running.items():
        answers = {name: reference.predict([versions["noisy"]])[0].enhanced for name, versions in pairs.items()}
        if any(answer is None for answer in answers.values()):
            raise ValueError(f"{reference.name} does not enhance speech; name a checkpoint with the enhancement task.")
        enhanced[system] = answers
    return recorded | enhanced, {system: reference.describe() for system, reference in running.items()}


def measure(folder: Path, model: str | None) -> dict:
    """The report: `{"systems": {system: {"mean": {measure: score}, "files": {name: {measure: score}}}}, ...}`. A score
    that is undefined is None, and left out of the mean."""
    pairs = read_pairs(folder)
    outputs, identities = enhance(pairs, model)
    systems = {}
    for system, waveforms in outputs.items():
        files = {}
        for name, waveform in waveforms.items():
            scores = speech_scores(pairs[name]["clean"], waveform, list(HEADINGS))
            files[name] = {measure: score if np.isfinite(score) else None for measure, score in scores.items()}
        systems[system] = {"mean": {measure: _mean(files, measure) for measure in HEADINGS}, "files": files}
        systems[system]["identity"] = identities.get(system)
    versions = {"modeling-sparse-merit": __version__, **{package: version(package) for package in PACKAGES}}
    command = shlex.join(["python", "-m", "benchmarks.recorded_pairs", *sys.argv[1:]])
    return {"command": command, "recordings": len(pairs), "systems": systems, "versions": versions}


def _mean(files: dict[str, dict[str, float | None]], measure: str) -> float | None:
    scores = [scores[measure] for scores in files.values() if scores[measure] is not None]
    return float(np.mean(scores)) if scores else None


def markdown(report: dict) -> str:
    """The report to be read: how it was made, the means, then a table of all recordings for each measure."""
    systems = report["systems"]
    weights = systems["sparse_merit"]["identity"]
    lines = [f"{report['recordings']} recordings, by `{report['command']}`.", ""]
    lines += [f"Weights of sparse_merit: {weights['name']}, SHA-256 `{weights['sha256']}`.", ""]
    means = [[system, *(found["mean"][measure] for measure in HEADINGS)] for system, found in systems.items()]
    lines += _table(["mean", *HEADINGS.values()], means)
    for measure, heading in HEADINGS.items():
        names = systems["noisy"]["files"]
        rows = [[name, *(found["files"][name][measure] for found in systems.values())] for name in names]
        lines += ["", *_table([heading, *systems], rows)]
    return "\n".join(lines)


def _table(head: list[str], rows: list[list]) -> list[str]:
    cells = [[name, *("undefined" if score is None else f"{score:.3f}" for score in scores)] for name, *scores in rows]
    return [f"| {' | '.join(line)} |" for line in (head, ["---", *["---:"] * (len(head) - 1)], *cells)]


def main(
    folder: Annotated[Path, typer.Argument(help="NAME.clean.flac, NAME.noisy.flac, NAME.SYSTEM.flac")],
    model: Annotated[str | None, typer.Option(help="checkpoint or Hub id; the one in the package by default")] = None,
    json_path: Annotated[Path | None, typer.Option("--json", help="write the report as JSON, too")] = None,
) -> None:
    """Prints the tables, in Markdown."""
    report = measure(folder, model)
    if json_path is not None:
        partial = json_path.with_name(f".{json_path.name}.partial")
        partial.write_text(json.dumps(report, indent=2, allow_nan=False) + "\n", encoding="utf-8")
        os.replace(partial, json_path)
    print(markdown(report))


if __name__ == "__main__":
    typer.run(main)
