# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""
Measures the mixture of experts and its ablations on the texts of MELD with borrowed voices.

MELD comes without recordings here. Each line borrows the embedding of an acted clip of the same emotion, from the
speakers of its own split, drawn by the seed. The speech thus tells the label: this is easy by construction, and never
a result about MELD. For each seed, the systems of `benchmarks/conversation/borrowed_voices` are trained; the dev split
chooses the epoch. They are scored on the test split, with intervals and paired permutation tests over dialogues: as it
is, and with the voices of half of the lines from another emotion. The weight of the speech expert in the gate is
compared on these lines, between the wrong voice and the right one. Writes `NAME.json` and `NAME.md` to
`benchmarks/results/conversation`.

    python -m benchmarks.conversation.borrowed --text-models runs/wild/meld/ce_natural
"""

import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import torch
import typer
from datasets import Dataset, List, Value

from benchmarks.conversation.__main__ import (
    CONVERSATIONS_AT_ONCE,
    FOLDER,
    RUNS,
    Data,
    TextEncoder,
    TextModels,
    classify,
    embed_texts,
    markdown_of_scores,
    score,
)
from benchmarks.writing import RESULTS, commit, write_results
from modeling_sparse_merit import MisterEForConversationEmotion
from modeling_sparse_merit.data.datasets import read_dataset
from modeling_sparse_merit.data.prepare import write_dataset
from modeling_sparse_merit.evaluation.statistics import Resampling, compare_measure
from modeling_sparse_merit.training.arguments import parse_fields
from modeling_sparse_merit.training.conversation import ConversationSettings, train
from modeling_sparse_merit.training.conversations import collate, read_conversations
from modeling_sparse_merit.training.embed_dataset import embed_dataset

BASELINE = "fused"
SYSTEMS = FOLDER / "borrowed_voices"
VOICES = ("tables/ravdess", "tables/emodb", "tables/nemo", "tables/ased")
MELD_LABELS = {"happy": "joy", "angry": "anger", "sad": "sadness"}
"""Emotions of the acted clips that MELD has under another name."""
SPEECH = "speech_embedding"
WRONG_SHARE, RESAMPLES, SEED = 0.5, 1_000, 0
PARTS = {
    "right": "every voice has the emotion of its line",
    "half wrong": "the voices of half of the lines have another emotion",
}
CAVEAT = (
    "The voices are borrowed: acted clips of the same emotion as the line, from speakers of the same split. The "
    "speech tells the label, so these scores are easy by construction, and **no result about MELD**. They show what "
    "the parts of the model do."
)

Voices = Mapping[str, Mapping[str, list[np.ndarray]]]
"""{split: {emotion of MELD: embeddings (D,)}}."""


def main(
    text_models: TextModels,
    text_encoder: TextEncoder = None,
    data: Data = "tables/meld",
    voices: Annotated[list[str], typer.Option(help="Datasets of acted clips.")] = list(VOICES),  # noqa: B006
    texts: Annotated[
        Path | None, typer.Option(help="Folder with the embedded texts of each seed, SEED; by default they are made.")
    ] = None,
    name: Annotated[str, typer.Option(help="Name of the results.")] = "borrowed_voices",
    seeds: Annotated[int, typer.Option(help="Number of seeds.")] = 3,
    dialogues: Annotated[int | None, typer.Option(help="Dialogues of each split, for a quick look.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Epochs of each training, for a quick look.")] = None,
) -> None:
    """Trains and scores all systems, and writes the results."""
    files = {path.stem: path for path in sorted(SYSTEMS.glob("*.yaml")) if path.stem != "base"}
    spoken = embed_voices(voices, RUNS / name, epochs)
    members: dict[str, dict[str, list[np.ndarray]]] = {part: {} for part in PARTS}
    weights: dict[str, list[np.ndarray]] = {part: [] for part in PARTS}
    wrong_lines = []
    for seed in range(seeds):
        embedded = embed_texts(texts or RUNS / name / "texts", seed, text_models, text_encoder, data)
        rows = first_dialogues(read_dataset(embedded, required="text"), dialogues)
        borrowed = RUNS / name / "borrowed" / str(seed)
        if not borrowed.exists():
            write_dataset(borrow(rows, spoken, seed), borrowed)
        test = {"right": read_dataset(borrowed, "test", required="text")}
        test["half wrong"], wrong = mislead(test["right"], spoken, seed)
        wrong_lines.append(wrong)
        for system, path in files.items():
            output = RUNS / name / system
            arguments = ["--data", str(borrowed), "--output_dir", str(output), "--seeds", str(seed)]
            arguments += ["--epochs", str(epochs)] if epochs else []
            settings = parse_fields(ConversationSettings, [str(path), *arguments], "")
            train(settings)  # nothing is left of a finished run
            for part, each in test.items():
                best = output / str(seed) / "best"
                members[part].setdefault(system, []).append(classify(best, each, settings.labels))
                if system == BASELINE:
                    weights[part].append(speech_weights(best, each, settings.labels))
    known = [text for text, split in zip(rows["text"], rows["split"], strict=True) if split == "train"]
    result = {
        "command": shlex.join(["python", "-m", "benchmarks.conversation.borrowed", *sys.argv[1:]])
        .replace(str(texts), "TEXTS")
        .replace(str(text_encoder), "TEXT_ENCODER")
        .replace(str(text_models), "TEXT_MODELS"),
        "commit": commit(),
        "seeds": seeds,
        "voices": {split: {label: len(some) for label, some in own.items()} for split, own in spoken.items()},
        "parts": {part: score(members[part], test[part], known, settings.labels, BASELINE) for part in PARTS},
        "gate": compare_gate(weights, wrong_lines, test["right"]["dialogue"]),
    }
    write_results(RESULTS / "conversation" / name, result, markdown(name, result))
    print(markdown(name, result))


def embed_voices(tables: Sequence[str], folder: Path, epochs: int | None = None) -> Voices:
    """
    Embeddings of the acted clips, by a model that is trained on them first if there is none yet.

    Args:
        tables: Datasets of acted clips, whose speakers are in one split each.
        folder: Folder of the model, of the outputs of its encoder, and of the embedded clips.
        epochs: Epochs of its training; None for those of its settings.
    """
    model, cache = folder / "speech", folder / "embeddings"
    if not (model / "best").exists():
        arguments = [str(FOLDER / "speech.yaml"), "--output_dir", str(model), "--embedding_cache", str(cache)]
        arguments += ["--data", *tables, *(["--epochs", str(epochs)] if epochs else [])]
        command = [sys.executable, "-m", "modeling_sparse_merit.training.speech_text", *arguments]
        subprocess.run(command, check=True)
    spoken: dict[str, dict[str, list[np.ndarray]]] = {}
    for table in tables:
        embedded = folder / "voices" / Path(table).name
        if not embedded.exists():
            write_dataset(embed_dataset(table, cache, speech=str(model / "best")), embedded)
        rows = read_dataset(embedded, required=None)
        emotions = [rows.features["emotion"].int2str(value) for value in rows["emotion"]]
        for split, emotion, values in zip(rows["split"], emotions, rows[SPEECH], strict=True):
            own = spoken.setdefault(split, {}).setdefault(MELD_LABELS.get(emotion, emotion), [])
            own.append(np.asarray(values, np.float32))
    return spoken


def first_dialogues(rows: Dataset, number: int | None) -> Dataset:
    """The rows of the first dialogues of each split; all for None."""
    if number is None:
        return rows
    names: dict[str, list[str]] = {}
    for split, dialogue in zip(rows["split"], rows["dialogue"], strict=True):
        own = names.setdefault(split, [])
        if dialogue not in own and len(own) < number:
            own.append(dialogue)
    chosen = {name for own in names.values() for name in own}
    return rows.select([place for place, name in enumerate(rows["dialogue"]) if name in chosen])


def borrow(rows: Dataset, spoken: Voices, seed: int) -> Dataset:
    """
    Lines with the embedding of a clip of their emotion, from the speakers of their split.

    Args:
        rows: Lines with `emotion` and `split`.
        spoken: Embeddings of the clips.
        seed: Seed of the draws.
    """
    generator = np.random.default_rng([SEED, seed])
    names = [rows.features["emotion"].int2str(value) for value in rows["emotion"]]
    choices = [spoken[split][name] for split, name in zip(rows["split"], names, strict=True)]
    return with_speech(rows, [clips[generator.integers(len(clips))] for clips in choices])


def mislead(rows: Dataset, spoken: Voices, seed: int, share: float = WRONG_SHARE) -> tuple[Dataset, np.ndarray]:
    """
    Replaces the clips of some lines by clips of another emotion, from the speakers of the same split.

    Args:
        rows: Lines, as `borrow` returns them.
        spoken: Embeddings of the clips.
        seed: Seed of the draws.
        share: Share of the lines.

    Returns:
        The lines, and which of them have a wrong clip: (rows,).
    """
    generator = np.random.default_rng([SEED + 1, seed])
    labels = rows.features["emotion"].names
    emotions, splits = [labels[value] for value in rows["emotion"]], rows["split"][:]
    wrong = np.zeros(len(rows), bool)
    wrong[generator.permutation(len(rows))[: round(share * len(rows))]] = True
    drawn = [np.asarray(values, np.float32) for values in rows[SPEECH]]
    for row in np.flatnonzero(wrong).tolist():
        clips = spoken[splits[row]]
        others = sorted(name for name in clips if name in labels and name != emotions[row])
        chosen = clips[others[generator.integers(len(others))]]
        drawn[row] = chosen[generator.integers(len(chosen))]
    return with_speech(rows.remove_columns(SPEECH), drawn), wrong


def with_speech(rows: Dataset, embeddings: Sequence[np.ndarray]) -> Dataset:
    """The rows with a column of speech embeddings."""
    return rows.add_column(SPEECH, pa.array(embeddings, pa.list_(pa.float32())), feature=List(Value("float32")))


@torch.inference_mode()
def speech_weights(best: Path, rows: Dataset, labels: Sequence[str]) -> np.ndarray:
    """The weight of the speech expert in the gate for each row: (rows,)."""
    model = MisterEForConversationEmotion.from_pretrained(best).eval()
    place = list(model.config.experts or ()).index("speech")
    conversations = read_conversations(rows, labels, model.config.embedding_sizes)
    weights = np.empty(len(rows))
    for start in range(0, len(conversations), CONVERSATIONS_AT_ONCE):
        some = conversations[start : start + CONVERSATIONS_AT_ONCE]
        gate = model(**{name: value for name, value in collate(some).items() if name != "labels"}).gate
        for each, own in zip(some, gate, strict=True):
            weights[each.rows] = own[: len(each), place].numpy()
    return weights


def compare_gate(
    weights: Mapping[str, list[np.ndarray]], wrong: Sequence[np.ndarray], dialogues: Sequence[str]
) -> dict[str, Any]:
    """
    The weight of the speech expert with the wrong voice and with the right one, on the lines that get a wrong voice
    and on the others, paired.

    Args:
        weights: {part: weights (rows,) of each seed}.
        wrong: Which lines have a wrong voice, of each seed.
        dialogues: Dialogue of each line.

    Returns:
        {"wrong voice" | "right voice": {"right", "half wrong", "difference", "difference_speaker_interval",
        "speaker_p"}}.
    """
    lines = np.array(wrong)  # (seeds, rows)
    resampling = Resampling(list(dialogues), RESAMPLES, SEED)
    compared = {}
    for name, chosen in (("wrong voice", lines), ("right voice", ~lines)):
        after, before = (np.where(chosen, np.array(weights[part]), np.nan) for part in ("half wrong", "right"))
        comparison = compare_measure(after, before, resampling, (0, 0)).describe()
        compared[name] = {"right": comparison["baseline"], "half wrong": comparison["score"], **comparison}
    return compared


def markdown(name: str, result: dict[str, Any]) -> str:
    """The results as Markdown.

    Args:
        name: Of the results.
        result: As `main` makes it.
    """
    lines = [
        f"# Mixture of experts with borrowed voices: {name}",
        "",
        f"`{result['command']}`, commit {result['commit']}, {result['seeds']} seeds.",
        "",
        CAVEAT,
        "",
        "Means over the seeds, 95 % bootstrap intervals over dialogues; in parentheses the lowest and the highest "
        "seed. p-values are those of paired permutation tests over dialogues, corrected by Holm; differences are "
        f"those from `{BASELINE}`.",
    ]
    for part, description in PARTS.items():
        scored = result["parts"][part]["test"]
        lines += ["", f"## {scored['clips']} test lines: {description}", "", *markdown_of_scores(scored)]
    lines += [
        "",
        f"## Weight of the speech expert in the gate of `{BASELINE}`",
        "",
        "The same lines, before and after half of all lines get a wrong voice.",
        "",
        "| lines | every voice right | half of them wrong | difference | p over dialogues |",
        "|---|---|---|---|---|",
    ]
    for lines_with, entry in result["gate"].items():
        low, high = entry["difference_speaker_interval"]
        cells = [f"{entry[part]:.3f}" for part in PARTS]
        cells += [f"{entry['difference']:+.3f} [{low:+.3f}, {high:+.3f}]", f"{entry['speaker_p']:.4f}"]
        lines.append(f"| with a {lines_with} then | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
