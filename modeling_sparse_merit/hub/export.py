# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Exports a checkpoint to a folder that works without this package."""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub import snapshot_download
from safetensors.torch import load_file, save_file

from ..models.mister_e.configuration_mister_e import MisterEConfig
from ..models.sparse_merit.calibration import (
    CALIBRATION,
    checkpoint_sha256,
    read_calibration,
    read_calibration_file,
)
from ..models.sparse_merit.configuration_sparse_merit import SparseMeritConfig
from ..models.sparse_merit.configuration_speech_text import SpeechTextConfig
from ..models.sparse_merit.decoding import audio_suffixes
from ..models.sparse_merit.sources import WEIGHTS_LICENSE, locate
from ..models.sparse_merit.task_files import TASK_FOLDER
from .adapter_card import ADAPTER_CONFIG, is_public, licence_of
from .card_mark import differing_parts, read_mark
from .conversation_card import unpublished_embedders
from .files import read_json, read_model_config, weights_sha256
from .measured import read_results
from .model_card import EVALUATION, EXAMPLES, RECORDS, WEIGHTS, read_own_calibration, render_card

logger = logging.getLogger(__name__)

HANDLER = Path(__file__).parents[1] / "models" / "sparse_merit" / "handler.py"
REQUIREMENTS = ("torch>=2.7", "transformers>=5.16.1,<6", "numpy>=1.26", "soundfile>=0.12.1", "soxr>=0.5")
"""Requirements of a checkpoint without this package."""

COMPANIONS = ("LICENSE", WEIGHTS_LICENSE, *RECORDS, EXAMPLES)
"""Optional files next to the weights about their origin and quality."""
UNMEASURED = ("LICENSE", WEIGHTS_LICENSE, "training_data.yaml", "training.yaml", "dev_results.json")
"""Companion files that do not identify weights, so they also apply to merged or rounded weights."""
CARD = "README.md"


def export_checkpoint(
    model: str | os.PathLike,
    folder: str | os.PathLike,
    overwrite: bool = False,
    revision: str | None = None,
    report: Callable[[str], None] = logger.warning,
    half: bool = False,
    results: str | os.PathLike | None = None,
    embedders: Mapping[str, str] | None = None,
) -> Path:
    """Writes a checkpoint that runs without this package, ready for `push_checkpoint`.

    The folder contains the weights (an exact copy of `model.safetensors`, so that results which refer to its hash stay
    valid), both configurations, all code, `requirements.txt`, and the companion files: licence, results, calibration,
    examples, tasks in files of their own. It also contains the tokenizer of a speech-text model, and `handler.py` for
    any other model. The card of the model is copied if it describes these weights; otherwise a new one is rendered. A
    rendered card in the folder is replaced; a card edited by hand is kept and reported. Companion files of another
    checkpoint in the folder are removed. With weights rounded to fp16, results, calibration and examples of the exact
    weights are not copied.

    Args:
        model: folder or Hub id of a checkpoint, or of adapters, which are merged into their checkpoint.
        folder: target folder, created if missing. Files with other names are kept.
        overwrite: replace an existing checkpoint in the folder.
        revision: branch or commit of a model on the Hub; `main` by default.
        report: called with a sentence about each kept or removed file that should be reviewed.
        half: store weights in fp16; they are loaded in fp32.
        results: report of `sparse-merit evaluate`, its folder or its `results.json`; the results of this model in it
            are written to `evaluation.json`, and into a rendered card.
        embedders: for a conversation model, the Hub ids of the models of its embeddings, {"speech" or "text": id},
            which replace those in its configuration.

    Returns:
        The folder.

    Raises:
        FileExistsError: the folder holds a checkpoint already, or is that of the model itself.
        OSError: the checkpoint cannot be loaded.
        ValueError: `embedders` do not fit the model; the checkpoint is of another model type, lacks weights, or has
            weights that are not finite; its results were measured, or its calibration was fitted, with other weights,
            as results are with `half`; its examples are not recordings in its folder; or, with `half`, a weight is
            beyond the range of fp16.
    """
    source, folder = _local_folder(model, revision), Path(folder).expanduser()
    _check_export_target(source, folder, overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    pipe = _load(source)
    _name_embedders(pipe.model.config, embedders or {}, report)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as partial:
        complete = Path(partial) / folder.resolve().name  # the folder's name becomes the title of the card
        pipe.save_pretrained(complete)
        if half:
            round_to_half(complete / WEIGHTS, {name for name, _ in pipe.model.named_parameters()})
        _copy_companions(source, complete, half)
        if _are_adapters(source) and not half:
            _write_calibration(source, complete)
        read_own_calibration(complete / CALIBRATION, complete)  # raises if it was fitted for other weights
        if results is not None:
            _write_results(source, complete, Path(results).expanduser(), half)
        _add_endpoint_files(source, complete)
        stale = _settle_companions(folder, complete)
        _write_card(source, complete, report)
        _settle_card(folder, complete, report)
        _remove(stale, report)
        _move_files(complete, folder)
    return folder


def _load(source: Path) -> Any:
    """The pipeline of a checkpoint of any type."""
    from ..models.mister_e.pipeline_mister_e import ConversationPipeline
    from ..models.sparse_merit.pipeline_sparse_merit import SpeechEnhancementAndEmotionPipeline
    from ..models.sparse_merit.pipeline_speech_text import SpeechTextPipeline

    config = read_model_config(source)
    if isinstance(config, MisterEConfig):
        return ConversationPipeline.from_pretrained(source, device="cpu")
    if isinstance(config, SpeechTextConfig):
        return SpeechTextPipeline.from_pretrained(source, device="cpu")
    return SpeechEnhancementAndEmotionPipeline.from_pretrained(source, dtype="auto", device="cpu")


def _name_embedders(config: Any, embedders: Mapping[str, str], report: Callable[[str], None]) -> None:
    """Writes the Hub ids of the models of the embeddings into the configuration of a conversation model."""
    own = config.embedding_sizes if isinstance(config, MisterEConfig) else {}
    if unknown := [name for name in embedders if name not in own]:
        raise ValueError(
            f"A model of {unknown[0]} embeddings was given, {embedders[unknown[0]]}, but "
            f"{'this model takes ' + ' and '.join(own) + ' alone' if own else 'only conversation models have some'}."
        )
    for modality, name in embedders.items():
        setattr(config, f"{modality}_model", name)
    for modality, name in unpublished_embedders(config).items() if own else ():
        report(
            f"The model of the {modality} embeddings is {name}, which only this computer has. Push it as well, and "
            f"export again with --{modality}-model USER/MODEL."
        )


def round_to_half(file: Path, names: Iterable[str]) -> None:
    """Converts weights in a file to fp16.

    Args:
        file: a safetensors file, which is rewritten.
        names: names of the tensors to round; buffers, such as filters, are small and stay exact.

    Raises:
        ValueError: a weight is beyond the range of fp16.
    """
    weights = load_file(file)
    for name in names:
        exact = weights[name]
        weights[name] = exact.half()
        if not weights[name].isfinite().all():
            raise ValueError(
                f"{name} has values up to {exact.abs().max():.6g}, but the largest value of fp16 is "
                f"{torch.finfo(torch.float16).max:g}: store these weights in fp32."
            )
    save_file(weights, file, {"format": "pt"})


def _local_folder(model: str | os.PathLike, revision: str | None) -> Path:
    """The folder of a checkpoint, downloaded if it is a Hub id."""
    folder = Path(locate(model))
    return folder if folder.is_dir() else Path(snapshot_download(str(model), revision=revision))


def _record_base(adapters: Path, target: Path) -> None:
    """Records the base of adapters unless recorded already, since its licence also applies to the merged model."""
    if (target / "training_data.yaml").exists():
        return
    base = str(read_json(adapters / ADAPTER_CONFIG).get("base_model_name_or_path"))
    name = base if is_public(base) else Path(base).name
    notes = f"Fine-tuned with adapters from {name}, whose training data its own card names."
    licence = licence_of(adapters)
    record = {**({"license": licence} if licence else {}), "notes": notes}
    (target / "training_data.yaml").write_text(yaml.safe_dump(record, sort_keys=False), encoding="utf-8")


def _are_adapters(folder: Path) -> bool:
    return (folder / ADAPTER_CONFIG).exists()


def _check_export_target(source: Path, folder: Path, overwrite: bool) -> None:
    if folder.resolve() == source.resolve():
        raise FileExistsError(f"{folder} is the folder of the model itself: give another one.")
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file: give a folder.")
    if not overwrite and ((folder / "config.json").exists() or any(folder.glob("*.safetensors"))):
        raise FileExistsError(f"{folder} holds a checkpoint already: give a new folder, or --overwrite.")


def _copy_companions(source: Path, target: Path, are_others: bool) -> None:
    """Copies the companion files, and the weights if they are in one file.

    If the target gets other weights, merged or rounded ones (`are_others`), results, calibration and examples do not
    apply to them and are not copied.
    """
    names = [WEIGHTS, *COMPANIONS, *_example_recordings(source, target)]
    if are_others or _are_adapters(source):
        names = list(UNMEASURED)
    if not _are_adapters(source):  # which may change the experts that a task was trained on
        names += [str(path.relative_to(source)) for path in source.glob(f"{TASK_FOLDER}/*.safetensors")]
    for name in names:
        if (source / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).unlink(
                missing_ok=True
            )  # a new file is readable by all, one of safetensors only by its owner
            shutil.copyfile(source / name, target / name)


def _write_results(source: Path, target: Path, results: Path, half: bool) -> None:
    """Writes the results of a model to `evaluation.json`. Those of adapters were measured with the merged weights."""
    if half:
        raise ValueError("--results were measured with fp32 weights: export with --half, then evaluate that folder.")
    content = read_results(results, checkpoint_sha256(str(source)))
    content["model"] = content["model"] | {"sha256": weights_sha256(target)}
    (target / EVALUATION).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _write_calibration(source: Path, target: Path) -> None:
    """Writes the calibration of adapters, which was fitted with the merged weights."""
    if read_calibration(source) is not None:
        content = read_calibration_file(source / CALIBRATION)
        content["model"] |= {"sha256": weights_sha256(target)}
        (target / CALIBRATION).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _example_recordings(source: Path, target: Path) -> list[str]:
    """Recordings named in `examples.json`. It is untrusted input, so only recordings in the folder are accepted."""
    if not (source / EXAMPLES).exists():
        return []
    # in the Hub's cache, files in snapshots/COMMIT are links to blobs
    home = source.resolve().parents[1] if source.resolve().parent.name == "snapshots" else source.resolve()
    names = [str(example["file"]) for example in read_json(source / EXAMPLES).get("examples", [])]
    for name in names:
        within = (source / name).resolve().is_relative_to(home)
        within = within and (target / name).resolve().is_relative_to(target.resolve())
        if not within or Path(name).suffix.lower() not in audio_suffixes():
            raise ValueError(f"{source / EXAMPLES} names {name!r}, which is not a recording in this folder.")
    return names


def _add_endpoint_files(source: Path, folder: Path) -> None:
    """Writes `requirements.txt`, and `handler.py` for an Inference Endpoint, which takes recordings alone."""
    if isinstance(read_model_config(source), SparseMeritConfig):
        shutil.copyfile(HANDLER, folder / "handler.py")
    (folder / "requirements.txt").write_text("".join(f"{name}\n" for name in REQUIREMENTS), encoding="utf-8")


def _settle_companions(folder: Path, complete: Path) -> list[Path]:
    """Keeps companion files in the target that belong to these weights; returns those that do not."""
    before = weights_sha256(folder)
    if before in (None, weights_sha256(complete)):
        for name in COMPANIONS:
            if (folder / name).is_file() and not (complete / name).exists():
                shutil.copyfile(folder / name, complete / name)
        return []
    return [path for path in _files_of_checkpoint(folder) if not (complete / path.relative_to(folder)).exists()]


def _files_of_checkpoint(folder: Path) -> Iterator[Path]:
    """Weights, adapters and companions in a folder."""
    weights = ("*.safetensors", f"{TASK_FOLDER}/*.safetensors", "*.safetensors.index.json")
    for pattern in (*weights, ADAPTER_CONFIG, *COMPANIONS):
        yield from sorted(folder.glob(pattern))
    with suppress(ValueError, KeyError, TypeError, AttributeError):  # examples.json is untrusted
        yield from (folder / name for name in _example_recordings(folder, folder) if (folder / name).is_file())


def _write_card(source: Path, complete: Path, report: Callable[[str], None]) -> None:
    """Copies the card of the source, with its records, if it describes these weights; else renders a new one."""
    if _are_adapters(source):
        _record_base(source, complete)
        (complete / CARD).write_text(render_card(complete), encoding="utf-8")
        return
    card, mark = source / CARD, read_mark(source / CARD)
    describes_others = mark is not None and mark.weights != weights_sha256(complete)
    is_outdated = mark is not None and not mark.is_edited and all((source / name).exists() for name in mark.records)
    if card.is_file() and not describes_others and not is_outdated:
        shutil.copyfile(card, complete / CARD)
        return
    if describes_others:
        report(f"{card} describes other weights than those next to it, so it was not copied; a new card was rendered.")
    (complete / CARD).write_text(render_card(complete), encoding="utf-8")


def _settle_card(folder: Path, complete: Path, report: Callable[[str], None]) -> None:
    """Keeps a card in the target that was written or edited by hand, and reports what may be outdated."""
    kept, fresh, mark = folder / CARD, complete / CARD, read_mark(folder / CARD)
    if not kept.is_file() or (mark is not None and not mark.is_edited):
        return
    texts = [path.read_text(encoding="utf-8") for path in (kept, fresh)]
    fresh.unlink()
    if texts[0] == texts[1]:
        return
    is_same = mark is not None and mark.weights == weights_sha256(complete)
    why = "was edited by hand" if is_same else "was written by hand, perhaps for other weights,"
    report(
        f"{kept} {why} and is kept. These parts differ from a new card and may be outdated: "
        f"{', '.join(differing_parts(*texts))}. For a new card, remove it and export again with --overwrite."
    )


def _remove(stale: list[Path], report: Callable[[str], None]) -> None:
    """Removes files of the replaced checkpoint."""
    for path in stale:
        path.unlink()
    if stale:
        names = ", ".join(path.name for path in stale)
        report(f"Removed from {stale[0].parent}, because they belong to the previous weights: {names}.")


def _move_files(source: Path, target: Path) -> None:
    """Moves all files, each atomically."""
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, place)
