# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""What a run is resumed with: its own settings, except for those that change no result or only its length."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

MAY_CHANGE = (
    "output_dir",
    "resume",
    "dataloader_num_workers",
    "frozen_epochs",
    "epochs",
    "max_steps",
    "save_steps",
    "save_minutes",
    "save_total_limit",
    "patience",
)
"""Settings that a run may be resumed with other values of."""


def refuse_changes(settings: Any, checkpoint: Path | None) -> None:
    """
    Refuses to resume the run in `output_dir` with other settings than its own, except for those in `MAY_CHANGE`.

    Args:
        settings: Settings of the run, a dataclass.
        checkpoint: What it is resumed from; None starts it, with any settings.

    Raises:
        ValueError: Settings differ; the message names them.
    """
    folder = Path(settings.output_dir)
    if checkpoint is None or not (folder / "settings.json").exists():
        return
    then = json.loads((folder / "settings.json").read_text(encoding="utf-8"))
    now = json.loads(json.dumps(asdict(settings)))
    changed = [name for name in now if name not in MAY_CHANGE and then.get(name, now[name]) != now[name]]
    if changed:
        differences = "; ".join(f"{name} was {then[name]}, is {now[name]}" for name in changed)
        raise ValueError(
            f"{folder} holds a run with other settings: {differences}. To resume it, give its settings; to start a "
            "new run, give another output_dir."
        )
