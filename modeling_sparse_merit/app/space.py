# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Writes the folder of a Hugging Face Space that shows the page."""

import os
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import yaml

from ..files import check_replaceable, replacing_folder
from ..hub.adapter_card import licence_of
from ..hub.export import REQUIREMENTS, export_checkpoint
from ..models.sparse_merit.sources import embedded_name, locate

PACKAGE = Path(__file__).parents[1]
PAGE_REQUIREMENTS = (
    *REQUIREMENTS,
    *("huggingface-hub>=1.5", "safetensors>=0.5", "filelock>=3.14", "jinja2>=3.1", "pyyaml>=6"),
    *("matplotlib>=3.9", "gradio>=6.27,<7", "scipy>=1.13"),
)
"""What the page needs, without the command: as in `pyproject.toml`."""
CPU_WHEELS = "--extra-index-url https://download.pytorch.org/whl/cpu"
APP = '''"""The page of Sparse MERIT as a Space: `python app.py` shows it on this computer too."""

from modeling_sparse_merit.app.page import serve

if __name__ == "__main__":
    serve({model!r}, host=None, is_local=False)
'''
TEXT = """# Sparse MERIT

Enhances a noisy recording and recognises the emotion of its speech, in one pass.

`sparse-merit export --space` wrote this folder. To publish it: `hf upload USER/NAME . --repo-type space`.

Recordings are deleted after an hour. {notice}
"""
NOTICE = (
    "Analyse recordings only with the consent of the people in them, and do not base decisions about them on scores."
)


def export_space(
    model: str | os.PathLike, folder: str | os.PathLike, overwrite: bool = False, revision: str | None = None
) -> Path:
    """Writes a Space: `README.md`, `app.py`, `requirements.txt`, this package and, unless it is on the Hub, the model.

    Args:
        model: name, folder or Hub id of a checkpoint. A Hub id is written down, and loaded when the Space starts.
        folder: target folder, created if missing.
        overwrite: replace a Space in the folder.
        revision: branch or commit of a model on the Hub; its files are then copied.

    Returns:
        The folder.

    Raises:
        FileExistsError: the folder is not empty, or holds something else than a Space.
        ImportError: Gradio, whose version is written down, is not installed.
        OSError: the checkpoint cannot be loaded.
    """
    source, folder = locate(model), Path(folder).expanduser()
    check_replaceable(folder, overwrite, _why_not)
    facts = _front_matter()
    with replacing_folder(folder) as partial:
        if Path(source).is_dir() or revision is not None:
            name = embedded_name(source) or Path(source).resolve().name
            export_checkpoint(model, partial / name, revision=revision, report=lambda text: None)
            facts |= {"license": licence} if (licence := licence_of(partial / name)) else {}
        else:
            name, facts = source, {**facts, "models": [source]}
        shutil.copytree(PACKAGE, partial / PACKAGE.name, ignore=shutil.ignore_patterns("checkpoints", "__pycache__"))
        header = yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)
        (partial / "README.md").write_text(f"---\n{header}---\n\n{TEXT.format(notice=NOTICE)}", encoding="utf-8")
        (partial / "app.py").write_text(APP.format(model=name), encoding="utf-8")
        (partial / "requirements.txt").write_text("\n".join([CPU_WHEELS, *PAGE_REQUIREMENTS, ""]), encoding="utf-8")
    return folder


def _front_matter() -> dict[str, object]:
    """The settings of a Space (https://huggingface.co/docs/hub/spaces-config-reference)."""
    try:
        gradio = version("gradio")
    except PackageNotFoundError as error:
        raise ImportError('A Space needs the package `gradio`: pip install "modeling-sparse-merit[app]"') from error
    return {
        "title": "Sparse MERIT",
        "emoji": "🎧",
        "colorFrom": "blue",
        "colorTo": "green",
        "sdk": "gradio",
        "sdk_version": gradio,
        "python_version": f"{sys.version_info.major}.{sys.version_info.minor}",
        "app_file": "app.py",
        "short_description": "Enhances speech and recognises its emotion",
    }


def _why_not(folder: Path) -> str | None:
    """Why a folder must not be replaced; None for a Space."""
    card = folder / "README.md"
    is_space = card.is_file() and "sdk: gradio" in card.read_text(encoding="utf-8") and (folder / "app.py").is_file()
    return None if is_space else "it holds something else than a Space"
