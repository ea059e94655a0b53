"""Write scikit-learn's digits (1,797 images of 8 x 8) to a file that `nas search` reads.

python scripts/digits.py demo/digits.npz
"""

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits


def main(path: Path) -> None:
    digits = load_digits()
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = (digits.images * 255 / 16).round().astype(np.uint8)
    np.savez_compressed(path, x=pixels, y=digits.target)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
