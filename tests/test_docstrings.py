# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Examples in docstrings run."""

import doctest
import importlib
import os
import shutil
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY, make_speech

from modeling_sparse_merit import SpeechEnhancementAndEmotionPipeline
from modeling_sparse_merit.models.sparse_merit.audio import write_audio

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "modeling_sparse_merit"
SLOW = ("convert.onnx.export_onnx",)
DEMO = PACKAGE / "demo" / "noisy_speech.flac"


def examples() -> Iterator[object]:
    """The docstrings with examples as parameters; modules without any are not imported."""
    finder = doctest.DocTestFinder()
    for path in sorted(PACKAGE.rglob("*.py")):
        if ">>> " in path.read_text(encoding="utf-8"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            for test in filter(attrgetter("examples"), finder.find(importlib.import_module(name))):
                short = test.name.removeprefix("modeling_sparse_merit.")
                yield pytest.param(test, id=short, marks=[pytest.mark.slow] * (short in SLOW))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory) -> Path:
    """The folder that examples run in: recordings, and a saved model with its code."""
    folder = tmp_path_factory.mktemp("examples")
    pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(TINY)
    pipe.model.save_pretrained(folder / "my-model")
    pipe.feature_extractor.save_pretrained(folder / "my-model")
    (folder / "calls").mkdir()
    for place in ("call.flac", "calls/a.flac", "calls/b.flac"):
        shutil.copy(DEMO, folder / place)
    write_audio(folder / "call.wav", make_speech(2.0), 16_000)
    samples = np.rint(make_speech(1.0, 8_000) * 32767).astype("<i2")
    (folder / "call.raw").write_bytes(samples.tobytes())
    return folder


@pytest.mark.parametrize("test", list(examples()))
def test_examples_run(test, workplace, tmp_path, monkeypatch):
    folder = tmp_path / "examples"
    shutil.copytree(workplace, folder, copy_function=os.link)
    monkeypatch.chdir(folder)
    report: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    runner.run(test, out=report.append)
    assert runner.failures == 0, "".join(report)
