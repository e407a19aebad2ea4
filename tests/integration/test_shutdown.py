"""The interpreter ends while a store is open and busy: no crash, no hang, nothing is lost."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from edgecache import Config, Storage

SECONDS_MAX = 20

PREAMBLE = """
import asyncio, os, sys, threading
import edgecache
root, engine = sys.argv[1:]
store = edgecache.open(root, memory="2MiB", disk="64MiB", io=engine, shards=1)
for number in range(5000):
    store.put(f"k{number}", b"%d" % number * 100)
"""

ENDINGS = {
    # Nobody closes it: atexit does.
    "plain": "",
    "exit": "sys.exit(0)",
    "a_cycle": """
        class Holder: pass
        holder = Holder(); holder.store = store; holder.self = holder
    """,
    "in_a_module": "import json; json.store = store; del store",
    # Blobs and exported memoryviews outlive the store.
    "views": "views = [memoryview(store.view(f'k{n}')) for n in range(4900, 5000)]",
    # A thread that the interpreter waits for uses the store to the last.
    "a_late_thread": """
        def work():
            threading.main_thread().join()
            for number in range(2000):
                assert store.get(f"k{number}") == b"%d" % number * 100
        threading.Thread(target=work).start()
    """,
    # Daemon threads are inside native code, with and without the GIL, when the end comes.
    "daemon_readers": """
        started = threading.Barrier(5)
        def read(seed):
            started.wait()
            number = seed
            while True:
                number = (number * 7 + 1) % 5000
                store.get(f"k{number}")
        for seed in range(4):
            threading.Thread(target=read, args=(seed,), daemon=True).start()
        started.wait()
    """,
    "daemon_writers": """
        started = threading.Barrier(5)
        def write(seed):
            started.wait()
            while True:
                store.put(f"w{seed}", bytes(100_000))
                store.get_many([f"k{n}" for n in range(seed, 5000, 50)])
        for seed in range(4):
            threading.Thread(target=write, args=(seed,), daemon=True).start()
        started.wait()
    """,
    # A loop ends with reads in flight.
    "async_reads": """
        async def main():
            face = edgecache.AsyncStorage(storage=store)
            for n in range(2000):
                asyncio.ensure_future(face.get(f"k{n}"))
            await asyncio.sleep(0)
        asyncio.run(main())
    """,
    "async_never_closed": """
        loop = asyncio.new_event_loop()
        face = edgecache.AsyncStorage(storage=store)
        tasks = [loop.create_task(face.get(f"k{n}")) for n in range(2000)]
        loop.call_soon(loop.stop)
        loop.run_forever()
    """,
}


@pytest.mark.parametrize("engine", ["threads", "auto"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_the_interpreter_ends_well(ending: str, engine: str, tmp_path: Path) -> None:
    script = PREAMBLE + textwrap.dedent(ENDINGS[ending])
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", script, str(tmp_path / "root"), engine],
        capture_output=True,
        text=True,
        timeout=SECONDS_MAX,
    )
    assert done.returncode == 0, done.stderr
    assert "Fatal" not in done.stderr
    assert "Segmentation" not in done.stderr
    with Storage(
        Config(root=str(tmp_path / "root"), memory="2MiB", disk="64MiB", io="threads")
    ) as store:
        # Closed in good order: nothing was lost, and recovery had a clean checkpoint.
        found = store.get_many([f"k{number}" for number in range(5000)])
        assert found == [b"%d" % number * 100 for number in range(5000)]
        assert store.counters()["recovery_checkpoint_clean"]
        assert store.check() == []
