"""Tap for timm's Levit."""
from dataclasses import replace

from timm.models.levit import Attention, AttentionDownsample, Levit, LevitDownsample
from torch import nn

from ..image_mask import Size
from ..registry import TAPS
from .base import TapPoints, inner_module
from .levit import interleaved_matrices
from .timm import TimmStagesTap


@TAPS.register_module()
class TimmLevitTap(TimmStagesTap):
    """Reads timm's ``Levit``, of linear layers or of convolutions that do the same.

    The first block of every stage but the first has fewer queries than keys, and gives fewer
    tokens than it takes. Weights are those of the linear layers, without the batch normalization
    behind each.
    """

    models = (Levit, )
    attentions = (Attention, AttentionDownsample)
    points = TapPoints(embedding=('stem', ), attention='attn', heads='attn', matrices={
        'proj': ('attn.proj.ln.linear', None), 'fc1': ('mlp.ln1.linear', None),
        'fc2': ('mlp.ln2.linear', None)})

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__(backbone)
        self.layout = 'BCHW' if self.model.use_conv else 'BNC'

    @property
    def stride(self) -> Size:
        return self.model.stem.stride, self.model.stem.stride

    def find_stages(self) -> list[list[nn.Module]]:
        return [[block for block in (stage.downsample, *stage.blocks)
                 if not isinstance(block, nn.Identity)] for stage in self.model.stages]

    def points_of(self, block: nn.Module) -> TapPoints:
        down = isinstance(inner_module(block), LevitDownsample)
        path = 'attn_downsample' if down else 'attn'
        attention = getattr(block, path)
        sizes = dict(k=attention.key_dim, v=attention.val_dim)
        if down:
            matrices = {'q': (f'{path}.q.ln.linear', None), **interleaved_matrices(
                f'{path}.kv.linear', attention.num_heads, **sizes)}
        else:
            matrices = interleaved_matrices(f'{path}.qkv.linear', attention.num_heads,
                                            q=attention.key_dim, **sizes)
        return replace(self.points, attention=path, heads=path, matrices={
            **matrices, **self.points.matrices, 'proj': (f'{path}.proj.ln.linear', None)})
