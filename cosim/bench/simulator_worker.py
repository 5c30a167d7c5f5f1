"""Let another simulator answer jobs: they come in, and results go out, as lines of JSON.

Runs in that simulator's own environment with the name of a module beside this file, and imports
nothing of ours. That module has `DISTRIBUTION`, what to install, and `evaluate`, from a job to what
the simulator says of it.
"""

import importlib
import json
import sys
from importlib import metadata


def main() -> None:
    """Answer every job on stdin by a line, after one line that tells the version."""
    simulator = importlib.import_module(sys.argv[1])
    _tell({"version": metadata.version(simulator.DISTRIBUTION)})
    for line in sys.stdin:
        _tell(simulator.evaluate(json.loads(line)))


def _tell(answer: object) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
