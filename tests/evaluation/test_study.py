"""A study of nano models on the digits, cut down to a few steps."""
import csv
import json
import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from mmdiverse.evaluation import study as module
from mmdiverse.evaluation.study import COLUMNS, load_study, run_study, run_task, write_results
from tests.runs import CONFIGS, DIGITS

TOOL = Path(__file__).parents[2] / 'tools' / 'study.py'
SPEC = dict(
    name='small', seeds=[0],
    options={'train_cfg.max_epochs': 1, 'train_dataloader.num_batch_per_epoch': 2,
             'train_dataloader.batch_size': 8, 'val_dataloader.num_batch_per_epoch': 1},
    models=dict(nano=dict(
        plain=str(DIGITS / 'vit-nano_digits.py'),
        arms=dict(diverse=str(DIGITS / 'vit-nano_diverse_digits.py')))))


def write_study(folder: Path, **changes: Any) -> Path:
    path = folder / 'study.yaml'
    path.write_text(yaml.safe_dump({**SPEC, **changes}))
    return path


def models(**changes: Any) -> dict[str, Any]:
    return dict(nano={**SPEC['models']['nano'], **changes})


def command(path: Path, work_dir: Path) -> list[str]:
    return [sys.executable, str(TOOL), str(path), '--work-dir', str(work_dir)]


@pytest.fixture(scope='module')
def ended(tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess]:
    """A study of two runs at a time."""
    folder = tmp_path_factory.mktemp('study')
    work_dir = folder / 'runs'
    done = subprocess.run([*command(write_study(folder), work_dir), '--jobs', '2'],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return work_dir, done


def rows_of(work_dir: Path) -> list[dict[str, str]]:
    with open(work_dir / 'results.csv', newline='') as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_every_arm_is_trained(ended) -> None:
    assert {(row['model'], row['arm'], row['seed'], row['status']) for row in rows_of(ended[0])} \
        == {('nano', arm, '0', 'ended') for arm in ('plain', 'diverse')}


def test_every_seed_has_all_arms_before_the_next(tmp_path: Path) -> None:
    runs = load_study(write_study(tmp_path, seeds=[2, 0])).runs(tmp_path)
    assert [(run.arm, run.seed) for run in runs] == [
        ('plain', 2), ('diverse', 2), ('plain', 0), ('diverse', 0)]


@pytest.mark.slow
def test_results_have_a_row_for_every_value(ended) -> None:
    rows = [row for row in rows_of(ended[0]) if row['arm'] == 'diverse']
    found = [(row['measure'], row['epoch'], row['block']) for row in rows]
    blocks = [(measure, '', str(block)) for measure in
              ('token_cosine_absolute', 'head_cosine', 'neuron_cosine_mean') for block in range(4)]
    assert found == [('accuracy', '1', ''), ('train_loss', '1', ''), *blocks, ('seconds', '', ''),
                     ('seconds_per_epoch', '', ''), ('peak_memory_mib', '', '')]
    result = json.loads((ended[0] / 'nano' / 'diverse' / 'seed0' / 'result.json').read_text())
    assert float(rows[0]['value']) == pytest.approx(result['accuracy'], rel=1e-5)
    assert result['config'].startswith(rows[0]['config']) and rows[0]['config']
    assert 'threads, torch' in rows[0]['machine']
    assert list(rows[0]) == list(COLUMNS)


@pytest.mark.slow
def test_progress_says_what_is_left(ended) -> None:
    shown = ended[1].stdout
    assert 'diverse, seed 0, nano: epoch 1/1, accuracy/top1' in shown
    assert 'seed 0, nano: ended (' in shown and '(0 runs and about 0 minutes left)' in shown


@pytest.mark.slow
def test_ended_runs_are_not_repeated(ended) -> None:
    work_dir = ended[0]
    before = (work_dir / 'results.csv').read_text()
    done = subprocess.run(command(work_dir.parent / 'study.yaml', work_dir), capture_output=True,
                          text=True)
    assert done.returncode == 0 and '2 runs, of which 2 ended before' in done.stdout
    assert (work_dir / 'results.csv').read_text() == before


def test_one_task_of_an_array_is_the_run_of_that_number(ended, tmp_path: Path) -> None:
    done = subprocess.run([*command(write_study(tmp_path), tmp_path), '--task', '1'],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = rows_of(tmp_path)
    assert {row['arm'] for row in rows} == {'diverse'}
    # The other processes of a study change nothing in a run; the last three are times and memory.
    assert [row['value'] for row in rows][:-3] == [
        row['value'] for row in rows_of(ended[0]) if row['arm'] == 'diverse'][:-3]


def run_in_process(monkeypatch, *words: str) -> None:
    monkeypatch.setattr(sys, 'argv', [str(TOOL), *words])
    runpy.run_path(str(TOOL), run_name='__main__')


def test_list_has_a_line_for_every_task(tmp_path: Path, monkeypatch, capsys) -> None:
    with pytest.raises(SystemExit) as end:
        run_in_process(monkeypatch, str(write_study(tmp_path, seeds=[0, 4])), '--list')
    assert end.value.code == 0
    assert capsys.readouterr().out.splitlines() == [
        'plain, seed 0, nano', 'diverse, seed 0, nano', 'plain, seed 4, nano',
        'diverse, seed 4, nano']


def test_unknown_task_is_refused(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(SystemExit, match='--task must be from 0 to 1, but got 2'):
        run_in_process(monkeypatch, str(write_study(tmp_path)), '--task', '2')


@pytest.mark.parametrize('path', sorted((CONFIGS / 'cifar').glob('*.yaml')),
                         ids=lambda path: path.stem)
def test_shipped_studies_are_sound(path: Path) -> None:
    study = load_study(path)
    assert study.name == path.stem.removeprefix('study_')
    digests = [run.digest for run in study.runs('')]
    assert len({*digests}) == len(digests) // len(study.seeds)


def test_sweep_validates_on_images_that_neither_study_trains_or_reports_on() -> None:
    studies = [load_study(CONFIGS / 'cifar' / f'study_cifar10-subset{end}.yaml').configs
               for end in ('', '_sweep')]
    trained, swept = ([loader.dataset.dataset for loader in (cfg.train_dataloader,
                                                             cfg.val_dataloader)]
                      for cfg in (study['deit-nano-p4']['plain'] for study in studies))
    assert trained[0] == swept[0]
    assert swept[1].dataset == trained[0].dataset and trained[1].dataset.data_root.endswith('val')
    # Folds of one order: the training images are its first tenth.
    assert (swept[0].fold, swept[0].num_splits, swept[0].seed) == (0, 10, swept[1].seed)
    assert swept[1].fold / swept[1].num_splits >= .1


def test_study_that_is_not_there_is_named(tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(SystemExit, match=r'FileNotFoundError.*none\.yaml'):
        run_in_process(monkeypatch, str(tmp_path / 'none.yaml'))


def test_run_out_of_memory_is_marked_and_tried_again(tmp_path: Path, monkeypatch) -> None:
    study = load_study(write_study(tmp_path))
    runs = study.runs(tmp_path)
    train = module.train

    def out_of_memory(run, progress):
        raise torch.OutOfMemoryError('CUDA out of memory. Tried to allocate 1 TiB')

    monkeypatch.setattr(module, 'train', out_of_memory)
    assert not run_task(runs[0])
    rows = write_results(study, runs, tmp_path / 'results.csv')
    assert [(row['arm'], row['status'], row['value']) for row in rows] == [
        ('plain', 'out of memory', '')]
    assert '1 TiB' in (runs[0].folder / 'failure.json').read_text()
    monkeypatch.setattr(module, 'train', train)
    assert run_task(runs[0])
    rows = write_results(study, runs, tmp_path / 'results.csv')
    assert {row['status'] for row in rows} == {'ended'}


@pytest.mark.parametrize('end, status', [
    ('os.kill(os.getpid(), 9)', 'out of memory'), ('sys.exit(3)', 'failed')])
def test_process_that_dies_is_marked_and_the_study_goes_on(tmp_path: Path, end: str,
                                                           status: str) -> None:
    study = load_study(write_study(tmp_path))
    runs = study.runs(tmp_path)
    assert not run_study(runs, [sys.executable, '-c', f'import os, sys; {end}'])
    rows = write_results(study, runs, tmp_path / 'results.csv')
    assert [(row['arm'], row['status']) for row in rows] == [('plain', status), ('diverse', status)]


def test_error_of_a_run_is_marked_and_its_log_has_the_rest(tmp_path: Path) -> None:
    options = {**SPEC['options'], 'train_dataloader.batch_size': 0}
    path = write_study(tmp_path, options=options)
    done = subprocess.run(command(path, tmp_path), capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stdout.count('failed: ValueError: batch_size') == 2, done.stdout
    log = (tmp_path / 'nano' / 'plain' / 'seed0' / 'study.log').read_text()
    assert 'Traceback' in log and 'batch_size' in log


def test_each_process_gets_its_device(tmp_path: Path, capfd) -> None:
    runs = load_study(write_study(tmp_path)).runs(tmp_path)
    run_study(runs, [sys.executable, '-uc',
                     'import os, time; print(os.environ["CUDA_VISIBLE_DEVICES"]); time.sleep(1)'],
              jobs=2, devices=['0', '3'])
    lines = capfd.readouterr().out.splitlines()
    assert sorted(line for line in lines if line in '0123') == ['0', '3']


def start(path: Path, work_dir: Path) -> subprocess.Popen:
    return subprocess.Popen(
        command(path, work_dir), stdout=subprocess.PIPE, text=True, start_new_session=True,
        # Tests that run in the background are not interrupted, and would hand that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))


@pytest.mark.slow
def test_interruption_stops_runs_and_the_same_command_goes_on(tmp_path: Path) -> None:
    options = {**SPEC['options'], 'train_cfg.max_epochs': 200}
    path = write_study(tmp_path, options=options)
    process = start(path, tmp_path)
    for line in process.stdout:
        if 'epoch 2/200' in line:
            break
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    rest = process.communicate(timeout=60)[0]
    assert 'Interrupted' in rest and process.returncode == 1
    folder = tmp_path / 'nano' / 'plain' / 'seed0'
    assert not (folder / 'failure.json').exists() and not (folder / 'result.json').exists()

    process = start(path, tmp_path)
    first = next(line for line in process.stdout if 'epoch' in line)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert int(first.split('epoch ')[1].partition('/')[0]) > 2


def test_options_of_an_arm_come_after_those_of_all(tmp_path: Path) -> None:
    hook = {'custom_hooks.0.terms.0.weight': 7}
    path = write_study(tmp_path, options={**SPEC['options'], 'train_cfg.max_epochs': 5},
                       models=models(arms=dict(strong=dict(
                           config=str(DIGITS / 'vit-nano_diverse_digits.py'), options=hook))))
    arms = load_study(path).configs['nano']
    assert [cfg.train_cfg.max_epochs for cfg in arms.values()] == [5, 5]
    assert arms['strong'].custom_hooks[0].terms[0].weight == 7


def test_terms_can_be_written_in_a_study_file(tmp_path: Path) -> None:
    path = write_study(tmp_path, models=models(arms=dict(
        weight=dict(config=str(DIGITS / 'vit-nano_diverse_digits.py'), options='TERMS'))))
    path.write_text(path.read_text().replace(
        'TERMS', '{custom_hooks.0.terms: [{type: CosineLoss, on: weight, weight: 1.e-3}]}'))
    term, = load_study(path).configs['nano']['weight'].custom_hooks[0].terms
    assert term.to_dict() == dict(type='CosineLoss', on='weight', weight=1e-3)


def test_file_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    path = tmp_path / 'study.yaml'
    path.write_text('name: [')
    with pytest.raises(ValueError, match=r'study\.yaml is no YAML: while parsing'):
        load_study(path)


def test_configs_are_found_beside_the_study(tmp_path: Path) -> None:
    (tmp_path / 'mine.py').write_text(f'_base_ = [{str(DIGITS / "vit-nano_digits.py")!r}]\n')
    arms = load_study(write_study(tmp_path, models=models(plain='mine.py'))).configs['nano']
    assert list(arms) == ['plain', 'diverse']


@pytest.mark.parametrize('changes, message', [
    (dict(epochs=3), r"study\.yaml has the unknown keys \['epochs'\]; there are"),
    (dict(models=models(arm={})), r"models\.nano has the unknown keys \['arm'\]"),
    (dict(models=models(arms=dict(x=dict(config='a.py', weight=1)))),
     r"models\.nano\.arms\.x has the unknown keys \['weight'\]"),
    (dict(models=dict(nano=dict(arms={}))), r"models\.nano lacks the keys \['plain'\]"),
    (dict(models=models(arms=dict(x=3))), r'arms\.x must be a mapping'),
    (dict(models=models(arms=dict(plain='a.py'))), "'plain' is the twin of all"),
    (dict(seeds=[0, 0]), r'`seeds` must be different whole numbers .* got \[0, 0\]'),
    (dict(seeds=[]), '`seeds` must be'),
    (dict(options={'train_cfg': dict(_delete_=True, by_epoch=False, max_iters=3)}),
     '`train_cfg` must hold `max_epochs`'),
    (dict(options={'train_cfg.val_interval': 2}), '`val_interval=1`, since every epoch'),
])
def test_defects_of_a_study_file_are_named(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_study(write_study(tmp_path, **changes))


@pytest.mark.parametrize('option, shown', [
    ({'optim_wrapper.optimizer.lr': 1.}, 'optim_wrapper.optimizer.lr is 1 here, 0.002 there'),
    ({'model.backbone.drop_path_rate': .5}, 'model.backbone.drop_path_rate is 0.5 here'),
    ({'model.head.loss.label_smooth_val': .3}, 'label_smooth_val is 0.3 here'),
])
def test_arm_that_differs_in_more_than_diversity_is_refused(tmp_path: Path, option: dict,
                                                            shown: str) -> None:
    arm = dict(config=str(DIGITS / 'deit-nano_diverse_digits.py'), options=option)
    path = write_study(tmp_path, models=models(plain=str(DIGITS / 'deit-nano_digits.py'),
                                               arms=dict(other=arm)))
    with pytest.raises(ValueError, match=r'arms\.other differs .* in more than diversity.*'
                       + shown.replace('.', r'\.')):
        load_study(path)


def test_results_of_another_config_are_not_mixed(tmp_path: Path) -> None:
    run_study(load_study(write_study(tmp_path)).runs(tmp_path), ['true'])
    other = load_study(write_study(tmp_path, options={'train_cfg.max_epochs': 2}))
    with pytest.raises(ValueError, match='another config.*--work-dir'):
        run_study(other.runs(tmp_path), ['true'])


def test_at_least_one_job(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match='--jobs must be at least 1, but got 0'):
        run_study([], [], jobs=0)
