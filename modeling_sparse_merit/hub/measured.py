# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The results of one checkpoint in a report of `sparse-merit evaluate`, which may compare several systems."""

from pathlib import Path
from typing import Any

from .files import read_json


def read_results(path: Path, sha256: str) -> dict[str, Any]:
    """The results of one checkpoint, in the form of a report on it alone.

    Args:
        path: `results.json`, or its folder.
        sha256: identifies the weights, see `checkpoint_sha256`.

    Raises:
        FileNotFoundError: there is no report.
        ValueError: the report has no results of these weights in fp32.
    """
    path = path / "results.json" if path.is_dir() else path
    report = read_json(path)
    if (report.get("model") or {}).get("sha256") == sha256:
        return report
    systems = report.get("systems") or {}
    for name, members in systems.items():
        if len(members) == 1 and members[0].get("sha256") == sha256 and members[0].get("precision", "fp32") == "fp32":
            return _alone(report, name)
    measured = {name: member.get("sha256") for name, members in systems.items() for member in members}
    given = measured or {"model": (report.get("model") or {}).get("sha256")}
    raise ValueError(
        f"{path} belongs to other weights: expected the SHA-256 {sha256}, but it states "
        f"{', '.join(f'{name}: {digest}' for name, digest in given.items() if digest) or 'none'}. Evaluate these "
        "weights as a system of their own, in fp32, or remove the file."
    )


def is_measured(report: dict[str, Any], sha256: str) -> bool:
    """Whether a report may belong to some weights: it has results of them, or does not name any weights.

    Args:
        report: content of `results.json` or `examples.json`.
        sha256: identifies the weights.
    """
    members = [
        report.get("model") or {},
        *(member for some in (report.get("systems") or {}).values() for member in some),
    ]
    stated = [member["sha256"] for member in members if member.get("sha256")]
    return sha256 in stated or not stated


def _alone(report: dict[str, Any], system: str) -> dict[str, Any]:
    """One system of a report, without the others."""
    result = report["results"][system]
    labels = result.get("labels") or report["labels"]
    counts = {label: report["clips"]["labelled"][label] for label in labels}
    kept = {name: report[name] for name in ("config", "noise", "versions")}
    return {
        **kept,
        "model": report["systems"][system][0],
        "labels": labels,
        "clips": {**report["clips"], "labelled": counts},
        "conditions": result["conditions"],
    }
