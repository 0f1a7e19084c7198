# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""A corpus shared out among the processes of `accelerate launch`, on one machine or several with a common folder.

It is cut into shards of so many recordings each, in their order. The records of a shard go to `OUTPUT/shards` as one
Parquet file, which appears when it is whole; what a killed run leaves there, the next one does not do again, whatever
the number of its processes.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from transformers import PreTrainedModel

from . import __version__
from .recordings import Recording

SHARD_RECORDINGS = 64
FINGERPRINT_KEY = b"sparse_merit_fingerprint"
SCHEMA = pa.schema(
    {
        "file": pa.string(),
        "seconds": pa.float64(),
        "sampling_rate": pa.int64(),
        "emotion": pa.string(),
        "scores": pa.map_(pa.string(), pa.float64()),
        "enhanced": pa.string(),
        "error": pa.string(),
    }
)


@dataclass(frozen=True)
class Shard:
    """Some recordings, the file of their records, and the fingerprint of all that these depend on."""

    recordings: Sequence[Recording]
    path: Path
    fingerprint: str

    def is_done(self) -> bool:
        """Whether the file is there, and of the same recordings, model and options."""
        if not self.path.exists():
            return False
        return (pq.read_schema(self.path).metadata or {}).get(FINGERPRINT_KEY) == self.fingerprint.encode()

    def write(self, records: list[dict[str, Any]]) -> None:
        """Writes the records under another name, then gives the file its own."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = self.path.with_suffix(".tmp")
        table = pa.Table.from_pylist([_to_row(record) for record in records], SCHEMA)
        pq.write_table(table.replace_schema_metadata({FINGERPRINT_KEY: self.fingerprint}), unfinished)
        os.replace(unfinished, self.path)

    def read(self) -> list[dict[str, Any]]:
        return [_to_record(row) for row in pq.read_table(self.path).to_pylist()]


def join_processes(device: str | None) -> PartialState:
    """The processes of the launcher. They wait for each other as long as it takes."""
    on_cpu = device == "cpu" or not torch.cuda.is_available()
    return PartialState(cpu=on_cpu, timeout=timedelta(days=7))


def cut_shards(recordings: Sequence[Recording], folder: Path, facts: dict[str, Any]) -> list[Shard]:
    """Cuts recordings into shards.

    Args:
        folder: of the shards' files.
        facts: what else the records depend on, such as model and options; JSON-clean.
    """
    shards = []
    for number, start in enumerate(range(0, len(recordings), SHARD_RECORDINGS)):
        part = recordings[start : start + SHARD_RECORDINGS]
        shards.append(Shard(part, folder / f"{number:06d}.parquet", _fingerprint(part, facts)))
    return shards


def share_out(
    enhance: Callable[[Sequence[Recording]], Iterator[dict[str, Any]]],
    recordings: Sequence[Recording],
    folder: Path,
    facts: dict[str, Any],
    state: PartialState,
) -> list[Shard]:
    """Shares the shards that are not done out among the processes, waits for all, and returns all shards in order.

    The first process says which recordings there are and what is done of them, so that all agree.

    Args:
        enhance: yields a record for each recording, in their order.
        recordings, folder, facts: as in `cut_shards`.
        state: of `join_processes`.
    """
    plan: list[Any] = [None]
    if state.is_main_process:
        shards = cut_shards(recordings, folder, facts)
        plan = [(shards, [shard for shard in shards if not shard.is_done()])]
    shards, left = broadcast_object_list(plan)[0]
    mine = left[state.process_index :: state.num_processes]
    records = enhance([recording for shard in mine for recording in shard.recordings])
    for shard in mine:
        shard.write(list(islice(records, len(shard.recordings))))
    state.wait_for_everyone()
    return shards


def describe_model(model: PreTrainedModel) -> dict[str, Any]:
    """What tells a model from another: its name, its commit or the size and date of its weights, and its dtypes."""
    folder = Path(model.name_or_path)
    weights = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    return {
        "version": __version__,
        "model": model.name_or_path,
        "commit": getattr(model.config, "_commit_hash", None),
        "weights": [_stamp(path) for path in weights],
        "dtypes": sorted({str(values.dtype) for values in model.state_dict().values()}),
    }


def _fingerprint(recordings: Sequence[Recording], facts: dict[str, Any]) -> str:
    files = [[str(each.path), str(each.target), each.error, _stamp(each.path)] for each in recordings]
    return hashlib.sha256(json.dumps([facts, files], sort_keys=True).encode()).hexdigest()


def _stamp(path: Path) -> list[int] | None:
    """Size and date of a file, None where there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return [status.st_size, status.st_mtime_ns]


def _to_row(record: dict[str, Any]) -> dict[str, Any]:
    """Paths that are no UTF-8 are kept as `json` writes them."""
    scores = record.get("scores")
    row = {**record, "scores": None if scores is None else list(scores.items())}
    return {name: json.dumps(value)[1:-1] if isinstance(value, str) else value for name, value in row.items()}


def _to_record(row: dict[str, Any]) -> dict[str, Any]:
    record = {name: json.loads(f'"{value}"') if isinstance(value, str) else value for name, value in row.items()}
    error = record.pop("error")
    if error is not None:
        return {"file": record["file"], "error": error}
    return {**record, "scores": dict(record["scores"])}
