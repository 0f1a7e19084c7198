# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The model card of a checkpoint: the template `model_card.md`, filled from the files next to the weights. That of a
speech-text model, `speech_text_card.md`, and that of a conversation model, `conversation_card.md`, extend it.

    config.json, preprocessor_config.json, model.safetensors    the checkpoint
    training_data.yaml    corpora and their licences, written by hand
    training.yaml         settings of the training
    dev_results.json      dev scores stored by the training
    evaluation.json       the `results.json` of `sparse-merit evaluate`
    calibration.json      temperature and thresholds, written by `sparse-merit calibrate`
    examples.json         outputs for example recordings, see `write_examples`

All numbers come from these files. For each missing file, the card contains a sentence that says so.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from typing import Any

import jinja2
import yaml
from huggingface_hub import EvalResult, ModelCardData

from ..data.licences import licence_metadata
from ..files import sha256_of_file
from ..metrics import SCORE_TITLES
from ..models.mister_e.configuration_mister_e import MisterEConfig
from ..models.sparse_merit.calibration import CALIBRATION, read_calibration_file
from ..models.sparse_merit.clip_tasks import define_tasks
from ..models.sparse_merit.configuration_sparse_merit import SparseMeritConfig
from ..models.sparse_merit.configuration_speech_text import SpeechTextConfig
from ..models.sparse_merit.modeling_sparse_merit import count_parameters
from ..models.sparse_merit.sources import HUB_ID
from ..models.sparse_merit.task_files import read_tasks
from ..models.sparse_merit.tasks import EMOTION, ENHANCEMENT, RegressionTask, Task, further_tasks, tasks_of_kind
from .card_mark import marked
from .conversation_card import describe_conversation
from .files import read_json, read_model_config, weights_sha256
from .measured import read_results
from .speech_text_card import base_models_of, describe_speech_text, speech_text_tags

WEIGHTS, CLASSIFIER, TEXT_CLASSIFIER = "model.safetensors", "audio-classification", "text-classification"
EVALUATION, EXAMPLES = "evaluation.json", "examples.json"
TEMPLATES = {
    SparseMeritConfig: "model_card.md",
    SpeechTextConfig: "speech_text_card.md",
    MisterEConfig: "conversation_card.md",
}
"""Templates in this folder; `model_card.md` may also be at the top of the repository."""
RECORDS = ("training_data.yaml", "training.yaml", "dev_results.json", EVALUATION, CALIBRATION)
"""Files that a card is rendered from, in addition to the checkpoint."""
TAGS = ("audio", "speech", "speech-enhancement", "speech-emotion-recognition", "mixture-of-experts")
TASK_TAGS = {ENHANCEMENT: "speech-enhancement", EMOTION: "speech-emotion-recognition"}
EMOTION_METRICS = (
    ("f1", "macro-F1", "macro_f1"),
    ("recall", "UAR", "unweighted_average_recall"),
    ("accuracy", "accuracy", "accuracy"),
)
"""Identifier on the Hub, title and field of each emotion score."""
ECE = "expected_calibration_error"
ENCODER_FIELDS = ("name", "license", "copyright", "source")
MEASURES = {
    "pesq_wb": ("pesq", 2),
    "stoi": ("stoi", 3),
    "segmental_snr": ("segmental_snr", 2),
    "si_sdr": ("si_sdr", 2),
    "pesq_nb": ("pesq_nb", 2),
    "estoi": ("estoi", 3),
    "csig": ("csig", 2),
    "cbak": ("cbak", 2),
    "covl": ("covl", 2),
}
"""Identifier on the Hub and number of decimals of each speech measure."""
DEV_SCORES = ("weighted_f1", "macro_f1", "uar", "segmental_snr", "segmental_snr_gain", "si_sdr", "si_sdr_gain")
MEASURED_PACKAGES = ("modeling-sparse-merit", "torch", "transformers", "pesq", "pystoi")
LANGUAGES = {"de": "German", "en": "English", "es": "Spanish", "fr": "French", "pl": "Polish", "zh": "Chinese"}


def render_card(checkpoint_dir: str | os.PathLike, records_dir: str | os.PathLike | None = None) -> str:
    """Fills `model_card.md` for a checkpoint from the files in its folder.

    Args:
        checkpoint_dir: the checkpoint.
        records_dir: folder of the other files, such as `evaluation.json`; that of the checkpoint by default.

    Returns:
        The text of the repository's `README.md`. Its last line, a comment, identifies the weights and reveals later
        edits.

    Raises:
        FileNotFoundError: the checkpoint is missing.
        ValueError: a file is damaged or lacks a field, or its results were measured with other weights.
    """
    folder = Path(checkpoint_dir)
    records = folder if records_dir is None else Path(records_dir)
    try:
        facts = _facts(folder, records)
        # a missing field must raise an error instead of leaving a gap in a sentence
        environment = jinja2.Environment(
            loader=jinja2.FileSystemLoader([Path(__file__).parent, Path(__file__).parents[2]]),
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        text = environment.get_template(facts["template"]).render(facts)
    except (KeyError, TypeError, jinja2.UndefinedError) as error:
        raise ValueError(
            f"A file in {folder} lacks a field that the card needs ({error}). Write the file again."
        ) from error
    existing = [path for path in (*(records / name for name in RECORDS), folder / EXAMPLES) if path.exists()]
    return marked(text, weights_sha256(folder), [path.name for path in existing])


def write_examples(checkpoint_dir: str | os.PathLike, recordings: Iterable[str | os.PathLike]) -> Path:
    """Runs the model on recordings and writes `examples.json`, which the card shows as its `widget`.

    Args:
        checkpoint_dir: folder of a checkpoint with the emotion task.
        recordings: audio files in this folder, so that they are pushed with it.

    Returns:
        The path of `examples.json`.

    Raises:
        ValueError: a recording is outside the folder or cannot be read, or the model has no emotion task.
    """
    from ..models.sparse_merit.pipeline_sparse_merit import SpeechEnhancementAndEmotionPipeline

    folder, examples = Path(checkpoint_dir).resolve(), []
    pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(str(folder))
    for recording in (Path(path).resolve() for path in recordings):
        if folder not in recording.parents:
            raise ValueError(f"{recording} is outside {folder}: copy it there, so that it is pushed too.")
        emotion = pipe(str(recording), tasks=(EMOTION,))[EMOTION]
        examples.append({"file": recording.relative_to(folder).as_posix(), EMOTION: emotion})
    path = folder / EXAMPLES
    content = {"model": {"sha256": _sha256(folder / WEIGHTS)}, "examples": examples}
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return path


def _facts(folder: Path, records: Path) -> dict[str, Any]:
    """The variables of the template."""
    config, data = read_json(folder / "config.json"), read_training_data(records / "training_data.yaml")
    corpora = data.get("corpora") or []
    training = _read_text(records / "training.yaml")
    dev_path = records / "dev_results.json"
    evaluation = _read_measured(records / EVALUATION, folder)
    metadata = _metadata(folder, config, data, training, evaluation)
    model_config = read_model_config(folder)
    is_conversation = isinstance(model_config, MisterEConfig)
    tasks = define_tasks([EMOTION], None) if is_conversation else model_config.task_definitions
    dev_results = read_json(dev_path) if dev_path.exists() else None
    if isinstance(model_config, MisterEConfig):
        own = describe_conversation(model_config, data)
    elif isinstance(model_config, SpeechTextConfig):
        own = describe_speech_text(folder, model_config, data, evaluation)
    else:
        own = _describe_merit(folder, model_config)
    return {
        **own,
        "template": TEMPLATES[type(model_config)],
        "metadata": metadata.to_yaml(),
        "name": metadata.model_name,
        "repository": f"USER/{metadata.model_name}",
        "tasks": list(tasks),
        "further_tasks": {name: tasks[name].describe(model_config) for name in further_tasks(tasks)},
        "filed_tasks": read_tasks(folder),
        "ratings": _ratings(tasks, corpora, evaluation),
        "labels": [config["id2label"][index] for index in sorted(config["id2label"], key=int)],
        "config": config,
        "data": {"limits": {}, **{name: data.get(name) for name in ("notes", "encoder")}, **data, "corpora": corpora},
        "license": metadata.license,
        "is_non_commercial": "-nc" in (metadata.license or ""),
        "acted": _listed(corpus["name"] for corpus in corpora if corpus.get("acted")),
        "languages": _listed(LANGUAGES.get(code, code) for code in metadata.language or []),
        "base_model": metadata.base_model,
        "is_fine_tuned": _is_fine_tuned(training),
        "training": training,
        "dev_results": dev_results,
        "dev_scores": [*DEV_SCORES, *_task_scores(dev_results, tasks)],
        "evaluation": evaluation,
        "calibration": read_own_calibration(records / CALIBRATION, folder),
        "test_set": evaluation and _test_set(evaluation),
        "has_ece": evaluation is not None and any(ECE in (each[EMOTION] or {}) for each in evaluation["conditions"]),
        "groups": _group_tables(evaluation) if evaluation else [],
        "versions": evaluation and _listed(_versions(evaluation)),
        "measures": _measures(evaluation) if evaluation else {},
        "score": _score,
        "listed": _listed,
        "condition_cells": _condition_cells,
    }


def _describe_merit(folder: Path, config: SparseMeritConfig) -> dict[str, Any]:
    """The variables of the template that differ for a speech-text model, see `describe_speech_text`."""
    return {
        "sampling_rate": read_json(folder / "preprocessor_config.json")["sampling_rate"],
        "parameters": count_parameters(config),
        "normalizes_over_time": config.feat_extract_norm == "group",
        "input_name": "a voice",
        "unit": "recording",
        "material": "speech",
        "with_text": "",
    }


def _ratings(
    tasks: Mapping[str, Task], corpora: Sequence[dict[str, Any]], evaluation: dict[str, Any] | None
) -> dict[str, list[dict[str, str]]]:
    """Name, range, CCC in the first condition, and training data of each rating, by task."""
    measured = evaluation["conditions"][0].get("tasks", {}) if evaluation else {}

    def describe(name: str, task: RegressionTask, rating: str) -> dict[str, str]:
        score = measured.get(name, {}).get(f"ccc_{rating}")
        counts = {corpus["name"]: corpus.get("rated_clips", {}).get(name, {}).get(rating) for corpus in corpora}
        rated = _listed(f"{corpus} ({count} clips)" for corpus, count in counts.items() if count)
        return {
            "name": rating,
            "range": f"{task.minimum:g} to {task.maximum:g}",
            "ccc": _score(score["mean"], 3, score["interval"]) if score else "not measured",
            "data": rated or "not recorded",
        }

    regressions = {name: task for name, task in tasks.items() if isinstance(task, RegressionTask)}
    return {name: [describe(name, task, rating) for rating in task.outputs] for name, task in regressions.items()}


def _task_scores(dev_results: dict[str, Any] | None, tasks: Mapping[str, Task]) -> list[str]:
    """Names of the dev scores of further tasks, such as "attributes/ccc_valence"."""
    scores = dev_results["dev"] if dev_results else {}
    return [name for name in scores if name.partition("/")[0] in further_tasks(tasks)]


def _read_text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def _read_measured(path: Path, checkpoint: Path) -> dict[str, Any] | None:
    """Reads results, and checks that they belong to the weights; None without such a file."""
    if not path.exists():
        return None
    return read_results(path, _sha256(checkpoint / WEIGHTS))


def read_own_calibration(path: Path, checkpoint: Path) -> dict[str, Any] | None:
    """Reads a calibration, and checks that it belongs to the weights; None without such a file.

    Args:
        path: a `calibration.json`.
        checkpoint: folder of the weights.

    Raises:
        FileNotFoundError: the weights are missing.
        ValueError: the file is damaged, or was fitted for other weights.
    """
    if not path.exists():
        return None
    content, sha256 = read_calibration_file(path), _sha256(checkpoint / WEIGHTS)
    if content["model"]["sha256"] != sha256:
        raise ValueError(
            f"{path} was fitted for other weights: expected the SHA-256 {sha256}, but it states "
            f"{content['model']['sha256']}. Calibrate these weights with `sparse-merit calibrate`, or remove the file."
        )
    return content


def _sha256(weights: Path) -> str:
    if not weights.exists():
        raise FileNotFoundError(f"{weights} is missing; its SHA-256 is needed to check that the results belong to it.")
    return sha256_of_file(weights)


def read_training_data(path: Path) -> dict[str, Any]:
    """Reads the description of the training data.

    Args:
        path: a YAML file with any of the fields `name`, `license` (its identifier on the Hub), `base_model`,
            `notes`, `limits` ({title: text}), `encoder` (with `name`, `license`, `copyright`, `source`, optionally
            `license_text`), `encoders` of a speech-text or conversation model (`{"speech" | "text": {name, license,
            source}}`, the last one optional) and `corpora`, each with `name`, `use`, `license` and optional fields,
            such as `commercial_use`, and `rated_clips`, `{task: {rating: number of clips}}`.

    Raises:
        ValueError: the file is invalid, or an encoder or a corpus lacks a field.
    """
    try:
        content = yaml.safe_load(_read_text(path) or "{}")
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold fields such as `corpora: [...]`, not {content!r}.")
    encoder = content.get("encoder") or {}
    if encoder and (missing := [name for name in ENCODER_FIELDS if not encoder.get(name)]):
        raise ValueError(f"{path}: the encoder lacks {missing}.")
    for modality, encoder in (content.get("encoders") or {}).items():
        if missing := [name for name in ("name", "license") if not encoder.get(name)]:
            raise ValueError(f"{path}: the {modality} encoder lacks {missing}.")
    for corpus in content.get("corpora") or []:
        missing = [field for field in ("name", "use", "license") if not corpus.get(field)]
        if missing:
            raise ValueError(f"{path}: the corpus {corpus} lacks {missing}.")
        allowed = corpus.get("commercial_use")
        corpus["commercial_use"] = {True: "yes", False: "no"}.get(
            allowed, allowed
        )  # YAML reads yes and no as booleans
    return content


def _metadata(
    folder: Path, config: dict[str, Any], data: dict[str, Any], training: str | None, evaluation: dict[str, Any] | None
) -> ModelCardData:
    """The metadata of the card, without unknown fields."""
    corpora = data.get("corpora") or []
    pipeline_tag = pipeline_tag_of(config)
    classifier = TEXT_CLASSIFIER if pipeline_tag == TEXT_CLASSIFIER else CLASSIFIER
    results = _eval_results(evaluation, classifier) if evaluation else []
    examples = _read_measured(folder / EXAMPLES, folder)
    widget: dict[str, Any] = {"widget": [_widget(example) for example in examples["examples"]]} if examples else {}
    return ModelCardData(
        model_name=data.get("name") or folder.resolve().name,
        pipeline_tag=pipeline_tag,
        library_name="transformers",
        base_model=data.get("base_model") or _started_from(training) or base_models_of(data),
        datasets=_distinct(corpus.get("id") for corpus in corpora),
        language=_distinct(corpus.get("language") for corpus in corpora),
        metrics=_distinct(result.metric_type for result in results),
        tags=tags_of(config),
        eval_results=results or None,
        **_licence(data.get("license")),
        **widget,
    )


def _licence(stated: str | None) -> dict[str, Any]:
    """The fields of a licence: an identifier of the Hub as it is, and the identifier of a licence in other words."""
    if stated is None or re.fullmatch(r"[a-z0-9.-]+", stated):
        return {"license": stated}
    fields = licence_metadata(stated)
    return fields | {"license": fields["license"][0]} if fields["license"] != "other" else fields


def pipeline_tag_of(config: dict[str, Any]) -> str:
    """The Hub's task of a model; `config` is the content of its config.json."""
    if config.get("model_type") == MisterEConfig.model_type:
        return CLASSIFIER if config["speech_size"] else TEXT_CLASSIFIER
    if config.get("model_type") == SpeechTextConfig.model_type:
        return CLASSIFIER if config.get("speech_config") else TEXT_CLASSIFIER
    tasks = define_tasks(config["tasks"], config.get("clip_tasks"))
    return "audio-to-audio" if tasks_of_kind(tasks, "waveform") == list(tasks) else CLASSIFIER


def tags_of(config: dict[str, Any]) -> list[str]:
    """The tags of a model on the Hub; `config` is the content of its config.json."""
    if config.get("model_type") == MisterEConfig.model_type:
        parts = {"speech_config": config["speech_size"], "text_config": config["text_size"]}
        return [*speech_text_tags(parts), "emotion-recognition-in-conversation", "mixture-of-experts"]
    if config.get("model_type") == SpeechTextConfig.model_type:
        return speech_text_tags(config)
    absent = {tag for task, tag in TASK_TAGS.items() if task not in config["tasks"]}
    encoder = "whisper" if config.get("feature_encoder") == "whisper" else "wavlm"
    return [*(tag for tag in TAGS if tag not in absent), encoder]


def _started_from(training: str | None) -> str | None:
    """The model that was fine-tuned, or the WavLM that the training started from, if it is on the Hub."""
    settings = yaml.safe_load(training or "") or {}
    name = str(settings.get("model") or settings.get("wavlm"))
    return name if HUB_ID.fullmatch(name) and not Path(name).exists() else None


def _is_fine_tuned(training: str | None) -> bool:
    """Whether the training started from a whole model, not from an encoder."""
    return bool((yaml.safe_load(training or "") or {}).get("model"))


def _widget(example: dict[str, Any]) -> dict[str, Any]:
    return {"src": example["file"], "example_title": Path(example["file"]).stem, "output": example[EMOTION]}


def _eval_results(evaluation: dict[str, Any], classifier: str) -> list[EvalResult]:
    """The mean scores of every condition, unrounded; `classifier` is the Hub's task for emotions and ratings."""
    results = []
    for condition in evaluation["conditions"]:
        scores = [
            (classifier, metric, title, condition[EMOTION][field])
            for metric, title, field in EMOTION_METRICS
            if condition[EMOTION]
        ]
        scores += [
            ("audio-to-audio", metric, title, measured["mean"])
            for name, (title, metric, _) in _measures(evaluation).items()
            if (measured := condition[ENHANCEMENT][name]["enhanced"])
        ]
        scores += [
            (classifier, "ccc", f"CCC of {field.removeprefix('ccc_')}", score["mean"])
            for task in condition.get("tasks", {}).values()
            for field, score in task.items()
            if field.startswith("ccc_")
        ]
        results += [
            _eval_result(evaluation, condition["condition"], *score) for score in scores if score[-1] is not None
        ]
    return results


def _measures(evaluation: dict[str, Any]) -> dict[str, tuple[str, str, int]]:
    """The computed ones of `MEASURES`."""
    computed = evaluation["conditions"][0][ENHANCEMENT]
    titles = {name: SCORE_TITLES[name][0].upper() + SCORE_TITLES[name][1:] for name in MEASURES}
    return {name: (titles[name], *shown) for name, shown in MEASURES.items() if name in computed}


def _group_tables(evaluation: dict[str, Any]) -> list[dict[str, Any]]:
    """Emotion recognition by groups of clips, such as corpora: one table for each kind of group."""
    conditions = [condition for condition in evaluation["conditions"] if condition.get("groups")]
    columns = ["noise", "SNR (dB)", "macro-F1", "UAR", "ECE", "clips", "speakers"]
    tables = []
    for kind in dict.fromkeys(kind for condition in conditions for kind in condition["groups"]):
        rows = [
            [name, *_condition_cells(condition).split(" | "), *_group_cells(scores)]
            for condition in conditions
            for name, scores in condition["groups"].get(kind, {}).items()
        ]
        rows.sort(key=itemgetter(0))
        tables.append({"title": kind, "columns": [kind, *columns], "rows": rows})
    return tables


def _group_cells(scores: dict[str, Any]) -> list[str]:
    """Scores of one group in one condition; the intervals are over speakers."""
    shown = ("macro_f1", "unweighted_average_recall", "expected_calibration_error")
    cells = [_score(scores.get(name), 3, scores.get(f"{name}_speaker_interval")) for name in shown]
    return [*cells, str(scores["clips"]), str(scores["speakers"])]


def _eval_result(
    evaluation: dict[str, Any], condition: str, task: str, metric: str, title: str, value: float
) -> EvalResult:
    datasets = _dataset_names(evaluation)
    return EvalResult(
        task_type=task,
        dataset_type="-".join(datasets),
        dataset_name=f"{_listed(datasets)}, {condition}",
        dataset_config=condition,
        dataset_split=_split(evaluation),
        metric_type=metric,
        metric_name=title,
        metric_value=value,
    )


def _dataset_names(evaluation: dict[str, Any]) -> list[str]:
    """Names of the test datasets, without the folders of the evaluating machine."""
    config = evaluation["config"]
    paths = config["speech"] or [config["test_set"]]
    return [re.split(r"[/\\]", path.rstrip("/\\"))[-1].split(".")[0] for path in paths]


def _test_set(evaluation: dict[str, Any]) -> str:
    split = _split(evaluation)
    return _listed(_dataset_names(evaluation)) + ("" if split is None else f", split `{split}`")


def _split(evaluation: dict[str, Any]) -> str | None:
    """The split of the speech datasets; None for a frozen test set, which is used entirely."""
    return evaluation["config"]["speech_split"] if evaluation["config"]["speech"] else None


def _versions(evaluation: dict[str, Any]) -> list[str]:
    versions = evaluation["versions"]
    return [f"{name} {versions[name]}" for name in MEASURED_PACKAGES if versions.get(name)]


def _condition_cells(condition: dict[str, Any]) -> str:
    """The first two cells of a row: noise pool with transmission, and SNR."""
    pool, level = (condition["pool"] or "none"), condition["snr_db"]
    after = f", {condition['transmission']}" if condition.get("transmission") else ""
    return f"{pool}{after} | {'–' if level is None else format(level, 'g')}"


def _score(value: float | None, decimals: int, interval: list[float] | None = None) -> str:
    """ "0.512 [0.430, 0.590]", or a dash if undefined."""
    if value is None:
        return "–"
    bounds = f" [{', '.join(_score(bound, decimals) for bound in interval)}]" if interval else ""
    return f"{value:z.{decimals}f}{bounds}"  # z: never "-0.00"


def _listed(names: Iterable[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    *head, last = list(names) or [""]
    return f"{', '.join(head)} and {last}" if head else last


def _distinct(values: Iterable[str | None]) -> list[str] | None:
    return list(dict.fromkeys(value for value in values if value)) or None
