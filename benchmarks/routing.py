# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""What the routers follow: use of each expert, its mutual information with properties of the frame, and its removal.

The same clips, spread over the speakers, are processed clean and at each SNR. Of each frame and task, the expert with
the highest logit counts, in a dense router too. Mutual information (plug-in, bits) is compared with 200 permutations
that keep the frames of a clip together: emotion, corpus and speaker are permuted among the clips, SNR and task within
each clip, and phone classes are shifted circularly within the clip. An expert is removed from all routers at once;
the emotion then depends on the emotion router alone, and the enhanced speech on the enhancement router alone.

Writes `NAME.json`, `NAME.md` and figures `NAME_*.png` to `benchmarks/results/routing`.

    python -m benchmarks.routing --name tiny --model tiny --speech tables/ravdess --speech tables/emodb \
        --speech tables/nemo --noise tables/urbansound8k --split test --clips 120 --snr-db -5 --snr-db 5
"""

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from datasets import Dataset
from tqdm import tqdm

from benchmarks.enhancement_quality import spread
from benchmarks.intervals import RESAMPLES, estimate, shown
from benchmarks.options import ModelOption, NameOption, NoiseOption, SpeechOption, SplitOption
from benchmarks.routing_figures import draw_figures
from benchmarks.writing import RESULTS, commit, write_results
from modeling_sparse_merit.data.datasets import read_dataset, read_datasets
from modeling_sparse_merit.data.labels import class_indices
from modeling_sparse_merit.data.mixing import MixingRecipe
from modeling_sparse_merit.evaluation.statistics import (
    confusion_cells,
    draw_counts,
    permutation_p_value,
    resampled_confusion,
)
from modeling_sparse_merit.evaluation.systems import CheckpointSystem
from modeling_sparse_merit.metrics.emotion import defined_mean, f1_from_confusion
from modeling_sparse_merit.metrics.speech import si_sdr
from modeling_sparse_merit.models.sparse_merit.audio import SAMPLING_RATE, load_audio
from modeling_sparse_merit.models.sparse_merit.modeling_sparse_merit import SparseMeritForSpeechEnhancementAndEmotion

PERMUTATIONS = 200
PHONE_CLASSES = ("silence", "unvoiced", "voiced")
HOP = 320  # samples between frames of the encoder
WINDOW = 640  # samples (40 ms), two periods of the lowest pitch and more
LAGS = np.arange(SAMPLING_RATE // 400, SAMPLING_RATE // 60 + 1)  # samples: pitch of 60 to 400 Hz
SILENCE_DB = 35.0  # below the loudest frame of the clip
PERIODICITY = 0.5  # correlation of a voiced frame with itself, one period later


@dataclass(frozen=True)
class Observation:
    """What a model makes of one clip: the expert of each frame, {task: (T,)}, its emotion, and its SI-SDR in dB."""

    experts: dict[str, np.ndarray]
    emotion: int | None
    si_sdr: float | None


@dataclass(frozen=True)
class Clips:
    """Clips (samples,) at 16 kHz, with their classes (-100 for none) and labels {variable: [value or None]}."""

    waveforms: list[np.ndarray]
    rows: list[int]
    classes: np.ndarray
    labels: dict[str, list[str | None]]


def phone_classes(waveform: np.ndarray, num_frames: int) -> np.ndarray:
    """
    Classifies frames of clean speech as silence, unvoiced or voiced.

    Frame t is the 40 ms around sample 320 t + 160. It is silence when its level is 35 dB or more below the loudest
    frame. Otherwise it is voiced when its normalised autocorrelation reaches 0.5 at a pitch of 60 to 400 Hz. On 45
    clips of RAVDESS, EmoDB and nEMO, 89 % of the frames are voiced or not as in Praat (60 to 500 Hz).

    Args:
        waveform: (samples,) at 16 kHz.
        num_frames: T.

    Returns:
        (T,), indices in `PHONE_CLASSES`.
    """
    margin = (WINDOW - HOP) // 2
    padded = np.zeros(margin + max(len(waveform), num_frames * HOP) + WINDOW)
    padded[margin : margin + len(waveform)] = waveform
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[: num_frames * HOP : HOP]  # (T, WINDOW)
    level = 10 * np.log10(np.square(frames).mean(-1) + 1e-12)
    is_silent = level <= max(level.max() - SILENCE_DB, -100.0)
    return np.where(is_silent, 0, np.where(periodicity(frames) >= PERIODICITY, 2, 1))


def periodicity(frames: np.ndarray) -> np.ndarray:
    """The largest correlation of frames (T, WINDOW), without their mean, with themselves at a lag of `LAGS`: (T,)."""
    frames = frames - frames.mean(-1, keepdims=True)
    spectrum = np.fft.rfft(frames, 2 * WINDOW)
    products = np.fft.irfft(np.square(np.abs(spectrum)))[:, LAGS]  # (T, lags)
    energy = np.pad(np.square(frames).cumsum(-1), ((0, 0), (1, 0)))  # (T, WINDOW + 1)
    first, last = energy[:, WINDOW - LAGS], energy[:, -1:] - energy[:, LAGS]
    return (products / np.sqrt(first * last + 1e-12)).max(-1)


def mutual_information(counts: np.ndarray) -> np.ndarray:
    """Mutual information of rows and columns of tables of counts (..., rows, columns), in bits: (...,)."""
    joint = counts / counts.sum((-2, -1), keepdims=True)
    independent = joint.sum(-1, keepdims=True) * joint.sum(-2, keepdims=True)
    ratio = np.divide(joint, independent, out=np.ones_like(joint), where=joint > 0)
    return (joint * np.log2(ratio)).sum((-2, -1))


def tables_among_clips(use: np.ndarray, values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """
    Counts by value and expert, as observed and with the values permuted among the clips.

    Args:
        use: frames of each clip and expert, (clips, N).
        values: the value of each clip, 0, 1, ...: (clips,).
        generator: of the permutations.

    Returns:
        (1 + PERMUTATIONS, values, N), the observed table first.
    """
    orders = [np.arange(len(use)), *(generator.permutation(len(use)) for _ in range(PERMUTATIONS))]
    selection = np.eye(values.max() + 1)[values[np.stack(orders)]]  # (1 + PERMUTATIONS, clips, values)
    return selection.swapaxes(1, 2) @ use


def tables_within_clips(use: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """As [`tables_among_clips`], from frames (clips, values, N) of clips with each value, permuted in each clip."""
    clips, values, _ = use.shape
    orders = np.tile(np.arange(values), (1 + PERMUTATIONS, clips, 1))
    orders[1:] = generator.permuted(orders[1:], axis=-1)
    return np.take_along_axis(use[None], orders[..., None], axis=2).sum(1)


def tables_of_shifts(
    use: Sequence[np.ndarray], values: Sequence[np.ndarray], num_values: int, generator: np.random.Generator
) -> np.ndarray:
    """
    As [`tables_among_clips`], of a variable of the frame, shifted circularly within each clip.

    Args:
        use: of each clip, how often each of its frames went to each expert, (T, N).
        values: of each clip, the values of its frames, (T,).
        num_values: number of values.
        generator: of the shifts.
    """
    tables = np.zeros((1 + PERMUTATIONS, num_values, use[0].shape[-1]))
    for frames, those in zip(use, values, strict=True):
        selection = np.eye(num_values)[those].T  # (values, T)
        shifts = [0, *generator.integers(len(those), size=PERMUTATIONS)]
        tables += np.stack([np.roll(selection, shift, axis=1) @ frames for shift in shifts])
    return tables


def describe(tables: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """The counts of each value and expert, and their mutual information against that of the permutations."""
    bits = mutual_information(tables)
    observed, null = float(bits[0]), bits[1:]
    totals = tables[0].sum(0)  # (N,)
    return {
        "frames": {name: counts.astype(int).tolist() for name, counts in zip(names, tables[0], strict=True)},
        "bits": observed,
        "permuted_bits": float(null.mean()),
        "entropy_bits": float(mutual_information(np.diag(totals))),
        "p": permutation_p_value(observed, null, exhaustive=False),
    }


@contextmanager
def without_expert(model: SparseMeritForSpeechEnhancementAndEmotion, expert: int) -> Iterator[None]:
    """
    Removes an expert from all routers: its logit is minus infinity, so its probability is 0.

    Args:
        model: a model with routers.
        expert: 0 to N - 1.

    Raises:
        ValueError: the model has no such expert, or no other.
    """
    experts = model.config.num_experts
    if experts < 2 or not 0 <= expert < experts:
        raise ValueError(f"Expert {expert} of {experts} cannot be removed: give one of two or more, counted from 0.")

    def mask(_router: torch.nn.Module, _frames: tuple, logits: torch.Tensor) -> torch.Tensor:
        return logits.index_fill(-1, torch.tensor(expert, device=logits.device), -torch.inf)  # (m, N)

    hooks = [router.register_forward_hook(mask) for router in model.model.integration.routers.values()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@torch.inference_mode()
def observe(
    system: CheckpointSystem, noisy: np.ndarray, clean: np.ndarray, removals: Sequence[int | None] = (None,)
) -> list[Observation]:
    """
    Runs a model on a noisy clip once for each removal; the encoder, which does not depend on it, runs once.

    Args:
        system: a model with routers.
        noisy: (samples,) at 16 kHz.
        clean: (samples,), with which the enhanced speech is compared.
        removals: the expert that is removed in each run, None for none.
    """
    extractor = system.feature_extractor
    inputs = extractor([noisy], sampling_rate=SAMPLING_RATE, return_tensors="pt").to(system.model.device)
    encoded = system.model.model.encoder(**inputs)
    observations = []
    for expert in removals:
        with nullcontext() if expert is None else without_expert(system.model, expert):
            outputs = system.model(**inputs, encoder_outputs=encoded, output_router_logits=True)
        experts = {task: logits[0].argmax(-1).cpu().numpy() for task, logits in outputs.router_logits.items()}
        emotion = None if outputs.logits is None else int(outputs.logits[0].argmax())
        score = None
        if outputs.enhanced_values is not None:
            enhanced = extractor.denormalize(outputs.enhanced_values.float().cpu(), [noisy])[0]
            score = float(si_sdr(clean, enhanced))
        observations.append(Observation(experts, emotion, score))
    return observations


def read_clips(speech: list[str], split: str, count: int, seed: int, classes: list[str]) -> Clips:
    """
    Reads clips of several datasets, spread over the speakers.

    Args:
        speech: paths of speech datasets.
        split: of the datasets.
        count: how many clips; all where there are fewer.
        seed: of the choice.
        classes: the emotions of the model.
    """
    dataset: Dataset = read_datasets(speech, split)
    corpora = [Path(path).name for path in speech for _ in range(len(read_dataset(path, split)))]
    rows = spread(dataset["speaker"], count, seed)
    targets = np.array(class_indices(dataset, classes))[rows]
    chosen, names = dataset.select(rows), dataset.features["emotion"].names
    emotions = [None if number is None else names[number] for number in chosen["emotion"]]
    labels = {"emotion": emotions, "corpus": [corpora[row] for row in rows], "speaker": list(chosen["speaker"])}
    return Clips([load_audio(audio) for audio in chosen["audio"]], rows, targets, labels)


def mixtures(clips: Clips, noise: Dataset, snr_db: Sequence[float], seed: int) -> Iterator[dict[str, tuple]]:
    """Of each clip, its noisy and clean waveforms in each condition; the noise is the same at each SNR."""
    recipes = {f"{snr:g} dB": MixingRecipe(noise, snr_db=snr, level_db=None, seed=seed) for snr in snr_db}
    for waveform, row in zip(clips.waveforms, clips.rows, strict=True):
        mixed = {name: recipe.apply(waveform, recipe.draw(row)) for name, recipe in recipes.items()}
        yield {"clean": (waveform, waveform)} | {name: (each.noisy, each.clean) for name, each in mixed.items()}


def run(
    system: CheckpointSystem, clips: Clips, noise: Dataset, snr_db: Sequence[float], seed: int
) -> dict[int | None, list[list[Observation]]]:
    """
    Runs a model whole (None) and without each expert, on each clip in each condition.

    Args:
        system: the model.
        clips: the clips.
        noise: a noise dataset.
        snr_db: the noisy conditions, in dB.
        seed: of the choice of the noise.

    Returns:
        {removed expert: [[an observation per condition] per clip]}.
    """
    removals = [None, *(range(system.config.num_experts) if system.config.num_experts > 1 else ())]
    runs: dict[int | None, list[list[Observation]]] = {expert: [] for expert in removals}
    for conditions in tqdm(mixtures(clips, noise, snr_db, seed), total=len(clips.waveforms), unit="clip"):
        observations = [observe(system, *pair, removals) for pair in conditions.values()]
        for expert, those in zip(removals, zip(*observations, strict=True), strict=True):
            runs[expert].append(list(those))
    return runs


def relations(
    whole: list[list[Observation]], clips: Clips, conditions: Sequence[str], num_experts: int, seed: int
) -> dict[str, dict[str, dict[str, Any]]]:
    """
    Use of the experts and mutual information, by task and variable.

    Args:
        whole: [[an observation per condition] per clip], of the model with all experts.
        clips: the clips.
        conditions: names of the conditions.
        num_experts: N.
        seed: of the permutations.
    """
    generator = np.random.default_rng(seed)
    tasks = list(whole[0][0].experts)
    one_hot = np.eye(num_experts)
    frames = {  # of each clip, (conditions, T, N)
        task: [one_hot[np.stack([each.experts[task] for each in clip])] for clip in whole] for task in tasks
    }
    counts = {task: np.stack([each.sum(1) for each in those]) for task, those in frames.items()}
    phones = [phone_classes(clip, each.shape[1]) for clip, each in zip(clips.waveforms, frames[tasks[0]], strict=True)]
    results: dict[str, dict[str, dict[str, Any]]] = {task: {} for task in tasks}
    for task in tasks:
        results[task]["SNR"] = describe(tables_within_clips(counts[task], generator), conditions)
        for variable, labels in clips.labels.items():
            known = np.array([label is not None for label in labels])
            names, values = np.unique([label for label in labels if label is not None], return_inverse=True)
            tables = tables_among_clips(counts[task].sum(1)[known], values, generator)
            results[task][variable] = describe(tables, names.tolist())
        shifted = tables_of_shifts([each.sum(0) for each in frames[task]], phones, len(PHONE_CLASSES), generator)
        results[task]["phone class"] = describe(shifted, PHONE_CLASSES)
    by_task = np.stack([counts[task].sum(1) for task in tasks], axis=1)  # (clips, tasks, N)
    return results | {"all": {"task": describe(tables_within_clips(by_task, generator), tasks)}}


def macro_f1_change(true: np.ndarray, removed: np.ndarray, whole: np.ndarray, clips: np.ndarray) -> dict[str, float]:
    """
    Macro-F1 without an expert minus macro-F1 with it, with its 95 % bootstrap interval over clips.

    Args:
        true: classes (observations,), 0, 1, ...
        removed: classes without the expert (observations,).
        whole: classes with all experts (observations,).
        clips: the clip of each observation (observations,), 0, 1, ...

    Returns:
        `mean` (of all clips), `low` and `high`.
    """
    predicted = np.stack([removed, whole])
    cells = confusion_cells(true, predicted, int(max(true.max(), predicted.max())) + 1)

    def change(counts: np.ndarray) -> np.ndarray:
        scores = defined_mean(f1_from_confusion(resampled_confusion(cells, counts).astype(np.float64)))
        return scores[:, 0] - scores[:, 1]

    counts = draw_counts(clips, RESAMPLES, seed=0)
    low, high = (np.nan, np.nan) if counts is None else np.percentile(change(counts), [2.5, 97.5])
    return {"mean": float(change(np.ones((1, len(true))))[0]), "low": float(low), "high": float(high)}


def removals(
    runs: dict[int | None, list[list[Observation]]], classes: np.ndarray, conditions: Sequence[str]
) -> dict[str, dict[str, dict[str, Any]]]:
    """
    What the removal of each expert changes.

    Args:
        runs: from [`run`].
        classes: the class of each clip, -100 for none: (clips,).
        conditions: names of the conditions.

    Returns:
        {expert: {condition or "all": {"macro_f1" or "si_sdr": change with its interval}}}.
    """
    places = {name: [place] for place, name in enumerate(conditions)} | {"all": list(range(len(conditions)))}
    return {
        str(expert): {
            name: _changes(
                *([[clip[place] for place in those] for clip in run] for run in (removed, runs[None])), classes
            )
            for name, those in places.items()
        }
        for expert, removed in runs.items()
        if expert is not None
    }


def _changes(
    removed: list[list[Observation]], whole: list[list[Observation]], classes: np.ndarray
) -> dict[str, dict[str, float]]:
    labelled = np.flatnonzero(classes >= 0)
    changes = {}
    if whole[0][0].emotion is not None and len(labelled):
        clips = np.repeat(np.arange(len(labelled)), len(whole[0]))
        predicted = [np.array([each.emotion for clip in labelled for each in run[clip]]) for run in (removed, whole)]
        changes["macro_f1"] = macro_f1_change(classes[labelled][clips], *predicted, clips)
    if whole[0][0].si_sdr is not None:
        scores = [np.array([[each.si_sdr for each in clip] for clip in run]) for run in (removed, whole)]
        changes["si_sdr"] = estimate((scores[0] - scores[1]).mean(1))
    return changes


def main(
    name: NameOption,
    speech: SpeechOption,
    noise: NoiseOption,
    model: ModelOption = None,
    split: SplitOption = "test",
    clips: Annotated[int, typer.Option(help="Number of clips, spread over the speakers.")] = 120,
    snr_db: Annotated[list[float], typer.Option(help="Noisy conditions, in addition to clean speech.")] = [-5.0, 5.0],  # noqa: B006
    seed: int = 0,
) -> None:
    torch.set_num_threads(1)
    measured = commit()
    system = CheckpointSystem(model)
    if system.config.integration == "weighted_sum":
        raise typer.BadParameter(f"{system.name} has no experts; give a checkpoint with routers.")
    chosen = read_clips(speech, split, clips, seed, system.labels)
    conditions = ["clean", *(f"{snr:g} dB" for snr in snr_db)]
    runs = run(system, chosen, read_dataset(noise, split), snr_db, seed)
    result = {
        "command": f"python -m benchmarks.routing {shlex.join(sys.argv[1:])}",
        "commit": measured,
        "model": system.describe(),
        "clips": len(chosen.waveforms),
        "conditions": conditions,
        "relations": relations(runs[None], chosen, conditions, system.config.num_experts, seed),
        "removals": removals(runs, chosen.classes, conditions),
    }
    path = RESULTS / "routing" / name
    text = render(result)
    write_results(path, result, text)
    draw_figures(path, result)
    print(text)


def render(result: dict[str, Any]) -> str:
    """The Markdown of a result."""
    lines = [
        f"# Routing of {result['model']['name']}",
        "",
        f"`{result['command']}`, commit {result['commit']}: {result['clips']} clips, "
        f"each in the conditions {', '.join(result['conditions'])}.",
    ]
    return "\n".join([*lines, *_use(result), *_information(result), *_removal(result)])


def _use(result: dict[str, Any]) -> list[str]:
    relations = result["relations"]
    tasks = list(relations["all"]["task"]["frames"])
    experts = " / ".join(map(str, range(result["model"]["num_experts"])))
    lines = [
        "",
        "## Use",
        "",
        f"Of the frames with each value, the share (%) that experts {experts} get: a router follows a variable when "
        "the rows of the variable differ. Speakers are in the JSON file.",
        "",
        f"| variable | value | frames | {' | '.join(tasks)} |",
        "|---|---|--:|" + "---|" * len(tasks),
    ]
    rows = {
        (variable, value): [relations[task][variable]["frames"][value] for task in tasks]
        for variable in ("SNR", "emotion", "corpus", "phone class")
        for value in relations[tasks[0]][variable]["frames"]
    } | {("all", ""): list(relations["all"]["task"]["frames"].values())}
    for (variable, value), counts in rows.items():
        shares = (" / ".join(f"{100 * count / max(sum(each), 1):.0f}" for count in each) for each in counts)
        lines.append(f"| {variable} | {value} | {sum(counts[0])} | {' | '.join(shares)} |")
    return lines


def _information(result: dict[str, Any]) -> list[str]:
    lines = [
        "",
        "## Mutual information",
        "",
        "Mutual information of the expert of a frame and the variable in bits, its mean over permutations of the "
        "variable, and the excess over this mean relative to the entropy of the expert. Only the excess is evidence, "
        "and an excess of 100 % means that the variable determines the expert. "
        "A speaker belongs to one corpus, so these two are not independent.",
        "",
        "| task | variable | bits | permuted | excess (%) | p |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for task, variables in result["relations"].items():
        for variable, relation in variables.items():
            excess = 100 * (relation["bits"] - relation["permuted_bits"]) / max(relation["entropy_bits"], 1e-9)
            bits = f"{relation['bits']:.4f} | {relation['permuted_bits']:.4f}"
            lines.append(f"| {task} | {variable} | {bits} | {excess:.1f} | {relation['p']:.3f} |")
    return lines


def _removal(result: dict[str, Any]) -> list[str]:
    if not result["removals"]:
        return []
    measures = {"macro_f1": ("macro-F1", 3), "si_sdr": ("SI-SDR (dB)", 2)}
    present = [measure for measure in measures if measure in next(iter(result["removals"].values()))["all"]]
    lines = [
        "",
        "## Removal",
        "",
        "Change of the scores when an expert is removed and its frames go to the next best, with 95 % bootstrap "
        "intervals over clips: an expert whose interval contains 0 is not shown to matter.",
        "",
        f"| removed | condition | {' | '.join(measures[measure][0] for measure in present)} |",
        "|---|---|" + "---|" * len(present),
    ]
    for expert, conditions in result["removals"].items():
        for condition, row in conditions.items():
            changes = " | ".join(shown(row[measure], measures[measure][1], "+") for measure in present)
            lines.append(f"| expert {expert} | {condition} | {changes} |")
    return lines


if __name__ == "__main__":
    typer.run(main)
