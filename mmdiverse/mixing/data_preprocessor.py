"""Data preprocessor that tells the head how the images of a batch were mixed."""
from typing import Any

import torch
from mmpretrain.models.utils import ClsDataPreprocessor
from mmpretrain.models.utils.batch_augments import RandomBatchAugment
from mmpretrain.structures import DataSample

from ..config import two_sides
from ..registry import MODELS
from .batch_augments import PatchCutMix, PatchMix, PatchMixup


@MODELS.register_module()
class PatchMixingDataPreprocessor(ClsDataPreprocessor):
    """MMPretrain's ClsDataPreprocessor for patch-level mixing.

    In training every data sample gets, beside ``gt_label``:

    - ``mix_label``: class of the image that it was mixed with, a tensor ``(1,)``;
    - ``mix_lam``: the share of the image that is its own, in [0, 1];
    - ``patch_shares``: the same of every patch, a tensor ``(N,)``.

    Images that no augment touched are wholly their own. Outside training it is MMPretrain's.

    Args:
        patch_size (int | tuple[int, int]): Pixels per token *of the head's input*: the patch size
            of a ViT; for a Swin that times ``2 ** (stages - 1)``, 32 as a rule.
        batch_augments (dict, optional): As in MMPretrain (``model.train_cfg``), with ``augments``
            of types ``mmdiverse.PatchMixup`` and ``mmdiverse.PatchCutMix`` and maybe ``probs``.
        **kwargs: Other arguments of ClsDataPreprocessor.

    Raises:
        ValueError: If ``patch_size`` is not positive; in training, if the patches do not divide
            the image.
        TypeError: If an augment does not tell how it mixed.
    """

    def __init__(self, patch_size: int | tuple[int, int], batch_augments: dict | None = None,
                 **kwargs: Any) -> None:
        # Without augments of its own, the host neither mixes nor makes one-hot labels.
        super().__init__(**kwargs)
        self.patch_size = two_sides('data_preprocessor.patch_size', patch_size)
        self.batch_augments = RandomBatchAugment(**batch_augments) if batch_augments else None
        for augment in self.batch_augments.augments if self.batch_augments else ():
            if augment is not None and not isinstance(augment, (PatchMixup, PatchCutMix)):
                raise TypeError(
                    '`model.train_cfg.augments` must be of types mmdiverse.PatchMixup and '
                    'mmdiverse.PatchCutMix for patch-level mixing, but got '
                    f'{type(augment).__name__}')

    def forward(self, data: dict, training: bool = False) -> dict:
        """Preprocess a batch; see ClsDataPreprocessor and the class docstring."""
        batch = super().forward(data, training=False)
        samples = batch['data_samples']
        if training and samples is not None and 'gt_label' in samples[0]:
            batch['inputs'] = self._mix(batch['inputs'], samples)
        return batch

    def _mix(self, inputs: torch.Tensor, samples: list[DataSample]) -> torch.Tensor:
        height, width = inputs.shape[-2:]
        if height % self.patch_size[0] or width % self.patch_size[1]:
            raise ValueError(f'`data_preprocessor.patch_size` {self.patch_size} does not divide '
                             f'the images of {height} x {width} pixels')
        mix = None
        if self.batch_augments is not None:
            # An augment returns how it mixed; where none was drawn, the host returns the score.
            inputs, mix = self.batch_augments(inputs, torch.empty(0))
        if not isinstance(mix, PatchMix):
            mix = PatchMix(torch.arange(len(samples)), 1.)
        shares = mix.shares((height, width), self.patch_size).to(inputs.device)
        for sample, partner in zip(samples, mix.partner.tolist()):
            sample.set_field(samples[partner].gt_label, 'mix_label')
            sample.set_field(mix.lam, 'mix_lam', field_type='metainfo')
            sample.set_field(shares, 'patch_shares')
        return inputs
