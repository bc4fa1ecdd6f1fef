"""Small backbones of every family that a tap knows.

A tap that has no backbone here fails the contract (:mod:`tests.taps.test_contract`).
"""
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from mmpretrain.models.backbones import (
    DistilledVisionTransformer,
    SwinTransformer,
    TIMMBackbone,
    VisionTransformer,
)
from mmpretrain.models.utils import MultiheadAttention
from torch import Tensor, nn

from mmdiverse.taps import Tap, build_tap
from mmdiverse.taps.base import HEADS


@dataclass(frozen=True)
class Family:
    """A backbone, and where its parts are, said again apart from the tap.

    Attributes:
        name: Of the family in the names of tests.
        tap: Name of the registered tap.
        make: Builds the backbone.
        blocks: Path of the blocks, or of the stages that hold them.
        attention: Path of the attention in a block, with its layers ``qkv`` and ``proj``.
        fc: Paths of the two layers of the MLP in a block.
        prefix: Paths of the tokens before the patches.
        image_size: Side of its images.
        num_patches: Patches that they are cut into.
    """

    name: str
    tap: str
    make: Callable[[], nn.Module]
    blocks: str = 'layers'
    attention: str = 'attn'
    fc: tuple[str, str] = ('ffn.layers.0.0', 'ffn.layers.1')
    prefix: tuple[str, ...] = ('cls_token', )
    image_size: int = 12
    num_patches: int = 9

    def __str__(self) -> str:
        return self.name

    def build(self) -> nn.Module:
        """Build the backbone in evaluation mode, no parameter of which is zero or one."""
        torch.manual_seed(0)
        backbone = self.make()
        backbone.eval()  # not chained: MMPretrain's own return nothing
        with torch.no_grad():
            for parameter in backbone.parameters():
                parameter.normal_(std=0.3)
        return backbone

    def images(self) -> Tensor:
        """A batch of three random images."""
        generator = torch.Generator().manual_seed(1)
        return torch.randn(3, 3, self.image_size, self.image_size, generator=generator)

    def find_blocks(self, backbone: nn.Module) -> list[nn.Module]:
        """The blocks in order."""
        found = attrgetter(self.blocks)(backbone)
        if hasattr(found[0], 'blocks'):
            return [block for stage in found for block in stage.blocks]
        return list(found)

    def find_attention(self, block: nn.Module) -> nn.Module:
        """The attention of a block."""
        return attrgetter(self.attention)(block)

    def find_matrices(self, block: nn.Module) -> dict[str, Tensor]:
        """The six matrices of a block by name."""
        attention = self.find_attention(block)
        q, k, v = attention.qkv.weight.chunk(3)
        fc1, fc2 = (block.get_submodule(path).weight for path in self.fc)
        return dict(q=q, k=k, v=v, proj=attention.proj.weight, fc1=fc1, fc2=fc2)


def vit(type: type = VisionTransformer, **options: Any) -> nn.Module:
    arch = dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=24)
    return type(arch=arch, img_size=12, patch_size=4, drop_rate=0.1, drop_path_rate=0.1,
                layer_cfgs=dict(attn_drop_rate=0.1), **options)


def vit_with_qk_scale() -> nn.Module:
    # MMPretrain's blocks cannot be given a qk_scale, but its attention can.
    backbone = vit()
    for block in backbone.layers:
        block.attn = MultiheadAttention(16, 2, qk_scale=0.5)
    return backbone


def swin(**options: Any) -> nn.Module:
    # 8 x 8 tokens in four windows, of which the second block shifts; then 4 x 4 in one.
    options = dict(dict(img_size=16, window_size=4, out_indices=(1, )), **options)
    return SwinTransformer(arch=dict(embed_dims=8, depths=[2, 2], num_heads=[2, 4]), patch_size=2,
                           drop_rate=0.1, drop_path_rate=0.1, **options)


def timm_vit(model_name: str = 'vit_tiny_patch16_224', **options: Any) -> nn.Module:
    return TIMMBackbone(model_name=model_name, img_size=32, patch_size=8, depth=2, embed_dim=32,
                        num_heads=2, drop_path_rate=0.1, **options)


SWIN = dict(tap='SwinTransformerTap', blocks='stages', attention='attn.w_msa', prefix=(),
            image_size=16, num_patches=64)
TIMM = dict(tap='TimmVisionTransformerTap', blocks='timm_model.blocks', fc=('mlp.fc1', 'mlp.fc2'),
            prefix=('timm_model.cls_token', ), image_size=32, num_patches=16)

FAMILIES = [
    Family('vit', 'VisionTransformerTap', vit),
    Family('vit-no-class-token', 'VisionTransformerTap',
           lambda: vit(with_cls_token=False, out_type='avg_featmap'), prefix=()),
    Family('vit-pre-norm', 'VisionTransformerTap', lambda: vit(pre_norm=True)),
    Family('vit-qk-scale', 'VisionTransformerTap', vit_with_qk_scale),
    Family('deit-distilled', 'VisionTransformerTap',
           lambda: vit(DistilledVisionTransformer, out_type='raw'),
           prefix=('cls_token', 'dist_token')),
    Family('swin', make=swin, **SWIN),
    Family('swin-position-embedding', make=lambda: swin(use_abs_pos_embed=True), **SWIN),
    Family('timm', make=timm_vit, **TIMM),
    Family('timm-no-class-token', make=lambda: timm_vit(class_token=False, global_pool='avg'),
           **{**TIMM, 'prefix': ()}),
    Family('timm-registers', make=lambda: timm_vit(reg_tokens=2, qk_norm=True),
           **{**TIMM, 'prefix': ('timm_model.cls_token', 'timm_model.reg_token')}),
    Family('timm-distilled', make=lambda: timm_vit('deit_tiny_distilled_patch16_224'),
           **{**TIMM, 'prefix': ('timm_model.cls_token', 'timm_model.dist_token')}),
]


def everything(tap: Tap) -> list[tuple[str, int | str]]:
    """Requests for all that a tap can capture."""
    layers = range(len(tap.blocks))
    return [('patch', 'embed'), *((source, layer) for source in ('patch', *HEADS)
                                  for layer in layers)]


def attached(backbone: nn.Module) -> Tap:
    """The tap of a backbone, attached for everything."""
    tap = build_tap(backbone)
    tap.attach(everything(tap))
    return tap
