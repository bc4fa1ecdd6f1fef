"""The metric beside Accuracy in real evaluations, in one process and in several."""
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from PIL import Image

from mmdiverse.evaluation import RedundancyMetric
from mmdiverse.evaluation.redundancy import measure_redundancy
from mmdiverse.measures import MEASURES
from tests.processes import run_processes
from tests.runs import digits_config, folder_config

CHEAP = ['token_cosine_absolute', 'linear_cka', 'head_cosine', 'mean_attention_distance',
         'neuron_cosine_mean']
METRIC = dict(type='mmdiverse.RedundancyMetric', measures=CHEAP)
#: Validation images, not a multiple of any number of processes or batch size used here.
IMAGES = 33


def config(work_dir: Path, name: str = 'deit-nano_digits', batch_size: int = 8, **metric: object):
    cfg = digits_config(name, work_dir)
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        loader.pop('num_batch_per_epoch', None)
        loader.batch_size = batch_size
        loader.dataset.indices = IMAGES
    cfg.val_evaluator = cfg.test_evaluator = [dict(type='Accuracy', topk=(1, )),
                                              dict(METRIC, **metric)]
    cfg.custom_hooks = [dict(type='mmdiverse.RedundancyHook', interval=0)]
    return cfg


def evaluate(cfg) -> dict[str, float]:
    cfg.experiment_name = f'{Path(cfg.work_dir).name}{torch.rand(()).item()}'
    return Runner.from_cfg(cfg).test()


def redundancy(metrics: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in metrics.items() if key.startswith('redundancy/')}


def test_it_stands_beside_accuracy(tmp_path: Path) -> None:
    metrics = evaluate(config(tmp_path))
    assert 0 <= metrics['accuracy/top1'] <= 100
    assert set(redundancy(metrics)) == {f'redundancy/{name}' for name in CHEAP}


def test_accuracy_is_what_it_is_without(tmp_path: Path) -> None:
    plain = config(tmp_path)
    plain.test_evaluator, plain.custom_hooks = dict(type='Accuracy', topk=(1, )), []
    metrics = evaluate(config(tmp_path))
    assert evaluate(plain)['accuracy/top1'] == metrics['accuracy/top1']


@pytest.mark.parametrize('name', ['deit-nano_digits', 'swin-nano_digits'])
def test_batch_size_does_not_matter(name: str, tmp_path: Path) -> None:
    first, second = (redundancy(evaluate(config(tmp_path, name, batch_size)))
                     for batch_size in (7, 33))
    assert second == pytest.approx(first, rel=1e-6)


def test_number_of_workers_does_not_matter(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    cfg.test_dataloader.num_workers = 2
    assert redundancy(evaluate(cfg)) == redundancy(evaluate(config(tmp_path)))


def run_rank(rank: int, size: int, folder: Path) -> None:
    torch.distributed.init_process_group('gloo', f'file://{folder}/store', rank=rank,
                                         world_size=size)
    torch.set_num_threads(1)
    os.environ['LOCAL_RANK'] = str(rank)  # which MMEngine reads, though the config has the say
    cfg = config(folder, 'swin-nano_digits', measures='all', per_layer=True)
    cfg.launcher = 'pytorch'
    cfg.model_wrapper_cfg = dict(type='MMDistributedDataParallel', device_ids=None)
    metrics = redundancy(evaluate(cfg))
    (folder / f'{rank}.json').write_text(json.dumps(metrics))
    torch.distributed.destroy_process_group()


@pytest.mark.parametrize('size', [2, 4])
def test_number_of_processes_does_not_matter(size: int, tmp_path: Path) -> None:
    # 33 images: with two processes one image is repeated, with four three are.
    run_processes(run_rank, size, tmp_path, count=size)
    single = redundancy(evaluate(config(tmp_path / 'single', 'swin-nano_digits', measures='all',
                                        per_layer=True)))
    for rank in range(size):
        assert json.loads((tmp_path / f'{rank}.json').read_text()) == pytest.approx(single,
                                                                                    rel=1e-6)


def test_it_agrees_with_measuring_by_hand(tmp_path: Path) -> None:
    cfg = config(tmp_path, per_layer=True)
    cfg.experiment_name = 'by-hand'
    runner = Runner.from_cfg(cfg)
    metrics = runner.test()
    expected = measure_redundancy(runner.model, runner.test_dataloader, CHEAP)
    for block, value in enumerate(expected['head_cosine']):
        assert metrics[f'redundancy/head_cosine/block_{block}'] == pytest.approx(value, rel=1e-6)
    mean = sum(expected['token_cosine_absolute']) / len(expected['token_cosine_absolute'])
    assert metrics['redundancy/token_cosine_absolute'] == pytest.approx(mean, rel=1e-6)


def test_every_validation_of_a_training_run_is_on_its_own(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    cfg.optim_wrapper.optimizer.lr, cfg.param_scheduler = 0., []
    cfg.train_cfg.max_epochs = 2
    cfg.experiment_name = 'twice'
    runner = Runner.from_cfg(cfg)
    runner.train()
    values = runner.message_hub.log_scalars['val/redundancy/head_cosine'].data[0]
    assert len(values) == 2 and values[0] == values[1]


def test_moving_averages_are_measured_where_they_are_evaluated(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    cfg.custom_hooks.insert(0, dict(type='EMAHook', momentum=1e-6))
    cfg.train_cfg.max_epochs = 1
    cfg.optim_wrapper.optimizer.lr = 1e-2
    cfg.param_scheduler = []
    cfg.experiment_name = 'ema'
    runner = Runner.from_cfg(cfg)
    runner._init_model_weights()
    start = measure_redundancy(runner.model, [], ['neuron_cosine_mean'])['neuron_cosine_mean']
    runner.train()
    trained = measure_redundancy(runner.model, [], ['neuron_cosine_mean'])['neuron_cosine_mean']
    logged = runner.message_hub.log_scalars['val/redundancy/neuron_cosine_mean'].data[0][0]
    assert abs(logged - sum(start) / 4) < 1e-3 * abs(logged - sum(trained) / 4)


def test_nothing_stays_attached(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    cfg.experiment_name = 'detached'
    runner = Runner.from_cfg(cfg)
    runner.test()
    assert not any(module._forward_hooks or module._forward_pre_hooks
                   for module in runner.model.modules())


@pytest.fixture(scope='module')
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of five shapes, the fourth as the first."""
    folder = tmp_path_factory.mktemp('shapes')
    rng = np.random.default_rng(0)
    for index, (height, width) in enumerate([(32, 64), (64, 32), (40, 40), (32, 64), (48, 32)]):
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(
            folder / f'{index}.png')
    return folder


def augmented(cfg: Config, *flips: float) -> Config:
    """What `tools/test.py --tta` makes of a config, with chosen flips."""
    *transforms, pack = cfg.test_dataloader.dataset.pipeline
    cfg.test_dataloader.dataset.pipeline = [*transforms, dict(type='TestTimeAug', transforms=[
        [dict(type='RandomFlip', prob=prob) for prob in flips], [pack]])]
    cfg.model = dict(type='AverageClsScoreTTA', module=cfg.model)
    return cfg


def evaluate_same(cfg: Config) -> dict[str, float]:
    """Evaluate with initial weights that are the same each time."""
    cfg.randomness = dict(seed=0)
    return redundancy(Runner.from_cfg(cfg).test())


@pytest.mark.parametrize('flips', [(), (0., 1.)], ids=['plain', 'tta'])
def test_images_of_different_shapes_are_not_padded(shapes: Path, tmp_path: Path,
                                                   flips: tuple[float, ...]) -> None:
    found = []
    for batch_size in (1, 3):
        cfg = folder_config(shapes, tmp_path, [dict(type='LoadImageFromFile')])
        cfg.test_dataloader.batch_size = batch_size
        found.append(evaluate_same(augmented(cfg, *flips) if flips else cfg))
    assert found[0] == pytest.approx(found[1], rel=1e-6)


def test_two_metrics_do_not_count_the_passes_of_each_other(shapes: Path, tmp_path: Path) -> None:
    cfg = folder_config(shapes, tmp_path, [dict(type='LoadImageFromFile')])
    cfg.test_dataloader.batch_size = 3
    metric = dict(type='mmdiverse.RedundancyMetric', measures=['token_cosine_absolute'])
    cfg.test_evaluator = [metric, dict(metric, prefix='second')]
    cfg.randomness = dict(seed=0)
    found = Runner.from_cfg(cfg).test()
    assert found['redundancy/token_cosine_absolute'] == found['second/token_cosine_absolute']


def test_under_test_time_augmentation_it_is_the_mean_over_the_views(shapes: Path, tmp_path: Path
                                                                    ) -> None:
    load = [dict(type='LoadImageFromFile'), dict(type='Resize', scale=(32, 32))]
    plain, flipped, both = (evaluate_same(augmented(folder_config(shapes, tmp_path, load), *flips))
                            for flips in ((0., ), (1., ), (1., 0.)))
    assert plain == evaluate_same(folder_config(shapes, tmp_path, load))
    name = 'redundancy/token_cosine_absolute'
    assert abs(plain[name] - flipped[name]) > 1e-4
    for key, value in both.items():
        assert value == pytest.approx((plain[key] + flipped[key]) / 2, rel=1e-6)


def test_without_the_hook_it_says_what_to_add(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    cfg.custom_hooks = []
    with pytest.raises(RuntimeError, match=r"mmdiverse\.RedundancyHook.*custom_hooks"):
        evaluate(cfg)


def test_a_cnn_is_refused(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    cfg.model = dict(type='ImageClassifier', backbone=dict(type='ResNet', depth=18),
                     neck=dict(type='GlobalAveragePooling'),
                     head=dict(type='LinearClsHead', num_classes=10, in_channels=512))
    with pytest.raises(ValueError, match='no tap knows the backbone ResNet'):
        evaluate(cfg)


def test_unknown_measures_are_refused_when_it_is_built() -> None:
    with pytest.raises(ValueError, match="`measures`.*'token_cosine'"):
        RedundancyMetric(measures=['token_cosine'])


def test_all_measures_can_be_asked_for(tmp_path: Path) -> None:
    assert len(redundancy(evaluate(config(tmp_path, measures='all')))) == len(MEASURES)
