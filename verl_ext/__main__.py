"""``python -m verl_ext``, the same as the command ``verl-ext``."""

import sys

from verl_ext.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
