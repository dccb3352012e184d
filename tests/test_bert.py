"""BERT is the reference's function under Hugging Face's names, whatever the padding."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from networks import make, plant
from safetensors.torch import save_file
from scipy.special import erf
from torch import nn

from fdlab.core.errors import UserError
from fdlab.models import MODELS
from fdlab.models.bert import Bert
from fdlab.models.build import load_weights

LAYER = {  # name → shape in multiples of the hidden size
    "attention.self.query": (1, 1),
    "attention.self.key": (1, 1),
    "attention.self.value": (1, 1),
    "attention.output.dense": (1, 1),
    "attention.output.LayerNorm": (1,),
    "intermediate.dense": (4, 1),
    "output.dense": (1, 4),
    "output.LayerNorm": (1,),
}
TOKENS = torch.tensor([[3, 7, 19, 4, 1], [5, 2, 0, 0, 0], [8, 8, 6, 0, 0]])


def list_reference_shapes(words: int, classes: int, hidden: int, layers: int) -> dict[str, tuple]:
    """Names and shapes of Hugging Face's BertModel and a classifier, in their order."""
    shapes = {
        "embeddings.word_embeddings.weight": (words, hidden),
        "embeddings.position_embeddings.weight": (512, hidden),
        "embeddings.token_type_embeddings.weight": (2, hidden),
        "embeddings.LayerNorm.weight": (hidden,),
        "embeddings.LayerNorm.bias": (hidden,),
    }
    for layer in range(layers):
        for part, sizes in LAYER.items():
            shape = tuple(size * hidden for size in sizes)
            shapes[f"encoder.layer.{layer}.{part}.weight"] = shape
            shapes[f"encoder.layer.{layer}.{part}.bias"] = shape[:1]
    for name, size in (("pooler.dense", hidden), ("classifier", classes)):
        shapes |= {f"{name}.weight": (size, hidden), f"{name}.bias": (size,)}
    return shapes


def transcribe(state: dict[str, torch.Tensor], tokens: np.ndarray, layers: int, heads: int):
    """One sentence without padding, (L,) → states after each layer (L, D), feature, logits."""
    w = {name: value.double().numpy() for name, value in state.items()}

    def norm(x, name):
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-12)
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    def dense(x, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    part = "embeddings"
    x = w[f"{part}.word_embeddings.weight"][tokens] + w[f"{part}.token_type_embeddings.weight"][0]
    x = norm(x + w[f"{part}.position_embeddings.weight"][: len(tokens)], f"{part}.LayerNorm")
    states, size = [], x.shape[1] // heads
    for layer in range(layers):
        name = f"encoder.layer.{layer}"
        q, k, v = (dense(x, f"{name}.attention.self.{p}") for p in ("query", "key", "value"))
        seen = np.zeros_like(x)
        for head in range(heads):
            own = slice(head * size, (head + 1) * size)
            scores = np.exp(q[:, own] @ k[:, own].T / math.sqrt(size))
            seen[:, own] = scores / scores.sum(axis=1, keepdims=True) @ v[:, own]
        x = norm(
            x + dense(seen, f"{name}.attention.output.dense"), f"{name}.attention.output.LayerNorm"
        )
        wide = dense(x, f"{name}.intermediate.dense")
        wide = wide * 0.5 * (1 + erf(wide / math.sqrt(2)))
        x = norm(x + dense(wide, f"{name}.output.dense"), f"{name}.output.LayerNorm")
        states.append(x)
    feature = dense(x[0], "pooler.dense")
    return states, feature, dense(np.tanh(feature), "classifier")


def test_it_has_the_reference_names_shapes_and_parameter_count():
    with torch.device("meta"):
        model = MODELS["bert"]((128,), 5, 64, 30522)
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    assert shapes == list_reference_shapes(30522, 5, 768, 12) and len(shapes) == 199 + 2
    assert sum(p.numel() for p in model.parameters()) == 109_482_240 + 5 * 769
    assert model.feature_width == 768 and model.encoder.layer[0].attention.self.heads == 12
    assert [*model.shown] == [3, 6, 9, 12]


@pytest.mark.parametrize("hidden, layers", [(128, 3), (96, 5)])
def test_it_computes_the_reference_function(hidden, layers):
    model = plant(Bert(20, 4, hidden, layers).double()).eval()
    heads = model.encoder.layer[0].attention.self.heads
    assert heads == max(1, hidden // 64)
    with torch.no_grad():
        output = model(TOKENS)
    assert [*output.maps] == [f"layer{i}" for i in ((1, 2, 3) if layers == 3 else (2, 3, 4, 5))]
    for row, tokens in enumerate(TOKENS.numpy()):
        words = tokens[tokens > 0]
        states, feature, logits = transcribe(model.state_dict(), words, layers, heads)
        np.testing.assert_allclose(output.feature[row], feature, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(output.logits[row], logits, rtol=1e-9, atol=1e-9)
        for name, x in output.maps.items():
            state = states[int(name.removeprefix("layer")) - 1]
            np.testing.assert_allclose(x[row, :, : len(words)].T, state, rtol=1e-9, atol=1e-9)
            assert not x[row, :, len(words) :].any()
    assert torch.equal(output.mask, (TOKENS > 0).double())


@pytest.mark.parametrize("name", ["bert", "bert_tiny"])
def test_more_padding_changes_nothing(name):
    model = make(name).eval()
    with torch.no_grad():
        short, long = model(TOKENS), model(nn.functional.pad(TOKENS, (0, 7)))
    torch.testing.assert_close(short.feature, long.feature)
    torch.testing.assert_close(short.logits, long.logits)
    for key, x in short.maps.items():
        torch.testing.assert_close(x, long.maps[key][:, :, : x.shape[2]])
        assert not long.maps[key][:, :, x.shape[2] :].any()
    assert not torch.allclose(short.feature[0], short.feature[1])


@pytest.mark.parametrize("name", ["bert", "bert_tiny"])
def test_a_row_without_words_is_finite(name):
    output = make(name).eval()(torch.zeros(2, 5, dtype=torch.int64))
    assert torch.isfinite(output.logits).all() and torch.equal(output.logits[0], output.logits[1])
    assert output.mask.sum(dim=1).tolist() == [1, 1]


def test_the_tiny_one_puts_a_start_of_its_own_in_front():
    tiny = make("bert_tiny", width=16).eval()
    plain = Bert(21, 5, 128, 2).eval()  # the same network over a vocabulary that has one
    plain.load_state_dict(tiny.state_dict())
    with torch.no_grad():
        one, two = tiny(TOKENS), plain(nn.functional.pad(TOKENS, (1, 0), value=20))
    torch.testing.assert_close(one.logits, two.logits)
    assert [*one.maps] == ["layer1", "layer2"] and one.maps["layer2"].shape == (3, 128, 6)
    assert torch.equal(one.mask, two.mask) and one.mask[:, 0].all()


def test_at_width_16_the_tiny_one_is_the_published_bert_tiny():
    with torch.device("meta"):
        model = MODELS["bert_tiny"]((28,), 5, 16, 30522)
    start, classifier = 128, 5 * 129  # ours beside the 4.4 million
    assert sum(p.numel() for p in model.parameters()) == 4_385_920 + start + classifier
    assert model.encoder.layer[0].attention.self.heads == 2


@pytest.mark.parametrize(
    "width, hidden, layers, heads", [(4, 48, 1, 1), (8, 96, 2, 1), (16, 192, 3, 3), (28, 336, 5, 4)]
)
def test_other_widths_scale_the_base_model(width, hidden, layers, heads):
    model = MODELS["bert"]((9,), 5, width, 20)
    assert (model.feature_width, len(model.encoder.layer)) == (hidden, layers)
    assert model.encoder.layer[0].attention.self.heads == heads and hidden % heads == 0
    assert torch.isfinite(model(TOKENS).logits).all()


def test_it_starts_as_the_reference_does():
    model = Bert(500, 300, 192, 1)
    for name, value in model.named_parameters():
        if name.endswith("bias"):
            assert not value.any(), name
        elif "LayerNorm" in name:
            assert (value == 1).all(), name
        elif "token_type" not in name:
            assert value.std().item() == pytest.approx(0.02, rel=0.05), name
    words = model.embeddings.word_embeddings.weight
    assert not words[0].any() and words[1:].any(dim=1).all()
    assert {part.p for part in model.modules() if isinstance(part, nn.Dropout)} == {0.1}


def test_attention_drops_out_too():
    model = make("bert")
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    model.train()
    assert not torch.equal(model(TOKENS).logits, model(TOKENS).logits)
    model.eval()
    assert torch.equal(model(TOKENS).logits, model(TOKENS).logits)


@pytest.mark.parametrize("name, length", [("bert", 513), ("bert_tiny", 512)])
def test_rows_longer_than_its_positions_are_refused(name, length):
    MODELS[name]((length - 1,), 5, 8, 20)
    with pytest.raises(UserError, match="512 positions"):
        MODELS[name]((length,), 5, 8, 20)


def as_pretraining(state: dict) -> dict:
    """The layout of a file with pre-training heads, of the time of gamma and beta."""
    old = {}
    for name, value in state.items():
        if name.startswith("classifier."):
            continue
        part, _, kind = name.rpartition(".")
        kind = {"weight": "gamma", "bias": "beta"}[kind] if part.endswith("LayerNorm") else kind
        old[f"bert.{part}.{kind}"] = value
    old["cls.predictions.bias"] = torch.zeros(20)
    old["cls.seq_relationship.weight"] = torch.zeros(2, 96)
    return old | {"bert.embeddings.position_ids": torch.arange(512)[None]}


LAYOUTS = {
    "plain": (lambda s: {k: v for k, v in s.items() if "classifier" not in k}, ["classifier"]),
    "pre-training": (as_pretraining, ["classifier"]),
    "no pooler": (
        lambda s: {k: v for k, v in s.items() if "classifier" not in k and "pooler" not in k},
        ["classifier", "pooler"],
    ),
    "classified": (lambda s: {k if k[0] == "c" else f"bert.{k}": v for k, v in s.items()}, []),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_published_layouts_load_from_a_folder(tmp_path, layout, file):
    change, absent = LAYOUTS[layout]
    source, target = make("bert").state_dict(), plant(make("bert"), 9)
    before = {name: value.clone() for name, value in target.state_dict().items()}
    state = change(source)
    (save_file if file.endswith("safetensors") else torch.save)(state, tmp_path / file)
    notes = load_weights(target, tmp_path)
    assert len(notes) == len(absent)
    assert all(name in note for name, note in zip(absent, notes, strict=True))
    for name, value in target.state_dict().items():
        kept = any(name.startswith(part) for part in absent)
        assert torch.equal(value, before[name] if kept else source[name]), name


def test_half_a_pooler_is_a_mismatch(tmp_path):
    state = make("bert").state_dict()
    del state["pooler.dense.bias"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"missing 1 \(pooler.dense.bias\)$"):
        load_weights(make("bert"), tmp_path)


def test_it_equals_the_installed_transformers():
    try:
        from transformers import BertConfig, BertForSequenceClassification
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"transformers does not import: {error}")
    config = BertConfig(
        vocab_size=20, hidden_size=128, num_hidden_layers=3, num_attention_heads=2,
        intermediate_size=512, num_labels=4, output_hidden_states=True,
    )  # fmt: skip
    theirs = plant(BertForSequenceClassification(config).double()).eval()
    ours = Bert(20, 4, 128, 3).double().eval()
    state = {k.removeprefix("bert."): v for k, v in theirs.state_dict().items()}
    ours.load_state_dict(state)
    there = (TOKENS > 0).long()
    with torch.no_grad():
        found, output = theirs(TOKENS, attention_mask=there), ours(TOKENS)
    torch.testing.assert_close(output.logits, found.logits, rtol=1e-9, atol=1e-9)
    for layer, x in enumerate(output.maps.values(), 1):
        wanted = (found.hidden_states[layer] * there[..., None]).transpose(1, 2)
        torch.testing.assert_close(x, wanted, rtol=1e-9, atol=1e-9)
