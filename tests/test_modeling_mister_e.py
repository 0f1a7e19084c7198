# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The conversation model: parity with the published one, padding, causality, gate, losses, missing modalities."""

import json
import math
import subprocess
import sys

import pytest
import torch
from huggingface_hub.errors import StrictDataclassClassValidationError
from safetensors.torch import load_file

from modeling_sparse_merit import MisterEConfig, MisterEForConversationEmotion
from modeling_sparse_merit.models.mister_e.losses import consistency_loss, contrastive_loss, focal_loss

SIZES = {
    "speech_size": 6,
    "text_size": 10,
    "context_hidden_size": 8,
    "context_num_layers": 2,
    "cross_modal_size": 12,
    "cross_modal_layers": 2,
    "attention_size": 6,
    "num_labels": 4,
}
ABLATIONS = {
    "all": {},
    "speech": {"experts": ["speech"]},
    "text": {"experts": ["text"]},
    "text alone": {"speech_size": 0},
    "cross-modal": {"experts": ["cross_modal"]},
    "context as input": {"cross_modal_input": "context"},
    "uniform": {"gate": "uniform"},
    "majority": {"gate": "majority"},
    "no context": {"context_num_layers": 0, "context_kernels": [1]},
    "causal": {"causal": True},
    "per utterance": {"consistency_reduction": "utterance"},
}
CASES = ("twelve", "one", "pair")


def make_model(**fields) -> MisterEForConversationEmotion:
    torch.manual_seed(0)
    model = MisterEForConversationEmotion(MisterEConfig(**{**SIZES, **fields})).eval()
    for vector in model.absent.values():
        torch.nn.init.normal_(vector)
    return model


def make_batch(model, lengths=(5, 2, 9), padded_to=None, seed=1) -> dict:
    """Conversations of several lengths; every third utterance lacks speech, and every fifth one text."""
    torch.manual_seed(seed)
    shape = (len(lengths), padded_to or max(lengths))
    place = torch.arange(shape[1]).expand(shape)
    mask = place < torch.tensor(lengths)[:, None]
    batch = {"utterance_mask": mask.long(), "labels": torch.randint(4, shape)}
    batch["labels"][0, 1:2] = -100
    for name, every in (("speech", 3), ("text", 5)):
        if size := model.config.embedding_sizes.get(name):
            batch[f"{name}_embeddings"] = torch.randn(*shape, size)
            batch[f"{name}_mask"] = (place % every != every - 1).long()
    return batch


def tensors(outputs) -> dict:
    """All outputs for utterances, by name."""
    single = {name: getattr(outputs, name) for name in ("logits", "gate", "speech_states", "text_states")}
    return {name: value for name, value in single.items() if value is not None} | outputs.expert_logits


# Parity --------------------------------------------------------------------------------------------------------------


def composed(published: dict, outer: str, inner: str, rows: slice | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """One linear map in place of two: weight and bias of outer(inner(x))."""
    matrix, offset = (
        published[name][rows] if rows else published[name] for name in (f"{outer}weight", f"{outer}bias")
    )
    weight, bias = published[f"{inner}.weight"], published[f"{inner}.bias"]
    return matrix @ weight, matrix @ bias + offset


def load_attention(attention, published: dict, unit: str, head: str, maps: tuple[str, str, str, str], norm: str):
    """Weights of the published attention `head` with its maps of queries, keys, values and outputs."""
    size = published[f"{unit}.{head}.out_proj.weight"].shape[0]
    for place, (layer, name) in enumerate(zip((attention.query, attention.key, attention.value), maps, strict=False)):
        rows = slice(place * size, (place + 1) * size)
        layer.weight.data, layer.bias.data = composed(published, f"{unit}.{head}.in_proj_", f"{unit}.{name}", rows)
    weight, bias = composed(published, f"{unit}.{maps[3]}.", f"{unit}.{head}.out_proj")
    attention.output.weight.data, attention.output.bias.data = weight, bias
    attention.layer_norm.load_state_dict({kind: published[f"{unit}.{norm}.{kind}"] for kind in ("weight", "bias")})


def load_linear(layer, published: dict, name: str):
    layer.load_state_dict({kind: published[f"{name}.{kind}"] for kind in ("weight", "bias")})


def load_published(model: MisterEForConversationEmotion, published: dict) -> None:
    for expert, theirs in (("speech", "audio_self"), ("text", "text_self")):
        context = model.experts[expert].context
        for convolution, name in zip(context.convolutions, ("conv", "conv3", "conv5"), strict=True):
            load_linear(convolution, published, f"{theirs}.{name}")
        load_linear(context.shortcut, published, f"{theirs}.fc_1")
        load_linear(model.experts[expert].classifier, published, f"{theirs}.fc")
        prefix = f"{theirs}.rnn_1."
        context.recurrent.load_state_dict(
            {name.removeprefix(prefix): value for name, value in published.items() if name.startswith(prefix)}
        )
    expert = model.experts["cross_modal"]
    for layer, name in (
        (expert.speech_input, "fc_aud"),
        (expert.text_input, "fc_text"),
        (expert.speech_shortcut, "fc_aud_self"),
        (expert.text_shortcut, "fc_text_self"),
        (expert.layer_norm, "bn"),
        (expert.dense, "fc"),
        (expert.classifier, "fc_2"),
    ):
        load_linear(layer, published, f"fusion.{name}")
    for place, layer in enumerate(expert.layers):
        unit = f"fusion.units.{place}"
        for attention, head, maps, norm in (
            (layer.text_to_speech, "multihead_attn_asr", ("fc_asrq", "fc_audk", "fc_audv", "fc_text"), "layer_norm_t"),
            (
                layer.speech_to_text,
                "multihead_attn_aud",
                ("fc_audq", "fc_asrk", "fc_asrv", "fc_audio"),
                "layer_norm_a",
            ),
            (
                layer.text_to_text,
                "multihead_attn_selfasr",
                ("fc_asrq_s", "fc_asrk_s", "fc_asrv_s", "fc_text_s"),
                "layer_norm_t_s",
            ),
            (
                layer.speech_to_speech,
                "multihead_attn_selfaud",
                ("fc_audq_s", "fc_audk_s", "fc_audv_s", "fc_aud_s"),
                "layer_norm_a_s",
            ),
        ):
            load_attention(attention, published, unit, head, maps, norm)
    load_linear(model.gate.dense, published, "gate.0")
    load_linear(model.gate.output, published, "gate.2")


@pytest.fixture(scope="module")
def golden(reference_data):
    """Tensors and facts of the published implementation, and our model with its weights."""
    folder = reference_data / "golden" / "mister_e"
    if not folder.is_dir():
        pytest.skip(f"outputs of the published conversation model are not in {folder}")
    values, facts = load_file(folder / "golden.safetensors"), json.loads((folder / "golden.json").read_text())
    sizes = facts["sizes"]
    fields = {
        "speech_size": sizes["embedding"],
        "text_size": sizes["embedding"],
        "context_hidden_size": sizes["context_hidden"],
        "context_num_layers": sizes["context_layers"],
        "context_kernels": sizes["context_kernels"],
        "cross_modal_size": sizes["cross_modal"],
        "cross_modal_layers": sizes["cross_modal_layers"],
        "attention_size": sizes["attention"],
        "attention_heads": sizes["attention_heads"],
        "gate_hidden_size": sizes["gate_hidden"],
        "num_labels": sizes["classes"],
    }
    model = make_model(**fields)
    prefix = "weights."
    load_published(
        model, {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}
    )
    return values, facts, model


@pytest.mark.parametrize("case", CASES)
def test_outputs_losses_and_gradients_are_those_of_the_published_model(golden, case):
    values, facts, model = golden
    inputs = {
        name: values[f"{case}.{name}"].clone().requires_grad_() for name in ("speech_embeddings", "text_embeddings")
    }
    outputs = model(**inputs, labels=values[f"{case}.labels"])
    expected = {
        "logits": outputs.logits,
        "gate": outputs.gate,
        "speech_states": outputs.speech_states,
        "text_states": outputs.text_states,
        **{f"{name}_logits": logits for name, logits in outputs.expert_logits.items()},
    }
    for name, value in expected.items():
        torch.testing.assert_close(value, values[f"{case}.{name}"], atol=1e-5, rtol=0)
    names = {"mix": "focal_mix", "contrastive": "contrastive", "consistency": "symmetric_kl"}
    names |= {name: f"focal_{name}" for name in ("speech", "text", "cross_modal")}
    losses = facts["cases"][case]["losses"]
    for ours, theirs in names.items():
        assert outputs.losses[ours].item() == pytest.approx(losses[theirs], abs=1e-5), ours
    assert outputs.loss.item() == pytest.approx(losses["total"], rel=1e-6, abs=1e-5)
    gradients = torch.autograd.grad(outputs.loss, list(inputs.values()))
    for name, gradient in zip(inputs, gradients, strict=True):
        torch.testing.assert_close(gradient, values[f"{case}.gradient.{name}"], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_context_and_majority_are_those_of_the_published_model(golden, case):
    values, _, model = golden
    mask = torch.ones(values[f"{case}.labels"].shape, dtype=torch.bool)
    for name in ("speech", "text"):
        context = model.experts[name].context(values[f"{case}.{name}_embeddings"], mask)
        torch.testing.assert_close(context, values[f"{case}.{name}_context"], atol=1e-5, rtol=0)
    model.gate.kind = "majority"
    try:
        inputs = {name: values[f"{case}.{name}"] for name in ("speech_embeddings", "text_embeddings")}
        assert torch.equal(model(**inputs).logits.argmax(-1), values[f"{case}.majority"])
    finally:
        model.gate.kind = "learned"


# Padding and causality -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fields", ABLATIONS.values(), ids=ABLATIONS)
def test_a_conversation_has_the_same_outputs_and_losses_alone_and_padded(fields):
    model = make_model(**fields)
    batch = make_batch(model, (5,))
    padded = {
        name: torch.cat([value, torch.full((1, 10, *value.shape[2:]), 7, dtype=value.dtype)], 1)
        for name, value in batch.items()
    }
    padded["utterance_mask"][:, 5:] = 0
    with torch.no_grad():
        alone, together = model(**batch), model(**padded)
    for name, value in tensors(alone).items():
        torch.testing.assert_close(tensors(together)[name][:, :5], value, atol=1e-5, rtol=1e-5)
        assert not tensors(together)[name][:, 5:].any(), name
    for name, loss in alone.losses.items():
        torch.testing.assert_close(together.losses[name], loss, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("fields", ABLATIONS.values(), ids=ABLATIONS)
def test_a_conversation_has_the_same_outputs_alone_and_with_others(fields):
    model = make_model(**fields)
    batch = make_batch(model)
    with torch.no_grad():
        together = tensors(model(**batch))
        for row, length in enumerate((5, 2, 9)):
            alone = tensors(model(**{name: value[row : row + 1, :length] for name, value in batch.items()}))
            for name, value in alone.items():
                torch.testing.assert_close(together[name][row, :length], value[0], atol=1e-5, rtol=1e-5)


def test_a_causal_model_does_not_use_later_utterances():
    model = make_model(causal=True)
    batch = make_batch(model, (9,))
    changed = {name: value.clone() for name, value in batch.items()}
    for name in ("speech_embeddings", "text_embeddings"):
        changed[name][:, 4:] = torch.randn_like(changed[name][:, 4:])
    changed["speech_mask"][:, 4:] = 1 - changed["speech_mask"][:, 4:]
    with torch.no_grad():
        before, after = tensors(model(**batch)), tensors(model(**changed))
    for name, value in before.items():
        assert torch.equal(after[name][:, :4], value[:, :4]), name
        assert not torch.equal(after[name][:, 4:], value[:, 4:]), name


def test_without_causality_earlier_utterances_depend_on_later_ones():
    model = make_model()
    batch = make_batch(model, (9,))
    changed = {**batch, "text_embeddings": batch["text_embeddings"].clone()}
    changed["text_embeddings"][:, 8] += 1.0
    with torch.no_grad():
        assert not torch.allclose(model(**batch).logits[:, 0], model(**changed).logits[:, 0], atol=1e-6)


@pytest.mark.parametrize("experts", [["speech"], ["text"], ["cross_modal"], ["speech", "text", "cross_modal"]])
def test_without_context_an_utterance_depends_on_itself_alone(experts):
    model = make_model(context_num_layers=0, context_kernels=[1], experts=experts)
    batch = make_batch(model, (6,))
    changed = {name: value.clone() for name, value in batch.items()}
    for name in ("speech_embeddings", "text_embeddings"):
        changed[name][:, [0, 1, 3, 4, 5]] += 1.0
    with torch.no_grad():
        assert torch.equal(model(**batch).logits[:, 2], model(**changed).logits[:, 2])


# Gate and missing modalities -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("gate", ["learned", "uniform", "majority"])
def test_the_gate_adds_up_to_one_and_leaves_out_the_expert_of_a_missing_modality(gate):
    model = make_model(gate=gate)
    batch = make_batch(model, (15,))
    with torch.no_grad():
        weights = model(**batch).gate[0]  # (U, 3)
    torch.testing.assert_close(weights.sum(-1), torch.ones(15))
    assert not weights[batch["speech_mask"][0] == 0, 0].any()
    assert not weights[batch["text_mask"][0] == 0, 1].any()
    if gate == "uniform":
        torch.testing.assert_close(weights[0], torch.full((3,), 1 / 3))


def test_a_missing_modality_is_a_learned_vector_whatever_its_embedding():
    model = make_model()
    batch = make_batch(model)
    changed = {name: value.clone() for name, value in batch.items()}
    changed["speech_embeddings"][batch["speech_mask"] == 0] = float("nan")
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, model(**changed).logits)


def test_a_conversation_without_speech_uses_the_text():
    model = make_model()
    batch = make_batch(model)
    text = {name: value for name, value in batch.items() if not name.startswith("speech")}
    outputs = model(**text, speech_mask=None)
    assert outputs.loss.isfinite() and not outputs.gate[..., 0].any()
    without = model(**text, speech_embeddings=torch.randn(3, 9, 6), speech_mask=torch.zeros(3, 9))
    torch.testing.assert_close(outputs.logits, without.logits)


def test_an_utterance_without_any_modality_is_judged_by_its_context():
    model = make_model(experts=["speech"])
    embeddings = torch.randn(1, 3, 6)
    outputs = model(embeddings, speech_mask=torch.tensor([[1, 0, 1]]), labels=torch.tensor([[0, 1, 2]]))
    assert outputs.logits.isfinite().all() and outputs.loss.isfinite() and outputs.gate.eq(1).all()


def test_the_majority_is_that_of_the_classes_and_ties_go_to_the_last_expert():
    gate = make_model(gate="majority").gate
    votes = torch.tensor([[0, 0, 1], [2, 1, 1], [0, 1, 2], [3, 3, 3]])
    logits = torch.nn.functional.one_hot(votes, 4).float()[None]  # (1, 4, 3, 4)
    weights = gate(logits, torch.ones(1, 4, 3, dtype=torch.bool))[0]
    expected = torch.tensor([[1 / 2, 1 / 2, 0], [0, 1 / 2, 1 / 2], [0, 0, 1], [1 / 3, 1 / 3, 1 / 3]])
    torch.testing.assert_close(weights, expected)


# Losses --------------------------------------------------------------------------------------------------------------


def test_focal_loss_by_hand():
    logits = torch.tensor([[0.0, math.log(3)], [math.log(4), 0.0]])  # p of the true class: 3/4 and 1/5
    expected = (0.25**3 * -math.log(0.75) + 0.8**3 * -math.log(0.2)) / 2
    assert focal_loss(logits, torch.tensor([1, 1]), 3.0).item() == pytest.approx(expected, rel=1e-6)


def test_contrastive_loss_is_that_of_a_loop():
    torch.manual_seed(0)
    states, labels, temperature = torch.randn(7, 5), [0, 1, 0, 2, 1, 0, 3], 0.5
    vectors = [state / state.norm() for state in states]
    terms = []
    for i in range(7):
        others = [a for a in range(7) if a != i]
        positive = [p for p in others if labels[p] == labels[i]]
        total = sum(math.exp(vectors[i] @ vectors[a] / temperature) for a in others)
        ratios = [math.exp(vectors[i] @ vectors[p] / temperature) / total for p in positive]
        if positive:
            terms.append(sum(map(math.log, ratios)) / len(positive))
    loss = contrastive_loss(states, torch.tensor(labels), temperature)
    assert loss.item() == pytest.approx(-sum(terms) / len(terms), rel=1e-5)


@pytest.mark.parametrize(("reduction", "expected"), [("conversation", 3 / 2), ("utterance", 1)])
def test_consistency_loss_by_hand(reduction, expected):
    # p = (3/4, 1/4), q = (1/4, 3/4): sum (p - q)(log p - log q) = log 3; three of four places count
    one, other = torch.tensor([math.log(3), 0.0]), torch.tensor([0.0, math.log(3)])
    logits = {"speech": one.expand(2, 2, 2), "text": other.expand(2, 2, 2)}
    valid = torch.tensor([[True, True], [True, False]])
    loss = consistency_loss(logits, {"speech": valid, "text": valid}, reduction)
    assert loss.item() == pytest.approx(expected * math.log(3), rel=1e-6)


@pytest.mark.parametrize("fields", ABLATIONS.values(), ids=ABLATIONS)
def test_losses_are_finite_for_one_utterance_and_without_labels(fields):
    model = make_model(**fields).train()
    for labels in (torch.tensor([[2]]), torch.tensor([[-100]])):
        batch = {**make_batch(model, (1,)), "labels": labels}
        outputs = model(**batch)
        outputs.loss.backward()
        assert all(loss.isfinite() for loss in outputs.losses.values())
        assert all(each.grad is None or each.grad.isfinite().all() for each in model.parameters())
        if labels.item() == -100:
            assert outputs.loss.item() == 0


@pytest.mark.parametrize("fields", ABLATIONS.values(), ids=ABLATIONS)
def test_every_parameter_learns(fields):
    model = make_model(**fields)
    batch = make_batch(model)
    model(**batch).loss.backward()
    silent = {name for name, each in model.named_parameters() if each.grad is None or not each.grad.any()}
    alone = not model.config.uses_context  # attention to a single utterance has no choice
    assert not {name for name in silent if not (alone and (".query." in name or ".key." in name))}


def test_losses_of_unlabelled_utterances_are_those_without_them():
    model = make_model(context_num_layers=0, context_kernels=[1], consistency_reduction="utterance")
    batch = make_batch(model, (6,))
    batch["labels"][0, 4:] = -100
    short = {name: value[:, :4] for name, value in batch.items()}
    with torch.no_grad():
        full, cut = model(**batch), model(**short)
    for name, loss in cut.losses.items():
        torch.testing.assert_close(full.losses[name], loss, atol=1e-6, rtol=1e-5)


def test_the_loss_weighs_its_parts():
    model = make_model(contrastive_weight=3.0, consistency_weight=0.5)
    outputs = model(**make_batch(model))
    names = ("mix", "speech", "text", "cross_modal")
    expected = sum(outputs.losses[name] for name in names)
    expected = expected + 3 * outputs.losses["contrastive"] + 0.5 * outputs.losses["consistency"]
    torch.testing.assert_close(outputs.loss, expected)


def test_a_small_model_learns_what_only_the_context_tells():
    """The class of an utterance is that of the utterance before it."""
    torch.manual_seed(0)
    config = MisterEConfig(**{**SIZES, "speech_size": 0, "text_size": 4, "causal": True, "context_dropout": 0.0})
    model = MisterEForConversationEmotion(config).train()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        classes = torch.randint(4, (8, 6))
        labels = classes.roll(1, 1)
        labels[:, 0] = -100
        outputs = model(text_embeddings=torch.nn.functional.one_hot(classes, 4).float(), labels=labels)
        optimizer.zero_grad()
        outputs.loss.backward()
        optimizer.step()
    known = labels != -100
    assert (outputs.logits.argmax(-1) == labels)[known].float().mean() > 0.95


# Configuration, saving, remote code ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"experts": ["text", "speech"]}, "in this order"),
        ({"experts": []}, "expected some of"),
        ({"speech_size": 0, "experts": ["speech"]}, r"expected some of \['text'\]"),
        ({"speech_size": 0, "text_size": 0}, "expected some of"),
        ({"context_kernels": [2]}, "expected odd widths"),
        ({"context_kernels": []}, "1 to 64 widths"),
        ({"attention_size": 7}, "multiple of `attention_heads`, 3"),
        ({"context_dropout": 1.0}, "`context_dropout` is 1.0"),
        ({"gate": "router"}, "`gate` is 'router'; expected one of"),
        ({"gate_temperature": 0.0}, "above 0"),
        ({"contrastive_weight": -1.0}, "at least 0"),
        ({"cross_modal_input": "context", "experts": ["speech", "cross_modal"]}, "the context is that of"),
    ],
)
def test_a_configuration_that_cannot_be_says_so(fields, message):
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        MisterEConfig(**{**SIZES, **fields})


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "got no embeddings; expected `speech_embeddings` or `text_embeddings`"),
        ({"text_embeddings": torch.zeros(2, 10)}, r"expected \(conversations, utterances, 10\)"),
        ({"text_embeddings": torch.zeros(1, 3, 6)}, r"has the shape \(1, 3, 6\)"),
        (
            {"text_embeddings": torch.zeros(1, 3, 10), "speech_embeddings": torch.zeros(1, 2, 6)},
            "expected as many conversations and utterances",
        ),
        ({"text_embeddings": torch.zeros(1, 3, 10), "utterance_mask": torch.ones(1, 2)}, "`utterance_mask` has the"),
        ({"text_embeddings": torch.zeros(1, 3, 10), "utterance_mask": torch.tensor([[1, 0, 1]])}, "has a gap"),
        ({"text_embeddings": torch.zeros(1, 3, 10), "labels": torch.zeros(1, 2).long()}, "`labels` has the shape"),
        ({"text_embeddings": torch.zeros(1, 3, 10), "labels": torch.zeros(1, 3)}, "expected whole numbers"),
    ],
)
def test_inputs_that_do_not_fit_say_so(inputs, message):
    with pytest.raises(ValueError, match=message):
        make_model()(**inputs)


def test_a_modality_that_the_model_does_not_have_is_refused():
    with pytest.raises(ValueError, match="This model has no speech: leave `speech_embeddings` out"):
        make_model(speech_size=0)(speech_embeddings=torch.zeros(1, 3, 6))


def test_the_configuration_survives_json():
    config = MisterEConfig(**SIZES, id2label={0: "joy", 1: "fear", 2: "anger", 3: "neutral"}, causal=True)
    again = MisterEConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again.to_dict() == config.to_dict() and again.experts == ["speech", "text", "cross_modal"]


LOAD = """
import json, sys
sys.modules["modeling_sparse_merit"] = None
import torch
from transformers import AutoModel, pipeline
folder, data = sys.argv[1:]
model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
with torch.no_grad():
    outputs = model(**torch.load(data, weights_only=True))
model.save_pretrained(folder + "/again")
home = type(model).__module__.split(".")[0]
pipe = pipeline(model=folder, trust_remote_code=True)
assert type(pipe).__name__ == "ConversationPipeline"
print(json.dumps([type(model).__name__, home, outputs.logits.tolist()]))
"""


def test_a_checkpoint_loads_with_and_without_the_package(tmp_path):
    model = make_model(id2label={0: "joy", 1: "fear", 2: "anger", 3: "neutral"})
    batch = make_batch(model)
    model.save_pretrained(tmp_path)
    torch.save(batch, tmp_path / "batch.pt")
    with torch.no_grad():
        expected = model(**batch).logits
        loaded = MisterEForConversationEmotion.from_pretrained(tmp_path).eval()
        torch.testing.assert_close(loaded(**batch).logits, expected)
    command = [sys.executable, "-I", "-c", LOAD, tmp_path, tmp_path / "batch.pt"]
    done = subprocess.run(list(map(str, command)), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    name, home, logits = json.loads(done.stdout.splitlines()[-1])
    assert (name, home) == ("MisterEForConversationEmotion", "transformers_modules")
    torch.testing.assert_close(torch.tensor(logits), expected)
    code = {path.name for path in tmp_path.glob("*.py")}
    assert code == {path.name for path in (tmp_path / "again").glob("*.py")}
    names = ("configuration_mister_e", "modeling_mister_e", "pipeline_mister_e", "context", "cross_modal", "losses")
    assert code == {f"{name}.py" for name in names}
