# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Draws the figures of committed results again, from their JSON: `python -m benchmarks.figures`."""

import json

from benchmarks import routing_figures, speed_figures
from benchmarks.writing import RESULTS


def main() -> None:
    """Draws the figures of routing and speed."""
    for path in sorted((RESULTS / "routing").glob("*.json")):
        routing_figures.draw_figures(path.with_suffix(""), json.loads(path.read_text(encoding="utf-8")))
    for path in sorted(RESULTS.glob("*/speed/speed.json")):
        speed_figures.draw_curves(json.loads(path.read_text(encoding="utf-8")), path.parent)


if __name__ == "__main__":
    main()
