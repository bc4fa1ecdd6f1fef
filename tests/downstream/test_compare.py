"""The comparison of tools/downstream/compare.py, cut down to a few steps."""
import json
import runpy
import shutil
import sys
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.runner import Runner
from PIL import Image

from mmdiverse.config import load_config
from mmdiverse.evaluation import downstream_comparison, runs
from mmdiverse.evaluation.downstream_comparison import STAGES, compare_downstream
from mmdiverse.evaluation.runs import quiet_runner

from ..runs import CONFIGS

TOOL = CONFIGS.parent / 'tools' / 'downstream' / 'compare.py'


@pytest.fixture(autouse=True, scope='module')
def few_scenes() -> Iterator[None]:
    write = downstream_comparison.write_digit_scenes
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(downstream_comparison, 'write_digit_scenes',
                      lambda folder: write(folder, num_train=2, num_val=2))
        yield


def small_configs() -> dict[str, Config]:
    found = {stage: load_config(path) for stage, path in STAGES.items()}
    for cfg in found.values():
        cfg.train_cfg.max_epochs = 1
        cfg.train_dataloader.batch_size = 2
        cfg.train_dataloader.num_batch_per_epoch = 1
    found['pretraining'].val_dataloader.batch_size = 8
    found['pretraining'].val_dataloader.num_batch_per_epoch = 1
    return found


@pytest.fixture
def configs() -> dict[str, Config]:
    return small_configs()


class Start(Hook):
    """Keeps the weights that a run starts from."""

    def before_train(self, runner: Runner) -> None:
        self.weights = deepcopy(runner.model.state_dict())


@dataclass
class Ended:
    """A comparison of all three arms.

    Attributes:
        folder: Its work dir.
        results: What it returned.
        starts: The weights that each run started from, by its folder.
    """

    folder: Path
    results: list[dict[str, Any]]
    starts: dict[str, Mapping[str, torch.Tensor]]


@pytest.fixture(scope='module')
def ended(tmp_path_factory: pytest.TempPathFactory) -> Ended:
    folder = tmp_path_factory.mktemp('compare')
    starts: dict[str, Start] = {}

    def spied(cfg: Config) -> Runner:
        runner = quiet_runner(cfg)
        start = starts[str(Path(cfg.work_dir).relative_to(folder))] = Start()
        runner.register_hook(start)
        return runner

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, 'quiet_runner', spied)
        results = compare_downstream(small_configs(), folder, [0], random=True)
    return Ended(folder, results, {name: start.weights for name, start in starts.items()})


def test_all_arms_are_trained_and_evaluated_by_the_toolboxes(ended: Ended) -> None:
    assert [(each['arm'], each['seed']) for each in ended.results] == [
        ('plain', 0), ('diverse', 0), ('random', 0)]
    for each in ended.results:
        assert ('pretraining' in each) == (each['arm'] != 'random')
        assert 0 <= each['detection']['bbox_mAP'] <= each['detection']['bbox_mAP_50'] <= 1
        assert 0 <= each['segmentation']['mIoU'] <= 100
        assert len(each['detection']['token_cosine_absolute']) == 4
        folder = ended.folder / each['arm'] / 'seed0'
        assert isinstance(
            json.loads((folder / 'detection' / 'predictions.bbox.json').read_text()), list)
        with Image.open(folder / 'segmentation' / 'predictions' / '000000.png') as labels, \
                Image.open(ended.folder / 'digit_scenes' / 'val' / '000000.png') as scene:
            assert labels.size == scene.size


@pytest.mark.parametrize('stage', ['detection', 'segmentation'])
def test_backbones_start_from_their_pretraining_and_all_else_alike(ended: Ended,
                                                                   stage: str) -> None:
    arms = ('plain', 'diverse', 'random')
    starts = {arm: ended.starts[f'{arm}/seed0/{stage}'] for arm in arms}
    key = 'backbone.layers.3.attn.qkv.weight'
    for arm in arms[:2]:
        checkpoint = ended.folder / arm / 'seed0' / 'pretraining' / 'epoch_1.pth'
        pretrained = torch.load(checkpoint, weights_only=False)['state_dict']
        assert torch.equal(starts[arm][key], pretrained[key])
        assert not torch.equal(starts['random'][key], pretrained[key])
    heads = [key for key in starts['plain'] if not key.startswith('backbone.')]
    assert len(heads) > 5
    assert all(torch.equal(starts['plain'][key], starts['diverse'][key]) for key in heads)


def test_interruption_keeps_what_is_finished_and_continues(
        configs, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    train = runs.train

    def interrupt(run, progress):
        if (run.arm, run.kind) == ('diverse', 'segmentation'):
            raise KeyboardInterrupt
        return train(run, progress)

    monkeypatch.setattr(runs, 'train', interrupt)
    assert [each['arm'] for each in compare_downstream(configs, tmp_path, [0])] == ['plain']
    monkeypatch.setattr(runs, 'train', train)
    capsys.readouterr()
    assert len(compare_downstream(configs, tmp_path, [0])) == 2
    lines = capsys.readouterr().out.splitlines()
    assert [line.endswith('done before') for line in lines] == [True] * 5 + [False]
    assert 'diverse, seed 0, segmentation: epoch 1/1' in lines[5]


def test_another_pretraining_is_not_mixed_with_its_runs(
        configs, ended: Ended, tmp_path: Path) -> None:
    folder = shutil.copytree(ended.folder, tmp_path / 'compare')
    configs['pretraining'].optim_wrapper.optimizer.lr = 1e-5
    for path in folder.glob('*/seed0/pretraining'):
        (path / 'config.sha256').unlink()
    with pytest.raises(ValueError, match='detection holds a run of another config'):
        compare_downstream(configs, folder, [0])


def test_plain_pretraining_is_refused(configs, tmp_path: Path) -> None:
    configs['pretraining'] = load_config(CONFIGS / 'digits' / 'deit-nano_digits.py')
    with pytest.raises(ValueError, match='nothing to compare: the config of the pretraining'):
        compare_downstream(configs, tmp_path, [0])


def test_pretraining_that_may_stop_early_is_refused(configs, tmp_path: Path) -> None:
    configs['pretraining'].custom_hooks.append(
        dict(type='EarlyStoppingHook', monitor='accuracy/top1'))
    with pytest.raises(ValueError, match='EarlyStoppingHook out of its `custom_hooks`'):
        compare_downstream(configs, tmp_path, [0])


def test_stage_that_counts_iterations_is_refused(configs, tmp_path: Path) -> None:
    configs['segmentation'].train_cfg = dict(type='IterBasedTrainLoop', max_iters=3)
    with pytest.raises(ValueError, match='`train_cfg` of the segmentation must hold `max_epochs`'):
        compare_downstream(configs, tmp_path, [0])


def test_evaluator_without_the_metric_is_refused(configs, tmp_path: Path) -> None:
    configs['detection'].model.test_cfg.score_thr = 1.1
    with pytest.raises(ValueError, match=r'gives no val/coco/bbox_mAP .*test_cfg\.score_thr'):
        compare_downstream(configs, tmp_path, [0])


def test_command_writes_table_json_and_picture(
        configs, tmp_path: Path, capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [str(TOOL), '--seeds', '1', '--work-dir', str(tmp_path / 'runs')]
    for stage, cfg in configs.items():
        cfg.train_cfg.max_epochs = 20
        cfg.dump(tmp_path / f'{stage}.py')
        words += [f'--{stage}', str(tmp_path / f'{stage}.py'), f'--{stage}-epochs', '1']
    monkeypatch.setattr(sys, 'argv', words)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(TOOL), run_name='__main__')
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    for line in ('[6/6] diverse, seed 0, segmentation: epoch 1/1', 'bbox mAP50 (%)', 'mIoU (%)'):
        assert line in shown
    assert (tmp_path / 'runs' / 'compare.md').read_text().strip() in shown
    assert len(json.loads((tmp_path / 'runs' / 'compare.json').read_text())) == 2
    assert (tmp_path / 'runs' / 'predictions.png').stat().st_size > 10_000
