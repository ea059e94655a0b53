"""``python -m nas.dashboard.importance PLACE``: the importance of a run's parameters, and what
chance would have reached, as JSON.

In a process of its own, as scikit-learn takes more memory than all the rest of a dashboard.
"""

import json
import os
import sys

from nas import terminal
from nas.dashboard.sources import source
from nas.report.chance import chance
from nas.report.importance import importance


def main() -> None:
    os.nice(10)  # searches come first
    candidates, task, spaces = source(sys.argv[1]).view()
    found = {
        "importance": importance(candidates, task),
        "chance": chance(candidates, task, spaces),
    }
    terminal.echo(json.dumps(found))


if __name__ == "__main__":
    main()
