# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""Published weights become a checkpoint with the published outputs; other contents of the files are ignored."""

import os
import pickle
import re
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_server import HubServer, Repository
from safetensors.torch import load_file
from transformers import WavLMConfig, WavLMModel
from typer.testing import CliRunner

from modeling_sparse_merit import (
    SparseMeritConfig,
    SparseMeritFeatureExtractor,
    SparseMeritForSpeechEnhancementAndEmotion,
)
from modeling_sparse_merit.cli import app
from modeling_sparse_merit.convert.published import convert, measure_statistics, parse_conv_layers, read_statistics
from modeling_sparse_merit.models.sparse_merit.audio import write_audio

ROOT = Path(__file__).parents[1]
VARIANTS = ["sparse", "dense", "weighted_sum_sparse", "weighted_sum_dense", "expert_weighted_sum_sparse", "multitask"]

# What a part of our names is called in the published files, in the order in which it is replaced.
PUBLISHED_NAMES = {
    "ssl": [
        ("model.encoder.", ""),
        ("masked_spec_embed", "mask_emb"),
        ("feature_projection.projection", "post_extract_proj"),
        ("feature_projection.layer_norm", "layer_norm"),
        (".conv.", ".0."),
        ("pos_conv_embed.0.", "pos_conv.0."),
        ("attention.rel_attn_embed", "self_attn.relative_attention_bias"),
        ("attention.gru_rel_pos_const", "self_attn.grep_a"),
        ("attention.gru_rel_pos_linear", "self_attn.grep_linear"),
        ("attention.", "self_attn."),
        ("feed_forward.intermediate_dense", "fc1"),
        ("feed_forward.output_dense", "fc2"),
    ],
    "mmoe": [
        ("model.integration.", ""),
        ("layer_weights.weight", "layer_weights"),
        ("input_dense", "fc1"),
        ("output_dense", "fc2"),
        ("routers.enhancement", "gates.0.fc"),
        ("routers.emotion", "gates.1.fc"),
    ],
    "pool": [("heads.emotion.pooling.", ""), ("score.weight", "attention"), ("dense", "sap_linear")],
    "ser": [("heads.emotion.", ""), ("dense", "fc.0.0"), ("layer_norm", "fc.0.1"), ("classifier", "out.0")],
    "se": [("heads.enhancement.", "lstm_enc."), ("input_dense", "0"), ("output_dense", "2")],
}


def published_name(part: str, name: str, old_weight_norm: bool = False) -> str:
    """Our name of a weight to that of the published implementation."""
    for ours, theirs in PUBLISHED_NAMES[part]:
        name = name.replace(ours, theirs)
    if part == "ssl":
        name = re.sub(r"(conv_layers\.\d+)\.layer_norm", r"\1.2.1", name)
        name = re.sub(r"(layers\.\d+)\.layer_norm", r"\1.self_attn_layer_norm", name)
        if old_weight_norm:
            name = name.replace("parametrizations.weight.original0", "weight_g")
            name = name.replace("parametrizations.weight.original1", "weight_v")
    if part == "se":
        name = re.sub(r"lstm\.forward_layers\.(\d+)\.(\w+)_l0", r"1.blstm.\2_l\1", name)
        name = re.sub(r"lstm\.backward_layers\.(\d+)\.(\w+)_l0", r"1.blstm.\2_l\1_reverse", name)
    if part == "mmoe" and re.fullmatch(r"experts\.\d+\.weight", name):
        name += "s"
    return name


def part_of(name: str) -> str:
    starts = {"model.encoder.": "ssl", "model.integration.": "mmoe", "heads.emotion.pooling.": "pool"}
    starts |= {"heads.emotion.": "ser", "heads.enhancement.": "se"}
    return next(part for start, part in starts.items() if name.startswith(start))


def publish(model, root: Path, folder: str = ".", variant: str = "final_mmoe.pt", old_weight_norm: bool = False):
    """Writes a model as the authors of the paper would have: {"cfg", "model"} and {"model", "optimizer"} files."""
    target = root / folder
    target.mkdir(parents=True, exist_ok=True)
    for part in PUBLISHED_NAMES:
        weights = published_weights(model, part, old_weight_norm)
        if part == "ssl":
            torch.save({"cfg": published_sizes(model.config), "model": weights}, root / "WavLM-Large.pt")
        file = variant if part == "mmoe" else f"final_{part}.pt"
        torch.save({"model": weights, "optimizer": {"state": {0: torch.rand(3)}}}, target / file)
    return target


def published_weights(model, part: str, old_weight_norm: bool = False) -> dict[str, torch.Tensor]:
    """The weights of one file; those that the model has no values of, on the meta device, are drawn."""
    weights = {}
    for name, tensor in model.state_dict().items():
        if part_of(name) == part:
            drawn = 0.02 * torch.randn(tensor.shape) if tensor.is_meta else tensor
            weights[published_name(part, name, old_weight_norm)] = drawn
    if part == "pool":
        weights["attention"] = weights["attention"].T
    if part == "se":  # the weighted sum of the first stage, which the published models carry without using it
        width, layers = model.config.hidden_size, model.config.num_layer_outputs
        weights["weights"] = torch.rand(layers)
        for layer in range(layers):
            weights |= {f"layer_norm.{layer}.{name}": torch.rand(width) for name in ("weight", "bias")}
    return weights


def published_sizes(config: SparseMeritConfig) -> dict:
    sizes = zip(config.conv_dim, config.conv_kernel, config.conv_stride, strict=True)
    return {
        "extractor_mode": "layer_norm",
        "encoder_layers": config.num_hidden_layers,
        "encoder_embed_dim": config.hidden_size,
        "encoder_ffn_embed_dim": config.intermediate_size,
        "encoder_attention_heads": config.num_attention_heads,
        "layer_norm_first": True,
        "conv_feature_layers": " + ".join(f"[({c},{k},{s})]" for c, k, s in sizes),
        "conv_bias": config.conv_bias,
        "conv_pos": config.num_conv_pos_embeddings,
        "conv_pos_groups": config.num_conv_pos_embedding_groups,
        "relative_position_embedding": True,
        "gru_rel_pos": True,
        "num_buckets": config.num_buckets,
        "max_distance": config.max_bucket_distance,
        "dropout": 0.0,
        "attention_dropout": 0.0,
        "dropout_input": 0.0,
        "normalize": True,
    }


def random_model(config: SparseMeritConfig, **changes) -> SparseMeritForSpeechEnhancementAndEmotion:
    """A model with weights that are all different, so that no two can be mixed up."""
    torch.manual_seed(0)
    config = SparseMeritConfig(**{**config.to_diff_dict(), "hidden_dropout": 0.0, **changes})
    model = SparseMeritForSpeechEnhancementAndEmotion(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module")
def model(tiny_config) -> SparseMeritForSpeechEnhancementAndEmotion:
    return random_model(tiny_config)


@pytest.fixture
def release(model, tmp_path) -> Path:
    """A published checkpoint as the authors lay it out on the Hub."""
    root = tmp_path / "release"
    folder = publish(model, root, "model/wavlm_adamw/7")
    (folder / "train_norm_stat.pkl").write_bytes(pickle.dumps((np.float32(0.25), np.float32(0.5))))
    return root


def results(model, recording: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
    with torch.inference_mode():
        outputs = model(torch.from_numpy(recording)[None])
    return outputs.logits, outputs.enhanced_values


def run(*arguments) -> object:
    return CliRunner().invoke(app, ["convert", *map(str, arguments)])


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_stage_matches_the_published_implementation(reference_data, variant):
    from benchmarks.parity import measure

    maxima = measure(reference_data / "golden" / "published_implementation", variant)
    stages = {"input_values", "hidden_states", "enhanced_log1p", "enhanced"}
    if variant != "multitask":
        stages |= {"se_features", "ser_features", "pooled", "logits"}
    if variant.endswith("sparse"):
        stages |= {f"{name}.{task}" for name in ("switch_load_balancing_loss",) for task in ("se", "ser")}
        stages |= {"se_router_probs", "ser_router_probs"}
    assert set(maxima) == stages
    assert max(maxima.values()) < 1e-5


@pytest.mark.parametrize(
    ("integration", "router", "file"),
    [
        ("experts", "sparse", "final_mmoe.pt"),
        ("experts", "dense", "variant_dense_mmoe.pt"),
        ("weighted_sum_experts", "sparse", "variant_weighted_sum_sparse_mmoe.pt"),
        ("expert_weighted_sums", "sparse", "final_mmoe.pt"),
    ],
)
def test_a_published_checkpoint_becomes_the_same_model(tiny_config, speech_clip, tmp_path, integration, router, file):
    original = random_model(tiny_config, integration=integration, router=router, num_experts=2)
    publish(original, tmp_path / "release", variant=file, old_weight_norm=True)
    variant = None if file == "final_mmoe.pt" else file.removeprefix("variant_").removesuffix("_mmoe.pt")

    convert(tmp_path / "release", tmp_path / "new", statistics=(0.0, 1.0), variant=variant)

    loaded = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(tmp_path / "new").eval()
    assert (loaded.config.integration, loaded.config.router) == (integration, router)
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in original.state_dict().items())
    for ours, theirs in zip(results(loaded, speech_clip()), results(original, speech_clip()), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_the_command_finds_files_in_the_layout_of_the_hub(release, model, tmp_path):
    result = run(release, tmp_path / "new", "--labels", "wütend, traurig,froh,neutral")

    assert result.exit_code == 0, result.output
    assert str(tmp_path / "new") in result.stdout
    loaded = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(tmp_path / "new")
    assert loaded.config.id2label == {0: "wütend", 1: "traurig", 2: "froh", 3: "neutral"}
    assert loaded.config.label2id["froh"] == 2
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    feature_extractor = SparseMeritFeatureExtractor.from_pretrained(tmp_path / "new")
    scaled = feature_extractor([0.75] * 400, sampling_rate=16_000)["input_values"][0]
    assert scaled[0] == pytest.approx((0.75 - 0.25) / 0.5)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "release"]


def test_the_naive_multitask_model_takes_its_own_sum_of_layers(release, tmp_path):
    with pytest.raises(ValueError, match="--router does not apply to this source, which is a model without experts"):
        convert(release, tmp_path / "new", variant="multitask", router="dense")
    convert(release, tmp_path / "new", variant="multitask")

    weights = load_file(tmp_path / "new" / "model.safetensors")
    published = torch.load(release / "model/wavlm_adamw/7/final_se.pt", weights_only=True)["model"]
    assert torch.equal(weights["model.integration.layer_weights.enhancement.weight"], published["weights"])
    norm = weights["model.integration.layer_norms.enhancement.1.bias"]
    assert torch.equal(norm, published["layer_norm.1.bias"])
    assert SparseMeritConfig.from_pretrained(tmp_path / "new").tasks == ["enhancement"]


def test_the_base_layout_of_wavlm_converts_too(tiny_config, speech_clip, tmp_path):
    original = random_model(tiny_config, feat_extract_norm="group", do_stable_layer_norm=False)
    folder = publish(original, tmp_path / "release")
    checkpoint = torch.load(folder / "WavLM-Large.pt", weights_only=True)
    checkpoint["cfg"] |= {"extractor_mode": "default", "layer_norm_first": False}
    ssl = {name.replace("layers.0.2.1.", "layers.0.2."): tensor for name, tensor in checkpoint["model"].items()}
    torch.save({"cfg": checkpoint["cfg"], "model": ssl}, folder / "WavLM-Large.pt")
    torch.save({"model": ssl}, folder / "final_ssl.pt")

    converted = convert(folder, tmp_path / "new", statistics=(0.0, 1.0))

    for ours, theirs in zip(results(converted, speech_clip()), results(original, speech_clip()), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_wrong_weights_are_listed_and_nothing_is_written(release, tmp_path):
    path = release / "model/wavlm_adamw/7/final_mmoe.pt"
    weights = torch.load(path, weights_only=True)["model"]
    del weights["gates.1.fc.bias"]
    weights["gates.2.fc.bias"] = torch.zeros(3)
    weights["layer_norms.0.weight"] = torch.ones(7)
    weights["experts.2.fc1.bias"][0] = torch.nan
    torch.save({"model": weights}, path)

    result = run(release, tmp_path / "new")

    assert result.exit_code == 2
    for problem in (
        "missing: model.integration.routers.emotion.bias",
        "surplus: model.integration.gates.2.fc.bias",
        "model.integration.layer_norms.0.weight of shape (7,) instead of (32,)",
        "not finite: model.integration.experts.2.input_dense.bias",
    ):
        assert problem in result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["release"]


def test_labels_must_be_as_many_as_the_outputs(release, tmp_path):
    result = run(release, tmp_path / "new", "--labels", "angry,sad")
    assert result.exit_code == 2 and "2 labels" in result.stderr and "4" in result.stderr
    result = run(release, tmp_path / "new", "--labels", "sad,sad,happy,neutral")
    assert result.exit_code == 2 and "distinct" in result.stderr


def test_without_released_statistics_they_are_given_or_measured(release, tmp_path):
    next(release.rglob("*.pkl")).unlink()
    result = run(release, tmp_path / "new")
    assert result.exit_code == 2
    assert all(remedy in result.stderr for remedy in ("train_norm_stat.pkl", "--mean", "--std", "--measure"))

    assert run(release, tmp_path / "given", "--mean", "0.001", "--std", "0.07").exit_code == 0
    given = SparseMeritFeatureExtractor.from_pretrained(tmp_path / "given")
    assert (given.normalization, given.corpus_mean, given.corpus_std) == ("corpus", 0.001, 0.07)

    (tmp_path / "speech" / "deep").mkdir(parents=True)
    write_audio(tmp_path / "speech" / "a.wav", np.full(800, 0.5, np.float32), 16_000)
    write_audio(tmp_path / "speech" / "deep" / "b.wav", np.full(2400, -0.1, np.float32), 16_000)
    assert run(release, tmp_path / "measured", "--measure", tmp_path / "speech").exit_code == 0
    measured = SparseMeritFeatureExtractor.from_pretrained(tmp_path / "measured")
    # 800 samples of 0.5 and 2400 of -0.1: mean 0.05, variance 0.25 * 0.45^2 + 0.75 * 0.15^2
    assert measured.corpus_mean == pytest.approx(0.05, abs=1e-4)
    assert measured.corpus_std == pytest.approx((0.25 * 0.45**2 + 0.75 * 0.15**2) ** 0.5, abs=1e-4)

    assert run(release, tmp_path / "half", "--mean", "0.001").exit_code == 2
    with pytest.raises(ValueError, match="no recording"):
        measure_statistics([])


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("kind", [float, np.float32, np.float64])
def test_statistics_are_read_as_python_or_numpy_pickled_them(tmp_path, protocol, kind):
    if protocol == 2 and kind is not float:
        pytest.skip("the second protocol spells the bytes of a numpy number by calling a codec")
    path = tmp_path / "train_norm_stat.pkl"
    path.write_bytes(pickle.dumps((kind(-0.125), kind(0.75)), protocol))
    assert read_statistics(path) == (-0.125, 0.75)


class Malicious:
    """Would write a file where it is unpickled."""

    def __init__(self, path: Path, call=os.system):
        self.call, self.argument = call, str(path)

    def __reduce__(self):
        command = f"echo harm > '{self.argument}'" if self.call is os.system else f"open({self.argument!r}, 'w')"
        return self.call, (command,)


def test_no_pickle_runs_code(release, tmp_path):
    harm, path = tmp_path / "harm", tmp_path / "train_norm_stat.pkl"
    path.write_bytes(pickle.dumps((Malicious(harm), 1.0)))
    pickle.loads(path.read_bytes())
    assert harm.exists(), "the test itself does no harm"
    harm.unlink()

    for call in (os.system, eval, exec):
        path.write_bytes(pickle.dumps((Malicious(harm, call), 1.0)))
        with pytest.raises(ValueError, match="it refers to"):
            read_statistics(path)
    weights = release / "model/wavlm_adamw/7/final_pool.pt"
    torch.save({"model": {"attention": Malicious(harm)}}, weights)
    result = run(release, tmp_path / "new")
    assert result.exit_code == 2 and "final_pool.pt" in result.stderr
    assert not harm.exists() and not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    "contents",
    [
        (1.0,),
        (1.0, 2.0, 3.0),
        (0.0, 0.0),
        (0.0, -1.0),
        (float("nan"), 1.0),
        (0.0, float("inf")),
        ("0.0", "1.0"),
        (True, 1.0),
        {"mean": 0.0, "std": 1.0},
        np.array([0.0, 1.0]),
        (np.zeros(1), np.ones(1)),
        (np.int64(0), np.int64(1)),
        (0.0, 1.0, "x" * 2000),
    ],
)
def test_statistics_are_two_floats_and_nothing_else(tmp_path, contents):
    path = tmp_path / "train_norm_stat.pkl"
    path.write_bytes(pickle.dumps(contents))
    with pytest.raises(ValueError, match="train_norm_stat.pkl is not a pickled mean"):
        read_statistics(path)


def test_a_damaged_pickle_is_an_error(tmp_path):
    path = tmp_path / "train_norm_stat.pkl"
    whole = pickle.dumps((np.float32(0.1), np.float32(0.2)))
    for damaged in (b"", b"hello", whole[:40], whole[:-1]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="train_norm_stat.pkl"):
            read_statistics(path)


def test_the_convolutions_are_read_from_their_expression():
    large = parse_conv_layers("[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2")
    assert large == [(512, 10, 5)] + [(512, 3, 2)] * 4 + [(512, 2, 2)] * 2
    assert parse_conv_layers(" [ ( 8, 10 ,5),(9,3,2) ]*2 ") == [(8, 10, 5), (9, 3, 2), (8, 10, 5), (9, 3, 2)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "[(512,10)]",
        "[(512,10,5)] * -1",
        "[(512,10,5)] * 99",
        "[(512,10,5)] * 9 ** 9",
        "[(512,10,5)] + ",
        "[(512,10,5)]; print(1)",
        "__import__('os').system('true')",
        "[(512,10,5) for _ in range(9)]",
        "[(5１2,10,5)]",
    ],
)
def test_any_other_expression_is_refused(text):
    with pytest.raises(ValueError, match="conv_feature_layers"):
        parse_conv_layers(text)


def test_a_folder_with_something_in_it_is_not_touched(release, tmp_path):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("years of work")
    for options in ((), ("--overwrite",)):
        result = run(release, taken, *options)
        assert result.exit_code == 2 and "taken" in result.stderr
        assert [path.name for path in taken.iterdir()] == ["thesis.txt"]

    (tmp_path / "empty").mkdir()
    assert run(release, tmp_path / "empty").exit_code == 0
    result = run(release, tmp_path / "empty")
    assert result.exit_code == 2 and "--overwrite" in result.stderr
    assert run(release, tmp_path / "empty", "--labels", "a,b,c,d", "--overwrite").exit_code == 0
    assert SparseMeritConfig.from_pretrained(tmp_path / "empty").id2label[3] == "d"


def test_of_several_checkpoints_one_is_named(release, model, tmp_path):
    publish(random_model(model.config, num_experts=2), release, "model/two_experts/1")
    result = run(release, tmp_path / "new")
    assert result.exit_code == 2
    assert all(part in result.stderr for part in ("wavlm_adamw/7", "two_experts/1", "--folder"))

    result = run(release, tmp_path / "new", "--folder", "model/two_experts")
    assert result.exit_code == 0, result.stderr
    assert SparseMeritConfig.from_pretrained(tmp_path / "new").num_experts == 2


def test_what_is_no_checkpoint_says_so(tmp_path):
    (tmp_path / "empty").mkdir()
    result = run(tmp_path / "empty", tmp_path / "new")
    assert result.exit_code == 2 and "final_ssl.pt" in result.stderr
    result = run(tmp_path / "nowhere", tmp_path / "new")
    assert result.exit_code == 2 and "nowhere" in result.stderr
    result = run(tmp_path / "empty", tmp_path / "new", "--folder", "../..")
    assert result.exit_code == 2


def test_a_wavlm_becomes_the_encoder_of_a_fresh_model(tiny_config, tmp_path):
    sizes = {name: getattr(tiny_config, name) for name in ("hidden_size", "conv_dim", "intermediate_size")}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 2, "num_conv_pos_embedding_groups": 2}
    wavlm = WavLMModel(WavLMConfig(**sizes, do_stable_layer_norm=True, feat_extract_norm="layer"))
    wavlm.save_pretrained(tmp_path / "wavlm")

    result = run(tmp_path / "wavlm", tmp_path / "new", "--labels", "calm,tense")

    assert result.exit_code == 0, result.stderr
    loaded = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(tmp_path / "new")
    for name, tensor in wavlm.state_dict().items():
        assert torch.equal(loaded.model.encoder.state_dict()[name], tensor), name
    assert loaded.config.id2label == {0: "calm", 1: "tense"} and loaded.config.router == "sparse"
    assert SparseMeritFeatureExtractor.from_pretrained(tmp_path / "new").normalization == "recording"

    assert run(tmp_path / "wavlm", tmp_path / "dense", "--router", "dense").exit_code == 0
    assert SparseMeritConfig.from_pretrained(tmp_path / "dense").router == "dense"
    result = run(tmp_path / "wavlm", tmp_path / "none", "--variant", "dense", "--folder", "model")
    assert result.exit_code == 2
    assert "--variant, --folder does not apply to this source, which is an encoder" in result.stderr


def test_a_hub_id_brings_down_what_is_needed_and_no_more(release, model, tmp_path):
    (release / "pretrained_ser.pt").write_bytes(b"the first stage")
    (release / "model/wavlm_adamw/7/clean_train_norm_stat.pkl").write_bytes(b"of the clean corpus")
    files = {str(path.relative_to(release)): path.read_bytes() for path in release.rglob("*") if path.is_file()}
    environment = {**os.environ, "HF_HOME": str(tmp_path / "cache"), "HF_HUB_DISABLE_XET": "1"}
    environment = {name: value for name, value in environment.items() if name != "HF_HUB_OFFLINE"}
    command = [sys.executable, "-c", "from modeling_sparse_merit.cli import app; app()", "convert", "someone/release"]
    with HubServer() as hub:
        hub.repositories["models", "someone/release"] = Repository(commits=[files])
        environment |= {"HF_ENDPOINT": hub.url, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([*command, "new"], cwd=tmp_path, env=environment, capture_output=True, text=True)
        asked = "\n".join(hub.requests)

    assert done.returncode == 0, done.stderr
    assert "final_mmoe.pt" in asked and "WavLM-Large.pt" in asked
    assert "pretrained_ser" not in asked and "clean_train" not in asked
    weights = load_file(tmp_path / "new" / "model.safetensors")
    assert all(torch.equal(weights[name], tensor) for name, tensor in model.state_dict().items())


FULL_SIZE_CHECK = """
import resource, sys, torch
from modeling_sparse_merit import SparseMeritForSpeechEnhancementAndEmotion
model = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(sys.argv[1]).eval()
published = torch.load(sys.argv[2], weights_only=True, mmap=True)["model"]
assert torch.equal(model.model.integration.experts[2].output_dense.weight, published["experts.2.fc2.weight"])
with torch.inference_mode():
    outputs = model(torch.randn(1, 16_000))
assert outputs.logits.shape == (1, 4) and outputs.logits.isfinite().all() and outputs.enhanced_values.isfinite().all()
assert round(sum(parameter.numel() for parameter in model.parameters()) / 1e6) == 649
"""


@pytest.mark.slow
def test_the_full_size_layout_converts_and_loads_within_4_gigabytes(tmp_path):
    with torch.device("meta"):
        model = SparseMeritForSpeechEnhancementAndEmotion(SparseMeritConfig())
    folder = publish(model, tmp_path / "release")
    (folder / "train_norm_stat.pkl").write_bytes(pickle.dumps((np.float32(0.0), np.float32(0.1))))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    convert_code = "from modeling_sparse_merit.cli import app; app()"
    target = tmp_path / "new"
    for command in (
        [sys.executable, "-c", convert_code, "convert", str(folder), str(target)],
        [sys.executable, "-c", FULL_SIZE_CHECK, str(target), str(folder / "final_mmoe.pt")],
    ):
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        # The largest of all children so far, in KiB.
        assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20 < 4
