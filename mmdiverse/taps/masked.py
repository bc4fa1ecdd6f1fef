"""Taps for MMPretrain's backbones of masked image modelling that put a token where they mask."""
from collections.abc import Sequence
from typing import Any

from mmpretrain.models.selfsup import (
    BEiTPretrainViT,
    MaskFeatViT,
    SimMIMSwinTransformer,
    iTPNHiViT,
)
from torch import Tensor, nn
from torch.nn import functional as F

from ..registry import TAPS
from .base import Layer, Request, Tap
from .beit import BEiTViTTap
from .hivit import HiViTTap
from .swin import SwinTransformerTap
from .vit import VisionTransformerTap


class MaskTokenTap(Tap):
    """A tap of backbones that are called with a mask, and put one learned token where it is set.

    That token stands for nothing in the image: patch level leaves it out. Attention level keeps
    its rows and columns, as it keeps those of the class token.
    """

    _mask: Tensor | None = None

    def attach(self, requests: Sequence[Request], *args: Any) -> None:
        super().attach(requests, *args)
        self._handles.append(
            self.backbone.register_forward_pre_hook(self._note_mask, with_kwargs=True))

    def _note_mask(self, backbone: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
        if self._recording:
            mask = kwargs.get('mask', *args[1:2])
            self._mask = mask if isinstance(mask, Tensor) else None

    def clear(self) -> None:
        super().clear()
        self._mask = None

    def token_mask(self, source: str, layer: Layer) -> Tensor | None:
        mask = super().token_mask(source, layer)
        if source != 'patch' or self._mask is None:
            return mask
        self._mask = self._mask.cpu()  # once: a GPU is waited for
        visible = ~self.masked(self._mask, layer).bool().flatten(1)
        return visible if mask is None else visible & mask

    def masked(self, mask: Tensor, layer: Layer) -> Tensor:
        """Which tokens of a layer stand for masked patches.

        Args:
            mask (Tensor): ``(B, rows, columns)`` or ``(B, N)``, of patches as they are embedded.
            layer (int | str): Resolved layer.
        """
        return mask


@TAPS.register_module()
class BEiTPretrainViTTap(MaskTokenTap, BEiTViTTap):
    """Reads MMPretrain's ``BEiTPretrainViT``, of BEiT and BEiT v2."""

    @classmethod
    def matches(cls, backbone: nn.Module) -> bool:
        return isinstance(backbone, BEiTPretrainViT)


@TAPS.register_module()
class MaskFeatViTTap(MaskTokenTap, VisionTransformerTap):
    """Reads MMPretrain's ``MaskFeatViT``."""

    @classmethod
    def matches(cls, backbone: nn.Module) -> bool:
        return isinstance(backbone, MaskFeatViT)


@TAPS.register_module()
class SimMIMSwinTransformerTap(MaskTokenTap, SwinTransformerTap):
    """Reads MMPretrain's ``SimMIMSwinTransformer``.

    A token merged of several patches is left out where one of them is masked.
    """

    @classmethod
    def matches(cls, backbone: nn.Module) -> bool:
        return isinstance(backbone, SimMIMSwinTransformer)

    def masked(self, mask: Tensor, layer: Layer) -> Tensor:
        merged = [own // first for own, first in zip(self.patch_size(layer), self.patch_size(0))]
        return F.max_pool2d(mask.float(), merged, ceil_mode=True)


@TAPS.register_module()
class iTPNHiViTTap(MaskTokenTap, HiViTTap):
    """Reads MMPretrain's ``iTPNHiViT``, which masks in either way."""

    @classmethod
    def matches(cls, backbone: nn.Module) -> bool:
        return isinstance(backbone, iTPNHiViT)
