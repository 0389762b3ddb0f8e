"""The figures as a table of ratios, as JSON and as a chart."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import median
from typing import Any, Final

from rich.console import Console
from rich.table import Table

Figures = Mapping[str, Sequence[Mapping[str, Any]]]
"""By measurement, what each round gave."""


@dataclass(frozen=True)
class Target:
    """What is to be reached: a ratio of two rates of one round, or a latency at the most."""

    name: str
    measured: str
    against: str | None = None
    figure: str = "rate"
    least: float | None = None
    most: float | None = None

    def values(self, figures: Figures) -> list[float]:
        """One value a round; empty when it was not measured."""
        values = [float(round_[self.figure]) for round_ in figures.get(self.measured, ())]
        if self.against is None:
            return values
        others = [float(round_["rate"]) for round_ in figures.get(self.against, ())]
        return [value / other for value, other in zip(values, others, strict=False)]

    def is_met(self, values: Sequence[float]) -> bool | None:
        """None where there is nothing to reach."""
        found = median(values)
        if self.least is not None:
            return found >= self.least
        return None if self.most is None else found <= self.most

    @property
    def wanted(self) -> str:
        if self.least is not None:
            return f"≥ {self.least:g}"
        return "" if self.most is None else f"≤ {self.most:g}"


TARGETS: Final = (
    Target("bulk drain ÷ pgledger, 2 hot accounts", "bulk, 2 accounts", "pgledger, 2 accounts", least=8),
    Target("bulk drain ÷ pgledger, 1,000 accounts", "bulk, 1000 accounts", "pgledger, 1000 accounts", least=3),
    Target("single drain ÷ pgledger, 2 hot accounts", "single, 2 accounts", "pgledger, 2 accounts", least=2),
    Target("single drain ÷ pgledger, 1,000 accounts", "single, 1000 accounts", "pgledger, 1000 accounts"),
    Target("bulk drain ÷ leanest SQL, 2 hot accounts", "bulk, 2 accounts", "floor, 2 accounts"),
    Target("bulk drain ÷ leanest SQL, 1,000 accounts", "bulk, 1000 accounts", "floor, 1000 accounts"),
    Target("single drain ÷ leanest SQL, 2 hot accounts", "single, 2 accounts", "floor, 2 accounts"),
    Target("bulk drain ÷ one task per transfer", "bulk, 2 accounts", "one task per transfer", least=10),
    Target("single drain ÷ one task per transfer", "single, 2 accounts", "one task per transfer"),
    Target("atomic bulk ÷ bulk, 2 hot accounts", "bulk atomic, 2 accounts", "bulk, 2 accounts"),
    Target("holds and captures ÷ bulk, 2 hot accounts", "bulk holds, 2 accounts", "bulk, 2 accounts"),
    Target("idle Prefer: wait, median ms", "idle wait", figure="p50_ms", most=25),
    Target("cached balance ÷ bare route", "cached balance", "bare route", least=0.5),
    # a thousand times the history, dated at random: adding it up would come to a thousandth
    Target("past balance, 10^6 ÷ 10^3", "as recorded, 1000000 backdated", "as recorded, 1000 backdated", least=0.1),
    Target("bitemporal, 10^6 ÷ 10^3", "as effective, 1000000 backdated", "as effective, 1000 backdated", least=0.1),
    Target("statement, 10^6 ÷ 10^3", "statement, 1000000 backdated", "statement, 1000 backdated", least=0.1),
)

COLUMNS: Final[tuple[tuple[str, str, Callable[[float], str]], ...]] = (
    ("a second", "rate", lambda value: f"{value:,.0f}"),
    ("accepted", "accepted", lambda value: f"{value:,.0f}"),
    ("posted", "posted", lambda value: f"{value:,.0f}"),
    ("p50 ms", "p50_ms", lambda value: f"{value:,.1f}"),
    ("p99 ms", "p99_ms", lambda value: f"{value:,.1f}"),
)


def show(figures: Figures, console: Console) -> None:
    """Prints medians with the rounds' spread, then the ratios beside what they should be."""
    table = Table("measurement", *(title for title, _, _ in COLUMNS), title="medians of the rounds (least–most)")
    for name, rounds in figures.items():
        cells = [_spread([float(r[key]) for r in rounds if key in r], form) for _, key, form in COLUMNS]
        table.add_row(name, *cells)
    console.print(table)
    ratios = Table("", "median", "least–most", "wanted", "", title="ratios, round by round")
    for target in TARGETS:
        values = target.values(figures)
        if values:
            met = {True: "[green]met", False: "[red]missed", None: ""}[target.is_met(values)]
            ratios.add_row(
                target.name, f"{median(values):.2f}", f"{min(values):.2f}–{max(values):.2f}", target.wanted, met
            )
    console.print(ratios)


def _spread(values: Sequence[float], form: Callable[[float], str]) -> str:
    if not values:
        return ""
    spread = "" if len(values) == 1 else f" ({form(min(values))}–{form(max(values))})"
    return form(median(values)) + spread


def all_met(figures: Figures) -> bool:
    """Whether every target that was measured is reached."""
    return all(target.is_met(values) is not False for target in TARGETS if (values := target.values(figures)))


def save(folder: Path, figures: Figures, facts: Mapping[str, object]) -> list[Path]:
    """Writes results.json and chart.svg; their paths."""
    folder.mkdir(exist_ok=True)
    ratios = {target.name: target.values(figures) for target in TARGETS}
    content = {
        "machine": facts,
        "measurements": figures,
        "ratios": {name: found for name, found in ratios.items() if found},
    }
    results, picture = folder / "results.json", folder / "chart.svg"
    results.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    picture.write_text(chart(figures))
    return [results, picture]


def chart(figures: Figures) -> str:
    """Bars of the transfers a second, their spread as a line: an SVG."""
    bars = [
        (name, [float(r["rate"]) for r in rounds])
        for name, rounds in figures.items()
        if name.startswith(("bulk", "single", "pgledger", "floor", "one task"))
    ]
    left, width, step = 210, 460, 30
    top = max((max(values) for _, values in bars), default=1.0)
    height = 50 + step * len(bars)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 90}" height="{height}" '
        'font-family="system-ui, sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="#fff"/>',
        '<text x="12" y="24" font-weight="600">Transfers a second, posted and in Kafka (SQL: committed)</text>',
    ]
    for number, (name, values) in enumerate(bars):
        y = 40 + step * number
        colour = "#2a6f97" if name.startswith(("bulk", "single")) else "#b0b7bf"
        long, low, high = (width * value / top for value in (median(values), min(values), max(values)))
        parts += [
            f'<text x="{left - 10}" y="{y + 15}" text-anchor="end">{escape(name)}</text>',
            f'<rect x="{left}" y="{y}" width="{long:.1f}" height="20" fill="{colour}"/>',
            f'<path d="M{left + low:.1f} {y + 10}H{left + high:.1f}" stroke="#10222e" stroke-width="2"/>',
            f'<text x="{left + max(long, high) + 8:.1f}" y="{y + 15}">{median(values):,.0f}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])
