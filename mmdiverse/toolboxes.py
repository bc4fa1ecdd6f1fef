"""MMDetection and MMSegmentation: whether they are there, and can work."""
from collections.abc import Iterable
from importlib.util import find_spec

TOOLBOXES = {'mmdet': 'MMDetection', 'mmseg': 'MMSegmentation'}
INSTALL = ('In an environment of its own, in a clone of mmdiverse:\n'
           "  pip install -c requirements/constraints.txt -e '.[downstream]'\n"
           '      (mmdet, mmsegmentation)\n'
           '  bash tools/downstream/install_mmcv.sh\n'
           '      (MMCV with compiled operators)\n'
           'docs/downstream.md says more')


def check_toolboxes(scopes: Iterable[str] = TOOLBOXES) -> None:
    """Check that MMDetection or MMSegmentation, and the operators that both need, are installed.

    Args:
        scopes (Iterable[str]): ``'mmdet'``, ``'mmseg'``; any other scope needs nothing. Defaults to
            both.

    Raises:
        ImportError: If one is missing, or MMCV is the one without compiled operators; the message
            has the commands that install them.
    """
    needed = [scope for scope in TOOLBOXES if scope in set(scopes)]
    for scope in needed:
        if find_spec(scope) is None:
            raise ImportError(f'{TOOLBOXES[scope]} ({scope}) is not installed. {INSTALL}')
    if needed and find_spec('mmcv._ext') is None:
        raise ImportError(f'{" and ".join(TOOLBOXES[scope] for scope in needed)} need MMCV with '
                          f'compiled operators, but the one installed has none (mmcv-lite, or '
                          f'built with MMCV_WITH_OPS=0). {INSTALL}')
