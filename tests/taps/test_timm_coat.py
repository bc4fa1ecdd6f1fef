"""timm's CoaT: those with parallel blocks."""
import pytest
from timm import create_model

from mmdiverse.taps import build_tap


def test_parallel_blocks_are_unknown() -> None:
    backbone = create_model('coat_tiny', img_size=64, embed_dims=(16, 16, 16, 16),
                            serial_depths=(1, 1, 1, 1), parallel_depth=1)
    with pytest.raises(ValueError, match='no tap knows the backbone CoaT'):
        build_tap(backbone)
