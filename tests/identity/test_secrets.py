"""No secret is written anywhere, and another one is the same model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import mteb
import pytest
from mteb.mocks.mock_tasks import MockRetrievalTask
from mteb_models import FieldsModel, encode, meta

from dejavec import CachedEmbeddingWrapper, DejavecWarning
from dejavec.cli.main import main
from dejavec.support.secret_names import is_secret, without_secrets

TEXTS = ["a b", "c d e"]
SECRET = "hf_abcdefghijklmnop"


def load(name: str, revision: str | None = None, **settings: Any) -> FieldsModel:
    model = FieldsModel()
    model.settings = settings  # type: ignore[attr-defined]
    return model


def holds(directory: Path, secret: str = SECRET) -> list[str]:
    """What below a directory has the secret in its name or content."""
    return [
        str(path)
        for path in directory.rglob("*")
        if secret in path.name or (path.is_file() and secret.encode() in path.read_bytes())
    ]


@pytest.mark.parametrize("name", ["token", "api_key", "use_auth_token", "password", "HFToken", "passphrase"])
@pytest.mark.parametrize("lazy", [True, False], ids=["lazy", "built"])
def test_a_secret_is_neither_in_a_file_nor_in_a_name_nor_shown(
    name: str, lazy: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for secret in (SECRET, "hf_another_one"):
        made = meta(loader=load).model_copy(update={"experiment_kwargs": {name: secret, "layer": 3}})
        model = made if lazy else made.load_model()
        with CachedEmbeddingWrapper(model, tmp_path) as wrapper:
            encode(wrapper, TEXTS)
        assert holds(tmp_path, secret) == []
    assert wrapper.totals.misses == 0  # Another secret is the same model.
    (stored,) = tmp_path.rglob("meta.json")
    assert stored.parent.name == "layer_3"
    assert main(["stats", str(stored.parent)]) == 0
    assert main(["ls", str(tmp_path)]) == 0
    assert SECRET not in capsys.readouterr().out


def test_an_argument_of_encode_that_is_a_secret_is_not_written(tmp_path: Path) -> None:
    with CachedEmbeddingWrapper(FieldsModel(), tmp_path) as wrapper:
        encode(wrapper, TEXTS, api_key=SECRET)
        encode(wrapper, TEXTS, api_key="another")
        assert wrapper.totals.hits == 2
    assert holds(tmp_path) == []


def test_a_secret_without_other_settings_makes_no_directory(tmp_path: Path) -> None:
    made = meta(loader=load).model_copy(update={"experiment_kwargs": {"token": SECRET}})
    with CachedEmbeddingWrapper(made.load_model(), tmp_path) as wrapper:
        encode(wrapper, TEXTS)
    (stored,) = tmp_path.rglob("meta.json")
    assert stored.parent == tmp_path / MockRetrievalTask.metadata.name
    assert "experiment" not in json.loads(stored.read_text())["identity"]


def test_an_old_directory_with_a_secret_in_its_name_is_met_with_what_to_do(tmp_path: Path) -> None:
    old = tmp_path / MockRetrievalTask.metadata.name / "experiments" / f"layer_3__token_{SECRET}"
    old.mkdir(parents=True)
    made = meta(loader=load).model_copy(update={"experiment_kwargs": {"token": SECRET, "layer": 3}})
    with (
        CachedEmbeddingWrapper(made.load_model(), tmp_path) as wrapper,
        pytest.warns(DejavecWarning, match=r"a secret in its name.*layer_3.*move") as caught,
    ):
        encode(wrapper, TEXTS)
    assert not any(SECRET in str(warning.message) for warning in caught)


def test_mteb_itself_hands_a_token_over_as_a_setting(tmp_path: Path) -> None:
    """What the others build on; if this fails, mteb has changed."""
    made = meta(loader=load).load_model(token=SECRET)
    assert made.mteb_model_meta.experiment_kwargs == {"token": SECRET}
    assert mteb.__version__


@pytest.mark.parametrize("name", ["pad_token", "cls_token", "tokenizer", "tokens", "key", "keys", "n_tokens"])
def test_what_only_sounds_like_a_secret_counts(name: str) -> None:
    assert not is_secret(name)
    assert without_secrets({name: 1}) == {name: 1}
