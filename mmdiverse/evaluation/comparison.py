"""Training of a diversified model beside its plain twin."""
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..config import is_diversified, plain_twin
from .runs import check_epochs, run_all, training_run

ARMS = ('plain', 'diverse')


def compare(cfg: Config, work_dir: str | Path, seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Train a config and its plain twin with the same seeds, and measure both.

    Every run has a folder of its own, ``<work_dir>/<arm>/seed<seed>``, an ordinary MMPretrain
    work dir plus ``result.json`` once it has ended. Runs that have ended are not repeated; one
    that was interrupted goes on from its last checkpoint.

    Args:
        cfg (Config): A diversified config.
        work_dir (str | Path): Where the runs go.
        seeds (Sequence[int]): A pair of runs for each; the two share initial weights, data order
            and augmentation.

    Returns:
        list[dict]: The result of each run; after Ctrl-C or SIGTERM, of those that have ended.
        ``arm``, ``seed``, ``accuracy`` (percent, of the last validation), ``metric`` (its name: the
        first that is a single number), ``accuracy_per_epoch`` and ``accuracy_epochs`` (of every
        validation, and the epochs after which they were), ``loss_per_epoch`` and ``loss_epochs``
        (training, without diversity terms), ``seconds_per_epoch`` (median, training only) and a
        list over blocks for each of :data:`~mmdiverse.evaluation.runs.MEASURES`.

    Raises:
        ValueError: If the config is not diversified, does not count epochs or does not validate the
            last, if its metrics are no single numbers, or if the folder holds results of another
            config.
        OSError: If the folder cannot be written.
    """
    if not is_diversified(cfg):
        raise ValueError('there is nothing to compare: the config holds no mmdiverse.DiversityHook '
                         'in `custom_hooks` and no patch-level mixing')
    check_epochs(cfg)
    twins = dict(zip(ARMS, (plain_twin(cfg), deepcopy(cfg))))
    return [result for result in run_all(
        [training_run(twins[arm], arm, seed, Path(work_dir) / arm / f'seed{seed}')
         for seed in seeds for arm in ARMS]) if result is not None]
