# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Parquet files with a fingerprint of their inputs, so that a resumed run never mixes in results of another run."""

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
    """Checks that an existing file has the same fingerprint.

    Args:
        path: the Parquet file; it may be missing.
        fingerprint: the expected fingerprint.

    Raises:
        ValueError: it has another fingerprint; the message names the differences.
    """
    if not path.exists():
        return
    stored = json.loads((pq.read_schema(path).metadata or {}).get(FINGERPRINT_KEY, b"{}"))
    different = [name for name, value in fingerprint.items() if stored.get(name) != value]
    if different:
        raise ValueError(
            f"{path} holds results of another run (different: {', '.join(different)}). "
            "Choose another `output` folder, or delete this one to measure again."
        )


@contextmanager
def fingerprinted_writer(path: Path, schema: pa.Schema, fingerprint: dict[str, Any]) -> Iterator[pq.ParquetWriter]:
    """Writes a Parquet file with its fingerprint atomically.

    Args:
        path: the Parquet file.
        schema: its schema.
        fingerprint: JSON-serializable description of everything that determines the content.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    stamp = {FINGERPRINT_KEY: json.dumps(fingerprint).encode()}
    with replacing(path) as temporary:
        with pq.ParquetWriter(temporary, schema.with_metadata({**(schema.metadata or {}), **stamp})) as writer:
            yield writer
