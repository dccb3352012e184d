"""Drawings of `studies.speed`."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from matplotlib.patches import Patch
from matplotlib.ticker import NullFormatter, NullLocator

from fdlab.core.estimate import Estimate
from fdlab.figures.plate import Plate, Table
from fdlab.figures.style import INK
from fdlab.studies.speed import BOTH, METHOD, MISSED, OPEN, REACHED, Speed, show_value
from fdlab.studies.timings import Row, Shape, Timing

# Okabe and Ito's colours; the order from top to bottom says the same.
KINDS = {
    "plain": ("#777777", "plain loop"),
    "ours": ("#0072B2", "this package, features added in turn"),
    "floor": ("#009E73", "floor: the step on one resident batch"),
    "bound": ("#E69F00", "bounds: counted operations, bytes"),
}
OUTCOMES = {REACHED: ("#117733", "o"), MISSED: ("#882255", "X"), OPEN: ("#777777", "")}
# Tol's muted scheme, strong hues apart from each other; hatched where they repeat.
PARTS = ("#332288", "#DDCC77", "#117733", "#CC6677", "#88CCEE", "#AA4499", "#999933", "#882255",
         "#44AA99")  # fmt: skip
REST = ("#dddddd", "not attributed")
LINES = (("#0072B2", "o", "-"), ("#D55E00", "s", "--"), ("#009E73", "^", ":"),
         ("#CC79A7", "D", "-."))  # fmt: skip
TINY = 0.005  # a share of a step that is not drawn
FAR = 20  # largest over smallest, beyond which an axis is logarithmic
NARROW, WIDE = 26, 58  # characters of a wrapped label


def choose_rows(shape: Shape) -> tuple[str, str, list[Row]]:
    """Method, direction and rows of one figure: FD-CMKD in both directions where there are any,
    else those of the method and direction with the most rows; plain, ours, floor, bounds."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in shape.rows:
        groups.setdefault((row.method, row.direction), []).append(row)
    most = max(groups, key=lambda name: len(groups[name]))
    name = (METHOD, BOTH) if (METHOD, BOTH) in groups else most
    rows = sorted(groups[name], key=lambda row: list(KINDS).index(row.kind))
    return *name, rows


def draw_rates(axis, name: str, shape: Shape) -> None:
    """Samples per second of every row with its interval, and its ratio to the plain loop."""
    method, direction, rows = choose_rows(shape)
    ends = [(row.rate.low, max(row.rate.high, row.rate.mean)) for row in rows]
    least, most = min(low for low, _ in ends), max(high for _, high in ends)
    far = most > FAR * least
    places = _stack([row.name for row in rows])
    for place, row in zip(places, rows, strict=True):
        color, _ = KINDS[row.kind]
        hollow = row.kind == "bound"
        axis.barh(place, row.rate.mean, 0.68, color="none" if hollow else color, edgecolor=color,
                  linewidth=0.9)  # fmt: skip
        if row.rate.low < row.rate.high:
            axis.errorbar(row.rate.mean, place, xerr=_reach(row.rate), color=INK, linewidth=0.8)
        if ratio := shape.compare(row):
            end = max(row.rate.high, row.rate.mean)
            axis.annotate(show_value(ratio, "×"), (end, place), xytext=(4, 0),
                          textcoords="offset points", va="center", fontsize=6.5)  # fmt: skip
    if far:
        axis.set_xscale("log")
        axis.set_xlim(least / 2, most * (2 * most / least) ** 0.24)
        axis.xaxis.set_minor_formatter(NullFormatter())
    else:
        axis.set_xlim(0, 1.24 * most)
    axis.set_yticks(places, [textwrap.fill(row.name, NARROW) for row in rows])
    axis.set_ylim(places[-1] + 0.6, -0.6)
    axis.set_xlabel("samples per second" + (" (logarithmic)" if far else ""))
    ways = "both directions" if direction == BOTH else direction
    axis.set_title(f"{name}: {method}, {ways}")
    axis.grid(True, axis="x")
    axis.grid(False, axis="y")


def _stack(names: list[str]) -> list[float]:
    """Heights of rows under each other, further apart where a label has several lines."""
    tall = [max(1.0, 0.85 * len(textwrap.wrap(name, NARROW))) for name in names]
    return [sum(tall[:i]) + (tall[i] - tall[0]) / 2 for i in range(len(tall))]


def _reach(found: Estimate) -> list[list[float]]:
    """Lengths of an interval below and above the mean."""
    return [[max(0.0, found.mean - found.low)], [max(0.0, found.high - found.mean)]]


def draw_profiles(axis, profiles: dict[str, Shape]) -> None:
    """A step of every device and shape as one bar of its parts."""
    names = list(dict.fromkeys(part.part for s in profiles.values() for part in s.profile))
    for place, shape in enumerate(profiles.values()):
        start = 0.0
        rest = 1 - sum(part.share for part in shape.profile)
        parts = [(part.part, part.share) for part in shape.profile]
        for name, share in [*parts, *([(REST[1], rest)] if rest > TINY else [])]:
            color = REST[0] if name == REST[1] else PARTS[names.index(name) % len(PARTS)]
            hatch = "//" if name != REST[1] and names.index(name) >= len(PARTS) else None
            axis.barh(place, 100 * share, 0.7, 100 * start, color=color, edgecolor="white",
                      linewidth=0.6, hatch=hatch)  # fmt: skip
            if share >= 0.05:
                dark = np.dot(to_rgb(color), (0.299, 0.587, 0.114)) < 0.55
                axis.text(100 * (start + share / 2), place, f"{100 * share:.0f}", ha="center",
                          va="center", fontsize=6.5, color="white" if dark else INK)  # fmt: skip
            start += share
    handles = [
        Patch(facecolor=PARTS[i % len(PARTS)], edgecolor="white", label=textwrap.fill(name, 34),
              hatch="//" if i >= len(PARTS) else None)
        for i, name in enumerate(names)
    ]  # fmt: skip
    if any(sum(part.share for part in s.profile) < 1 - TINY for s in profiles.values()):
        handles.append(Patch(facecolor=REST[0], label=REST[1]))
    axis.set_yticks(range(len(profiles)), list(profiles))
    axis.set_ylim(len(profiles) - 0.5, -0.5)
    axis.set_xlim(0, 100)
    axis.set_xlabel("share of a step's time (%)")
    axis.grid(False)
    axis.figure.legend(handles=handles, loc="outside lower center", ncols=4, fontsize=6.5)


def draw_pack(axis, name: str, timings: list[Timing], styles: dict[str, tuple]) -> None:
    """Students per hour by how many train side by side, a line per device."""
    ends = []
    for timing in timings:
        packs = sorted(timing.shapes[name].pack, key=lambda pack: pack.size)
        color, mark, line = styles[timing.file]
        sizes = [pack.size for pack in packs]
        rates = [pack.students_per_hour for pack in packs]
        found = [Estimate(p.students_per_hour, p.low, p.high, 1) for p in packs]
        error = np.hstack([_reach(each) for each in found])
        axis.errorbar(sizes, rates, error, color=color, marker=mark, linestyle=line, linewidth=1)
        ends += [end for pack in packs for end in (pack.low, pack.high)]
        for pack in packs[1:]:
            axis.annotate(show_value(pack.ratio, "×"), (pack.size, max(pack.high, pack.low)),
                          xytext=(0, 3), textcoords="offset points", ha="center",
                          fontsize=6.5)  # fmt: skip
    sizes = sorted({pack.size for timing in timings for pack in timing.shapes[name].pack})
    axis.set_xscale("log", base=2)
    axis.set_xticks(sizes, [str(size) for size in sizes])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlim(sizes[0] / 1.3, sizes[-1] * 1.3)
    if max(ends) > FAR * min(ends):
        axis.set_yscale("log")
        axis.set_ylim(min(ends) / 1.6, max(ends) * (max(ends) / min(ends)) ** 0.15)
        axis.yaxis.set_minor_formatter(NullFormatter())
    else:
        axis.set_ylim(0, 1.2 * max(ends))
    axis.set_xlabel("students side by side")
    axis.set_title(name)


def draw_targets(axis, result: Speed) -> None:
    """Every target: what was measured over the limit, so that right of the line it is reached."""
    labels, values, reached = [], [], [1.0]
    for place, outcome in enumerate(result.outcomes):
        color, mark = OUTCOMES[outcome.verdict]
        where = outcome.device or outcome.place
        labels.append(textwrap.fill(f"{outcome.statement} ({where})", WIDE))
        found = outcome.progress
        if found is None:
            values.append(f"{outcome.verdict}:\n{textwrap.fill(outcome.why, 34)}")
            continue
        gap = textwrap.fill(f"{outcome.goal}: {outcome.gap}", 34)
        values.append(f"{outcome.verdict}: {outcome.show()}\n{gap}")
        reached += [found.mean, *((found.low, found.high) if found.known else ())]
        axis.plot([1, found.mean], [place] * 2, color=color, linewidth=0.8, alpha=0.5)
        if found.known:
            axis.errorbar(found.mean, place, xerr=_reach(found), color=color, linewidth=0.9)
        axis.plot(found.mean, place, mark, color=color, markersize=5)
    axis.axvline(1, color=INK, linewidth=0.8)
    axis.set_xscale("log")
    low, high = min(0.5, min(reached) / 1.2), max(2.0, max(reached) * 1.2)
    ticks = [t for t in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50) if low <= t <= high]
    axis.set_xlim(low, high)
    axis.set_xticks(
        ticks[:: 1 + len(ticks) // 7], [f"{t:g}" for t in ticks[:: 1 + len(ticks) // 7]]
    )
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(len(labels) - 0.5, -0.5)
    axis.set_xlabel("part of the target (1 and more: reached)")
    axis.grid(True, axis="x")
    axis.grid(False, axis="y")
    right = axis.twinx()
    right.set_ylim(axis.get_ylim())
    right.set_yticks(range(len(values)), values)
    right.tick_params(axis="y", length=0)
    right.grid(False)
    for label, outcome in zip(right.get_yticklabels(), result.outcomes, strict=True):
        label.set_color(OUTCOMES[outcome.verdict][0])


def plates(result: Speed, venue: str = "aaai") -> dict[str, Plate]:
    """targets; rates-<device> per device; profile and pack, where they were measured."""
    drawn = {
        "targets": Plate.draw(
            lambda axes: draw_targets(axes[0, 0], result), venue, wide=True,
            height=0.5 + 0.46 * len(result.outcomes),
        )
    }  # fmt: skip
    for timing in result.timings:
        shapes = {name: shape for name, shape in timing.shapes.items() if shape.rows}
        if shapes:
            drawn[f"rates-{timing.slug}"] = _draw_device(timing, shapes, venue)
    profiles = {
        f"{textwrap.fill(timing.device, NARROW)}\n{name}": shape
        for timing in result.timings
        for name, shape in timing.shapes.items()
        if shape.profile
    }
    if profiles:
        names = {part.part for shape in profiles.values() for part in shape.profile}
        drawn["profile"] = Plate.draw(
            lambda axes: draw_profiles(axes[0, 0], profiles), venue, wide=True,
            height=0.6 + 0.34 * len(profiles) + 0.16 * (1 + len(names) // 4),
        )  # fmt: skip
    packed = {
        name: [t for t in result.timings if name in t.shapes and t.shapes[name].pack]
        for name in dict.fromkeys(name for t in result.timings for name in t.shapes)
    }
    packed = {name: timings for name, timings in packed.items() if timings}
    if packed:
        drawn["pack"] = _draw_packs(result, packed, venue)
    return drawn


def _draw_device(timing: Timing, shapes: dict[str, Shape], venue: str) -> Plate:
    columns = min(2, len(shapes))
    names = list(shapes)
    grid = [names[i : i + columns] for i in range(0, len(names), columns)]
    tall = [max(_measure_rows(shapes[name]) for name in row) for row in grid]

    def paint(axes) -> None:
        for row, chosen in zip(axes, grid, strict=True):
            for axis, name in zip(row, [*chosen, None], strict=False):
                if name is None:
                    axis.axis("off")
                else:
                    draw_rates(axis, name, shapes[name])
        kinds = {row.kind for s in shapes.values() for row in choose_rows(s)[2]}
        handles = [
            Patch(facecolor="none" if kind == "bound" else color, edgecolor=color, label=words,
                  )
            for kind, (color, words) in KINDS.items()
            if kind in kinds
        ]  # fmt: skip
        figure = axes[0, 0].figure
        figure.legend(handles=handles, loc="outside lower center", ncols=columns)
        between = "; " if columns > 1 else "\n"
        words = (
            f"{timing.device}, {timing.measured}{between}at each bar its ratio to the plain loop"
        )
        figure.suptitle(words, fontsize=8)

    return Plate.draw(
        paint, venue, wide=columns > 1, rows=len(grid), columns=columns,
        height=(0.8 if columns > 1 else 1.2) + sum(0.5 + 0.155 * size for size in tall),
        gridspec_kw={"height_ratios": tall},
    )  # fmt: skip


def _measure_rows(shape: Shape) -> float:
    return _stack([row.name for row in choose_rows(shape)[2]])[-1] + 1.2


def _draw_packs(result: Speed, packed: dict[str, list[Timing]], venue: str) -> Plate:
    styles = {t.file: LINES[i % len(LINES)] for i, t in enumerate(result.timings)}

    def paint(axes) -> None:
        for axis, (name, timings) in zip(axes[0], packed.items(), strict=True):
            draw_pack(axis, name, timings, styles)
        axes[0, 0].set_ylabel("students per hour")
        shown = {t.file: t for timings in packed.values() for t in timings}
        handles = [
            axes[0, 0].plot([], [], color=styles[file][0], marker=styles[file][1],
                            linestyle=styles[file][2], label=timing.device)[0]
            for file, timing in shown.items()
        ]  # fmt: skip
        axes[0, 0].figure.legend(handles=handles, loc="outside lower center",
                                 ncols=2 if len(packed) > 1 else 1)  # fmt: skip

    return Plate.draw(paint, venue, height=2.3, wide=len(packed) > 1, columns=len(packed))


def tables(result: Speed) -> dict[str, Table]:
    """targets and files; rows, packs, methods and suites where they were measured."""
    found = {"targets": _tabulate_targets(result), "files": _tabulate_files(result)}
    makers = {"rows": _list_rows, "profile": _list_parts, "packs": _list_packs,
              "methods": _list_methods, "suites": _list_suites}  # fmt: skip
    for name, make in makers.items():
        if rows := make(result):
            found[name] = Table(pd.DataFrame(rows).fillna(""), CAPTIONS[name])
    return found


CAPTIONS = {
    "rows": "Training loops by device and shape. Samples per second with the interval of the file; "
    "× plain: over the plain loop of the same method and direction; of the floor: share of the "
    "rate of the same step on one resident batch; peak: memory, where the device tells.",
    "profile": "Share of a training step's time that each part takes (%).",
    "packs": "Students per hour by how many train side by side; ×: over one at a time.",
    "methods": "Milliseconds of an epoch of the package, its evaluation among it, per training "
    "sample, by method and direction.",
    "suites": "Seconds of whole suites: the first time, when everything runs, and the second, when "
    "everything is found.",
}


def _tabulate_targets(result: Speed) -> Table:
    rows = [
        {
            "target": outcome.statement,
            "on": outcome.device or outcome.place,
            "limit": outcome.goal,
            "measured": outcome.show(),
            "from": outcome.source,
            "date": outcome.measured,
            "verdict": outcome.verdict,
            "how far": outcome.gap,
            "why": outcome.why,
        }
        for outcome in result.outcomes
    ]
    return Table(
        pd.DataFrame(rows),
        "What training is to reach, beside what was measured. An interval is the widest that those "
        "of the two rates allow; the verdict goes by the value. Where a target is missed, the two "
        "largest parts of a step.",
    )


def _tabulate_files(result: Speed) -> Table:
    rows = [
        {
            "file": timing.file,
            "device": timing.device,
            "cores": str(timing.cores),
            "torch": timing.torch,
            "measured": timing.measured,
            "shapes": ", ".join(timing.shapes),
            "note": "",
        }
        for timing in result.timings
    ]
    blank = dict.fromkeys(("file", "device", "cores", "torch", "measured", "shapes"), "")
    rows += [blank | {"note": note} for note in result.notes]
    return Table(pd.DataFrame(rows), f"The files read in {result.results}, and what is missing.")


def _walk_shapes(result: Speed):
    for timing in result.timings:
        for name, shape in timing.shapes.items():
            yield {"device": timing.device, "shape": name}, shape


def _list_rows(result: Speed) -> list[dict[str, str]]:
    rows = []
    for place, shape in _walk_shapes(result):
        for row in shape.rows:
            ratio = shape.compare(row)
            rows.append(place | {
                "row": row.name,
                "kind": row.kind,
                "method": row.method,
                "direction": row.direction,
                "features": ", ".join(row.features),
                "samples/s": _show_rate(row.rate),
                "repeats": str(row.repeats),
                "× plain": show_value(ratio, "×") if ratio else "",
                "of the floor": show_value(100 * row.floor_share, "%") if row.floor_share else "",
                "peak": f"{row.peak_bytes / 1e9:.2f} GB" if row.peak_bytes else "",
            })  # fmt: skip
    return rows


def _list_parts(result: Speed) -> list[dict[str, str]]:
    return [
        place | {part.part: f"{100 * part.share:.1f}" for part in shape.profile}
        for place, shape in _walk_shapes(result)
        if shape.profile
    ]


def _list_packs(result: Speed) -> list[dict[str, str]]:
    return [
        place | {
            "side by side": str(pack.size),
            "students/h": _show_rate(Estimate(pack.students_per_hour, pack.low, pack.high, 1)),
            "×": show_value(pack.ratio, "×"),
        }
        for place, shape in _walk_shapes(result)
        for pack in shape.pack
    ]  # fmt: skip


def _list_methods(result: Speed) -> list[dict[str, str]]:
    return [
        place | {"method": method} | {way: f"{1000 * s:.4g}" for way, s in ways.items()}
        for place, shape in _walk_shapes(result)
        for method, ways in shape.methods.items()
    ]


def _list_suites(result: Speed) -> list[dict[str, str]]:
    return [
        {
            "device": suite.device,
            "cores": str(suite.cores),
            "suite": suite.suite,
            "data set": suite.dataset,
            "preset": suite.preset,
            "first": f"{suite.first_seconds:.0f} s",
            "second": f"{suite.second_seconds:.1f} s",
            "measured": suite.measured,
        }
        for suite in result.suites
    ]


def _show_rate(found: Estimate) -> str:
    digits = 0 if found.mean >= 100 else 1
    if found.low == found.high:
        return f"{found.mean:,.{digits}f}"
    return f"{found.mean:,.{digits}f} [{found.low:,.{digits}f}, {found.high:,.{digits}f}]"
