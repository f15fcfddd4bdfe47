"""Evaluate, change the model, evaluate: never a vector from before, whatever was changed and however."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from changing_models import CHANGES, HARMLESS, MAKERS, TEXTS, LowRank, make_tiny_model, trained
from comparing import bits_equal
from mteb_models import encode, meta, minilm
from warm_processes import run_python

from dejavec import CachedEmbeddingWrapper

HERE = Path(__file__).parent
CASES = [(kind, name) for kind, changes in CHANGES.items() for name in changes]
HARMLESS_CASES = [(kind, name) for kind, changes in HARMLESS.items() for name in changes]
LOOSE = 1e-3

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::dejavec.errors.DejavecWarning", "ignore::FutureWarning"),
]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("tiny")
    make_tiny_model(directory)
    return directory


def numbers(vectors: Any) -> np.ndarray:
    return vectors.float().numpy() if isinstance(vectors, torch.Tensor) else np.asarray(vectors, np.float32)


def is_stale(found: Any, expected: Any) -> bool:
    found, expected = numbers(found), numbers(expected)
    return found.shape != expected.shape or not np.allclose(
        found, expected, atol=LOOSE * np.abs(expected).max()
    )


@pytest.mark.parametrize("keeps_wrapper", [True, False], ids=["same wrapper", "new wrapper"])
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_a_changed_model_is_never_served_what_it_made_before(
    kind: str, name: str, keeps_wrapper: bool, tiny: Path, tmp_path: Path
) -> None:
    model = MAKERS[kind](tiny)
    wrapper = CachedEmbeddingWrapper(model, tmp_path)
    before = encode(wrapper, TEXTS)
    assert not is_stale(before, encode(model, TEXTS))
    changed = CHANGES[kind][name](model)
    expected = encode(changed, TEXTS)
    assert numbers(expected).tobytes() != numbers(before).tobytes(), "the change changes nothing"
    wrapper = wrapper if keeps_wrapper else CachedEmbeddingWrapper(changed, tmp_path)
    for _ in range(2):
        assert not is_stale(encode(wrapper, TEXTS), expected)
    # And both are there afterwards.
    again = CachedEmbeddingWrapper(MAKERS[kind](tiny), tmp_path)
    assert not is_stale(encode(again, TEXTS), before)
    assert again.totals.misses == 0


@pytest.mark.parametrize("keeps_wrapper", [True, False], ids=["same wrapper", "new wrapper"])
@pytest.mark.parametrize(("kind", "name"), HARMLESS_CASES)
def test_a_harmless_change_keeps_the_vectors_for_one_question_at_most(
    kind: str, name: str, keeps_wrapper: bool, tiny: Path, tmp_path: Path
) -> None:
    model = MAKERS[kind](tiny)
    wrapper = CachedEmbeddingWrapper(model, tmp_path)
    before = encode(wrapper, TEXTS)
    changed = HARMLESS[kind][name](model)
    if not keeps_wrapper or changed is not model:
        wrapper = CachedEmbeddingWrapper(changed, tmp_path)
    misses = wrapper.totals.misses
    for _ in range(3):
        assert numbers(encode(wrapper, TEXTS)).tobytes() == numbers(before).tobytes()
    assert wrapper.totals.misses == misses
    assert wrapper.totals.confirmed <= 16


IN_ANOTHER_PROCESS = f"""
import sys, warnings
sys.path.insert(0, {str(HERE)!r})
from pathlib import Path
import numpy as np
warnings.simplefilter("ignore")
from test_model_changes import CASES, CHANGES, MAKERS, TEXTS, CachedEmbeddingWrapper, encode, is_stale
tiny, caches = map(Path, sys.argv[1:])
for at, (kind, name) in enumerate(CASES):
    changed = CHANGES[kind][name](MAKERS[kind](tiny))
    with CachedEmbeddingWrapper(changed, caches / str(at)) as wrapper:
        if is_stale(encode(wrapper, TEXTS), encode(changed, TEXTS)):
            print("STALE", kind, name)
    model = MAKERS[kind](tiny)
    with CachedEmbeddingWrapper(model, caches / str(at)) as wrapper:
        encode(wrapper, TEXTS)
        if wrapper.totals.misses or wrapper.totals.confirmed > 16:
            print("NEEDLESS", kind, name, wrapper.totals)
print("done")
"""


def test_another_process_is_never_served_what_the_model_made_before(tiny: Path, tmp_path: Path) -> None:
    for at, (kind, _) in enumerate(CASES):
        with CachedEmbeddingWrapper(MAKERS[kind](tiny), tmp_path / str(at)) as wrapper:
            encode(wrapper, TEXTS)
    script = tmp_path / "script.py"
    script.write_text(IN_ANOTHER_PROCESS)
    status, output, messages = run_python(str(script), str(tiny), str(tmp_path))
    assert status == 0, messages
    assert output.splitlines() == ["done"]


def test_another_deployment_that_nothing_shows_is_noticed_by_the_next_wrapper(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = encode(CachedEmbeddingWrapper(MAKERS["own"](tiny), tmp_path), TEXTS)
    for factor in (2.0, 1.0, 2.0):
        monkeypatch.setenv("TEST_DEPLOYMENT", str(factor))
        model = MAKERS["own"](tiny)
        wrapper = CachedEmbeddingWrapper(model, tmp_path)
        assert not is_stale(encode(wrapper, TEXTS), encode(model, TEXTS))
    assert wrapper.totals.misses == 0
    assert not is_stale(first * 2, encode(wrapper, TEXTS))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_adapter_that_is_switched_off_is_noticed(dtype: Any, tiny: Path, tmp_path: Path) -> None:
    model = MAKERS["published"](tiny)
    attention = model.model[0].auto_model.encoder.layer[0].attention.self
    attention.query = LowRank(attention.query)
    model.model.to(dtype)
    wrapper = CachedEmbeddingWrapper(model, tmp_path)
    on = encode(wrapper, TEXTS)
    attention.query.disabled = True
    off = encode(wrapper, TEXTS)
    assert not is_stale(off, encode(model, TEXTS))
    attention.query.disabled = False
    assert numbers(encode(wrapper, TEXTS)).tobytes() == numbers(on).tobytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "training",
    [
        pytest.param({"steps": 1, "fused": False}, id="one step"),
        pytest.param({"steps": 1, "fused": True}, id="one fused step"),
        pytest.param({"steps": 10, "fused": True}, id="ten steps"),
        pytest.param({"steps": 1, "fused": True, "only": "word_embeddings"}, id="embeddings alone"),
    ],
)
def test_minilm_that_is_trained_at_a_small_rate_is_never_served_what_it_made_before(
    training: Any, dtype: Any, tmp_path: Path
) -> None:
    model = minilm()
    model.model.to(dtype)
    model.mteb_model_meta = meta("org/model", "a" * 40)
    wrapper = CachedEmbeddingWrapper(model, tmp_path)
    before = encode(wrapper, TEXTS)
    trained(rate=1e-6, **training)(model)
    expected = encode(model, TEXTS)
    assert bits_equal(encode(wrapper, TEXTS), expected)
    # Half precision has no numbers for so small a step, but of the largest gradients.
    assert wrapper.totals.misses == (6 if bits_equal(expected, before) else 12)


def test_lora_of_peft_that_is_added_switched_off_and_on_again_is_noticed(tiny: Path, tmp_path: Path) -> None:
    from peft import LoraConfig

    model = MAKERS["published"](tiny)
    bert = model.model[0].auto_model
    wrapper = CachedEmbeddingWrapper(model, tmp_path)
    plain = encode(wrapper, TEXTS)
    bert.add_adapter(LoraConfig(r=2, target_modules=["query", "value"], init_lora_weights=False))
    for switch in (bert.enable_adapters, bert.disable_adapters, bert.enable_adapters, bert.disable_adapters):
        switch()
        misses = wrapper.totals.misses
        assert not is_stale(encode(wrapper, TEXTS), encode(model, TEXTS))
    assert wrapper.totals.misses == misses
    assert not is_stale(encode(wrapper, TEXTS), plain)


def test_assignments_through_the_wrapper_count_at_the_next_call(tiny: Path, tmp_path: Path) -> None:
    model = MAKERS["own"](tiny)
    wrapper: Any = CachedEmbeddingWrapper(model, tmp_path)
    encode(wrapper, TEXTS)
    wrapper.scale = 2.0
    assert model.scale == 2.0
    assert not is_stale(encode(wrapper, TEXTS), encode(model, TEXTS))
    model.scale = 3.0
    assert not is_stale(encode(wrapper, TEXTS), encode(model, TEXTS))


def test_a_lazy_model_that_was_trained_since_is_noticed_when_it_is_built(tiny: Path, tmp_path: Path) -> None:
    def untrained() -> Any:
        return MAKERS["local"](tiny)

    def trained() -> Any:
        return CHANGES["local"]["weights in place"](untrained())

    described = meta("org/model", "a" * 40)
    with CachedEmbeddingWrapper(untrained, tmp_path, model_meta=described) as wrapper:
        encode(wrapper, TEXTS)
    with CachedEmbeddingWrapper(untrained, tmp_path, model_meta=described) as wrapper:
        encode(wrapper, TEXTS)
        assert wrapper.totals.misses == wrapper.totals.confirmed == 0
        assert not wrapper._engine.source.is_built
    model = trained()
    with CachedEmbeddingWrapper(trained, tmp_path, model_meta=described) as wrapper:
        found = encode(wrapper, [*TEXTS, "one more, so that it is built"])
        assert not is_stale(found, encode(model, [*TEXTS, "one more, so that it is built"]))
