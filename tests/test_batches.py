# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Many recordings at once: the same results as one by one, in order, whatever their lengths and whatever fails."""

import math
import threading

import numpy as np
import pytest
import soundfile
import torch

from modeling_sparse_merit import SpeechEnhancementAndEmotionPipeline, enhance_recordings, find_recordings
from modeling_sparse_merit.inference import batching
from modeling_sparse_merit.inference.batching import cut_batches
from modeling_sparse_merit.models.sparse_merit.streaming import WindowModel


@pytest.fixture(scope="module")
def pipe(tiny_checkpoint):
    return SpeechEnhancementAndEmotionPipeline.from_pretrained(tiny_checkpoint, device="cpu")


@pytest.fixture
def folder(speech_clip, tmp_path):
    """Nine ragged recordings of several rates, formats and channel counts."""
    (tmp_path / "in").mkdir()
    for index, seconds in enumerate((0.5, 2.0, 0.1, 1.1, 0.3, 3.1, 0.7, 0.2, 1.5)):
        rate, suffix = ((16_000, "wav"), (44_100, "flac"), (8_000, "mp3"))[index % 3]
        clip = speech_clip(seconds, sampling_rate=rate, seed=index)
        soundfile.write(tmp_path / "in" / f"{index}.{suffix}", np.stack([clip] * (1 + index % 2), axis=1), rate)
    return tmp_path / "in"


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def recordings_in(folder, output):
    return find_recordings([str(folder)], output)[0]


def test_the_files_and_emotions_are_those_of_the_pipeline_alone(pipe, folder, tmp_path, two_threads):
    recordings = recordings_in(folder, tmp_path / "out")
    for recording, record in zip(recordings, enhance_recordings(pipe, recordings, batch_seconds=4), strict=True):
        result = pipe(recording.path)
        assert record["file"] == str(recording.path)
        assert record["emotion"] == (result["emotion"][0]["label"] if result["emotion"] else None)
        assert record.get("reason") == ("no speech" if record["seconds"] <= 0.2 else None)
        assert record["scores"] == pytest.approx({e["label"]: e["score"] for e in result["emotion"]}, abs=1e-5)
        written, rate = soundfile.read(record["enhanced"])
        samples, own_rate = soundfile.read(recording.path)
        assert (len(written), rate) == (len(samples), own_rate)
        if rate == result["sampling_rate"]:
            np.testing.assert_allclose(written, result["audio"], atol=1.1 / 2**15)
    assert torch.get_num_threads() == 2


def test_a_window_smaller_than_the_folder_changes_nothing(pipe, folder, tmp_path, monkeypatch):
    whole = list(enhance_recordings(pipe, recordings_in(folder, tmp_path / "out")))
    monkeypatch.setattr(batching, "WINDOW", 2)
    windows = list(enhance_recordings(pipe, recordings_in(folder, tmp_path / "out")))
    assert [record["file"] for record in windows] == [record["file"] for record in whole]
    for one, other in zip(whole, windows, strict=True):
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-5)


def test_a_batch_that_is_too_much_is_tried_one_by_one(pipe, folder, tmp_path, monkeypatch):
    forward = pipe.model.forward

    def short_of_memory(input_values, **others):
        if len(input_values) > 1 or input_values.shape[1] > 48_000:
            raise torch.OutOfMemoryError("out of memory")
        return forward(input_values, **others)

    monkeypatch.setattr(pipe.model, "forward", short_of_memory)
    records = list(enhance_recordings(pipe, recordings_in(folder, tmp_path / "out")))
    assert [record.get("error") for record in records] == [None] * 5 + ["out of memory"] + [None] * 3


def test_progress_tells_seconds_of_audio_of_all(pipe, folder, tmp_path):
    told = []
    recordings = recordings_in(folder, tmp_path)
    records = list(enhance_recordings(pipe, recordings, batch_seconds=2, progress=lambda *each: told.append(each)))
    assert len(told) > 1 and told == sorted(told)
    assert told[-1] == pytest.approx((sum(record["seconds"] for record in records),) * 2, abs=0.2)


def test_pictures_are_drawn_by_threads_too(pipe, folder, tmp_path, two_threads):
    pytest.importorskip("matplotlib")
    list(enhance_recordings(pipe, recordings_in(folder, tmp_path / "out")[:3], plot=True, batch_seconds=1))
    assert len(list((tmp_path / "out").glob("*.png"))) == 3


def test_batches_hold_recordings_of_like_length():
    seconds = [1.0, 9.0, 1.1, 30.0, math.inf, 8.0, 0.9, 0.0]
    cut = cut_batches(seconds, 18)
    assert cut == [[4], [3], [1, 5], [2, 0, 6, 7]]
    assert all(len(batch) * max(seconds[place] for place in batch) <= 18 for batch in cut[2:])
    assert cut_batches([], 18) == []


def test_passes_share_the_threads(two_threads):
    both = threading.Barrier(2, timeout=10)

    def work():
        both.wait()  # only if both run at once
        return torch.get_num_threads()

    with batching._Passes(torch.device("cpu"), most=9, batch_seconds=10) as passes:
        assert [future.result(10) for future in [passes.start(work), passes.start(work)]] == [1, 1]
    assert torch.get_num_threads() == 2


def test_a_long_recording_is_done_in_several_passes_and_tells_how_far_it_is(pipe, tmp_path, speech_clip, monkeypatch):
    clip = speech_clip(seconds=3)
    soundfile.write(tmp_path / "long.wav", np.tile(np.pad(clip, (0, 8_000)), 20), 16_000)
    sizes, told = [], []
    run = WindowModel.run
    monkeypatch.setattr(WindowModel, "run", lambda self, windows: sizes.append(len(windows)) or run(self, windows))
    recordings = recordings_in(tmp_path, tmp_path / "out")
    (record,) = enhance_recordings(pipe, recordings, batch_seconds=10, progress=lambda *seconds: told.append(seconds))
    assert record["seconds"] == 70 and soundfile.info(record["enhanced"]).frames == 70 * 16_000
    assert len(sizes) > 5
    done = [seconds for seconds, _ in told]
    assert done == sorted(done) and len(set(done)) > 10 and done[-1] == pytest.approx(70)
    assert {total for _, total in told} == {70}
