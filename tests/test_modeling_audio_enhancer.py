# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The audio enhancer: every structure keeps lengths and levels, does not depend on padding, learns, and travels."""

import ast
from pathlib import Path

import pytest
import torch
from test_remote_code import run_elsewhere

from modeling_sparse_merit import AudioEnhancerConfig, AudioEnhancerModel
from modeling_sparse_merit.metrics import si_sdr

MODELS = Path(__file__).parents[1] / "modeling_sparse_merit" / "models"
SIZES = {
    "mask_lstm": {"channels": 24, "depth": 2},
    "wave_u_net": {"channels": 8, "depth": 5},
    "cmgan": {"channels": 8, "depth": 1, "num_attention_heads": 2, "n_fft": 128, "hop_length": 64},
}


def make(structure: str, **changes) -> AudioEnhancerModel:
    torch.manual_seed(0)
    return AudioEnhancerModel(AudioEnhancerConfig(structure=structure, **{**SIZES[structure], **changes}))


def batch(*waveforms: torch.Tensor) -> dict[str, torch.Tensor]:
    """A padded batch; what lies in the padding must not count, so it is loud."""
    longest = max(map(len, waveforms))
    values, mask = 9.0 * torch.ones(len(waveforms), longest), torch.zeros(len(waveforms), longest, dtype=torch.long)
    for row, waveform in enumerate(waveforms):
        values[row, : len(waveform)], mask[row, : len(waveform)] = waveform, 1
    return {"input_values": values, "attention_mask": mask}


@pytest.mark.parametrize("structure", SIZES)
@torch.no_grad()
def test_a_clip_alone_equals_the_clip_in_a_padded_batch(structure):
    model, generator = make(structure).eval(), torch.Generator().manual_seed(1)
    clips = [0.1 * torch.randn(length, generator=generator) for length in (1, 1000, 4001, 8000, 12_345)]

    together = model(**batch(*clips)).enhanced_values

    for clip, row in zip(clips, together, strict=True):
        alone = model(clip[None]).enhanced_values[0]
        assert (row[: len(clip)] - alone).abs().max() <= 1e-5 * max(alone.abs().max(), 1e-3)
        assert not row[len(clip) :].any()


@pytest.mark.parametrize("structure", SIZES)
def test_losses_do_not_depend_on_padding(structure):
    model, generator = make(structure, snr_weight=0.1).eval(), torch.Generator().manual_seed(1)
    noisy = 0.1 * torch.randn(2, 5000, generator=generator)
    short, padded = noisy[:, :3000], batch(*noisy[:, :3000], torch.zeros(5000))
    clean = torch.nn.functional.pad(short / 2, (0, 2000))
    alone = model(short, clean_values=short / 2)
    together = model(padded["input_values"][:2], padded["attention_mask"][:2], clean_values=clean)
    assert alone.losses.keys() == {"magnitude", "complex", "waveform", "snr"}
    for name, loss in alone.losses.items():
        torch.testing.assert_close(together.losses[name], loss, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("structure", SIZES)
@pytest.mark.parametrize("length", [1000, 15_999, 16_000, 20_001])
@torch.no_grad()
def test_outputs_are_as_long_as_inputs(structure, length):
    assert make(structure).eval()(torch.randn(1, length)).enhanced_values.shape == (1, length)


@pytest.mark.parametrize("structure", SIZES)
@torch.no_grad()
def test_outputs_follow_the_level_of_the_input_and_silence_stays_finite(structure):
    model, noisy = make(structure).eval(), 0.1 * torch.randn(1, 4000)
    loud, quiet = model(noisy).enhanced_values, model(noisy / 1000).enhanced_values
    torch.testing.assert_close(quiet * 1000, loud, rtol=1e-3, atol=1e-4 * loud.abs().max().item())
    assert model(torch.zeros(1, 4000)).enhanced_values.isfinite().all()


@pytest.mark.parametrize("structure", SIZES)
def test_every_parameter_gets_a_finite_gradient_also_from_silence(structure):
    model = make(structure, snr_weight=0.1)
    noisy = torch.cat([0.1 * torch.randn(1, 4000), torch.zeros(1, 4000)])
    model(noisy, clean_values=noisy / 2).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all() and parameter.grad.any(), name


@pytest.mark.parametrize("structure", ["mask_lstm", "wave_u_net", pytest.param("cmgan", marks=pytest.mark.slow)])
def test_a_noisy_clip_can_be_learned_by_heart(structure, speech_clip):
    model = make(structure, snr_weight=0.1, waveform_weight=0)
    clean = torch.from_numpy(speech_clip(0.15))[None]
    noisy = clean + 0.02 * torch.randn_like(clean)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01 if structure != "wave_u_net" else 0.003)
    for _ in range(40):
        optimizer.zero_grad()
        model(noisy, clean_values=clean).loss.backward()
        optimizer.step()
    enhanced = model.eval()(noisy).enhanced_values.detach()
    before, after = (si_sdr(clean[0].numpy(), values[0].numpy()) for values in (noisy, enhanced))
    assert after > before + 2


def test_a_clip_without_samples_is_refused():
    with pytest.raises(ValueError, match="`attention_mask` has a clip without samples"):
        make("mask_lstm")(torch.zeros(2, 100), torch.tensor([[1] * 100, [0] * 100]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"structure": "phasen"}, "`structure` is 'phasen'; expected one of"),
        ({"channels": 0}, "`channels` is 0; expected a whole number from 1 to 4096"),
        ({"kernel_size": 4}, "`kernel_size` is 4; expected an odd number"),
        ({"n_fft": 510}, "`n_fft`, `hop_length` are 510, 128; expected a multiple of 4"),
        ({"hop_length": 300}, "a hop of at most half of it"),
        ({"snr_weight": -1}, "`snr_weight` is -1.0; expected a finite number of at least 0"),
        ({"structure": "cmgan", "channels": 6}, "expected a multiple of the number of heads"),
    ],
)
def test_configurations_that_cannot_be_say_so(fields, message):
    with pytest.raises(Exception, match=message):
        AudioEnhancerConfig(**fields)


LOAD = """
import json, sys
import torch
from transformers import AutoModel

outputs, homes = {}, set()
for structure in ("mask_lstm", "wave_u_net", "cmgan"):
    model = AutoModel.from_pretrained(f"{sys.argv[1]}/{structure}", trust_remote_code=True).eval()
    torch.manual_seed(0)
    outputs[structure] = model(torch.randn(1, 3000)).enhanced_values[0, ::100].tolist()
    homes.add(type(model).__module__.split(".")[0])
    model.save_pretrained(f"{sys.argv[1]}/{structure}_again")
print(json.dumps({"homes": list(homes), "outputs": outputs}))
"""
CODE = {path.name for path in (MODELS / "audio_enhancer").glob("*.py")} - {"__init__.py"}


def test_checkpoints_load_where_the_package_is_not_installed(tmp_path):
    expected = {}
    for structure in SIZES:
        model = make(structure).eval()
        model.save_pretrained(tmp_path / structure)
        torch.manual_seed(0)
        values = model(torch.randn(1, 3000)).enhanced_values[0, ::100]
        expected[structure] = pytest.approx(values.tolist(), abs=1e-6)
    loaded = run_elsewhere(LOAD, tmp_path, folder=tmp_path)
    assert loaded == {"homes": ["transformers_modules"], "outputs": expected}
    files = {path.name for path in (tmp_path / "cmgan_again").iterdir()}
    assert files == {"config.json", "model.safetensors", *CODE}


def test_copied_code_equals_its_source():
    copies = 0
    for file in sorted((MODELS / "audio_enhancer").glob("*.py")):
        lines = file.read_text(encoding="utf-8").splitlines()
        for number, line in enumerate(lines):
            if not line.startswith("# Copied from modeling_sparse_merit.models.sparse_merit."):
                continue
            *module, name = line.removeprefix("# Copied from modeling_sparse_merit.models.").split(".")
            source = MODELS.joinpath(*module).with_suffix(".py").read_text(encoding="utf-8")
            original, copy = definition(source, name), definition("\n".join(lines), name)
            assert copy == original and copy.startswith(lines[number + 1]), f"{file.name}: {name}"
            copies += 1
    assert copies >= 6


def definition(source: str, name: str) -> str:
    """The source of a class or function of a module."""
    node = next(node for node in ast.parse(source).body if getattr(node, "name", None) == name)
    return ast.get_source_segment(source, node)
