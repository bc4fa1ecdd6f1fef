"""The learning rate that fits the images of a training step."""
import math
from typing import NamedTuple

from mmengine.config import Config


class ScaledLearningRate(NamedTuple):
    """A learning rate beside that which the images of a step ask for.

    Attributes:
        images (int): Of a step of the optimizer, over all processes and accumulated batches.
        base (int): For how many the config's rate is meant.
        configured (float): The config's rate.
        actual (float): With which the run will train: MMEngine may scale the config's.
        scaled (float): The config's, times ``images / base``.
        accumulated (int): Batches of a step.
        automatic (bool): Whether MMEngine scales it, by ``auto_scale_lr.enable``.
    """

    images: int
    base: int
    configured: float
    actual: float
    scaled: float
    accumulated: int
    automatic: bool = False

    @property
    def fits(self) -> bool:
        """Whether the run will train with the scaled rate."""
        return math.isclose(self.actual, self.scaled, rel_tol=1e-6)

    @property
    def options_as_right(self) -> str:
        """The settings that say that the configured rate is meant for the images of this run."""
        option = f'auto_scale_lr.base_batch_size={self.images}'
        # MMEngine would scale by accumulated batches, which it leaves out of a step.
        return option + ' auto_scale_lr.enable=False' * (self.automatic and self.accumulated > 1)


def scaled_learning_rate(cfg: Config, processes: int) -> ScaledLearningRate | None:
    r"""The learning rate of a run, scaled with the images of a step.

    .. math:: \eta \cdot \frac{\mathrm{processes} \cdot \mathrm{batch\_size} \cdot
        \mathrm{accumulative\_counts}}{\mathrm{base\_batch\_size}}

    MMEngine scales by itself under ``auto_scale_lr.enable``, but leaves out
    ``accumulative_counts``.

    Args:
        cfg (Config): With ``auto_scale_lr.base_batch_size``.
        processes (int): That will train.

    Returns:
        ScaledLearningRate | None: None where the config does not say for how many images its rate
        is meant, or has no rate or no batch size.

    Raises:
        ValueError: If one of these is no positive number.
    """
    scaling, wrapper = cfg.get('auto_scale_lr') or {}, cfg.get('optim_wrapper') or {}
    base = scaling.get('base_batch_size')
    rate = (wrapper.get('optimizer') or {}).get('lr')
    batch_size = (cfg.get('train_dataloader') or {}).get('batch_size')
    if not (base and rate and batch_size):
        return None
    accumulated = wrapper.get('accumulative_counts', 1)
    for key, value in (('auto_scale_lr.base_batch_size', base),
                       ('optim_wrapper.optimizer.lr', rate),
                       ('optim_wrapper.accumulative_counts', accumulated),
                       ('train_dataloader.batch_size', batch_size)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
            raise ValueError(f'`{key}` must be a positive number, but got {value!r}')
    at_once = processes * batch_size
    automatic = bool(scaling.get('enable'))
    actual = rate * at_once / base if automatic else rate
    return ScaledLearningRate(at_once * accumulated, base, rate, actual,
                              rate * at_once * accumulated / base, accumulated, automatic)
