# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Processes of `accelerate launch` share a corpus, and what a killed run has done is not done again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import soundfile
from accelerate import PartialState

from modeling_sparse_merit.inference.distributed import share_of
from modeling_sparse_merit.inference.files import Recording

LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
ENHANCE = [
    "-m",
    "modeling_sparse_merit.cli",
    "enhance",
    "in",
    "--device",
    "cpu",
    "--vad",
    "level",
    "--batch-seconds",
    "4",
]
RECORDINGS = 300


def test_one_process_has_all():
    recordings = [Recording(Path(name), Path(name)) for name in "abc"]
    assert share_of(recordings, PartialState(cpu=True)) == recordings


@pytest.fixture
def corpus(speech_clip, tmp_path):
    (tmp_path / "in").mkdir()
    for index in range(RECORDINGS):
        clip = speech_clip(0.1 + 0.01 * (index % 40), seed=index)
        soundfile.write(tmp_path / "in" / f"{index:03d}.wav", clip, 16_000)
    return tmp_path


def start(folder: Path, output: str, *launcher: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "HF_HUB_OFFLINE": "1"}
    with (folder / f"{output}.log").open("w") as log:
        command = [*(launcher or [sys.executable]), *ENHANCE, "-o", output]
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)


def journals(folder: Path) -> list[dict]:
    """Lines of all journals, but for one that is just being written."""
    texts = [path.read_text() for path in folder.glob("results.jsonl*")]
    return [json.loads(line) for text in texts for line in text.splitlines(keepends=True) if line.endswith("\n")]


def results(folder: Path, output: str) -> list[dict]:
    lines = (folder / output / "results.jsonl").read_text().splitlines()
    return [json.loads(line.replace(output, "OUTPUT")) for line in lines]


@pytest.mark.slow
def test_two_processes_one_of_which_is_killed_finish_what_one_would_have_done(corpus):
    alone = start(corpus, "alone")
    assert alone.wait(300) == 0, (corpus / "alone.log").read_text()

    killed = start(corpus, "shared", *LAUNCH)
    while killed.poll() is None and len(journals(corpus / "shared")) < 40:
        time.sleep(0.005)
    workers = [p for p in psutil.Process(killed.pid).children(recursive=True) if "enhance" in p.cmdline()]
    workers[-1].send_signal(signal.SIGKILL)
    assert killed.wait(300) != 0
    written = [corpus / line["enhanced"] for line in journals(corpus / "shared")]
    kept = {path: path.stat().st_mtime_ns for path in written if path.exists()}
    assert 40 <= len(kept) < RECORDINGS

    again = start(corpus, "shared", *LAUNCH)
    assert again.wait(300) == 0, (corpus / "shared.log").read_text()
    log = (corpus / "shared.log").read_text()
    assert f"{RECORDINGS} of {RECORDINGS} recordings done ({len(kept)} by an earlier run" in log
    assert kept == {path: path.stat().st_mtime_ns for path in kept}
    assert sorted(path.name for path in (corpus / "shared").glob("results.jsonl*")) == ["results.jsonl"]
    for one, other in zip(results(corpus, "alone"), results(corpus, "shared"), strict=True):
        assert one.pop("scores") == pytest.approx(other.pop("scores"), abs=1e-4)
        assert one == other
