import json
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from mmdiverse.config import plain_twin
from mmdiverse.evaluation import runs
from mmdiverse.evaluation.comparison import compare
from tests.runs import DIGITS, Interrupt, Interrupted, digits_config

TOOL = Path(__file__).parents[2] / 'tools' / 'compare.py'
OPTIONS = ['train_cfg.max_epochs=1', 'train_dataloader.num_batch_per_epoch=2',
           'train_dataloader.batch_size=8', 'val_dataloader.num_batch_per_epoch=1']


def run_tool(config: Path, work_dir: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(TOOL), str(config), '--seeds', '1', '--work-dir',
                           str(work_dir), '--cfg-options', *OPTIONS],
                          capture_output=True, text=True)


def test_command_trains_both_and_writes_table_json_and_picture(tmp_path: Path) -> None:
    done = run_tool(DIGITS / 'deit-nano_diverse_digits.py', tmp_path)
    assert done.returncode == 0, done.stderr
    for line in ('accuracy/top1 (%)', 'token similarity', 'head similarity', 'weight similarity'):
        assert line in done.stdout
    results = json.loads((tmp_path / 'compare.json').read_text())
    assert [(result['arm'], result['seed']) for result in results] == [('plain', 0), ('diverse', 0)]
    assert (tmp_path / 'compare.png').stat().st_size > 10_000
    assert (tmp_path / 'compare.md').read_text().strip() in done.stdout


def test_twins_start_from_the_same_weights_and_see_the_same_data(tmp_path: Path) -> None:
    cfg = digits_config('deit-nano_diverse_digits', tmp_path)
    firsts = []
    for number, arm in enumerate((cfg, plain_twin(cfg))):
        arm.experiment_name = f'twin{number}'
        runner = Runner.from_cfg(arm)
        runner._init_model_weights()
        batch = next(iter(runner.train_dataloader))
        firsts.append((runner.model.state_dict(), batch['inputs'],
                       runner.model.data_preprocessor(batch, True)['inputs']))
    (weights, raw, mixed), (plain_weights, plain_raw, plain_mixed) = firsts
    assert weights.keys() == plain_weights.keys()
    assert all((weights[key] == plain_weights[key]).all() for key in weights)
    assert all((a == b).all() for a, b in zip(raw, plain_raw))
    assert (mixed == plain_mixed).all()


def test_interruption_keeps_what_is_finished_and_continues(tmp_path: Path, capsys,
                                                           monkeypatch) -> None:
    cfg = digits_config('vit-nano_diverse_digits', tmp_path)
    train = runs.train

    def interrupt(run, progress):
        if run.arm == 'diverse':
            raise KeyboardInterrupt
        return train(run, progress)

    monkeypatch.setattr(runs, 'train', interrupt)
    assert [result['arm'] for result in compare(cfg, tmp_path, [0])] == ['plain']
    monkeypatch.setattr(runs, 'train', train)
    assert [result['arm'] for result in compare(cfg, tmp_path, [0])] == ['plain', 'diverse']
    assert 'plain, seed 0: done before' in capsys.readouterr().out


def test_results_of_another_config_are_not_mixed(tmp_path: Path) -> None:
    cfg = digits_config('vit-nano_diverse_digits', tmp_path)
    compare(cfg, tmp_path, [0])
    cfg.optim_wrapper.optimizer.lr = 1e-5
    with pytest.raises(ValueError, match='another config.*--work-dir'):
        compare(cfg, tmp_path, [0])


def test_plain_config_is_refused(tmp_path: Path) -> None:
    done = run_tool(DIGITS / 'vit-nano_digits.py', tmp_path)
    assert done.returncode == 1
    assert 'nothing to compare' in done.stderr and 'Traceback' not in done.stderr


def test_unwritable_work_dir_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('')
    done = run_tool(DIGITS / 'vit-nano_diverse_digits.py', tmp_path / 'file' / 'runs')
    assert done.returncode == 1
    assert str(tmp_path / 'file') in done.stderr and 'Traceback' not in done.stderr


def test_epochs_and_metrics_are_those_that_were_logged(tmp_path: Path) -> None:
    cfg = digits_config('vit-nano_diverse_digits', tmp_path, epochs=9, batches=2)
    cfg.train_cfg.update(val_begin=2, val_interval=3, dynamic_intervals=[(6, 1)])
    # Of which the first gives lists and the second a matrix.
    cfg.val_evaluator = [dict(type='SingleLabelMetric', average=None),
                         dict(type='ConfusionMatrix'), dict(type='Accuracy', topk=(1,))]
    cfg.custom_hooks.append(dict(type='EarlyStoppingHook', monitor='accuracy/top1', patience=2,
                                 min_delta=200.))
    results = compare(cfg, tmp_path, [0])
    for result in results:
        assert result['metric'] == 'accuracy/top1'
        assert result['accuracy_epochs'] == [3, 5, 6]
        assert result['loss_epochs'] == [1, 2, 3, 4, 5, 6]
        assert len(result['accuracy_per_epoch']) == 3 and len(result['loss_per_epoch']) == 6
        assert result['accuracy'] == result['accuracy_per_epoch'][-1]
        # MMEngine's own log of the run.
        path, = (tmp_path / result['arm'] / 'seed0').glob('*/vis_data/scalars.json')
        logged = [json.loads(line) for line in path.read_text().splitlines()]
        assert {line['step']: line['accuracy/top1'] for line in logged if 'accuracy/top1' in line} \
            == dict(zip(result['accuracy_epochs'], result['accuracy_per_epoch']))


def test_a_run_that_goes_on_has_the_curves_of_one_that_was_never_interrupted(
        tmp_path: Path, monkeypatch) -> None:
    def resume(folder: str) -> dict[str, Any]:
        run = runs.training_run(cfg, folder, 0, tmp_path / folder)
        return runs.train(run, runs.Progress([run]))

    def interrupted(cfg: Config) -> Runner:
        runner = build(cfg)
        runner.register_hook(Interrupt())
        return runner

    cfg = digits_config('vit-nano_digits', tmp_path, epochs=3, batches=2,
                        custom_hooks=[dict(type='mmdiverse.EpochSeedHook')])
    build = runs.quiet_runner
    whole = resume('whole')
    monkeypatch.setattr(runs, 'quiet_runner', interrupted)
    with pytest.raises(Interrupted):
        resume('parts')
    monkeypatch.setattr(runs, 'quiet_runner', build)
    parts = resume('parts')
    assert whole['accuracy_epochs'] == whole['loss_epochs'] == [1, 2, 3]
    for key in ('accuracy_epochs', 'accuracy_per_epoch', 'loss_epochs', 'loss_per_epoch'):
        assert parts[key] == whole[key]


@pytest.mark.parametrize('option, message', [
    ('val_evaluator=None', '`val_evaluator` must be given'),
    ('custom_hooks.7.type=X', 'the option custom_hooks.7.type='),
    ('train_cfg.val_begin=2', '`train_cfg.val_begin` must be at most `max_epochs`, 1'),
])
def test_configs_that_cannot_be_compared_are_refused_in_one_sentence(
        option: str, message: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(sys, 'argv', [
        str(TOOL), str(DIGITS / 'vit-nano_diverse_digits.py'), '--work-dir', str(tmp_path),
        '--cfg-options', *OPTIONS, option])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(TOOL), run_name='__main__')
    assert message in end.value.code and '\n' not in end.value.code
    assert not [*tmp_path.iterdir()]


def test_run_that_counts_iterations_is_refused(tmp_path: Path) -> None:
    cfg = digits_config('vit-nano_diverse_digits', tmp_path)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=3)
    with pytest.raises(ValueError, match='`train_cfg` must hold `max_epochs`'):
        compare(cfg, tmp_path, [0])
