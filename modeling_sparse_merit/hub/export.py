# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""A checkpoint to a folder that works where this package is not installed."""

import os
import shutil
import tempfile
from pathlib import Path

from huggingface_hub import snapshot_download

from ..models.sparse_merit.decoding import audio_suffixes
from .files import read_json
from .model_card import render_card

HANDLER = Path(__file__).parents[1] / "models" / "sparse_merit" / "handler.py"
REQUIREMENTS = ("torch>=2.6", "transformers>=5.10,<6", "numpy>=1.26", "soundfile>=0.12.1", "soxr>=0.5")
"""What a checkpoint needs where this package is not installed."""

COMPANIONS = ("LICENSE", "README.md", "training_data.yaml", "training.yaml", "dev_results.json", "evaluation.json")
"""What may lie next to the weights and tell where they come from and how good they are; and `examples.json`."""


def export_checkpoint(
    model: str | os.PathLike, folder: str | os.PathLike, overwrite: bool = False, revision: str | None = None
) -> Path:
    """Writes a checkpoint that runs at others' without this package, ready for `push_checkpoint`.

    The folder holds the weights (the very bytes of `model.safetensors`, so that results which name their hash still
    hold), both configurations, all code, `handler.py`, `requirements.txt`, and what lies next to the weights: licence,
    measured results, examples. A model card is written where neither the folder nor the model has one.

    Args:
        model: folder or Hub id of a checkpoint.
        folder: where to; made where there is none. Files of other names, and its README.md, stay.
        overwrite: whether a checkpoint that is in the folder may be replaced.
        revision: the branch or commit of a model on the Hub; `main` by default.

    Returns:
        the folder.

    Raises:
        FileExistsError: the folder holds a checkpoint already, or is the model's own.
        OSError: nothing loadable is there.
        ValueError: the checkpoint holds another kind of model, lacks weights, or its weights are not finite; its
            results were measured with other weights; or its examples are no recordings in its folder.
    """
    from ..models.sparse_merit.pipeline_sparse_merit import SpeechEnhancementAndEmotionPipeline

    source, folder = _local_folder(model, revision), Path(folder).expanduser()
    _check_export_target(source, folder, overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(source, dtype="auto", device="cpu")
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as partial:
        complete = Path(partial) / folder.resolve().name  # the card takes its title from the folder's name
        pipe.save_pretrained(complete)
        _copy_companions(source, complete)
        _add_endpoint_files(complete)
        _move_files(complete, folder)
    return folder


def _local_folder(model: str | os.PathLike, revision: str | None) -> Path:
    """The folder of a checkpoint, downloaded where it is a Hub id."""
    folder = Path(model).expanduser()
    return folder if folder.is_dir() else Path(snapshot_download(str(model), revision=revision))


def _check_export_target(source: Path, folder: Path, overwrite: bool) -> None:
    if folder.resolve() == source.resolve():
        raise FileExistsError(f"{folder} is the model's own folder: give another one.")
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file: give a folder.")
    if not overwrite and ((folder / "config.json").exists() or any(folder.glob("*.safetensors"))):
        raise FileExistsError(f"{folder} holds a checkpoint already: give a new folder, or --overwrite.")


def _copy_companions(source: Path, target: Path) -> None:
    """Copies what lies next to the weights; and the weights, where they are in one file."""
    for name in ("model.safetensors", *COMPANIONS, "examples.json", *_example_recordings(source, target)):
        if (source / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).unlink(missing_ok=True)  # a new file can be read by all; safetensors' only by its owner
            shutil.copyfile(source / name, target / name)


def _example_recordings(source: Path, target: Path) -> list[str]:
    """What `examples.json` names. Anybody may have written it, so it can name recordings in the folder and no more."""
    if not (source / "examples.json").exists():
        return []
    # in the Hub's cache, snapshots/COMMIT holds links to what lies in blobs
    home = source.resolve().parents[1] if source.resolve().parent.name == "snapshots" else source.resolve()
    names = [str(example["file"]) for example in read_json(source / "examples.json").get("examples", [])]
    for name in names:
        within = (source / name).resolve().is_relative_to(home)
        within = within and (target / name).resolve().is_relative_to(target.resolve())
        if not within or Path(name).suffix.lower() not in audio_suffixes():
            raise ValueError(f"{source / 'examples.json'} names {name!r}, which is no recording in this folder.")
    return names


def _add_endpoint_files(folder: Path) -> None:
    """Writes `handler.py` and `requirements.txt`, which an Inference Endpoint reads, and the card if there is none."""
    shutil.copyfile(HANDLER, folder / "handler.py")
    (folder / "requirements.txt").write_text("".join(f"{name}\n" for name in REQUIREMENTS), encoding="utf-8")
    if not (folder / "README.md").exists():
        (folder / "README.md").write_text(render_card(folder), encoding="utf-8")


def _move_files(source: Path, target: Path) -> None:
    """Moves everything, each file at once; a card that is there already stays."""
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        place = target / file.relative_to(source)
        if place.name != "README.md" or not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, place)
