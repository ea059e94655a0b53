"""The page of a design document in a browser, for every modality."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from nas import recipe as recipes
from nas.candidate import Candidate
from nas.export.document import design_of_recipe, design_of_run, write_design
from nas.family import load_families
from nas.run import Run
from nas.task import Modality, Task
from nas.testing import example_datasets

pytestmark = pytest.mark.browser
RUN = Path(__file__).parents[1] / "earlier_format" / "run"


@pytest.fixture(scope="module")
def design(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The page of the largest baseline of a modality, or that of a run."""
    folder, made = tmp_path_factory.mktemp("designs"), {}

    def of(name: str) -> Path:
        if name not in made:
            made[name] = _written(name, folder / name)
        return made[name]

    return of


def _written(name: str, folder: Path) -> Path:
    if name == "a run":
        return write_design(design_of_run(Run(RUN)), folder)
    dataset = list(example_datasets(name).values())[-1]  # type: ignore[arg-type]
    task = Task(dataset.modality, dataset.targets, dataset.profile).with_objectives()
    family = list(load_families(task.modality).values())[-1]
    metrics = {task.quality.metric: 0.9}
    candidate = Candidate(1, family.name, family.baseline(task), 1, epochs=2, metrics=metrics)
    recipe = recipes.make(candidate, task, {"source": "data"}, {"torch": "2.13.0"})
    recipes.write(json.loads(json.dumps(recipe)), folder / "recipe.yaml")
    return write_design(design_of_recipe(folder / "recipe.yaml"), folder)


@pytest.fixture
def shown(chromium: Any, design: Callable[[str], Path]) -> Iterator[Callable[..., Any]]:
    """Opens a page; at the end it may have said nothing, and asked for nothing but itself."""
    contexts: list[Any] = []
    said: list[str] = []

    def open_(name: str, width: int) -> Any:
        address = design(name).as_uri()
        contexts.append(chromium.new_context(viewport={"width": width, "height": 900}))
        page = contexts[-1].new_page()
        page.on("console", lambda message: said.append(message.text))
        page.on("request", lambda request: said.append(request.url))
        page.goto(address)
        said.remove(address)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert said == []


NAMES = (*get_args(Modality), "a run")


@pytest.mark.parametrize("name", NAMES)
def test_a_design_breaks_no_rule_of_accessibility(
    shown: Callable[..., Any], violations: Callable[[Any], list[Any]], name: str
) -> None:
    assert violations(shown(name, 1280)) == []


@pytest.mark.parametrize("width", [390, 1280, 2560])
@pytest.mark.parametrize("name", NAMES)
def test_a_design_does_not_scroll_sideways(
    shown: Callable[..., Any], name: str, width: int
) -> None:
    page = shown(name, width)
    assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
