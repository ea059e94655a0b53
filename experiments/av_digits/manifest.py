"""Write AV digits, pairs of a MNIST image and a spoken digit, as a manifest of files.

NAS_DATA=... python experiments/av_digits/manifest.py FOLDER [--degrade]

NAS_DATA is the folder that holds multimodal/av_digits, images/mnist and audio/fsdd. FOLDER
gets manifest.csv (image, sound, label, split), the images and the sounds. With --degrade each
image is averaged to 7 x 7 pixels and each sound has white noise of its own power, so that
neither says all.
"""

import argparse
import os
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
from PIL import Image


def main(folder: Path, degrade: bool) -> None:
    data = Path(os.environ["NAS_DATA"])
    pairs = pd.read_csv(data / "multimodal/av_digits/pairs.csv")
    archive = np.load(data / "images/mnist/mnist.npz")
    digits = {part: archive[f"x_{part}"] for part in ("train", "test")}  # unpacked once
    rng = np.random.default_rng(0)
    for name in ("images", "sounds"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    pairs["image"] = [f"images/{p.split}-{p.mnist_index}.png" for p in pairs.itertuples()]
    pairs["sound"] = "sounds/" + pairs["fsdd_file"]
    for pair in pairs.drop_duplicates("image").itertuples():
        pixels = digits[pair.split][pair.mnist_index]
        if degrade:
            pixels = pixels.reshape(7, 4, 7, 4).mean(axis=(1, 3)).round().astype(np.uint8)
        Image.fromarray(pixels).save(folder / pair.image)
    for file in pairs["fsdd_file"].unique():
        wave, rate = soundfile.read(data / "audio/fsdd/wav" / file)
        if degrade:
            wave = wave + rng.normal(scale=wave.std(), size=len(wave))
            wave = wave / max(1.0, np.abs(wave).max())
        soundfile.write(folder / "sounds" / file, wave, rate)
    table = pairs[["image", "sound", "label", "split"]]
    table.to_csv(folder / "manifest.csv", index=False)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--degrade", action="store_true")
    arguments = parser.parse_args()
    main(arguments.folder, arguments.degrade)
