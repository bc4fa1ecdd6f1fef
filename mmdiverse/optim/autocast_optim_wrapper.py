"""Mixed precision on any device."""
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.device import get_device
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from torch import nn

from ..registry import OPTIM_WRAPPERS
from ..spelling import did_you_mean

DTYPES = {'bfloat16': torch.bfloat16, 'float16': torch.float16}


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(AmpOptimWrapper):
    """MMEngine's ``AmpOptimWrapper`` for every device, a CPU included.

    MMEngine's asks for an accelerator, and scales the loss also in bfloat16, whose range is that of
    float32. This one scales it in float16 alone. Checkpoints are those of MMEngine's.

    Args:
        dtype (str | torch.dtype): ``'bfloat16'`` or ``'float16'``. Defaults to ``'bfloat16'``.
        loss_scale (str | float | dict): For float16, as in ``AmpOptimWrapper``: ``'dynamic'``, a
            constant, or options of ``torch.amp.GradScaler``. Defaults to ``'dynamic'``.
        **kwargs: Of MMEngine's ``OptimWrapper``.

    Raises:
        ValueError: If ``dtype`` is another one.
        TypeError: If ``loss_scale`` is of another type.

    Example:
        >>> optim_wrapper = dict(type='mmdiverse.AutocastOptimWrapper', dtype='bfloat16',
        ...                      optimizer=dict(type='AdamW', lr=1e-3))
    """

    def __init__(self, dtype: str | torch.dtype = 'bfloat16',
                 loss_scale: str | float | dict = 'dynamic', **kwargs: Any) -> None:
        OptimWrapper.__init__(self, **kwargs)  # the parent's own refuses a CPU
        self.cast_dtype = DTYPES.get(dtype, dtype)
        if self.cast_dtype not in DTYPES.values():
            raise ValueError(f'`dtype` must be one of {list(DTYPES)}, but got {dtype!r}'
                             f'{did_you_mean(dtype, DTYPES)}')
        constant = isinstance(loss_scale, (int, float)) and not isinstance(loss_scale, bool)
        if not (constant or isinstance(loss_scale, dict) or loss_scale == 'dynamic'):
            raise TypeError("`loss_scale` must be 'dynamic', a number or a dict, but got "
                            f'{loss_scale!r}{did_you_mean(loss_scale, ["dynamic"])}')
        options = loss_scale if isinstance(loss_scale, dict) else {}
        self._scale_update_param = None
        if constant:
            self._scale_update_param = float(loss_scale)
            options = dict(init_scale=float(loss_scale))
        self._device = torch.device(get_device()).type
        # One that is not enabled hands everything through.
        options = dict(options)
        enabled = options.pop('enabled', True) and self.cast_dtype == torch.float16
        self.loss_scaler = torch.amp.GradScaler(self._device, enabled=enabled, **options)

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Forward passes in mixed precision, and gradients that are not yet exchanged.

        Args:
            model (nn.Module): The model that is trained.
        """
        # A model may be on the CPU of a machine whose GPU is the device that MMEngine names.
        with OptimWrapper.optim_context(self, model), torch.autocast('cpu', self.cast_dtype), \
                torch.autocast(self._device, self.cast_dtype):
            yield
