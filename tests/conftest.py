# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""What several test files share: a speech-like sound and a very small checkpoint with random weights."""

import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

# Code that comes with a checkpoint is kept apart from the user's; a folder a process, as transformers reads this once.
os.environ["HF_MODULES_CACHE"] = tempfile.mkdtemp(prefix="sparse-merit-modules-")

ROOT = Path(__file__).parents[1]
TINY = ROOT / "modeling_sparse_merit" / "checkpoints" / "tiny"  # trained, and small enough for many tests
# A second conftest.py, in tests/upstream, would be imported in place of this one by the processes that tests start.
collect_ignore = [] if "COMMON_TESTS" in os.environ else ["upstream"]
REFERENCE_DATA = Path(os.environ.get("SPARSE_MERIT_REFERENCE_DATA", ROOT.parent / "shared"))


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """The folder of real recordings (`data`) and of outputs of other implementations (`golden`)."""
    if not REFERENCE_DATA.is_dir():
        pytest.skip(f"reference recordings and outputs are not at {REFERENCE_DATA}; set SPARSE_MERIT_REFERENCE_DATA")
    return REFERENCE_DATA


@pytest.fixture(autouse=True)
def fresh_accelerate():
    """Each run in this process chooses its own precision, which accelerate allows a process once."""
    if "accelerate" in sys.modules:  # else no test of this process has used it yet
        from accelerate.state import AcceleratorState, GradientState

        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


@pytest.fixture(autouse=True)
def log_levels_as_before():
    """Commands silence these loggers for the rest of their process, which is that of other tests, too."""
    loggers = [logging.getLogger(name) for name in ("modeling_sparse_merit", "transformers")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def make_speech(seconds: float = 1.0, sampling_rate: int = 16_000, seed: int = 0) -> np.ndarray:
    """Returns voiced syllables with a moving pitch and pauses: float32 (samples,), peak 0.3."""
    generator = np.random.default_rng(seed)
    time = np.arange(round(seconds * sampling_rate)) / sampling_rate
    pitch = generator.uniform(110, 220) * (1 + 0.15 * np.sin(2 * np.pi * 1.3 * time))
    phase = 2 * np.pi * np.cumsum(pitch) / sampling_rate
    voice = sum(np.sin(k * phase) / k for k in range(1, 12))
    syllables = np.clip(np.sin(2 * np.pi * 2.5 * time + generator.uniform(0, np.pi)), 0, None)
    wave = voice * syllables + 0.001 * generator.standard_normal(len(time))
    return (0.3 * wave / np.abs(wave).max()).astype(np.float32)


@pytest.fixture(scope="session")
def speech_clip() -> Callable[..., np.ndarray]:
    """`speech_clip(seconds=1.0, sampling_rate=16_000, seed=0)` makes a speech-like waveform."""
    return make_speech


TINY_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "conv_dim": (16,) * 7,
    "expert_hidden_size": 32,
    "emotion_hidden_size": 16,
    "enhancement_hidden_size": 16,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}


@pytest.fixture(scope="session")
def tiny_config():
    """A configuration that runs in milliseconds, stable layer norm as in WavLM-Large."""
    from modeling_sparse_merit import SparseMeritConfig

    labels = ["angry", "sad", "happy", "neutral"]
    return SparseMeritConfig(
        **TINY_SIZES,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )


@pytest.fixture(scope="session")
def tiny_checkpoint(tiny_config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with random weights, as `save_pretrained` leaves it."""
    import torch

    from modeling_sparse_merit import SparseMeritFeatureExtractor, SparseMeritForSpeechEnhancementAndEmotion

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny_checkpoint")
    SparseMeritForSpeechEnhancementAndEmotion(tiny_config).save_pretrained(folder)
    SparseMeritFeatureExtractor().save_pretrained(folder)
    return folder


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.fixture(scope="module")
def server():
    """A loopback Hub."""
    from hub_server import HubServer

    with HubServer() as running:
        yield running


@pytest.fixture
def hub(server, tmp_path, monkeypatch):
    """An empty Hub, which this process's client takes for the real one."""
    server.reset()
    server.serve_this_process(monkeypatch, tmp_path / "home")
    return server
