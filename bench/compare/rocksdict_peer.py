"""RocksDB through rocksdict, raw bytes, no compression; the log is written but not synced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import rocksdict


class RocksdictPeer:
    def __init__(self, path: Path | str, cache_bytes: int, direct: bool, sync: bool) -> None:
        options = rocksdict.Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_compression_type(rocksdict.DBCompressionType.none())
        if direct:
            options.set_use_direct_reads(True)
        if cache_bytes:
            table = rocksdict.BlockBasedOptions()
            table.set_block_cache(rocksdict.Cache(cache_bytes))
            table.set_bloom_filter(10, False)
            table.set_cache_index_and_filter_blocks(True)
            options.set_block_based_table_factory(table)
        self.database = rocksdict.Rdict(str(path), options)
        self.get = self.database.get
        self.put = self.database.put
        if sync:
            write = rocksdict.WriteOptions()
            write.sync = True
            self.database.set_write_options(write)

    def flush(self) -> None:
        self.database.flush()

    def settle(self) -> None:
        """Compact everything, so that reads are measured on a tree at rest."""
        self.database.flush()
        self.database.compact_range(None, None)

    def close(self) -> None:
        self.database.close()


def open_peer(
    path: Path | str,
    *,
    cache_bytes: int = 0,
    direct: bool = False,
    sync: bool = False,
    **_: Any,
) -> RocksdictPeer:
    return RocksdictPeer(path, cache_bytes, direct, sync)
