"""Pure losses (empty until the first distillation method)."""
