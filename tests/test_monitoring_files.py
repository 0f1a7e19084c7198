# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Alert rules and dashboard in `docs/monitoring`: they use metrics, labels and values that the service has."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from conftest import ROOT

from modeling_sparse_merit.monitoring.drift import Drift, Reference
from modeling_sparse_merit.service.candidate import Candidate
from modeling_sparse_merit.service.metrics import PRIMARY, SHADOW, Metrics
from modeling_sparse_merit.service.shadow import Shadow, ShadowOptions

FOLDER = ROOT / "docs" / "monitoring"
OWN_OF_PROMETHEUS = {"up"}
ADDED_BY_PROMETHEUS = {"job", "instance", "le"}


def expressions(path: Path) -> list[str]:
    if path.suffix == ".yaml":
        rules = [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]
        return [rule["expr"] for rule in rules]
    panels = json.loads(path.read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


@pytest.fixture(scope="module")
def series() -> dict[str, dict[str, set[str]]]:
    """{name: {label: values}} of all metrics."""

    def nothing(*_: object) -> None:
        pass

    metrics = Metrics(lambda: 0, None)
    metrics.add_shadow(Shadow(Candidate("tiny"), ShadowOptions(), nothing, nothing, nothing, nothing))
    metrics.add_drift(Drift(Reference("tiny", [], {"level_dbfs": np.ones(8)}, {"level_dbfs": 8}), nothing))
    for role in (PRIMARY, SHADOW):
        metrics.start_at_zero(role, ["sad"])
    values_of: dict[str, dict[str, set[str]]] = {}
    for line in metrics.text().decode().splitlines():
        if match := re.match(r"# TYPE (\w+) (\w+)", line):
            suffixes = ("_bucket", "_sum", "_count") if match[2] == "histogram" else ("",)
            for suffix in suffixes:
                values_of.setdefault(match[1] + suffix, {})
        elif match := re.match(r"(\w+)\{(.*)\} ", line):
            for label, value in re.findall(r'(\w+)="([^"]*)"', match[2]):
                values_of.setdefault(match[1], {}).setdefault(label, set()).add(value)
    return values_of


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.*")), ids=lambda path: path.name)
def test_every_metric_label_and_value_exists(path, series):
    for expression in expressions(path):
        names = re.findall(r"\b(?:sparse_merit|process)_\w+", expression)
        assert set(names) - {"sparse_merit_gpu_memory_bytes"} <= set(series), expression
        for name, selector in re.findall(r"(\w+)\{([^}]*)\}", expression):
            for label, is_pattern, values in re.findall(r'(\w+)=(~?)"([^"]*)"', selector):
                known = series.get(name, {}).get(label, set())
                asked = set(values.split("|") if is_pattern else [values])
                assert label in ADDED_BY_PROMETHEUS or asked <= known or not series[name], (expression, label)


def test_files_have_what_their_readers_need():
    rules = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"][0]["rules"]
    assert all({"alert", "expr", "labels", "annotations"} <= set(rule) for rule in rules)
    used = {name for path in FOLDER.glob("*.*") for each in expressions(path) for name in re.findall(r"\w+", each)}
    assert "up" in used and len({rule["alert"] for rule in rules}) == len(rules)


def test_every_metric_is_documented(series):
    guide = (ROOT / "docs" / "monitoring.md").read_text()
    own = {re.sub(r"_(bucket|sum|count|created)$", "", name) for name in series if name.startswith("sparse_merit")}
    assert own and not [name for name in own if name not in guide]
