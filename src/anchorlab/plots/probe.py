"""Picture of a probe: what recall is expected of a training with each of several anchors."""

from collections.abc import Collection, Mapping

from matplotlib.figure import Figure

from anchorlab.plots.palette import BLUE, GREY


def candidates_figure(expected: Mapping[str, float], good: Collection[str], title: str) -> Figure:
    """Expected AR@100 of every candidate, by name, the first on top; blue: those of `good`."""
    figure = Figure(figsize=(8, 1.4 + 0.3 * len(expected)), layout="constrained")
    axis = figure.subplots()
    for place, (name, value) in enumerate(expected.items()):
        colour = BLUE if name in good else GREY
        axis.plot([0, value], [place, place], color=colour, linewidth=1)
        axis.scatter([value], [place], color=colour, s=36, zorder=2)
        axis.annotate(f"{value:.3f}", (value, place), (7, 0), textcoords="offset points", va="center", fontsize=8)
    low, high = min(expected.values()), max(expected.values())
    margin = max(high - low, 0.02)
    axis.set(
        yticks=range(len(expected)),
        yticklabels=list(expected),
        xlim=(max(low - margin / 2, 0), high + margin / 3),
        xlabel="expected AR@100 (blue: cannot be told from the best)",
        title=title,
    )
    axis.invert_yaxis()
    axis.grid(axis="x", alpha=0.3)
    return figure
