"""``python -m nas.dashboard.importance FOLDER``: the importance of a run's parameters as JSON.

In a process of its own, as scikit-learn takes more memory than all the rest of a dashboard.
"""

import json
import os
import sys
from pathlib import Path

from nas import terminal
from nas.report.importance import importance
from nas.run import Run


def main() -> None:
    os.nice(10)  # searches come first
    run = Run(Path(sys.argv[1]))
    terminal.echo(json.dumps(importance(run.candidates(), run.task)))


if __name__ == "__main__":
    main()
