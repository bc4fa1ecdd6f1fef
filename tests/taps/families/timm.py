"""timm's VisionTransformer, and what the families of its other models share."""
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from mmpretrain.models.backbones import TIMMBackbone
from timm import layers
from timm.models.vision_transformer import ParallelScalingBlock
from torch import Tensor, nn

from .family import Family

SIZE: dict[str, Any] = dict(img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2)
DROP: dict[str, Any] = dict(pos_drop_rate=0.1, proj_drop_rate=0.1, attn_drop_rate=0.1,
                            drop_path_rate=0.1)


def timm_vit(model_name: str = 'vit_tiny_patch16_224', **options: Any) -> nn.Module:
    return TIMMBackbone(model_name=model_name, **{**SIZE, **DROP, **options})


def fused(make: Callable[..., nn.Module], enable: bool = True) -> nn.Module:
    """Build a backbone whose attention is fused, or is not, wherever timm knows both."""
    layers.set_fused_attn(enable, experimental=True)
    try:
        return make()
    finally:
        layers.set_fused_attn(True)


def unfused(make: Callable[..., nn.Module]) -> nn.Module:
    """Build a backbone whose attention makes its maps."""
    return fused(make, enable=False)


@dataclass(frozen=True)
class SideBySideFamily(Family):
    """Blocks whose first layer makes 128 hidden neurons, and queries, keys and values."""

    qkv: tuple[str, ...] = ('in_proj', )
    fc: tuple[str, str] = ('in_proj', 'mlp_out_proj')
    proj: str = 'attn_out_proj'
    fc1: Callable[[Tensor], Tensor] = lambda weight: weight[:128]
    split: Callable[..., Any] = lambda weight: weight[128:].chunk(3)

    def find_attention(self, block: nn.Module) -> nn.Module:
        return block

    def find_matrices(self, block: nn.Module) -> dict[str, Tensor]:
        matrices = super().find_matrices(block)
        if block.out_proj is None:
            return matrices
        return {**matrices, 'proj': matrices['proj'][:, :32], 'fc2': matrices['fc2'][:, 32:]}


TIMM: dict[str, Any] = dict(
    tap='TimmVisionTransformerTap', blocks='timm_model.blocks', fc=('mlp.fc1', 'mlp.fc2'),
    prefix=('timm_model.cls_token', ), image_size=32, num_patches=16)
REGISTERS = ('timm_model.cls_token', 'timm_model.reg_token')
FAMILIES = [
    Family('timm', make=timm_vit, **TIMM),
    Family('timm-unfused', make=lambda: unfused(timm_vit), **TIMM),
    Family('timm-no-class-token', make=lambda: timm_vit(class_token=False, global_pool='avg'),
           **{**TIMM, 'prefix': ()}),
    Family('timm-registers', make=lambda: timm_vit(reg_tokens=2, qk_norm=True, pre_norm=True),
           **{**TIMM, 'prefix': REGISTERS}),
    # What enters its projection is normalised.
    Family('timm-scaled', make=lambda: timm_vit(scale_attn_norm=True, scale_mlp_norm=True),
           head_outputs=None, **TIMM),
    Family('timm-distilled', make=lambda: timm_vit('deit_tiny_distilled_patch16_224'),
           **{**TIMM, 'prefix': ('timm_model.cls_token', 'timm_model.dist_token')}),
    Family('timm-deit3', make=lambda: timm_vit('deit3_small_patch16_224'), **TIMM),
    # Its tokens are not normalised, so that maps of more blocks are of zeros and ones.
    Family('timm-post-norm', make=lambda: timm_vit('vit_base_patch16_rpn_224', depth=2),
           **{**TIMM, 'prefix': ()}),
    Family('timm-swiglu', make=lambda: timm_vit('aimv2_large_patch14_224'),
           **{**TIMM, 'prefix': (), 'fc': ('mlp.fc1_x', 'mlp.fc2')}),
    Family('timm-swiglu-packed', make=lambda: timm_vit('vit_giant_patch14_reg4_dinov2'),
           fc1=lambda weight: weight.chunk(2)[1], **{**TIMM, 'prefix': REGISTERS}),
    Family('timm-differential', make=lambda: timm_vit('vit_dwee_patch16_reg1_gap_256'),
           with_maps=False, **{**TIMM, 'prefix': REGISTERS[1:]}),
    SideBySideFamily('timm-side-by-side', make=lambda: timm_vit('vit_base_patch16_xp_224'),
                     **{key: value for key, value in TIMM.items() if key != 'fc'}),
    SideBySideFamily(
        'timm-side-by-side-joined', proj='out_proj', fc=('in_proj', 'out_proj'),
        head_outputs=lambda outputs: outputs[..., :32],
        make=lambda: timm_vit(block_fn=partial(ParallelScalingBlock, fuse_out_proj=True)),
        **{key: value for key, value in TIMM.items() if key != 'fc'}),
    # As TimmClassifier has it.
    Family('timm-alone', make=lambda: timm_vit().timm_model,
           **{**TIMM, 'blocks': 'blocks', 'prefix': ('cls_token', )}),
    Family('timm-features', make=lambda: timm_vit(features_only=True, out_indices=(2, )),
           **{**TIMM, 'blocks': 'timm_model.model.blocks',
              'prefix': ('timm_model.model.cls_token', )}),
]
