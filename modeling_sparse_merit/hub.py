# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The way to the Hugging Face Hub: a folder is checked, then published as a single commit, or not at all."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from huggingface_hub import CommitInfo, CommitOperationAdd, HfApi, ModelCard, constants, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, HTTPError, RepositoryNotFoundError

from . import __version__
from .decoding import audio_suffixes

# Exporting -----------------------------------------------------------------------------------------------------------

REQUIREMENTS = ("torch>=2.6", "transformers>=5.10,<6", "numpy>=1.26", "soundfile>=0.12.1", "soxr>=0.5")
"""What a checkpoint needs where this package is not installed."""

COMPANIONS = ("LICENSE", "README.md", "training_data.yaml", "training.yaml", "dev_results.json", "evaluation.json")
"""What may lie beside the weights and tell where they come from and how good they are; and `examples.json`."""


def export_checkpoint(
    model: str | os.PathLike, folder: str | os.PathLike, overwrite: bool = False, revision: str | None = None
) -> Path:
    """Writes a checkpoint that runs at others' without this package, ready for `push_checkpoint`.

    The folder holds the weights (the very bytes of `model.safetensors`, so that results which name their hash still
    hold), both configurations, all code, `handler.py`, `requirements.txt`, and what lies beside the weights: licence,
    measured results, examples. A model card is written where neither the folder nor the model has one.

    Args:
        model: folder or Hub id of a checkpoint.
        folder: where to; made where there is none. Files of other names, and its README.md, stay.
        overwrite: whether a checkpoint that is in the folder may be replaced.
        revision: the branch or commit of a model on the Hub; `main` by default.

    Returns:
        the folder.

    Raises:
        FileExistsError: the folder holds a checkpoint already, or is the model's own.
        OSError: nothing loadable is there.
        ValueError: the checkpoint holds another kind of model, lacks weights, or its weights are not finite; its
            results were measured with other weights; or its examples are no recordings in its folder.
    """
    from .pipeline_sparse_merit import SpeechEnhancementAndEmotionPipeline

    source, folder = _local_folder(model, revision), Path(folder).expanduser()
    _check_export_target(source, folder, overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(source, dtype="auto", device="cpu")
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as partial:
        complete = Path(partial) / folder.resolve().name  # the card takes its title from the folder's name
        pipe.save_pretrained(complete)
        _copy_companions(source, complete)
        _add_endpoint_files(complete)
        _move_files(complete, folder)
    return folder


def _local_folder(model: str | os.PathLike, revision: str | None) -> Path:
    """The folder of a checkpoint, downloaded where it is a Hub id."""
    folder = Path(model).expanduser()
    return folder if folder.is_dir() else Path(snapshot_download(str(model), revision=revision))


def _check_export_target(source: Path, folder: Path, overwrite: bool) -> None:
    if folder.resolve() == source.resolve():
        raise FileExistsError(f"{folder} is the model's own folder: give another one.")
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file: give a folder.")
    if not overwrite and ((folder / "config.json").exists() or any(folder.glob("*.safetensors"))):
        raise FileExistsError(f"{folder} holds a checkpoint already: give a new folder, or --overwrite.")


def _copy_companions(source: Path, target: Path) -> None:
    """Copies what lies beside the weights; and the weights, where they are in one file."""
    for name in ("model.safetensors", *COMPANIONS, "examples.json", *_example_recordings(source, target)):
        if (source / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            (target / name).unlink(
                missing_ok=True
            )  # a file made anew can be read by all; safetensors' only by its owner
            shutil.copyfile(source / name, target / name)


def _example_recordings(source: Path, target: Path) -> list[str]:
    """What `examples.json` names. Anybody may have written it, so it can name recordings in the folder and no more."""
    if not (source / "examples.json").exists():
        return []
    # in the Hub's cache, snapshots/COMMIT holds links to what lies in blobs
    home = source.resolve().parents[1] if source.resolve().parent.name == "snapshots" else source.resolve()
    names = [str(example["file"]) for example in read_json(source / "examples.json").get("examples", [])]
    for name in names:
        within = (source / name).resolve().is_relative_to(home)
        within = within and (target / name).resolve().is_relative_to(target.resolve())
        if not within or Path(name).suffix.lower() not in audio_suffixes():
            raise ValueError(f"{source / 'examples.json'} names {name!r}, which is no recording in this folder.")
    return names


def _add_endpoint_files(folder: Path) -> None:
    """Writes `handler.py` and `requirements.txt`, which an Inference Endpoint reads, and the card if there is none."""
    from .card import render_card

    shutil.copyfile(Path(__file__).with_name("handler.py"), folder / "handler.py")
    (folder / "requirements.txt").write_text("".join(f"{name}\n" for name in REQUIREMENTS), encoding="utf-8")
    if not (folder / "README.md").exists():
        (folder / "README.md").write_text(render_card(folder), encoding="utf-8")


def _move_files(source: Path, target: Path) -> None:
    """Moves everything, each file at once; a card that is there already stays."""
    for file in sorted(path for path in source.rglob("*") if path.is_file()):
        place = target / file.relative_to(source)
        if place.name != "README.md" or not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, place)


# Pushing -------------------------------------------------------------------------------------------------------------


HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")


class HubError(OSError):
    """The Hub could not be reached or said no; the message says which, and how to mend it."""


def push_checkpoint(
    folder: str | os.PathLike,
    repo_id: str,
    private: bool = False,
    revision: str | None = None,
    token: str | None = None,
) -> CommitInfo:
    """Publishes a checkpoint, or adapters, as one commit: all of it, or nothing.

    Files already in the repository stay, unless the folder holds newer ones. Pushing again after a failure, or
    unchanged, is safe.

    Args:
        folder: as `sparse-merit export` or `save_pretrained` writes it, its card included, or `best` of a training
            with adapters; see `check_checkpoint`.
        repo_id: `name/model`; the repository is made where there is none.
        private: make it private. Where there is a public repository already, this is an error.
        revision: the branch to commit to, made where there is none; `main` by default.
        token: with write access; the one of HF_TOKEN or `hf auth login` by default.

    Returns:
        the commit; its hash `oid` pins exactly these files: `from_pretrained(repo_id, revision=commit.oid)`.

    Raises:
        ValueError: the folder is not fit to be published.
        HubError: the Hub could not be reached or refuses.
    """
    folder = Path(folder).expanduser()
    check_checkpoint(folder)
    files = [CommitOperationAdd(path.relative_to(folder).as_posix(), str(path)) for path in published_files(folder)]
    with hub_errors(repo_id):
        api, repo_id = open_repository(repo_id, "model", private, revision, token)
        # `HfApi.upload_folder` may commit a large folder in several parts; this is one commit whatever its size
        return api.create_commit(repo_id, files, commit_message="Upload Sparse MERIT checkpoint", revision=revision)


def published_files(folder: Path) -> list[Path]:
    """All files below a folder, sorted, but nothing hidden (`.git`, `.env`) and no compiled Python."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in files if not any(map(_is_private, path.relative_to(folder).parts)))


def _is_private(part: str) -> bool:
    return part.startswith(".") or part == "__pycache__"


def check_checkpoint(folder: Path) -> None:
    """Checks that a folder is a whole checkpoint which runs at others' without this package, or whole adapters.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it is not; the message lists all that is wrong.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder: give one that `sparse-merit export` wrote.")
    are_adapters = (folder / "adapter_config.json").exists()
    problems = [*_configuration_problems(folder, are_adapters)]
    problems += _weight_problems(folder, "adapter_model" if are_adapters else "model")
    problems += _card_problems(folder)
    if problems:
        raise ValueError(f"{folder} is not fit to be pushed: {'; '.join(problems)}.")


def _configuration_problems(folder: Path, are_adapters: bool) -> Iterator[str]:
    """What is wrong with the two configurations and the code that they name; adapters run by that of their base."""
    from .configuration_sparse_merit import SparseMeritConfig

    config, extractor = (_json_if_whole(folder / name) for name in ("config.json", "preprocessor_config.json"))
    if config is None:
        yield "config.json is missing or no JSON"
    elif config.get("model_type") != SparseMeritConfig.model_type:
        expected = SparseMeritConfig.model_type
        yield f"config.json is of a model of type {config.get('model_type')!r}, expected {expected!r}"
    elif not are_adapters and not config.get("auto_map"):
        yield "config.json has no auto_map, so others cannot load it: write it anew with `sparse-merit export`"
    if extractor is None:
        yield "preprocessor_config.json is missing or no JSON: save the feature extractor too"
    if are_adapters:
        if _json_if_whole(folder / "adapter_config.json") is None:
            yield "adapter_config.json is no JSON"
        return
    code = _code_files(folder, config or {}, extractor or {})
    missing = sorted(name for name in code if not (folder / name).exists())
    if missing:
        yield f"the code that its auto_map names is missing: {', '.join(missing)}"


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it holds anything else.
    """
    if not path.exists():
        raise FileNotFoundError(f"There is no {path}: give a folder written by save_pretrained.")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no valid JSON ({error}). Write it anew.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected an object. Write it anew.")
    return content


def _json_if_whole(path: Path) -> dict[str, Any] | None:
    with suppress(OSError, ValueError):
        return read_json(path)
    return None


def _code_files(folder: Path, config: dict[str, Any], extractor: dict[str, Any]) -> set[str]:
    """The Python files that loading needs: those that the configurations name, and what they import in turn."""
    from transformers.dynamic_module_utils import get_relative_imports

    pipelines = [pipeline["impl"] for pipeline in config.get("custom_pipelines", {}).values()]
    auto_maps = [*config.get("auto_map", {}).values(), *extractor.get("auto_map", {}).values()]
    # `name/repository--module.Class` is code of another repository
    waiting = {f"{name.split('.')[0]}.py" for name in [*auto_maps, *pipelines] if "--" not in name}
    found: set[str] = set()
    while waiting:
        name = waiting.pop()
        found.add(name)
        if (folder / name).exists():
            waiting |= {f"{module}.py" for module in get_relative_imports(folder / name)} - found
    return found


def _weight_problems(folder: Path, stem: str) -> Iterator[str]:
    """What is wrong with the weights, which are read one tensor at a time."""
    from safetensors import SafetensorError, safe_open

    from .modeling_sparse_merit import damaged_weights

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
    """What is wrong with the model card."""
    import yaml

    if not (folder / "README.md").is_file():
        yield "README.md, the model card, is missing"
        return
    try:
        metadata = ModelCard.load(folder / "README.md").data.to_dict()
    except (ValueError, yaml.YAMLError) as error:
        yield f"the head of README.md is no YAML ({' '.join(str(error).split())})"
    else:
        if not metadata:
            yield "README.md, the model card, has no metadata at its head: state at least the license"
        for base in _base_models(metadata):
            if not HUB_ID.fullmatch(base):
                yield f"the base_model of README.md is {base!r}: name it as on the Hub, name/model, or leave it out"


def _base_models(metadata: dict[str, Any]) -> set[str]:
    """What a card names in `base_model`, and in the tags that peft adds: `base_model:adapter:NAME`."""
    named = metadata.get("base_model") or []
    tagged = (re.match(r"base_model:\w+:(.+)", str(tag)) for tag in metadata.get("tags") or [])
    return {*([named] if isinstance(named, str) else map(str, named)), *(match[1] for match in tagged if match)}


def open_repository(
    repo_id: str, kind: str, private: bool = False, revision: str | None = None, token: str | None = None
) -> tuple[HfApi, str]:
    """Makes a repository and a branch of it where they are missing.

    Args:
        repo_id: with or without the name of its owner, who then is the token's.
        kind: `"model"` or `"dataset"`.
        private, revision, token: as for `push_checkpoint`.

    Returns:
        the client, and the repository's full name.

    Raises:
        HubError: it is to be private, but is there already and is public.
    """
    api = HfApi(token=token, library_name="modeling-sparse-merit", library_version=__version__)
    repo_id = api.create_repo(repo_id, repo_type=kind, private=private or None, exist_ok=True).repo_id
    if private and not api.repo_info(repo_id, repo_type=kind).private:
        raise HubError(f"{repo_id} exists and is public: name another repository, or make it private first.")
    if revision is not None and not revision.startswith("refs/pr/"):
        api.create_branch(repo_id, repo_type=kind, branch=revision, exist_ok=True)
    return api, repo_id


@contextmanager
def hub_errors(repo_id: str) -> Iterator[None]:
    """Turns what the client raises about the network and the Hub's answers into a `HubError` that says what to do."""
    try:
        yield
    except HFValidationError as error:
        raise HubError(f"{repo_id!r} cannot be the name of a repository: {error}") from error
    except HTTPError as error:
        raise HubError(_explain(error, repo_id)) from error
    except RuntimeError as error:  # an upload that fails comes as one, "caused" by what went wrong
        if not isinstance(error.__cause__, HTTPError):
            raise
        raise HubError(_explain(error.__cause__, repo_id)) from error


def _explain(error: BaseException, repo_id: str) -> str:
    """What went wrong and how to mend it, in one line."""
    if not isinstance(error, HfHubHTTPError):
        reason = " ".join(str(error).split()) or type(error).__name__
        return (
            f"The connection to {constants.ENDPOINT} broke while pushing to {repo_id} ({reason}). A push shows only "
            "once it is complete, so nothing is half-published: try again."
        )
    status, said = error.response.status_code, error.server_message or error.response.reason_phrase
    if status == 401 and "Repository not found" not in str(said):
        return (
            f"The Hub refuses the token ({status}: {said}): make one with write access and give it by --token or "
            "HF_TOKEN, or run `hf auth login`."
        )
    if isinstance(error, RepositoryNotFoundError):
        return f"The Hub has no repository {repo_id}, or this token may not see it ({status}: {said}): check its name."
    if status == 403:
        return (
            f"This token may not write to {repo_id} ({status}: {said}): name a repository of your own account or "
            "organisation, or use a token with write access."
        )
    return f"The Hub refuses the push to {repo_id} ({status}: {said})."
