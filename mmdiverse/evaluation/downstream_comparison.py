"""Detectors and segmentors on backbones pretrained with and without diversity."""
import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.runner import Runner

from ..config import CONFIGS, is_diversified, plain_twin, type_name
from ..datasets.digit_scenes import write_digit_scenes
from ..transfer import backbone_config
from .comparison import ARMS
from .redundancy import measure_redundancy
from .runs import Run, check_epochs, digest_of, run_all, training_run

#: The third arm: fine-tuned from random weights.
RANDOM = 'random'
#: Of each stage its config, all three sized for a CPU.
STAGES = {
    'pretraining': CONFIGS / 'digits' / 'deit-nano_diverse_digits.py',
    'detection': CONFIGS / 'downstream' / 'det' / 'retinanet_deit-nano_digit-scenes.py',
    'segmentation': CONFIGS / 'downstream' / 'seg' / 'fcn_deit-nano_digit-scenes.py',
}
#: Folder of the scenes below the work dir, and of what is predicted below that of a run.
SCENES, PREDICTIONS = 'digit_scenes', 'predictions'
#: What the toolboxes' own evaluators call a metric, and what it is called here.
METRICS = {
    'detection': {'val/coco/bbox_mAP': 'bbox_mAP', 'val/coco/bbox_mAP_50': 'bbox_mAP_50'},
    'segmentation': {'val/mIoU': 'mIoU'},
}


def compare_downstream(configs: Mapping[str, Config], work_dir: str | Path, seeds: Sequence[int],
                       random: bool = False) -> list[dict[str, Any]]:
    """Pretrain a classifier and its plain twin, and fine-tune both for detection and segmentation.

    The data are the scenes of :func:`~mmdiverse.datasets.digit_scenes.write_digit_scenes`, in
    ``<work_dir>/digit_scenes``. Every run has a folder of its own,
    ``<work_dir>/<arm>/seed<seed>/<stage>``; the two arms of one seed share the order of the data
    and the initial weights of all that is not pretrained. Runs are resumed as those of
    :func:`~mmdiverse.evaluation.comparison.compare`. ``predictions.bbox.json`` and ``predictions/``
    of a run have what it says of the validation scenes, as the toolboxes write it.

    Args:
        configs (Mapping[str, Config]): For each of :data:`STAGES`: a diversified classifier, a
            detector with a ``CocoMetric``, a segmentor with an ``IoUMetric``.
        work_dir (str | Path): Where the runs go.
        seeds (Sequence[int]): Three runs of each arm for each.
        random (bool): Whether a third arm is fine-tuned from random weights. Defaults to False.

    Returns:
        list[dict]: For each arm and seed whose runs have ended: ``arm``, ``seed`` and, for each
        stage, its result. That of ``pretraining``, which ``'random'`` has not, is as in
        :func:`~mmdiverse.evaluation.comparison.compare`; the others have ``bbox_mAP`` and
        ``bbox_mAP_50`` in [0, 1], or ``mIoU`` in percent, of the last epoch, and
        ``token_cosine_absolute``, a list over blocks, on the validation scenes.

    Raises:
        ValueError: If the classifier is not diversified or may stop early, a config does not count
            epochs or does not evaluate these metrics, or a folder holds results of other configs.
        OSError: If a folder cannot be written.
    """
    if not is_diversified(configs['pretraining']):
        raise ValueError('there is nothing to compare: the config of the pretraining holds no '
                         'mmdiverse.DiversityHook in `custom_hooks` and no patch-level mixing')
    for stage, cfg in configs.items():
        check_epochs(cfg, f' of the {stage}')
    hooks = [*(configs['pretraining'].get('custom_hooks') or []),
             *configs['pretraining'].get('default_hooks', {}).values()]
    if any(type_name(hook or {}) == 'EarlyStoppingHook' for hook in hooks):
        raise ValueError('backbones are fine-tuned from the last epoch of their pretraining, which '
                         'all must reach: take EarlyStoppingHook out of its `custom_hooks`')
    scenes = write_digit_scenes(Path(work_dir) / SCENES)
    twins = dict(zip(ARMS, (plain_twin(configs['pretraining']), configs['pretraining'])))
    runs = []
    for seed in seeds:
        for arm in (*ARMS, *[RANDOM] * random):
            folder = Path(work_dir) / arm / f'seed{seed}'
            before = None
            if arm != RANDOM:
                before = training_run(twins[arm], arm, seed, folder / 'pretraining', 'pretraining')
                runs.append(before)
            init = dict(type='Pretrained', checkpoint=str(before.checkpoint), prefix='backbone.') \
                if before else configs['pretraining'].model.get('init_cfg')
            for stage in METRICS:
                runs.append(Run(
                    _fine_tuning(configs[stage], init, scenes, folder / stage), arm, seed,
                    folder / stage, stage,
                    # Not of the changed config, whose paths would tie a work dir to its place.
                    '-'.join([digest_of(configs[stage]), before.digest if before else RANDOM]),
                    partial(_measure, stage)))
    results: dict[tuple[str, int], dict[str, Any]] = {}
    with warnings.catch_warnings():
        # MMSegmentation's of its own call, at every head that it builds.
        warnings.filterwarnings('ignore', '``build_loss`` would be deprecated', UserWarning)
        ended = run_all(runs)
    for run, result in zip(runs, ended):
        chain = results.setdefault((run.arm, run.seed), dict(arm=run.arm, seed=run.seed))
        chain[run.kind] = result
    return [chain for chain in results.values() if None not in chain.values()]


def _fine_tuning(cfg: Config, init: Any, scenes: Path, folder: Path) -> Config:
    """A config whose backbone starts from ``init``, and which writes what it predicts."""
    cfg = deepcopy(cfg)
    backbone_config(cfg)['init_cfg'] = deepcopy(init)
    for loader in (cfg.train_dataloader, cfg.val_dataloader):
        loader.dataset.data_root = str(scenes)
    predictions = str(folder / PREDICTIONS)
    if 'ann_file' in cfg.val_evaluator:
        cfg.val_evaluator.ann_file = str(scenes / 'annotations' / 'instances_val.json')
        cfg.val_evaluator.outfile_prefix = predictions
    else:
        cfg.val_evaluator.output_dir = predictions
    # The toolboxes give all visualizers one name, and MMEngine gives the first of a name to all.
    cfg.visualizer.pop('name', None)
    return cfg


def _measure(stage: str, runner: Runner) -> dict[str, Any]:
    scalars = runner.message_hub.log_scalars
    missing = METRICS[stage].keys() - scalars.keys()
    if missing:
        raise ValueError(f'the {stage} gives no {" and no ".join(sorted(missing))}: its '
                         '`val_evaluator` must be a CocoMetric of boxes or an IoUMetric of mIoU, '
                         'and a detector must find something (`model.test_cfg.score_thr`)')
    result: dict[str, Any] = {name: float(scalars[key].current())
                              for key, name in METRICS[stage].items()}
    return {**result, **measure_redundancy(runner.model, runner.val_dataloader,
                                           ['token_cosine_absolute'])}
