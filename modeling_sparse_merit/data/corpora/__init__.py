# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Converters from corpora, as they are distributed, to datasets: one module with one `Corpus` for each."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .base import Corpus

CORPORA = {
    "ravdess": "RAVDESS, from its file names.",
    "emodb": "EmoDB, from its file names.",
    "nemo": "nEMO, from its list or its file names.",
    "msp_podcast": "MSP-Podcast, from its consensus labels.",
    "ased": "ASED, from its file names.",
    "emospeech_commands": "Indian EmoSpeech Command Dataset, from its file names.",
    "baved": "BAVED, without emotions, from its file names.",
    "speechocean762": "speechocean762, unlabelled, from its lists.",
    "picovoice": "Picovoice coffee orders, with intents and slots, from their list.",
    "emobank": "EmoBank, rated texts, from its list.",
    "meld": "MELD, texts of dialogues, from its lists, with or without clips.",
    "icbhi": "ICBHI 2017, breathing cycles or recordings of respiratory sounds.",
    "iemocap": "IEMOCAP, dialogues with texts and clips, from its evaluations.",
    "mosi": "CMU-MOSI, opinions in videos, from the list of MMSA, with or without clips.",
    "moodist": "The sounds of Moodist, noise.",
    "folder": "Any folder with a metadata.csv, such as a private corpus.",
    "noise": "A folder of noises or room impulse responses.",
}
"""The corpora by the names of their modules, and what help says about them."""


def corpus(name: str) -> "Corpus":
    """The corpus of a module.

    Raises:
        ValueError: no corpus has this name.
    """
    if name not in CORPORA:
        raise ValueError(f"corpus is {name!r}; expected one of {', '.join(CORPORA)}.")
    return import_module(f".{name}", __name__).CORPUS
