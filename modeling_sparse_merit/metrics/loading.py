# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Loads metrics as modules of `evaluate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..extras import import_extra

if TYPE_CHECKING:
    import evaluate

FOLDER = Path(__file__).parent


def load(name: str, **options: Any) -> "evaluate.Metric":
    """Loads a metric of this package as a module of `evaluate`, without the Hub; like `evaluate.load` with its folder.

    ```python
    pesq = load("pesq", mode="nb")
    pesq.compute(predictions=enhanced_clips, references=clean_clips, num_processes=4)
    # {"pesq": 2.1, "pesq_per_clip": [2.0, 2.2], "pesq_undefined": 0}
    ```

    Args:
        name: `pesq`, `stoi`, `segmental_snr`, `si_sdr`, `composite`, `dnsmos`, `emotion_recognition`,
            `emotion_diarization_error_rate`, `concordance_correlation` or `icbhi_score`.
        options: options of the metric and of `evaluate.load`.

    Raises:
        ImportError: `evaluate` is not installed.
        ValueError: the metric or an option is unknown.
    """
    names = sorted(path.stem for path in FOLDER.glob("*/*.py") if path.stem == path.parent.name)
    if name not in names:
        raise ValueError(f"{name!r} is not a metric of this package; expected one of {names}.")
    return import_extra("evaluate", "metrics").load(str(FOLDER / name), **options)
