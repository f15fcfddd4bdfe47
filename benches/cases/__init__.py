"""What is measured, by name, in the order in which it is reported."""

from __future__ import annotations

from benches.cases.base import Case, Measured, Place
from benches.cases.cores import Hashing, Readers
from benches.cases.evaluate import Evaluate
from benches.cases.faiss_file import FaissAppend, FaissBuild, FaissOpen
from benches.cases.fill import ColdFill, Duplicates, SomeMissing
from benches.cases.framework_caches import FrameworkCaches
from benches.cases.get import SingleGet, WarmGet
from benches.cases.identity import Identity
from benches.cases.large import Append, LookUp, Open
from benches.cases.listing import Listing
from benches.cases.multi_vector import ColdTokens, WarmTokens
from benches.cases.scripts import Scripts
from benches.cases.search import Search, SearchOne
from benches.cases.sharing import Pull, PullFromS3, Push, PushToS3, StoredKeys
from benches.cases.transfer import Compact, Transfer
from benches.cases.warm import WarmEncode, WarmShuffled, WarmTitled

__all__ = ["BY_NAME", "Case", "Measured", "Place"]

BY_NAME: dict[str, Case] = {
    case.name: case
    for case in (
        WarmEncode(),
        WarmShuffled(),
        WarmTitled(),
        FrameworkCaches(),
        WarmGet(),
        SingleGet(),
        ColdFill(),
        SomeMissing(),
        Duplicates(),
        ColdTokens(),
        WarmTokens(),
        Open(),
        Append(),
        LookUp(),
        FaissAppend(),
        FaissOpen(),
        FaissBuild(),
        Search(),
        SearchOne(),
        Transfer(),
        Compact(),
        Push(),
        Pull(),
        PushToS3(),
        PullFromS3(),
        StoredKeys(),
        Hashing(),
        Scripts(),
        Readers(),
        Identity(),
        Listing(),
        Evaluate(),
    )
}
