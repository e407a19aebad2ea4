"""Coverage-guided fuzzing of one target by atheris: `python -m fuzz.guided TARGET [libFuzzer options]`.

atheris sees the branches of Python code; of the native targets it only mutates. Findings of earlier
runs are files in `corpus/TARGET/`, which the campaign replays. Install atheris by hand: it has
wheels for few versions of Python.
"""

from __future__ import annotations

import sys
from pathlib import Path

CORPUS = Path(__file__).parent / "corpus"


def main() -> None:
    try:
        import atheris
    except ImportError:
        sys.exit("atheris is not installed: pip install atheris")
    with atheris.instrument_imports(include=["edgecache"]):
        from fuzz.targets import TARGETS
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"one target of {', '.join(TARGETS)} is needed")
    name = sys.argv.pop(1)
    corpus = CORPUS / name
    corpus.mkdir(parents=True, exist_ok=True)
    atheris.Setup([*sys.argv, str(corpus)], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
