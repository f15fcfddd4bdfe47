"""Caches travel between processes: they carry path and settings, and open where they arrive."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cloudpickle
import dill
import numpy as np
import pytest
from comparing import bits_equal
from mteb_models import FieldsModel, encode
from warm_processes import run_python

from dejavec import CachedEmbeddingWrapper, DejavecWarning, EmbeddingCache, FaissCache, NumpyCache, cached

pytestmark = pytest.mark.slow


def by(library: Any) -> Callable[[Any], Any]:
    return lambda value: library.loads(library.dumps(value))


CARRIERS = {
    "pickle": by(pickle),
    "cloudpickle": by(cloudpickle),
    "dill": by(dill),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@pytest.fixture(params=list(CARRIERS))
def carried(request: pytest.FixtureRequest) -> Any:
    return CARRIERS[request.param]


def numbered(texts: list[str]) -> Any:
    return np.array([[len(text), 1.0] for text in texts], np.float32)


def never(texts: list[str]) -> Any:
    raise AssertionError(texts)


@pytest.mark.parametrize("is_warm", [False, True])
def test_a_cache_carries_path_and_settings(tmp_path: Path, carried: Any, is_warm: bool) -> None:
    settings: dict[str, Any] = {
        "identity": {"prompt": "p"},
        "chunk_rows": 7,
        "chunk_seconds": None,
        "refresh": True,
    }
    cache = EmbeddingCache(tmp_path / "c", model="m@1", **settings)
    if is_warm:
        cache.encode(["a"], numbered)
    found = carried(cache)
    assert type(found) is EmbeddingCache
    assert found is not cache
    assert found.path == cache.path
    assert found._settings == cache._settings
    assert bits_equal(found.encode(["a", "bb"], numbered), numbered(["a", "bb"]))
    cache.refresh()
    assert len(cache) == 2
    with pytest.raises(ValueError, match="expected model"):
        EmbeddingCache(tmp_path / "c", model="other@1")


def test_a_cache_beside_another_stays_where_it_is(tmp_path: Path, carried: Any) -> None:
    EmbeddingCache(tmp_path / "c", model="m@1").encode(["a"], numbered)
    with pytest.warns(DejavecWarning, match="go to"):
        cache = EmbeddingCache(tmp_path / "c", model="m@2", on_mismatch="sibling")
    cache.encode(["b"], numbered)
    assert carried(cache).path == cache.path != tmp_path / "c"


def test_a_closed_cache_arrives_closed(tmp_path: Path, carried: Any) -> None:
    cache = EmbeddingCache(tmp_path / "c")
    cache.close()
    with pytest.raises(ValueError, match="closed"):
        carried(cache).encode(["a"], numbered)


@pytest.mark.parametrize(
    "make",
    [NumpyCache, FaissCache, lambda path: FaissCache(path, metric="ip", dtype="float32")],
    ids=["numpy", "faiss", "faiss-ip"],
)
def test_a_backend_carries_its_directory(tmp_path: Path, carried: Any, make: Any) -> None:
    backend = make(tmp_path / "c")
    for _ in range(2):
        found = carried(backend)
        assert type(found) is type(backend)
        assert found.container == backend.container
        found.add([{"text": "a"}], np.ones((1, 2), np.float32))
        assert found.get_vector("a").tolist() == [1, 1]
        backend.load()
    assert backend.get_vector("a").tolist() == [1, 1]


def test_a_wrapper_carries_its_model_and_settings(tmp_path: Path, carried: Any) -> None:
    wrapper = CachedEmbeddingWrapper(FieldsModel(), tmp_path, chunk_rows=3)
    expected = encode(wrapper, ["a", "b"])
    found = carried(wrapper)
    assert type(found) is type(wrapper)
    assert bits_equal(encode(found, ["a", "b"]), expected)
    assert found.totals.hits == 2
    assert found.cache_path == wrapper.cache_path


def test_a_decorated_function_is_carried(tmp_path: Path, carried: Any) -> None:
    embed = cached(tmp_path / "c", model="m@1")(numbered)
    embed(["a"])
    found = carried(embed)
    assert found.cache.path == embed.cache.path
    assert found.cache.plan(["a"]).hits == 1
    assert found(["a", "bb"]).tolist() == [[1, 1], [2, 1]]


def test_a_function_below_a_decorator_is_found_by_its_name(
    tmp_path: Path, carried: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PICKLED_FUNCTIONS_CACHE", str(tmp_path / "c"))
    monkeypatch.delitem(sys.modules, "pickled_functions", raising=False)
    import pickled_functions

    found = carried(pickled_functions.embed)
    assert found(["a"]).tolist() == [[1, 1]]
    assert found.cache.path == tmp_path / "c"


def script(code: str, *arguments: object, stop_after: float = 120, **environment: str) -> str:
    """Run a script that has a file, and everything it starts; what hangs is stopped and fails."""
    path = Path(str(arguments[0])) / "script.py"
    path.write_text(textwrap.dedent(code))
    done = subprocess.run(
        [sys.executable, str(path), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=stop_after,
        check=False,
        env={**os.environ, "HF_HOME": str(arguments[0]), "TOKENIZERS_PARALLELISM": "false", **environment},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


def warm_script(code: str, *arguments: object) -> None:
    """Run a script where the libraries are imported already."""
    path = Path(str(arguments[0])) / "script.py"
    path.write_text(textwrap.dedent(code))
    status, _, messages = run_python(str(path), *map(str, arguments))
    assert status == 0, messages[-3000:]


PRELUDE = """
import sys
from pathlib import Path
import numpy as np
import dejavec
from dejavec import EmbeddingCache, cached

directory = Path(sys.argv[1]) / "c"

def embed(texts):
    return np.array([[len(text), 1.0] for text in texts], np.float32)

@cached(directory, model="m@1")
def decorated(texts):
    return embed(texts)
"""


@pytest.mark.parametrize("kind", ["cold", "warm", "decorated", "map_fn", "numpy"])
def test_datasets_map_with_two_processes(tmp_path: Path, kind: str) -> None:
    code = (
        PRELUDE
        + """
import datasets
datasets.disable_progress_bars()
kind = sys.argv[2]
if __name__ == "__main__":
    cache = EmbeddingCache(directory, model="m@1")
    backend = dejavec.NumpyCache(Path(sys.argv[1]) / "n")
    backend.add(["a", "b", "c"], embed(["a", "b", "c"]))
    if kind == "warm":
        cache.encode(["a"], embed)
    functions = {
        "decorated": lambda batch: {"v": decorated(batch["text"])},
        "map_fn": cache.map_fn(embed, to="v"),
        "numpy": lambda batch: {"v": [backend.get_vector(text) for text in batch["text"]]},
    }
    function = functions.get(kind, lambda batch: {"v": cache.encode(batch["text"], embed)})
    data = datasets.Dataset.from_dict({"text": ["a", "b", "a", "c"]})
    found = data.map(function, batched=True, num_proc=2)
    assert found["v"][:] == [[1.0, 1.0]] * 4, found["v"][:]
    cache.refresh()
    assert kind == "numpy" or len(cache) == 3, len(cache)
"""
    )
    script(code, tmp_path, kind)


def test_the_fingerprint_of_datasets_map_is_the_same_every_time(tmp_path: Path) -> None:
    code = (
        PRELUDE
        + """
import datasets
from datasets.fingerprint import Hasher
identity = {"b": 1, "a": 2} if sys.argv[2] == "1" else {"a": 2, "b": 1}
cache = EmbeddingCache(directory, model="m@1", identity=identity)
if sys.argv[2] == "2":
    cache.encode(["a"], embed)
    cache.close()
    cache = EmbeddingCache(directory, model="m@1", identity={"a": 2, "b": 1})
print(Hasher.hash(lambda batch: cache.encode(batch["text"], embed)))
print(Hasher.hash(lambda batch: decorated(batch["text"])))
print(Hasher.hash(cache.map_fn(embed, column="title")))
print(Hasher.hash(dejavec.NumpyCache(Path(sys.argv[1]) / "n")))
"""
    )
    found = [script(code, tmp_path, turn, PYTHONHASHSEED=str(turn)) for turn in range(3)]
    assert len(set(found)) == 1, found


def test_a_map_function_takes_rows_and_batches(tmp_path: Path) -> None:
    import datasets

    table = datasets.Dataset.from_dict({"title": ["a", "b", "a"]})
    with EmbeddingCache(tmp_path / "c", model="m@1") as cache:
        function = cache.map_fn(numbered, column="title", to="v")
        found = [table.map(function, batched=batched)["v"][:] for batched in (True, False)]
        assert found[0] == found[1] == numbered(["a", "b", "a"]).tolist()
        assert len(cache) == 2


def test_the_fingerprint_tells_another_model(tmp_path: Path) -> None:
    from datasets.fingerprint import Hasher

    one, other = (cached(tmp_path / "c", model=model)(numbered) for model in ("m@1", "m@2"))
    assert Hasher.hash(one) != Hasher.hash(other)


@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
@pytest.mark.parametrize("is_warm", ["cold", "warm"])
def test_workers_of_a_data_loader(tmp_path: Path, method: str, is_warm: str) -> None:
    code = (
        PRELUDE
        + """
from torch.utils.data import DataLoader, Dataset

class Embedded(Dataset):
    def __init__(self, cache, texts):
        self.cache, self.texts = cache, texts
    def __len__(self):
        return len(self.texts)
    def __getitem__(self, position):
        return self.cache.encode([self.texts[position]], embed)[0] + decorated([self.texts[position]])[0]

if __name__ == "__main__":
    cache = EmbeddingCache(directory, model="m@1")
    texts = ["x" * length for length in range(1, 9)]
    if sys.argv[3] == "warm":
        cache.encode(texts[:4], embed)
    data, method = Embedded(cache, texts), sys.argv[2]
    loader = DataLoader(data, batch_size=2, num_workers=2, multiprocessing_context=method)
    found = np.concatenate([batch.numpy() for batch in loader])
    assert (found == 2 * embed(texts)).all(), found
    cache.refresh()
    assert len(cache) == 8
"""
    )
    warm_script(code, tmp_path, method, is_warm)


def test_joblib_and_a_grid_search_with_two_jobs(tmp_path: Path) -> None:
    code = (
        PRELUDE
        + """
import joblib
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

class Embedder(TransformerMixin, BaseEstimator):
    def __init__(self, cache):
        self.cache = cache
    def fit(self, texts, labels=None):
        return self
    def transform(self, texts):
        return self.cache.encode(list(texts), embed)

if __name__ == "__main__":
    cache = EmbeddingCache(directory, model="m@1")
    parts = [["a", "bb"], ["bb", "ccc"]]
    for function in (decorated, lambda texts: cache.encode(texts, embed)):
        found = joblib.Parallel(n_jobs=2)(joblib.delayed(function)(part) for part in parts)
        assert all((left == embed(part)).all() for left, part in zip(found, parts))
    texts, labels = ["a", "bb", "ccc", "dddd"] * 5, [0, 0, 1, 1] * 5
    search = GridSearchCV(
        make_pipeline(Embedder(cache), LogisticRegression()),
        {"logisticregression__C": [0.1, 1.0]},
        n_jobs=2,
        error_score="raise",
    )
    search.fit(texts, labels)
    cache.refresh()
    assert len(cache) == 4, len(cache)
"""
    )
    script(code, tmp_path)
