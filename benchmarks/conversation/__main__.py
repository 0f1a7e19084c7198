# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""
Measures what the context of a dialogue adds to the emotion of its lines, on the texts of MELD.

For each seed, a text model of single lines gives embeddings, on which the systems of `benchmarks/conversation/meld`
are trained; the dev split chooses the epoch. Text models that are missing are trained first. All are scored on the
test split, on all lines and on those that do not occur in the train split, with 95 % bootstrap intervals and paired
permutation tests over dialogues, corrected by Holm. Writes `NAME.json` and `NAME.md` to
`benchmarks/results/conversation`.

    python -m benchmarks.conversation --text-models runs/conversation/text --text-encoder TEXT_ENCODER
"""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from datasets import Dataset

from benchmarks.wild.scores import Predictions, score_systems
from benchmarks.writing import RESULTS, commit, write_results
from modeling_sparse_merit import MisterEForConversationEmotion, SpeechTextForEmotion
from modeling_sparse_merit.data.datasets import read_dataset
from modeling_sparse_merit.data.prepare import write_dataset
from modeling_sparse_merit.evaluation.statistics import Resampling, emotion_scores
from modeling_sparse_merit.models.sparse_merit.tasks import EMOTION, ClassificationTask
from modeling_sparse_merit.training.arguments import parse_fields
from modeling_sparse_merit.training.conversation import ConversationSettings, predict, train
from modeling_sparse_merit.training.conversations import read_conversations
from modeling_sparse_merit.training.embed_dataset import embed_dataset

FOLDER, RUNS = Path(__file__).parent, Path("runs/conversation")
BASELINE = "no_context"
TEXT_MODEL = "text model"
"""The system that stage 1 is by itself."""
PARTS = {"test": "all lines", "new": "lines that do not occur in the train split"}
RESAMPLES, SEED, CONVERSATIONS_AT_ONCE = 1_000, 0, 32

TextModels = Annotated[Path, typer.Option(help="Folder with a text model SEED/best for each seed.")]
TextEncoder = Annotated[
    str | None, typer.Option(help="Text encoder of transformers that missing text models are trained from.")
]
Data = Annotated[str, typer.Option(help="The dataset of MELD.")]


def main(
    text_models: TextModels,
    text_encoder: TextEncoder = None,
    data: Data = "tables/meld",
    name: Annotated[str, typer.Option(help="Name of the results.")] = "meld",
    seeds: Annotated[int, typer.Option(help="Number of seeds.")] = 3,
) -> None:
    """Trains and scores all systems, and writes the results."""
    files = {path.stem: path for path in sorted((FOLDER / "meld").glob("*.yaml")) if path.stem != "base"}
    members: dict[str, list[np.ndarray]] = {}
    for seed in range(seeds):
        embedded = embed_texts(RUNS / name / "embedded", seed, text_models, text_encoder, data)
        test = read_dataset(embedded, "test", required="text")
        members.setdefault(TEXT_MODEL, []).append(classify_alone(text_models / str(seed) / "best", test))
        for system, path in files.items():
            output = RUNS / name / system
            arguments = ["--data", str(embedded), "--output_dir", str(output), "--seeds", str(seed)]
            settings = parse_fields(ConversationSettings, [str(path), *arguments], "")
            train(settings)  # nothing is left of a finished run
            members.setdefault(system, []).append(classify(output / str(seed) / "best", test, settings.labels))
    result = {
        "command": shlex.join(["python", "-m", "benchmarks.conversation", *sys.argv[1:]])
        .replace(str(text_encoder), "TEXT_ENCODER")
        .replace(str(text_models), "TEXT_MODELS"),
        "commit": commit(),
        "seeds": seeds,
        **score(members, test, read_dataset(data, "train", required="text")["text"], settings.labels),
    }
    write_results(RESULTS / "conversation" / name, result, markdown(name, result))
    print(markdown(name, result))


def embed_texts(folder: Path, seed: int, text_models: Path, text_encoder: str | None, data: str) -> Path:
    """
    The dataset of MELD with embeddings of the text model of a seed, which are made where there are none yet.

    Args:
        folder: Folder of the datasets, SEED each.
        seed: The seed.
        text_models: Folder of the text models, SEED/best each; a missing one is trained.
        text_encoder: What it is trained from.
        data: The dataset of MELD.
    """
    embedded = folder / str(seed)
    if not embedded.exists():
        model = text_models / str(seed) / "best"
        if not model.exists():
            train_text_model(model.parent, seed, text_encoder)
        write_dataset(embed_dataset(data, folder.with_name("embeddings"), text=str(model)), embedded)
    return embedded


def train_text_model(folder: Path, seed: int, encoder: str | None) -> None:
    """Trains stage 1 from a text encoder, in a process of its own."""
    if encoder is None:
        raise typer.BadParameter(
            f"{folder}/best does not exist: give the encoder to train it from with --text-encoder"
        )
    arguments = [str(FOLDER / "text.yaml"), "--text_model", encoder, "--seed", str(seed), "--output_dir", str(folder)]
    subprocess.run([sys.executable, "-m", "modeling_sparse_merit.training.speech_text", *arguments], check=True)


@torch.inference_mode()
def classify_alone(model: Path, rows: Dataset) -> np.ndarray:
    """Names of the most probable classes of the text model for each row, from its embeddings."""
    text = SpeechTextForEmotion.from_pretrained(model).eval()
    head: Any = text.heads[EMOTION]
    hidden = torch.from_numpy(np.asarray(rows["text_embedding"][:], np.float32))  # (rows, D)
    classes = head.classifier(head.activation(hidden)).argmax(-1)
    return np.array([text.config.id2label[index] for index in classes.tolist()])


def classify(best: Path, rows: Dataset, labels: Sequence[str]) -> np.ndarray:
    """Names of the most probable classes of a conversation model for each row."""
    model = MisterEForConversationEmotion.from_pretrained(best)
    conversations = read_conversations(rows, labels, model.config.embedding_sizes)
    classes = np.empty(len(rows), dtype=object)
    for each, predicted in zip(conversations, predict(model, conversations, CONVERSATIONS_AT_ONCE), strict=True):
        classes[each.rows] = [labels[index] for index in predicted]
    return classes


def score(
    members: dict[str, list[np.ndarray]],
    rows: Dataset,
    known_texts: Sequence[str],
    labels: Sequence[str],
    baseline: str = BASELINE,
) -> dict[str, Any]:
    """
    Scores of all systems, and their comparisons with one of them.

    Args:
        members: {system: names of the classes (rows,) of each seed}.
        rows: Rows of the test split.
        known_texts: Texts of the train split.
        labels: The classes.
        baseline: The system that the others are compared with.

    Returns:
        {part: as `score_systems`, and "per_class": {system: {class: F1 with its interval over dialogues}}}.
    """
    numbers = {label: index for index, label in enumerate(labels)}
    true = np.array([numbers[rows.features[EMOTION].int2str(value)] for value in rows[EMOTION]])
    predicted = {name: [np.array([numbers[label] for label in each]) for each in own] for name, own in members.items()}
    texts, dialogues = np.array(rows["text"]), np.array(rows["dialogue"])
    parts = {"test": np.ones(len(true), bool), "new": ~np.isin(texts, list(set(known_texts)))}
    task = ClassificationTask(torch.nn.Identity, labels=tuple(labels))
    results = {}
    for part, chosen in parts.items():
        units = dialogues[chosen].tolist()
        systems = {
            name: [Predictions(task, true[chosen], each[chosen], units) for each in own]
            for name, own in predicted.items()
        }
        resampling = Resampling(units, RESAMPLES, SEED)
        per_class = {}
        for stream, (name, own) in enumerate(predicted.items()):
            stacked = np.stack([each[chosen] for each in own])  # (seeds, lines)
            scores = emotion_scores(true[chosen], stacked, len(labels), resampling, stream)["per_class_f1"]
            per_class[name] = {label: f1.describe() for label, f1 in zip(labels, scores, strict=True)}
        results[part] = {**score_systems(systems, baseline), "per_class": per_class}
    return results


def markdown(name: str, result: dict[str, Any]) -> str:
    """The results as Markdown.

    Args:
        name: Of the results.
        result: Result of `score`, with `command`, `commit` and `seeds`.
    """
    lines = [
        f"# Emotion in conversations: {name}",
        "",
        f"`{result['command']}`, commit {result['commit']}, {result['seeds']} seeds. Means over the seeds, 95 % "
        "bootstrap intervals over dialogues; in parentheses the lowest and the highest seed. p-values are those of "
        f"paired permutation tests over dialogues, corrected by Holm; differences are those from `{BASELINE}`.",
    ]
    for part, description in PARTS.items():
        scored = result[part]
        lines += ["", f"## {scored['clips']} test lines: {description}", "", *markdown_of_scores(scored)]
    classes = list(next(iter(result["test"]["per_class"].values())))
    lines += ["", "## F1 of each class, all test lines", "", f"| system | {' | '.join(classes)} |"]
    lines += ["|---" * (len(classes) + 1) + "|"]
    for system, scores in result["test"]["per_class"].items():
        means = [f"{scores[label]['mean']:.3f}" for label in classes]
        lines.append(f"| {system} | {' | '.join(means)} |")
    return "\n".join(lines)


def markdown_of_scores(scored: dict[str, Any]) -> list[str]:
    """A table of the scores of all systems, and of their differences from the baseline; `scored` is from
    `score_systems`."""
    lines = ["| system | weighted F1 | macro-F1 | difference in weighted F1 | p | in macro-F1 | p |", "|---" * 7 + "|"]
    for system, scores in scored["systems"].items():
        cells = [_cell(scores[measure]) for measure in ("weighted_f1", "macro_f1")]
        for measure in ("weighted_f1", "macro_f1"):
            cells += _difference(scored["comparisons"], system, measure)
        lines.append(f"| {system} | {' | '.join(cells)} |")
    return lines


def _cell(score: dict[str, Any]) -> str:
    low, high = score["speaker_interval"]
    seeds = score["seeds"]
    spread = f" ({seeds['min']:.3f} to {seeds['max']:.3f})" if seeds else ""
    return f"{score['mean']:.3f} [{low:.3f}, {high:.3f}]{spread}"


def _difference(comparisons: Sequence[dict[str, Any]], system: str, measure: str) -> list[str]:
    for entry in comparisons:
        if (entry["system"], entry["measure"]) == (system, measure):
            low, high = entry["difference_speaker_interval"]
            return [f"{entry['difference']:+.3f} [{low:+.3f}, {high:+.3f}]", f"{entry['speaker_p_holm']:.4f}"]
    return ["", ""]


if __name__ == "__main__":
    typer.run(main)
