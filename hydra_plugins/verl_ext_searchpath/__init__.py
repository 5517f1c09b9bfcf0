"""Puts verl-ext's overlays on Hydra's search path, so that ``+paper=...`` works in verl."""

import sys

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from verl_ext import overlays


class VerlExtSearchPath(SearchPathPlugin):
    """Appends ``pkg://verl_ext.recipes`` behind the application's own configuration."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Adds the overlays last: the application's files win on a name clash.

        Raises:
            SystemExit: the command line names an overlay that does not exist, or orders overlays
                wrongly; checked only for verl, since Hydra calls this for every application. Hydra
                prints an exception raised here as a crash, so the process ends with the words.
        """
        main = [item.path or "" for item in search_path.get_path() if item.provider == "main"]
        if any("verl" in path for path in main):
            try:
                overlays.check(sys.argv[1:])
            except overlays.OverlayError as error:
                raise SystemExit(f"[verl_ext] {error}") from None
        search_path.append(provider="verl_ext", path="pkg://verl_ext.recipes")
