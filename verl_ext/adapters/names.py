"""Names we register with verl that are not functions of the catalog."""

STOCK_MODES = ("sync", "colocate_async", "separate_async")
TRAINER_MODES = tuple(f"verl_ext.{mode}" for mode in STOCK_MODES)
MEGATRON_EXTRA = "pip install 'verl-ext[megatron]'"
TASK_KEY = "data_source"  # the column that names a prompt's task, unless told otherwise
NOT_FINITE = ("stop", "report")  # choices of a run where a stage gives NaN or infinity
