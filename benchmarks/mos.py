# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Speech quality as listeners would rate it, predicted without the clean speech: DNSMOS P.835 and DistillMOS.

DNSMOS is a metric of this package (extra `mos`). DistillMOS comes from PyPI with its weights, in a folder of its own;
`make runs/mos` installs it:

    pip install --no-deps --target runs/mos distillmos==0.9.1 xls-r-sqa==0.1.0 torchaudio==2.11.0
    rm runs/mos/torchaudio/lib/*.so
    python -m benchmarks.mos runs/mos FOLDER > scores.csv

distillmos imports torchaudio, but calls it only to read files, which is done here. The compiled part of torchaudio
needs the CUDA libraries and the torch release that it was built for; without it, torchaudio loads as Python alone.
"""

import contextlib
import csv
import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from modeling_sparse_merit.metrics import SCORE_TITLES, dnsmos
from modeling_sparse_merit.metrics.ratings import DNSMOS_MEASURES
from modeling_sparse_merit.models.sparse_merit.audio import load_audio

MOS = {name: SCORE_TITLES[name] for name in DNSMOS_MEASURES} | {"distillmos": "DistillMOS"}
Rater = Callable[[np.ndarray], dict[str, float]]
"""A waveform (samples,) at 16 kHz to its scores from 1 to 5, by the names in `MOS`."""


@functools.cache
def load_raters(site: Path) -> Rater:
    """DNSMOS (Reddy et al., ICASSP 2022) and DistillMOS (Stahl and Gamper, ICASSP 2025), each on one thread. Samples
    beyond full scale are clipped, as in a file.

    Args:
        site: Folder that pip installed DistillMOS to.

    Raises:
        FileNotFoundError: it is not there.
    """
    if not (site / "distillmos").is_dir():
        raise FileNotFoundError(f"{site} holds no distillmos: see the pip command in benchmarks/mos.py.")
    sys.path.append(str(site))
    from distillmos import ConvTransformerSQAModel

    with contextlib.redirect_stdout(sys.stderr):
        rate_overall = ConvTransformerSQAModel().eval()

    def rate(waveform: np.ndarray) -> dict[str, float]:
        clipped = np.clip(waveform, -1, 1).astype(np.float32)
        with torch.inference_mode():
            return dnsmos(clipped) | {
                "distillmos": rate_overall(torch.from_numpy(clipped)[None]).item()
            }  # (1, samples)

    return rate


def main(
    site: Annotated[Path, typer.Argument(help="Folder that pip installed DistillMOS to.")],
    folder: Annotated[Path, typer.Argument(help="WAV and FLAC files.")],
) -> None:
    """Prints a line of CSV for each file."""
    rate = load_raters(site)
    table = csv.DictWriter(sys.stdout, ["file", *MOS])
    table.writeheader()
    for path in sorted([*folder.glob("*.wav"), *folder.glob("*.flac")]):
        table.writerow({"file": path.name, **rate(load_audio(path))})
        sys.stdout.flush()


if __name__ == "__main__":
    typer.run(main)
