# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Shards: processes share a corpus, and what a killed run has done is not done again."""

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

from modeling_sparse_merit import (
    SpeechEnhancementAndEmotionPipeline,
    enhance_recordings,
    find_recordings,
    shards,
)

LAUNCH = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
ENHANCE = ["-m", "modeling_sparse_merit.cli", "enhance", "in", "--device", "cpu"]


@pytest.fixture
def folder(speech_clip, tmp_path):
    """Five short recordings and one that is none."""
    (tmp_path / "in").mkdir()
    for index in range(5):
        soundfile.write(tmp_path / "in" / f"{index}.wav", speech_clip(0.2 + 0.1 * index, seed=index), 16_000)
    (tmp_path / "in" / "broken.wav").write_bytes(b"this is no audio")
    return tmp_path / "in"


@pytest.fixture
def share(tiny_checkpoint, folder, tmp_path, monkeypatch):
    """`share(**facts)` shares the folder out in shards of two; returns them and the recordings that were done now."""
    monkeypatch.setattr(shards, "SHARD_RECORDINGS", 2)
    pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(tiny_checkpoint, device="cpu")

    def run(**facts):
        done = []

        def enhance(recordings):
            done.extend(recording.path.name for recording in recordings)
            return enhance_recordings(pipe, recordings)

        recordings, _ = find_recordings([str(folder)], tmp_path / "out")
        facts = {**shards.describe_model(pipe.model), **facts}
        return shards.share_out(enhance, recordings, tmp_path / "shards", facts, PartialState(cpu=True)), done

    run.pipe = pipe
    return run


def test_shards_hold_the_records_in_order(share, folder, tmp_path):
    found, done = share()
    assert done == ["0.wav", "1.wav", "2.wav", "3.wav", "4.wav", "broken.wav"]
    assert sorted(path.name for path in (tmp_path / "shards").iterdir()) == [f"00000{n}.parquet" for n in range(3)]
    records = [record for shard in found for record in shard.read()]
    recordings, _ = find_recordings([str(folder)], tmp_path / "out")
    expected = list(enhance_recordings(share.pipe, recordings))
    for record, other in zip(records, expected, strict=True):
        assert list(record) == list(other)
        assert record.pop("scores", {}) == pytest.approx(other.pop("scores", {}), abs=1e-5)
        assert record == other


def test_what_is_done_is_not_done_again(share):
    found, _ = share()
    found[1].path.unlink()
    assert share()[1] == ["2.wav", "3.wav"]
    assert share()[1] == []


def test_a_changed_recording_model_or_option_is_done_again(share, folder, speech_clip):
    share(rate=None)
    soundfile.write(folder / "2.wav", speech_clip(1.0), 16_000)
    assert share(rate=None)[1] == ["2.wav", "3.wav"]
    assert len(share(rate=8_000)[1]) == 6
    assert len(share(rate=8_000, commit="another")[1]) == 6


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
def test_a_name_that_is_no_utf8_is_kept(share, folder):
    name = os.fsdecode(b"caf\xe9.wav")
    (folder / "0.wav").rename(folder / name)
    records = [record for shard in share()[0] for record in shard.read()]
    assert str(folder / name) in [record["file"] for record in records]


@pytest.fixture
def corpus(speech_clip, tmp_path):
    """Recordings for several shards."""
    (tmp_path / "in").mkdir()
    for index in range(300):
        clip = speech_clip(0.1 + 0.01 * (index % 40), seed=index)
        soundfile.write(tmp_path / "in" / f"{index:03d}.wav", clip, 16_000)
    return tmp_path


def start(folder: Path, output: str, *launcher: str) -> subprocess.Popen:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "HF_HUB_OFFLINE": "1"}
    with (folder / f"{output}.log").open("w") as log:
        command = [*(launcher or [sys.executable]), *ENHANCE, "-o", output]
        return subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT)


def results(folder: Path, output: str) -> list[dict]:
    lines = (folder / output / "results.jsonl").read_text().splitlines()
    return [json.loads(line.replace(output, "OUTPUT")) for line in lines]


@pytest.mark.slow
def test_two_processes_one_of_which_is_killed_finish_what_one_would_have_done(corpus):
    alone = start(corpus, "alone")
    assert alone.wait(300) == 0, (corpus / "alone.log").read_text()

    killed = start(corpus, "shared", *LAUNCH)
    while killed.poll() is None and not list((corpus / "shared" / "shards").glob("*.parquet")):
        time.sleep(0.005)
    workers = [p for p in psutil.Process(killed.pid).children(recursive=True) if "enhance" in p.cmdline()]
    workers[-1].send_signal(signal.SIGKILL)
    assert killed.wait(300) != 0
    kept = {path.name: path.stat().st_mtime_ns for path in (corpus / "shared" / "shards").glob("*.parquet")}
    assert 0 < len(kept) < 5 and not (corpus / "shared" / "results.jsonl").exists()

    again = start(corpus, "shared", *LAUNCH)
    assert again.wait(300) == 0, (corpus / "shared.log").read_text()
    assert "300 of 300 recordings done" in (corpus / "shared.log").read_text()
    assert not (corpus / "shared" / "shards").exists()
    for one, other in zip(results(corpus, "alone"), results(corpus, "shared"), strict=True):
        assert one.pop("scores") == pytest.approx(other.pop("scores"), abs=1e-4)
        assert one == other
