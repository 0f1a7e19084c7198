# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""
Trains the systems that the paper compares, at equal budgets: `python -m benchmarks.baselines [--field value ...]`.

Each system is a file of `benchmarks/baselines`; command-line options apply to every run. Runs are sequential, starting
with the first seed. Finished runs are skipped, and interrupted ones resume. If a run fails, the others continue;
failures are listed at the end, and the exit status is 1.
"""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from modeling_sparse_merit.training.settings import TrainingSettings, parse_settings

ROOT = Path(__file__).parents[1]
RUNS = Path("runs/baselines")
SEEDS = {  # of each system; the enhancement model precedes the system trained on its output
    "enhancement": 1,
    "emotion_clean": 3,
    "emotion_enhanced": 3,
    "multitask": 5,
    "dense_merit": 5,
    "sparse_merit": 5,
    "multitask_uncertainty": 3,
    "multitask_pcgrad": 3,
    "sparse_merit_none": 3,
    "sparse_merit_switch": 3,
    "weighted_sum_experts": 3,
    "expert_weighted_sums": 3,
    "experts_1": 3,
    "experts_2": 3,
    "experts_5": 3,
    "experts_8": 3,
    "multitask_lora": 1,
    "dense_merit_lora": 1,
    "sparse_merit_lora": 1,
}
FINISHED = "finished"  # an empty file in the folder of a finished run
NO_MATTER = ("dataloader_num_workers",)  # settings that change no result


def main(overrides: list[str] | None = None) -> int:
    """Trains all missing runs in runs/baselines/SYSTEM/SEED. Returns the exit status."""
    overrides = sys.argv[1:] if overrides is None else overrides
    planned = {
        f"{system}/{seed}": [str(ROOT / f"benchmarks/baselines/{system}.yaml"), "--seed", str(seed)]
        for seed in range(max(SEEDS.values()))
        for system in SEEDS
        if seed < SEEDS[system]
    }
    arguments = {run: [*given, "--output_dir", str(RUNS / run), *overrides] for run, given in planned.items()}
    for given in arguments.values():
        parse_settings(given)  # a mistake in a file shows before anything is trained
    results = {run: train(RUNS / run, given) for run, given in arguments.items()}
    failures = {run: result for run, result in results.items() if result}
    print(f"{len(results) - len(failures)} of {len(results)} runs are done.")
    for run, failure in failures.items():
        print(f"FAILED {run}: {failure}", file=sys.stderr)
    return int(bool(failures))


def train(folder: Path, arguments: list[str]) -> str | None:
    """Trains one run unless it is finished. Returns an error message, or None."""
    changed = changed_settings(folder, arguments)
    if changed:
        return f"{folder} was trained with other settings, {changed}; move it away to train it again."
    if (folder / FINISHED).exists():
        return None
    print(f"Training {folder}", flush=True)
    script = str(ROOT / "train_accelerate.py")
    status = subprocess.run([sys.executable, "-m", "accelerate.commands.launch", script, *arguments]).returncode
    if status:
        return f"the training ended with exit status {status}, see its messages above."
    (folder / FINISHED).touch()
    return None


def changed_settings(folder: Path, arguments: list[str]) -> dict[str, tuple]:
    """Settings in which a run in `folder` differs from the requested ones: {name: (stored, requested)}."""
    try:
        then = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    then = {TrainingSettings.RENAMED.get(name, name): value for name, value in then.items()}
    now = json.loads(json.dumps(asdict(parse_settings(arguments))))
    return {
        name: (value, now.get(name))
        for name, value in then.items()
        if name not in NO_MATTER and now.get(name) != value
    }


if __name__ == "__main__":
    sys.exit(main())
