# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Parquet files that remember what they were made of, so that a run that goes on never mixes in results of another."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..files import replacing

FINGERPRINT_KEY = b"sparse_merit_fingerprint"


def check_same_run(path: Path, fingerprint: dict[str, Any]) -> None:
    """Whether the file, if there is one, was made of the same.

    Raises:
        ValueError: it was not; the message names what differs.
    """
    if not path.exists():
        return
    found = json.loads((pq.read_schema(path).metadata or {}).get(FINGERPRINT_KEY, b"{}"))
    different = [name for name, value in fingerprint.items() if found.get(name) != value]
    if different:
        raise ValueError(
            f"{path} holds results of another run (different: {', '.join(different)}). "
            "Choose another `output` folder, or delete this one to measure again."
        )


@contextmanager
def fingerprinted_writer(path: Path, schema: pa.Schema, fingerprint: dict[str, Any]) -> Iterator[pq.ParquetWriter]:
    """Writes a Parquet file with its fingerprint, complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stamp = {FINGERPRINT_KEY: json.dumps(fingerprint).encode()}
    with replacing(path) as temporary:
        with pq.ParquetWriter(temporary, schema.with_metadata({**(schema.metadata or {}), **stamp})) as writer:
            yield writer
