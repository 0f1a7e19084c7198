# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Durations of generated audio files of many kinds: what `load_audio` reads, next to the truth and ffmpeg.

Each kind is a function that makes the bytes of a file of about two seconds: containers, codecs, headers that were
written before the length was known or that promise too much, tags, padding, files that were put together, files that
were cut. Some need ffmpeg to be made.

    python -m benchmarks.file_formats     # results in benchmarks/results/file_formats.md
"""

import io
import re
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from modeling_sparse_merit.files import replacing
from modeling_sparse_merit.models.sparse_merit.audio import read_audio

RATE = 16_000
SECONDS = 2.0
TOLERANCE = 0.05  # seconds
RESULTS = Path(__file__).parent / "results" / "file_formats.md"


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Args:
        suffix: of its name.
        make: its bytes.
        seconds: duration that is to be read; None where the file is to be refused.
        message: what the refusal, or the warning, says.
        needs_ffmpeg: to be made or read.
    """

    suffix: str
    make: Callable[[], bytes]
    seconds: float | None = SECONDS
    message: str | None = None
    needs_ffmpeg: bool = False


def voice(seconds: float = SECONDS, rate: int = RATE, quiet_after: float = 1e9) -> np.ndarray:
    """A voiced sound with a moving pitch: float32 (samples,); silent after `quiet_after` seconds."""
    time = np.arange(round(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(150 * (1 + 0.2 * np.sin(2 * np.pi * 1.3 * time))) / rate
    wave = sum(np.sin(k * phase) / k for k in range(1, 20) if k * 180 < rate / 2)
    noise = np.random.default_rng(0).normal(0, 0.02, len(time))
    return ((0.15 * wave + noise) * (time < quiet_after)).astype(np.float32)


def encoded(
    file_format: str, subtype: str | None = None, wave: np.ndarray | None = None, rate: int = RATE, **options
) -> bytes:
    """A file as soundfile writes it."""
    buffer, wave = io.BytesIO(), voice(rate=rate) if wave is None else wave
    channels = 1 if wave.ndim == 1 else wave.shape[1]
    with soundfile.SoundFile(buffer, "w", rate, channels, subtype, format=file_format, **options) as file:
        file.write(wave)
    return buffer.getvalue()


def by_ffmpeg(suffix: str, *options: str, to_pipe: bool = False) -> bytes:
    """A file as ffmpeg writes it, to a file or, without its length in the header, to a pipe."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder) / "source.wav", Path(folder) / f"target{suffix}"
        source.write_bytes(encoded("WAV"))
        command = ["ffmpeg", "-nostdin", "-v", "error", "-i", source, *options, "pipe:1" if to_pipe else target]
        done = subprocess.run(command, check=True, capture_output=True)
        return done.stdout if to_pipe else target.read_bytes()


def wav(riff: int | None = None, data: int | None = None, content: bytes | None = None) -> bytes:
    """A 16-bit WAV with these sizes in its header of 44 bytes."""
    made = bytearray(encoded("WAV", "PCM_16") if content is None else content)
    for at, size in ((4, riff), (40, data)):
        if size is not None:
            made[at : at + 4] = size.to_bytes(4, "little")
    return bytes(made)


AUDIO_BYTES = round(SECONDS * RATE) * 2


def id3(size: int = 500) -> bytes:
    return b"ID3\x04\0\0" + bytes([0, 0, size >> 7, size & 0x7F]) + bytes(size)


def mp3(quiet_after: float = 1e9, seconds: float = SECONDS, mode: str = "CONSTANT", rate: int = RATE) -> bytes:
    wave = voice(seconds, rate, quiet_after)
    return encoded("MP3", None, wave, rate, bitrate_mode=mode, compression_level=0.5)


def without_header(content: bytes) -> bytes:
    """An MP3 without its first frame, which tells the length."""
    return content[content.index(content[:2], 100) :]


def flac_of_unknown_length() -> bytes:
    content = bytearray(encoded("FLAC"))
    content[21] &= 0xF0  # the last 36 bits of the eight bytes at 18
    content[22:26] = bytes(4)
    return bytes(content)


def w64_cut() -> bytes:
    return encoded("W64")[:-20_000]


def in_wav(payload: bytes, tag: int) -> bytes:
    """A payload of another codec in a WAV."""
    fmt = tag.to_bytes(2, "little") + (1).to_bytes(2, "little") + RATE.to_bytes(4, "little")
    fmt += (8_000).to_bytes(4, "little") + (1).to_bytes(2, "little") + bytes(2)
    chunks = b"fmt " + len(fmt).to_bytes(4, "little") + fmt + b"data" + len(payload).to_bytes(4, "little") + payload
    return b"RIFF" + (len(chunks) + 4).to_bytes(4, "little") + b"WAVE" + chunks + bytes(len(payload) % 2)


def bw64() -> bytes:
    return b"BW64" + encoded("RF64")[4:]


def nist_cut() -> bytes:
    return encoded("NIST", "PCM_16")[:-20_000]


KINDS: dict[str, Kind] = {
    "WAV, 16 bits": Kind(".wav", lambda: encoded("WAV", "PCM_16")),
    "WAV, 24 bits": Kind(".wav", lambda: encoded("WAV", "PCM_24")),
    "WAV, float": Kind(".wav", lambda: encoded("WAV", "FLOAT")),
    "WAV, mu-law, 8 kHz": Kind(".wav", lambda: encoded("WAV", "ULAW", rate=8_000)),
    "WAV, A-law, 8 kHz": Kind(".wav", lambda: encoded("WAV", "ALAW", rate=8_000)),
    "WAV, GSM 6.10": Kind(".wav", lambda: encoded("WAV", "GSM610", rate=8_000)),
    "WAV, IMA ADPCM": Kind(".wav", lambda: encoded("WAV", "IMA_ADPCM")),
    "WAV, MS ADPCM": Kind(".wav", lambda: encoded("WAV", "MS_ADPCM")),
    "WAV, G.721": Kind(".wav", lambda: encoded("WAV", "G721_32", rate=8_000)),
    "WAV with an MP3 in it": Kind(".wav", lambda: in_wav(without_header(mp3()), 0x55), 2.09),
    "WAV, big-endian (RIFX)": Kind(".wav", lambda: encoded("WAV", "PCM_16", endian="BIG")),
    "RF64": Kind(".rf64", lambda: encoded("RF64")),
    "BW64": Kind(".wav", bw64),
    "W64": Kind(".w64", lambda: encoded("W64")),
    "AIFF": Kind(".aiff", lambda: encoded("AIFF")),
    "AU": Kind(".au", lambda: encoded("AU")),
    "CAF": Kind(".caf", lambda: encoded("CAF")),
    "CAF, ALAC": Kind(".caf", lambda: encoded("CAF", "ALAC_16")),
    "VOC": Kind(".voc", lambda: encoded("VOC")),
    "NIST SPHERE": Kind(".sph", lambda: encoded("NIST", "PCM_16")),
    "FLAC": Kind(".flac", lambda: encoded("FLAC")),
    "FLAC behind an ID3 tag": Kind(".flac", lambda: id3() + encoded("FLAC")),
    "FLAC of unknown length": Kind(".flac", flac_of_unknown_length),
    "OGG Vorbis": Kind(".ogg", lambda: encoded("OGG", "VORBIS")),
    "OGG Opus": Kind(".opus", lambda: encoded("OGG", "OPUS")),
    "MP3, constant rate": Kind(".mp3", mp3),
    "MP3, variable rate": Kind(".mp3", lambda: mp3(mode="VARIABLE")),
    "MP3, variable rate, voice first, no header": Kind(".mp3", lambda: without_header(mp3(1, 8, "VARIABLE")), 8.1),
    "MP3, variable rate, silence first, no header": Kind(
        ".mp3",
        lambda: without_header(encoded("MP3", None, voice(8, quiet_after=1)[::-1], bitrate_mode="VARIABLE")),
        8.1,
    ),
    "MP3 behind zeros": Kind(".mp3", lambda: bytes(3_000) + without_header(mp3()), 2.09),
    "MP3 behind ID3 and padding": Kind(".mp3", lambda: id3() + bytes(700) + without_header(mp3()), 2.09),
    "MP3 before ID3v1 and APE tags": Kind(
        ".mp3", lambda: mp3() + b"APETAGEX\xd0\x07\0\0\x20\0\0\0" + bytes(16) + b"TAG" + bytes(125)
    ),
    "MP3, 11 kHz": Kind(".mp3", lambda: mp3(rate=11_025)),
    "MP2": Kind(".mp2", lambda: by_ffmpeg(".mp2", "-ar", "48000"), needs_ffmpeg=True),
    "WAV of unknown length (size 0)": Kind(".wav", lambda: wav(0, 0)),
    "WAV of unknown length (all ones)": Kind(".wav", lambda: wav(0xFFFFFFFF, 0xFFFFFFFF)),
    "WAV of unknown length (2 GiB)": Kind(".wav", lambda: wav(0x7FFFF024, 0x7FFFF000)),
    "AIFF of unknown length": Kind(".aiff", lambda: by_ffmpeg(".aiff", "-f", "aiff", to_pipe=True), needs_ffmpeg=True),
    "AU of unknown length": Kind(".au", lambda: encoded("AU")[:8] + b"\xff" * 4 + encoded("AU")[12:]),
    "CAF of unknown length": Kind(".caf", lambda: by_ffmpeg(".caf", "-f", "caf", to_pipe=True), needs_ffmpeg=True),
    "W64 of unknown length": Kind(".w64", lambda: by_ffmpeg(".w64", "-f", "w64", to_pipe=True), needs_ffmpeg=True),
    "FLAC through a pipe": Kind(".flac", lambda: by_ffmpeg(".flac", "-f", "flac", to_pipe=True), needs_ffmpeg=True),
    "MP3 through a pipe": Kind(".mp3", lambda: by_ffmpeg(".mp3", "-f", "mp3", to_pipe=True), 2.09, needs_ffmpeg=True),
    "OGG through a pipe": Kind(".ogg", lambda: by_ffmpeg(".ogg", "-f", "ogg", to_pipe=True), needs_ffmpeg=True),
    "WAV that promises 2 bytes more": Kind(".wav", lambda: wav(data=AUDIO_BYTES + 2), message="promises 64002"),
    "WAV that counts its header in": Kind(".wav", lambda: wav(data=AUDIO_BYTES + 44), message="promises 64044"),
    "WAV with chunks behind its audio": Kind(
        ".wav", lambda: wav() + b"LIST" + (4).to_bytes(4, "little") + b"INFO" + b"id3 " + bytes(4)
    ),
    "WAV whose header tells of its first half": Kind(
        ".wav", lambda: wav(36 + AUDIO_BYTES // 2, AUDIO_BYTES // 2), SECONDS / 2, "1.0 s if they are audio"
    ),
    "two WAVs put together": Kind(".wav", lambda: wav() + wav(), 2 * SECONDS, "several files"),
    "two FLACs put together": Kind(".flac", lambda: encoded("FLAC") * 2, 2 * SECONDS, "several files"),
    "two MP3s put together": Kind(".mp3", lambda: mp3() * 2, 4.14),
    "MP3s of two rates put together": Kind(
        ".mp3", lambda: mp3() + mp3(rate=22_050), 4.12, "concatenation of several files"
    ),
    "two OGG Vorbis files chained": Kind(".ogg", lambda: encoded("OGG", "VORBIS") * 2, 2 * SECONDS),
    "two OGG Opus files chained": Kind(".opus", lambda: encoded("OGG", "OPUS") * 2, 2 * SECONDS),
    "WAV, stereo": Kind(".wav", lambda: encoded("WAV", None, np.stack([voice()] * 2, 1))),
    "WAV, 40 channels": Kind(".wav", lambda: encoded("WAV", None, np.stack([voice()] * 40, 1))),
    "M4A": Kind(".m4a", lambda: by_ffmpeg(".m4a"), 2.05, needs_ffmpeg=True),
    "WebM, Opus": Kind(".webm", lambda: by_ffmpeg(".webm", "-c:a", "libopus"), needs_ffmpeg=True),
    "WMA": Kind(".wma", lambda: by_ffmpeg(".wma"), needs_ffmpeg=True),
    "AAC": Kind(".aac", lambda: by_ffmpeg(".aac"), 2.11, needs_ffmpeg=True),
    "AC-3 in Matroska": Kind(".mka", lambda: by_ffmpeg(".mka", "-c:a", "ac3", "-ar", "48000"), needs_ffmpeg=True),
    "M4A, cut": Kind(".m4a", lambda: by_ffmpeg(".m4a", "-movflags", "faststart")[:-4_000], None, "cut short", True),
    "WebM, cut": Kind(".webm", lambda: by_ffmpeg(".webm", "-c:a", "libopus")[:-4_000], None, "cut short", True),
    "WMA, cut": Kind(".wma", lambda: by_ffmpeg(".wma")[:-4_000], None, "cut short", True),
    "WAV, cut": Kind(".wav", lambda: wav()[:-20_000], None, "cut short.*20000|cut short.*0.62"),
    "AIFF, cut": Kind(".aiff", lambda: encoded("AIFF")[:-20_000], None, "cut short"),
    "W64, cut": Kind(".w64", w64_cut, None, "cut short"),
    "CAF, cut": Kind(".caf", lambda: encoded("CAF")[:-20_000], None, "cut short"),
    "AU, cut": Kind(".au", lambda: encoded("AU")[:-20_000], None, "cut short"),
    "NIST SPHERE, cut": Kind(".sph", nist_cut, None, "cut short"),
    "FLAC, cut": Kind(".flac", lambda: encoded("FLAC")[:-20_000], None, "cut short"),
    "OGG Vorbis, cut": Kind(".ogg", lambda: encoded("OGG", "VORBIS")[:-2_000], None, "cut short"),
    "MP3 with a header, cut": Kind(".mp3", lambda: mp3()[:-4_000], None, "cut short"),
    "WAV with two chunks of audio": Kind(
        ".wav",
        lambda: wav(36 + AUDIO_BYTES + 12) + b"data" + (4).to_bytes(4, "little") + bytes(4),
        None,
        "two chunks of audio",
    ),
    "MP3 tag without audio": Kind(".mp3", id3, None, "a tag, but no audio"),
    "nothing": Kind(".wav", lambda: b"", None, "empty"),
    "text": Kind(".wav", lambda: b"this is a text\n" * 99, None, "Cannot decode"),
}


@dataclass(frozen=True)
class Reading:
    """What was read of a file: its duration, or why it was refused, and warnings."""

    seconds: float | None
    message: str


def read(path: Path) -> Reading:
    """Reads a file as the command does."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            waveform, rate = read_audio(path)
        except ValueError as error:
            return Reading(None, str(error))
    return Reading(len(waveform) / rate, " ".join(str(warning.message) for warning in caught))


def seconds_by_ffmpeg(path: Path) -> float | None:
    """Seconds of 32-bit float at the file's own rate that ffmpeg decodes; None where it decodes nothing."""
    command = ["ffmpeg", "-nostdin", "-v", "error", "-i", path, "-map", "0:a:0", "-ac", "1", "-ar", "48000"]
    done = subprocess.run([*command, "-f", "f32le", "pipe:1"], capture_output=True)
    return len(done.stdout) / 4 / 48_000 or None


def holds(kind: Kind, reading: Reading) -> bool:
    """Whether a file was read, or refused, as its kind asks for."""
    is_said = kind.message is None or re.search(kind.message, reading.message) is not None
    if kind.seconds is None or reading.seconds is None:
        return is_said and kind.seconds is reading.seconds
    return is_said and abs(reading.seconds - kind.seconds) <= TOLERANCE


def _rows() -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        for name, kind in KINDS.items():
            path = Path(folder) / f"file{kind.suffix}"
            path.write_bytes(kind.make())
            reading, other = read(path), seconds_by_ffmpeg(path)
            truth, ours, theirs = (
                "–" if seconds is None else f"{seconds:.2f}" for seconds in (kind.seconds, reading.seconds, other)
            )
            said = reading.message.replace(f"{path}", "FILE").replace("|", "\\|")
            verdict = "yes" if holds(kind, reading) else "**no**"
            yield f"| {name} | {truth} | {ours} | {theirs} | {verdict} | {said} |"


def main() -> None:
    if shutil.which("ffmpeg") is None:
        raise SystemExit("This comparison needs ffmpeg.")
    version = subprocess.run(["ffmpeg", "-version"], capture_output=True, text=True).stdout.split()[2]
    lines = [
        "# Durations of generated files",
        "",
        f"`python -m benchmarks.file_formats`, {len(KINDS)} kinds, libsndfile {soundfile.__libsndfile_version__}, "
        f"ffmpeg {version}. Seconds; – where a file is, or is to be, refused. "
        "ffmpeg reads what a cut file still holds.",
        "",
        "| kind | expected | read | ffmpeg | as expected | message |",
        "|---|---|---|---|---|---|",
        *_rows(),
    ]
    with replacing(RESULTS) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
