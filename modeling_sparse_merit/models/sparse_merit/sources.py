# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Finds checkpoints inside the package (`base`, in full `sparse-merit-base`), in folders, or on the Hub."""

import logging
import os
import re
from importlib.util import find_spec
from pathlib import Path

PACKAGE, PREFIX = "modeling_sparse_merit", "sparse-merit-"
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
WEIGHTS_LICENSE = "LICENSE-weights"
_SPDX = re.compile(r"^SPDX-License-Identifier: (.+)$", re.MULTILINE)

logger = logging.getLogger(__name__)


def locate(model: str | os.PathLike) -> str:
    """The folder or the Hub id of a checkpoint, or of adapters.

    The name of a checkpoint inside the package takes precedence over a folder of that name in the working directory;
    pass such a folder as a path: `./base`, or `Path("base")`.

    Args:
        model: the name of a checkpoint inside the package, short (`base`) or in full (`sparse-merit-base`); a folder;
            or a Hub id.

    Raises:
        FileNotFoundError: it is none of these, or the folder has no configuration.
    """
    name = os.path.expanduser(model)
    embedded, folder = embedded_folder(name), Path(name)
    if embedded is not None and isinstance(model, str):
        if (folder / "config.json").exists():
            logger.warning(
                f"{name!r} is the checkpoint inside the package. For the folder of that name, pass {f'./{name}'!r}."
            )
        return str(embedded)
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise FileNotFoundError(f"{name!r} has no config.json: give a folder written by save_pretrained.")
        return name if embedded is None else os.path.join(os.curdir, name)
    if folder.exists() or not HUB_ID.fullmatch(name):
        known = ", ".join(path.name for path in _embedded())
        inside = f", or the name of a checkpoint inside the package ({known})" if known else ""
        raise FileNotFoundError(
            f"{name!r} is not a folder: give the folder of a checkpoint, a Hub id such as name/model{inside}."
        )
    return name


def embedded_folder(name: str) -> Path | None:
    """The folder of a checkpoint inside the package, by its short or full name; None for other names."""
    return next((path for path in _embedded() if name in (path.name, f"{PREFIX}{path.name}")), None)


def embedded_name(model: str | os.PathLike) -> str | None:
    """The full name of a checkpoint inside the package, by any of its names or its folder; None for others."""
    folder = (embedded_folder(model) if isinstance(model, str) else None) or Path(model).expanduser()
    is_embedded = any(path.resolve() == folder.resolve() for path in _embedded())
    return f"{PREFIX}{folder.resolve().name}" if is_embedded else None


def portable_name(model: str | os.PathLike) -> str:
    """The name of a checkpoint to write into files: that inside the package, an absolute path, or a Hub id."""
    folder = Path(model).expanduser()
    return embedded_name(model) or (str(folder.resolve()) if folder.is_dir() else str(model))


def license_notice(model: str | os.PathLike) -> str | None:
    """A sentence on the licence of a checkpoint inside the package that forbids commercial use; None for others."""
    name = embedded_name(model)
    folder = None if name is None else embedded_folder(name)
    if folder is None or not (license_file := folder / WEIGHTS_LICENSE).is_file():
        return None
    identifier = _SPDX.search(license_file.read_text(encoding="utf-8"))
    if identifier is None or "-NC" not in identifier[1]:
        return None
    return (
        f"The weights of {name} are licensed under {identifier[1]}, for non-commercial use only: see {license_file}. "
        "TRANSFORMERS_NO_ADVISORY_WARNINGS=1 in the environment silences this notice."
    )


def _embedded() -> list[Path]:
    """Folders of the checkpoints inside the package; none where only the code of a checkpoint is used."""
    package = find_spec(PACKAGE)
    if package is None or package.origin is None:
        return []
    return sorted(path.parent for path in (Path(package.origin).parent / "checkpoints").glob("*/config.json"))
