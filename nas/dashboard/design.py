"""``python -m nas.dashboard.design FOLDER NUMBER``: the design document of a candidate as JSON.

In a process of its own, as it builds the network with torch, and may be ended.
"""

import json
import os
import sys
from pathlib import Path

from nas import terminal
from nas.export.document import design_of_run
from nas.run import Run
from nas.task import InputError


def main() -> int:
    os.nice(10)  # searches come first
    try:
        document = design_of_run(Run(Path(sys.argv[1])), int(sys.argv[2]))
    except InputError as error:
        terminal.line(error)
        return 1
    terminal.echo(json.dumps(document.to_dict()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
