"""verl-ext: recent post-training papers as plugins for verl.

Importing this package imports neither verl nor torch. verl finds the plugins by itself through
the entry point ``verl.plugins`` (``verl_ext.plugin``).
"""

__version__ = "0.1.0"
