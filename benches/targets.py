"""What is aimed at, as ratios of figures of one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benches import floors
from benches.cases import faiss_file, listing, scripts, search, sharing, transfer
from benches.runner import Outcome

Value = Callable[["Figures"], float]


class Figures:
    """The outcomes of a run, to calculate with; a figure that is missing raises ``KeyError``."""

    def __init__(self, outcomes: Sequence[Outcome], rows: int) -> None:
        self._found = {
            (outcome.case, outcome.contestant, outcome.setup.rows): outcome
            for outcome in outcomes
            if outcome.seconds
            and not outcome.failure
            and outcome.setup.dtype == "float32"
            # Of the setups with other vectors only the standard one counts.
            and outcome.setup.dim in (384, 4, 128)
        }
        self.rows = rows

    def outcome(self, case: str, contestant: str, rows: int | None = None) -> Outcome:
        return self._found[case, contestant, self.rows if rows is None else rows]

    def seconds(self, case: str, contestant: str, rows: int | None = None) -> float:
        """Of the median round, an item."""
        return self.outcome(case, contestant, rows).per_item

    def ratio(self, case: str, contestant: str, other: str) -> float:
        """How many times as long one takes as another in the same case."""
        return self.seconds(case, contestant) / self.seconds(case, other)


@dataclass(frozen=True)
class Target:
    """One line of the table.

    Attributes:
        work: what is done.
        against: what the value is.
        bound: what it must reach; not more than that unless ``at_least``.
        at_least: whether larger is better.
        rows: of the setups that count, largest first; the first that was measured is taken.
        value: how it is calculated.
        unit: of value and bound; a ratio has none.
    """

    work: str
    against: str
    bound: float
    at_least: bool
    rows: Sequence[int]
    value: Value
    unit: str = "×"

    def reached(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound


def measured(targets: Sequence[Target], outcomes: Sequence[Outcome]) -> list[tuple[Target, int, float]]:
    """Each target with the rows and the value that were measured; what was not measured is left out."""
    found = []
    for target in targets:
        for rows in target.rows:
            try:
                found.append((target, rows, target.value(Figures(outcomes, rows))))
                break
            except KeyError:
                continue
    return found


_TEXTS = (1_000_000, 100_000, 10_000, 2_000)
_SOME = (100_000, 10_000, 2_000)
_SOME_TOKENS = (10_000, 200)
_LARGE = (10_000_000, 1_000_000, 100_000, 10_000)
_KEYS = (100_000_000, *_LARGE)

_OURS, _LIST, _BARE = "dejavec", "dejavec, list[str]", "dejavec, verify=False"
_UNSYNCED, _BACKEND, _MTEB = "dejavec, synced at close", "dejavec NumpyCache", "mteb NumpyCache"
_PEERS_OF_GET = {"LMDB": 4, "RocksDB": 8, "SQLite": 25, "diskcache": 15}
_TOKENS, _BARE_TOKENS = "dejavec, multi-vector", "dejavec, multi-vector, verify=False"
_HASH, _TAKE, _WRITE = floors.SHA256_ALL, floors.TAKE, floors.WRITE


def _at_most(work: str, against: str, bound: float, rows: Sequence[int], value: Value) -> Target:
    return Target(work, against, bound, False, rows, value)


def _faster(case: str, work: str, ours: str, peer: str, bound: float) -> Target:
    """We take at most one ``bound``-th of a peer's time."""
    rows = {"warm": _TEXTS, "shuffled": _TEXTS, "tokens-warm": _SOME_TOKENS}.get(case, _SOME)
    return Target(work, f"faster than {peer}", bound, True, rows, lambda f: f.ratio(case, peer, ours))


def _parts_of(case: str, ours: str, *under: str) -> Value:
    """Our time in parts of the sum of others."""
    return lambda f: f.seconds(case, ours) / sum(f.seconds(case, name) for name in under)


def _memory_of_result(which: str) -> Value:
    def value(figures: Figures) -> float:
        memory = figures.outcome("warm", _OURS).memory
        return memory[which] / memory["result"]

    return value


def _memory_of_tokens(case: str) -> Value:
    def value(figures: Figures) -> float:
        memory = figures.outcome(case, _TOKENS).memory
        return memory["peak"] / memory["result"]

    return value


def _memory_of_matrix(figures: Figures) -> float:
    memory = figures.outcome("faiss-build", faiss_file.DEJAVEC).memory
    return memory["peak"] / memory["matrix"]


_WARM, _SHUFFLED, _GET = "warm encode, corpus order", "warm encode, shuffled", "warm get of shuffled texts"

TARGETS: tuple[Target, ...] = (
    _at_most(_WARM, "SHA-256 floor", 1.9, _TEXTS, _parts_of("warm", _OURS, _HASH)),
    _faster("warm", _WARM, _OURS, _MTEB, 45),
    _at_most(f"{_WARM}, verify=False", "SHA-256 floor", 1.5, _TEXTS, _parts_of("warm", _BARE, _HASH)),
    _faster("warm", f"{_WARM}, verify=False", _BARE, _MTEB, 60),
    _faster("warm", f"{_WARM}, list[str]", _LIST, _MTEB, 35),
    _faster("warm", f"{_WARM}, FaissCache", "dejavec FaissCache", "mteb FaissCache", 50),
    _at_most(_SHUFFLED, "both floors", 1.6, _TEXTS, _parts_of("shuffled", _OURS, _HASH, _TAKE)),
    _at_most(
        f"{_SHUFFLED}, verify=False", "both floors", 1.3, _TEXTS, _parts_of("shuffled", _BARE, _HASH, _TAKE)
    ),
    _faster("shuffled", _SHUFFLED, _OURS, _MTEB, 12),
    *(
        _faster("frameworks", "warm encode, lists of floats", f"dejavec for {framework}", peer, 20)
        for framework, peer in (
            ("LangChain", "LangChain, lists"),
            ("LlamaIndex", "LlamaIndex IngestionCache"),
        )
    ),
    *(_faster("get", _GET, _LIST, peer, bound) for peer, bound in _PEERS_OF_GET.items()),
    _faster("get", f"{_GET}, out=", "dejavec, out=", "LMDB", 8),
    _at_most(
        "keys, one core",
        "plain loop",
        0.75,
        _SOME,
        _parts_of("hashing", "dejavec, one core", floors.SHA256_ONE),
    ),
    _at_most(
        "keys, all cores",
        "one core",
        0.65,
        _SOME,
        _parts_of("hashing", "dejavec, all cores", "dejavec, one core"),
    ),
    *(
        _at_most(
            f"keys of a list, {script}",
            "English of as many bytes",
            2,
            _SOME,
            _parts_of("scripts", script, scripts.ENGLISH),
        )
        for script in (scripts.CHINESE, scripts.ARABIC, scripts.EMOJI)
    ),
    _at_most("cold overhead", "write + fsync floor", 1.5, _SOME, _parts_of("cold", _LIST, _WRITE)),
    _faster("cold", "cold overhead", _LIST, _MTEB, 10),
    _faster("cold", "cold overhead", _LIST, "LMDB", 1),
    _faster("cold", "cold overhead", _LIST, "RocksDB", 1),
    _faster("cold", "cold overhead, not synced", _UNSYNCED, "LMDB, not synced", 1),
    _faster("cold", "cold overhead, not synced", _UNSYNCED, "RocksDB, not synced", 1),
    _at_most(
        "cold multi-vector",
        "write + fsync floor",
        1.5,
        _SOME_TOKENS,
        _parts_of("tokens-cold", _TOKENS, _WRITE),
    ),
    _at_most(
        "warm multi-vector",
        "both floors",
        2,
        _SOME_TOKENS,
        _parts_of("tokens-warm", _TOKENS, floors.MAP, _HASH),
    ),
    _at_most(
        "warm multi-vector, verify=False",
        "both floors",
        1.5,
        _SOME_TOKENS,
        _parts_of("tokens-warm", _BARE_TOKENS, floors.MAP, _HASH),
    ),
    *(_faster("tokens-warm", "warm multi-vector", _TOKENS, peer, 1) for peer in ("pickle", "npz", "Lance")),
    # These only map their file, and check nothing.
    *(
        _faster("tokens-warm", "warm multi-vector, verify=False", _BARE_TOKENS, peer, 1)
        for peer in ("Arrow IPC", "LMDB, multi-vector")
    ),
    _at_most(
        "cold multi-vector: peak memory", "the result", 1.2, _SOME_TOKENS, _memory_of_tokens("tokens-cold")
    ),
    _at_most(
        "warm multi-vector: peak memory", "the result", 1.2, _SOME_TOKENS, _memory_of_tokens("tokens-warm")
    ),
    _at_most(f"{_WARM}: peak memory", "the result", 1.1, _TEXTS, _memory_of_result("peak")),
    _at_most(f"{_WARM}: anonymous memory", "the result", 0.2, _TEXTS, _memory_of_result("anonymous")),
    Target(
        "dejavec ls, 1,000 caches",
        "",
        1,
        False,
        (1_000,),
        lambda f: f.outcome("ls", listing.LS).median,
        "s",
    ),
    Target(
        "open, snapshot of all rows", "", 5, False, _LARGE, lambda f: f.seconds("open", _OURS) * 1e3, "ms"
    ),
    Target(
        "open, snapshot of all rows: private memory",
        "",
        10,
        False,
        _LARGE,
        lambda f: f.outcome("open", _OURS).memory["anonymous"] / 1e6,
        "MB",
    ),
    Target(
        "open, one row repaired",
        "",
        5,
        False,
        _LARGE,
        lambda f: f.seconds("open", "dejavec, one row repaired") * 1e3,
        "ms",
    ),
    Target(
        "open, writer killed",
        "",
        5,
        False,
        (1_000_000,),
        lambda f: f.seconds("open", "dejavec, writer killed") * 1e3,
        "ms",
    ),
    Target(
        "open, no snapshot", "", 1.5, False, _LARGE, lambda f: f.seconds("open", "dejavec, no snapshot"), "s"
    ),
    _at_most(
        "append 8,192 rows",
        "appending to 100,000",
        1.2,
        _LARGE,
        lambda f: f.seconds("append", _OURS) / f.seconds("append", _OURS, 100_000),
    ),
    Target(
        "append 10,000 rows to a flat index",
        "faster than faiss.write_index",
        30,
        True,
        (1_000_000, 10_000),
        lambda f: f.ratio("faiss-append", faiss_file.FAISS, faiss_file.DEJAVEC),
    ),
    Target(
        "open a flat index",
        "",
        5,
        False,
        (1_000_000, 10_000),
        lambda f: f.seconds("faiss-open", faiss_file.DEJAVEC) * 1e3,
        "ms",
    ),
    Target(
        f"build {faiss_file.FACTORY}: peak memory",
        "the matrix",
        0.2,
        False,
        (1_000_000,),
        _memory_of_matrix,
    ),
    *(
        _at_most(
            f"search by the cosine, {queries}",
            "FAISS's flat search",
            1.1,
            _LARGE,
            lambda f, case=case: f.ratio(case, search.OURS, search.FAISS),  # type: ignore[misc]
        )
        for case, queries in (("search", "100 queries"), ("search-one", "one query"))
    ),
    *(
        _at_most(
            contestant,
            "a copy of the files",
            1.5,
            _LARGE,
            lambda f, contestant=contestant: f.ratio("transfer", contestant, floors.COPY),  # type: ignore[misc]
        )
        for contestant in (transfer.MERGE, transfer.COPY)
    ),
    _at_most(
        f"{transfer.COMPACT}, half of the rows deleted",
        "a copy of the rest",
        1.5,
        _LARGE,
        lambda f: f.ratio("compact", transfer.COMPACT, floors.COPY),
    ),
    _at_most(
        f"{sharing.PUSH}, to a directory",
        "obstore alone, the same bytes",
        1.3,
        _LARGE,
        lambda f: f.ratio("push", sharing.PUSH, sharing.PUT),
    ),
    _at_most(
        f"{sharing.PULL}, from a directory, synced",
        "obstore alone, the same bytes written and synced",
        1.3,
        _LARGE,
        lambda f: f.ratio("pull", sharing.PULL, sharing.STORE),
    ),
    _at_most(
        f"{sharing.PUSH}, to an S3 server",
        "obstore alone, the same bytes",
        1.3,
        [100_000],
        lambda f: f.ratio("push-s3", sharing.PUSH, sharing.PUT),
    ),
    _at_most(
        f"{sharing.PULL}, from an S3 server, synced",
        "obstore alone, the same bytes written and synced",
        1.3,
        [100_000],
        lambda f: f.ratio("pull-s3", sharing.PULL, sharing.STORE),
    ),
    _at_most(
        f"look-ups in {sharing.PULLED}",
        "in a cache",
        1.1,
        _LARGE,
        lambda f: f.ratio("stored-keys", sharing.PULLED, sharing.LOCAL),
    ),
    Target(
        "get_vector of one text", "", 2, False, _SOME, lambda f: f.seconds("single", _BACKEND) * 1e6, "µs"
    ),
    _faster("single", "get_vector of one text", _BACKEND, _MTEB, 1),
    Target(
        "four readers, one core each",
        "the throughput of one",
        1.8,
        True,
        _SOME,
        lambda f: f.ratio("readers", "dejavec, 1 reader", "dejavec, 4 readers"),
    ),
    Target(
        "look-up in batches", "a key", 150, False, _KEYS, lambda f: f.seconds("lookup", _OURS) * 1e9, "ns"
    ),
)
