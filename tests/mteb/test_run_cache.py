"""`dejavec run --cache`: each model that mteb builds is cached, mteb's own command line included."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import mteb
import numpy as np
import pytest
from mteb.cli import main as mteb_main
from mteb.mocks.mock_tasks import MockSTSTask
from mteb.models import ModelMeta
from warm_processes import run_python

from dejavec import CachedEmbeddingWrapper, DejavecWarning
from dejavec.cli.main import main
from dejavec.drop_in.models import cache_models

pytestmark = pytest.mark.slow

MODEL = "mteb/baseline-random-encoder"

MODULE = """
import sys

import mteb
from mteb.mocks.mock_tasks import MockSTSTask

sys.modules["mteb.get_tasks"]._TASKS_REGISTRY["MockSTSTask"] = MockSTSTask
if __name__ == "__main__":
    from mteb.cli import main

    main()
"""


@pytest.fixture
def cached_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(ModelMeta, "load_model", ModelMeta.load_model)  # Put back after the test.
    cache_models(tmp_path / "cache")
    return tmp_path / "cache"


def results(folder: Path) -> list[Any]:
    (found,) = (json.loads(path.read_text()) for path in folder.rglob("MockSTSTask.json"))
    return [found["scores"], found["task_name"]]


def run_mteb(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """mteb's command line, in this process."""
    registry = sys.modules["mteb.get_tasks"]._TASKS_REGISTRY
    monkeypatch.setitem(registry, "MockSTSTask", MockSTSTask)
    words = ["mteb", "run", "-m", MODEL, "-t", "MockSTSTask", "--output-folder", str(folder)]
    monkeypatch.setattr(sys, "argv", words)
    mteb_main()
    return results(folder)


def rows(cache: Path) -> dict[str, int]:
    return {str(path.parent.relative_to(cache)): len(np.load(path)) for path in cache.rglob("vectors.npy")}


@pytest.mark.filterwarnings("default::dejavec.DejavecWarning")  # the model has neither weights nor a commit
def test_mtebs_command_line_gives_the_same_scores_and_fills_one_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = mteb.evaluate(
        mteb.get_model(MODEL), MockSTSTask(), cache=None, co2_tracker=False, show_progress_bar=False
    )
    (tmp_path / "uncached").mkdir()
    plain.task_results[0].to_disk(tmp_path / "uncached" / "MockSTSTask.json")  # As in the others, it rounds.
    uncached = results(tmp_path / "uncached")
    module = tmp_path / "mine.py"
    module.write_text(MODULE)
    words = ["run", "--cache", "cache", "-m", "mine", "run", "-m", MODEL, "-t", "MockSTSTask"]
    status, _, messages = run_python("-m", "dejavec", *words, "--output-folder", "cold", cwd=tmp_path)
    assert status == 0, messages
    assert results(tmp_path / "cold") == uncached
    filled = rows(tmp_path / "cache")
    assert sum(filled.values()) > 0

    monkeypatch.setattr(ModelMeta, "load_model", ModelMeta.load_model)
    cache_models(tmp_path / "cache")
    assert run_mteb(tmp_path / "warm", monkeypatch) == uncached
    assert rows(tmp_path / "cache") == filled


def test_models_are_built_when_they_are_needed_and_once(
    cached_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built: list[str] = []
    meta = mteb.get_model_meta(MODEL)
    loader = meta.loader

    def counting(name: str, **settings: Any) -> Any:
        built.append(settings.get("device", "none"))
        return loader(name, **settings)

    meta = meta.model_copy(update={"loader": counting})
    model = meta.load_model(device="cpu")
    assert isinstance(model, CachedEmbeddingWrapper)
    assert model.cache_path == cached_models
    assert not built
    assert model.mteb_model_meta.name == MODEL
    mteb.evaluate(model, MockSTSTask(), cache=None, co2_tracker=False, show_progress_bar=False)
    assert built == ["cpu"]
    cache_models(cached_models)  # Twice is once.
    assert type(meta.load_model(device="cpu")) is type(model)


def test_a_model_without_vectors_runs_as_it_is(cached_models: Path) -> None:
    class Crossing:
        mteb_model_meta: Any = None

        def predict(self, *args: Any, **named: Any) -> Any:
            return np.zeros(1)

    meta = mteb.get_model_meta(MODEL).model_copy(update={"loader": lambda name, **named: Crossing()})
    with pytest.warns(DejavecWarning):
        model = meta.load_model(embed_dim=None, something=True)
    assert not hasattr(model, "encode") or model.encode is None
    assert model.predict().shape == (1,)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-m", "no_such_module", "--help"], "no module named no_such_module that can be run"),
        (["-m", "json.no_such_module"], "no module named json.no_such_module that can be run"),
        (["-m", "xml"], "no module named xml that can be run"),
    ],
)
def test_a_module_that_cannot_be_run_is_one_sentence_and_status_2(words: list[str], said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"from dejavec.cli.main import main; print(main({['run', *words]!r}))"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("2\n", f"dejavec run: {said}\n")


def test_a_module_runs_as_under_python(tmp_path: Path) -> None:
    package = tmp_path / "mine"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "__main__.py").write_text(
        "import sys\n"
        "print(sys.argv, sys.path[0], __file__, __name__, __package__, __spec__.name, __cached__)\n"
        "if sys.argv[1:] == ['fail']:\n    raise ValueError('it broke')\n"
    )
    for words in (["--help", "-m", "--", "--cache", "x"], ["fail"]):
        plain, ours = (
            subprocess.run(
                [sys.executable, *start, "mine", *words],
                cwd=tmp_path,
                capture_output=True,
                text=True,
                check=False,
            )
            for start in (["-m"], ["-m", "dejavec", "run", "-m"])
        )
        assert (ours.returncode, ours.stdout) == (plain.returncode, plain.stdout)
        assert ours.stderr.splitlines()[-1:] == plain.stderr.splitlines()[-1:]
        assert "dejavec" not in ours.stderr


def test_run_says_what_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--cache", "x"]) == 2
    assert "Missing argument 'SCRIPT'" in capsys.readouterr().err
