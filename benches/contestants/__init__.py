"""Who takes part, by name."""

from __future__ import annotations

from benches.contestants.base import Contestant, Reader
from benches.contestants.dejavec_cache import (
    Backend,
    Cache,
    CacheIntoArray,
    FaissWrapper,
    TitledWrapper,
    UnsyncedCache,
    UnverifiedCache,
    Wrapper,
)
from benches.contestants.dictionary import Dictionary
from benches.contestants.diskcache_store import DiskCache
from benches.contestants.framework_caches import (
    ForLangChain,
    ForLlamaIndex,
    IngestionCache,
    LangChainLists,
    ListDictionary,
)
from benches.contestants.langchain_cache import LangChain
from benches.contestants.lmdb_store import Lmdb, UnsyncedLmdb
from benches.contestants.mteb_cache import Faiss, Numpy, TitledNumpy
from benches.contestants.rocksdb_store import RocksDb, UnsyncedRocksDb
from benches.contestants.sqlite_store import Sqlite, UnsyncedSqlite
from benches.contestants.token_stores import (
    ArrowFile,
    Lance,
    LmdbTokens,
    Npz,
    Pickle,
    Tokens,
    UnverifiedTokens,
)

__all__ = ["BY_NAME", "Contestant", "Reader"]

BY_NAME: dict[str, type[Contestant]] = {
    contestant.name: contestant
    for contestant in (
        Wrapper,
        TitledWrapper,
        FaissWrapper,
        Cache,
        UnverifiedCache,
        UnsyncedCache,
        CacheIntoArray,
        Backend,
        Numpy,
        TitledNumpy,
        Faiss,
        Lmdb,
        UnsyncedLmdb,
        RocksDb,
        UnsyncedRocksDb,
        Sqlite,
        UnsyncedSqlite,
        DiskCache,
        LangChain,
        Dictionary,
        ForLangChain,
        LangChainLists,
        ForLlamaIndex,
        IngestionCache,
        ListDictionary,
        Tokens,
        UnverifiedTokens,
        Pickle,
        Npz,
        ArrowFile,
        Lance,
        LmdbTokens,
    )
}
