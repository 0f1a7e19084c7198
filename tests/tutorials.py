# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Executes the notebooks of docs/tutorials, on few recordings and a loopback Hub: a part of `make test-docs`.

The recordings are real ones where the reference data are, and made ones elsewhere.
"""

import csv
import shutil
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile
from nbclient import NotebookClient

from docs.notebooks import notebook
from tests.conftest import REFERENCE_DATA, ROOT
from tests.documentation import SECONDS_FOR_A_BLOCK, write_recordings

PAGES = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
OWN_LABELS = {"angry": "upset", "neutral": "calm", "sad": "down"}
SPEAKERS = {"ann": "train", "bob": "train", "cem": "train", "dot": "train", "eva": "dev", "fay": "test"}
CLIPS_OF_A_CLASS = 2
"""Of each speaker, with each label."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_tutorial(page, user_hub, tmp_path):
    write_recordings(tmp_path)
    shutil.copy(tmp_path / "call.wav", tmp_path / "calls")
    write_private_corpus(tmp_path / "helpline")
    write_encoder(tmp_path / "openai" / "whisper-base")
    settings = {"timeout": SECONDS_FOR_A_BLOCK, "resources": {"metadata": {"path": str(tmp_path)}}}
    NotebookClient(notebook(page.read_text(encoding="utf-8")), **settings).execute()


def write_private_corpus(folder: Path) -> None:
    """Clips of six speakers with labels of their own, listed in `metadata.csv`."""
    (folder / "wav").mkdir(parents=True)
    rows, recordings = [], real_recordings()
    for speaker, split in SPEAKERS.items():
        for label in OWN_LABELS.values():
            for number in range(CLIPS_OF_A_CLASS):
                name = f"wav/{speaker}_{label}_{number}.wav"
                recording = recordings[speaker][label][number] if recordings else None
                waveform, rate = soundfile.read(recording) if recording else (make_syllables(len(rows)), 16_000)
                soundfile.write(folder / name, waveform, rate)
                rows.append((name, label, speaker, split))
    with open(folder / "metadata.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file_name", "emotion", "speaker", "split"), *rows])


def make_syllables(seed: int) -> np.ndarray:
    """Eight syllables at 16 kHz, of random pitch, formants and length: no clip resembles another."""
    generator = np.random.default_rng(seed)
    syllables = []
    for _ in range(8):
        time = np.arange(int(generator.uniform(0.12, 0.25) * 16_000)) / 16_000
        harmonics = generator.uniform(90, 300) * np.arange(1, 25)[:, None]  # (24, 1), in Hz
        formants = generator.uniform(300, 5_000, 3)
        gains = np.exp(-(((harmonics - formants) / 400) ** 2)).sum(1) + 0.02  # (24,)
        syllables.append(gains @ np.sin(2 * np.pi * harmonics * time) * np.hanning(len(time)))
    waveform = np.concatenate(syllables)
    waveform += 0.01 * np.abs(waveform).max() * generator.standard_normal(len(waveform))
    return (0.3 * waveform / np.abs(waveform).max()).astype(np.float32)


def real_recordings() -> dict[str, dict[str, list[Path]]]:
    """{speaker: {label: recordings}} of the reference data; empty where they are not."""
    corpus = REFERENCE_DATA / "data" / "emotion" / "ased"
    if not (corpus / "metadata.csv").is_file():
        return {}
    files: dict[str, dict[str, list[Path]]] = defaultdict(lambda: defaultdict(list))
    with open(corpus / "metadata.csv", newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            if row["emotion"] in OWN_LABELS:
                files[row["speaker"]][OWN_LABELS[row["emotion"]]].append(corpus / row["file_name"])
    enough = [given for given in files.values() if all(len(given[o]) >= CLIPS_OF_A_CLASS for o in OWN_LABELS.values())]
    return dict(zip(SPEAKERS, enough, strict=False))


def write_encoder(folder: Path) -> None:
    """A small Whisper with random weights, in place of one from the Hub."""
    # imported only now, when `user_hub` has pointed the client of the Hub to its server
    from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperModel

    from modeling_sparse_merit.models.sparse_merit.whisper import whisper_positions

    sizes = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 1, "encoder_attention_heads": 2}
    sizes |= {"decoder_attention_heads": 2, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "vocab_size": 100}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 3}
    whisper = WhisperModel(WhisperConfig(**sizes, **tokens))
    whisper.encoder.embed_positions.weight.data = whisper_positions(sizes["d_model"])
    whisper.save_pretrained(folder)
    WhisperFeatureExtractor().save_pretrained(folder)
