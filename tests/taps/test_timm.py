"""timm's models: VisionTransformer, TimmClassifier, and the names that work."""
from collections.abc import Callable
from typing import Any

import pytest
import torch
from mmpretrain.models.backbones import TIMMBackbone
from mmpretrain.models.classifiers import TimmClassifier
from mmpretrain.structures import DataSample
from timm.models.vision_transformer import ParallelThingsBlock
from torch import Tensor, nn

from mmdiverse.hooks import DiversityHook
from mmdiverse.taps import build_tap
from mmdiverse.taps.base import HEADS, Weights, find_backbone
from tests.taps.families import attached
from tests.taps.families.timm import DROP, SIZE, timm_vit
from tests.taps.families.timm_cait import FAMILIES as CAIT
from tests.taps.families.timm_coat import FAMILIES as COAT
from tests.taps.families.timm_convit import convit
from tests.taps.families.timm_volo import volo
from tests.taps.families.timm_xcit import FAMILIES as XCIT

WINDOWS: dict[str, Any] = dict(img_size=32, window_size=4, embed_dim=8, depths=(2, 2),
                               num_heads=(2, 4))
STAGES: dict[str, Any] = dict(img_size=64, depths=(2, 1, 1, 1), embed_dims=(8, 16, 16, 16),
                              num_heads=(2, 2, 2, 2))
#: Models of timm by name, and what makes each small.
MODELS = [(names.split(), options) for names, options in [
    ('vit_tiny_patch16_224 vit_small_patch32_224 vit_base_patch8_224 vit_large_patch14_224 '
     'vit_huge_patch14_224 vit_gigantic_patch14_224 vit_base_patch16_clip_224 '
     'vit_base_patch16_clip_quickgelu_224 vit_small_patch14_dinov2 vit_small_patch14_reg4_dinov2 '
     'vit_giant_patch14_dinov2 vit_base_patch16_siglip_224 vit_base_patch16_siglip_gap_224 '
     'vit_so400m_patch14_siglip_224 vit_wee_patch16_reg1_gap_256 vit_little_patch16_reg4_gap_256 '
     'vit_medium_patch16_gap_256 vit_xsmall_patch16_clip_224 vit_base_patch16_rpn_224 '
     'vit_base_patch16_xp_224 vit_pwee_patch16_reg1_gap_256 aimv2_large_patch14_224 flexivit_small '
     'deit_tiny_patch16_224 deit_small_distilled_patch16_224 deit3_small_patch16_224 '
     'deit3_medium_patch16_224 beit_base_patch16_224 beit_large_patch16_224 '
     'beitv2_base_patch16_224 beit3_base_patch16_224 eva_giant_patch14_224 eva02_tiny_patch14_224 '
     'eva02_base_patch14_224 eva02_large_patch14_clip_224 vit_small_patch16_dinov3 '
     'vit_base_patch16_dinov3_qkvb vit_small_plus_patch16_dinov3 vit_pe_core_tiny_patch16_384 '
     'vit_pe_spatial_base_patch16_512 vit_small_patch16_rope_224 '
     'vit_small_patch16_rope_mixed_ape_224 vit_mediumd_patch16_rope_reg1_gap_256 '
     'vit_relpos_small_patch16_224 vit_relpos_base_patch16_cls_224 vit_srelpos_small_patch16_224',
     SIZE),
    ('naflexvit_base_patch16_gap naflexvit_base_patch16_par_gap naflexvit_base_patch16_siglip',
     dict(SIZE, pos_embed_grid_size=(4, 4))),
    ('samvit_base_patch16 samvit_base_patch16_224', dict(SIZE, window_size=2, neck_chans=8)),
    ('swin_tiny_patch4_window7_224 swin_s3_tiny_224 swinv2_tiny_window8_256 '
     'swinv2_base_window12_192 swinv2_cr_tiny_224 swinv2_cr_tiny_ns_224', WINDOWS),
    ('twins_pcpvt_small twins_pcpvt_base', STAGES),
    ('twins_svt_small twins_svt_large', dict(STAGES, wss=(4, 4, 2, 2))),
    ('levit_128s levit_256d levit_conv_128s',
     dict(img_size=64, embed_dim=(8, 16), key_dim=4, num_heads=(2, 2), depth=(1, 1))),
    ('hiera_tiny_224 hiera_base_plus_224 hiera_small_abswin_256',
     dict(img_size=64, embed_dim=8, num_heads=1, stages=(1, 1, 1, 1))),
    ('pit_ti_224 pit_b_224', dict(img_size=64, base_dims=(8, 8, 8), heads=(2, 2, 4))),
    ('convit_tiny', dict(img_size=32, embed_dim=8, num_heads=4, depth=2, local_up_to_layer=1)),
    ('cait_xxs24_224 xcit_nano_12_p8_224 xcit_tiny_12_p16_224', SIZE),
    ('vit_tiny_r_s16_p8_224', dict(img_size=64, embed_dim=32, depth=2, num_heads=2)),
]]
WITHOUT_MAPS = ('TimmCaitTap', 'TimmXcitTap')


@pytest.mark.parametrize(('name', 'options'), [
    pytest.param(name, options, id=name) for names, options in MODELS for name in names])
def test_these_models_have_every_level(name: str, options: dict) -> None:
    backbone = TIMMBackbone(name, **options)
    tap = attached(backbone)
    tap.check_weights(Weights(('q', 'k', 'v', 'proj', 'fc1', 'fc2')))
    with tap.recording():
        backbone(torch.randn(2, 3, options['img_size'], options['img_size']))
        for layer in ('embed', *range(len(tap.blocks))):
            assert tap.record('patch', layer).shape[0] == 2
        layers = [layer for source, layer in tap._captured if source == 'maps']
        for layer in layers:
            maps, values, outputs = (tap.record(source, layer) for source in HEADS)
            torch.testing.assert_close(maps.maps @ values.heads, outputs.heads)
    assert bool(layers) == (type(tap).__name__ not in WITHOUT_MAPS)


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
    with pytest.raises(ValueError, match=r"is a Identity, .* `layers` among \[0, 2\], or drop the "
                                         "terms with `on='attention'`"):
        build_tap(backbone).attach([('maps', 1)])


@pytest.mark.parametrize(('make', 'reason'), [
    (CAIT[0].make, 'a TalkingHeadAttn, which mixes the maps of its heads after the softmax; drop'),
    (XCIT[0].make, 'a XCA, whose maps are of channels, not of tokens; drop'),
    (COAT[0].make, 'a FactorAttnConvRelPosEnc, which multiplies keys and values first, .*; drop'),
    (lambda: volo(outlook_attention=(True, False)),
     r'a OutlookAttention, which has weights of neighbours .*; choose `layers` among \[2\], or'),
    (lambda: convit(local_up_to_layer=2),
     r'a GPSA, whose maps are sums of two softmaxes; choose `layers` among \[2\], or drop'),
])
def test_what_has_no_maps_says_why(make: Callable[[], nn.Module], reason: str) -> None:
    with pytest.raises(ValueError, match=f'attention of .* is {reason}'):
        build_tap(make()).attach([('maps', 0)])


def test_differential_attention_is_refused() -> None:
    for name in ('vit_dwee_patch16_reg1_gap_256', 'vit_dpwee_patch16_reg1_gap_256'):
        with pytest.raises(ValueError, match='which subtracts one softmax from another.*; drop'):
            build_tap(timm_vit(name)).attach([('maps', 0)])


def test_several_attentions_side_by_side_have_patches_alone() -> None:
    backbone = timm_vit(block_fn=ParallelThingsBlock)
    tap = attached(backbone)
    with tap.recording():
        backbone(torch.randn(2, 3, 32, 32))
        assert tap.record('patch', 2).shape == (2, 16, 32)
    with pytest.raises(ValueError, match="is a ParallelThingsBlock, which has several attentions "
                                         "side by side; drop the terms with `on='attention'`"):
        tap.attach([('maps', 0)])
    with pytest.raises(ValueError, match="several attentions and MLPs.*with `on='weight'`"):
        tap.check_weights(Weights())


def test_other_models_of_timm_are_unknown() -> None:
    with pytest.raises(ValueError, match='no tap knows the backbone TIMMBackbone'):
        build_tap(TIMMBackbone('mobilenetv3_small_050'))


def test_patches_that_are_dropped_are_no_padding() -> None:
    backbone = timm_vit(patch_drop_rate=0.5)
    backbone.train()
    tap = attached(backbone)
    with tap.recording():
        backbone(torch.randn(2, 3, 32, 32))
        assert tap.record('patch', 0).shape == (2, 8, 32)


def losses_of(model: nn.Module) -> dict[str, Tensor]:
    samples = [DataSample().set_gt_label(label) for label in range(2)]
    return model(torch.randn(2, 3, 32, 32), samples, mode='loss')


def test_a_classifier_that_is_a_model_of_timm_is_diversified() -> None:
    model = TimmClassifier('vit_tiny_patch16_224', num_classes=4, **SIZE, **DROP).train()
    hook = DiversityHook([
        dict(type='CosineLoss', on='patch', layers=-1, weight=1.),
        dict(type='CosineLoss', on='attention', layers=0, weight=1.),
        dict(type='SoftOrthogonalityLoss', on='weight', layers=1, weight=1.)])
    hook.attach(model)
    total, logged = model.parse_losses(losses_of(model))
    total.backward()
    assert {'patch_cosine', 'attention_cosine', 'weight_soft_orthogonality', 'loss_cls'} <= \
        logged.keys()
    assert all(parameter.grad is not None for parameter in model.model.blocks.parameters())
    hook.detach()
    assert losses_of(model).keys() == {'loss'}


def test_its_tap_reads_the_model_itself() -> None:
    model = TimmClassifier('swin_tiny_patch4_window7_224', **WINDOWS)
    assert find_backbone(model) is model.model
    assert type(build_tap(find_backbone(model))).__name__ == 'TimmSwinTransformerTap'
