"""Names we register with verl that are not functions of the catalog."""

TRAINER_MODES = ("verl_ext.sync",)
STOCK_MODES = ("sync", "colocate_async", "separate_async")
MEGATRON_EXTRA = "pip install 'verl-ext[megatron]'"
