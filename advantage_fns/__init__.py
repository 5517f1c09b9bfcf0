"""Advantage estimators: who gets how much credit. Pure tensor functions."""

if __name__ != "verl_ext.advantage_fns":
    raise ImportError("import verl_ext.advantage_fns (after `pip install -e .`), not advantage_fns")
