"""Coverage-guided fuzzing of one target by atheris: `python -m fuzz.guided TARGET [options]`.

atheris sees the branches of Python code; of the native targets it only mutates. Findings of earlier
runs are files in `corpus/TARGET/`, which the campaign replays. Install atheris by hand: it has
wheels for few versions of Python.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"


def main() -> None:
    try:
        import atheris
    except ImportError:
        sys.exit("atheris is not installed: pip install atheris")
    with atheris.instrument_imports(include=["edgecache"]):
        from fuzz.targets import TARGETS, seeds
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"one target of {', '.join(TARGETS)} is needed")
    name = sys.argv.pop(1)
    # What it learns goes to a scratch directory: only findings are kept in the repository.
    learned = Path(tempfile.mkdtemp(prefix=f"fuzz-{name}-"))
    for number, data in enumerate(seeds()[name]):
        (learned / str(number)).write_bytes(data)
    kept = [str(path) for path in (CORPUS / name,) if path.is_dir()]
    atheris.Setup([*sys.argv, str(learned), *kept], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
