# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""What users of `transformers` take for granted of an audio classifier: arguments, labels, dtypes, the Trainer."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY_SIZES
from peft import LoraConfig, TaskType, get_peft_model
from transformers import AutoModel, AutoModelForAudioClassification, WavLMConfig, WavLMModel, pipeline
from transformers.quantizers import auto as quantizers

from modeling_sparse_merit import SparseMeritConfig, SparseMeritForSpeechEnhancementAndEmotion, SparseMeritInt8Config
from modeling_sparse_merit.hub.export import export_checkpoint
from modeling_sparse_merit.models.sparse_merit import quantization
from modeling_sparse_merit.models.sparse_merit.quantization import is_quantized

LABELS = torch.tensor([0, 1])


@pytest.fixture
def values():
    torch.manual_seed(0)
    return torch.randn(2, 6_000)


@pytest.fixture
def load(tiny_checkpoint):
    def from_pretrained(**changes):
        changes.setdefault("ignore_mismatched_sizes", True)
        return SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(tiny_checkpoint, **changes).eval()

    return from_pretrained


# Arguments -----------------------------------------------------------------------------------------------------------


def test_return_dict_false_gives_a_tuple_without_what_is_none(load, values):
    model = load()
    outputs = model(values)
    for actual in (model(values, return_dict=False), load(return_dict=False)(values)):
        assert isinstance(actual, tuple) and len(actual) == len(outputs.to_tuple())
        torch.testing.assert_close(actual[0], outputs[0])
    assert isinstance(model.model(values, return_dict=False), tuple)


def test_hidden_states_come_by_argument_and_by_configuration(load, values):
    asked, configured = load()(values, output_hidden_states=True), load(output_hidden_states=True)(values)
    assert len(asked.hidden_states) == len(configured.hidden_states) == 3
    assert load(output_hidden_states=True)(values, output_hidden_states=False).hidden_states is None
    assert load()(values).hidden_states is None


def test_hidden_states_may_be_chosen_by_index(load, values):
    states = load()(values, output_hidden_states=True).hidden_states
    chosen = load()(values, output_hidden_states=[0, -1]).hidden_states
    assert [state is None for state in chosen] == [False, True, False]
    torch.testing.assert_close((chosen[0], chosen[2]), (states[0], states[2]))


@pytest.mark.parametrize("implementation", [None, "eager", "sdpa", "flex_attention"])
def test_attentions_come_by_argument_and_by_configuration(load, values, implementation):
    asked = load(attn_implementation=implementation)(values, output_attentions=True)
    configured = load(attn_implementation=implementation, output_attentions=True)
    for outputs in (asked, configured(values), configured.model(values, output_attentions=None)):
        assert [weights.shape for weights in outputs.attentions] == [(2, 2, 18, 18)] * 2  # (B, H, T, T) of each layer
    if implementation != "flex_attention":  # which is compiled
        torch.testing.assert_close(asked.logits, load(attn_implementation=implementation)(values).logits)
        assert configured(values, output_attentions=False).attentions is None
        assert load()(values).attentions is None


def test_a_configuration_with_attentions_is_saved_and_comes_back(load, values, tmp_path):
    load(output_attentions=True, attn_implementation="sdpa").save_pretrained(tmp_path)
    assert SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(tmp_path)(values).attentions is not None


def test_hidden_states_and_attentions_are_part_of_the_graph(load, values):
    outputs = load()(values, output_hidden_states=True, output_attentions=True)
    recorded = (*outputs.hidden_states, *outputs.attentions)
    for each in recorded:
        each.retain_grad()
    (outputs.logits.sum() + outputs.enhanced_values.sum()).backward()
    assert all(each.grad.abs().max() > 0 for each in recorded)


def test_the_base_model_returns_a_tensor_first(load, values):
    outputs = load().model(values)
    assert list(outputs)[0] == "last_hidden_state" and outputs[0].shape == (2, 18, 32)
    assert load().model(values, return_dict=False)[0].equal(outputs[0])


def test_outputs_of_the_encoder_may_be_given(load, values):
    model = load()
    expected = model(values, output_attentions=True, output_hidden_states=True)
    given = model(values, encoder_outputs=model.model.encoder(values), output_hidden_states=True)
    with_attentions = model.model.encoder(values, output_attentions=True)
    torch.testing.assert_close(given.logits, expected.logits)
    torch.testing.assert_close(given.hidden_states, expected.hidden_states)
    assert given.attentions is None and model(values, encoder_outputs=with_attentions).attentions is None
    recorded = model(values, encoder_outputs=with_attentions, output_attentions=True)
    torch.testing.assert_close(recorded.attentions, expected.attentions)


def test_the_implementation_of_experts_is_no_choice_of_the_user(load, values):
    """As in every model of transformers whose experts are not one tensor."""
    torch.testing.assert_close(load(experts_implementation="eager")(values).logits, load()(values).logits)
    with pytest.raises(ValueError, match="does not support setting experts implementation"):
        load(experts_implementation="grouped_mm")


def test_what_the_model_does_not_know_is_refused(load, values):
    with pytest.raises(TypeError, match=r"unknown arguments \['inputs_embeds'\]"):
        load()(values, inputs_embeds=values)


@pytest.mark.parametrize("task", [TaskType.SEQ_CLS, TaskType.FEATURE_EXTRACTION])
def test_adapters_of_pefts_task_types_run(load, values, task):
    adapted = get_peft_model(load(), LoraConfig(task_type=task, r=2, target_modules=["q_proj", "v_proj"]))
    assert adapted(input_values=values, labels=LABELS).loss.isfinite()


def test_freeze_base_model_leaves_the_heads(load):
    model = load()
    model.freeze_base_model()
    assert {name.split(".")[0] for name, weight in model.named_parameters() if weight.requires_grad} == {"heads"}


# Labels --------------------------------------------------------------------------------------------------------------


def test_labels_may_be_a_column(load, values):
    model = load()
    torch.testing.assert_close(model(values, labels=LABELS[:, None]).loss, model(values, labels=LABELS).loss)


@pytest.mark.parametrize("labels", [torch.tensor([0.9, 1.9]), torch.rand(2, 4), torch.ones(2, 4, dtype=torch.long)])
def test_labels_that_are_no_classes_are_refused(load, values, labels):
    with pytest.raises(ValueError, match=r"`labels` has the type .*expected whole numbers of the shape \(2,\)"):
        load()(values, labels=labels)


@pytest.mark.parametrize("problem_type", ["regression", "multi_label_classification"])
def test_other_problems_than_classification_are_refused(load, problem_type):
    with pytest.raises(
        ValueError, match=f"`problem_type` is '{problem_type}'; expected 'single_label_classification'"
    ):
        load(problem_type=problem_type, num_labels=3)


def test_a_single_class_is_refused(load, values):
    with pytest.raises(ValueError, match="has one class, so there is nothing to learn"):
        load(num_labels=1)(values, labels=torch.tensor([0, 0]))


def test_labels_with_text_for_numbers_are_labels(load):
    config = load(id2label={"0": "calm", "1": "busy"}, label2id={"calm": 0, "busy": 1}).config
    assert config.id2label == {0: "calm", 1: "busy"}


@pytest.fixture
def weighted(tiny_config):
    return SparseMeritConfig(**{**tiny_config.to_dict(), "class_weights": [1.0, 2.0, 3.0, 4.0]})


def test_weights_of_classes_go_with_their_labels(weighted):
    assert weighted.class_weights == [1.0, 2.0, 3.0, 4.0]
    weighted.id2label = dict(weighted.id2label)
    weighted.num_labels = 4
    assert weighted.class_weights == [1.0, 2.0, 3.0, 4.0]
    weighted.id2label = {0: "calm", 1: "fear", 2: "disgust", 3: "surprise"}
    assert weighted.class_weights is None


def test_another_number_of_labels_drops_the_weights_of_classes(weighted, tiny_checkpoint, values):
    weighted.num_labels = 7
    model = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(
        tiny_checkpoint, config=weighted, ignore_mismatched_sizes=True
    )
    assert model(values, labels=torch.tensor([0, 6])).loss.isfinite()


# Precision -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tiny_checkpoint, tmp_path_factory):
    return str(export_checkpoint(tiny_checkpoint, tmp_path_factory.mktemp("exported") / "model"))


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8", torch.int8, torch.float32, torch.bfloat16])
def test_auto_classes_take_every_precision(exported, tiny_checkpoint, values, dtype):
    expected = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(tiny_checkpoint, dtype=dtype)
    for auto in (AutoModel, AutoModelForAudioClassification):
        model = auto.from_pretrained(exported, dtype=dtype, trust_remote_code=True)
        assert [type(part).__name__ for part in model.modules()] == [
            type(part).__name__ for part in expected.modules()
        ]
        assert model.dtype == expected.dtype
        inputs = values.to(model.dtype)
        torch.testing.assert_close(model(inputs).logits, expected.eval()(inputs).logits, rtol=1e-5, atol=1e-5)
        assert "_precision" not in model.config.to_dict()


@pytest.mark.parametrize("config", [SparseMeritInt8Config(), {"quant_method": "sparse_merit_int8"}])
def test_int8_is_a_quantization_config_of_every_door(exported, tiny_checkpoint, values, config):
    short = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(tiny_checkpoint, dtype="int8")
    models = [
        SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(tiny_checkpoint, quantization_config=config),
        AutoModel.from_pretrained(exported, trust_remote_code=True, quantization_config=config),
        AutoModelForAudioClassification.from_pretrained(exported, trust_remote_code=True, quantization_config=config),
        AutoModel.from_pretrained(exported, trust_remote_code=True, dtype="int8"),
        pipeline(model=exported, trust_remote_code=True, model_kwargs={"quantization_config": config}).model,
    ]
    inputs = values.to(short.dtype)
    expected = short(inputs).logits
    for model in (short, *models):
        assert [type(part).__name__ for part in model.modules()] == [type(part).__name__ for part in short.modules()]
        torch.testing.assert_close(model(inputs).logits, expected, rtol=0, atol=0)
        assert model.hf_quantizer.quantization_config.quant_method == "sparse_merit_int8"
        assert model.config.to_dict()["quantization_config"] == {"quant_method": "sparse_merit_int8"}
        assert model.is_quantized and not model.hf_quantizer.is_trainable and not model.training
        with pytest.raises(ValueError, match="Load it with dtype='fp32' to save it"):
            model.save_pretrained("nowhere")


def test_a_configuration_saved_from_int8_loads_int8_again(tiny_checkpoint, tmp_path, values):
    shutil.copytree(tiny_checkpoint, tmp_path, dirs_exist_ok=True)
    load = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained
    expected = load(tmp_path, dtype="int8")
    expected.config.save_pretrained(tmp_path)
    for model in (load(tmp_path), load(tmp_path, dtype="int8")):
        assert is_quantized(model)
        inputs = values.to(model.dtype)
        torch.testing.assert_close(model(inputs).logits, expected(inputs).logits, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_other_precisions_are_not_quantized(load, dtype):
    model = load(dtype=dtype)
    assert not hasattr(model, "hf_quantizer") and not hasattr(model.config, "quantization_config")


def test_what_does_not_go_with_int8_is_refused(load, tiny_checkpoint):
    with pytest.raises(ValueError, match="`dtype` is 'int8' and `quantization_config` is given"):
        load(dtype="int8", quantization_config=SparseMeritInt8Config())
    with pytest.raises(ValueError, match="`quant_method` is 'awq'; expected 'sparse_merit_int8'"):
        SparseMeritInt8Config(quant_method="awq")
    with pytest.raises(ValueError, match="for Sparse MERIT models, but the model is a WavLMModel"):
        WavLMModel.from_pretrained(
            None, config=WavLMConfig(**TINY_SIZES), state_dict={}, quantization_config=SparseMeritInt8Config()
        )


def test_the_code_of_a_checkpoint_registers_a_quantizer_once():
    spec = importlib.util.spec_from_file_location("second_copy", quantization.__file__)
    second = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(second)
    registered = quantizers.AUTO_QUANTIZATION_CONFIG_MAPPING["sparse_merit_int8"]
    assert registered.__name__ == "SparseMeritInt8Config" and registered is not second.SparseMeritInt8Config


@pytest.mark.parametrize("task", [None, "audio-classification"])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "int8"])
def test_pipelines_take_every_precision(exported, values, task, dtype):
    pipe = pipeline(task, model=exported, dtype=dtype, trust_remote_code=True)
    kinds = {type(part).__name__ for part in pipe.model.modules()}
    assert any("Int8" in kind for kind in kinds) == (dtype == "int8")
    assert pipe(values[0].numpy(), sampling_rate=16_000)


def test_a_model_in_int8_runs_outside_of_no_grad_and_has_nothing_to_train(tiny_checkpoint, values):
    model = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(tiny_checkpoint, dtype="int8")
    assert is_quantized(model) and not any(weight.requires_grad for weight in model.parameters())
    assert np.isfinite(model(values).logits.float().numpy()).all()


# Training ------------------------------------------------------------------------------------------------------------


def test_reentrant_checkpointing_gives_the_same_gradients(load, values):
    gradients = []
    for reentrant in (False, True):
        model = load().train()
        for part in model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
        torch.manual_seed(0)
        model(values, labels=LABELS).loss.backward()
        gradients.append([weight.grad for weight in model.parameters() if weight.grad is not None])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)


TRAIN = """
import json, sys, numpy as np
from transformers import AutoFeatureExtractor, AutoModelForAudioClassification, Trainer, TrainingArguments, set_seed
set_seed(0)
extractor = AutoFeatureExtractor.from_pretrained(sys.argv[1], trust_remote_code=True)
still = {name: 0.0 for name in ("hidden_dropout", "attention_dropout", "feat_proj_dropout", "final_dropout")}
model = AutoModelForAudioClassification.from_pretrained(
    sys.argv[1], trust_remote_code=True, tasks=["emotion"], load_balancing_weight=0.0, **still
)
generator = np.random.default_rng(0)
waves = [generator.standard_normal(6_000 + 500 * i) for i in range(12)]
clips = [extractor(wave, sampling_rate=16_000)["input_values"][0] for wave in waves]
rows = [{"input_values": clip, "labels": i % 4} for i, clip in enumerate(clips)]
arguments = TrainingArguments(
    output_dir=sys.argv[2], per_device_train_batch_size=int(sys.argv[3]), max_steps=5, report_to=[], use_cpu=True,
    ddp_backend="gloo", disable_tqdm=True, save_strategy="no", logging_steps=1, gradient_checkpointing=True,
    learning_rate=1e-3,
)
trainer = Trainer(model, arguments, train_dataset=rows, processing_class=extractor)
trainer.train()
if arguments.process_index == 0:
    print("LOSSES", json.dumps([entry["loss"] for entry in trainer.state.log_history if "loss" in entry]))
"""


@pytest.mark.slow
def test_the_trainer_on_two_processes_with_gradient_checkpointing_learns_as_on_one(exported, tmp_path):
    """With dropout and load balancing, which a process computes of its own clips, left out."""
    (tmp_path / "train.py").write_text(TRAIN)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    losses = []
    for processes, batch_size in ((1, 4), (2, 2)):
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
        command = [sys.executable, *launcher, "train.py", exported, "out", str(batch_size)]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=240)
        assert done.returncode == 0, done.stderr[-3000:]
        (line,) = [line for line in done.stdout.splitlines() if line.startswith("LOSSES")]
        losses.append(json.loads(line.removeprefix("LOSSES ")))
    assert len(losses[0]) == 5
    assert losses[1] == pytest.approx(losses[0], abs=2e-4)  # the log keeps four decimals
    assert len(set(losses[0])) == 5
