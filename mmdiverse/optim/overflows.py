"""When half precision no longer trains."""
from typing import Any

from mmengine.optim import OptimWrapper
from torch.optim import Optimizer

#: Overflows in a row after which no further one is waited for. A dynamic scale is halved by each,
#: so that torch's own, which starts from 65536, is below 1 after 17.
LIMIT = 20
#: Iterations in a row with losses that are not finite, after which no checkpoint is saved. Such a
#: loss is no matter of the scale: a few may come of a batch, more come of the weights.
UNSAVED = 6


def has_scaler(optim_wrapper: OptimWrapper | None) -> bool:
    """Whether an optimizer wrapper scales the loss, and leaves out steps that overflow.

    Args:
        optim_wrapper (OptimWrapper, optional): Such as ``AmpOptimWrapper``.
    """
    scaler = getattr(optim_wrapper, 'loss_scaler', None)
    return scaler is not None and scaler.is_enabled()


class Overflows:
    """Counts overflows in a row in a run that scales its loss.

    A scaler leaves out a step that overflows, and the next may be fine: a dynamic scale starts too
    high on purpose. But a loss that is not finite is no matter of the scale, and where nothing but
    overflows comes, nothing is learnt.

    Args:
        optim_wrapper (OptimWrapper): One that :func:`has_scaler`.

    Attributes:
        losses (int): Iterations in a row, up to now, whose losses were not finite.
        steps (int): Steps of the optimizer in a row, up to now, that were left out.
    """

    def __init__(self, optim_wrapper: OptimWrapper) -> None:
        self.losses = 0
        self.steps = 0
        self._optim_wrapper = optim_wrapper
        self._taken = False
        self._handle = optim_wrapper.optimizer.register_step_pre_hook(self._note_step)

    def update(self, finite: bool) -> str | None:
        """Count an iteration that is done.

        Args:
            finite (bool): Whether its losses are.

        Returns:
            str, optional: Why there is no hope left, if there is none.
        """
        self.losses = 0 if finite else self.losses + 1
        if self._optim_wrapper.should_update():  # of accumulated gradients, with the last
            self.steps = 0 if self._taken else self.steps + 1
            self._taken = False
        if self.losses >= LIMIT:
            return f'the losses are not finite for {self.losses} iterations in a row, the last'
        scale = self._optim_wrapper.loss_scaler.get_scale()
        constant = getattr(self._optim_wrapper, '_scale_update_param', None) is not None
        if self.steps and scale < 1 and not constant:
            return f'the gradient overflows even at a loss scale of {scale:g}, below 1,'
        if self.steps >= LIMIT and constant:
            return (f'the gradient overflows for {self.steps} steps in a row at the constant '
                    f"`optim_wrapper.loss_scale` of {scale:g} (lower it, or take 'dynamic'), the "
                    'last')
        return None

    def close(self) -> None:
        """Leave the optimizer as it was."""
        self._handle.remove()

    def _note_step(self, optimizer: Optimizer, args: tuple, kwargs: dict[str, Any]) -> None:
        # A fused optimizer is called in any case, and told whether to leave the step out.
        overflow = getattr(optimizer, 'found_inf', None)
        self._taken = overflow is None or not overflow.item()
