"""The state of a model changes with every number in it, and with nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas
import pytest
import torch
from mteb_models import minilm

from dejavec import _core
from dejavec.identity import state
from dejavec.identity.observed import versions
from dejavec.identity.state import digest_of, tensor_digests
from dejavec.identity.survey import survey


def digest(model: Any) -> str | None:
    return digest_of(tensor_digests(survey(model)).values())


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words = torch.nn.Embedding(3000, 16)
        self.layer = torch.nn.Linear(16, 4000)
        self.tied = self.layer.weight
        self.register_buffer("mean", torch.zeros(16))
        self.register_buffer("positions", torch.arange(64).expand(2, -1).clone())
        self.register_buffer("packed", torch.randint(0, 2**31 - 1, (8, 8), dtype=torch.int32))
        self.register_buffer("angles", torch.rand(8), persistent=False)


@pytest.fixture(params=["whole", "guarded"])
def large(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Models of any size, each number of which is looked at, or only what guards them."""
    if request.param == "guarded":
        monkeypatch.setattr(state, "WHOLE_BYTES", 0)
    return bool(request.param == "guarded")


def one_number(model: Model) -> None:
    model.words.weight.data[1234, 5] += 1e-6


CHANGES = {
    "one number of an embedding through data": one_number,
    "a step of an optimiser": lambda model: step(model, fused=False),
    "a fused step of an optimiser": lambda model: step(model, fused=True),
    "a buffer": lambda model: model.mean.add_(1),
    "packed integers": lambda model: model.packed.add_(1),
    "dtype": lambda model: model.half(),
    "a parameter that is replaced": lambda model: setattr(
        model.layer, "bias", torch.nn.Parameter(model.layer.bias.detach() + 1)
    ),
}


def step(model: Model, *, fused: bool) -> None:
    optimiser = torch.optim.AdamW(model.layer.parameters(), lr=1e-6, fused=fused)
    model.layer(model.words.weight[:4]).square().sum().backward()
    optimiser.step()


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize("name", CHANGES)
def test_every_change_of_a_number_is_seen(name: str) -> None:
    model = Model()
    before = digest(model)
    assert digest(model) == before
    CHANGES[name](model)
    after = digest(model)
    assert after != before
    assert digest(Model()) == before


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda model: model.angles.add_(1), id="a buffer that is not stored"),
        pytest.param(lambda model: model.positions.add_(0), id="positions"),
        pytest.param(lambda model: model.requires_grad_(False), id="no gradients"),
        pytest.param(lambda model: model.register_module("copy", model.layer), id="tied"),
        pytest.param(lambda model: model.load_state_dict(Model().state_dict()), id="loaded again"),
    ],
)
def test_what_is_no_number_of_the_model_is_not(change: Any) -> None:
    model = Model()
    before = digest(model)
    change(model)
    assert digest(model) == before


def test_names_and_classes_do_not_count() -> None:
    class Renamed(torch.nn.Module):
        def __init__(self, model: Model) -> None:
            super().__init__()
            self.other_name = model

    assert digest(Renamed(Model())) == digest([Model()]) == digest(Model())


def test_a_tensor_whose_numbers_are_not_there_is_hidden_not_seen() -> None:
    found = survey({"meta": torch.empty(3, device="meta"), "real": torch.ones(3)})
    assert list(tensor_digests(found)) == ["['real']"]
    assert found.hidden == ["['meta']"]


@pytest.mark.parametrize(
    "value",
    [
        torch.ones(0),
        torch.tensor(1.5),
        torch.ones(4, 6)[:, ::2],
        torch.ones(3, dtype=torch.bfloat16),
        torch.ones(3, dtype=torch.complex64).conj(),
        torch.eye(3).to_sparse(),
        torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8),
        np.ones((2, 3))[:, ::2],
        np.array(3, np.int64),
    ],
    ids=str,
)
def test_every_kind_of_array_has_a_digest(value: Any) -> None:
    found = survey({"a": value})
    assert len(tensor_digests(found)) == 1
    assert digest({"a": value}) != digest({"a": torch.zeros(7)})
    assert found.hidden == []


def test_a_tensor_is_hashed_alike_in_pieces_and_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = torch.rand(5 * _core.BLOCK_BYTES // 4 + 3)
    monkeypatch.setattr(state, "_PIECE_BYTES", 2 * _core.BLOCK_BYTES)
    (whole,) = tensor_digests(survey([tensor])).values()
    monkeypatch.setattr(state, "_is_near", lambda tensor: False)
    (pieces,) = tensor_digests(survey([tensor])).values()
    assert pieces == whole


class TestWhatElseIsSeen:
    """Each of these changes the description of an object, and nothing raises."""

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            pytest.param({"f": torch.tanh}, {"f": torch.sigmoid}, id="a function of an extension module"),
            pytest.param(*[{"all": [[1], [2]], "which": at} for at in (0, 1)], id="a number"),
            pytest.param({("a", 1): [1]}, {("a", 2): [1]}, id="a key that is a tuple"),
        ],
    )
    def test_a_difference_is_noted(self, before: Any, after: Any) -> None:
        assert survey(before).notes != survey(after).notes

    @pytest.mark.parametrize("persistent", [True, False])
    @pytest.mark.parametrize(
        "numbers",
        [torch.ones(3), torch.ones(3, dtype=torch.bool), torch.arange(3)],
        ids=["float", "bool", "int"],
    )
    def test_a_buffer_that_changes_is_seen(self, numbers: torch.Tensor, persistent: bool) -> None:
        module = torch.nn.Module()
        module.register_buffer("numbers", numbers.clone(), persistent=persistent)
        before = digest(module), survey(module).notes
        module.get_buffer("numbers")[1] = 0
        assert (digest(module), survey(module).notes) != before

    def test_whether_parts_of_an_own_class_are_training_is_noted(self) -> None:
        model = Model().eval()
        before = survey(model).notes
        model.train()
        assert survey(model).notes != before
        library = torch.nn.Sequential(torch.nn.Dropout()).eval()
        assert survey(library).notes == survey(library.train()).notes

    @pytest.mark.slow
    def test_settings_of_a_tokenizer_beside_its_content_are_noted(self) -> None:
        model = minilm()
        before = survey(model).notes
        model.model.tokenizer.clean_up_tokenization_spaces = "otherwise"
        assert survey(model).notes != before

    def test_a_library_of_a_class_counts_by_its_version(self) -> None:
        found = survey(pandas.Series(["a"]))
        assert ("pandas", pandas.__version__) in versions(frozenset(found.libraries))

    def test_which_of_several_parts_is_in_use_is_noted(self) -> None:
        parts = [torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)]
        found = [survey({"all": parts, "in use": part}).notes for part in parts]
        assert found[0] != found[1]

    def test_tensors_under_any_keys_are_a_part_of_the_state(self) -> None:
        weights = {("a", at): torch.full((2,), float(at)) for at in range(3)}
        before = digest(weights)
        weights["a", 1].mul_(5)
        assert digest(weights) != before

    def test_tensors_behind_very_many_values_are_a_part_of_the_state(self) -> None:
        model = {"a words": [[word] for word in range(30_000)], "weights": torch.ones(2)}
        before = digest(model)
        model["weights"].mul_(2)
        assert digest(model) != before

    def test_an_object_that_raises_whatever_it_is_asked_is_hidden(self) -> None:
        class Proxy:
            @property  # type: ignore[misc]
            def __class__(self) -> Any:
                raise RuntimeError("no request")

        assert survey({"request": Proxy(), "meta": torch.ones(2, dtype=torch.int64, device="meta")}).hidden
