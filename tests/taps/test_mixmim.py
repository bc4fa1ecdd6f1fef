"""MixMIMTransformer: windows, mixed images."""
import torch
from mmpretrain.models.selfsup import MixMIMPretrainTransformer

from tests.taps.families import attached
from tests.taps.families.mixmim import mixmim


def test_every_window_is_an_item_of_the_batch() -> None:
    backbone = mixmim()
    tap = attached(backbone)
    with tap.recording():
        backbone(torch.randn(3, 3, 16, 16))
        shapes = [tuple(tap.record('maps', layer).maps.shape) for layer in (0, 2)]
    assert shapes == [(12, 2, 16, 16), (3, 4, 16, 16)]


def test_tokens_of_mixed_images_do_not_see_each_other() -> None:
    # 16 x 16 tokens, each masked or not with the 63 others that one of the last stage stands for.
    backbone = MixMIMPretrainTransformer(
        arch=dict(embed_dims=8, depths=[1] * 4, num_heads=[2, 2, 2, 4]), img_size=64,
        window_size=[8, 4, 4, 2], mlp_ratio=2)
    tap = attached(backbone)
    with tap.recording():
        _, mask = backbone(torch.randn(2, 3, 64, 64))
        tokens, maps = tap.record('patch', 3), tap.record('maps', 3).maps
    masked = mask[0, :, 0].bool()
    assert masked.sum() == 2 and tokens.shape == (2, 4, 64)
    same = masked[:, None] == masked
    assert (maps[..., ~same] == 0).all() and (maps[..., same] > 0).all()
