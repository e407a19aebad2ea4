"""Entry of a measuring child process: `python -m bench.child module:function JSON`.

The last line of its output is the result as JSON.
"""

from __future__ import annotations

import dataclasses
import json
import sys

from bench.measure import resolve


def main() -> int:
    target, arguments = sys.argv[1:3]
    result = resolve(target)(**json.loads(arguments))
    if dataclasses.is_dataclass(result) and not isinstance(result, type):
        result = dataclasses.asdict(result)
    print(json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
