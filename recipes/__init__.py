"""Overlays for verl's Hydra configuration: ``+paper=``, ``+task=``, ``+scale=``. YAML only."""

if __name__ != "verl_ext.recipes":
    raise ImportError(
        "use importlib.resources.files('verl_ext.recipes') (after `pip install -e .`)"
    )
