"""Trainings of a comparison, without training."""
import json
import math
from collections.abc import Container, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook

from mmdiverse.evaluation.runs import (
    Curves,
    Progress,
    Run,
    check_epochs,
    epochs_of,
    load_result,
    merge_options,
    scalar_metrics,
)


@pytest.mark.parametrize('value, number', [
    (50, 50.), (50.5, 50.5), (True, 1.), (np.float32(.5), .5), (np.int64(3), 3.),
    (np.bool_(True), 1.), (torch.tensor(.5), .5), (torch.tensor([2]), 2.), (np.array(.5), .5),
    (np.array([[4.]]), 4.), (math.inf, math.inf)])
def test_single_numbers_are_metrics(value: Any, number: float) -> None:
    found = scalar_metrics({'name': value})
    assert found == {'name': number} and type(found['name']) is float


@pytest.mark.parametrize('value', [
    [1., 2.], [1.], (1.,), {'a': 1.}, 'text', '3', None, torch.zeros(3, 3), torch.zeros(0),
    np.zeros(2), np.array('text'), 1j, np.complex64(1), torch.tensor(1j), Decimal(1)])
def test_all_else_is_left_out(value: Any) -> None:
    assert scalar_metrics({'before': 1., 'name': value, 'after': 2.}) == {'before': 1., 'after': 2.}


def test_nan_is_not_hidden() -> None:
    assert math.isnan(scalar_metrics({'name': torch.tensor(math.nan)})['name'])


# Curves, Progress: without a model.


class Training:
    """Stands for a runner: calls hooks as MMEngine's loop by epochs does.

    Args:
        max_epochs: Of the whole.
        validated: Epochs after which it validates.
        steps: Iterations of an epoch.
    """

    def __init__(self, max_epochs: int, validated: Container[int], steps: int = 2) -> None:
        self.max_epochs, self.validated, self.steps = max_epochs, validated, steps
        self.epoch = 0

    def run(self, *hooks: Hook, start: int = 0, stop: int | None = None) -> None:
        """Train from an epoch; after ``stop`` it ends early."""
        self.epoch = start
        self._call(hooks, 'before_train')
        while self.epoch < (stop or self.max_epochs):
            self.train_epoch(hooks)
            if self.epoch in self.validated:
                self._call(hooks, 'after_val_epoch', {
                    'precision': [1., 2.], 'accuracy/top1': 10. * self.epoch,
                    'confusion': torch.eye(2)})
        self._call(hooks, 'after_train')

    def train_epoch(self, hooks: Sequence[Hook]) -> None:
        """An epoch, whose loss is its number and its half in turn."""
        self._call(hooks, 'before_train_epoch')
        for step in range(self.steps):
            loss = torch.tensor((self.epoch + 1.) / (1 + step % 2))
            self._call(hooks, 'after_train_iter', step, None, dict(
                loss=loss + 1, loss_cls=loss, grad_norm=torch.tensor(5.)))
        self._call(hooks, 'after_train_epoch')
        self.epoch += 1

    def _call(self, hooks: Sequence[Hook], event: str, *args: Any) -> None:
        for hook in hooks:
            getattr(hook, event)(self, *args)


@pytest.mark.parametrize('validated', [[2, 4, 5], [3, 4, 5], [5], [1, 2, 3, 4, 5]])
def test_values_stand_under_the_epochs_that_they_are_of(validated: list[int], tmp_path: Path
                                                        ) -> None:
    curves = Curves(tmp_path / 'curves.json')
    Training(5, validated).run(curves)
    assert curves.metrics == {'accuracy/top1': {epoch: 10. * epoch for epoch in validated}}
    assert curves.losses == {'loss': {epoch: .75 * epoch + 1 for epoch in range(1, 6)},
                             'loss_cls': {epoch: .75 * epoch for epoch in range(1, 6)}}


def test_a_resumed_run_has_all_its_epochs_once(tmp_path: Path) -> None:
    path = tmp_path / 'curves.json'
    training = Training(5, range(6))
    training.run(Curves(path), stop=3)
    first = json.loads(path.read_text())
    # The checkpoint that it goes on from is that of the second epoch.
    resumed = Curves(path)
    training.run(resumed, start=2)
    assert [*resumed.metrics['accuracy/top1']] == [*resumed.losses['loss']] == [1, 2, 3, 4, 5]
    assert [*first['losses']['loss']] == ['1', '2', '3']
    again = Curves(path)
    training.run(again, stop=1)
    assert again.metrics == {'accuracy/top1': {1: 10.}} and again.last_epoch == 1


def test_a_run_that_ended_early_says_that_it_ended(tmp_path: Path) -> None:
    path = tmp_path / 'curves.json'
    assert not Curves(path).ended
    Training(5, range(6)).run(Curves(path), stop=2)
    assert Curves(path).ended and Curves(path).last_epoch == 2


def test_metrics_of_which_none_is_a_number_are_refused(tmp_path: Path) -> None:
    curves = Curves(tmp_path / 'curves.json')
    with pytest.raises(ValueError, match=r"\['confusion', 'precision'\] none is a single number.*"
                                         r"`val_evaluator`, such as dict\(type='Accuracy'\)"):
        curves.after_val_epoch(Training(1, []), {'precision': [1.], 'confusion': torch.eye(2)})
    # As a detector that finds nothing.
    curves.after_val_epoch(Training(1, []), {})
    assert curves.metrics == {}


def run(max_epochs: int, folder: Path, **loop: Any) -> Run:
    cfg = Config(dict(train_cfg=dict(max_epochs=max_epochs, **loop)))
    return Run(cfg, 'plain', 0, folder, 'training', 'digest', lambda runner: {})


def lines(training: Training, progress: Progress, capsys, **span: int) -> list[str]:
    training.run(progress, **span)
    return [line.partition(' (')[0] for line in capsys.readouterr().out.splitlines()]


def test_every_epoch_has_its_line(tmp_path: Path, capsys) -> None:
    progress = Progress([run(5, tmp_path)])
    progress.label, progress.kind = 'run', 'training'
    assert lines(Training(5, [2, 4]), progress, capsys) == [
        'run: epoch 1/5', 'run: epoch 2/5, accuracy/top1 20.00', 'run: epoch 3/5',
        'run: epoch 4/5, accuracy/top1 40.00', 'run: epoch 5/5']
    assert progress.epochs_left['training'] == 0 and len(progress.epoch_seconds) == 5


def test_epochs_that_never_come_are_not_waited_for(tmp_path: Path, capsys) -> None:
    progress = Progress([run(6, tmp_path), run(6, tmp_path)])
    progress.label, progress.kind = 'run', 'training'
    assert lines(Training(6, range(7)), progress, capsys, start=1, stop=3)[-2:] == [
        'run: epoch 3/6, accuracy/top1 30.00', 'run: ended early, after epoch 3']
    assert progress.epochs_left['training'] == 6


# Configs and results.


def validated(**changes: Any) -> Config:
    return Config({**dict(train_cfg=dict(max_epochs=3), val_dataloader=dict(batch_size=1),
                          val_cfg=dict(), val_evaluator=dict(type='Accuracy')), **changes})


def test_a_config_that_counts_epochs_and_validates_is_accepted() -> None:
    check_epochs(validated())
    check_epochs(validated(train_cfg=dict(by_epoch=True, max_epochs=3, val_begin=3,
                                          val_interval=2, dynamic_intervals=[(2, 1)])))


@pytest.mark.parametrize('changes, message', [
    (dict(train_cfg=None), r'`train_cfg` of it must hold `max_epochs`.* but got None'),
    (dict(train_cfg=dict(by_epoch=True)), r'must hold `max_epochs`'),
    (dict(train_cfg=dict(by_epoch=False, max_iters=5)), r'must hold `max_epochs`.*max_iters'),
    (dict(train_cfg=dict(by_epoch=False, max_epochs=5)), r'nor `by_epoch=False`'),
    (dict(train_cfg=dict(max_epochs='5')), r"`train_cfg.max_epochs` of it must be a whole .*'5'"),
    (dict(train_cfg=dict(max_epochs=0)), r'at least 1, but got 0'),
    (dict(train_cfg=dict(max_epochs=2, val_interval=0)), r'`train_cfg.val_interval` of it must'),
    (dict(train_cfg=dict(max_epochs=2, val_begin=3)), r'`train_cfg.val_begin` of it must be at '
                                                      r'most `max_epochs`, 2, .* but got 3'),
    (dict(val_evaluator=None), '`val_evaluator` of it must be given'),
    (dict(val_dataloader=None), '`val_dataloader` of it must be given'),
    (dict(val_cfg=None), '`val_cfg` of it must be given'),
])
def test_other_configs_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_epochs(validated(**changes), ' of it')


def test_options_are_merged_into_a_config() -> None:
    options = {'train_cfg': dict(_delete_=True, max_iters=2), 'val_dataloader.batch_size': 4}
    for _ in range(2):  # nothing is taken out of them
        cfg = validated()
        merge_options(cfg, options)
        assert cfg.train_cfg == dict(max_iters=2) and cfg.val_dataloader.batch_size == 4


@pytest.mark.parametrize('option', [
    'hooks.3.x', 'hooks.x', 'train_cfg.max_epochs.x', 'train_cfg.max_epochs.0'])
def test_options_that_lead_nowhere_are_named(option: str) -> None:
    with pytest.raises(ValueError, match=f'the option {option}=1 does not fit the config'):
        merge_options(validated(hooks=[dict()]), {option: 1})


def write_result(folder: Path, **result: Any) -> None:
    (folder / 'result.json').write_text(json.dumps(result))


def test_results_of_earlier_versions_have_the_epochs_that_they_must_have(tmp_path: Path) -> None:
    write_result(tmp_path, accuracy_per_epoch=[1., 2.], loss_per_epoch=[3., 4.])
    assert epochs_of(load_result(run(2, tmp_path)), 'accuracy') == [1, 2]
    with pytest.raises(ValueError, match='of its 2 accuracies in 5 epochs nobody knows the epochs; '
                                         'delete the folder'):
        load_result(run(5, tmp_path))
    write_result(tmp_path, accuracy_per_epoch=[1., 2.], accuracy_epochs=[3, 5])
    assert epochs_of(load_result(run(5, tmp_path)), 'accuracy') == [3, 5]


def test_a_result_that_is_cut_short_is_named(tmp_path: Path) -> None:
    (tmp_path / 'result.json').write_text('{"accuracy": 5')
    with pytest.raises(ValueError, match=r'result\.json cannot be read .*delete the folder'):
        load_result(run(5, tmp_path))
