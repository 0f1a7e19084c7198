# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""`sparse-merit stream` as it is used: a process between two pipes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

from modeling_sparse_merit import SpeechEnhancementAndEmotionPipeline
from modeling_sparse_merit.models.sparse_merit.audio import as_pcm16

COMMAND = [sys.executable, "-m", "modeling_sparse_merit.cli", "stream"]
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(Path(__file__).parents[1]),
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}
WINDOWS = {"chunk_length_s": 2.0, "stride_length_s": (1.6, 0.08)}


@pytest.fixture
def start(tiny_checkpoint, tmp_path):
    """`start(*arguments)` starts the command on pipes, with the tiny checkpoint."""
    running = []

    def process(*arguments, stdin=subprocess.PIPE):
        options = ["--model", str(tiny_checkpoint), "--device", "cpu", "--vad", "level"]
        settings = {"stdin": stdin, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": tmp_path}
        if os.name != "nt":  # tests that run in the background ignore Ctrl-C, and what they start would too
            settings["preexec_fn"] = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        running.append(subprocess.Popen([*COMMAND, "-", *options, *arguments], **settings, env=ENVIRONMENT))
        return running[-1]

    yield process
    for one in running:
        one.kill()
        one.wait()
        for end in (one.stdout, one.stderr, one.stdin):
            if end is not None and not end.closed:
                end.detach().close()  # what it still holds has no reader


@pytest.fixture(scope="module")
def pipe(tiny_checkpoint):
    return SpeechEnhancementAndEmotionPipeline.from_pretrained(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def speech(speech_clip):
    """5 s of speech and a pause, as 16 bits hold it."""
    clip = np.concatenate([speech_clip(3.0), np.zeros(16_000, np.float32), speech_clip(1.07, seed=1)])
    return as_pcm16(clip)


def events_of(lines):
    """Segments, and changes of emotion."""
    events = [json.loads(line) for line in lines.splitlines()]
    return [event for event in events if "start" in event], [event for event in events if "time" in event]


def test_audio_comes_out_while_it_goes_in_and_is_that_of_the_pipeline(start, pipe, speech, tmp_path):
    process = start("--segments", "events.jsonl")
    process.stdin.write(speech[:48_000].tobytes())
    process.stdin.flush()
    early = process.stdout.read(2 * 32_000)  # 2 s
    process.stdin.write(speech[48_000:].tobytes() + b"\0")
    process.stdin.close()
    rest, errors = process.stdout.read(), process.stderr.read()

    assert process.wait(60) == 0
    first, second = errors.decode().splitlines()
    assert first.startswith("Latency at most 440 ms")
    assert second.startswith("Note: Standard input ends within a sample")
    expected = pipe(speech.astype(np.float32) / 32768, sampling_rate=16_000, return_segments=True, **WINDOWS)
    actual = np.frombuffer(early + rest, "<i2")
    assert len(actual) == len(speech)
    np.testing.assert_allclose(actual, as_pcm16(expected["audio"]), atol=1)
    segments, changes = events_of((tmp_path / "events.jsonl").read_text())
    assert_same_segments(segments, expected["segments"])
    assert changes and all(list(change) == ["time", "emotion", "score"] for change in changes)
    assert all(one["emotion"] != other["emotion"] for one, other in zip(changes[:-1], changes[1:], strict=True))


def assert_same_segments(actual, expected):
    assert len(actual) == len(expected) > 0
    for one, other in zip(actual, expected, strict=True):
        assert [one[key] for key in ("start", "end", "emotion")] == [other[key] for key in ("start", "end", "emotion")]
        assert one["scores"] == pytest.approx(other["scores"], abs=1e-4)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")
def test_a_wav_from_ffmpeg_gives_lines_of_json(start, pipe, speech, tmp_path):
    soundfile.write(tmp_path / "call.flac", speech, 16_000)
    command = ["ffmpeg", "-v", "error", "-i", "call.flac", "-f", "wav", "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=tmp_path) as ffmpeg:
        lines, errors = start("--json", "--quiet", stdin=ffmpeg.stdout).communicate()
    assert errors == b""
    expected = pipe(speech.astype(np.float32) / 32768, sampling_rate=16_000, return_segments=True, **WINDOWS)
    assert_same_segments(events_of(lines)[0], expected["segments"])


@pytest.mark.slow
def test_floats_of_another_rate_come_back_as_floats(start, pipe, speech_clip):
    right = speech_clip(2.0, 8_000) * 5  # beyond full scale
    stereo = np.stack([np.zeros_like(right), right], axis=1).astype("<f4")
    arguments = ["--format", "f32le", "--rate", "8000", "--channels", "2", "--channel", "right"]
    process = start(*arguments, "--chunk-length", "1", "--stride-length", "0.1")
    content, errors = process.communicate(stereo.tobytes())
    assert process.returncode == 0, errors
    stream = pipe.stream(8_000, chunk_length_s=1.0, stride_length_s=0.1)
    expected = np.concatenate([stream.process(right).audio, stream.finish().audio])
    actual = np.frombuffer(content, "<f4")
    assert len(actual) == len(right)
    np.testing.assert_allclose(actual, expected, atol=1e-4)
    shown = int(re.search(rb"at most (\d+) ms", errors)[1])
    assert 940 < shown < 1_200  # 0.8 s, 0.1 s, 0.04 s, and two resamplers


@pytest.mark.slow
def test_a_reader_that_leaves_early_ends_it_quietly(start, speech):
    process = start("--quiet")
    thread = threading.Thread(target=feed, args=(process.stdin, speech.tobytes(), 20))
    thread.start()
    assert len(process.stdout.read(1000)) == 1000
    process.stdout.close()
    assert process.wait(60) == 0
    thread.join()
    assert process.stderr.read() == b""


def feed(stream, content, times):
    """Writes until the reader has gone."""
    try:
        for _ in range(times):
            stream.write(content)
        stream.close()
    except BrokenPipeError:
        pass


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_ctrl_c_finishes_what_is_there(start, speech):
    process = start("--quiet")
    process.stdin.write(speech[:32_000].tobytes())
    process.stdin.flush()
    early = process.stdout.read(60_160)  # 1.88 s: all that is final when 2 s were read
    process.send_signal(signal.SIGINT)
    rest = process.stdout.read()
    assert process.wait(60) == 130 and process.stderr.read() == b""
    assert len(early + rest) == 64_000


@pytest.mark.parametrize(
    ("content", "arguments", "message"),
    [
        (b"", [], "Standard input is empty"),
        (b"OggS" + bytes(99), [], "Standard input is OGG, not raw PCM or WAV"),
        (bytes(9), ["--channel", "2"], "there is no channel 2"),
        (bytes(9), ["--stride-length", "1,2,3"], "--stride-length is '1,2,3'"),
        (bytes(9), ["--segments", "nowhere/x.jsonl"], "nowhere/x.jsonl"),
        (bytes(600), ["--quiet"], "lasts 18.8 ms"),
    ],
)
def test_what_cannot_be_streamed_says_why_in_one_line(start, content, arguments, message):
    process = start(*arguments)
    written, errors = process.communicate(content)
    assert (process.returncode, written) == (2, b"")
    assert message in errors.decode() and errors.count(b"\n") == 1


@pytest.mark.skipif(shutil.which("script") is None, reason="needs the program `script`")
def test_audio_does_not_go_to_a_terminal():
    command = f"{sys.executable} -m modeling_sparse_merit.cli stream - < /dev/zero"
    done = subprocess.run(["script", "-qec", command, "/dev/null"], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 2 and "Standard output is a terminal" in " ".join(done.stdout.split())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.slow
def test_memory_does_not_grow_with_the_stream(start, speech_clip):
    """10 minutes, with the emotion: less than 8 MB above what the first minute took."""
    process = start("--quiet", "--segments", "events.jsonl", "--chunk-length", "2.4", "--stride-length", "0.5,0.1")
    minute = as_pcm16(speech_clip(60.0)).tobytes()
    thread = threading.Thread(target=feed, args=(process.stdin, minute, 10))
    thread.start()
    peaks = []
    for size in (len(minute), 8 * len(minute)):
        assert len(process.stdout.read(size)) == size
        peaks.append(int(re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{process.pid}/status").read_text())[1]))
    assert len(process.stdout.read()) == len(minute)
    thread.join()
    assert process.wait(60) == 0
    assert peaks[1] - peaks[0] < 8_000, peaks
