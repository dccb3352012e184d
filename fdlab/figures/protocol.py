"""Drawings of `studies.protocol`."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator

from fdlab.core.estimate import Estimate
from fdlab.figures.plate import Plate, Table
from fdlab.figures.style import CONTROL, INK, arrow, color_method, name_method
from fdlab.studies.protocol import FAIR, READINGS, RULES, Protocol

BIAS = "bias"
BAND = "#e4e4e4"
PANELS = 4
NAMES = {
    "validation": "best on validation",
    "last": "last epoch",
    "test": "best on test",
    "published": "best on test, any head",
    FAIR: "best on validation, any head",
    BIAS: "owed to choosing on test",
}
COLORS = {
    "validation": INK,
    "last": "#999933",
    "test": "#56B4E9",
    "published": "#D55E00",
    FAIR: CONTROL,
    BIAS: "#882255",
}
MARKERS = {"validation": "*", "last": "s", "test": "^", "published": "v", FAIR: "D", BIAS: "x"}
LINES = {"raw": "-", "low": "--", "high": ":"}


def draw_optimism(axis, result: Protocol, direction: str) -> None:
    """Each rule minus validation selection per method, and what of it is luck on the test set."""
    shown = [rule for rule in READINGS if rule != "validation"]
    for place, method in enumerate(result.methods):
        cell = result.find(direction, method)
        edge = [place - 0.45, place + 0.45]
        axis.fill_betweenx(edge, -cell.error, cell.error, color=BAND, linewidth=0, zorder=1)
        found = [(rule, cell.optimism[rule]) for rule in shown]
        found.append((BIAS, cell.bias["published"]))
        for i, (rule, estimate) in enumerate(found):
            _draw_estimate(axis, estimate, place - 0.34 + 0.17 * i, rule)
        axis.plot([cell.ceiling["published"]] * 2, edge, color=COLORS[BIAS], linewidth=1.2,
                  linestyle=(0, (2, 1)), zorder=3)  # fmt: skip
    _finish_rows(
        axis, [name_method(m) for m in result.methods], "points above validation selection"
    )


def draw_gaps(axis, result: Protocol, direction: str) -> None:
    """The difference of two methods under each rule; beyond 0, their order turns."""
    for place, (one, two) in enumerate(result.contrasts):
        points = result.compare(direction, one, two).points
        for i, rule in enumerate(READINGS):
            _draw_estimate(axis, points[rule], place - 0.34 + 0.17 * i, rule)
    names = [f"{name_method(one)}\n− {name_method(two)}" for one, two in result.contrasts]
    _finish_rows(axis, names, "difference in test accuracy (points)")


def _draw_estimate(axis, found: Estimate, y: float, rule: str) -> None:
    if found.known:
        error = [[found.mean - found.low], [found.high - found.mean]]
        axis.errorbar(found.mean, y, xerr=error, color=COLORS[rule], linewidth=1.0, zorder=3)
    axis.plot(found.mean, y, zorder=4, **_style(rule))


def _style(rule: str) -> dict[str, object]:
    face = "white" if rule == FAIR else COLORS[rule]
    return {"marker": MARKERS[rule], "color": COLORS[rule], "mfc": face, "markersize": 4}


def _finish_rows(axis, names: list[str], label: str) -> None:
    axis.axvline(0, color=INK, linewidth=0.7, zorder=2)
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.45, -0.55)
    axis.set_xlabel(label)
    axis.grid(True, axis="x")
    axis.grid(False, axis="y")


def draw_log(axis, result: Protocol, seed: int, first: int = 1) -> None:
    """One run's test curves per head and its validation curve, from epoch `first` on; seed counts
    from 0."""
    log, color = result.logs[seed], color_method(result.logged[1])
    epochs = np.arange(first, log.test.shape[1] + 1)
    for i, head in enumerate(log.heads):
        axis.plot(epochs, log.test[i, first - 1 :], LINES.get(head, "-."), color=color,
                  linewidth=1.0, label=f"test, {head} head")  # fmt: skip
    axis.plot(epochs, log.validation[0, first - 1 :], color="#777777", linewidth=0.8,
              label="validation, raw head")  # fmt: skip


def draw_choices(axis, result: Protocol, seed: int) -> None:
    """Where each rule reads one run: a mark at its epoch, the accuracy and the head beside it."""
    log = result.logs[seed]
    for place, rule in enumerate(READINGS):
        head, epoch = log.find(rule)
        axis.plot(epoch + 1, place, **_style(rule))
        axis.annotate(f"{log.test[head, epoch]:.1f} {log.heads[head]}", (epoch + 1, place),
                      (-4, 0), textcoords="offset points", ha="right", va="center",
                      fontsize=6.5)  # fmt: skip
    axis.set_yticks(range(len(READINGS)), [NAMES[rule] for rule in READINGS])
    axis.set_ylim(len(READINGS) - 0.4, -0.6)
    axis.set_xlabel("epoch")
    axis.grid(False)


def plates(result: Protocol, venue: str = "aaai") -> dict[str, Plate]:
    columns = len(result.directions)
    grid = {"wide": columns > 1, "columns": columns, "sharey": True}

    def rules(axes) -> None:
        for axis, direction in zip(axes[0], result.directions, strict=True):
            draw_optimism(axis, result, direction)
            axis.set_title(arrow(direction))
        extra = [
            axes[0, 0].fill_between([], [], color=BAND, label="± binomial standard error"),
            axes[0, 0].plot([], [], color=COLORS[BIAS], linestyle=(0, (2, 1)),
                            label="choosing on test, at most")[0],
        ]  # fmt: skip
        _explain(axes, [r for r in (*READINGS, BIAS) if r != "validation"], extra)

    def gaps(axes) -> None:
        for axis, direction in zip(axes[0], result.directions, strict=True):
            draw_gaps(axis, result, direction)
            axis.set_title(arrow(direction))
        _explain(axes, READINGS, [])

    height = 1.0 if columns > 1 else 1.2
    return {
        "rules": Plate.draw(rules, venue, height=height + 0.48 * len(result.methods), **grid),
        "gaps": Plate.draw(gaps, venue, height=height + 0.48 * len(result.contrasts), **grid),
        "epochs": _draw_epochs(result, venue),
    }


def _explain(axes, rules: list[str], extra: list) -> None:
    first = axes[0, 0]
    handles = [first.plot([], [], label=NAMES[rule], **_style(rule))[0] for rule in rules]
    first.figure.legend(handles=handles + extra, loc="outside lower center",
                        ncols=3 if axes.size > 1 else 2)  # fmt: skip


def _draw_epochs(result: Protocol, venue: str) -> Plate:
    """The later half of the epochs, and earlier where a rule reads there; four seeds at most."""
    shown = min(len(result.seeds), PANELS)
    logs = result.logs[:shown]
    last = logs[0].test.shape[1]
    first = min([1 + last // 2, *(log.find(rule)[1] + 1 for log in logs for rule in READINGS)])
    span = last - first + 1
    edges = first - 0.45 * span, last + 0.06 * span  # the left leaves room for the words
    seen = max(1, math.ceil(edges[0]))

    def paint(axes) -> None:
        for i in range(shown):
            draw_log(axes[0, i], result, i, seen)
            draw_choices(axes[1, i], result, i)
            axes[0, i].set_title(f"seed {result.seeds[i]}")
        curves = [c[:, seen - 1 :] for log in logs for c in (log.test, log.validation[:1])]
        low, high = min(c.min() for c in curves), max(c.max() for c in curves)
        axes[0, 0].set_ylim(low - 1, high + 1)
        axes[0, 0].set_xlim(*edges)
        axes[0, 0].xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes[0, 0].set_ylabel("accuracy (%)")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        direction, method = result.logged
        axes[0, 0].figure.legend(
            handles, labels, loc="outside lower center", ncols=len(labels),
            title=f"{name_method(method)}, {arrow(direction)}", title_fontsize=7,
        )  # fmt: skip

    return Plate.draw(paint, venue, height=2.9, wide=True, rows=2, columns=shown, sharex=True,
                      sharey="row", gridspec_kw={"height_ratios": [1.6, 1]})  # fmt: skip


def tables(result: Protocol) -> dict[str, Table]:
    return {
        "readings": _tabulate_readings(result),
        "optimism": _tabulate_optimism(result),
        "gaps": _tabulate_gaps(result),
        "order": _tabulate_order(result),
        "pools": _tabulate_pools(result),
        "leakage": _tabulate_leaks(result),
    }


def _tabulate_readings(result: Protocol) -> Table:
    rows = [
        {"direction": cell.direction, "method": cell.method}
        | {NAMES[rule]: cell.accuracy[rule].format(1) for rule in RULES}
        | {
            "standard error": f"{cell.error:.1f}",
            "of a gap to none": "" if cell.method == "none" else f"{cell.error_gap:.1f}",
        }
        for cell in result.cells
    ]
    caption = (
        f"Test accuracy (%) by the rule that reads the log, {_describe(result)}; 95 % intervals "
        f"over seeds. Raw head, except any head: the released code's rule. Standard error: "
        f"binomial, in points, of one run's accuracy; then of the difference of two on separate "
        f"test sets (on the same samples it is smaller)."
    )
    return Table(pd.DataFrame(rows), caption)


def _tabulate_optimism(result: Protocol) -> Table:
    rows = [
        {
            "direction": cell.direction,
            "method": cell.method,
            "heads x epochs": f"{cell.heads} x {cell.epochs}",
        }
        | {NAMES[rule]: found.format(1, sign=True) for rule, found in cell.optimism.items()}
        | {
            "bias": cell.bias["published"].format(1, sign=True),
            "noise at most": f"{cell.ceiling['published']:+.1f}",
        }
        for cell in result.cells
    ]
    caption = (
        f"Points above validation selection, paired by seed, {_describe(result)}; 95 % intervals "
        f"over seeds. Bias: what best on test, any head, owes to choosing on test: how far it "
        f"stands above the run's last quarter on test, less how far the same head and epoch stand "
        f"above it on validation ({result.n['validation']} samples). Noise at most: expected best "
        f"of heads x epochs independent readings that are equally good in truth."
    )
    return Table(pd.DataFrame(rows), caption)


def _tabulate_gaps(result: Protocol) -> Table:
    rows = []
    for direction in result.directions:
        for one, two in result.contrasts:
            gap = result.compare(direction, one, two)
            rows.append(
                {"direction": direction, "contrast": f"{one} - {two}"}
                | {
                    NAMES[rule]: gap.points[rule].format(1, sign=True)
                    for rule in ("validation", "published")
                }
                | {
                    "added": gap.added["all"].format(1, sign=True),
                    "by the epoch": gap.added["epochs"].format(1, sign=True),
                    "by the head": gap.added["heads"].format(1, sign=True),
                }
            )
    caption = (
        f"Differences of two methods in points, paired by seed, {_describe(result)}; 95 % "
        f"intervals over seeds. Added: what the released code's rule adds to the "
        f"validation-selected difference; by choosing the epoch on test, and then the head."
    )
    return Table(pd.DataFrame(rows), caption)


def _tabulate_order(result: Protocol) -> Table:
    rows = []
    for direction in result.directions:
        for rule in READINGS:
            flips = [
                f"{one}/{two}{' (decided)' if decided else ''}"
                for way, one, two, decided in result.find_flips(rule)
                if way == direction
            ]
            rows.append(
                {
                    "direction": direction,
                    "rule": NAMES[rule],
                    "order": " > ".join(result.rank(direction, rule)),
                    "pairs turned": ", ".join(flips) or "none",
                }
            )
    caption = (
        f"Methods by mean test accuracy under each rule, {_describe(result)}. Pairs turned: their "
        f"order differs from validation selection's; decided where both differences have an "
        f"interval over seeds without 0."
    )
    return Table(pd.DataFrame(rows), caption)


def _tabulate_pools(result: Protocol) -> Table:
    rows = [
        {"runs": pool.name, "heads": str(pool.heads), "n runs": str(pool.runs)}
        | {"seeds": str(pool.bias["published"].n)}
        | {NAMES[rule]: found.format(1, sign=True) for rule, found in pool.optimism.items()}
        | {
            "bias": pool.bias["published"].format(1, sign=True),
            "noise at most": f"{pool.ceiling:+.1f}",
        }
        for pool in result.pools
    ]
    caption = (
        f"Points above validation selection over runs together, {result.dataset} (preset "
        f"{result.preset}), n = {result.n['test']}; runs of one seed are averaged first, 95 % "
        f"intervals over seeds. All found: every finished run on this machine with the same data, "
        f"width and recipe, whatever its method and options."
    )
    return Table(pd.DataFrame(rows), caption)


def _tabulate_leaks(result: Protocol) -> Table:
    rows = [
        {
            "id": leak.kind,
            "values in train": str(leak.train),
            "in test": str(leak.test),
            "in both": str(leak.shared),
            "test samples seen (%)": f"{100 * leak.seen / leak.n:.1f}",
            "random split (%)": f"{100 * leak.chance:.1f}",
        }
        for leak in result.leaks
    ] or [{"id": "no ids"}]
    caption = (
        f"What the {result.n['test']} test samples of {result.dataset} share with its "
        f"{result.n['train']} training samples. Seen: samples whose value occurs in training. "
        f"Random split: the same share, expected for a split of these sizes drawn over samples."
    )
    return Table(pd.DataFrame(rows), caption)


def _describe(result: Protocol) -> str:
    return (
        f"{result.dataset} (preset {result.preset}), {len(result.seeds)} seeds, "
        f"n = {result.n['test']}"
    )
