"""Pure masks: which responses and tokens may teach."""
