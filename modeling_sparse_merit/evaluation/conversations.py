# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Evaluates conversation models on datasets with embeddings: the scores of any evaluation, with intervals over
dialogues, and the weights that the gate gives to the experts."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedConfig

from ..data.datasets import read_datasets
from ..models.mister_e.configuration_mister_e import MisterEConfig
from ..models.mister_e.losses import UNLABELLED
from ..models.mister_e.modeling_mister_e import MisterEForConversationEmotion
from ..models.sparse_merit.calibration import checkpoint_sha256
from ..models.sparse_merit.sources import locate, portable_name
from ..training.conversations import collate, read_conversations
from .conditions import Condition
from .configuration import NOISY, EvaluationConfig
from .figures import draw_conversation_figures
from .markdown import render_conversations
from .report import build_report, write_json, write_text
from .versions import package_versions

CONVERSATIONS_AT_ONCE = 32
PLACES = {"1": 1, "2": 2, "3 to 4": 4, "5 to 8": 8, "9 to 16": 16, "17 on": 10**9}
"""Places in a dialogue, counted from 1, that are averaged together: the last of each group."""


def are_conversations(config: EvaluationConfig) -> bool:
    """
    Whether the systems of an evaluation are conversation models.

    Raises:
        ValueError: Some are, and others are not.
    """
    members = [member for name, some in config.members().items() for member in some if name != NOISY]
    kinds = {_model_type(member) == MisterEConfig.model_type for member in members}
    if len(kinds) > 1:
        raise ValueError("Some `systems` are conversation models, others are not: evaluate them in two evaluations.")
    return kinds == {True}


def _model_type(member: Any) -> str | None:
    """The type of a checkpoint; None for other systems, and for a checkpoint that does not exist."""
    if not isinstance(member, str):
        return None
    try:
        return PreTrainedConfig.get_config_dict(locate(member))[0].get("model_type")
    except OSError:
        return None


def evaluate_conversations(config: EvaluationConfig) -> dict[str, Any]:
    """
    Evaluates conversation models, and writes `results.json`, `results.md` and `figures` into the folder of the output.

    Args:
        config: Settings of the evaluation. `speech` are datasets that `sparse-merit embed` has written; `clips` are
            utterances, and `speakers` are dialogues: what intervals and paired tests draw together.

    Returns:
        The content of `results.json`.

    Raises:
        ValueError: Models have different labels, or a setting applies to recordings alone.
        DatasetError: A dataset has no conversations, or lacks embeddings.
    """
    _check(config)
    systems = {name: list(members) for name, members in (config.systems or {"model": [config.model]}).items()}
    models = {name: [_load(member) for member in members] for name, members in systems.items()}
    labels = _shared_labels(models)
    rows, gates = {}, {}
    for name, members in models.items():
        outputs = [_predict(model, config, labels) for model in members]
        rows[name], gates[name] = [rows for rows, _ in outputs], _mean_gate([gate for _, gate in outputs])
    described = {
        name: [_describe(source, model) for source, model in zip(systems[name], members, strict=True)]
        for name, members in models.items()
    }
    first = next(iter(rows.values()))[0]
    record = {
        "config": config.record(),
        **({} if config.systems else {"model": described["model"][0]}),
        "systems": described,
        "labels": labels,
        "clips": {
            "evaluated": len(first),
            "labelled": {label: sum(row["emotion"] == label for row in first) for label in labels},
            "speakers": len({row["speaker"] for row in first}),
        },
        "noise": {},
        "versions": package_versions(),
    }
    report = build_report(record, rows, config)
    for name, result in report["results"].items():
        result["conditions"][0]["gate"] = gates[name]
    write_conversation_report(Path(config.output), report)
    return report


def write_conversation_report(folder: Path, report: dict[str, Any]) -> None:
    """
    Writes `results.json`, `figures/*.png` and `results.md` atomically. Without matplotlib the figures are left out.

    Args:
        folder: Folder of the report.
        report: As `evaluate_conversations` returns it.
    """
    write_json(folder / "results.json", report)
    try:
        figures = draw_conversation_figures(folder / "figures", report)
    except ImportError as error:
        warnings.warn(f"The report has no figures. {error}", stacklevel=2)
        figures = []
    text = render_conversations(report, [path.relative_to(folder).as_posix() for path in figures])
    write_text(folder / "results.md", text)


def _check(config: EvaluationConfig) -> None:
    for name in ("noise", "transmissions", "subsets", "test_set", "max_clips", "labels"):
        if value := getattr(config, name):
            raise ValueError(f"`{name}` is {value!r}; expected nothing: conversation models take embeddings alone.")


def _load(checkpoint: str) -> MisterEForConversationEmotion:
    return MisterEForConversationEmotion.from_pretrained(locate(checkpoint)).eval()


def _describe(source: str, model: MisterEForConversationEmotion) -> dict[str, Any]:
    config = model.config
    return {
        "name": portable_name(source),
        "sha256": checkpoint_sha256(locate(source)),
        "precision": "fp32",
        "experts": list(config.experts or ()),
        "gate": config.gate,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
    }


def _labels_of(model: MisterEForConversationEmotion) -> list[str]:
    return list((model.config.id2label or {}).values())


def _shared_labels(models: Mapping[str, Sequence[MisterEForConversationEmotion]]) -> list[str]:
    labels = {name: [_labels_of(model) for model in members] for name, members in models.items()}
    first = next(iter(labels.values()))[0]
    for name, members in labels.items():
        if any(sorted(own) != sorted(first) for own in members):
            raise ValueError(
                f"The model {name} has the labels {members[0]}; expected those of the first model, {first}."
            )
    return first


@torch.inference_mode()
def _predict(
    model: MisterEForConversationEmotion, config: EvaluationConfig, labels: Sequence[str]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows of the labelled utterances, as `build_report` takes them, and the mean weights of the gate."""
    data = read_datasets(config.speech, split=config.speech_split, required=None)
    own = _labels_of(model)
    conversations = read_conversations(data, own, model.config.embedding_sizes)
    rows, weights, places = [], [], []
    for start in range(0, len(conversations), CONVERSATIONS_AT_ONCE):
        some = conversations[start : start + CONVERSATIONS_AT_ONCE]
        outputs = model(**{name: value for name, value in collate(some).items() if name != "labels"})
        for each, logits, gate in zip(some, outputs.logits, outputs.gate, strict=True):
            scores = logits.softmax(-1).tolist()
            for place in (place for place, label in enumerate(each.labels) if label != UNLABELLED):
                probabilities = {f"probability_{label}": scores[place][own.index(label)] for label in labels}
                predicted = max(labels, key=lambda label: probabilities[f"probability_{label}"])  # noqa: B023
                row: dict[str, Any] = {
                    "row": int(each.rows[place]),
                    "frames": 0,
                    "condition": Condition().name,
                    "pool": None,
                    "snr_db": None,
                }
                row |= {"emotion": own[each.labels[place]], "speaker": each.name, "predicted": predicted}
                rows.append({**row, **probabilities})
                weights.append(gate[place].numpy())
                places.append(place)
    emotions = np.array([row["emotion"] for row in rows])
    return rows, gate_weights(np.array(weights), emotions, np.array(places), model.config.experts or (), labels)


def gate_weights(
    weights: np.ndarray, emotions: np.ndarray, places: np.ndarray, experts: Sequence[str], labels: Sequence[str]
) -> dict[str, Any]:
    """
    Mean weights of the experts by class and by place in the dialogue.

    Args:
        weights: (N, E).
        emotions: True class of each utterance, (N,).
        places: Place of each utterance in its dialogue, from 0: (N,).
        experts: Their names.
        labels: The classes.

    Returns:
        {"experts": names, "mean": (E,), "by_class": {class: (E,)}, "by_place": {places: (E,)}}, without classes and
        places that do not occur.
    """
    groups = np.searchsorted(list(PLACES.values()), places + 1)  # (N,)
    by_class = {label: weights[emotions == label] for label in labels}
    by_place = {name: weights[groups == number] for number, name in enumerate(PLACES)}
    return {
        "experts": list(experts),
        "mean": weights.mean(0).tolist(),
        "by_class": {name: each.mean(0).tolist() for name, each in by_class.items() if len(each)},
        "by_place": {name: each.mean(0).tolist() for name, each in by_place.items() if len(each)},
    }


def _mean_gate(gates: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The mean over the seeds of a system, of `gate_weights` on the same utterances."""

    def mean(name: str) -> dict[str, list[float]]:
        return {group: np.mean([gate[name][group] for gate in gates], 0).tolist() for group in gates[0][name]}

    overall = np.mean([gate["mean"] for gate in gates], 0).tolist()
    named = {"by_class": mean("by_class"), "by_place": mean("by_place")}
    return {"experts": gates[0]["experts"], "mean": overall, **named}
