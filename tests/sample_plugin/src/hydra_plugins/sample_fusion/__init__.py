"""Tells Hydra where the package's configuration lies; `hydra_plugins` itself has no __init__.py."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class SampleSearchPath(SearchPathPlugin):
    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append(provider="sample-fusion", path="pkg://sample_fusion.conf")
