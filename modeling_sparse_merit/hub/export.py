# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""A checkpoint to a folder that works where this package is not installed."""

import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import torch
import yaml
from huggingface_hub import snapshot_download
from safetensors.torch import load_file, save_file

from ..models.sparse_merit.decoding import audio_suffixes
from ..models.sparse_merit.sources import WEIGHTS_LICENSE, locate
from .adapter_card import ADAPTER_CONFIG, is_public, licence_of
from .card_mark import differing_parts, read_mark
from .files import read_json, weights_sha256
from .model_card import EXAMPLES, RECORDS, WEIGHTS, render_card

logger = logging.getLogger(__name__)

HANDLER = Path(__file__).parents[1] / "models" / "sparse_merit" / "handler.py"
REQUIREMENTS = ("torch>=2.7", "transformers>=5.10.1,<6", "numpy>=1.26", "soundfile>=0.12.1", "soxr>=0.5")
"""What a checkpoint needs where this package is not installed."""

COMPANIONS = ("LICENSE", WEIGHTS_LICENSE, *RECORDS, EXAMPLES)
"""What may lie next to the weights and tell where they come from and how good they are."""
UNMEASURED = ("LICENSE", WEIGHTS_LICENSE, "training_data.yaml", "training.yaml", "dev_results.json")
"""Those of them that name no weights, and so hold for weights that were merged or rounded too."""
CARD = "README.md"


def export_checkpoint(
    model: str | os.PathLike,
    folder: str | os.PathLike,
    overwrite: bool = False,
    revision: str | None = None,
    report: Callable[[str], None] = logger.warning,
    half: bool = False,
) -> Path:
    """Writes a checkpoint that runs at others' without this package, ready for `push_checkpoint`.

    The folder holds the weights (the very bytes of `model.safetensors`, so that results which name their hash still
    hold), both configurations, all code, `handler.py`, `requirements.txt`, and what lies next to the weights: licence,
    measured results, examples. The card of the model is taken along where it describes these weights, else one is
    rendered. A rendered card that is in the folder is replaced; one that a person has edited stays, which is reported.
    Files of an earlier checkpoint in the folder (results, licence, examples) do not stay next to other weights. With
    weights that are rounded to fp16, results and examples of the exact ones are not taken along.

    Args:
        model: folder or Hub id of a checkpoint, or of adapters, which are merged into theirs.
        folder: where to; made where there is none. Files of other names stay.
        overwrite: whether a checkpoint that is in the folder may be replaced.
        revision: the branch or commit of a model on the Hub; `main` by default.
        report: is given a sentence on each file that was kept or removed and that needs a look.
        half: whether weights are stored in fp16. They are loaded in fp32 all the same.

    Returns:
        the folder.

    Raises:
        FileExistsError: the folder holds a checkpoint already, or is the model's own.
        OSError: nothing loadable is there.
        ValueError: the checkpoint holds another kind of model, lacks weights, or its weights are not finite; its
            results were measured with other weights; its examples are no recordings in its folder; or a weight is
            beyond the range of fp16, in which it is to be stored.
    """
    from ..models.sparse_merit.pipeline_sparse_merit import SpeechEnhancementAndEmotionPipeline

    source, folder = _local_folder(model, revision), Path(folder).expanduser()
    _check_export_target(source, folder, overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(source, dtype="auto", device="cpu")
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as partial:
        complete = Path(partial) / folder.resolve().name  # the card takes its title from the folder's name
        pipe.save_pretrained(complete)
        if half:
            round_to_half(complete / WEIGHTS, {name for name, _ in pipe.model.named_parameters()})
        _copy_companions(source, complete, half)
        _add_endpoint_files(complete)
        stale = _settle_companions(folder, complete)
        _write_card(source, complete, report)
        _settle_card(folder, complete, report)
        _remove(stale, report)
        _move_files(complete, folder)
    return folder


def round_to_half(file: Path, names: Iterable[str]) -> None:
    """Stores weights in fp16.

    Args:
        file: of safetensors, which is written again.
        names: what is rounded. Buffers, such as filters, are few and stay exact.

    Raises:
        ValueError: a weight is beyond the range of fp16.
    """
    weights = load_file(file)
    for name in names:
        exact = weights[name]
        weights[name] = exact.half()
        if not weights[name].isfinite().all():
            raise ValueError(
                f"{name} holds {exact.abs().max():.6g}, but fp16 ends at {torch.finfo(torch.float16).max:g}: leave "
                "these weights in fp32."
            )
    save_file(weights, file, {"format": "pt"})


def _local_folder(model: str | os.PathLike, revision: str | None) -> Path:
    """The folder of a checkpoint, downloaded where it is a Hub id."""
    folder = Path(locate(model))
    return folder if folder.is_dir() else Path(snapshot_download(str(model), revision=revision))


def _record_base(adapters: Path, target: Path) -> None:
    """Records, where nothing else does, what adapters were trained on: its licence is that of a merged model too."""
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
        raise FileExistsError(f"{folder} is the model's own folder: give another one.")
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file: give a folder.")
    if not overwrite and ((folder / "config.json").exists() or any(folder.glob("*.safetensors"))):
        raise FileExistsError(f"{folder} holds a checkpoint already: give a new folder, or --overwrite.")


def _copy_companions(source: Path, target: Path, are_others: bool) -> None:
    """Copies what lies next to the weights; and the weights, where they are in one file.

    Results and examples of adapters and of weights before they were rounded (`are_others`) name other weights than
    those of the target, so they are not copied.
    """
    names = [WEIGHTS, *COMPANIONS, *_example_recordings(source, target)]
    for name in UNMEASURED if are_others or _are_adapters(source) else names:
        if (source / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).unlink(missing_ok=True)  # a new file can be read by all; safetensors' only by its owner
            shutil.copyfile(source / name, target / name)


def _example_recordings(source: Path, target: Path) -> list[str]:
    """What `examples.json` names. Anybody may have written it, so it can name recordings in the folder and no more."""
    if not (source / EXAMPLES).exists():
        return []
    # in the Hub's cache, snapshots/COMMIT holds links to what lies in blobs
    home = source.resolve().parents[1] if source.resolve().parent.name == "snapshots" else source.resolve()
    names = [str(example["file"]) for example in read_json(source / EXAMPLES).get("examples", [])]
    for name in names:
        within = (source / name).resolve().is_relative_to(home)
        within = within and (target / name).resolve().is_relative_to(target.resolve())
        if not within or Path(name).suffix.lower() not in audio_suffixes():
            raise ValueError(f"{source / EXAMPLES} names {name!r}, which is no recording in this folder.")
    return names


def _add_endpoint_files(folder: Path) -> None:
    """Writes `handler.py` and `requirements.txt`, which an Inference Endpoint reads."""
    shutil.copyfile(HANDLER, folder / "handler.py")
    (folder / "requirements.txt").write_text("".join(f"{name}\n" for name in REQUIREMENTS), encoding="utf-8")


def _settle_companions(folder: Path, complete: Path) -> list[Path]:
    """Takes over what lies in the target and belongs to these weights; returns what belongs to others."""
    before = weights_sha256(folder)
    if before in (None, weights_sha256(complete)):
        for name in COMPANIONS:
            if (folder / name).is_file() and not (complete / name).exists():
                shutil.copyfile(folder / name, complete / name)
        return []
    return [path for path in _files_of_checkpoint(folder) if not (complete / path.relative_to(folder)).exists()]


def _files_of_checkpoint(folder: Path) -> Iterator[Path]:
    """Weights, adapters and companions in a folder."""
    for pattern in ("*.safetensors", "*.safetensors.index.json", ADAPTER_CONFIG, *COMPANIONS):
        yield from sorted(folder.glob(pattern))
    with suppress(ValueError, KeyError, TypeError, AttributeError):  # examples.json may be anybody's
        yield from (folder / name for name in _example_recordings(folder, folder) if (folder / name).is_file())


def _write_card(source: Path, complete: Path, report: Callable[[str], None]) -> None:
    """Copies the card of the source where it describes these weights, with all that it was rendered from; else renders
    one."""
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
        report(f"{card} describes other weights than those next to it, so it was not copied: the card is a new one.")
    (complete / CARD).write_text(render_card(complete), encoding="utf-8")


def _settle_card(folder: Path, complete: Path, report: Callable[[str], None]) -> None:
    """Leaves a card in the target as it is where a person wrote or edited it, and reports what may no longer hold."""
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
        f"{kept} {why} and is kept. What in it may no longer hold, as a new card says otherwise: "
        f"{', '.join(differing_parts(*texts))}. For a new card, remove it and export again with --overwrite."
    )


def _remove(stale: list[Path], report: Callable[[str], None]) -> None:
    """Removes files of the checkpoint that is replaced."""
    for path in stale:
        path.unlink()
    if stale:
        names = ", ".join(path.name for path in stale)
        report(f"Removed from {stale[0].parent}, as they belong to the weights that were there before: {names}.")


def _move_files(source: Path, target: Path) -> None:
    """Moves everything, each file at once."""
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        place = target / file.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, place)
