"""Scripts written for mteb's cache run on this one, unchanged, and in all else as under Python."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from textwrap import dedent
from typing import Any

import mteb.models.cache_wrappers.cache_backends.faiss_cache
import mteb.models.cache_wrappers.cache_backends.numpy_cache
import pytest
from warm_processes import run_python

import dejavec

pytestmark = pytest.mark.slow

PYTHON = (sys.executable,)
RUN = (sys.executable, "-m", "dejavec", "run")
VARIABLES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE", "TQDM_DISABLE")
OFFLINE = dict.fromkeys(VARIABLES, "1")
WRAPPERS = mteb.models.cache_wrappers
REPLACED = (
    (mteb.models, "CachedEmbeddingWrapper"),
    (WRAPPERS, "CachedEmbeddingWrapper"),
    (WRAPPERS.cache_wrapper, "CachedEmbeddingWrapper"),
    (WRAPPERS.cache_wrapper, "NumpyCache"),
    (WRAPPERS.cache_backends, "NumpyCache"),
    (WRAPPERS.cache_backends, "FaissCache"),
    (WRAPPERS.cache_backends.numpy_cache, "NumpyCache"),
    (WRAPPERS.cache_backends.faiss_cache, "FaissCache"),
)

Outcome = tuple[int, str, str]
Invoke = Callable[..., Outcome]


@pytest.fixture
def invoke(tmp_path: Path) -> Invoke:
    """Runs a command in the test's directory or one below; returns exit status, output and messages."""

    def run(command: Sequence[str], *words: str, below: str = ".", **variables: str) -> Outcome:
        (tmp_path / below).mkdir(exist_ok=True)
        done = subprocess.run(
            [*command, *words],
            check=False,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            cwd=tmp_path / below,
            env=os.environ | OFFLINE | variables,
        )
        return done.returncode, done.stdout, done.stderr

    return run


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Writes a script; returns its name."""

    def writer(script: str, name: str = "script.py") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(script))
        return name

    return writer


# A script runs as under Python.

ENDINGS = {
    "at its end": "print('done')",
    "with a number": "import sys\nsys.exit(3)",
    "with a sentence": "import sys\nsys.exit('no such task')",
    "with true": "raise SystemExit(True)",
    "with an exception": """
        def outer():
            try:
                inner()
            except KeyError as error:
                raise RuntimeError("it broke") from error

        def inner():
            {}["missing"]

        outer()
        """,
    "with an error of dejavec": "import dejavec\ndejavec.EmbeddingCache('none', mode='r')",
    "with a syntax error": "x = 1\nprint('a'\ny = = 2\n",
    "by an interrupt": """
        import atexit, os, signal
        atexit.register(print, "tidied up")
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()
        """,
    "with a hook of its own": """
        import sys, traceback
        sys.excepthook = lambda kind, error, trace: print(kind, error, len(traceback.extract_tb(trace)))
        raise ValueError("for the hook")
        """,
    "before its threads and exit handlers": """
        import atexit, threading, sys
        NAME = "the script's"

        def look():
            print(sys.modules["__main__"].NAME, sys.argv, flush=True)

        def look_when_the_script_is_over():
            threading.main_thread().join()
            look()

        atexit.register(look)
        threading.Thread(target=look_when_the_script_is_over).start()
        """,
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_script_ends_as_under_python(ending: str, write: Callable[..., str], invoke: Invoke) -> None:
    script = write(ENDINGS[ending])
    assert invoke(RUN, script) == invoke(PYTHON, script)


def test_a_script_sees_what_it_sees_under_python(
    write: Callable[..., str], invoke: Invoke, tmp_path: Path
) -> None:
    script = write(
        """
        '''What a script can see.'''
        import inspect, sys, warnings
        import neighbour

        class Here:
            part: int

        print(sys.argv, sys.path[0], __file__, __name__, __doc__, __package__, __spec__, __cached__)
        print(Here.__module__, Here.__annotations__, sys.modules["__main__"].Here is Here)
        print(inspect.getsource(Here), type(__loader__), neighbour.__file__)
        warnings.warn("shown once", DeprecationWarning)
        """,
        "below/script.py",
    )
    write("", "below/neighbour.py")
    (tmp_path / "link.py").symlink_to(tmp_path / script)
    arguments = ["--help", "-x", "--", "--version", "a b", ""]
    for words in ([script], [f"below/../{script}", *arguments], ["link.py", "run"]):
        outcome = invoke(RUN, *words)
        assert outcome == invoke(PYTHON, *words)
        assert outcome[0] == 0, outcome[2]


def test_a_script_gets_no_directory_of_its_own_where_python_is_told_so(
    write: Callable[..., str], invoke: Invoke
) -> None:
    script = write("import sys\nprint(sys.path)", "below/script.py")
    safe = {"PYTHONSAFEPATH": "1"}
    assert invoke(RUN, script, **safe) == invoke(PYTHON, script, **safe)


def test_a_script_that_cannot_be_read_is_one_sentence_and_status_2(
    write: Callable[..., str], invoke: Invoke
) -> None:
    write("", "below/script.py")
    for script, reason in (("none.py", "No such file or directory"), ("below", "Is a directory")):
        message = f"dejavec run: cannot read the script {script}: {reason}\n"
        assert invoke(RUN, script, "--flag") == (2, "", message)


def test_a_script_without_mteb_does_not_import_it(write: Callable[..., str], invoke: Invoke) -> None:
    script = write(
        """
        import sys
        print([name for name in ("mteb", "torch", "datasets") if name in sys.modules])
        """
    )
    assert invoke(RUN, script) == (0, "[]\n", "")


# The scripts of mteb's documentation, with a model and tasks that need no network.

SETTING = """
import json

import mteb
from mteb.mocks.mock_tasks import MockClassificationTask, MockRetrievalTask

def scores(model, task):
    results = mteb.evaluate(model, tasks=[task], cache=None, co2_tracker=False, show_progress_bar=False)
    return json.dumps([result.scores for result in results.task_results], sort_keys=True)

task = MockClassificationTask()
model = mteb.get_model("mteb/baseline-random-encoder")
"""

OF_MTEB_2 = f"""
{SETTING}
from mteb.models.cache_wrappers import CachedEmbeddingWrapper

cached = CachedEmbeddingWrapper(model, cache_path="cache")
print(scores(cached, task))

import numpy as np
from mteb.models.cache_wrappers.cache_backends import NumpyCache

vector_map = NumpyCache("cache/MockClassificationTask")
vector_map.load()
vectors = np.asarray(vector_map.vectors)
vectors = vectors[~(vectors == 0).all(axis=1)]
print(sorted(map(bytes, np.unique(vectors, axis=0))))
print(type(mteb.__loader__), mteb.__loader__ is mteb.__spec__.loader)

import sys

from mteb.models import CachedEmbeddingWrapper
from mteb.models.cache_wrappers.cache_backends.faiss_cache import FaissCache

cachedmodel = CachedEmbeddingWrapper(model, "cache_dir", cache_backend=FaissCache)
print(scores(cachedmodel, task), file=sys.stderr)
"""

OF_MTEB_1 = f"""
import multiprocessing
import sys

import numpy as np
from mteb.models.cache_wrapper import CachedEmbeddingWrapper, TextVectorMap

def origins():
    from mteb.models import CachedEmbeddingWrapper as current
    return CachedEmbeddingWrapper is current, current.__module__

if __name__ == "__main__":
    {SETTING.replace(chr(10), chr(10) + " " * 4)}

    cached = CachedEmbeddingWrapper(model, cache_path="cache")
    print(scores(cached, task))
    vector_map = TextVectorMap("cache/MockClassificationTask")
    vector_map.load(name="MockClassificationTask")
    vectors = np.asarray(vector_map.vectors)
    vectors = vectors[~(vectors == 0).all(axis=1)]
    print(sorted(map(bytes, np.unique(vectors, axis=0))))

    encoded = cached.totals.misses
    print(scores(cached, MockClassificationTask()), file=sys.stderr)
    print(encoded, cached.totals.misses, file=sys.stderr)
    print(scores(model, MockRetrievalTask()), file=sys.stderr)
    print(scores(cached, MockRetrievalTask()), file=sys.stderr)
    try:
        TextVectorMap("cache/MockRetrievalTask").load(name="MockRetrievalTask")
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.apply(origins), file=sys.stderr)
"""


def test_the_scripts_of_mtebs_documentation_run_unchanged(write: Callable[..., str], tmp_path: Path) -> None:
    def run_below(below: str, *words: str) -> Outcome:
        (tmp_path / below).mkdir()
        return run_python(*words, cwd=tmp_path / below, environment=OFFLINE)

    two, one = write(OF_MTEB_2, "two.py"), write(OF_MTEB_1, "one.py")
    status, of_mteb, messages = run_below("mteb", f"../{two}")
    assert status == 0, messages
    of_two, of_one = (
        run_below(script.removesuffix(".py"), "-m", "dejavec", "run", f"../{script}") for script in (two, one)
    )
    assert (of_two[0], of_one[0]) == (0, 0), (of_two[2], of_one[2])

    assert of_two[1] == of_mteb
    for cache, vectors in (("cache", "vectors.npy"), ("cache_dir", "vectors.faiss")):
        (written,) = tmp_path.glob(f"two/{cache}/**/meta.json")
        assert written.with_name(vectors).is_file()
        assert not list(tmp_path.glob(f"two/{cache}/**/index.json"))
    # Of mteb's own wrapper this is not expected: after a duplicate its FaissCache returns other rows.
    assert of_mteb.splitlines()[0] in of_two[2].splitlines()

    assert of_one[1].splitlines() == of_mteb.splitlines()[:2]
    printed = [line for line in of_one[2].splitlines() if line.strip()]
    again, encoded, uncached, through, both, child = printed[-6:]
    assert again == of_mteb.splitlines()[0]
    assert len(set(encoded.split())) == 1
    assert through == uncached
    above = tmp_path / "one" / "cache" / "MockRetrievalTask"
    assert f"{above / 'query'} and {above / 'document'}" in both
    assert child == "(True, 'dejavec.mteb.wrapper')"


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_child_processes_have_the_cache_too_and_theirs(
    method: str, write: Callable[..., str], invoke: Invoke
) -> None:
    script = write(
        f"""
        import multiprocessing, sys

        context = multiprocessing.get_context({method!r})

        def look(depth):
            print([type(finder).__module__ for finder in sys.meta_path if not isinstance(finder, type)][:1])
            if depth:
                child = context.Process(target=look, args=(depth - 1,))
                child.start()
                child.join()

        if __name__ == "__main__":
            look(2)
        """
    )
    assert invoke(RUN, script, PYTHONUNBUFFERED="1") == (0, "['dejavec.drop_in.install']\n" * 3, "")


@pytest.mark.parametrize("missing", ["the module", "the name"])
def test_another_mteb_is_refused_when_it_is_imported_and_left_as_it_is(
    missing: str, write: Callable[..., str], invoke: Invoke
) -> None:
    write("__version__ = '2.0.9'", "mteb/__init__.py")
    write("CachedEmbeddingWrapper = 'theirs'", "mteb/models/__init__.py")
    if missing == "the name":
        write("", "mteb/models/cache_wrappers/__init__.py")
    script = write(
        """
        import sys
        for attempt in range(2):
            try:
                import mteb
            except ImportError as error:
                print(error)
        print("mteb" in sys.modules, "mteb.models.cache_wrapper" in sys.modules)
        print(sys.modules["mteb.models"].CachedEmbeddingWrapper)
        """
    )
    status, output, messages = invoke(RUN, script)
    assert status == 0, messages
    first, second, *left = output.splitlines()
    assert first == second
    assert "found 2.0.9, without mteb.models.cache_wrappers.CachedEmbeddingWrapper" in first
    assert "mteb 2.20 or later" in first
    assert left == ["False False", "theirs"]


# Where mteb is imported already.


def state() -> dict[str, Any]:
    """All names of all modules of mteb, the modules there are, and their finders."""
    modules = {name: module for name, module in sys.modules.items() if name.partition(".")[0] == "mteb"}
    return {
        "names": {name: dict(vars(module)) for name, module in modules.items()},
        "modules": modules,
        "finders": list(sys.meta_path),
    }


@pytest.fixture(autouse=True)
def leave_mteb_alone() -> Iterator[None]:
    before = state()
    yield
    dejavec.uninstall()
    assert state() == before


def installed() -> bool:
    """Whether every name is dejavec's; fails if only some are."""
    found = {
        *(getattr(module, name) is getattr(dejavec, name) for module, name in REPLACED),
        hasattr(mteb.models, "cache_wrapper"),
        "mteb.models.cache_wrapper" in sys.modules,
        any(type(finder).__module__ == "dejavec.drop_in.install" for finder in sys.meta_path),
    }
    assert len(found) == 1
    return found.pop()


@pytest.mark.parametrize("steps", ["i", "ii", "iu", "u", "uu", "iiu", "iuu", "iui", "iuiu", "uiiuui"])
def test_installing_and_uninstalling_go_in_any_order(steps: str) -> None:
    before = state()
    for step in steps:
        if step == "i":
            dejavec.install()
            assert installed()
        else:
            dejavec.uninstall()
            assert state() == before
            assert not installed()


def test_the_old_module_has_the_names_of_mteb_1() -> None:
    with pytest.raises(ModuleNotFoundError):
        from mteb.models.cache_wrapper import TextVectorMap
    dejavec.install()
    from mteb.models.cache_wrapper import CachedEmbeddingWrapper, TextVectorMap

    assert CachedEmbeddingWrapper is dejavec.CachedEmbeddingWrapper
    assert TextVectorMap is dejavec.TextVectorMap
    assert vars(mteb.models)["cache_wrapper"] is sys.modules["mteb.models.cache_wrapper"]


def test_what_was_imported_before_stays_mtebs() -> None:
    from mteb.models import CachedEmbeddingWrapper

    dejavec.install()
    assert CachedEmbeddingWrapper.__module__ == "mteb.models.cache_wrappers.cache_wrapper"


def test_what_somebody_else_put_there_since_is_left_to_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mteb.models, "CachedEmbeddingWrapper", mteb.models.CachedEmbeddingWrapper)
    before = state()
    dejavec.install()
    mteb.models.CachedEmbeddingWrapper = object
    dejavec.uninstall()
    assert mteb.models.CachedEmbeddingWrapper is object
    mteb.models.CachedEmbeddingWrapper = before["names"]["mteb.models"]["CachedEmbeddingWrapper"]
    assert state() == before


def test_every_name_in_mteb_is_accounted_for() -> None:
    ours = {name: getattr(dejavec, name) for _, name in REPLACED}
    dejavec.install()
    theirs = {
        (module, name)
        for module, names in state()["names"].items()
        for name, found in names.items()
        if name in ours and found is not ours[name]
    }
    assert not theirs
