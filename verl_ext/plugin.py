"""Entry point ``verl.plugins``: verl imports this module in every process it starts.

verl swallows a plugin's exception at debug level, and a run without its plugin trains something
else. So a failure here is printed with its traceback and ends the process.
"""

import sys
import traceback

try:
    from verl_ext.adapters import registration

    registration.install()
except BaseException:
    print("[verl_ext] the plugin failed to load; `verl-ext doctor` examines it", file=sys.stderr)
    traceback.print_exc()
    # SystemExit, since verl catches Exception; the traceback is already on stderr.
    raise SystemExit(1) from None
