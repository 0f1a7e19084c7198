# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Reads files that were changed at random: `python tests/fuzzing.py KIND:FIRST:LAST ...`, in a process that may
crash.

A reader may refuse a file with an OSError or a ValueError. Everything else is a finding: another exception, a wrong
result, more than 5 s, or an allocation that exceeds the limit of this process. The number of the case in hand is
written first, so a crash can be attributed, and `KIND:N:N+1` repeats one case.
"""

import contextlib
import io
import json
import os
import random
import resource
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import numpy as np
import soundfile

SECONDS = 5
MEMORY = 1 << 30  # bytes beyond what the process has before the first case
RATE = 16_000
TINY = Path(__file__).parents[1] / "modeling_sparse_merit" / "checkpoints" / "tiny"
EXTREMES = tuple(bytes.fromhex(digits) for digits in ("00000000", "ffffffff", "7fffffff", "ffffff7f", "00000080"))


def mutated(content: bytes, generator: random.Random) -> bytes:
    """Some of: bytes changed, numbers made extreme, parts removed, repeated or inserted, the end cut off."""
    data = bytearray(content)
    header = min(len(data), 256)
    for _ in range(generator.choice((1, 1, 2, 4, 16))):
        reach = len(data) if generator.random() < 0.5 else min(header, len(data))  # headers matter most
        place = generator.randrange(max(1, reach))
        kind = generator.randrange(6)
        if kind == 0:
            data[place : place + 1] = bytes([generator.randrange(256)])
        elif kind == 1:
            data[place : place + 4] = generator.choice(EXTREMES)
        elif kind == 2:
            del data[place : place + generator.choice((1, 4, 64, 4_096))]
        elif kind == 3:
            part = data[place : place + generator.choice((1, 4, 64, 4_096))]
            data[place:place] = part
        elif kind == 4:
            data[place:place] = generator.randbytes(generator.choice((1, 4, 64)))
        else:
            del data[place:]
    return bytes(data)


def voice(seconds: float = 0.3) -> np.ndarray:
    """Float32 (samples,)."""
    time = np.arange(round(seconds * RATE)) / RATE
    return (0.3 * np.sin(2 * np.pi * 150 * time) * np.sin(2 * np.pi * 3 * time)).astype(np.float32)


def recordings() -> list[bytes]:
    """Recordings in several formats, one of them with chunks of metadata."""
    formats = [("WAV", "PCM_16", 1), ("WAV", "FLOAT", 2), ("WAV", "IMA_ADPCM", 1), ("WAV", "GSM610", 1)]
    formats += [("FLAC", "PCM_16", 2), ("OGG", "VORBIS", 1), ("OGG", "OPUS", 1), ("MP3", "MPEG_LAYER_III", 1)]
    formats += [
        ("AIFF", "PCM_24", 1),
        ("AU", "ULAW", 1),
        ("CAF", "PCM_16", 1),
        ("RF64", "PCM_16", 1),
        ("W64", "PCM_16", 1),
    ]
    made = []
    for name, subtype, channels in formats:
        file, samples = io.BytesIO(), voice()
        soundfile.write(file, np.stack([samples] * channels, 1), RATE, format=name, subtype=subtype)
        made.append(file.getvalue())
    return made


def read_recording(content: bytes) -> None:
    """Decodes a recording as every command does."""
    from modeling_sparse_merit.models.sparse_merit.audio import load_audio

    waveform = load_audio(content)
    assert waveform.ndim == 1 and waveform.dtype == np.float32 and np.isfinite(waveform).all()


def write(name: str, content: bytes) -> Path:
    path = Path(tempfile.gettempdir()) / f"fuzz-{os.getpid()}-{name}"
    path.write_bytes(content)
    return path


def read_config(content: bytes) -> None:
    """Makes the configuration of a checkpoint."""
    from huggingface_hub.errors import StrictDataclassError

    from modeling_sparse_merit import SparseMeritConfig

    try:
        SparseMeritConfig.from_dict(dict(json.loads(content)))
    except (StrictDataclassError, TypeError, AttributeError, RecursionError) as error:  # of transformers' own fields
        raise ValueError(error) from error


def read_calibration(content: bytes) -> None:
    from modeling_sparse_merit.models.sparse_merit.calibration import read_calibration_file

    read_calibration_file(write("calibration.json", content))


def read_task(content: bytes) -> None:
    """Adds the file of a task to a model."""
    import torch

    from modeling_sparse_merit import SparseMeritForSpeechEnhancementAndEmotion
    from modeling_sparse_merit.models.sparse_merit.task_files import add_task

    if not models:
        models.append(SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(TINY).to(torch.float64))
    add_task(models[0], write("task.safetensors", content))
    raise ValueError("the mutation left the file as it was")


models: list = []


def read_settings(content: bytes) -> None:
    """Reads the settings of a training."""
    from modeling_sparse_merit.training.settings import parse_settings

    parse_settings([str(write("settings.yaml", content))])


def configs() -> list[bytes]:
    return [(TINY / "config.json").read_bytes()]


def calibrations() -> list[bytes]:
    small = {"temperature": 1.5, "thresholds": {}, "model": {"sha256": "a"}}
    return [(TINY / "calibration.json").read_bytes(), json.dumps(small).encode()]


def tasks() -> list[bytes]:
    return [(TINY.parent / "base" / "tasks" / "six.safetensors").read_bytes()]


def settings() -> list[bytes]:
    folder = TINY.parents[2] / "benchmarks"
    return [(folder / "six" / "training.yaml").read_bytes(), (folder / "wild" / "speech" / "levels.yaml").read_bytes()]


KINDS: dict[str, tuple[Callable[[], list[bytes]], Callable[[bytes], None]]] = {
    "recording": (recordings, read_recording),
    "config": (configs, read_config),
    "calibration": (calibrations, read_calibration),
    "task": (tasks, read_task),
    "settings": (settings, read_settings),
}


def too_long(number: int, frame: FrameType | None) -> None:
    raise TimeoutError(f"more than {SECONDS} s")


def main(parts: list[str]) -> int:
    """Reads the cases of some kinds, and prints its findings, a line each. Returns the exit status."""
    warnings.simplefilter("ignore")
    chosen = [(kind, int(first), int(last)) for kind, first, last in (part.split(":") for part in parts)]
    for kind, _, _ in chosen:
        with contextlib.suppress(OSError, ValueError):
            KINDS[kind][1](KINDS[kind][0]()[0])  # imports
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    signal.signal(signal.SIGALRM, too_long)
    return max(read_cases(*part) for part in chosen)


def read_cases(kind: str, first: int, last: int) -> int:
    """Reads the cases `first` to `last` of one kind. Returns the exit status."""
    originals, read = KINDS[kind][0](), KINDS[kind][1]
    status, case = 0, Path(os.environ["FUZZ_CASE"]) if "FUZZ_CASE" in os.environ else None
    for number in range(first, last):
        if case is not None:
            case.write_text(f"{kind}:{number}")
        generator = random.Random(number)
        content = mutated(generator.choice(originals), generator)
        signal.alarm(SECONDS)
        try:
            read(content)
        except TimeoutError as error:
            status = print(f"{kind} {number}: {error}") or 1
        except (OSError, ValueError):
            pass
        except Exception as error:
            status = print(f"{kind} {number}: {type(error).__name__}: {error}") or 1
        finally:
            signal.alarm(0)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
