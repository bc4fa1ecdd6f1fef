"""timm's VisionTransformer inside TIMMBackbone."""
import pytest
from mmpretrain.models.backbones import TIMMBackbone
from torch import nn

from mmdiverse.taps import build_tap
from tests.taps.families.timm import timm_vit


@pytest.mark.parametrize(('options', 'expected'), [
    (dict(), 1),
    (dict(reg_tokens=2), 3),
    (dict(class_token=False, global_pool='avg'), 0),
    (dict(model_name='deit_tiny_distilled_patch16_224'), 2),
])
def test_prefix_tokens_are_counted(options: dict, expected: int) -> None:
    assert build_tap(timm_vit(**options)).num_prefix == expected


def test_attention_of_another_kind_is_refused() -> None:
    backbone = timm_vit()
    backbone.timm_model.blocks[1].attn = nn.Identity()
    with pytest.raises(ValueError, match="is a Identity, .*drop the terms with `on='attention'`"):
        build_tap(backbone).attach([('maps', 1)])


def test_other_models_of_timm_are_unknown() -> None:
    with pytest.raises(ValueError, match='no tap knows the backbone TIMMBackbone'):
        build_tap(TIMMBackbone('mobilenetv3_small_050'))
