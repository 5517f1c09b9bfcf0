"""Pictures of runs: the course of one, of several, their pass@k, their tasks' shares.

Draws on matplotlib figures of its own, so nothing global changes and no display is needed.
"""

from verl_ext.plotting.comparison import comparison_figure, draw_comparison
from verl_ext.plotting.curves import curves_figure, draw_curves
from verl_ext.plotting.run import draw_run, run_figure
from verl_ext.plotting.tasks import draw_tasks, tasks_figure

__all__ = [
    "comparison_figure",
    "curves_figure",
    "draw_comparison",
    "draw_curves",
    "draw_run",
    "draw_tasks",
    "run_figure",
    "tasks_figure",
]
