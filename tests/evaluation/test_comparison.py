import json
import subprocess
import sys
from pathlib import Path

import pytest

from mmdiverse.config import plain_twin
from mmdiverse.evaluation import runs
from mmdiverse.evaluation.comparison import compare
from tests.runs import DIGITS, digits_config

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
    from mmengine.runner import Runner
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


def test_run_that_counts_iterations_is_refused(tmp_path: Path) -> None:
    cfg = digits_config('vit-nano_diverse_digits', tmp_path)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=3)
    with pytest.raises(ValueError, match='`train_cfg` must hold `max_epochs`'):
        compare(cfg, tmp_path, [0])
