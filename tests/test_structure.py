# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The structure of the package: what travels to the Hub, where imports may point, and what must not change."""

import ast
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import TINY
from safetensors import safe_open

from modeling_sparse_merit import (
    AudioEnhancerConfig,
    AudioEnhancerModel,
    Cnn14Config,
    Cnn14ForAudioClassification,
    SparseMeritConfig,
)
from modeling_sparse_merit.inference.files import Recording
from modeling_sparse_merit.inference.results import Results, Settings

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "modeling_sparse_merit"
CONTRACT = Path(__file__).parent / "contract"
TRAVELLING = {
    "sparse_merit": {
        *("configuration_sparse_merit", "modeling_sparse_merit", "feature_extraction_sparse_merit"),
        *("pipeline_sparse_merit", "handler", "encoder", "attention", "experts", "quantization", "emotion"),
        *("enhancement", "tasks", "audio", "decoding", "containers", "mpeg", "views", "adapters", "sources"),
        *("deep_filtering", "whisper", "pretrained", "activity", "cutting", "speech_segments", "streaming"),
        *("clip_heads", "clip_tasks", "task_config", "task_files", "calibration", "processes"),
        *("configuration_speech_text", "modeling_speech_text", "processing_speech_text", "pipeline_speech_text"),
    },
    "audio_enhancer": {
        *("configuration_audio_enhancer", "modeling_audio_enhancer", "spectrogram"),
        *("mask_lstm", "wave_u_net", "cmgan"),
    },
    "cnn14": {"configuration_cnn14", "modeling_cnn14"},
    "mister_e": {
        *("configuration_mister_e", "modeling_mister_e", "pipeline_mister_e", "context", "cross_modal", "losses"),
    },
}
"""Files of each model family, which travel to the Hub with its checkpoints."""
TRAVELLING_IMPORTS = {"torch", "transformers", "numpy", "soundfile", "soxr", "safetensors", "huggingface_hub"}
LAYERS = (
    {"cli"},
    {"app", "service", "reader_study"},
    {"monitoring"},
    {"hub", "convert", "inference", "evaluation", "training"},
    {"data", "metrics", "plotting"},
    {"models"},
    {"files", "fields", "extras", ""},
)
"""Packages from the top down; the last one holds `files.py`, `fields.py`, `extras.py` constants of `__init__`."""


def modules() -> dict[str, Path]:
    """The modules of the package by their dotted names, without the stand-alone modules of `evaluate`."""
    actual = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[0] == "metrics" and len(parts) == 3:
            continue
        actual[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return actual


def imports(path: Path, at_runtime: bool = True) -> Iterator[ast.Import | ast.ImportFrom]:
    """Imports anywhere in a file, but for those under `if TYPE_CHECKING`."""
    skipped = set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and getattr(node.test, "id", None) == "TYPE_CHECKING" and at_runtime:
            skipped |= {id(inner) for inner in ast.walk(node)}
        if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in skipped:
            yield node


def own_imports(name: str, path: Path) -> set[str]:
    """Modules of the package that a module imports, relatively or by the package's name."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    known, actual = modules(), set()
    for node in imports(path):
        if isinstance(node, ast.Import):
            targets = [alias.name.removeprefix("modeling_sparse_merit").removeprefix(".") for alias in node.names]
            actual |= {target for target in targets if target in known and "modeling_sparse_merit" in ast.dump(node)}
            continue
        if node.level:
            parts = package.split(".") if package else []
            base = ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])
        elif (node.module or "").split(".")[0] == "modeling_sparse_merit":
            base = node.module.removeprefix("modeling_sparse_merit").removeprefix(".")
        else:
            continue
        inner = {f"{base}.{alias.name}".removeprefix(".") for alias in node.names} & set(known)
        actual |= inner or {base}
    return actual - {name}


def layer(name: str) -> int:
    package = name.split(".")[0]
    return next(place for place, layer in enumerate(LAYERS) if package in layer)


def test_every_package_is_known_and_imports_point_down():
    upward = [
        f"{name} -> {target}"
        for name, path in modules().items()
        for target in own_imports(name, path)
        if layer(name) > layer(target)
    ]
    assert upward == []


def test_there_is_no_circle_of_imports():
    graph = {name: own_imports(name, path) for name, path in modules().items()}
    finished, circles = set(), []

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            circles.append(" -> ".join((*path[path.index(name) :], name)))
        elif name not in finished:
            for target in sorted(graph.get(name, ())):
                visit(target, (*path, name))
            finished.add(name)

    for name in graph:
        visit(name, ())
    assert circles == []


@pytest.mark.parametrize("family", TRAVELLING)
def test_the_folder_of_a_family_is_flat_closed_and_complete(family):
    folder = PACKAGE / "models" / family
    assert {path.stem for path in folder.glob("*.py")} == {*TRAVELLING[family], "__init__"}
    assert not [path for path in folder.iterdir() if path.is_dir() and path.name != "__pycache__"]
    for path in folder.glob("*.py"):
        for node in imports(path, at_runtime=False):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module]
            if isinstance(node, ast.ImportFrom) and node.level:
                where = f"{path.name}, line {node.lineno}"
                assert node.level == 1 and node.module in TRAVELLING[family], f"{where}: imports from elsewhere"
                assert node.lineno == node.end_lineno, f"{where}: transformers follows imports of one line alone"
                continue
            third_party = {name.split(".")[0] for name in names} - sys.stdlib_module_names
            assert third_party <= TRAVELLING_IMPORTS, f"{path.name} imports {third_party}"


def test_names_of_weights_and_keys_of_the_configuration_stay():
    contract = json.loads((CONTRACT / "embedded_checkpoint.json").read_text())
    with safe_open(TINY / "model.safetensors", "pt") as weights:
        assert {name: weights.get_slice(name).get_shape() for name in weights.keys()} == contract["state_dict"]
    assert sorted(json.loads((TINY / "config.json").read_text())) == contract["config"]
    assert sorted(SparseMeritConfig().to_dict()) == json.loads((CONTRACT / "default_config.json").read_text())


@pytest.mark.parametrize("name", ["mask_lstm", "wave_u_net", "cmgan", "cnn14"])
def test_names_of_weights_and_configurations_of_models_of_sounds_stay(name):
    contract = json.loads((CONTRACT / "sounds.json").read_text())[name]
    if name == "cnn14":
        model = Cnn14ForAudioClassification(Cnn14Config(channels=[2, 4], hidden_size=4))
    else:
        model = AudioEnhancerModel(AudioEnhancerConfig(structure=name, channels=4, depth=1))
    assert {key: list(weight.shape) for key, weight in model.state_dict().items()} == contract["state_dict"]
    assert sorted(type(model.config)().to_dict()) == contract["config"]


def test_fields_of_results_stay(tmp_path):
    recording = Recording(tmp_path / "a.wav", tmp_path / "a.enhanced.wav")
    with Results(tmp_path, Settings("model", {})) as results:
        results.add(recording, {"file": "a.wav", "error": "why"})
        (record,) = results.records([recording])
    assert list(record) == ["file", "error", "schema_version", "model", "settings_hash", "resume"]
    assert list(record["resume"]) == ["path", "bytes", "modified_ns", "base", "target", "lines"]


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*.py")), ids=lambda path: path.stem)
def test_benchmarks_fit_the_package(path):
    importlib.import_module(f"benchmarks.{path.stem}")
