# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Recordings block by block: the same samples, facts, errors and files as of the whole, in constant memory."""

import io
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from benchmarks.file_formats import encoded, voice
from modeling_sparse_merit import load_audio, write_audio
from modeling_sparse_merit.files import replacing
from modeling_sparse_merit.inference.blocks import BlockReader, BlockWriter, track_facts
from modeling_sparse_merit.models.sparse_merit import decoding
from modeling_sparse_merit.models.sparse_merit.audio import Channel, check_duration, decode_audio, resample

RATE = 16_000
LOUD = 5.0  # gain that takes `voice` beyond full scale


def stereo(seconds: float, rate: int) -> np.ndarray:
    """Two channels that differ, the first at full scale in places: float32 (samples, 2)."""
    wave = voice(seconds, rate)
    return np.stack([np.clip(LOUD * wave, -1, 1), 0.3 * np.roll(wave[::-1], 100)], axis=1).astype(np.float32)


def facts_of(path: Path, channel: Channel = "mix") -> tuple[np.ndarray, int, dict[str, Any]]:
    """Samples, rate and facts of a track that is decoded as a whole."""
    audio = decode_audio(path)
    (track,) = audio.tracks(channel)
    facts = track_facts(track.channel, track.power, track.clipped_ratio, audio.warnings)
    return track.waveform, audio.sampling_rate, facts


FILES = {
    "WAV, 8 kHz": lambda: encoded("WAV", None, voice(7, 8_000), 8_000),
    "WAV, 16 kHz": lambda: encoded("WAV", None, voice(7)),
    "WAV, 44.1 kHz, stereo": lambda: encoded("WAV", "FLOAT", stereo(7, 44_100), 44_100),
    "WAV with a warning": lambda: encoded("WAV", None, voice(7)) + bytes(30_000) + b"x",
    "FLAC": lambda: encoded("FLAC", None, stereo(7, 48_000), 48_000),
    "OGG": lambda: encoded("OGG", "VORBIS", voice(7, 22_050), 22_050),
    "OGG of two rates": lambda: (
        encoded("OGG", "VORBIS", voice(2, 8_000), 8_000) + encoded("OGG", "VORBIS", stereo(2, 44_100), 44_100)
    ),
    "MP3": lambda: encoded("MP3", None, stereo(7, 44_100), 44_100),
}


def read(source, rate: int = RATE, channel="mix") -> np.ndarray:
    with BlockReader(source, rate, channel) as reader:
        return np.concatenate(list(reader))


@pytest.mark.filterwarnings("ignore:.*not read")
@pytest.mark.parametrize("rate", [RATE, 44_100])
@pytest.mark.parametrize("name", FILES)
def test_the_blocks_of_a_recording_are_the_whole(name, rate, tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(FILES[name]())
    monkeypatch.setattr(decoding, "BLOCK_SAMPLES", 20_000)
    for channel in ("mix", "left", 2):
        if channel == 2 and "stereo" not in name:
            continue
        samples, own_rate, facts = facts_of(path, channel)
        with BlockReader(path, rate, channel) as reader:
            for _ in range(2):  # each iteration starts from the beginning
                blocks = list(reader)
                assert {block.dtype for block in blocks} == {np.dtype(np.float32)} and len(blocks) > 3
                np.testing.assert_allclose(np.concatenate(blocks), resample(samples, own_rate, rate), atol=1e-6)
                np.testing.assert_allclose(np.concatenate(blocks), load_audio(path, None, rate, channel), atol=1e-6)
                assert reader.facts == facts
                assert (reader.own_samples, reader.own_rate) == (len(samples), own_rate)
    assert reader.name == str(path)


def test_a_recording_may_be_an_open_file_or_a_pipe():
    content = FILES["WAV, 44.1 kHz, stereo"]()
    np.testing.assert_array_equal(read(io.BytesIO(content)), load_audio(content))
    reading, writing = os.pipe()

    def write() -> None:
        with open(writing, "wb") as end:
            end.write(content)

    thread = threading.Thread(target=write)
    thread.start()
    with open(reading, "rb") as stream:
        np.testing.assert_array_equal(read(stream), load_audio(content))
    thread.join()


def test_channels_that_cancel_each_other_are_not_mixed(tmp_path):
    path = tmp_path / "line.wav"
    wave = voice(10)
    soundfile.write(path, np.stack([-0.8 * wave, wave], axis=1), RATE, subtype="FLOAT")
    *_, facts = facts_of(path)
    with BlockReader(path, RATE) as reader:
        np.testing.assert_array_equal(np.concatenate(list(reader)), wave)
        assert reader.facts == facts
        assert reader.facts["channel"] == 2 and "cancel each other" in reader.facts["warnings"][0]


def test_digital_silence_has_no_level():
    with BlockReader(io.BytesIO(encoded("WAV", None, np.zeros((RATE, 2), np.float32))), RATE) as reader:
        assert not np.concatenate(list(reader)).any()
        assert reader.facts == {"channel": "mix", "level_dbfs": None, "clipped_ratio": 0.0}


@pytest.mark.parametrize(
    "content, channel, message",
    [
        (b"", "mix", "empty: 0 bytes"),
        (encoded("WAV")[:-20_000], "mix", "cut short"),
        (encoded("WAV", None, np.zeros(900, np.float32), 900), "mix", "sampling rate of 900; .* from 1000"),
        (encoded("WAV"), "right", "has 1 channel; there is no channel 2"),
        (encoded("WAV"), "both", "expected one of mix"),
        (encoded("WAV"), "each", "reads one channel"),
    ],
)
def test_what_shows_at_once_is_an_error_of_opening(content, channel, message):
    with pytest.raises(ValueError, match=message):
        BlockReader(io.BytesIO(content), RATE, channel)


@pytest.mark.parametrize(
    "content, message",
    [
        (encoded("WAV", None, np.zeros(0, np.float32)), "The recording is empty: it holds no samples"),
        (
            encoded("WAV", None, voice(0.02)),
            r"lasts 20 ms \(320 samples at 16000 Hz\); the model needs at least 25 ms",
        ),
        (encoded("WAV", "FLOAT", np.array([0.1, np.nan] * RATE, np.float32)), "holds NaN or infinite"),
        (encoded("WAV", "FLOAT", np.full((RATE, 2), np.inf, np.float32)), "holds NaN or infinite"),
    ],
)
def test_what_shows_later_is_an_error_before_any_block(content, message):
    with BlockReader(io.BytesIO(content), RATE) as reader, pytest.raises(ValueError, match=message) as ours:
        next(iter(reader))
    with pytest.raises(ValueError, match=message) as theirs:
        audio = decode_audio(content)
        check_duration(resample(audio.tracks()[0].waveform, audio.sampling_rate, RATE), RATE, audio.name)
    assert str(ours.value) == str(theirs.value)


def test_a_file_that_is_missing_or_damaged_far_behind_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file"):
        BlockReader(tmp_path / "nowhere.wav", RATE)
    with pytest.raises(ValueError, match="is a folder"):
        BlockReader(tmp_path, RATE)
    wave = voice(30)
    wave[-5] = np.nan
    with BlockReader(io.BytesIO(encoded("WAV", "FLOAT", wave)), RATE) as reader:
        blocks = iter(reader)
        assert len(next(blocks)) == decoding.BLOCK_SAMPLES
        with pytest.raises(ValueError, match="NaN"):
            list(blocks)
        assert reader.facts == {}


# Writing -------------------------------------------------------------------------------------------------------------


def written(path: Path, wave: np.ndarray, length: int, source_rate: int = RATE, rate: int = RATE) -> bytes:
    """The content of a file that is written in blocks of several sizes."""
    with replacing(path) as temporary, BlockWriter(path.parent, source_rate, rate) as writer:
        for block in np.array_split(wave, [1, 1, 700, len(wave) // 2]):
            writer.write(block)
        writer.finish(temporary, length)
    assert os.listdir(path.parent) == [path.name]
    return path.read_bytes()


def without_time(content: bytes) -> bytes:
    """A WAV without the second in which it was written, which stands in the PEAK chunk of those in float."""
    at = content.find(b"PEAK")
    return content if at < 0 else content[: at + 12] + content[at + 16 :]


@pytest.mark.parametrize("gain, subtype", [(1, "PCM_16"), (LOUD, "FLOAT")])
@pytest.mark.parametrize("rate", [RATE, 8_000, 44_100])
def test_the_file_is_that_of_write_audio(gain, subtype, rate, tmp_path):
    wave = gain * voice(6)
    expected, length = resample(wave, RATE, rate), 6 * rate
    write_audio(tmp_path / "whole.wav", expected, rate)
    assert soundfile.info(tmp_path / "whole.wav").subtype == subtype
    (tmp_path / "blocks").mkdir()
    content = written(tmp_path / "blocks" / "a.wav", wave, length, RATE, rate)
    assert without_time(content) == without_time((tmp_path / "whole.wav").read_bytes())


def test_a_flac_is_that_of_write_audio_and_is_never_clipped(tmp_path):
    wave = voice(6)
    (tmp_path / "blocks").mkdir()
    write_audio(tmp_path / "whole.flac", wave, RATE)
    assert written(tmp_path / "blocks" / "a.flac", wave, len(wave)) == (tmp_path / "whole.flac").read_bytes()
    with pytest.raises(ValueError, match="FLAC would clip them"):
        written(tmp_path / "blocks" / "a.flac", LOUD * wave, len(wave))
    assert os.listdir(tmp_path / "blocks") == ["a.flac"]


@pytest.mark.parametrize("change", [-70_000, -1, 0, 1, 70_000])
@pytest.mark.parametrize("rate", [RATE, 11_025])
def test_the_length_is_exact(change, rate, tmp_path):
    wave = voice(7)
    whole = resample(wave, RATE, rate)
    length = len(whole) + change
    written(tmp_path / "a.wav", wave, length, RATE, rate)
    samples = soundfile.read(tmp_path / "a.wav", dtype="float32")[0]
    assert len(samples) == length
    np.testing.assert_allclose(samples[: len(whole)], whole[:length], atol=1 / 32768)
    assert not samples[len(whole) :].any()


def test_a_peak_behind_the_end_makes_no_float_file(tmp_path):
    wave = np.append(voice(1), np.float32(3))
    written(tmp_path / "a.wav", wave, RATE)
    assert soundfile.info(tmp_path / "a.wav").subtype == "PCM_16"
    written(tmp_path / "a.wav", wave, RATE + 1)
    assert soundfile.info(tmp_path / "a.wav").subtype == "FLOAT"


def test_what_cannot_be_written_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        BlockWriter(tmp_path / "missing", RATE, RATE)
    with pytest.raises(ValueError, match="sampling rate of 1"):
        BlockWriter(tmp_path, RATE, 1)
    with pytest.raises(ValueError, match="NaN"):
        written(tmp_path / "a.wav", np.array([np.nan], np.float32), 1)
    with pytest.raises(ValueError, match="empty"):
        written(tmp_path / "a.wav", voice(1), 0)
    with pytest.raises(ValueError, match=".wav, .flac, .ogg or .mp3"):
        written(tmp_path / "a.txt", voice(1), RATE)
    assert os.listdir(tmp_path) == []


def run(script: str, *arguments: str | int) -> str:
    """What a Python program prints."""
    done = subprocess.run([sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


FULL_DISK = """
import resource, sys
from pathlib import Path
import numpy as np
from modeling_sparse_merit.files import replacing
from modeling_sparse_merit.inference.blocks import BlockWriter
from modeling_sparse_merit.models.sparse_merit.audio import write_audio

target, way, limit, gain = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
wave = (gain * np.sin(np.arange(2_500_000) / 10)).astype(np.float32)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    if way == "write_audio":
        write_audio(target, wave, 16_000)
    else:
        with replacing(target) as temporary, BlockWriter(target.parent, 16_000, 16_000) as writer:
            for start in range(0, len(wave), 100_000):
                writer.write(wave[start : start + 100_000])
            print("stored")
            writer.finish(temporary, len(wave))
except OSError as error:
    print(type(error).__name__)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits of files are POSIX")
@pytest.mark.parametrize(
    "way, limit, gain, output",
    [
        ("write_audio", 500_000, 0.5, ["OSError"]),
        ("write_audio", 4_999_999, 0.5, ["OSError"]),
        ("write_audio", 10_000_000, 2, ["OSError"]),
        ("BlockWriter", 500_000, 0.5, ["OSError"]),
        ("BlockWriter", 9_500_000, 0.5, ["OSError"]),
        ("BlockWriter", 10_000_000, 2, ["stored", "OSError"]),
        ("BlockWriter", 10_000_000, 0.5, ["stored"]),
    ],
)
def test_a_full_disk_is_an_error_and_leaves_nothing(way, limit, gain, output, tmp_path):
    assert run(FULL_DISK, tmp_path / "a.wav", way, limit, gain).split() == output
    assert os.listdir(tmp_path) == (["a.wav"] if "OSError" not in output else [])


LONG = """
import re, sys
from pathlib import Path
from modeling_sparse_merit.inference.blocks import BlockReader, BlockWriter

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

source, target = map(Path, sys.argv[1:])
before = peak()
with BlockReader(source, 16_000) as reader, BlockWriter(target.parent, 16_000, reader.own_rate) as writer:
    for block in reader:
        writer.write(block)
    writer.finish(target, reader.own_samples)
print(reader.own_samples, peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak of memory is read from /proc")
@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_the_memory_for_twenty_minutes_is_that_of_a_few_blocks(suffix, tmp_path):
    source, target, rate = tmp_path / f"long{suffix}", tmp_path / "out.wav", 22_050
    wave = stereo(20, rate)
    with soundfile.SoundFile(source, "w", rate, 2) as file:
        for _ in range(60):
            file.write(wave)
    samples, mebibytes = run(LONG, source, target).split()
    assert int(samples) == soundfile.info(target).frames == 1200 * rate
    assert float(mebibytes) < 60  # the samples alone are 202
