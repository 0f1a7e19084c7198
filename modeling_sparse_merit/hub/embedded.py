# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Adds a checkpoint of a training run to the package: weights, configurations, licence and card."""

import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from ..models.sparse_merit.calibration import CALIBRATION
from ..models.sparse_merit.sources import WEIGHTS_LICENSE
from ..models.sparse_merit.task_files import TASK_FOLDER
from .export import CARD, export_checkpoint
from .model_card import WEIGHTS, read_training_data, render_card

FILES = ("config.json", "preprocessor_config.json", WEIGHTS)
"""Files of an embedded checkpoint, in addition to licence and card; its code is that of the package."""
LICENSES = {
    "apache-2.0": ("Apache-2.0", "https://www.apache.org/licenses/LICENSE-2.0"),
    "cc-by-4.0": ("CC-BY-4.0", "https://creativecommons.org/licenses/by/4.0/"),
    "cc-by-nc-4.0": ("CC-BY-NC-4.0", "https://creativecommons.org/licenses/by-nc/4.0/"),
    "cc-by-nc-sa-4.0": ("CC-BY-NC-SA-4.0", "https://creativecommons.org/licenses/by-nc-sa/4.0/"),
}
"""SPDX identifier and URL of licences, by their identifiers on the Hub."""


def embed_checkpoint(
    model: str | os.PathLike, folder: str | os.PathLike, records: str | os.PathLike, half: bool = False
) -> Path:
    """Writes an embedded checkpoint: `FILES`, licence and card. If an error occurs, nothing is written.

    Args:
        model: name, folder or Hub id of a checkpoint, such as `best` of a training run.
        folder: `checkpoints/NAME` in the package; an existing checkpoint is replaced, with its tasks.
        records: `benchmarks/results/NAME`, which holds `training_data.yaml`, the results of evaluations and, if there
            is one, `calibration.json`.
        half: store weights in fp16; they are loaded in fp32.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: `training_data.yaml` or the checkpoint is missing.
        ValueError: a weight is beyond the range of fp16, or see `render_license` and `render_card`.
    """
    folder = Path(folder)
    with tempfile.TemporaryDirectory() as temporary:
        complete = export_checkpoint(model, Path(temporary) / folder.name, half=half, report=lambda text: None)
        document_checkpoint(complete, records)  # may fail, so before anything is replaced
        folder.mkdir(parents=True, exist_ok=True)
        for name in (*FILES, WEIGHTS_LICENSE, CARD):
            shutil.copyfile(complete / name, folder / name)
        _copy_calibration(complete, folder)
        shutil.rmtree(folder / TASK_FOLDER, ignore_errors=True)  # tasks of the replaced weights
        if (complete / TASK_FOLDER).is_dir():
            shutil.copytree(complete / TASK_FOLDER, folder / TASK_FOLDER)
    return folder


def document_checkpoint(folder: str | os.PathLike, records: str | os.PathLike) -> None:
    """Writes licence, card and calibration of an embedded checkpoint.

    Args:
        folder: folder of the checkpoint.
        records: as for `embed_checkpoint`.

    Raises:
        FileNotFoundError, ValueError: see `render_license` and `render_card`.
    """
    texts = {WEIGHTS_LICENSE: render_license(records), CARD: render_card(folder, records)}
    for name, text in texts.items():
        (Path(folder) / name).write_text(text, encoding="utf-8")
    _copy_calibration(Path(records), Path(folder))


def _copy_calibration(source: Path, folder: Path) -> None:
    """Copies a `calibration.json`; where there is none, there is none in the folder either."""
    if (source / CALIBRATION).exists():
        shutil.copyfile(source / CALIBRATION, folder / CALIBRATION)
    else:
        (folder / CALIBRATION).unlink(missing_ok=True)


def render_license(records: str | os.PathLike) -> str:
    """The text of `LICENSE-weights`: the licence of the weights and their sources.

    Args:
        records: folder of `training_data.yaml`.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged, or its licence is not in `LICENSES`.
    """
    path = Path(records) / "training_data.yaml"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; expected a file that states the licence of the weights.")
    data = read_training_data(path)
    if data.get("license") not in LICENSES or not data.get("name"):
        raise ValueError(
            f"{path} has the name {data.get('name')!r} and the license {data.get('license')!r}; expected a name and "
            f"one of {', '.join(LICENSES)}."
        )
    identifier, address = LICENSES[data["license"]]
    encoder_license = [data["encoder"]["license"]] if data.get("encoder") else []
    lines = [
        f"The weights of {data['name']} (model.safetensors in this folder)",
        "",
        f"SPDX-License-Identifier: {' AND '.join([identifier, *encoder_license])}",
        address,
        "",
        "The code of this package is licensed under Apache-2.0.",
    ]
    if encoder := data.get("encoder"):
        lines += ["", f"Encoder: {encoder['name']}, {encoder['copyright']}, {encoder['license']}, {encoder['source']}"]
        if encoder.get("license_text"):  # licences such as MIT must accompany every copy
            lines += ["", encoder["license_text"].rstrip()]
    lines += ["", "Trained on", *map(_source_line, data.get("corpora") or [])]
    return "\n".join(lines) + "\n"


def _source_line(corpus: dict[str, Any]) -> str:
    """Name, licence, citation and URL of a corpus."""
    source = re.sub(r"\[[^]]*\]\(([^)]*)\)", r"\1", corpus.get("source") or "")
    parts = (corpus["name"], corpus["license"], corpus.get("citation"), source)
    return "- " + "; ".join(part for part in parts if part)
