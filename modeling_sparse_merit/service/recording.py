# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The record of shadow mode: a line of JSON for each compared request, and audio only if it is asked for."""

import io
import json
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import soundfile
from filelock import FileLock, Timeout

from ..files import append_line, drop_torn_line, replacing
from ..monitoring.shadow_report import RECORD
from .calls import Call
from .shadow import Comparison

LOCK = ".shadow.lock"
MEGABYTES = 100
"""Size at which a new file is begun; the full one becomes `shadow-1.jsonl`, `shadow-2.jsonl`, ..."""


class Recorder:
    """Writes comparisons to a folder. A line holds the random id of a request, but no audio, text or name of a file.

    Args:
        folder: the folder; created for its owner alone if missing.
        keeps_audio: whether to keep the recordings, in the folder `audio`.
        megabytes: size of a full file.

    Raises:
        OSError: the folder cannot be written, or another service records to it.
    """

    def __init__(self, folder: Path, keeps_audio: bool = False, megabytes: float = MEGABYTES):
        self._folder, self._keeps_audio, self._bytes = folder, keeps_audio, 1e6 * megabytes
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if keeps_audio:
            (folder / "audio").mkdir(exist_ok=True, mode=0o700)
        self._lock = FileLock(folder / LOCK, blocking=False, thread_local=False)  # another thread releases it
        try:
            self._lock.acquire()
        except Timeout:
            raise OSError(f"Another service records to {folder}: give another folder.") from None
        drop_torn_line(folder / RECORD)

    def add(self, comparison: Comparison) -> None:
        """Appends a comparison, completely or not at all, and keeps its audio if recordings are kept.

        Raises:
            OSError: it cannot be written.
        """
        path = self._folder / RECORD
        if path.exists() and path.stat().st_size >= self._bytes:
            path.rename(self._free())
        append_line(path, json.dumps(_line(comparison)))
        if self._keeps_audio and comparison.primary.received is not None:
            self._keep(comparison.primary.received.content, comparison.primary.id)

    def _keep(self, content: bytes, name: str) -> None:
        suffix = "audio"
        with suppress(soundfile.SoundFileError):  # another decoder reads it
            suffix = soundfile.info(io.BytesIO(content)).format.lower()
        with replacing(self._folder / "audio" / f"{name}.{suffix}") as temporary:
            temporary.write_bytes(content)

    def close(self) -> None:
        """Releases the folder."""
        self._lock.release()

    def _free(self) -> Path:
        numbers = [path.stem.removeprefix("shadow-") for path in self._folder.glob("shadow-*.jsonl")]
        last = max((int(number) for number in numbers if number.isdigit()), default=0)
        return self._folder / f"shadow-{last + 1}.jsonl"


def _line(comparison: Comparison) -> dict[str, Any]:
    primary, candidate = comparison.primary, comparison.candidate
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "id": primary.id,
        "seconds": round(primary.audio_seconds or candidate.audio_seconds, 3),
        "primary": _side(primary) if primary.records else None,
        "shadow": {"outcome": candidate.outcome, **_side(candidate)},
        "si_sdr": comparison.si_sdr,
    }


def _side(call: Call) -> dict[str, Any]:
    """Results of a model, and the milliseconds of its work."""
    return {"ms": round(1000 * call.work_seconds, 1), "results": call.outlines}
