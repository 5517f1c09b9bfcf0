"""The command ``verl-ext``."""
