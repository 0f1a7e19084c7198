# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Files: whatever the container, all of its audio is read, or the refusal says why and how much is missing."""

import io
import math
import os
import shutil
import subprocess
import threading
import tracemalloc

import numpy as np
import pytest
import soundfile

from benchmarks import file_formats
from benchmarks.file_formats import KINDS, encoded, id3, mp3, voice, wav, without_header
from modeling_sparse_merit import load_audio, read_audio
from modeling_sparse_merit.models.sparse_merit import decoding
from modeling_sparse_merit.models.sparse_merit.audio import resample
from modeling_sparse_merit.models.sparse_merit.decoding import (
    _libmpg123,
    audio_seconds,
    audio_suffixes,
    decode,
    open_blocks,
)
from modeling_sparse_merit.models.sparse_merit.views import View

RATE = 16_000
needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs ffmpeg")


@pytest.mark.parametrize("name", KINDS)
def test_all_of_a_file_is_read_or_the_refusal_says_why(name, tmp_path):
    kind = KINDS[name]
    if kind.needs_ffmpeg and shutil.which("ffmpeg") is None:
        pytest.skip("needs ffmpeg")
    path = tmp_path / f"file{kind.suffix}"
    path.write_bytes(kind.make())
    reading = file_formats.read(path)
    assert file_formats.holds(kind, reading), reading
    assert str(path) in reading.message or not reading.message


@needs_ffmpeg
@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.seconds == 2 and not kind.message])
def test_durations_are_those_of_ffmpeg(name, tmp_path):
    path = tmp_path / f"file{KINDS[name].suffix}"
    path.write_bytes(KINDS[name].make())
    expected = file_formats.seconds_by_ffmpeg(path)
    if expected is None:
        pytest.skip("ffmpeg does not read it")
    assert file_formats.read(path).seconds == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("file_format, subtype", [("OGG", "VORBIS"), ("OGG", "OPUS"), ("FLAC", None), ("WAV", None)])
def test_files_that_were_put_together_are_read_one_behind_the_other(file_format, subtype):
    first, second = encoded(file_format, subtype), encoded(file_format, subtype, voice(1.5)[::-1].copy())
    expected = np.concatenate([soundfile.read(io.BytesIO(content), dtype="float32")[0] for content in (first, second)])
    np.testing.assert_allclose(decode(io.BytesIO(first + second), "x").samples[:, 0], expected, atol=1e-6)


def test_chained_streams_of_several_rates_and_channels_are_joined():
    stereo = encoded("OGG", "VORBIS", np.stack([voice(1, 8_000), np.zeros(8_000, np.float32)], 1), 8_000)
    joined = decode(io.BytesIO(encoded("OGG", "VORBIS") + stereo), "x")
    assert (joined.samples.shape, joined.sampling_rate) == ((48_000, 2), RATE)
    np.testing.assert_array_equal(joined.samples[:32_000, 0], joined.samples[:32_000, 1])
    assert np.abs(joined.samples[33_000:, 1]).max() < 0.01 < np.abs(joined.samples[33_000:, 0]).max()


@pytest.mark.parametrize("rate", [8_000, 11_025, 16_000, 22_050, 44_100, 48_000])
@pytest.mark.parametrize("channels", [1, 2])
def test_an_mp3_gives_the_samples_of_libsndfile_where_that_knows_the_length(rate, channels):
    wave = np.stack([voice(1.3, rate)] * channels, axis=1)
    content = encoded("MP3", None, wave, rate)
    expected, _ = soundfile.read(io.BytesIO(content), dtype="float32", always_2d=True)
    np.testing.assert_allclose(decode(io.BytesIO(content), "x").samples, expected, atol=1e-6)


def test_an_mp3_without_a_header_is_read_with_the_encoders_delay():
    """LAME's delay of 576 samples and the decoder's of 529 come before the speech, as in every other player."""
    wave, content = voice(3), without_header(mp3(seconds=3))
    samples = decode(io.BytesIO(content), "x").samples[:, 0]
    np.testing.assert_allclose(samples[1105:][: len(wave)], wave, atol=0.1)


def test_a_frame_that_is_lost_in_an_mp3_is_told():
    content = bytearray(mp3())
    start = content.index(content[:2], len(content) // 2)
    content[start : start + 2] = b"\0\0"
    decoded = decode(io.BytesIO(bytes(content)), "call.mp3")
    assert "call.mp3 has" in decoded.warnings[0] and "not audio" in decoded.warnings[0]
    assert len(decoded.samples) == pytest.approx(2 * RATE, abs=600)


def test_an_ogg_that_lacks_pages_in_its_middle_is_refused():
    content = encoded("OGG", "VORBIS", voice(20))
    pages = [at for at in range(len(content)) if content.startswith(b"OggS\0", at)]
    with pytest.raises(ValueError, match="x.ogg is cut short or damaged: 17.* of 19.* s can be read"):
        decode(io.BytesIO(content[: pages[3]] + content[pages[6] :]), "x.ogg")


@pytest.mark.parametrize(
    "content",
    [
        encoded("FLAC")[:18] + b"\x03\xe8\x00\xff\xff\xff\xff\xff" + encoded("FLAC")[26:],  # 2 ** 36 samples
        wav(0xBFFFFFF0, 0xBFFFFF00),
        encoded("CAF").replace(b"data\0\0\0\0\0\0", b"data\0\0\xff\xff\xff\xff"),
    ],
)
def test_no_memory_is_taken_for_what_a_header_promises(content):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="cut short"):
            load_audio(content)
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("file_format", ["WAV", "FLAC", "OGG", "MP3"])
def test_memory_is_at_most_four_times_the_samples(file_format, tmp_path):
    path = tmp_path / "long"
    path.write_bytes(encoded(file_format, None, np.tile(voice(10), 12)))
    tracemalloc.start()
    try:
        samples = read_audio(path)[0]
        assert tracemalloc.get_traced_memory()[1] < 4 * samples.nbytes + 1e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.seconds and not kind.needs_ffmpeg])
def test_durations_are_known_before_decoding(name, tmp_path):
    path = tmp_path / f"file{KINDS[name].suffix}"
    path.write_bytes(KINDS[name].make())
    if "FLAC of unknown length" in name:
        assert audio_seconds(path) == math.inf
    else:
        assert audio_seconds(path) == pytest.approx(KINDS[name].seconds, abs=0.05)


def test_what_libsndfile_reads_is_known_by_its_ending():
    assert {".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".au", ".caf", ".w64", ".sph"} <= set(audio_suffixes())
    assert ".m4a" not in audio_suffixes() and ".mat" not in audio_suffixes()


@pytest.mark.parametrize("content", [b"\0\0\0\x20ftypM4A " + bytes(500), b"\x1aE\xdf\xa3" + bytes(500)])
def test_without_ffmpeg_the_message_says_what_is_missing(content, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ValueError, match="is (MP4|Matroska).*libsndfile does not read.*Install ffmpeg.*output.wav"):
        load_audio({"bytes": content, "path": "memo.m4a"})


@needs_ffmpeg
@pytest.mark.parametrize(
    "script",
    ["#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{path}\n#EXT-X-ENDLIST\n", "ffconcat version 1.0\nfile {path}\n"],
)
def test_a_playlist_opens_no_other_file(script, tmp_path):
    (tmp_path / "secret.wav").write_bytes(encoded("WAV"))
    (tmp_path / "list.m4a").write_text(script.format(path=tmp_path / "secret.wav"))
    for recording in (tmp_path / "list.m4a", (tmp_path / "list.m4a").read_bytes()):
        with pytest.raises(ValueError, match="Cannot decode"):
            load_audio(recording)


@needs_ffmpeg
def test_a_file_that_ffmpeg_reads_may_come_as_bytes_or_have_a_strange_name(tmp_path):
    content = KINDS["M4A"].make()
    path = tmp_path / "-i concat:a|b.m4a"
    path.write_bytes(content)
    np.testing.assert_array_equal(load_audio(path), load_audio(content))


def test_libmpg123_prints_nothing(capfd):
    damaged = bytearray(mp3(seconds=5))
    for at in np.random.default_rng(0).integers(2_000, len(damaged) - 2_000, 60):
        damaged[at] = 0xA5
    for content in (bytes(damaged), mp3() * 2, id3() + mp3()[:200], mp3()[333:], mp3(mode="VARIABLE")[:-900]):
        file_formats.read(content)
    captured = capfd.readouterr()
    assert captured.err == captured.out == ""


def test_what_others_print_while_an_mp3_is_decoded_is_kept(capfd):
    with _libmpg123.silenced():
        thread = threading.Thread(target=lambda: os.write(2, b"a line of another thread\nNote: of libmpg123\n"))
        thread.start()
        thread.join()
    assert capfd.readouterr().err == "a line of another thread\n"


def test_threads_that_decode_at_once_leave_stderr_as_it_was(capfd):
    contents = [mp3(seconds=1 + index / 4) for index in range(8)]
    threads = [threading.Thread(target=load_audio, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.write(2, b"here\n")
    assert capfd.readouterr().err == "here\n"


class FailingDisk(io.BytesIO):
    def read(self, size=-1):
        if self.tell() > 30_000:
            raise OSError(5, "Input/output error")
        return super().read(size)


def test_an_error_of_the_disk_is_no_end_of_the_file():
    with pytest.raises(OSError, match="Input/output error"):
        load_audio(FailingDisk(encoded("AU", None, voice(10))))


def test_a_view_reads_across_its_pieces():
    view = View(io.BytesIO(b"0123456789"), b"ab", (2, 5), b"", (7, 7), b"cd", (9, 10))
    assert view.read() == b"ab234cd9"
    assert view.seek(-3, os.SEEK_END) == 5 and view.read(2) == b"cd"
    assert view.seek(4) == 4 and view.read(3) == b"4cd"
    assert view.seek(99) == 99 and view.read(1) == b""


# Block by block ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.seconds])
def test_the_blocks_of_a_file_are_the_whole(name, monkeypatch):
    if KINDS[name].needs_ffmpeg and shutil.which("ffmpeg") is None:
        pytest.skip("needs ffmpeg")
    content = KINDS[name].make()
    whole = decode(io.BytesIO(content), "x")
    monkeypatch.setattr(decoding, "BLOCK_SAMPLES", 1000)
    with open_blocks(io.BytesIO(content), "x") as blocks:
        assert (blocks.sampling_rate, blocks.channels) == (whole.sampling_rate, whole.samples.shape[1])
        for _ in range(2):  # each pass starts from the beginning
            read = list(blocks)
            assert max(block.size for block in read) <= 4000  # what resampling held back comes in one piece
            assert {block.dtype for block in read} == {np.dtype(np.float32)}
            np.testing.assert_array_equal(np.concatenate(read), whole.samples)
            assert blocks.warnings == whole.warnings


def test_a_second_pass_ends_the_first():
    with open_blocks(io.BytesIO(encoded("WAV", None, voice(20))), "x") as blocks:
        first, second = iter(blocks), iter(blocks)
        assert len(list(second)) == 3 and list(first) == []
    assert list(second) == []


def test_a_part_at_a_lower_rate_is_resampled_like_the_whole(monkeypatch):
    low, high = encoded("FLAC", None, voice(2, 8_000), 8_000), encoded("FLAC", None, voice(1, 44_100), 44_100)
    expected = resample(decode(io.BytesIO(low), "x").samples[:, 0], 8_000, 44_100)
    monkeypatch.setattr(decoding, "BLOCK_SAMPLES", 999)
    samples = decode(io.BytesIO(low + high), "x").samples[:, 0]
    assert len(samples) == 3 * 44_100
    np.testing.assert_allclose(samples[: 2 * 44_100], expected, atol=1e-6)


def test_the_blocks_before_a_damage_are_read_first():
    content = bytearray(encoded("FLAC", None, voice(60)))
    at = 2 * len(content) // 3
    content[at : at + 20_000] = bytes(20_000)
    samples = 0
    with open_blocks(io.BytesIO(bytes(content)), "call.flac") as blocks:
        with pytest.raises(ValueError, match=r"call.flac is (damaged after|cut short or damaged: )") as error:
            for block in blocks:
                samples += len(block)
    assert f"{samples / RATE:.2f}" in str(error.value) and 30 < samples / RATE < 50


def test_an_ogg_that_lacks_pages_is_refused_in_the_end():
    content = encoded("OGG", "VORBIS", voice(20))
    pages = [at for at in range(len(content)) if content.startswith(b"OggS\0", at)]
    with open_blocks(io.BytesIO(content[: pages[3]] + content[pages[6] :]), "x.ogg") as blocks:
        reading = iter(blocks)
        assert len(next(reading)) > RATE
        with pytest.raises(ValueError, match="x.ogg is cut short or damaged: 17.* of 19.* s can be read"):
            list(reading)


def test_stderr_belongs_to_the_program_between_blocks(capfd):
    with open_blocks(io.BytesIO(mp3(seconds=20)), "x") as blocks:
        next(iter(blocks))
        os.write(2, b"between\n")
        assert capfd.readouterr().err == "between\n"
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"
    with pytest.raises(RuntimeError, match="of the caller"), open_blocks(io.BytesIO(mp3(seconds=20)), "x") as blocks:
        raise RuntimeError(f"of the caller {next(iter(blocks)).shape}")
    os.write(2, b"after an error\n")
    assert capfd.readouterr().err == "after an error\n"


def two_minutes(folder, suffix: str) -> bytes:
    """A file as ffmpeg writes it."""
    (folder / "source.wav").write_bytes(encoded("WAV", None, np.tile(voice(10), 12)))
    command = ["ffmpeg", "-nostdin", "-v", "error", "-i", folder / "source.wav", "-b:a", "32k"]
    subprocess.run([*command, folder / f"memo{suffix}"], check=True)
    return (folder / f"memo{suffix}").read_bytes()


@pytest.fixture
def processes(monkeypatch) -> list[subprocess.Popen]:
    """The processes of decoding."""
    started, popen = [], subprocess.Popen

    def start(*arguments, **options) -> subprocess.Popen:
        process = popen(*arguments, **options)
        if "pipe:1" in process.args:
            started.append(process)
        return process

    monkeypatch.setattr(decoding.subprocess, "Popen", start)
    return started


@needs_ffmpeg
def test_ffmpeg_ends_with_its_reader(tmp_path, processes):
    content = two_minutes(tmp_path, ".m4a")
    with open_blocks(io.BytesIO(content), "x") as blocks:
        assert len(next(iter(blocks))) == decoding.BLOCK_SAMPLES
        assert processes[0].poll() is None
        assert len(next(iter(blocks))) == decoding.BLOCK_SAMPLES  # a new pass, by a new process
        assert processes[0].returncode < 0 and processes[1].poll() is None
    with pytest.raises(RuntimeError, match="of the caller"), open_blocks(io.BytesIO(content), "x") as blocks:
        raise RuntimeError("of the caller")
    assert len(processes) == 3 and all(process.returncode < 0 for process in processes)
    assert all(process.stdout.closed for process in processes)


@needs_ffmpeg
def test_what_ffmpeg_says_is_known_in_the_end(tmp_path, processes):
    content = bytearray(two_minutes(tmp_path, ".aac"))
    for at in np.random.default_rng(0).integers(len(content) // 4, len(content) // 2, 20):
        content[at] = 0xA5
    with open_blocks(io.BytesIO(content), "memo.aac") as blocks:
        for _ in range(2):
            assert sum(map(len, blocks)) == pytest.approx(120 * RATE, rel=0.1)
            (warning,) = blocks.warnings
            assert "memo.aac is damaged; ffmpeg says: " in warning
    assert [process.returncode for process in processes] == [0, 0]


@needs_ffmpeg
def test_a_file_for_ffmpeg_that_is_damaged_is_refused_in_the_end(tmp_path):
    content = bytearray(two_minutes(tmp_path, ".m4a"))
    content[len(content) // 2 : len(content) // 2 + 20_000] = b"\xa5" * 20_000
    samples = 0
    with open_blocks(io.BytesIO(content), "memo.m4a") as blocks:
        with pytest.raises(ValueError, match=r"memo.m4a is cut short or damaged: .* of 120.00 s can be read"):
            for block in blocks:
                samples += len(block)
    assert samples > 30 * RATE


class Pipe(io.BytesIO):
    """A stream that cannot seek, and is read in pieces alone."""

    def seekable(self) -> bool:
        return False

    def seek(self, *_):
        raise io.UnsupportedOperation("seek")

    def read(self, size=-1):
        assert 0 < size <= 1 << 20
        return super().read(size)


@pytest.mark.parametrize("file_format", ["WAV", "FLAC", "MP3"])
def test_a_pipe_is_copied_to_disk(file_format):
    content = encoded(file_format, None, voice(20))
    np.testing.assert_array_equal(decode(Pipe(content), "x").samples, decode(io.BytesIO(content), "x").samples)


@pytest.mark.parametrize("file_format", ["WAV", "FLAC", "OGG", "MP3"])
def test_memory_is_that_of_a_few_blocks(file_format, tmp_path):
    path, wave = tmp_path / "long", voice(5)
    with soundfile.SoundFile(path, "w", RATE, 1, format=file_format) as file:
        for _ in range(60):
            file.write(wave)
    tracemalloc.start()
    try:
        with path.open("rb") as stream, open_blocks(stream, "x") as blocks:
            assert sum(map(len, blocks)) == pytest.approx(300 * RATE, rel=0.01)
        assert tracemalloc.get_traced_memory()[1] < 2.5e6  # the samples are 19 MB
    finally:
        tracemalloc.stop()
