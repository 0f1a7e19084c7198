# Copyright 2026 The Sparse MERIT authors. Licensed under the Apache License, Version 2.0.
"""The speech-text model: parity with the published fusion, embeddings, missing modalities, configuration, parts."""

import json
import math

import numpy as np
import pytest
import torch
from conftest import TINY_SIZES, make_speech
from huggingface_hub.errors import StrictDataclassClassValidationError
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModel, BertConfig, LlamaConfig, PreTrainedTokenizerFast, RobertaConfig, T5Config

from modeling_sparse_merit import (
    SparseMeritConfig,
    SparseMeritFeatureExtractor,
    SparseMeritForSpeechEnhancementAndEmotion,
    SpeechTextConfig,
    SpeechTextForEmotion,
    SpeechTextPipeline,
    SpeechTextProcessor,
)
from modeling_sparse_merit.models.sparse_merit.clip_heads import ClipHead
from modeling_sparse_merit.models.sparse_merit.tasks import EMOTION

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "i", "am", "so", "glad", "sad", "to", "know", "that", "hello"]
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TEXT_CONFIGS = {
    "roberta": RobertaConfig(vocab_size=len(WORDS), pad_token_id=0, max_position_embeddings=40, **SIZES),
    "bert": BertConfig(vocab_size=len(WORDS), max_position_embeddings=40, **SIZES),
    "llama": LlamaConfig(vocab_size=len(WORDS), bos_token_id=2, eos_token_id=3, pad_token_id=None, **SIZES),
}
ATTRIBUTES = {"kind": "regression", "outputs": ["valence", "arousal"], "minimum": 1.0, "maximum": 7.0}
TASKS = {"tasks": ["emotion", "attributes"], "clip_tasks": {"attributes": ATTRIBUTES}}
TEXTS = ["i am so glad to know that", "hello", "sad"]


def speech_config(**fields) -> SparseMeritConfig:
    return SparseMeritConfig(**{**TINY_SIZES, "tasks": ["emotion"], "integration": "last_layer", **fields})


def make_model(text: str = "roberta", seed: int = 0, **fields) -> SpeechTextForEmotion:
    parts = {"speech_config": speech_config(), "text_config": TEXT_CONFIGS[text].to_dict()}
    torch.manual_seed(seed)
    return SpeechTextForEmotion(SpeechTextConfig(**{**parts, "head_hidden_size": 8, **fields})).eval()


def make_tokenizer(**options) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = [("[CLS]", WORDS.index("[CLS]")), ("[SEP]", WORDS.index("[SEP]"))]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=special)
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **{**names, "model_max_length": 38, **options})


def make_processor() -> SpeechTextProcessor:
    return SpeechTextProcessor(SparseMeritFeatureExtractor(), make_tokenizer())


def make_clips() -> list[np.ndarray]:
    return [make_speech(seconds, seed=seed) for seed, seconds in enumerate((0.9, 0.3, 0.6))]


@pytest.fixture
def processor() -> SpeechTextProcessor:
    return make_processor()


@pytest.fixture(scope="module")
def clips() -> list[np.ndarray]:
    return make_clips()


@pytest.fixture
def batch(processor, clips):
    return processor(audio=clips, text=TEXTS, sampling_rate=16_000, return_tensors="pt")


# Model ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("task", "size"), [("attributes", 3), ("categories", 8)])
def test_the_fusion_head_is_the_published_one(reference_data, task, size):
    published = load_file(reference_data / "golden" / "speech_text" / "golden.safetensors")
    config = SpeechTextConfig(
        speech_config=speech_config(hidden_size=24, num_attention_heads=2),
        text_config=RobertaConfig(hidden_size=24, num_attention_heads=2, vocab_size=8, num_hidden_layers=1),
        head_hidden_size=32,
        id2label=dict(enumerate("abcdefgh")),
        **(TASKS if task == "attributes" else {}),
    )
    if task == "attributes":
        names = {"outputs": ["activation", "dominance", "valence"], "minimum": 0.0, "maximum": 1.0}
        config.clip_tasks = {"attributes": {**ATTRIBUTES, **names}}
    model = SpeechTextForEmotion(config).eval()
    head: ClipHead = model.heads[EMOTION if task == "categories" else task]
    for ours, theirs in (("dense", "fc.0.0"), ("layer_norm", "fc.0.1"), ("classifier", "out.0")):
        for kind in ("weight", "bias"):
            getattr(head, ours).get_parameter(kind).data = published[f"fusion.{task}.weights.{theirs}.{kind}"]
    embeddings = {"speech_embeddings": published["fusion.audio"], "text_embeddings": published["fusion.text"]}
    outputs = model(**embeddings)
    output = outputs.logits if task == "categories" else outputs.of("attributes")
    assert output.shape[1] == size
    torch.testing.assert_close(output, published[f"fusion.{task}.output"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("text", TEXT_CONFIGS)
@pytest.mark.parametrize("pooling", ["mean", "attentive_statistics"])
def test_a_clip_has_the_same_outputs_alone_and_in_a_batch(processor, batch, clips, text, pooling):
    model = make_model(text, text_pooling=pooling, **TASKS)
    with torch.no_grad():
        together = model(**batch)
        for row, (clip, words) in enumerate(zip(clips, TEXTS, strict=True)):
            alone = model(**processor(audio=clip, text=words, sampling_rate=16_000, return_tensors="pt"))
            for name in ("speech_embeddings", "text_embeddings", "logits"):
                torch.testing.assert_close(getattr(alone, name)[0], getattr(together, name)[row], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(alone.of("attributes")[0], together.of("attributes")[row], atol=1e-5, rtol=1e-5)


def test_the_embedding_of_a_text_is_the_mean_over_its_tokens(processor):
    model = make_model()
    tokens = processor(text=TEXTS, return_tensors="pt")
    with torch.no_grad():
        states = model.text(tokens["input_ids"][1:2, :3]).last_hidden_state  # [CLS] hello [SEP], without padding
        embeddings = model.embed_text(**tokens)
    torch.testing.assert_close(embeddings[1], states[0].mean(0), atol=1e-6, rtol=1e-5)


def test_given_embeddings_replace_the_encoders(batch):
    model = make_model()
    with torch.no_grad():
        computed = model(**batch)
        model.speech = model.text = None  # which would raise an error if they were called
        given = model(speech_embeddings=computed.speech_embeddings, text_embeddings=computed.text_embeddings)
    assert torch.equal(given.logits, computed.logits)


def test_losses_are_those_of_the_tasks(batch):
    model = make_model(**TASKS, task_weights={"attributes": 0.5})
    ratings = torch.tensor([[2.0, math.nan], [3.0, 4.0], [6.0, 2.0]])
    outputs = model(**batch, labels=torch.tensor([0, -100, 3]), task_labels={"attributes": ratings})
    expected = torch.nn.functional.cross_entropy(outputs.logits, torch.tensor([0, -100, 3]))
    torch.testing.assert_close(outputs.losses["emotion"], expected)
    torch.testing.assert_close(outputs.loss, outputs.losses["emotion"] + 0.5 * outputs.losses["attributes"])
    assert model(**batch).loss is None
    with pytest.raises(ValueError, match="`task_labels` has"):
        model(**batch, task_labels={"gender": ratings})


def test_frozen_encoders_have_no_dropout_and_no_gradient(batch):
    model = make_model(head_dropout=0.0).train()
    first, second = (model(**batch, labels=torch.tensor([0, 1, 2])) for _ in range(2))
    assert torch.equal(first.logits, second.logits)
    first.loss.backward()
    learning = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert learning == {"heads"}


@pytest.mark.parametrize("integration", ["last_layer", "experts"])
def test_encoders_that_are_not_frozen_learn(batch, integration):
    fields = {"speech_config": speech_config(integration=integration), "text_pooling": "attentive_statistics"}
    model = make_model(freeze_speech=False, freeze_text=False, **fields).train()
    outputs = model(**batch, labels=torch.tensor([0, 1, 2]))
    assert ("balance" in outputs.losses) == (integration == "experts")
    outputs.loss.backward()
    waiting = [name for name, each in model.named_parameters() if each.requires_grad and each.grad is None]
    assert waiting == []


def test_encoders_compute_in_mixed_precision(batch):
    model = make_model(**TASKS)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        outputs = model(**batch)
    assert outputs.speech_embeddings.dtype == outputs.text_embeddings.dtype == torch.float32
    with torch.no_grad():
        torch.testing.assert_close(outputs.logits.float(), model(**batch).logits, atol=0.05, rtol=0.05)


def test_adapters_learn_in_either_encoder(batch):
    peft = pytest.importorskip("peft")
    settings = peft.LoraConfig(r=2, target_modules=["query", "q_proj"], modules_to_save=["emotion"])
    model = peft.get_peft_model(make_model(), settings).train()
    model(**batch, labels=torch.tensor([0, 1, 2])).loss.backward()
    learning = [name for name, parameter in model.named_parameters() if parameter.grad is not None]
    for part in (".speech.", ".text.", ".heads."):
        assert any(part in name for name in learning)


# Missing modalities --------------------------------------------------------------------------------------------------


def test_a_model_without_modality_dropout_needs_both(processor, batch, clips):
    model = make_model()
    with pytest.raises(ValueError, match="needs text, .* pass `input_ids` or `text_embeddings`"):
        model(batch["input_values"], batch["attention_mask"])
    blank = processor(audio=clips, text=["hello", "  ", None], sampling_rate=16_000, return_tensors="pt")
    with pytest.raises(ValueError, match="needs text"):
        model(**blank)
    with pytest.raises(ValueError, match="neither a recording nor a text"):
        model()


def test_a_learned_vector_replaces_a_missing_modality(processor, batch, clips):
    model = make_model(modality_dropout=0.3)
    torch.nn.init.normal_(model.absent["text"])
    torch.nn.init.normal_(model.absent["speech"])
    mixed = processor(
        audio=[clips[0], None, clips[2]], text=[TEXTS[0], TEXTS[1], ""], sampling_rate=16_000, return_tensors="pt"
    )
    with torch.no_grad():
        whole, outputs = model(**batch), model(**mixed)
        absent = [values[None] for values in (model.absent["speech"], model.absent["text"])]
        text_alone = model(speech_embeddings=absent[0], text_embeddings=whole.text_embeddings[1:2])
        speech_alone = model(input_values=batch["input_values"], attention_mask=batch["attention_mask"])
    assert outputs.speech_embeddings[1].isnan().all() and outputs.text_embeddings[2].isnan().all()
    expected = torch.cat([whole.logits[:1], text_alone.logits, speech_alone.logits[2:]])
    torch.testing.assert_close(outputs.logits, expected, atol=1e-5, rtol=1e-5)
    with torch.no_grad():  # from stored embeddings
        again = model(speech_embeddings=outputs.speech_embeddings, text_embeddings=outputs.text_embeddings)
    assert torch.equal(again.logits, outputs.logits)
    neither = processor(audio=[clips[0], None], text=["hello", " "], sampling_rate=16_000, return_tensors="pt")
    with pytest.raises(ValueError, match="neither speech nor text"):
        model(**neither)


def test_modality_dropout_replaces_its_share_in_training_alone(batch):
    model = make_model(modality_dropout=0.4)
    present = torch.ones(2, 4000, dtype=torch.bool)
    torch.manual_seed(0)
    kept = model._drop_modalities(present)
    assert kept.any(0).all()  # never both
    assert (~kept).float().mean(1).tolist() == pytest.approx([0.2, 0.2], abs=0.03)
    model.train()
    outputs = model(**batch, labels=torch.tensor([0, 1, 2]))
    assert not outputs.speech_embeddings.isnan().any()  # those of the encoder
    outputs.loss.backward()
    assert all(vector.grad is not None for vector in model.absent.values())
    model.eval()
    assert torch.equal(model(**batch).logits, model(**batch).logits)


@pytest.mark.parametrize("own", ["speech", "text"])
def test_a_model_of_one_modality(own, batch, clips, tmp_path):
    other = "text" if own == "speech" else "speech"
    model = make_model(**{f"{other}_config": None})
    part = SparseMeritFeatureExtractor() if own == "speech" else make_tokenizer()
    processor = SpeechTextProcessor(**{"feature_extractor" if own == "speech" else "tokenizer": part})
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    inputs = {"audio": clips, "sampling_rate": 16_000} if own == "speech" else {"text": TEXTS}
    features = SpeechTextProcessor.from_pretrained(tmp_path)(**inputs, return_tensors="pt")
    logits = SpeechTextForEmotion.from_pretrained(tmp_path)(**features).logits
    assert torch.equal(logits, model(**features).logits) and not hasattr(model, other)
    with pytest.raises(ValueError, match=f"no {other} encoder"):
        model(**batch)
    with pytest.raises(ValueError, match=f"processor has no {other}"):
        processor(**({"text": "hello"} if own == "speech" else {"audio": clips[0], "sampling_rate": 16_000}))
    clip = {"audio": clips[0], "text": TEXTS[0]}
    assert len(SpeechTextPipeline.from_pretrained(tmp_path)(clip, sampling_rate=16_000)["emotion"]) == 4


# Configuration and parts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"speech_config": None, "text_config": None}, "at least one of them"),
        ({"speech_config": SparseMeritConfig(**TINY_SIZES)}, "one task, whose features are pooled"),
        ({"text_config": T5Config()}, "an encoder-decoder"),
        ({"tasks": ["emotion", "enhancement"]}, "`tasks` has \\['enhancement'\\]"),
        ({"text_pooling": "max"}, "`text_pooling` is 'max'"),
        ({"modality_dropout": 1.0}, "`modality_dropout` is 1.0"),
        ({"modality_dropout": 0.1, "text_config": None}, "expected 0 for a model of one modality"),
        ({"head_activation": "step"}, "`head_activation` is 'step'"),
        ({"class_weights": [1.0]}, "`class_weights` is"),
    ],
)
def test_a_configuration_that_is_not_valid_is_refused(fields, message):
    parts = {"speech_config": speech_config(), "text_config": TEXT_CONFIGS["bert"]}
    with pytest.raises(StrictDataclassClassValidationError, match=message):
        SpeechTextConfig(**{**parts, **fields})


@pytest.mark.parametrize("text", TEXT_CONFIGS)
def test_a_checkpoint_comes_back_as_it_was(text, batch, tmp_path):
    model = make_model(text, **TASKS, modality_dropout=0.1, freeze_text=False)
    model.save_pretrained(tmp_path)
    loaded, loading = SpeechTextForEmotion.from_pretrained(tmp_path, output_loading_info=True)
    assert not loading["missing_keys"] and not loading["unexpected_keys"]
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, model(**batch).logits)
    after, before = (each.config.text_config.to_dict() | {"dtype": None} for each in (loaded, model))
    assert after == before
    frozen, before = ({name for name, p in each.named_parameters() if not p.requires_grad} for each in (loaded, model))
    assert frozen == before and any(name.startswith("speech.") for name in frozen)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """A checkpoint of speech with three tasks, and one of text."""
    folder = tmp_path_factory.mktemp("parts")
    torch.manual_seed(3)
    tasks = {"tasks": ["enhancement", "emotion", "attributes"], "clip_tasks": {"attributes": ATTRIBUTES}}
    config = SparseMeritConfig(**TINY_SIZES, **tasks, id2label={0: "calm", 1: "angry"})
    SparseMeritForSpeechEnhancementAndEmotion(config).save_pretrained(folder / "speech")
    SparseMeritFeatureExtractor().save_pretrained(folder / "speech")
    AutoModel.from_config(TEXT_CONFIGS["roberta"]).save_pretrained(folder / "text")
    make_tokenizer().save_pretrained(folder / "text")
    return folder


def test_parts_give_their_encoders_and_pooling(parts, batch, tmp_path):
    model = SpeechTextForEmotion.from_parts(parts / "speech", parts / "text", head_hidden_size=8)
    processor = SpeechTextProcessor.from_parts(parts / "speech", parts / "text")
    assert model.config.tasks == ["emotion", "attributes"] and model.config.id2label == {0: "calm", 1: "angry"}
    source = SparseMeritForSpeechEnhancementAndEmotion.from_pretrained(parts / "speech").eval()
    text = AutoModel.from_pretrained(parts / "text").eval()
    with torch.no_grad():
        outputs = model.eval()(**batch)
        mask = batch["attention_mask"]
        of_source = source.model(batch["input_values"], mask, ("emotion",))
        pooled = source.heads["emotion"].pooling(of_source.features["emotion"], of_source.frame_mask)
        states = text(batch["input_ids"], batch["text_attention_mask"]).last_hidden_state
    torch.testing.assert_close(outputs.speech_embeddings, pooled, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(outputs.text_embeddings[0], states[0].mean(0), atol=1e-6, rtol=1e-5)
    assert processor(text="hello")["input_ids"].tolist() == [[2, 12, 3]]
    model.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["speech_config"]["tasks"] == ["emotion"]
    other = SpeechTextForEmotion.from_parts(parts / "speech", tasks=["attributes"])
    assert other.config.speech_config.tasks == ["attributes"]


def test_speech_text_models_are_parts_as_well(parts, batch, tmp_path):
    fields = {"head_hidden_size": 8, "id2label": {0: "calm", 1: "angry"}}
    with pytest.raises(ValueError, match="has to be trained"):
        SpeechTextForEmotion.from_parts(text=parts / "text", text_pooling="attentive_statistics")
    text = SpeechTextForEmotion.from_parts(
        text=parts / "text", text_pooling="attentive_statistics", freeze_text=False, **fields
    )
    speech = SpeechTextForEmotion.from_parts(parts / "speech", tasks=["emotion"])
    text.save_pretrained(tmp_path / "text")
    speech.save_pretrained(tmp_path / "speech")
    fused = SpeechTextForEmotion.from_parts(tmp_path / "speech", tmp_path / "text").eval()
    tokens = {name: batch[name] for name in ("input_ids", "text_attention_mask")}
    recordings = {name: batch[name] for name in ("input_values", "attention_mask")}
    processor = SpeechTextProcessor(SparseMeritFeatureExtractor(), make_tokenizer(), max_tokens=20)
    for name in ("speech", "text"):
        processor.save_pretrained(tmp_path / name)
    again = SpeechTextProcessor.from_parts(tmp_path / "speech", tmp_path / "text", max_tokens=20)
    assert again(text=TEXTS)["input_ids"].tolist() == processor(text=TEXTS)["input_ids"].tolist()
    assert again.feature_extractor.to_dict() == processor.feature_extractor.to_dict()
    with torch.no_grad():
        outputs = fused(**batch)
        assert torch.equal(outputs.text_embeddings, text.eval()(**tokens).text_embeddings)
        assert torch.equal(outputs.speech_embeddings, speech.eval()(**recordings).speech_embeddings)
    assert not any(parameter.requires_grad for parameter in fused.text_pooling.parameters())
    with pytest.raises(ValueError, match="has no speech encoder"):
        SpeechTextForEmotion.from_parts(tmp_path / "text", tmp_path / "text")
    with pytest.raises(ValueError, match="holds a model of type 'roberta'"):
        SpeechTextForEmotion.from_parts(parts / "text", parts / "text")
