# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The models that visitors choose from."""

import os
from pathlib import Path

from ..hub.adapter_card import licence_of
from ..models.sparse_merit.pipeline_sparse_merit import SpeechEnhancementAndEmotionPipeline
from ..models.sparse_merit.sources import embedded_name, locate

EMBEDDED = ("base", "tiny", "enhance_free")


class Models:
    """Pipelines by the names on the page, loaded when they are first used.

    Args:
        first: name, folder or Hub id of the model that is chosen at first; None is the default checkpoint.
        device: torch device; None is the fastest available.

    Raises:
        FileNotFoundError: there is no such checkpoint.
    """

    def __init__(self, first: str | os.PathLike | None = None, device: str | None = None):
        sources = [*([locate(first)] if first is not None else []), *_embedded()]
        self._sources = {_name(source): source for source in sources}
        self._device = device
        self._loaded: dict[str, SpeechEnhancementAndEmotionPipeline] = {}

    @property
    def names(self) -> list[str]:
        """The models, that which is chosen at first in front."""
        return list(self._sources)

    def licence(self, name: str) -> str | None:
        """The licence of the weights that the card of a model states; None for a model on the Hub."""
        return licence_of(locate(self._sources[name]))

    def load(self, name: str) -> SpeechEnhancementAndEmotionPipeline:
        """The pipeline of a model."""
        if name not in self._loaded:
            source = self._sources[name]
            self._loaded[name] = SpeechEnhancementAndEmotionPipeline.from_pretrained(source, device=self._device)
        return self._loaded[name]


def _embedded() -> list[str]:
    """The checkpoints inside the package; none in a Space, which has its own model."""
    folder = Path(__file__).parents[1] / "checkpoints"
    return [name for name in EMBEDDED if (folder / name / "config.json").exists()]


def _name(source: str) -> str:
    """The short name of an embedded checkpoint, the name of a folder, or a Hub id."""
    if (name := embedded_name(source)) is not None:
        return name.removeprefix("sparse-merit-")
    return Path(source).resolve().name if Path(source).is_dir() else source
