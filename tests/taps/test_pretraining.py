"""Self-supervised models of MMPretrain, from its own configs made small, trained with the hook."""
from collections.abc import Iterator
from operator import attrgetter
from typing import Any, NamedTuple

import pytest
import torch
from mmengine.logging import MessageHub
from mmengine.optim import OptimWrapper
from mmpretrain.models.selfsup import MoCoV3
from mmpretrain.registry import MODELS
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from mmdiverse.config import load_config
from mmdiverse.hooks import DiversityHook
from mmdiverse.taps import build_tap
from mmdiverse.terms import DiversityTerm

TERMS = [
    dict(type='CosineLoss', on='patch', layers=-1, weight=0.5),
    dict(type='CosineLoss', on='attention', layers='all', weight=0.1),
    dict(type='CosineLoss', on='weight', layers='all', weight=0.1)]


class CLIP(nn.Module):
    """In place of a CLIP, which would be downloaded."""

    def __init__(self, tokenizer_path: str) -> None:
        super().__init__()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return torch.randn(len(images), 17, 512), torch.rand(len(images), 17, 17)


ARCH = dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=24)
VIT = dict(arch=ARCH, img_size=64)
HIVIT = dict(arch=dict(embed_dims=16, depths=[1, 1, 3], num_heads=2), img_size=64,
             out_indices=[4])
DECODER = dict(num_patches=16, embed_dim=16, decoder_embed_dim=16, decoder_depth=1,
               decoder_num_heads=2)
DALLE = dict(n_hid=4, n_blk_per_group=1, init_cfg=None)
SWIN_ARCH = dict(embed_dims=8, depths=[1] * 4, num_heads=[2, 2, 2, 4])
PROJECTOR = dict(hid_channels=16, out_channels=8)


class Case(NamedTuple):
    """A model.

    Attributes:
        config: Of MMPretrain.
        small: What of the parts of the model is made small.
        patches: Of each call of the backbone, the patches of the last layer that are read of an
            image.
        views: Of an image, that the model takes.
        mask: Rows (and columns) of what is masked or not, and how many of each image are.
        repeat: Rows of tokens that each of them masks.
        side: Of the images.
    """

    config: str
    small: dict[str, dict[str, Any]]
    patches: list[int]
    views: int = 1
    mask: tuple[int, int] = (4, 6)
    repeat: int = 1
    side: int = 64


CASES = {
    'mae': Case('mae/mae_vit-base-p16_8xb512-amp-coslr-300e_in1k.py',
                dict(backbone=VIT, neck=DECODER), [4]),
    'eva': Case('eva/eva-mae-style_vit-base-p16_16xb256-coslr-400e_in1k.py',
                dict(backbone=VIT, neck=DECODER, target_generator=dict(type=CLIP)), [4]),
    'milan': Case('milan/milan_vit-base-p16_16xb256-amp-coslr-400e_in1k.py',
                  dict(backbone=VIT, neck=DECODER, target_generator=dict(type=CLIP)), [4]),
    'mff': Case('mff/mff_vit-base-p16_8xb512-amp-coslr-300e_in1k.py',
                dict(backbone=dict(VIT, out_indices=[0, 1, 2]), neck=DECODER), [4]),
    'mae-hivit': Case('mae/mae_hivit-base-p16_8xb512-amp-coslr-400e_in1k.py',
                      dict(backbone=HIVIT, neck=DECODER), [4]),
    'itpn': Case('itpn/itpn-pixel_hivit-base-p16_8xb512-amp-coslr-400e_in1k.py',
                 dict(backbone=HIVIT,
                      neck=dict(DECODER, fpn_dim=32, fpn_depth=1)), [4]),
    'beit': Case('beit/beit_beit-base-p16_8xb256-amp-coslr-300e_in1k.py',
                 dict(backbone=VIT, head=dict(embed_dims=16), target_generator=DALLE), [10], 2),
    'cae': Case('cae/cae_beit-base-p16_8xb256-amp-coslr-300e_in1k.py',
                dict(backbone=VIT, target_generator=DALLE,
                     neck=dict(embed_dims=16, num_heads=2, regressor_depth=1, decoder_depth=1,
                               mask_tokens_num=6)), [10], 2),
    # Its target needs 14 x 14 patches.
    'maskfeat': Case('maskfeat/maskfeat_vit-base-p16_8xb256-amp-coslr-300e_in1k.py',
                     dict(backbone=dict(VIT, img_size=224), neck=dict(in_channels=16)), [116],
                     mask=(14, 80), side=224),
    'simmim': Case('simmim/simmim_swin-base-w6_8xb256-amp-coslr-100e_in1k-192px.py',
                   dict(backbone=dict(arch=SWIN_ARCH, img_size=64,
                                      stage_cfgs=dict(block_cfgs=dict(window_size=2))),
                        neck=dict(in_channels=64)), [2], mask=(2, 2), repeat=8),
    # Two images mixed are both there.
    'mixmim': Case('mixmim/mixmim_mixmim-base_16xb128-coslr-300e_in1k.py',
                   dict(backbone=dict(arch=SWIN_ARCH, img_size=64, window_size=[8, 4, 4, 2]),
                        neck=dict(DECODER, embed_dim=64, num_patches=4)), [4]),
    'mocov3': Case('mocov3/mocov3_vit-small-p16_16xb256-amp-coslr-300e_in1k.py',
                   {'backbone': VIT, 'neck': dict(PROJECTOR, in_channels=16),
                    'head.predictor': dict(PROJECTOR, in_channels=8)}, [16, 16], 2),
}
every_model = pytest.mark.parametrize('name', CASES)


def build(name: str) -> nn.Module:
    cfg = load_config(f'mmpretrain::{CASES[name].config}').model
    for part, options in CASES[name].small.items():
        attrgetter(part)(cfg).update(options)
    torch.manual_seed(0)
    return MODELS.build(cfg).train()


def batch(name: str) -> dict[str, Any]:
    """What a data loader gives."""
    case = CASES[name]
    views = [torch.randn(3, 3, case.side, case.side) for _ in range(case.views)]
    if case.small.get('target_generator') is DALLE:  # whose tokens are of 8 x 8 pixels
        views[1] = views[1][..., ::2, ::2]
    rows, masked = case.mask
    mask = (torch.rand(3, rows**2).argsort(1) < masked).unflatten(1, (rows, rows)).long()
    mask = mask.repeat_interleave(case.repeat, 1).repeat_interleave(case.repeat, 2)
    return dict(inputs=views if case.views > 1 else views[0],
                data_samples=[DataSample(mask=each) for each in mask])


@pytest.fixture(autouse=True)
def length_of_the_run() -> Iterator[None]:
    """What a runner says, and a momentum encoder asks."""
    hub = MessageHub.get_current_instance()
    hub.update_info('max_iters', 9)
    yield
    hub.pop_info('max_iters')


@every_model
def test_it_trains_with_all_three_levels(name: str) -> None:
    model = build(name)
    optimizer = OptimWrapper(torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad], lr=1e-3))
    DiversityHook(TERMS).attach(model)
    before = {key: value.clone() for key, value in model.backbone.named_parameters()}
    for _ in range(3):
        logged = model.train_step(batch(name), optimizer)
        assert {'loss_patch_cosine', 'loss_attention_cosine', 'loss_weight_cosine'} <= logged.keys()
        assert all(torch.as_tensor(value).isfinite() for value in logged.values())
    assert any(not torch.equal(value, before[key])
               for key, value in model.backbone.named_parameters())


@every_model
def test_every_level_has_a_gradient(name: str) -> None:
    model = build(name)
    DiversityHook(TERMS).attach(model)
    losses = model(**model.data_preprocessor(batch(name)), mode='loss')
    parameters = [parameter for parameter in model.backbone.parameters() if parameter.requires_grad]
    for term in TERMS:
        gradients = torch.autograd.grad(losses[f'loss_{term["on"]}_cosine'], parameters,
                                        retain_graph=True, allow_unused=True)
        found = [gradient for gradient in gradients if gradient is not None]
        assert all(gradient.isfinite().all() for gradient in found)
        assert any(gradient.any() for gradient in found)


@every_model
def test_patches_that_the_model_masks_are_not_read(name: str) -> None:
    model = build(name)
    hook = DiversityHook(TERMS)
    hook.attach(model)
    data = model.data_preprocessor(batch(name))
    with hook.tap.recording():
        model.loss(**data)
        records = hook.tap.records('patch', len(hook.tap.blocks) - 1)
        shapes = [record.shape[:2] for record in records]
    assert shapes == [(3, patches) for patches in CASES[name].patches]


def test_terms_of_moco_are_means_over_both_views() -> None:
    model = build('mocov3')
    assert isinstance(model, MoCoV3)
    views = model.data_preprocessor(batch('mocov3'))['inputs']
    terms = [DiversityTerm(**term) for term in TERMS[:2]]
    tap = build_tap(model.backbone)
    tap.attach(request for term in terms for request in term.requests(tap))
    alone = []
    for images in views:
        with tap.recording():
            model.backbone(images)
            alone.append(torch.stack([term.evaluate(tap) for term in terms]))
    tap.detach()
    DiversityHook(TERMS[:2]).attach(model)
    losses = model(views, mode='loss')
    actual = torch.stack([losses['patch_cosine'], losses['attention_cosine']])
    assert not torch.allclose(*alone)
    torch.testing.assert_close(actual, torch.stack(alone).mean(0))


def test_nothing_of_either_view_is_kept_after_a_step() -> None:
    model = build('mocov3')
    hook = DiversityHook(TERMS)
    hook.attach(model)
    model(**model.data_preprocessor(batch('mocov3')), mode='loss')
    assert not hook.tap._earlier and not hook.tap._captured and not hook.tap._records


def test_a_momentum_encoder_is_not_read() -> None:
    model = build('mocov3')
    DiversityHook(TERMS).attach(model)
    assert not any(module._forward_hooks or module._forward_pre_hooks
                   for module in model.momentum_encoder.modules())
