"""The ordinary pipeline that a fast one stands for, and the benchmark of both."""
import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import DATASETS

from mmdiverse.evaluation.data_path import ARMS, DataPaths, measure, ordinary_pipeline
from tests.runs import digits_config

TOOL = Path(__file__).parents[2] / 'tools' / 'benchmarks' / 'data_path.py'
CROP = dict(type='mmdiverse.BatchRandomCrop', crop_size=16, padding=2)
FLIP = dict(type='mmdiverse.BatchRandomFlip', prob=1)
DIGITS = dict(type='mmdiverse.Digits', split='train')


def config(*transforms: dict, dataset: dict = DIGITS) -> Config:
    return Config(dict(train_dataloader=dict(batch_size=8, dataset=dict(
        type='mmdiverse.InMemoryDataset', dataset=dataset, transforms=list(transforms)))))


@pytest.fixture
def cfg(tmp_path: Path) -> Config:
    """A whole one, of the digits."""
    cfg = digits_config('deit-nano_digits', tmp_path)
    del cfg.train_dataloader.num_batch_per_epoch
    cfg.train_dataloader.dataset = config(CROP, FLIP).train_dataloader.dataset
    return cfg


# ordinary_pipeline

def test_batched_transforms_become_mmpretrains() -> None:
    dataset = ordinary_pipeline(config(CROP, FLIP)).train_dataloader.dataset
    assert dataset == dict(DIGITS, pipeline=[
        dict(type='RandomCrop', crop_size=16, padding=2, pad_val=(0, 0, 0)),
        dict(type='RandomFlip', prob=1.), dict(type='PackInputs')])
    init_default_scope('mmpretrain')
    assert DATASETS.build(dataset)[0]['inputs'].shape == (3, 16, 16)


def test_what_is_constant_stays_in_front() -> None:
    resize = dict(type='Resize', scale=16)
    dataset = dict(DIGITS, pipeline=[resize, dict(type='PackInputs')])
    pipeline = ordinary_pipeline(config(FLIP, dataset=dataset)).train_dataloader.dataset.pipeline
    assert pipeline[0] == resize
    assert [transform['type'] for transform in pipeline[1:]] == ['RandomFlip', 'PackInputs']


def test_the_arguments_of_a_crop_mean_the_same() -> None:
    crop = dict(CROP, padding=[1, 2], pad_val=9, padding_mode='constant')
    transform = ordinary_pipeline(config(crop)).train_dataloader.dataset.pipeline[0]
    assert transform == dict(type='RandomCrop', crop_size=16, padding=(1, 2), pad_val=(9, 9, 9))


@pytest.mark.parametrize('wrapped', [
    dict(type='KFoldDataset', dataset=DIGITS),
    dict(type='ConcatDataset', datasets=[DIGITS, DIGITS])], ids=['k-fold', 'concatenated'])
def test_the_pipelines_within_wrappers_are_continued(wrapped: dict) -> None:
    dataset = ordinary_pipeline(config(FLIP, dataset=wrapped)).train_dataloader.dataset
    inner = dataset.get('datasets') or [dataset.dataset]
    assert 'pipeline' not in dataset
    assert [len(each.pipeline) for each in inner] == [2] * len(inner)


def test_every_loader_is_changed_and_the_config_stays(cfg: Config) -> None:
    cfg.val_dataloader = config().train_dataloader
    before = cfg.pretty_text
    changed = ordinary_pipeline(cfg)
    assert changed.val_dataloader.dataset.type == 'mmdiverse.Digits'
    assert changed.test_dataloader == cfg.test_dataloader
    assert cfg.pretty_text == before


def test_a_data_set_that_is_ordinary_already_is_refused() -> None:
    cfg = Config(dict(train_dataloader=dict(dataset=DIGITS)))
    with pytest.raises(ValueError, match='`train_dataloader.dataset` must be of type '
                       'mmdiverse.InMemoryDataset, but got mmdiverse.Digits'):
        ordinary_pipeline(cfg)


@pytest.mark.parametrize('transform', [dict(CROP, padding_mode='reflect'), dict(type='Own')],
                         ids=['reflecting', 'own'])
def test_a_transform_without_counterpart_is_refused(transform: dict) -> None:
    with pytest.raises(ValueError, match=f'`transforms`.*but got.*{transform["type"]}'):
        ordinary_pipeline(config(transform))


# The benchmark

@pytest.mark.parametrize('workers', [0, 1])
def test_all_arms_are_measured(cfg: Config, workers: int) -> None:
    done = []
    result = measure(DataPaths(cfg, workers), steps=2, rounds=2, on_arm=lambda: done.append(1))
    assert len(done) == 2 * len(ARMS)
    assert set(result['images_per_second']) == set(ARMS)
    for rates in result['images_per_second'].values():
        assert 0 < rates['quartiles'][0] <= rates['median'] <= rates['quartiles'][1]
        assert len(rates['rounds']) == 2
    assert result['speedup'] > 0 and 'gpu_utilization' not in result


def test_a_step_trains_and_data_alone_do_not(cfg: Config) -> None:
    paths = DataPaths(cfg)
    weight = paths._model.backbone.cls_token
    before = weight.detach().clone()
    for arm in ('fast data', 'ordinary data'):
        paths.measure(arm, 1)
        assert torch.equal(weight, before)
    for arm in ('fast step', 'ordinary step', 'model'):
        before = weight.detach().clone()
        paths.measure(arm, 1)
        assert not torch.equal(weight, before)


def test_epochs_that_end_go_on(cfg: Config) -> None:
    paths = DataPaths(cfg, batch_size=1000)
    rate, _ = paths.measure('fast data', 5)
    assert rate > 0 and paths.batch_size == 1000


def test_the_orders_of_arms_alternate(cfg: Config, monkeypatch) -> None:
    taken = []
    monkeypatch.setattr(DataPaths, 'measure', lambda self, arm, _: (taken.append(arm) or 1., None))
    measure(DataPaths(cfg), steps=1, rounds=2)
    assert taken == [*ARMS, *ARMS[::-1]]


def test_the_gpu_is_reported_where_it_tells(cfg: Config, monkeypatch) -> None:
    monkeypatch.setattr(DataPaths, 'measure', lambda *_: (100., 0.9))
    busy = measure(DataPaths(cfg), steps=1, rounds=2)['gpu_utilization']
    assert busy == dict.fromkeys(ARMS, 0.9)


@pytest.fixture
def tool(monkeypatch):
    """Runs the benchmark with arguments and gives its exit status."""

    def run(*args: object) -> int | str | None:
        monkeypatch.setattr(sys, 'argv', [str(TOOL), *map(str, args)])
        try:
            runpy.run_path(str(TOOL), run_name='__main__')
        except SystemExit as ended:
            return ended.code
        return None

    return run


@pytest.fixture
def file(cfg: Config, tmp_path: Path) -> Path:
    cfg.dump(str(tmp_path / 'fast.py'))
    return tmp_path / 'fast.py'


def test_the_tool_writes_what_it_measured_and_goes_on(tool, file, tmp_path, capsys) -> None:
    out = tmp_path / 'out.json'
    arguments = (file, '--device', 'cpu', '--steps', 1, '--rounds', 2, '--out', out)
    assert tool(*arguments) is None
    report = json.loads(out.read_text())
    assert (report['batch_size'], report['steps'], report['device']) == (8, 1, 'cpu')
    first = report['results']['0 workers']
    assert tool(*arguments, '--workers', 0, 1) is None
    results = json.loads(out.read_text())['results']
    assert results['0 workers'] == first and list(results) == ['0 workers', '1 workers']
    row = [line for line in capsys.readouterr().out.splitlines() if '1 workers' in line][0]
    assert f'{results["1 workers"]["speedup"]:.2f}' in row
    assert 'another rounds' in tool(*arguments[:-3], 3, '--out', out)


def test_the_tool_says_what_config_it_wants(tool, tmp_path: Path) -> None:
    cfg = digits_config('deit-nano_digits', tmp_path)
    cfg.dump(str(tmp_path / 'plain.py'))
    assert '`train_dataloader.dataset` must be of type' in tool(tmp_path / 'plain.py')


def test_the_tool_refuses_too_few_rounds(tool, file: Path, capsys) -> None:
    assert tool(file, '--rounds', 1) == 2
    assert '--rounds must be at least 2' in capsys.readouterr().err
