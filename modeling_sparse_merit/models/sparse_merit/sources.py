# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Where a checkpoint lies: in a folder, inside the package (`sparse-merit-tiny`), or on the Hub."""

import os
import re
from importlib.util import find_spec
from pathlib import Path

PACKAGE, PREFIX = "modeling_sparse_merit", "sparse-merit-"
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


def locate(model: str | os.PathLike) -> str:
    """The folder or the Hub id of a checkpoint, or of adapters. A folder of a name wins over all else of that name.

    Args:
        model: a folder, the name of a checkpoint inside the package, or a Hub id.

    Raises:
        FileNotFoundError: it is none of these, or the folder holds no configuration.
    """
    folder, name = Path(model).expanduser(), str(model)
    if folder.is_dir():
        if not (folder / "config.json").exists():
            raise FileNotFoundError(f"{name!r} holds no config.json: give a folder written by save_pretrained.")
        return str(folder)
    if (embedded := embedded_folder(name)) is not None:
        return str(embedded)
    if folder.exists() or not HUB_ID.fullmatch(name):
        known = ", ".join(f"{PREFIX}{path.name}" for path in _embedded())
        inside = f", or the name of a checkpoint inside the package ({known})" if known else ""
        raise FileNotFoundError(
            f"{name!r} is no folder: give a checkpoint's folder, a Hub id such as name/model{inside}."
        )
    return name


def embedded_folder(name: str) -> Path | None:
    """The folder of a checkpoint inside the package; None where there is none of this name."""
    return next((path for path in _embedded() if name == f"{PREFIX}{path.name}"), None)


def portable_name(model: str | os.PathLike) -> str:
    """What names a checkpoint in a file: that of one inside the package, else the absolute path of a folder, else the
    Hub id.
    """
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return str(model)
    folder = folder.resolve()
    is_embedded = any(path.resolve() == folder for path in _embedded())
    return f"{PREFIX}{folder.name}" if is_embedded else str(folder)


def _embedded() -> list[Path]:
    """Folders of the checkpoints inside the package, where it is installed: these files travel without it."""
    package = find_spec(PACKAGE)
    if package is None or package.origin is None:
        return []
    return sorted(path.parent for path in (Path(package.origin).parent / "checkpoints").glob("*/config.json"))
