# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Pretrained encoders of other architectures: their outputs are those of `transformers`, alone and in any batch, whole
and in windows, in training, in low precision, and in ONNX."""

import json
import os
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch.nn import functional as F
from transformers import (
    AutoModel,
    Data2VecAudioConfig,
    Data2VecAudioModel,
    HubertConfig,
    HubertModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperModel,
)
from typer.testing import CliRunner

from modeling_sparse_merit import (
    SparseMeritConfig,
    SparseMeritFeatureExtractor,
    SparseMeritForSpeechEnhancementAndEmotion,
    SpeechEnhancementAndEmotionPipeline,
)
from modeling_sparse_merit.cli import app
from modeling_sparse_merit.convert.onnx import export_onnx
from modeling_sparse_merit.hub.export import export_checkpoint
from modeling_sparse_merit.models.sparse_merit.pretrained import read_encoder
from modeling_sparse_merit.models.sparse_merit.whisper import whisper_positions

HEADS = {
    "expert_hidden_size": 16,
    "emotion_hidden_size": 16,
    "enhancement_hidden_size": 16,
    "enhancement_num_layers": 1,
    "enhancement_mask": "magnitude",
}
WHISPER_BASE = Path(os.environ.get("SPARSE_MERIT_WHISPER", Path(__file__).parents[1] / "runs" / "whisper-base"))


@pytest.fixture(scope="module")
def whisper(tmp_path_factory) -> Path:
    """A tiny random Whisper; its positions are the sinusoids, as in every Whisper."""
    torch.manual_seed(0)
    sizes = {"d_model": 32, "encoder_layers": 3, "encoder_attention_heads": 2, "encoder_ffn_dim": 48}
    decoder = {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 32, "vocab_size": 64}
    tokens = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    model = WhisperModel(WhisperConfig(**sizes, **decoder, **tokens, num_mel_bins=80, init_std=0.2))
    model.encoder.embed_positions.weight.data = whisper_positions(32)
    folder = tmp_path_factory.mktemp("whisper")
    model.save_pretrained(folder)
    return folder


def from_whisper(folder: Path, **changes) -> SparseMeritForSpeechEnhancementAndEmotion:
    torch.manual_seed(1)
    return SparseMeritForSpeechEnhancementAndEmotion.from_whisper(folder, **{**HEADS, **changes}).eval()


@pytest.fixture(scope="module")
def model(whisper):
    return from_whisper(whisper)


@pytest.fixture(scope="module")
def extractor():
    return SparseMeritFeatureExtractor(normalization="corpus", corpus_mean=0.0, corpus_std=1.0)


def layer_outputs_of_whisper(encoder, mel: torch.Tensor) -> list[torch.Tensor]:
    """What transformers' own layers give on a mel (1, bands, F) of any length."""
    hidden_states = F.gelu(encoder.conv2(F.gelu(encoder.conv1(mel)))).transpose(1, 2)
    outputs = [hidden_states + encoder.embed_positions.weight[: hidden_states.shape[1]]]
    for layer in encoder.layers:
        states = layer(outputs[-1], None)
        outputs.append(states[0] if isinstance(states, tuple) else states)
    return outputs


def assert_close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    """Relative to the largest value of the tensor."""
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


# Whisper -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("samples", [400, 479, 480, 16_000, 20_001])
def test_mel_is_that_of_whispers_feature_extractor_up_to_the_end_of_the_clip(model, speech_clip, samples):
    clip = speech_clip(2.0)[:samples]
    expected = WhisperFeatureExtractor()(clip, sampling_rate=16_000, return_tensors="pt").input_features
    valid = torch.ones(1, samples // 160, dtype=torch.bool)
    actual = model.model.encoder.feature_extractor.log_mel(torch.from_numpy(clip)[None], valid)
    # 30 s of padding reduce the frame that straddles the end of the clip, so the loudest one must lie before it
    torch.testing.assert_close(actual, expected[..., : samples // 160], rtol=0, atol=1e-6)


@torch.no_grad()
def test_layer_outputs_are_those_of_transformers(whisper, model, speech_clip):
    check_parity(WhisperModel.from_pretrained(whisper).encoder.eval(), model, speech_clip(1.7))


@torch.no_grad()
def test_layer_outputs_of_the_real_whisper_base(speech_clip):
    original = WhisperModel.from_pretrained(real_whisper_base(), dtype=torch.float32).encoder.eval()
    check_parity(original, from_whisper(WHISPER_BASE), speech_clip(3.0))


def real_whisper_base() -> Path:
    if not (WHISPER_BASE / "config.json").exists():
        pytest.skip(f"there is no Whisper-base at {WHISPER_BASE}; set SPARSE_MERIT_WHISPER")
    return WHISPER_BASE


def check_parity(original, model, clip: np.ndarray) -> None:
    encoder, values = model.model.encoder, torch.from_numpy(clip)[None]
    mel = encoder.feature_extractor.log_mel(values, torch.ones(1, len(clip) // 160, dtype=torch.bool))
    expected = layer_outputs_of_whisper(original, mel)
    actual, frame_mask = encoder(values)
    assert len(actual) == len(expected) and frame_mask.all()
    for one, other in zip(actual, expected, strict=True):
        assert_close(one, other)
    assert_close(encoder.last_hidden_state(actual), original.layer_norm(expected[-1]))


@pytest.mark.parametrize("kind", ["tiny", "real"])
@torch.no_grad()
def test_neither_padding_nor_the_batch_changes_anything(model, extractor, speech_clip, kind):
    if kind == "real":
        model = from_whisper(real_whisper_base(), num_layers=4)
    clips = [speech_clip(seconds, seed=index) for index, seconds in enumerate((2.0, 0.7, 1.33))]
    together = model(
        **extractor(clips, sampling_rate=16_000, return_tensors="pt"),
        output_hidden_states=True,
        output_router_logits=True,
    )
    for row, clip in enumerate(clips):
        inputs = extractor(clip, sampling_rate=16_000, return_tensors="pt")
        alone = model(**inputs, output_hidden_states=True, output_router_logits=True)
        length = alone.hidden_states[0].shape[1]
        for one, other in zip(together.hidden_states, alone.hidden_states, strict=True):
            assert_close(one[row, :length], other[0])
        assert_close(together.logits[row], alone.logits[0])
        assert_close(together.enhanced_values[row, : len(clip)], alone.enhanced_values[0])
        for task, logits in alone.router_logits.items():
            assert torch.equal(together.router_logits[task][row, :length].argmax(-1), logits[0].argmax(-1))


@torch.no_grad()
def test_the_first_layers_alone_are_the_same_layers(whisper, speech_clip):
    whole, part = (from_whisper(whisper, num_layers=count) for count in (None, 2))
    values = torch.from_numpy(speech_clip(0.5))[None]
    assert part.config.num_hidden_layers == 2
    for one, other in zip(part.model.encoder(values)[0], whole.model.encoder(values)[0], strict=False):
        assert torch.equal(one, other)
    with pytest.raises(ValueError, match="`num_layers` is 4; .* has 3 layers"):
        from_whisper(whisper, num_layers=4)


def test_positions_of_another_kind_are_refused(whisper, tmp_path):
    model = WhisperModel.from_pretrained(whisper)
    model.encoder.embed_positions.weight.data.normal_()
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="other position embeddings"):
        from_whisper(tmp_path)


def test_gradients_reach_every_trainable_weight(whisper, extractor, speech_clip):
    model = from_whisper(whisper).train()
    inputs = extractor([speech_clip(0.6)] * 2, sampling_rate=16_000, return_tensors="pt")
    clean = inputs["input_values"] * 0.5
    model(**inputs, labels=torch.tensor([0, 1]), clean_values=clean).loss.backward()
    missing = [name for name, weight in model.named_parameters() if weight.requires_grad and weight.grad is None]
    assert missing == []
    assert model.model.encoder.feature_extractor.conv1.weight.grad.abs().sum() > 0
    model.freeze_feature_encoder()
    assert not any(weight.requires_grad for weight in model.model.encoder.feature_extractor.parameters())


@pytest.mark.parametrize("precision", ["bf16", "int8"])
def test_low_precision_is_near(whisper, extractor, speech_clip, tmp_path, precision):
    from_whisper(whisper).save_pretrained(tmp_path)
    inputs = extractor(speech_clip(1.0), sampling_rate=16_000, return_tensors="pt")
    exact, near = (
        SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(tmp_path, dtype=name).eval()(**inputs)
        for name in ("fp32", precision)
    )
    torch.testing.assert_close(near.logits.float(), exact.logits, rtol=0.1, atol=0.1)


@pytest.mark.parametrize("implementation", ["eager", "sdpa", "flex_attention"])
@torch.no_grad()
def test_every_attention_implementation_gives_the_same(whisper, model, speech_clip, implementation):
    values = torch.from_numpy(speech_clip(0.4))[None]
    other = from_whisper(whisper, attn_implementation=implementation)
    assert_close(other(values).logits, model(values).logits)
    attentions = other(values, output_attentions=True).attentions
    assert len(attentions) == 3
    torch.testing.assert_close(attentions[0].sum(-1), torch.ones_like(attentions[0][..., 0]))


@torch.no_grad()
@pytest.mark.slow
def test_onnx_and_remote_code_and_the_commands(whisper, speech_clip, tmp_path):
    target = tmp_path / "converted"
    done = CliRunner().invoke(app, ["convert", str(whisper), str(target), "--layers", "2"])
    assert done.exit_code == 0, done.output
    assert json.loads((target / "preprocessor_config.json").read_text())["normalization"] == "corpus"
    shown = CliRunner().invoke(app, ["info", "--model", str(target)]).stdout
    assert "2 layers of width 32, feature encoder whisper, in windows of 8 s" in " ".join(shown.split())
    pipe = SpeechEnhancementAndEmotionPipeline.from_pretrained(target)
    exported = export_checkpoint(target, tmp_path / "exported")
    assert (
        "- whisper\n" in (exported / "README.md").read_text()
        and "Whisper encoder" in (exported / "README.md").read_text()
    )
    travelled = AutoModel.from_pretrained(exported, trust_remote_code=True)
    values = torch.from_numpy(speech_clip(0.9))[None]
    assert_close(travelled.eval()(values).logits, pipe.model(values).logits)
    assert type(travelled).__module__.startswith("transformers_modules")
    assert pipe(speech_clip(1.0), sampling_rate=16_000)["audio"].shape == (16_000,)
    differences = export_onnx(pipe.model, pipe.feature_extractor, tmp_path / "onnx")
    assert max(differences.values()) < 1e-3
    assert "in windows of 8.0 s, but the graph does not" in (tmp_path / "onnx" / "README.md").read_text()
    session = onnxruntime.InferenceSession(tmp_path / "onnx" / "model.onnx")
    inputs = pipe.feature_extractor(
        [speech_clip(1.4), speech_clip(0.5)], sampling_rate=16_000, padding=True, return_tensors="np"
    )
    feed = {"input_values": inputs["input_values"], "attention_mask": inputs["attention_mask"].astype(np.int64)}
    logits = session.run(["logits"], feed)[0]
    expected = pipe.model(**{name: torch.from_numpy(values) for name, values in inputs.items()}).logits
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-3)


# Windows -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_recording_within_a_window_is_encoded_whole(whisper, model, speech_clip):
    windowed = from_whisper(whisper, encoder_window_seconds=2.0, encoder_context_seconds=0.5)
    values = torch.from_numpy(speech_clip(2.0))[None]
    assert torch.equal(windowed(values).logits, model(values).logits)


@torch.no_grad()
def test_windows_are_those_of_the_recording_cut_by_hand(whisper, speech_clip):
    model = from_whisper(whisper, encoder_window_seconds=2.0, encoder_context_seconds=0.5)
    encoder, clip = model.model.encoder, torch.from_numpy(speech_clip(4.1))[None]
    actual, frame_mask = encoder(clip)
    assert frame_mask.shape == (1, 205) and actual[-1].shape == (1, 205, 32)
    # windows of 100 frames start every 50; 25 frames of context at inner edges
    pieces = [(0, 0, 75), (50, 75, 125), (100, 125, 175), (150, 175, 205)]
    for start, first, last in pieces:
        piece = encoder(clip[:, start * 320 : start * 320 + 32_000])[0]
        for one, other in zip(actual, piece, strict=True):
            assert_close(one[:, first:last], other[:, first - start : last - start])


@torch.no_grad()
def test_a_window_may_end_within_half_a_transform(whisper, speech_clip):
    model = from_whisper(whisper, encoder_window_seconds=1.0, encoder_context_seconds=0)
    encoder, clip = model.model.encoder, torch.from_numpy(speech_clip(1.5)[:16_160])[None]
    actual, _ = encoder(clip)
    assert actual[-1].shape == (1, 51, 32) and actual[-1].isfinite().all()
    for one, other in zip(actual, encoder(clip[:, :16_000])[0], strict=True):
        assert_close(one[:, :50], other)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["whisper", "wavlm"])
def test_windows_do_not_depend_on_the_batch(whisper, tiny_config, speech_clip, extractor, kind):
    options = {"encoder_window_seconds": 1.0, "encoder_context_seconds": 0.2}
    if kind == "whisper":
        model = from_whisper(whisper, **options)
    else:
        torch.manual_seed(0)
        fields = {**tiny_config.to_dict(), **options}
        model = SparseMeritForSpeechEnhancementAndEmotion(SparseMeritConfig(**fields)).eval()
    lengths = (3.0, 0.9, 1.0, 1.3, 1.61, 0.2)
    clips = [speech_clip(seconds, seed=index) for index, seconds in enumerate(lengths)]
    inputs = extractor(clips, sampling_rate=16_000, return_tensors="pt")
    together = model(**inputs, output_hidden_states=True)
    for row, clip in enumerate(clips):
        alone = model(torch.from_numpy(clip)[None], output_hidden_states=True)
        length = alone.hidden_states[0].shape[1]
        for one, other in zip(together.hidden_states, alone.hidden_states, strict=True):
            assert_close(one[row, :length], other[0], 2e-5)
        assert_close(together.logits[row], alone.logits[0], 2e-5)


def test_windows_have_gradients(whisper, speech_clip):
    model = from_whisper(whisper, encoder_window_seconds=1.0, encoder_context_seconds=0.2).train()
    model(torch.from_numpy(speech_clip(2.5))[None], labels=torch.tensor([1])).loss.backward()
    assert model.model.encoder.feature_extractor.conv1.weight.grad.isfinite().all()


def test_windows_have_no_attention_weights(whisper, speech_clip):
    model = from_whisper(whisper, encoder_window_seconds=1.0, encoder_context_seconds=0.2)
    with pytest.raises(ValueError, match="`output_attentions` supports recordings of at most 1 s.*got 2.0 s"):
        model(torch.from_numpy(speech_clip(2.0))[None], output_attentions=True)


def test_a_context_that_leaves_nothing_of_a_window_is_refused(tiny_config):
    with pytest.raises(Exception, match="`encoder_window_seconds`, `encoder_context_seconds` are 2.0, 1.0"):
        SparseMeritConfig(**{**tiny_config.to_dict(), "encoder_window_seconds": 2.0, "encoder_context_seconds": 1.0})


# HuBERT and wav2vec 2.0 ----------------------------------------------------------------------------------------------

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "conv_dim": (16,) * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
}
STABLE = {"do_stable_layer_norm": True, "feat_extract_norm": "layer", "conv_bias": True}
POST_NORM = {"do_stable_layer_norm": False, "feat_extract_norm": "group"}


@pytest.mark.parametrize("norm", [STABLE, POST_NORM], ids=["stable", "post_norm"])
@pytest.mark.parametrize("kind", [(HubertConfig, HubertModel), (Wav2Vec2Config, Wav2Vec2Model)], ids=["hubert", "w2v"])
@torch.no_grad()
def test_hubert_and_wav2vec2_map_onto_wavlm(kind, norm, speech_clip, tmp_path):
    torch.manual_seed(0)
    original = kind[1](kind[0](**SIZES, **norm)).eval()
    original.save_pretrained(tmp_path)
    model = SparseMeritForSpeechEnhancementAndEmotion.from_encoder(tmp_path, **HEADS).eval()
    values = torch.from_numpy(speech_clip(0.8))[None]
    expected = original(values, output_hidden_states=True)
    actual, _ = model.model.encoder(values)
    assert_close(model.model.encoder.last_hidden_state(actual), expected.last_hidden_state)
    for one, other in zip(actual[:-1], expected.hidden_states[:-1], strict=True):
        assert_close(one, other)


@pytest.mark.parametrize(
    ("config", "field"),
    [
        (HubertConfig(**SIZES, conv_pos_batch_norm=True), "conv_pos_batch_norm"),
        (HubertConfig(**SIZES, feat_proj_layer_norm=False), "feat_proj_layer_norm"),
        (Wav2Vec2Config(**SIZES, add_adapter=True), "add_adapter"),
    ],
)
def test_parts_that_do_not_map_are_named(config, field, tmp_path):
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"has .*'{field}'.*which WavLM does not support"):
        read_encoder(tmp_path)


def test_an_architecture_that_does_not_map_is_refused(tmp_path):
    config = Data2VecAudioConfig(**SIZES)
    Data2VecAudioModel(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="type 'data2vec-audio'.*'whisper', 'hubert', 'wav2vec2'"):
        read_encoder(tmp_path)


@pytest.mark.parametrize("normalized", [True, False])
def test_the_input_is_normalised_as_the_encoder_expects(normalized, tmp_path):
    folder = tmp_path / "hubert"
    HubertModel(HubertConfig(**SIZES, **STABLE)).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({"do_normalize": normalized}))
    done = CliRunner().invoke(app, ["convert", str(folder), str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    extractor = SparseMeritFeatureExtractor.from_pretrained(tmp_path / "out")
    assert extractor.normalization == ("recording" if normalized else "corpus")
