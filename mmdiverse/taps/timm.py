"""What taps of timm's models share, and that of its VisionTransformer; other families beside it."""
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate, chain

import torch
from mmpretrain.models.backbones import TIMMBackbone
from mmpretrain.models.utils import to_2tuple
from timm.layers import Attention, GluMlp, SwiGLU
from timm.models._features import FeatureGetterNet
from timm.models.vision_transformer import (
    DiffAttention,
    DiffParallelScalingBlock,
    ParallelScalingBlock,
    ParallelThingsBlock,
    VisionTransformer,
)
from timm.models.vitamin import GeGluMlp
from torch import nn

from ..image_mask import Size
from ..registry import TAPS
from .base import EMBED, Layer, Place, Tap, TapPoints, Weights, fused_qkv_matrices, inner_module

POINTS = TapPoints(
    embedding=('patch_embed', 'cls_token', 'dist_token', 'reg_token', 'pos_embed', 'norm_pre'),
    attention='attn',
    heads='attn',
    matrices=fused_qkv_matrices('attn.qkv', 'attn.proj', 'mlp.fc1', 'mlp.fc2'))


def find_timm_model(backbone: nn.Module) -> nn.Module:
    """The model of timm in a ``TIMMBackbone``, also of ``features_only``; another as it is."""
    model = inner_module(backbone)
    if isinstance(model, TIMMBackbone):
        model = inner_module(model.timm_model)
    return inner_module(model.model) if isinstance(model, FeatureGetterNet) else model


class TimmTap(Tap):
    """Reads a model of timm.

    It is in ``dict(type='TIMMBackbone', model_name=...)``, or it is the model of a
    ``TimmClassifier``.

    Attributes:
        models (tuple[type, ...]): Classes of the family.
        attentions (tuple[type, ...]): Classes of the attention in a block that have maps.
        without_maps (dict[type, str]): Why others have none.
    """

    probed = True
    points = POINTS
    models: tuple[type, ...]
    attentions: tuple[type, ...]
    without_maps: dict[type, str] = {}

    @classmethod
    def matches(cls, backbone: nn.Module) -> bool:
        return isinstance(find_timm_model(backbone), cls.models)

    @property
    def model(self) -> nn.Module:
        """The model of timm."""
        return find_timm_model(self.backbone)

    @property
    def embedding_owner(self) -> nn.Module:
        return self.model

    def find_blocks(self) -> Sequence[nn.Module]:
        return list(self.model.blocks)

    def count_prefix_tokens(self) -> int:
        return getattr(self.model, 'num_prefix_tokens', 0)

    @property
    def stride(self) -> Size:
        """Height and width in pixels of what a token stands for before the first block."""
        embed = self.model.patch_embed
        return to_2tuple(embed.feat_ratio(as_scalar=False) if hasattr(embed, 'feat_ratio') else
                         embed.patch_size)

    def patch_size(self, layer: Layer) -> Size:
        return self.stride

    def points_of(self, block: nn.Module) -> TapPoints:
        return replace(self.points, matrices=self.points.matrices | mlp_matrices(block.mlp))

    def check_attention(self, block: nn.Module) -> None:
        kind = self._kind_of_attention(block)
        if issubclass(kind, self.attentions):
            return
        reason = next((reason for known, reason in self.without_maps.items()
                       if issubclass(kind, known)), 'whose maps this tap does not know')
        layers = [layer for layer, other in enumerate(self.blocks)
                  if issubclass(self._kind_of_attention(other), self.attentions)]
        elsewhere = f'choose `layers` among {layers}, or ' if layers else ''
        raise ValueError(f'attention of {type(self.model).__name__} is a {kind.__name__}, {reason};'
                         f" {elsewhere}drop the terms with `on='attention'`")

    def _kind_of_attention(self, block: nn.Module) -> type:
        """The class of what computes the attention, or of the block if it does that itself."""
        try:
            return type(inner_module(block.get_submodule(self.points_of(block).attention)))
        except AttributeError:
            return type(inner_module(block))


class TimmStagesTap(TimmTap):
    """Reads a model of timm whose blocks are in stages, each with fewer tokens than the last.

    Blocks are counted through all stages.
    """

    def find_stages(self) -> list[list[nn.Module]]:
        """The blocks of each stage, in order."""
        return [list(stage.blocks) for stage in self.model.stages]

    def find_blocks(self) -> Sequence[nn.Module]:
        return list(chain(*self.find_stages()))

    def patch_size(self, layer: Layer) -> Size:
        ends = accumulate(map(len, self.find_stages()))
        stage = bisect_right(list(ends), 0 if layer == EMBED else layer)
        first, own = (self.model.feature_info[index]['reduction'] for index in (0, stage))
        rows, columns = self.stride
        return rows * own // first, columns * own // first


def mlp_matrices(mlp: nn.Module) -> dict[str, tuple[str, Place]]:
    """The two matrices of an MLP of timm; of a gated one, ``fc1`` is what is gated, no gate."""
    mlp = inner_module(mlp)
    if isinstance(mlp, GluMlp):
        return {'fc1': ('mlp.fc1', (int(not mlp.gate_last), 2)), 'fc2': ('mlp.fc2', None)}
    if isinstance(mlp, GeGluMlp):
        return {'fc1': ('mlp.w1', None), 'fc2': ('mlp.w2', None)}
    return {'fc1': ('mlp.fc1_x' if isinstance(mlp, SwiGLU) else 'mlp.fc1', None),
            'fc2': ('mlp.fc2', None)}


@TAPS.register_module()
class TimmVisionTransformerTap(TimmTap):
    """Reads timm's ``VisionTransformer``: its ViT, DeiT, DeiT III and their relatives.

    Blocks that run an attention and an MLP side by side (``ParallelScalingBlock``) are read like
    others; those that run several attentions (``ParallelThingsBlock``) at patch level alone.
    """

    models = (VisionTransformer, )
    attentions = (Attention, ParallelScalingBlock)
    without_maps = dict.fromkeys(
        (DiffAttention, DiffParallelScalingBlock),
        'which subtracts one softmax from another, so that its heads have two maps') | {
            ParallelThingsBlock: 'which has several attentions side by side'}

    def points_of(self, block: nn.Module) -> TapPoints:
        inner = inner_module(block)
        if isinstance(inner, ParallelThingsBlock):
            return replace(self.points, attention='', matrices={})
        if isinstance(inner, (ParallelScalingBlock, DiffParallelScalingBlock)):
            return replace(self.points, attention='', heads='', matrices=_side_by_side(inner))
        return super().points_of(block)

    def check_block_weights(self, layer: int, weights: Weights) -> None:
        if isinstance(inner_module(self.blocks[layer]), ParallelThingsBlock):
            raise ValueError('a ParallelThingsBlock has several attentions and MLPs side by side, '
                             'so its matrices are not named; drop the terms with '
                             "`on='weight'`")
        super().check_block_weights(layer, weights)


def _side_by_side(block: nn.Module) -> dict[str, tuple[str, Place]]:
    """The matrices of a block whose first layer makes hidden neurons, queries, keys and values."""
    ends = [sum(block.in_split[:index]) for index in range(5)]
    matrices = {name: ('in_proj', partial(torch.narrow, dim=0, start=start, length=end - start))
                for name, start, end in zip(('fc1', 'q', 'k', 'v'), ends, ends[1:])}
    if getattr(block, 'attn_out_proj', None) is not None:
        return matrices | {'proj': ('attn_out_proj', None), 'fc2': ('mlp_out_proj', None)}
    hidden, width = block.in_split[:2]
    return matrices | {
        'proj': ('out_proj', partial(torch.narrow, dim=1, start=0, length=width)),
        'fc2': ('out_proj', partial(torch.narrow, dim=1, start=width, length=hidden))}
