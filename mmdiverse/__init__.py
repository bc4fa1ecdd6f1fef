"""Diversity regularizers for the vision transformers of MMPretrain.

Importing the package checks the host packages and mends what current torch, setuptools and
transformers broke in them (:mod:`mmdiverse.compat`). It imports no model, loss or hook: the
registries find those when a config names them, and the functions of :data:`FUNCTIONS` are imported
when they are first used.
"""
from __future__ import annotations

import re
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from mmdiverse.version import __version__

#: Public functions and their modules.
FUNCTIONS = {
    'audit': 'mmdiverse.evaluation.audit',
    'get_model': 'mmdiverse.model_hub',
    'list_models': 'mmdiverse.model_hub',
}
__all__ = ['__version__', *FUNCTIONS]

# Module: the oldest supported version, and the first one that is not.
HOST_VERSIONS = {
    'mmengine': ('0.10.4', '1'),
    'mmcv': ('2.0', '2.4'),
    'mmpretrain': ('1.2.0', '2'),
}
INSTALL = ("Install one of the two host stacks, each in an environment of its own, in a clone of "
           "mmdiverse:\n"
           "  pip install -c requirements/constraints.txt -e '.[openmmlab]'\n"
           "      (mmengine, mmcv-lite, mmpretrain)\n"
           "  MMCV_WITH_OPS=0 pip install -c requirements/constraints.txt -e '.[onedl]'\n"
           "      (onedl-mmengine, onedl-mmcv, onedl-mmpretrain)")


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r'\d+', version)[:3])


def check_hosts() -> None:
    """Checks that MMEngine, MMCV and MMPretrain are there and in the supported range.

    The versions are read from the modules, which two distributions provide under the same names.

    Raises:
        ImportError: A host package is missing or out of range, or MMEngine needs a
            ``pkg_resources`` that the installed setuptools no longer has.
    """
    for name, (oldest, ceiling) in HOST_VERSIONS.items():
        wanted = f'{name}>={oldest},<{ceiling}'
        if find_spec(name) is None:
            raise ImportError(f'mmdiverse needs {wanted}, but {name} is not installed.\n{INSTALL}')
        module = import_module(name)
        found = getattr(module, '__version__', None)
        if found is None:  # a folder of that name on the path, not the package
            raise ImportError(f'mmdiverse needs {wanted}, but the {name} found at '
                              f'{list(getattr(module, "__path__", []))} has no __version__.\n'
                              f'{INSTALL}')
        if not _release(oldest) <= _release(found) < _release(ceiling):
            raise ImportError(f'mmdiverse needs {wanted}, but {name} {found} is installed.\n'
                              f'{INSTALL}')
        if name == 'mmengine':
            _check_pkg_resources(found)


def _check_pkg_resources(mmengine_version: str) -> None:
    # Asked of the function that resolves `_base_ = 'package::...'`, because OpenMMLab's MMEngine
    # imports pkg_resources there, late and out of sight, and OneDL's does not.
    from mmengine.utils import get_installed_path

    needed = 'pkg_resources' in get_installed_path.__code__.co_names
    if needed and find_spec('pkg_resources') is None:
        raise ImportError(f"MMEngine {mmengine_version} imports pkg_resources, which setuptools 82 "
                          f"removed and this environment lacks: pip install 'setuptools<81'")


def __getattr__(name: str) -> Any:
    if name in FUNCTIONS:
        return getattr(import_module(FUNCTIONS[name]), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})  # with those that are not imported yet


check_hosts()

from mmdiverse import compat  # noqa: E402  (needs the hosts)

compat.apply()
