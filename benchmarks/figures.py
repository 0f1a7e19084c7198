# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Draws the figures of committed results again, from their JSON: `python -m benchmarks.figures`.

The figures of `ladder/figures/experts_*.png` need the results of each clip, which are not committed, and stay as they
are.
"""

import json

from benchmarks import routing_figures, speed_figures
from benchmarks.writing import RESULTS
from modeling_sparse_merit.evaluation.figures import draw_figures


def main() -> None:
    """Draws the figures of evaluations, routing and speed."""
    report = json.loads((RESULTS / "ladder" / "results.json").read_text(encoding="utf-8"))
    draw_figures(RESULTS / "ladder" / "figures", report, rows={})
    for path in sorted((RESULTS / "routing").glob("*.json")):
        routing_figures.draw_figures(path.with_suffix(""), json.loads(path.read_text(encoding="utf-8")))
    for path in sorted(RESULTS.glob("*/speed/speed.json")):
        speed_figures.draw_curves(json.loads(path.read_text(encoding="utf-8")), path.parent)


if __name__ == "__main__":
    main()
