# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Makes a blinded reader study: one self-contained page for each reader, and the key to all pages apart from them.

Each reader labels every clip once in each condition. The clips are presented in as many blocks as there are
conditions: a block has each clip once, in random order, and the condition of a clip changes from block to block and
from reader to reader, so that no condition has the advantage of a second presentation.
"""

import base64
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from datasets import ClassLabel, Dataset

from ..data.datasets import DatasetError, read_datasets
from ..data.mixing import SAMPLING_RATE, MixingRecipe, rms
from ..files import replacing_folder
from ..models.sparse_merit.audio import load_audio
from ..training.cascade import build_enhancement

CLEAN, NOISY, ENHANCED = "clean", "noisy", "enhanced"
KEY_FILE, PAGES, RESPONSES = "key.json", "pages", "responses"
LEVEL_DB = -26.0  # of every recording, so that loudness does not tell the condition
UNITS = ("patient", "speaker")
"""Columns with the person of a clip; the first one that the dataset has is used."""


@dataclass(frozen=True)
class Clip:
    """
    A clip of a study.

    Attributes:
        name: file of the clip, or its number in the dataset.
        label: its true label.
        unit: the person it is of; None if unknown.
        recordings: float32 (samples,) at 16 kHz of each condition.
    """

    name: str
    label: str
    unit: str | None
    recordings: dict[str, np.ndarray]


def make_study(
    folder: Path,
    dataset: str | Path,
    noise: str | Path,
    enhancer: str | None = None,
    snr_db: float = 0.0,
    label_column: str = "label",
    split: str = "test",
    num_clips: int = 20,
    num_readers: int = 7,
    seed: int = 0,
    title: str = "Listening study",
) -> dict[str, Any]:
    """Writes `pages/reader-N.html`, to be given to the readers, and `key.json`, to be kept from them.

    Args:
        folder: the folder to write, which must not exist.
        dataset: dataset of clips with a column of labels.
        noise: noise dataset; each clip is mixed with one of its noises.
        enhancer: checkpoint, or name of another package, as `cleaned_by` of a training; None compares clean and noisy.
        snr_db: signal-to-noise ratio of the mixtures in dB.
        label_column: column of the labels.
        split: split of both datasets.
        num_clips: number of clips, drawn at random.
        num_readers: number of readers.
        seed: seed of the clips, the mixtures and the orders.
        title: title of the pages.

    Returns:
        The content of `key.json`.

    Raises:
        FileExistsError: the folder exists.
        DatasetError: a dataset is missing, or has too few clips with a label.
        ValueError: the enhancer has no enhancement task, or a number is out of range.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} exists; expected a new folder, since responses belong to one study.")
    for name, number in (("num_clips", num_clips), ("num_readers", num_readers)):
        if number < 1:
            raise ValueError(f"{name} is {number}; expected 1 or more.")
    rows = read_datasets([dataset], split=split)
    names = _labels(rows, label_column, dataset)
    generator = np.random.default_rng(seed)
    clips = _clips(rows, label_column, dataset, num_clips, generator)
    recipe = MixingRecipe(read_datasets([noise], split=split), snr_db=snr_db, level_db=None, seed=seed)
    enhance = None if enhancer is None else build_enhancement(enhancer, torch.device("cpu"))
    for number, clip in enumerate(clips):
        mixture = recipe.apply(clip.recordings[CLEAN], recipe.draw(number), clip.name)
        clip.recordings[CLEAN], clip.recordings[NOISY] = mixture.clean, mixture.noisy
        if enhance is not None:
            (clip.recordings[ENHANCED],) = enhance([mixture.noisy])
    conditions = list(clips[0].recordings)
    key: dict[str, Any] = {
        "study": generator.bytes(8).hex(),
        "title": title,
        "dataset": Path(dataset).name,
        "noise": Path(noise).name,
        "enhancer": enhancer,
        "snr_db": snr_db,
        "seed": seed,
        "labels": names,
        "conditions": conditions,
        "readers": {},
    }
    with replacing_folder(folder) as partial:
        (partial / PAGES).mkdir()
        (partial / RESPONSES).mkdir()
        for reader in range(num_readers):
            items, page = {}, []
            for place, condition in presentation_order(len(clips), conditions, reader, generator):
                clip, item = clips[place], generator.bytes(6).hex()
                items[item] = {"clip": clip.name, "unit": clip.unit, "label": clip.label, "condition": condition}
                page.append({"id": item, "audio": _encoded(clip.recordings[condition])})
            name = f"reader-{reader + 1}"
            key["readers"][name] = items
            content = {"study": key["study"], "reader": name, "title": title, "labels": names, "items": page}
            (partial / PAGES / f"{name}.html").write_text(render_page(content), encoding="utf-8")
        (partial / KEY_FILE).write_text(json.dumps(key, indent=1, ensure_ascii=False), encoding="utf-8")
    return key


def presentation_order(
    num_clips: int, conditions: Sequence[str], reader: int, generator: np.random.Generator
) -> list[tuple[int, str]]:
    """The clips and conditions in the order of a reader, see the docstring of the module.

    Args:
        num_clips: number of clips.
        conditions: the conditions.
        reader: number of the reader.
        generator: draws the orders.

    Returns:
        (clip, condition) of each presentation, conditions * clips in all.
    """
    return [
        (place, conditions[(place + reader + block) % len(conditions)])
        for block in range(len(conditions))
        for place in generator.permutation(num_clips).tolist()
    ]


def render_page(content: dict[str, Any]) -> str:
    """The page of a reader as HTML; texts in it cannot become markup.

    Args:
        content: what the script of the page reads.
    """
    template = (resources.files(__package__) / "page.html").read_text(encoding="utf-8")
    data = json.dumps(content, ensure_ascii=True).replace("<", "\\u003c")
    return template.replace("{{CONTENT}}", data)


def _labels(rows: Dataset, column: str, dataset: str | Path) -> list[str]:
    """All labels of a dataset, in its order or in that of the alphabet."""
    if column not in rows.features:
        raise DatasetError(f"{dataset} has the columns {list(rows.features)}; expected {column!r}, with labels.")
    feature = rows.features[column]
    return list(feature.names) if isinstance(feature, ClassLabel) else sorted(set(rows[column]) - {None})


def _clips(rows: Dataset, column: str, dataset: str | Path, count: int, generator: np.random.Generator) -> list[Clip]:
    """Clips drawn at random of those with a label."""
    labelled = [place for place, label in enumerate(rows[column]) if label is not None]
    if len(labelled) < count:
        raise DatasetError(f"{dataset} has {len(labelled)} clips with a label; expected {count} or more.")
    unit = next((name for name in UNITS if name in rows.features), None)
    clips = []
    for place in generator.choice(labelled, count, replace=False).tolist():
        row, feature = rows[place], rows.features[column]
        label = feature.int2str(row[column]) if isinstance(feature, ClassLabel) else str(row[column])
        name = str(row.get("source_file") or place)
        clips.append(Clip(name, label, row[unit] if unit else None, {CLEAN: load_audio(row["audio"])}))
    return clips


def _encoded(recording: np.ndarray) -> str:
    """FLAC of a recording (samples,) as a data URL."""
    level = 10 ** (LEVEL_DB / 20) / max(rms(recording), 1e-9)
    scaled = recording * min(level, 1 / max(float(np.abs(recording).max()), 1e-9))
    buffer = io.BytesIO()
    soundfile.write(buffer, scaled, SAMPLING_RATE, format="FLAC", subtype="PCM_16")
    return f"data:audio/flac;base64,{base64.b64encode(buffer.getvalue()).decode()}"
