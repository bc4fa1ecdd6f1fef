"""MMDetection and MMSegmentation: what is said where they, or MMCV's operators, are missing."""
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from mmdiverse import toolboxes
from mmdiverse.toolboxes import check_toolboxes

ROOT = Path(__file__).parents[1]
CONFIG = 'configs/downstream/det/retinanet_swin-tiny_fpn_1x_coco.py'


def install(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    monkeypatch.setattr(toolboxes, 'find_spec', lambda name: SimpleNamespace()
                        if name in modules else None)


def test_what_is_missing_is_named_with_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, 'mmdet', 'mmcv._ext')
    check_toolboxes(['mmdet'])
    with pytest.raises(ImportError, match=r"MMSegmentation \(mmseg\) is not installed.*\n.*"
                                          r'  pip install -c requirements/constraints.txt -e '
                                          r"'.\[downstream\]'\n.*\n"
                                          r'  bash tools/downstream/install_mmcv.sh\n'):
        check_toolboxes()


def test_mmcv_without_operators_is_named_with_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, 'mmdet', 'mmseg')
    with pytest.raises(ImportError, match='MMDetection and MMSegmentation need MMCV with compiled '
                                          'operators.*\n(.*\n)*.*install_mmcv.sh'):
        check_toolboxes()


def test_other_scopes_need_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    check_toolboxes(['mmpretrain', None])


@pytest.mark.skipif(find_spec('mmcv._ext') is not None, reason='MMCV has its operators')
@pytest.mark.parametrize('command', [['tools/train.py', CONFIG],
                                     ['tools/downstream/check_transfer.py', CONFIG]])
def test_tools_end_with_that_message(command: list[str]) -> None:
    ended = subprocess.run([sys.executable, *command], cwd=ROOT, text=True, timeout=300,
                           capture_output=True)
    assert ended.returncode == 1
    assert 'install_mmcv.sh' in ended.stderr and 'Traceback' not in ended.stderr
