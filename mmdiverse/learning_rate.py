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
    """

    images: int
    base: int
    configured: float
    actual: float
    scaled: float
    accumulated: int

    @property
    def fits(self) -> bool:
        """Whether the run will train with the scaled rate."""
        return math.isclose(self.actual, self.scaled, rel_tol=1e-6)


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
    """
    scaling, wrapper = cfg.get('auto_scale_lr') or {}, cfg.get('optim_wrapper') or {}
    base = scaling.get('base_batch_size')
    rate = (wrapper.get('optimizer') or {}).get('lr')
    batch_size = (cfg.get('train_dataloader') or {}).get('batch_size')
    if not (base and rate and batch_size):
        return None
    at_once, accumulated = processes * batch_size, wrapper.get('accumulative_counts', 1)
    actual = rate * at_once / base if scaling.get('enable') else rate
    return ScaledLearningRate(at_once * accumulated, base, rate, actual,
                              rate * at_once * accumulated / base, accumulated)
