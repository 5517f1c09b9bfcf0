"""Pictures of runs: the course of one, of several side by side, and pass@k of several.

Draws on matplotlib figures of its own, so nothing global changes and no display is needed.
"""

from verl_ext.plotting.comparison import comparison_figure, draw_comparison
from verl_ext.plotting.curves import curves_figure, draw_curves
from verl_ext.plotting.run import draw_run, run_figure

__all__ = [
    "comparison_figure",
    "curves_figure",
    "draw_comparison",
    "draw_curves",
    "draw_run",
    "run_figure",
]
