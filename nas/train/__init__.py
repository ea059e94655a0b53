"""Recipes at full scale: ``nas train`` and ``python -m nas.train fit --config recipe.yaml``.

``objects`` builds what a recipe describes, ``one`` trains it, ``several`` the networks of an
ensemble, and ``score`` scores what is trained. ``proof`` trains the proxy of a recipe again.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nas import recipe as recipes
from nas.recipe_changes import Settings, apply
from nas.train.objects import Training, build
from nas.train.one import train_one
from nas.train.proof import check
from nas.train.score import score_once
from nas.train.several import train_each
from nas.training.resume import kept_generators

__all__ = ["Training", "build", "check", "score_once", "train"]


def train(
    path: Path,
    out: Path,
    epochs: int | None = None,
    test: bool = True,
    resume: bool = False,
    settings: Settings | None = None,
    content: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Train a recipe, then score the best epoch once on the test part (not without ``test``).

    The generators of random numbers (of a recipe with a seed) and torch's number of threads are as
    before afterwards.

    Args:
        path: The recipe, or where it is from.
        out: A folder for ``model.ckpt``, ``recipe.yaml`` as it was trained, and ``result.json``.
        epochs: In place of the recipe's; its schedule is shortened alike.
        resume: Continue the training whose state is in ``out``/last.ckpt, or return the result of
            one that is over; where there is none, begin.
        settings: Further changes of the recipe.
        content: The recipe itself; default: that in the file.

    Returns:
        The result: test and validation metrics, epochs, seconds, parameters. Of several processes
        only the first returns; the others end.

    Raises:
        InputError: A recipe, data or a state that are wrong.
        KeyboardInterrupt: At Ctrl-C and SIGTERM, with what is kept: the state in last.ckpt, and in
            model.ckpt the best epoch so far, or, of one process, the network as it is where none is
            over.
    """
    content = recipes.read(path) if content is None else content
    recipe = recipes.checked(content, str(path), out)
    settings = settings or Settings()
    if epochs is not None:
        settings = replace(settings, epochs=epochs)
    if settings.devices == "auto":
        settings = replace(settings, devices=str(max(1, torch.cuda.device_count())))
    if settings.ensemble is not None:
        apply(recipe, Settings(ensemble=settings.ensemble))
        settings = replace(settings, ensemble=None)
    how = train_each if recipes.size(recipe) > 1 else train_one
    # Without a seed the next training must draw on, and give another network.
    seeded = recipe["seed_everything"] is not False
    with kept_generators() if seeded else nullcontext():
        return how(recipe, path, out, test, resume, settings)
