# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Corrected labels: a file of JSON lines, to measure the model in service and to train on."""

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..files import append_line, drop_torn_line
from .calls import Call
from .limits import Refusal
from .schemas import Correction

REMEMBERED = 10_000
"""Requests that can be corrected; older ones are forgotten."""


class Feedback:
    """Appends corrections to a file.

    Args:
        path: the file; created if missing.
        labels: returns the emotions that a correction may state.
        model: name of the model, which the lines state.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, labels: Callable[[], Sequence[str]], model: str):
        self._path, self._labels, self._model = path, labels, model
        self._predictions: OrderedDict[str, list[dict[str, Any]]] = OrderedDict()
        self._lock = threading.Lock()
        drop_torn_line(path)

    def remember(self, call: Call) -> None:
        """Keeps the predictions of a request."""
        names = ("channel", "emotion", "scores")
        with self._lock:
            self._predictions[call.id] = [{name: record[name] for name in names} for record in call.records]
            if len(self._predictions) > REMEMBERED:
                self._predictions.popitem(last=False)

    def add(self, correction: Correction) -> None:
        """Appends a correction, completely or not at all.

        Raises:
            Refusal: the id, the emotion or the channel is unknown.
            OSError: the line cannot be written.
        """
        if correction.emotion not in (labels := self._labels()):
            raise Refusal(422, f"`emotion` is none of the labels of this model: {', '.join(labels)}.")
        with self._lock:
            predicted = self._prediction(correction)
            line = {
                "time": datetime.now(UTC).isoformat(timespec="seconds"),
                "id": correction.id,
                "channel": predicted["channel"],
                "emotion": correction.emotion,
                "predicted": predicted["emotion"],
                "scores": predicted["scores"],
                "model": self._model,
            }
            append_line(self._path, json.dumps(line))

    def _prediction(self, correction: Correction) -> dict[str, Any]:
        """The prediction that is corrected."""
        records = self._predictions.get(correction.id)
        if records is None:
            raise Refusal(404, f"No request has this `id`, or more than {REMEMBERED} came after it.")
        channels = [record["channel"] for record in records]
        channel = channels[0] if correction.channel is None and len(channels) == 1 else correction.channel
        if channel not in channels:
            raise Refusal(422, f"`channel` must be one of {channels}, the channels of that response.")
        return records[channels.index(channel)]
