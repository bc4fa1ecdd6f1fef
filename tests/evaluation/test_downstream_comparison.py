"""What needs no toolbox; tests/downstream/test_compare.py has the rest."""
import runpy
import sys
from pathlib import Path

import pytest

from mmdiverse import toolboxes
from mmdiverse.evaluation.downstream_comparison import STAGES

TOOL = Path(__file__).parents[2] / 'tools' / 'downstream' / 'compare.py'


def test_command_says_how_to_install_what_is_missing(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolboxes, 'find_spec', lambda name: None)
    monkeypatch.setattr(sys, 'argv', [str(TOOL), '--work-dir', str(tmp_path / 'runs')])
    with pytest.raises(SystemExit, match=r'(?s)mmdet.*pip install.*downstream.*install_mmcv\.sh'):
        runpy.run_path(str(TOOL), run_name='__main__')
    assert not (tmp_path / 'runs').exists()


def test_configs_of_all_stages_are_shipped() -> None:
    assert [path.is_file() for path in STAGES.values()] == [True] * 3
