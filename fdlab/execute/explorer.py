"""The explorer: linked controls over what exists, one figure that follows, and a button that keeps
it. Without a live front end (papermill) it is the figure alone."""

from __future__ import annotations

import html
import shlex
from dataclasses import asdict, fields, replace
from pathlib import Path

import ipywidgets as widgets
import yaml
from IPython import get_ipython

from fdlab.core import paths
from fdlab.core.errors import UserError
from fdlab.core.files import write_text
from fdlab.core.fingerprint import digest
from fdlab.core.results import write_result
from fdlab.figures.explore import Screen, plates
from fdlab.figures.plate import Plate
from fdlab.figures.similarity import LABELS
from fdlab.figures.style import NULLS, arrow
from fdlab.spectral.bases import BASES
from fdlab.studies.explore import Scene, Shelf, View

NOTEBOOK = "explore"
ROWS = (("dataset", "preset", "direction"), ("method", "seed", "run"), ("node", "basis"),
        ("measure", "null"))  # fmt: skip
NAMES = {
    "dataset": "data set",
    "run": "run",
    "cutoff": "cut-off",
    "dc": "DC in the band",
    "null": "null",
}
STEP = 0.01  # of the slider


def explore(view: View, live: bool | None = None) -> widgets.VBox | Plate:
    """The page of controls where the front end is live, else the view's figure, saved.

    live: None asks `is_live`. A view that does not exist opens the nearest page that does, and says
    so; the figure alone is an error then, since it would be another one than was asked for.
    """
    if is_live() if live is None else live:
        return Explorer(view).page
    scene = Shelf().examine(view)
    print(scene.finding())
    print("\n".join(map(str, save_view(scene))))
    return plates(scene)["view"]


def is_live() -> bool:
    """Whether a person can answer this kernel: front ends say so with every cell that they run
    (`allow_stdin` of the Jupyter protocol), papermill and nbconvert say no."""
    kernel = getattr(get_ipython(), "kernel", None)
    if kernel is None:
        return False
    request = kernel.get_parent("shell") or {}
    return bool(request.get("content", {}).get("allow_stdin"))


def save_view(scene: Scene) -> list[Path]:
    """Write the figure (PDF, PNG), its numbers (JSON) and the parameters that make it again (YAML)
    to `outputs/explored/<data set>/`; a view always has the same name."""
    view = scene.view
    stem = paths.outputs() / "explored" / view.dataset / f"explore-{digest(view)[:8]}"
    written = plates(scene)["view"].save(stem)
    numbers, parameters = stem.with_suffix(".json"), stem.with_suffix(".yaml")
    write_result(numbers, scene)
    write_text(parameters, yaml.safe_dump(asdict(view), sort_keys=False))
    return [*written, numbers, parameters]


def print_command(parameters: Path) -> str:
    """What makes a saved view again, to be run from the root."""
    source = paths.notebooks() / f"{NOTEBOOK}.ipynb"
    names = [source, parameters.with_suffix(".ipynb"), parameters]
    root = paths.root()
    short = [str(p.relative_to(root) if p.is_relative_to(root) else p) for p in names]
    return shlex.join(["papermill", short[0], short[1], "-f", short[2]])


class Explorer:
    """Controls, figure and button; `page` shows them.

    Every control is one field of the view. A change draws the view anew; where the new value
    leaves other fields without a run or a node of their name, these take their first choice.
    """

    def __init__(self, view: View) -> None:
        self.shelf, self.screen = Shelf(), Screen()
        missing = ""
        try:
            self.shelf.find_match(view)
        except UserError as error:
            missing = str(error)
        self.view = self.shelf.settle(view)
        self.scene: Scene | None = None
        self._filling = False
        self.controls = {f.name: _make_control(f.name, self.view) for f in fields(View)}
        # Its own size: stretched to the page its pixels would blur.
        self.image = widgets.Image(format="png", layout={"align_self": "flex-start"})
        self.status, self.saved = widgets.HTML(), widgets.HTML()
        self.button = widgets.Button(description="save this view", icon="save")
        self.page = self._lay_out()
        for control in self.controls.values():
            control.observe(self._follow, names="value")
        self.button.on_click(lambda _: self.save())
        self._fill()
        self._show(missing)

    def save(self) -> list[Path]:
        """Keep the view that is shown; names the files and what makes them again."""
        written = save_view(self.scene)
        names = "<br>".join(html.escape(str(path)) for path in written)
        command = html.escape(print_command(written[-1]))
        self.saved.value = f"{names}<br>Again, from the root: <code>{command}</code>"
        return written

    def _follow(self, _change: dict) -> None:
        if self._filling:
            return
        asked = {name: control.value for name, control in self.controls.items()}
        asked["cutoff"] = round(asked["cutoff"], 4)  # a slider's 0.57 has many digits
        before = self.view
        try:
            self.view = self.shelf.settle(replace(before, **asked))
            self._fill()
            self._show()
        except UserError as error:
            self._say(str(error))

    def _fill(self) -> None:
        """Bring every control to the view, with the choices that it has there."""
        self._filling = True
        try:
            for name, choices in self.shelf.list_choices(self.view).items():
                control, options = self.controls[name], self._label(name, choices)
                if list(control.options) != options:
                    control.options = options
            for name, control in self.controls.items():
                if control.value != getattr(self.view, name):
                    control.value = getattr(self.view, name)
        finally:
            self._filling = False

    def _show(self, note: str = "") -> None:
        others = replace(self.view, null="none")
        shown = self.scene and replace(self.scene.view, null="none")
        if shown != others and self.shelf.takes_long(self.view):  # everything else first
            self.image.value = self.screen.show(self.shelf.examine(others))
        self.scene = self.shelf.examine(self.view)
        self.image.value = self.screen.show(self.scene)
        self._say(note, self.scene.finding())

    def _say(self, *lines: str) -> None:
        self.status.value = "<br>".join(html.escape(line) for line in lines if line)

    def _label(self, name: str, choices: list) -> list[tuple[str, object]]:
        """A control's choices in words."""
        words = {"measure": LABELS, "null": {n: w for n, (_, w) in NULLS.items()}, "basis": BASES}
        if name == "run":
            matches = self.shelf.list_matches(self.view.dataset)
            words["run"] = {m.run: f"{m.differs} ({m.run[:6]})" for m in matches if m.run}
            words["run"][""] = "default options"
        if name == "direction":
            return [(arrow(choice), choice) for choice in choices]
        return [(str(words.get(name, {}).get(choice, choice)), choice) for choice in choices]

    def _lay_out(self) -> widgets.VBox:
        rows = [widgets.HBox([self.controls[name] for name in row]) for row in ROWS]
        rows.append(widgets.HBox([self.controls["cutoff"], self.controls["dc"], self.button]))
        return widgets.VBox([*rows, self.image, self.status, self.saved])


def _make_control(name: str, view: View) -> widgets.DOMWidget:
    value, label = getattr(view, name), NAMES.get(name, name)
    layout = {"width": "18rem"}
    if name == "cutoff":
        return widgets.FloatSlider(
            value=value, min=0, max=1, step=STEP, description=label, layout={"width": "36rem"}
        )
    if name == "dc":
        return widgets.Checkbox(value=value, description=label, indent=False, layout=layout)
    return widgets.Dropdown(
        options=[(str(value), value)], value=value, description=label, layout=layout
    )
