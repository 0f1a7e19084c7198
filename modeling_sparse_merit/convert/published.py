# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""
Converts the published weights, in the file layout of their release, to a checkpoint of this package: names,
configuration, input statistics. Reading them never executes code: weights are loaded with `weights_only`, the pickle
by an unpickler that accepts two floats only, and the Python expression by a dedicated parser.
"""

import json
import math
import pickle
import re
import struct
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download

from ..files import check_replaceable, replacing_folder
from ..models.sparse_merit.adapters import load_merged, read_adapter_config
from ..models.sparse_merit.audio import load_audio
from ..models.sparse_merit.configuration_sparse_merit import SparseMeritConfig
from ..models.sparse_merit.feature_extraction_sparse_merit import SparseMeritFeatureExtractor
from ..models.sparse_merit.modeling_sparse_merit import SparseMeritForSpeechEnhancementAndEmotion, damaged_weights
from ..models.sparse_merit.pretrained import SUPPORTED
from ..models.sparse_merit.task_config import PUBLISHED_LABELS

MULTITASK = "multitask"
STATISTICS_FILE = "train_norm_stat.pkl"
DIVISOR_FLOOR = 1e-8  # the published code divides by std + 1e-8
MAX_CONV_LAYERS = 64
MAX_STATISTICS_BYTES = 1024

ENCODER_NAMES = (
    (r"^mask_emb$", "masked_spec_embed"),
    (r"^post_extract_proj\.", "feature_projection.projection."),
    (r"^layer_norm\.", "feature_projection.layer_norm."),
    (r"conv_layers\.(\d+)\.0\.", r"conv_layers.\1.conv."),
    (r"conv_layers\.(\d+)\.2\.(?:1\.)?", r"conv_layers.\1.layer_norm."),
    (r"^encoder\.pos_conv\.0\.weight_g$", "encoder.pos_conv.0.parametrizations.weight.original0"),
    (r"^encoder\.pos_conv\.0\.weight_v$", "encoder.pos_conv.0.parametrizations.weight.original1"),
    (r"^encoder\.pos_conv\.0\.", "encoder.pos_conv_embed.conv."),
    (r"\.self_attn\.grep_a$", ".attention.gru_rel_pos_const"),
    (r"\.self_attn\.grep_linear\.", ".attention.gru_rel_pos_linear."),
    (r"\.self_attn\.relative_attention_bias\.", ".attention.rel_attn_embed."),
    (r"\.self_attn_layer_norm\.", ".layer_norm."),
    (r"\.self_attn\.", ".attention."),
    (r"\.fc1\.", ".feed_forward.intermediate_dense."),
    (r"\.fc2\.", ".feed_forward.output_dense."),
)
INTEGRATION_NAMES = (
    (r"^layer_weights$", "layer_weights.weight"),
    (r"^experts\.(\d+)\.weights$", r"experts.\1.weight"),
    (r"\.fc1\.", ".input_dense."),
    (r"\.fc2\.", ".output_dense."),
    (r"^gates\.0\.fc\.", "routers.enhancement."),
    (r"^gates\.1\.fc\.", "routers.emotion."),
)
POOLING_NAMES = ((r"^attention$", "score.weight"), (r"^sap_linear\.", "dense."))
CLASSIFIER_NAMES = ((r"^fc\.0\.0\.", "dense."), (r"^fc\.0\.1\.", "layer_norm."), (r"^out\.0\.", "classifier."))
ENHANCEMENT_NAMES = (
    (r"^lstm_enc\.0\.", "input_dense."),
    (r"^lstm_enc\.1\.blstm\.(\w+)_l(\d+)_reverse$", r"lstm.backward_layers.\2.\1_l0"),
    (r"^lstm_enc\.1\.blstm\.(\w+)_l(\d+)$", r"lstm.forward_layers.\2.\1_l0"),
    (r"^lstm_enc\.2\.", "output_dense."),
)
WEIGHTED_SUM_NAMES = (
    (r"^weights$", "layer_weights.enhancement.weight"),
    (r"^layer_norm\.(\d+)\.", r"layer_norms.enhancement.\1."),
)
ENCODER_FIELDS = {
    "encoder_layers": "num_hidden_layers",
    "encoder_embed_dim": "hidden_size",
    "encoder_ffn_embed_dim": "intermediate_size",
    "encoder_attention_heads": "num_attention_heads",
    "layer_norm_first": "do_stable_layer_norm",
    "conv_bias": "conv_bias",
    "conv_pos": "num_conv_pos_embeddings",
    "conv_pos_groups": "num_conv_pos_embedding_groups",
    "num_buckets": "num_buckets",
    "max_distance": "max_bucket_distance",
    "dropout": "hidden_dropout",
    "attention_dropout": "attention_dropout",
    "dropout_input": "feat_proj_dropout",
}


@dataclass(frozen=True)
class PublishedCheckpoint:
    """
    The paths of the files of a published checkpoint.

    Attributes:
        folder: folder of `final_ssl.pt`, `final_pool.pt`, `final_ser.pt`, `final_se.pt` and the integration file, each
            a {"model": state dict, "optimizer": ...}.
        wavlm: the WavLM checkpoint that the encoder was initialised from, {"cfg": sizes, "model": state dict}.
        statistics: the pickled mean and standard deviation of the training corpus, if released.
        variant: None for `final_mmoe.pt`; NAME for `variant_NAME_mmoe.pt`; "multitask" for the naive multi-task
            enhancement model, whose weighted sum of layers is in `final_se.pt`.
    """

    folder: Path
    wavlm: Path
    statistics: Path | None
    variant: str | None = None

    def integration_weights(self) -> dict[str, torch.Tensor] | None:
        """The weights of experts and routers; None for the naive multi-task model."""
        if self.variant == MULTITASK:
            return None
        return read_weights(self.folder / (f"variant_{self.variant}_mmoe.pt" if self.variant else "final_mmoe.pt"))


def convert(
    source: str | Path,
    target: str | Path,
    labels: Iterable[str] | None = None,
    statistics: tuple[float, float] | None = None,
    variant: str | None = None,
    router: str | None = None,
    folder: str | None = None,
    overwrite: bool = False,
    num_layers: int | None = None,
) -> SparseMeritForSpeechEnhancementAndEmotion:
    """
    Converts weights to a checkpoint of this package, with model and feature extractor.

    Args:
        source: Hub id or local folder of a checkpoint in the published layout (all its weights are converted), of a
            WavLM, Whisper, HuBERT or wav2vec 2.0 in the layout of `transformers` (it becomes the encoder; experts,
            routers and heads are initialised), or of adapters written by `train_accelerate.py` (they are merged into
            their model).
        target: folder to write, atomically.
        labels: emotions in the order of the classifier's outputs; angry, sad, happy, neutral by default.
        statistics: mean and standard deviation of the samples of the training corpus; by default those of the release
            or, for an encoder, the normalisation of its feature extractor: per recording, or none.
        variant: for published weights, see [`PublishedCheckpoint`].
        router: "sparse" or "dense", which cannot be derived from the weights; by default according to the name of the
            variant, else sparse.
        folder: for published weights, the subfolder of `final_ssl.pt` in the source, if there are several.
        overwrite: replace an existing checkpoint in `target`.
        num_layers: for an encoder, the number of layers to keep; all by default.

    Raises:
        OSError: the source or one of its files is missing, or `target` exists.
        ValueError: the source has unexpected content, or an argument does not apply to it; the message lists it.
    """
    root, target = _fetch(source, folder), Path(target).expanduser().resolve()
    check_replaceable(target, overwrite, partial(_why_kept, root))
    names = list(PUBLISHED_LABELS if labels is None else labels)
    adapters = read_adapter_config(root)
    if adapters is not None:
        _refuse("adapters", labels=labels, statistics=statistics, variant=variant, router=router, folder=folder)
        _refuse("adapters", layers=num_layers)
        feature_extractor = SparseMeritFeatureExtractor.from_pretrained(root)
        model, _ = load_merged(root, adapters)
    elif (encoder := _model_type(root)) in SUPPORTED:
        _refuse("an encoder", variant=variant, folder=folder)
        feature_extractor = _feature_extractor(statistics or _encoder_statistics(root, encoder))
        name = str(root if Path(source).expanduser().is_dir() else source)
        fields = _label_fields(names) | ({"router": router} if router else {})
        model = SparseMeritForSpeechEnhancementAndEmotion.from_encoder(name, num_layers, **fields)
    else:
        if variant == MULTITASK:
            _refuse("a model without experts", router=router)
        _refuse("published weights", layers=num_layers)
        checkpoint = find_checkpoint(root, folder, variant)
        feature_extractor = _feature_extractor(statistics or _released_statistics(checkpoint))
        model = load_published(checkpoint, names, router)
    _write(target, model, feature_extractor)
    return model


def load_published(
    checkpoint: PublishedCheckpoint, labels: Iterable[str] = PUBLISHED_LABELS, router: str | None = None
) -> SparseMeritForSpeechEnhancementAndEmotion:
    """The model of a published checkpoint, in evaluation mode. Its weights are memory-mapped.

    Args:
        checkpoint: the files.
        labels: emotions in the order of the classifier's outputs.
        router: "sparse" or "dense"; None derives it from the variant.

    Raises:
        ValueError: weights are missing, unexpected, of another shape or not finite; the message lists them.
    """
    config = published_config(checkpoint, list(labels), router)
    with torch.device("meta"):
        model = SparseMeritForSpeechEnhancementAndEmotion(config)
    state_dict = published_state_dict(checkpoint)
    _check_weights(model.state_dict(), state_dict)
    model.load_state_dict(state_dict, assign=True)
    return model.eval()


def find_checkpoint(root: Path, folder: str | None = None, variant: str | None = None) -> PublishedCheckpoint:
    """Finds the files of a published checkpoint anywhere below `root`.

    Args:
        root: folder of the published files.
        folder: subfolder of `final_ssl.pt`, if there are several.
        variant: see [`PublishedCheckpoint`].

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file exists more than once.
    """
    encoder = _only_file(root / folder if folder else root, "final_ssl.pt", "name one with --folder")
    own = encoder.with_name(STATISTICS_FILE)
    files = [own] if own.exists() else list(root.rglob(STATISTICS_FILE))
    statistics = files[0] if len(files) == 1 else None
    wavlm = _only_file(root, "WavLM*.pt", "remove the others")
    return PublishedCheckpoint(encoder.parent, wavlm, statistics, variant)


def published_config(
    checkpoint: PublishedCheckpoint, labels: list[str], router: str | None = None
) -> SparseMeritConfig:
    """The configuration of a published checkpoint, from its sizes and the shapes of its weights.

    Args:
        checkpoint: the files.
        labels: emotions in the order of the classifier's outputs.
        router: "sparse" or "dense"; None derives it from the variant.

    Raises:
        ValueError: the number of labels differs from that of the classes.
    """
    head = read_weights(checkpoint.folder / "final_se.pt")
    fields = _published_encoder_fields(_read(checkpoint.wavlm)["cfg"])
    fields["enhancement_hidden_size"] = len(_named(head, "lstm_enc.0.weight"))
    fields["enhancement_num_layers"] = sum(bool(re.search(r"weight_ih_l\d+$", name)) for name in head)
    integration = checkpoint.integration_weights()
    if integration is None:
        return SparseMeritConfig(**fields, integration="weighted_sum", tasks=["enhancement"], **_label_fields(labels))
    classifier = read_weights(checkpoint.folder / "final_ser.pt")
    classes = len(_named(classifier, "out.0.weight"))
    if classes != len(labels):
        raise ValueError(
            f"{len(labels)} labels are given ({', '.join(labels)}), but the classifier has {classes} classes."
        )
    fields["emotion_hidden_size"] = len(_named(classifier, "fc.0.0.weight"))
    fields |= _integration_fields(integration)
    fields["router"] = router or ("dense" if (checkpoint.variant or "").endswith("dense") else "sparse")
    return SparseMeritConfig(**fields, **_label_fields(labels))


def published_state_dict(checkpoint: PublishedCheckpoint) -> dict[str, torch.Tensor]:
    """The state dict of [`SparseMeritForSpeechEnhancementAndEmotion`] that a published checkpoint describes."""
    folder = checkpoint.folder
    enhancement = read_weights(folder / "final_se.pt")
    # Models with experts contain an unused weighted sum of layers from their first training stage.
    sums = {name: tensor for name, tensor in enhancement.items() if re.match(r"weights$|layer_norm\.", name)}
    head = {name: tensor for name, tensor in enhancement.items() if name not in sums}
    state = rename(read_weights(folder / "final_ssl.pt"), ENCODER_NAMES, "model.encoder.")
    state |= rename(head, ENHANCEMENT_NAMES, "heads.enhancement.")
    integration = checkpoint.integration_weights()
    if integration is None:
        return state | rename(sums, WEIGHTED_SUM_NAMES, "model.integration.")
    pooling = read_weights(folder / "final_pool.pt")
    pooling["attention"] = _named(pooling, "attention").T.contiguous()  # (D, 1) -> (1, D)
    state |= rename(integration, INTEGRATION_NAMES, "model.integration.")
    state |= rename(pooling, POOLING_NAMES, "heads.emotion.pooling.")
    return state | rename(read_weights(folder / "final_ser.pt"), CLASSIFIER_NAMES, "heads.emotion.")


def rename(
    state_dict: dict[str, torch.Tensor], names: tuple[tuple[str, str], ...], prefix: str
) -> dict[str, torch.Tensor]:
    """Renames tensors.

    Args:
        state_dict: tensors by name.
        names: (pattern, replacement) pairs, applied to each name in turn.
        prefix: added to each new name.
    """
    renamed = {}
    for name, tensor in state_dict.items():
        for pattern, replacement in names:
            name = re.sub(pattern, replacement, name)
        renamed[prefix + name] = tensor
    return renamed


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """
    The weights in a {"model": state dict, ...} file in fp32; other entries, such as "optimizer", are ignored.

    Raises:
        OSError: the file does not exist.
        ValueError: the file contains anything else.
    """
    contents = _read(path)
    weights = contents.get("model")
    if not isinstance(weights, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in weights.values()):
        raise ValueError(
            f"{path} has the keys {sorted(map(str, contents))}; expected the key 'model' with a dictionary of tensors."
        )
    return {name: tensor.float() for name, tensor in weights.items()}


def parse_conv_layers(text: str) -> list[tuple[int, int, int]]:
    """
    Parses the convolutions of a WavLM, (channels, kernel, stride) each, from the expression in its checkpoint: lists
    of triples, repeated by `*` and joined by `+`.

    Raises:
        ValueError: the text is not such an expression.

    Example:
        >>> parse_conv_layers("[(512,10,5)] + [(512,3,2)] * 2")
        [(512, 10, 5), (512, 3, 2), (512, 3, 2)]
    """
    triple = r"\(\s*[0-9]{1,6}\s*,\s*[0-9]{1,6}\s*,\s*[0-9]{1,6}\s*\)"
    term = re.compile(rf"\s*\[\s*({triple}(?:\s*,\s*{triple})*)\s*\]\s*(?:\*\s*([0-9]{{1,2}})\s*)?")
    layers: list[tuple[int, int, int]] = []
    for part in text.split("+"):
        match = term.fullmatch(part)
        if match is None:
            raise ValueError(
                f"`conv_feature_layers` is {text!r}; expected an expression such as '[(512,10,5)] + [(512,3,2)] * 4'."
            )
        numbers = [int(number) for number in re.findall(r"[0-9]+", match[1])]
        layers += list(zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True)) * int(match[2] or 1)
    if not 0 < len(layers) <= MAX_CONV_LAYERS:
        raise ValueError(
            f"`conv_feature_layers` is {text!r}: it has {len(layers)} layers; expected 1 to {MAX_CONV_LAYERS}."
        )
    return layers


class _FloatType:
    """Replaces `numpy.dtype` in a pickle; accepts floats of 4 or 8 bytes only."""

    def __init__(self, name: str, *_: bool):
        if name not in ("f4", "f8"):
            raise pickle.UnpicklingError(f"it contains a number of type {name!r}")
        self.format = {"f4": "f", "f8": "d"}[name]

    def __setstate__(self, state: tuple) -> None:
        self.format = {"<": "<", ">": ">"}[state[1]] + self.format


def _float(kind: _FloatType, data: bytes) -> float:
    """Replaces numpy's function that creates a scalar from a pickle."""
    return struct.unpack(kind.format, data)[0]


class _TwoFloatsUnpickler(pickle.Unpickler):
    """Resolves the two names of a pickled numpy scalar to the replacements above, and rejects all others."""

    NAMES = {
        ("numpy", "dtype"): _FloatType,
        ("numpy.core.multiarray", "scalar"): _float,
        ("numpy._core.multiarray", "scalar"): _float,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.NAMES:
            raise pickle.UnpicklingError(f"it refers to {module}.{name}")
        return self.NAMES[module, name]


def read_statistics(path: Path) -> tuple[float, float]:
    """
    Reads a pickled (mean, standard deviation): two floats of Python or numpy. No code in the file is executed.

    Raises:
        ValueError: the file contains anything else.
    """
    try:
        if path.stat().st_size > MAX_STATISTICS_BYTES:
            raise ValueError(f"it has {path.stat().st_size} bytes")
        with open(path, "rb") as file:
            mean, std = _TwoFloatsUnpickler(file).load()
        if not (isinstance(mean, float) and isinstance(std, float) and math.isfinite(mean) and 0 < std < math.inf):
            raise ValueError(f"it contains {mean!r} and {std!r}")
    except OSError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise ValueError(
            f"{path} is not a pickled mean and standard deviation: {error}. "
            "Give both numbers (--mean, --std), or recordings to measure them from (--measure)."
        ) from error
    return mean, std


def measure_statistics(recordings: Iterable[Path]) -> tuple[float, float]:
    """
    Mean and standard deviation of all samples, at 16 kHz, of all recordings.

    Raises:
        ValueError: there are no recordings, or a recording is not usable.
    """
    count, total, squares = 0, 0.0, 0.0
    for recording in recordings:
        waveform = load_audio(recording).astype("float64")
        count, total, squares = count + len(waveform), total + waveform.sum(), squares + (waveform**2).sum()
    if not count:
        raise ValueError("There are no recordings to measure; expected WAV, FLAC, OGG or MP3 files.")
    mean = total / count
    return float(mean), math.sqrt(squares / count - mean**2)


def _read(path: Path) -> dict[str, Any]:
    """Opens a file of memory-mapped tensors without executing code in it."""
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; it is part of the published layout.")
    try:
        contents = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is not a file of weights, or is damaged: {error}") from error
    if not isinstance(contents, dict):
        raise ValueError(f"{path} holds a {type(contents).__name__}; expected a dictionary with 'model'.")
    return contents


def _named(weights: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    if name not in weights:
        raise ValueError(f"The weight {name} is missing; the file has {sorted(weights)}.")
    return weights[name]


def _published_encoder_fields(cfg: dict[str, Any]) -> dict[str, Any]:
    """Fields of [`SparseMeritConfig`] from the sizes of a WavLM checkpoint."""
    needed = {*ENCODER_FIELDS, "extractor_mode", "conv_feature_layers", "relative_position_embedding", "gru_rel_pos"}
    if missing := sorted(needed - set(cfg)):
        raise ValueError(f"The WavLM checkpoint's 'cfg' lacks {missing}.")
    if not (cfg["relative_position_embedding"] and cfg["gru_rel_pos"]):
        raise ValueError("The WavLM checkpoint has no gated relative position bias; every WavLM has one.")
    channels, kernels, strides = zip(*parse_conv_layers(str(cfg["conv_feature_layers"])), strict=True)
    fields = {ours: cfg[theirs] for theirs, ours in ENCODER_FIELDS.items()}
    fields |= {"conv_dim": channels, "conv_kernel": kernels, "conv_stride": strides}
    return fields | {"feat_extract_norm": "layer" if cfg["extractor_mode"] == "layer_norm" else "group"}


def _integration_fields(weights: dict[str, torch.Tensor]) -> dict[str, Any]:
    """The integration with these weights, and its sizes."""
    fields: dict[str, Any] = {"num_experts": len({name.split(".")[1] for name in weights if name[:8] == "experts."})}
    if "experts.0.weights" in weights:
        return fields | {"integration": "expert_weighted_sums"}
    fields["expert_hidden_size"] = len(_named(weights, "experts.0.fc1.weight"))
    return fields | {"integration": "weighted_sum_experts" if "layer_weights" in weights else "experts"}


def _check_weights(expected: dict[str, torch.Tensor], given: dict[str, torch.Tensor]) -> None:
    problems = [f"missing: {name}" for name in expected if name not in given]
    for name, tensor in given.items():
        if name not in expected:
            problems.append(f"surplus: {name}")
        elif tensor.shape != expected[name].shape:
            problems.append(f"{name} of shape {tuple(tensor.shape)} instead of {tuple(expected[name].shape)}")
    problems += [f"not finite: {name}" for name in damaged_weights(given.items())]
    if problems:
        raise ValueError(f"{len(problems)} weights do not match the model: {'; '.join(problems)}")


def _released_statistics(checkpoint: PublishedCheckpoint) -> tuple[float, float]:
    if checkpoint.statistics is None:
        raise FileNotFoundError(
            f"The checkpoint has no {STATISTICS_FILE}. Give the mean and standard deviation of its training corpus "
            "(--mean, --std), or a folder of recordings like those (--measure)."
        )
    mean, std = read_statistics(checkpoint.statistics)
    return mean, std + DIVISOR_FLOOR


def _feature_extractor(statistics: tuple[float, float] | None) -> SparseMeritFeatureExtractor:
    if statistics is None:
        return SparseMeritFeatureExtractor()
    mean, std = statistics
    return SparseMeritFeatureExtractor(normalization="corpus", corpus_mean=mean, corpus_std=std)


def _label_fields(labels: list[str]) -> dict[str, Any]:
    if not labels or len(set(labels)) != len(labels) or not all(labels):
        raise ValueError(f"The labels are {labels}; expected distinct names.")
    return {"id2label": dict(enumerate(labels)), "label2id": {label: index for index, label in enumerate(labels)}}


def _refuse(kind: str, **arguments: Any) -> None:
    """Rejects arguments that would have no effect."""
    options = {"statistics": "--mean, --std, --measure"}
    if given := [options.get(name, f"--{name}") for name, value in arguments.items() if value is not None]:
        raise ValueError(f"{', '.join(given)} does not apply to this source, which is {kind}: leave it out.")


def _fetch(source: str | Path, folder: str | None) -> Path:
    """The folder of the source; only the needed files of a Hub repository are downloaded."""
    local = Path(source).expanduser()
    if local.is_dir():
        return local
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(source)) or str(source).startswith(("./", "../")):
        raise FileNotFoundError(f"{str(source)!r} is not a folder: give a folder, or a Hub id such as name/model.")
    below = f"{folder.strip('/')}/" if folder else ""
    parts = [f"{below}{start}{name}" for start in ("", "*/") for name in ("final_*.pt", "variant_*.pt")]
    statistics = [STATISTICS_FILE, f"*/{STATISTICS_FILE}"]
    others = ["config.json", "*WavLM*.pt", "adapter_*", "preprocessor_config.json"]
    return Path(snapshot_download(str(source), allow_patterns=[*others, *statistics, *parts]))


def _model_type(root: Path) -> str | None:
    """The model type in a configuration of `transformers`; None without one."""
    config = root / "config.json"
    return json.loads(config.read_text(encoding="utf-8")).get("model_type") if config.exists() else None


def _encoder_statistics(root: Path, model_type: str) -> tuple[float, float] | None:
    """Mean and standard deviation equivalent to the feature extractor of an encoder; None for normalisation per
    recording."""
    preprocessor = root / "preprocessor_config.json"
    given = json.loads(preprocessor.read_text(encoding="utf-8")) if preprocessor.exists() else {}
    is_normalized = model_type != "whisper" and given.get("do_normalize", True)
    return None if is_normalized else (0.0, 1.0)


def _only_file(root: Path, pattern: str, remedy: str) -> Path:
    files = sorted(root.rglob(pattern))
    if not files:
        raise FileNotFoundError(f"There is no {pattern} in or below {root}; it is part of the published layout.")
    if len(files) > 1:
        places = ", ".join(str(path.relative_to(root)) for path in files)
        raise ValueError(
            f"There are {len(files)} files {pattern} in {root}: {places}. Expected exactly one: {remedy}."
        )
    return files[0]


def _write(
    target: Path,
    model: SparseMeritForSpeechEnhancementAndEmotion,
    feature_extractor: SparseMeritFeatureExtractor,
) -> None:
    with replacing_folder(target) as folder:
        model.save_pretrained(folder)
        feature_extractor.save_pretrained(folder)


def _why_kept(root: Path, folder: Path) -> str | None:
    """Why a folder must not be replaced; None if it may be."""
    is_ours = (folder / "config.json").exists() and not root.resolve().is_relative_to(folder.resolve())
    return None if is_ours else "it is not a checkpoint of this package, or contains the source"
