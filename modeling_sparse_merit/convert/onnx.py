# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Exports a checkpoint to ONNX: a graph for onnxruntime without torch, its description, and a usage example."""

import copy
import json
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .. import __version__
from ..files import check_replaceable, replace_folder
from ..models.sparse_merit.configuration_sparse_merit import SparseMeritConfig
from ..models.sparse_merit.enhancement import BidirectionalLSTM, Spectrogram
from ..models.sparse_merit.feature_extraction_sparse_merit import MIN_SAMPLES, SparseMeritFeatureExtractor
from ..models.sparse_merit.modeling_sparse_merit import SparseMeritForSpeechEnhancementAndEmotion
from ..models.sparse_merit.tasks import EMOTION, TASKS

OPSET = 20
TOLERANCE = 1e-3
GRAPH_FILE, DESCRIPTION_FILE = "model.onnx", "onnx_config.json"
PRECISIONS = ("fp32", "int8")
COSTLY_PRODUCTS = re.compile(r"encoder\.layers\.\d+\.(attention\.\w+_proj|feed_forward\.\w+)'|integration\.experts\.")
"""Modules whose weights can be stored in int8, by their names in torch's exporter."""
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TRACED_LENGTHS = (20_000, 15_000)
CHECKED_LENGTHS = ((MIN_SAMPLES,), (48_037, MIN_SAMPLES, 7_777), (1_000, 16_000))
"""Number of samples of each clip of a batch; the checked lengths differ from the traced ones."""

README = """\
# Sparse MERIT in ONNX

`{{ graph }}` (opset {{ opset }}) runs with onnxruntime, without torch; made by modeling-sparse-merit
{{ modeling_sparse_merit }}, in {{ precision }}. `onnx_config.json` contains the same facts for programs.

| | Type | Shape | |
|---|---|---|---|
| in: `input_values` | float32 | (batch, samples) | {{ sampling_rate }} Hz, mono, normalised, padded with 0 |
| in: `attention_mask` | int64 | (batch, samples) | 1 on the recording, 0 in the padding |
{% for name, output in outputs.items() %}
{% set shape = output.shape | join(", ") %}
| out: `{{ name }}` | {{ output.dtype }} | ({{ shape }}) | {{ output.task }}: {{ output.meaning }} |
{% endfor %}

Batch size and number of samples are variable. A recording needs at least {{ min_samples }} samples. Memory grows
quadratically with the longest one, so cut recordings that are longer than a minute.
{% if window_seconds %}
The checkpoint encodes longer recordings in windows of {{ window_seconds }} s, but the graph does not: cut them.
{% endif %}

{% if normalization.kind == "corpus" %}
Preprocessing: input = (x - {{ normalization.mean }}) / {{ normalization.std }}, with samples x from -1 to 1.
{% else %}
Preprocessing of each recording, before padding: input = (x - mean(x)) / sqrt(variance(x) + 1e-7).
{% endif %}
{% if "enhanced_values" in outputs %}
Postprocessing: enhanced speech = enhanced_values times the same divisor, plus the same mean.
{% endif %}

`pip install numpy onnxruntime soundfile`, then, in this folder, `python example.py RECORDING.wav ...`, which is

```python
{{ example }}```
"""

EXAMPLE = """\
import sys

import numpy as np
import onnxruntime
import soundfile

session = onnxruntime.InferenceSession("{{ graph }}")
names = sys.argv[1:]
if not names:
    sys.exit("Name recordings: python example.py RECORDING.wav ...")
clips = []
for name in names:
    clip, rate = soundfile.read(name, always_2d=True)  # (samples, channels)
    if rate != {{ sampling_rate }} or clip.shape[1] != 1 or len(clip) < {{ min_samples }}:
        sys.exit(
            f"{name}: {rate} Hz, {clip.shape[1]} channel(s), {len(clip)} samples; expected {{ sampling_rate }} Hz, 1 "
            "channel, at least {{ min_samples }} samples. To convert a recording, for example: "
            "ffmpeg -i RECORDING -ar {{ sampling_rate }} -ac 1 CONVERTED.wav"
        )
    clips.append(clip[:, 0])
{% if normalization.kind == "corpus" %}
scales = [({{ normalization.mean }}, {{ normalization.std }}) for clip in clips]
{% else %}
scales = [(clip.mean(), np.sqrt(clip.var() + 1e-7)) for clip in clips]
{% endif %}
input_values = np.zeros((len(clips), max(map(len, clips))), np.float32)
attention_mask = np.zeros(input_values.shape, np.int64)
for row, (clip, (mean, std)) in enumerate(zip(clips, scales)):
    input_values[row, : len(clip)] = (clip - mean) / std
    attention_mask[row, : len(clip)] = 1
[{{ outputs | join(", ") }}] = session.run(None, {"input_values": input_values, "attention_mask": attention_mask})
for row, (name, clip, (mean, std)) in enumerate(zip(names, clips, scales)):
{% if "logits" in outputs %}
    print(name, {{ labels }}[logits[row].argmax()])
{% endif %}
{% for output in outputs if output not in ("logits", "enhanced_values") %}
    print(name, "{{ output }}", {{ output }}[row])
{% endfor %}
{% if "enhanced_values" in outputs %}
    soundfile.write(f"{name}.enhanced.wav", enhanced_values[row, : len(clip)] * std + mean, {{ sampling_rate }})
{% endif %}
"""


def export_onnx(
    model: SparseMeritForSpeechEnhancementAndEmotion,
    feature_extractor: SparseMeritFeatureExtractor,
    folder: str | os.PathLike,
    overwrite: bool = False,
    precision: str = "fp32",
) -> dict[str, float]:
    """Writes `model.onnx` (with a separate weight file above 2 GB), `onnx_config.json` with its inputs, outputs,
    preprocessing and labels, `README.md` and `example.py`. First, the graph is compared with the model on clips with
    other lengths than the traced ones; if it differs, nothing is written.

    Args:
        model: the model, on the CPU and in float32.
        feature_extractor: provides the normalisation, which is described in the folder and not part of the graph.
        folder: target folder, created if missing.
        overwrite: replace an existing export in the folder.
        precision: "fp32", or "int8" for the matrix products of encoder layers and experts.

    Returns:
        The largest absolute difference of each output from that of the model: {"logits", "enhanced_values"}.

    Raises:
        ImportError: onnx, onnxscript or onnxruntime is not installed.
        FileExistsError: the folder is not empty, or contains anything but an export.
        ValueError: the precision is unknown, the model is not on the CPU in float32, or an output of the graph differs
            by more than 1e-3 before quantization.

    Example:
        >>> from modeling_sparse_merit import SpeechEnhancementAndEmotionPipeline
        >>> pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained("tiny")
        >>> sorted(export_onnx(pipe.model, pipe.feature_extractor, "tiny-onnx"))
        ['enhanced_values', 'logits']
    """
    folder = Path(folder).expanduser().resolve()
    _check_packages()
    check_replaceable(folder, overwrite, _why_kept)
    _check_arguments(model, precision)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        result = Path(temporary) / "fp32"
        result.mkdir()
        products = write_graph(model, result / GRAPH_FILE)
        differences = largest_differences(model, result / GRAPH_FILE)
        _check_differences(differences)
        if precision == "int8":
            exact, result = result, Path(temporary) / "int8"
            result.mkdir()
            quantize_graph(exact / GRAPH_FILE, result / GRAPH_FILE, products)
            differences = largest_differences(model, result / GRAPH_FILE)
        _describe(result, model.config, feature_extractor, precision)
        replace_folder(result, folder)
    return differences


def write_graph(model: SparseMeritForSpeechEnhancementAndEmotion, path: Path) -> list[str]:
    """Writes the graph of a model, for any number and length of clips, and checks it with `onnx`.

    Args:
        model: the model, on the CPU and in float32.
        path: file of the graph.

    Returns:
        The names of the matrix products to quantize.
    """
    import onnx
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    graph, names = ExportedModel(model), output_names(model.config)
    dimensions = {0: "batch", 1: "samples"}
    with _quiet():
        program = torch.onnx.export(
            graph,
            kwargs=noise(TRACED_LENGTHS),
            dynamic_shapes={"input_values": dimensions, "attention_mask": dimensions},
            output_names=list(names),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None  # it is with dynamo
    products = [node for node in program.model.graph if node.op_type in ("MatMul", "Gemm")]
    modules = {node.name: node.metadata_props.get("pkg.torch.onnx.name_scopes", "") for node in products}
    for output, task in zip(program.model.graph.outputs, names.values(), strict=True):
        if model.tasks[task].kind == "waveform":
            output.shape = program.model.graph.inputs[0].shape  # otherwise it is an expression of `samples`
    ClearMetadataAndDocStringPass()(program.model)  # it contains local paths
    program.save(path)
    onnx.checker.check_model(path, full_check=True)
    return [name for name, module in modules.items() if name is not None and COSTLY_PRODUCTS.search(module)]


def quantize_graph(source: Path, target: Path, products: list[str]) -> None:
    """Writes a graph with some matrix products in int8: weights have one scale per output, and scale and zero point of
    their inputs are computed in each run (dynamic quantization).

    Args:
        source: the graph in fp32.
        target: file of the quantized graph.
        products: names of the matrix products to quantize, from `write_graph`.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(source)
    del graph.graph.value_info[:]  # shapes of weights, which the quantizer transposes
    quantize_dynamic(
        graph,
        target,
        op_types_to_quantize=["MatMul"],
        nodes_to_quantize=[*products, *(f"{name}_MatMul" for name in products)],  # names of a converted Gemm
        per_channel=True,
        weight_type=QuantType.QInt8,
        reduce_range=True,
    )


def largest_differences(model: SparseMeritForSpeechEnhancementAndEmotion, path: Path) -> dict[str, float]:
    """The largest absolute difference of each output of a graph from that of the model, on noise of several lengths.

    Args:
        model: the model, on the CPU and in float32.
        path: file of the graph.

    Returns:
        `{name of the output: difference}`.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    model = _with_shared_weights(model)
    names = list(output_names(model.config))
    maxima = dict.fromkeys(names, 0.0)
    for lengths in CHECKED_LENGTHS:
        inputs = noise(lengths)
        outputs = session.run(names, {name: values.numpy() for name, values in inputs.items()})
        with torch.inference_mode():
            expected = model(**inputs)
        for (name, task), output in zip(output_names(model.config).items(), outputs, strict=True):
            difference = np.abs(output - expected.of(task).numpy()).max()
            maxima[name] = float(np.maximum(maxima[name], difference))  # NaN stays
    return maxima


def noise(lengths: Sequence[int]) -> dict[str, torch.Tensor]:
    """A padded batch of white noise: `input_values` (B, S) and `attention_mask` (B, S)."""
    valid = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]  # (B, S)
    values = torch.randn(valid.shape, generator=torch.Generator().manual_seed(0))
    return {"input_values": values * valid, "attention_mask": valid.long()}


def output_names(config: SparseMeritConfig) -> dict[str, str]:
    """The task of each output of a graph, by the name of the output."""
    return {task.output or name: name for name, task in config.task_definitions.items()}


class ExportedModel(nn.Module):
    """
    A model built from operations of ONNX, which shares the weights of `model`. It returns one output per task, in the
    order of `output_names`.
    """

    def __init__(self, model: SparseMeritForSpeechEnhancementAndEmotion):
        super().__init__()
        self.model = _with_shared_weights(model)
        self.model.set_attn_implementation("eager")
        for head in self.model.heads.values():
            _replace_parts(head)

    def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Runs the model.

        Args:
            input_values: normalised audio (B, S).
            attention_mask: int (B, S), 1 on recordings and 0 on padding.

        Returns:
            One tensor per task, in the order of `output_names`.
        """
        outputs = self.model(input_values, attention_mask)
        return tuple(outputs.of(task) for task in self.model.config.tasks)


def _replace_parts(head: nn.Module) -> None:
    """Replaces the spectrogram and the LSTM of a head, if any, by operations of ONNX."""
    for name, part in list(vars(head).items()):
        if isinstance(part, Spectrogram):
            setattr(head, name, RealSpectrogram.like(part))
    for name, part in list(head.named_children()):
        if isinstance(part, BidirectionalLSTM):
            setattr(head, name, OnnxLSTM(part))


class RealSpectrogram(Spectrogram):
    """[`Spectrogram`] as convolutions with the basis of the Fourier transform. ONNX has no inverse transform, and its
    STFT is slower and less accurate in onnxruntime for lengths other than powers of two.

    Args:
        n_fft: size of the transform, in samples.
        hop_length: samples between frames.
        win_length: length of the window, in samples.
    """

    def __init__(self, n_fft: int, hop_length: int, win_length: int):
        super().__init__(n_fft, hop_length, win_length)
        window = F.pad(self._window(torch.device("cpu")), self._window_margin())  # (n_fft,)
        basis = torch.fft.rfft(window.diag()).T  # (bins, n_fft)
        self.analysis = torch.cat([basis.real, basis.imag])[:, None]  # (2 * bins, 1, n_fft)
        bins = torch.eye(len(basis))
        waves = torch.fft.irfft(torch.cat([bins, 1j * bins]), n_fft)  # (2 * bins, n_fft)
        self.synthesis = (waves * window)[:, None]  # (2 * bins, 1, n_fft)
        self.envelope = window.square()[None, None]  # (1, 1, n_fft)

    @classmethod
    def like(cls, spectrogram: Spectrogram) -> "RealSpectrogram":
        return cls(spectrogram.n_fft, spectrogram.hop_length, spectrogram.win_length)

    def _analyse(self, padded: torch.Tensor) -> torch.Tensor:
        spectrum = F.conv1d(padded[:, None], self.analysis, stride=self.hop_length)  # (B, 2 * bins, F)
        return torch.complex(*spectrum.transpose(1, 2).chunk(2, dim=-1))  # (B, 2 * bins, F) -> (B, F, bins)

    def _synthesise(self, spectrum: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        parts = torch.cat([spectrum.real, spectrum.imag], dim=-1) * valid  # (B, F, 2 * bins)
        waveform = F.conv_transpose1d(parts.transpose(1, 2), self.synthesis, stride=self.hop_length)
        envelope = F.conv_transpose1d(valid.float().transpose(1, 2), self.envelope, stride=self.hop_length)
        return (waveform / envelope.clamp(min=1e-11)).squeeze(1)  # (B, 1, length) -> (B, length)


class OnnxLSTM(nn.Module):
    """[`BidirectionalLSTM`] as the LSTM of ONNX, whose backward direction starts at the end of each clip. For export
    only."""

    def __init__(self, lstm: BidirectionalLSTM):
        super().__init__()
        pairs = zip(lstm.forward_layers, lstm.backward_layers, strict=True)
        self.layers = [[_lstm_weights(pair, kind) for kind in ("weight_ih", "weight_hh", "bias")] for pair in pairs]

    def forward(self, hidden: torch.Tensor, num_frames: torch.Tensor) -> torch.Tensor:
        """Runs the LSTM.

        Args:
            hidden: (B, F, H).
            num_frames: number of valid frames (B,).

        Returns:
            (B, F, H).
        """
        states = hidden.transpose(0, 1)  # (B, F, H) -> (F, B, H)
        for layer in self.layers:
            size = layer[1].shape[-1]
            directions = torch.onnx.ops.symbolic(
                "LSTM",
                (states, *layer, num_frames.int()),
                {"direction": "bidirectional", "hidden_size": size},
                dtype=states.dtype,
                shape=(states.shape[0], 2, states.shape[1], size),
                version=OPSET,
            )
            states = directions.transpose(1, 2).flatten(2)  # (F, 2, B, H) -> (F, B, 2 * H)
        return directions.sum(1).transpose(0, 1)  # (F, B, H) -> (B, F, H)


def _lstm_weights(pair: tuple[nn.Module, nn.Module], kind: str) -> torch.Tensor:
    """Weights (2, 4 * H, in) or biases (2, 8 * H) of both directions, with the gates in the order of ONNX."""
    if kind == "bias":
        return torch.cat([_lstm_weights(pair, "bias_ih"), _lstm_weights(pair, "bias_hh")], dim=-1)
    directions = torch.stack([getattr(lstm, f"{kind}_l0").detach() for lstm in pair])
    input_gate, forget_gate, cell, output_gate = directions.chunk(4, dim=1)
    return torch.cat([input_gate, output_gate, forget_gate, cell], dim=1)


def _with_shared_weights(
    model: SparseMeritForSpeechEnhancementAndEmotion,
) -> SparseMeritForSpeechEnhancementAndEmotion:
    """A copy in evaluation mode that shares the weights."""
    tensors = (*model.parameters(), *model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors}).eval()


def _describe(
    folder: Path, config: SparseMeritConfig, feature_extractor: SparseMeritFeatureExtractor, precision: str
) -> None:
    """Writes `onnx_config.json`, the README and the example."""
    description = _description(config, feature_extractor) | {"precision": precision}
    (folder / DESCRIPTION_FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    environment = jinja2.Environment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, undefined=jinja2.StrictUndefined
    )
    example = environment.from_string(EXAMPLE).render(description)
    text = environment.from_string(README).render(description, example=example)
    (folder / "example.py").write_text(example, encoding="utf-8")
    (folder / "README.md").write_text(text, encoding="utf-8")


def _description(config: SparseMeritConfig, feature_extractor: SparseMeritFeatureExtractor) -> dict[str, Any]:
    waveform = ["batch", "samples"]
    normalization: dict[str, Any] = {"kind": feature_extractor.normalization}
    if feature_extractor.normalization == "corpus":
        normalization |= {"mean": feature_extractor.corpus_mean, "std": feature_extractor.corpus_std}
    return {
        "graph": GRAPH_FILE,
        "opset": OPSET,
        "modeling_sparse_merit": __version__,
        "inputs": {
            "input_values": {"dtype": "float32", "shape": waveform},
            "attention_mask": {"dtype": "int64", "shape": waveform},
        },
        "outputs": {
            task.output or name: {"dtype": "float32", "task": name, **task.describe(config)}
            for name, task in config.task_definitions.items()
        },
        "sampling_rate": feature_extractor.sampling_rate,
        "min_samples": MIN_SAMPLES,
        "window_seconds": config.encoder_window_seconds,
        "normalization": normalization,
        "labels": TASKS[EMOTION].describe(config)["labels"],
    }


def _check_packages() -> None:
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise ImportError(f"An export to ONNX needs {', '.join(missing)}: pip install 'modeling-sparse-merit[onnx]'.")


def _why_kept(folder: Path) -> str | None:
    is_ours = (folder / DESCRIPTION_FILE).exists()
    return None if is_ours else f"it has no {DESCRIPTION_FILE}, so it is not an ONNX export"


def _check_arguments(model: SparseMeritForSpeechEnhancementAndEmotion, precision: str) -> None:
    if precision not in PRECISIONS:
        raise ValueError(f"`precision` is {precision!r}; expected one of {list(PRECISIONS)}.")
    if model.dtype != torch.float32 or model.device.type != "cpu":
        raise ValueError(
            f"The model is {model.dtype} on {model.device}; an export to ONNX needs torch.float32 on cpu: load it "
            "with dtype=torch.float32."
        )


def _check_differences(differences: dict[str, float]) -> None:
    if not max(differences.values()) <= TOLERANCE:
        raise ValueError(
            f"The graph does not match the model: its outputs differ by {differences}, expected at most {TOLERANCE}. "
            "Nothing was written; try other versions of torch, onnxscript or onnxruntime."
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides warnings of torch's exporter about its own internals."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(level)
