"""``python -m nas.dashboard.importance FOLDER``: the importance of a run's parameters, and what
chance would have reached, as JSON.

In a process of its own, as scikit-learn takes more memory than all the rest of a dashboard.
"""

import json
import os
import sys
from pathlib import Path

from nas import terminal
from nas.report.chance import chance
from nas.report.importance import importance
from nas.run import Run


def main() -> None:
    os.nice(10)  # searches come first
    run = Run(Path(sys.argv[1]))
    candidates, task = run.candidates(), run.task
    found = {
        "importance": importance(candidates, task),
        "chance": chance(candidates, task, run.spaces),
    }
    terminal.echo(json.dumps(found))


if __name__ == "__main__":
    main()
