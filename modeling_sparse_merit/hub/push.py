# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Pushing checkpoints and adapters to the Hub: a folder is checked, then published as a single commit."""

import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, ModelCard

from ..models.sparse_merit.calibration import CALIBRATION, checkpoint_sha256, read_calibration_file
from ..models.sparse_merit.sources import HUB_ID
from .adapter_card import ADAPTER_CONFIG, is_public, name_base
from .card_mark import read_mark
from .client import hub_errors, open_repository
from .conversation_card import unpublished_embedders
from .files import published_files, read_json, weights_sha256
from .measured import is_measured


def push_checkpoint(
    folder: str | os.PathLike,
    repo_id: str,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
    base: str | None = None,
) -> CommitInfo:
    """Publishes a checkpoint or adapters as a single commit.

    Other files in the repository are kept. Pushing again, after a failure or unchanged, is safe.

    Args:
        folder: a folder written by `sparse-merit export` or `save_pretrained`, with its card, or `best` of a training
            with adapters; see `check_checkpoint`.
        repo_id: `name/model`; the repository is created if missing.
        private: make the repository private; an error if it exists and is public.
        revision: branch to commit to, created if missing; `main` by default.
        token: access token with write access; by default that of HF_TOKEN or `hf auth login`.
        base: for adapters, the Hub id of the adapted checkpoint, which is written into the folder.

    Returns:
        The commit; its hash `oid` pins exactly these files: `from_pretrained(repo_id, revision=commit.oid)`.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: the folder is not ready to be published; the message lists all problems.
        HubError: the Hub is unreachable or refuses.
    """
    folder = Path(folder).expanduser()
    if base is not None:
        name_base(folder, base)
    check_checkpoint(folder)
    files = [CommitOperationAdd(path.relative_to(folder).as_posix(), str(path)) for path in published_files(folder)]
    with hub_errors(repo_id):
        api, repo_id = open_repository(repo_id, "model", private, revision, token)
        # a single commit of any size, while `HfApi.upload_folder` may split large folders
        return api.create_commit(repo_id, files, commit_message="Upload Sparse MERIT checkpoint", revision=revision)


def check_checkpoint(folder: Path) -> None:
    """Checks that a folder is a complete checkpoint that runs without this package, or complete adapters.

    Raises:
        FileNotFoundError: the folder does not exist.
        ValueError: the folder is incomplete; the message lists all problems.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder: give one written by `sparse-merit export`.")
    are_adapters = (folder / ADAPTER_CONFIG).exists()
    problems = [*_configuration_problems(folder, are_adapters)]
    problems += _weight_problems(folder, "adapter_model" if are_adapters else "model")
    problems += [*_card_problems(folder), *_measured_problems(folder)]
    if problems:
        raise ValueError(f"{folder} is not ready to be pushed: {'; '.join(problems)}.")


def _configuration_problems(folder: Path, are_adapters: bool) -> Iterator[str]:
    """Problems of the two configurations and of the code that they refer to; adapters use the code of their base."""
    from ..models.mister_e.configuration_mister_e import MisterEConfig
    from ..models.sparse_merit.configuration_sparse_merit import SparseMeritConfig
    from ..models.sparse_merit.configuration_speech_text import SpeechTextConfig
    from ..models.sparse_merit.processing_speech_text import PROCESSOR_FILE

    preparations = {
        SparseMeritConfig.model_type: ("preprocessor_config.json", "feature extractor"),
        SpeechTextConfig.model_type: (PROCESSOR_FILE, "processor"),
        MisterEConfig.model_type: (None, None),
    }
    config = _json_if_whole(folder / "config.json")
    model_type = str((config or {}).get("model_type"))
    name, part = preparations.get(model_type, preparations[SparseMeritConfig.model_type])
    preparation = {} if name is None else _json_if_whole(folder / name)
    if config is None:
        yield "config.json is missing or not valid JSON"
    elif model_type not in preparations:
        expected = " or ".join(map(repr, preparations))
        yield f"config.json has the model type {config.get('model_type')!r}, expected {expected}"
    elif not are_adapters and not config.get("auto_map"):
        yield "config.json has no auto_map, so others cannot load it: write it again with `sparse-merit export`"
    if preparation is None:
        yield f"{name} is missing or not valid JSON: save the {part} too"
    elif "text" in preparation.get("modalities", ()) and not (folder / "tokenizer_config.json").exists():
        yield "tokenizer_config.json is missing: save the processor too"
    if model_type == MisterEConfig.model_type:
        yield from _embedder_problems(folder)
    if are_adapters:
        yield from _base_problems(folder)
        return
    code = _code_files(folder, config or {}, preparation or {})
    missing = sorted(name for name in code if not (folder / name).exists())
    if missing:
        yield f"code that auto_map refers to is missing: {', '.join(missing)}"


def _embedder_problems(folder: Path) -> Iterator[str]:
    """Problems of the names of the models that the embeddings of a conversation model are from."""
    from ..models.mister_e.configuration_mister_e import MisterEConfig

    for modality, name in unpublished_embedders(MisterEConfig.from_pretrained(folder)).items():
        yield (
            f"the {modality} embeddings are from {name}, which is not on the Hub: push that model too, and export "
            f"again with --{modality}-model USER/MODEL"
        )


def _base_problems(folder: Path) -> Iterator[str]:
    """Problems of the name of the adapted checkpoint."""
    adapter = _json_if_whole(folder / ADAPTER_CONFIG)
    if adapter is None:
        yield f"{ADAPTER_CONFIG} is not valid JSON"
    elif not is_public(base := str(adapter.get("base_model_name_or_path"))):
        yield (
            f"the adapters belong to {base}, which is not on the Hub: push that checkpoint too and give its name with "
            "--base USER/MODEL, or push the merged checkpoint that `sparse-merit export` writes"
        )


def _json_if_whole(path: Path) -> dict[str, Any] | None:
    with suppress(OSError, ValueError):
        return read_json(path)
    return None


def _code_files(folder: Path, config: dict[str, Any], preparation: dict[str, Any]) -> set[str]:
    """The Python files needed for loading: those named in the configurations, and their imports."""
    from transformers.dynamic_module_utils import get_relative_imports

    pipelines = [pipeline["impl"] for pipeline in config.get("custom_pipelines", {}).values()]
    auto_maps = [*config.get("auto_map", {}).values(), *preparation.get("auto_map", {}).values()]
    # `name/repository--module.Class` is code of another repository
    waiting = {f"{name.split('.')[0]}.py" for name in [*auto_maps, *pipelines] if "--" not in name}
    files: set[str] = set()
    while waiting:
        name = waiting.pop()
        files.add(name)
        if (folder / name).exists():
            waiting |= {f"{module}.py" for module in get_relative_imports(folder / name)} - files
    return files


def _weight_problems(folder: Path, stem: str) -> Iterator[str]:
    """Problems of the weights, which are read one tensor at a time."""
    from safetensors import SafetensorError, safe_open

    from ..models.sparse_merit.modeling_sparse_merit import damaged_weights

    index = _json_if_whole(folder / f"{stem}.safetensors.index.json") or {}
    shards = sorted(set(index.get("weight_map", {}).values())) or [f"{stem}.safetensors"]
    for name in shards:
        if not (folder / name).is_file():
            yield f"{name} is missing"
            continue
        try:
            with safe_open(folder / name, "pt") as weights:
                damaged = damaged_weights((key, weights.get_tensor(key)) for key in weights.keys())
        except SafetensorError as error:
            yield f"{name} is damaged ({error})"
        else:
            if damaged:
                yield f"{name} holds NaN or Inf in {', '.join(damaged[:5])}"


def _card_problems(folder: Path) -> Iterator[str]:
    """Problems of the model card."""
    import yaml

    if not (folder / "README.md").is_file():
        yield f"README.md, the model card, is missing: `sparse-merit export DIR --model {folder}` writes one"
        return
    try:
        metadata = ModelCard.load(folder / "README.md").data.to_dict()
    except (ValueError, yaml.YAMLError) as error:
        yield f"the metadata of README.md is not valid YAML ({' '.join(str(error).split())})"
    else:
        if not metadata:
            yield "README.md, the model card, has no metadata: state at least the license"
        for base in _base_models(metadata):
            if not HUB_ID.fullmatch(base):
                yield f"the base_model of README.md is {base!r}: give its Hub id, name/model, or leave it out"


def _measured_problems(folder: Path) -> Iterator[str]:
    """Cards and results that describe other weights than those in the folder."""
    weights = weights_sha256(folder)
    mark = read_mark(folder / "README.md")
    if weights and mark is not None and mark.weights != weights:
        yield (
            f"README.md describes other weights (SHA-256 {mark.weights[:12]}, those in the folder {weights[:12]}): "
            "write a new card with `sparse-merit export`, or, if it applies to these weights, remove its last line"
        )
    for name in ("evaluation.json", "examples.json"):
        if weights and not is_measured(_json_if_whole(folder / name) or {}, weights):
            yield f"{name} belongs to other weights than {weights[:12]}: evaluate these weights, or remove it"
    if (folder / CALIBRATION).exists():
        yield from _calibration_problems(folder)


def _calibration_problems(folder: Path) -> Iterator[str]:
    """A calibration that is damaged, or was fitted for other weights; that of adapters needs their checkpoint."""
    try:
        stated = read_calibration_file(folder / CALIBRATION)["model"]["sha256"]
        if stated != checkpoint_sha256(str(folder)):
            yield f"{CALIBRATION} was fitted for other weights: calibrate these weights, or remove it"
    except (OSError, ValueError) as error:
        yield f"{CALIBRATION} cannot be checked ({' '.join(str(error).split())})"


def _base_models(metadata: dict[str, Any]) -> set[str]:
    """Models named in `base_model`, and in the tags that peft adds: `base_model:adapter:NAME`."""
    named = metadata.get("base_model") or []
    tagged = (re.match(r"base_model:\w+:(.+)", str(tag)) for tag in metadata.get("tags") or [])
    return {*([named] if isinstance(named, str) else map(str, named)), *(match[1] for match in tagged if match)}
