"""Tap for MMPretrain's RevVisionTransformer."""
from collections.abc import Sequence
from typing import Any

import torch
from mmpretrain.models.backbones import RevVisionTransformer
from torch import Tensor, nn

from ..image_mask import Size
from ..registry import TAPS
from .base import EMBED, Layer, Request, Tap, TapPoints, fused_qkv_matrices


@TAPS.register_module()
class RevVisionTransformerTap(Tap):
    """Reads MMPretrain's ``RevVisionTransformer``, of two streams from which each other follow.

    A token has the channels of both, as at the end of the backbone. To train with a term of
    patches or attention needs ``no_custom_backward=True``: the reversible way back keeps no
    activation that could have a gradient.
    """

    probed = True
    points = TapPoints(
        embedding=('patch_embed', 'cls_token', 'pos_embed'),
        attention='attn',
        heads='attn',
        matrices=fused_qkv_matrices('attn.qkv', 'attn.proj', 'ffn.layers.0.0', 'ffn.layers.1'))
    _tokens: Tensor | None = None

    @classmethod
    def matches(cls, backbone: nn.Module) -> bool:
        return isinstance(backbone, RevVisionTransformer)

    def find_blocks(self) -> Sequence[nn.Module]:
        return list(self.backbone.layers)

    def count_prefix_tokens(self) -> int:
        return int(self.backbone.cls_token is not None)

    @property
    def without_gradient(self) -> str:
        if self.backbone.no_custom_backward:
            return super().without_gradient
        return ('The reversible way back does this, which keeps no activations: set '
                "`no_custom_backward=True` of the backbone, or keep to terms with `on='weight'`")

    def patch_size(self, layer: Layer) -> Size:
        return self.backbone.patch_embed.projection.stride

    def attach(self, requests: Sequence[Request], *args: Any) -> None:
        requests = list(requests)
        super().attach(requests, *args)
        for layer in {layer for source, layer in requests if source == 'patch'}:
            # Before what captures, so that both streams come from what is captured.
            self._handles.append(
                self.blocks[0].register_forward_pre_hook(self._join_input, prepend=True)
                if layer == EMBED else
                self.blocks[layer].register_forward_hook(self._join_output, prepend=True))

    def _join_input(self, block: nn.Module, streams: tuple) -> tuple | None:
        return self._join(streams)

    def _join_output(self, block: nn.Module, args: tuple, streams: tuple) -> tuple | None:
        return self._join(streams)

    def _join(self, streams: tuple) -> tuple | None:
        """Make both streams parts of one tensor, through which gradients of a loss go."""
        if not self._recording:
            return None
        self._tokens = torch.cat(streams, dim=-1)
        return self._tokens.chunk(2, dim=-1)

    def block_input(self, args: tuple) -> Tensor:
        tokens, self._tokens = self._tokens, None
        return tokens

    block_output = block_input
