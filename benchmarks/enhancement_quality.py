# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Quality of enhanced speech next to the noisy input and to other packages, with ratings that are in no training loss.

Clips are recorded pairs, aligned in time and of one length (`NAME.clean.flac`, `NAME.noisy.flac`, and
`NAME.SYSTEM.flac` of each other system), and clips of a split, mixed with pools of noise. PESQ-WB, STOI, SI-SDR,
segmental SNR and the composite measures compare with the clean speech; DNSMOS and DistillMOS (`benchmarks/mos.py`) do
without. All is measured again on telephone speech: clips that went down to 8 kHz and back, clean ones too, with STOI
at 8 kHz. Writes `NAME.json` and `.md` to `benchmarks/results/enhancement_quality`.

    make runs/mos runs/peers
    OMP_NUM_THREADS=1 PYTHONPATH=runs/peers \
        python -m benchmarks.enhancement_quality --name tiny_dev --mos runs/mos --peer gtcrn --peer deepfilternet3 \
        --speech tables/ravdess --speech tables/emodb --speech tables/nemo \
        --noise tables/urbansound8k --noise tables/nonspeech_noisex --split dev

The scores of each system in each condition are kept in `--work`: a run goes on where it was stopped, and a further
`--model` costs no more than its own scores.
"""

import hashlib
import json
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from tqdm import tqdm

from benchmarks.intervals import estimate, shown
from benchmarks.mos import MOS, Rater, load_raters
from benchmarks.options import NameOption, SplitOption
from benchmarks.writing import RESULTS, commit, write_results
from modeling_sparse_merit import DEFAULT_CHECKPOINT, load_audio
from modeling_sparse_merit.data.transmission import Transmission
from modeling_sparse_merit.evaluation.conditions import (
    Clips,
    Condition,
    Listener,
    column_names,
    dataset_sha256,
    list_conditions,
    load_noise,
)
from modeling_sparse_merit.evaluation.configuration import EvaluationConfig
from modeling_sparse_merit.evaluation.enhancers import ENHANCERS
from modeling_sparse_merit.evaluation.prepare_noisy import name_pools
from modeling_sparse_merit.evaluation.systems import CheckpointSystem
from modeling_sparse_merit.files import replacing, sha256_of_files
from modeling_sparse_merit.metrics import SCORE_TITLES, speech_scores
from modeling_sparse_merit.metrics.speech import stoi
from modeling_sparse_merit.models.sparse_merit import tasks
from modeling_sparse_merit.models.sparse_merit.audio import SAMPLING_RATE, resample
from modeling_sparse_merit.models.sparse_merit.sources import portable_name

COMPARED = ("pesq_wb", "stoi", "si_sdr", "segmental_snr", "csig", "cbak", "covl")
SHOWN = {"pesq_wb": 2, "stoi": 3, "si_sdr": 1, "segmental_snr": 1, "dnsmos_ovrl": 2, "distillmos": 2}
"""What the Markdown holds, with its digits; the JSON holds all."""
TITLES = SCORE_TITLES | MOS
JUDGED = ("dnsmos_ovrl", "distillmos")
LOSS = 0.2  # on the scale from 1 to 5; what a clip loses before it counts
RATES = (SAMPLING_RATE, 8_000)  # Hz
SNR_DB = [-5.0, 0.0, 5.0, 10.0, 15.0, 20.0]
NOISY, CLEAN, ALL_NOISE = "noisy", "clean", "all noise"

Versions = dict[str, np.ndarray]
"""A clip as `clean`, `noisy` and as other systems enhanced it, (samples,) each."""
Scores = dict[str, list[float]]
"""Of each measure, a score a clip; NaN where it is undefined."""


@dataclass(frozen=True)
class ClipSet:
    """Clips in one condition: its name, what identifies the samples, the versions of each, and how to read them."""

    name: str
    identity: dict[str, Any]
    versions: list[str]
    read: Callable[[], list[Versions]]


@dataclass(frozen=True)
class System:
    """What is measured: what identifies it, and what it makes of a clip."""

    identity: dict[str, Any]
    enhance: Callable[[Versions], np.ndarray]


# Clips ---------------------------------------------------------------------------------------------------------------


def read_pairs(folder: Path) -> list[Versions]:
    """The recorded pairs of a folder.

    Raises:
        ValueError: there is no pair, a recording lacks a system that another has, or lengths differ.
    """
    pairs: dict[str, Versions] = {}
    for path in sorted(folder.glob("*.*.flac")):
        name, system, _ = path.name.rsplit(".", 2)
        pairs.setdefault(name, {})[system] = load_audio(path)
    systems = {CLEAN, NOISY}.union(*pairs.values())
    for name, versions in pairs.items():
        if missing := sorted(systems - set(versions)):
            raise ValueError(f"{folder} lacks {', '.join(f'{name}.{system}.flac' for system in missing)}.")
        if len({len(waveform) for waveform in versions.values()}) > 1:
            lengths = {system: len(waveform) for system, waveform in versions.items()}
            raise ValueError(f"The versions of {name} differ in length: {lengths} samples. Cut or pad them alike.")
    if not pairs:
        raise ValueError(f"{folder} holds no pair; expected NAME.clean.flac and NAME.noisy.flac.")
    return list(pairs.values())


def recorded_set(folder: Path) -> ClipSet:
    versions = sorted(read_pairs(folder)[0], key=lambda name: (name not in (NOISY, CLEAN), name))
    identity = {"files": sha256_of_files(sorted(folder.glob("*.*.flac")))}
    return ClipSet("recorded pairs", identity, versions, partial(read_pairs, folder))


def spread(groups: Sequence[Any], count: int, seed: int) -> list[int]:
    """
    Draws from groups in turn, so that none has more than another while that one has any left.

    Args:
        groups: the group of each item, such as the speaker of a clip.
        count: how many to draw; all where there are fewer.
        seed: of the draw.

    Returns:
        The places of the drawn items, ascending.
    """
    turns: Counter[Any] = Counter()
    drawn = []
    for place in np.random.default_rng(seed).permutation(len(groups)).tolist():
        drawn.append((turns[groups[place]], place))
        turns[groups[place]] += 1
    return sorted(place for _, place in sorted(drawn, key=itemgetter(0))[:count])


def mixed_sets(config: EvaluationConfig, max_clips: int) -> list[ClipSet]:
    """The same clips, spread over the speakers, in each condition of an evaluation."""
    clips, noise = Clips(config, []), load_noise(config)
    rows = [clips.rows[place] for place in spread(column_names(clips.dataset, "speaker"), max_clips, config.seed)]
    speech = {"speech": dataset_sha256(clips.dataset), "rows": rows, "seed": config.seed}
    noise_sha256 = {pool: dataset_sha256(table) for pool, table in noise.items()}

    def read(condition: Condition) -> list[Versions]:
        listener = Listener(clips, condition, noise.get(condition.pool), config.seed)
        examples = [listener.example(row) for row in rows]
        return [{CLEAN: example.clean, NOISY: example.noisy} for example in examples]

    return [
        ClipSet(
            condition.name,
            {"condition": condition.name, "noise": noise_sha256.get(condition.pool), **speech},
            [NOISY],
            partial(read, condition),
        )
        for condition in list_conditions(config)
    ]


# Systems -------------------------------------------------------------------------------------------------------------


def load_systems(models: Sequence[str], peers: Sequence[str]) -> dict[str, System]:
    """Enhancers of other packages, and checkpoints.

    Raises:
        ValueError: a checkpoint has no enhancement, or there is no such enhancer.
        ImportError: a package is not installed; the message says how to install it.
        FileNotFoundError: there is no such checkpoint.
    """
    systems = {}
    if unknown := sorted(set(peers) - set(ENHANCERS)):
        raise ValueError(f"There are no enhancers {unknown}; expected some of {list(ENHANCERS)}.")
    for name in peers:
        peer = ENHANCERS[name]()
        systems[peer.title] = System(peer.describe(), lambda clip, peer=peer: peer.enhance(clip[NOISY]))
    code = sha256_of_files(sorted(Path(tasks.__file__).parent.glob("*.py")))
    for model in models:
        checkpoint = CheckpointSystem(model, device="cpu")
        if tasks.ENHANCEMENT not in checkpoint.tasks:
            raise ValueError(f"{model} does not enhance speech: its tasks are {checkpoint.tasks}.")
        systems[model] = System({**checkpoint.describe(), "code": code}, partial(_enhance, checkpoint))
    return systems


def _enhance(checkpoint: CheckpointSystem, clip: Versions) -> np.ndarray:
    return checkpoint.predict([clip[NOISY]], tasks=(tasks.ENHANCEMENT,))[0].enhanced


# Scores --------------------------------------------------------------------------------------------------------------


def score(clean: np.ndarray, enhanced: np.ndarray, rate: int, rater: Rater | None) -> dict[str, float]:
    """All measures of a clip at 16 kHz; STOI at the rate whose band the clip has. NaN where one is undefined."""
    scores = speech_scores(clean, enhanced, COMPARED)
    if rate != SAMPLING_RATE:
        scores["stoi"] = stoi(*(resample(waveform, SAMPLING_RATE, rate) for waveform in (clean, enhanced)), rate)
    scores |= rater(enhanced) if rater else {}
    return {measure: float(value) if np.isfinite(value) else np.nan for measure, value in scores.items()}


def score_clips(system: System, clips: list[Versions], rate: int, rater: Rater | None, title: str) -> Scores:
    rows = [score(clip[CLEAN], system.enhance(clip), rate, rater) for clip in tqdm(clips, title, unit="clip")]
    return {measure: [row[measure] for row in rows] for measure in rows[0]}


def measure(
    clips: ClipSet, rate: int, systems: dict[str, System], raters: Path | None, work: Path
) -> dict[str, Scores]:
    """The scores of each system, and of the recorded versions, on clips with the band of a rate. What is in `work` is
    read; the rest is computed and kept there."""
    recorded = [name for name in clips.versions if rate == SAMPLING_RATE or name in (NOISY, CLEAN)]
    systems = {name: System({"version": name}, itemgetter(name)) for name in recorded} | systems
    packages = sorted(path.name for path in raters.glob("*.dist-info")) if raters else []
    limit, read, values = Transmission(rate).band_limit, [], {}
    for name, system in systems.items():
        # what is known by its weights may lie elsewhere now
        identity = {key: value for key, value in system.identity.items() if key != "name"}
        key = json.dumps([clips.identity, rate, identity, COMPARED, packages], sort_keys=True)
        path = work / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
        if not path.exists():
            read = read or [{version: limit(clip[version]) for version in clip} for clip in clips.read()]
            rater = load_raters(raters) if raters else None
            scores = score_clips(system, read, rate, rater, f"{clips.name}, {rate} Hz, {name}")
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(scores))
        values[name] = json.loads(path.read_text())
    return values


# Report --------------------------------------------------------------------------------------------------------------


def compare(inputs: list[Scores], outputs: list[Scores]) -> dict[str, dict[str, Any]]:
    """
    How the scores of a system differ from those of its input.

    Args:
        inputs: of the noisy clips, in one or several conditions; the same clips in each.
        outputs: of the system.

    Returns:
        `{measure: {"mean", "difference", "losers"}}`: the mean score; the mean difference with its 95 % interval over
        clips, each of which counts with its mean over the conditions; the share of clips that lose more than 0.2, of
        DNSMOS and DistillMOS. None where a score is undefined for all clips.
    """
    values = {}
    for measure in outputs[0]:
        before, after = (np.array([scores[measure] for scores in those]) for those in (inputs, outputs))
        changes = (after - before)[:, np.isfinite(after - before).all(axis=0)]  # (conditions, clips)
        values[measure] = {
            "mean": float(np.nanmean(after)) if np.isfinite(after).any() else None,
            "difference": estimate(changes.mean(axis=0)) if changes.size else None,
        }
        if measure in JUDGED:
            values[measure]["losers"] = float((changes < -LOSS).mean())
    return values


def summarize(scores: dict[str, dict[str, Scores]], in_noise: list[str]) -> dict[str, dict[str, Any]]:
    """`{condition: {system: comparison}}` of the scores of each, and of the conditions with noise together."""
    groups = {name: [name] for name in scores} | ({ALL_NOISE: in_noise} if in_noise else {})
    return {
        title: {
            system: compare([scores[name][NOISY] for name in names], [scores[name][system] for name in names])
            for system in scores[names[0]]
        }
        for title, names in groups.items()
    }


def render(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "# Quality of enhanced speech",
        "",
        f"`{results['command']}`, commit {results['commit']}, seed {results['seed']}. Clips: {results['clips']}. Each "
        f"mean, and its difference to the noisy input with a 95 % bootstrap interval over clips; the share of clips "
        f"that lose more than {LOSS} in DNSMOS and in DistillMOS.",
        "",
    ]
    for system, identity in results["systems"].items():
        lines.append(
            f"- {system}: " + (f"SHA-256 `{identity['sha256']}`" if "sha256" in identity else identity["name"])
        )
    for rate, conditions in results["rates"].items():
        shown_measures = [name for name in SHOWN if name in next(iter(conditions.values()))[NOISY]]
        judged = [name for name in JUDGED if name in shown_measures]
        titles = [TITLES[name] for name in shown_measures] + [f"lose {TITLES[name]} (%)" for name in judged]
        lines += ["", f"## {'Wideband' if int(rate) == SAMPLING_RATE else f'Resampled to {rate} Hz and back'}", ""]
        lines += [f"| clips | system | {' | '.join(titles)} |", "|---" * (len(titles) + 2) + "|"]
        for condition, compared in conditions.items():
            for system, measures in compared.items():
                cells = [_cell(measures[name], SHOWN[name], system != NOISY) for name in shown_measures]
                cells += [f"{100 * measures[name]['losers']:.0f}" if system != NOISY else "" for name in judged]
                lines.append(f"| {condition} | {system} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(compared: dict[str, Any], digits: int, with_difference: bool) -> str:
    mean, difference = compared["mean"], compared["difference"]
    text = "undefined" if mean is None else f"{mean:.{digits}f}"
    return f"{text}, {shown(difference, digits, '+')}" if with_difference and difference else text


def main(
    name: NameOption,
    model: Annotated[
        list[str] | None,
        typer.Option(help="Checkpoints: folders, embedded ones, Hub ids. [default: the embedded one]"),
    ] = None,
    mos: Annotated[
        Path | None, typer.Option(help="Folder of DistillMOS; without it, neither DNSMOS nor DistillMOS.")
    ] = None,
    peer: Annotated[
        list[str] | None, typer.Option(help=f"Enhancers of other packages: {', '.join(ENHANCERS)}.")
    ] = None,
    pairs: Annotated[Path | None, typer.Option(help="Recorded pairs.")] = None,
    speech: Annotated[list[str] | None, typer.Option(help="Speech datasets.")] = None,
    noise: Annotated[list[str] | None, typer.Option(help="Noise datasets, pools named after their folders.")] = None,
    split: SplitOption = "dev",
    snr_db: Annotated[list[float] | None, typer.Option(help="Ratios. [default: -5 to 20 in steps of 5]")] = None,
    max_clips: Annotated[int, typer.Option(help="Of the speech datasets, spread over their speakers.")] = 24,
    seed: Annotated[int, typer.Option(help="Of the clips and the mixtures.")] = 0,
    work: Annotated[Path, typer.Option(help="Where scores are kept.")] = Path("runs/enhancement_quality"),
) -> None:
    """Measures all systems and writes the results."""
    torch.set_num_threads(1)
    measured = commit()
    work.mkdir(parents=True, exist_ok=True)
    sets = [recorded_set(pairs)] if pairs else []
    pools = name_pools(noise or [])
    if speech:
        config = EvaluationConfig(
            speech=speech,
            speech_split=split,
            noise=pools,
            noise_split=split,
            snr_db=snr_db or SNR_DB,
            clips="all",
            seed=seed,
        )
        sets += mixed_sets(config, max_clips)
    if not sets:
        raise typer.BadParameter("there is nothing to measure: give --pairs, --speech or both.")
    systems = load_systems(model or [portable_name(DEFAULT_CHECKPOINT)], peer or [])
    rates, counts = {}, {}
    for rate in RATES:
        scores = {clips.name: measure(clips, rate, systems, mos, work) for clips in sets}
        in_noise = [clips.name for clips in sets if clips.identity.get("noise")]
        rates[str(rate)] = summarize(scores, in_noise)
        counts = {condition: len(values[NOISY]["stoi"]) for condition, values in scores.items()}
    results = {
        "command": shlex.join(["python", "-m", "benchmarks.enhancement_quality", *sys.argv[1:]]),
        "commit": measured,
        "seed": seed,
        "clips": ", ".join(f"{condition} {count}" for condition, count in counts.items()),
        "systems": {name: system.identity for name, system in systems.items()},
        "sets": {clips.name: clips.identity for clips in sets},
        "rates": rates,
    }
    write_results(RESULTS / "enhancement_quality" / name, results, render(results))
    print(render(results))


if __name__ == "__main__":
    typer.run(main)
