"""kubernetes-asyncio's ApiClient and its loaders of credentials, without the rest of the package.

Importing any of it runs its packages' `__init__`, which load some 1,500 generated modules for
models and calls that nobody here uses: 70 MB and over a second of CPU in every program.
"""

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Final

_PACKAGE: Final = "kubernetes_asyncio"
_SKIPPED: Final = (_PACKAGE, f"{_PACKAGE}.client", f"{_PACKAGE}.client.models")


@contextmanager
def _without_generated_modules() -> Iterator[None]:
    """Stands bare packages in for those whose `__init__` is to be left out, for the block."""
    spec = importlib.util.find_spec(_PACKAGE)
    if _PACKAGE in sys.modules or spec is None or not spec.submodule_search_locations:
        yield  # somebody has paid for it already, or the import is about to fail
        return
    root = Path(spec.submodule_search_locations[0])
    bare = {name: ModuleType(name) for name in _SKIPPED}
    for name, module in bare.items():
        parent, _, child = name.rpartition(".")
        module.__path__ = [str(root.joinpath(*name.split(".")[1:]))]
        if parent:
            setattr(bare[parent], child, module)
    sys.modules.update(bare)
    try:
        for class_ in ("configuration.Configuration", "api_client.ApiClient"):
            submodule, _, attribute = class_.partition(".")
            found = importlib.import_module(f"{_PACKAGE}.client.{submodule}")
            setattr(bare[f"{_PACKAGE}.client"], attribute, getattr(found, attribute))
        yield
    finally:
        for name in bare:  # whoever imports the whole package later gets the whole package
            del sys.modules[name]


with _without_generated_modules():
    from kubernetes_asyncio.client.api_client import ApiClient
    from kubernetes_asyncio.client.configuration import Configuration
    from kubernetes_asyncio.config import ConfigException, load_incluster_config, load_kube_config

__all__ = [
    "ApiClient",
    "ConfigException",
    "Configuration",
    "load_incluster_config",
    "load_kube_config",
]
