"""A study of nano models on the digits, cut down to a few steps."""
import argparse
import contextlib
import csv
import json
import math
import multiprocessing
import os
import re
import runpy
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from mmengine.config import ConfigDict, DictAction

from mmdiverse.evaluation import study as module
from mmdiverse.evaluation.runs import MEASURES, Progress, Run, load_result
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


@pytest.mark.parametrize('threads, jobs, shown', [
    ('3', 2, '3'), (None, 10**6, '1'), ('', 10**6, '1')])
def test_threads_are_those_of_the_user_or_shared(tmp_path: Path, monkeypatch, capfd,
                                                 threads: str | None, jobs: int, shown: str
                                                 ) -> None:
    if threads is None:
        monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    else:
        monkeypatch.setenv('OMP_NUM_THREADS', threads)
    monkeypatch.setattr(os, 'cpu_count', lambda: 8)
    runs = load_study(write_study(tmp_path)).runs(tmp_path)
    run_study(runs[:1], [sys.executable, '-c', 'import os; print(os.environ["OMP_NUM_THREADS"])'],
              jobs=jobs)
    assert capfd.readouterr().out.splitlines()[1] == shown


#: In the place of a run: says its number, and works on for ever.
ENDLESS = ('import os, signal, time; {}; print("number", os.getpid(), flush=True); '
           'time.sleep(600)')


def endless_study(runs: list[Run], output: Path, before: str) -> None:
    """What a process does that is a study, started in the background of a script."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with open(output, 'w') as file, contextlib.redirect_stdout(file):
        ended = run_study(runs, [sys.executable, '-c', ENDLESS.format(before)], jobs=2)
    sys.exit(int(not ended))


def wait_for(condition: Callable[[], Any]) -> Any:
    """What a condition gives as soon as that is true."""
    deadline = time.monotonic() + 60
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


@pytest.mark.parametrize('number, before', [
    (signal.SIGTERM, 'pass'), (signal.SIGINT, 'pass'), (signal.SIGHUP, 'pass'),
    (signal.SIGTERM, 'signal.signal(signal.SIGTERM, signal.SIG_IGN)')],
    ids=['SIGTERM', 'SIGINT', 'SIGHUP', 'deaf'])
def test_a_study_that_is_ended_ends_its_runs(tmp_path: Path, monkeypatch, number: signal.Signals,
                                             before: str) -> None:
    monkeypatch.setattr(module, 'SECONDS_TO_END', 1.)
    runs = load_study(write_study(tmp_path)).runs(tmp_path)
    output = tmp_path / 'output'
    # It has imported all that it needs, as this process has.
    process = multiprocessing.get_context('fork').Process(
        target=endless_study, args=(runs, output, before))
    process.start()

    def numbers() -> list[int]:
        text = output.read_text() if output.exists() else ''
        return [int(word) for word in re.findall(r'number (\d+)\n', text)]

    wait_for(lambda: len(numbers()) == 2)
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == 1
    for each in numbers():
        with pytest.raises(ProcessLookupError):
            os.kill(each, 0)
    assert output.read_text().splitlines()[-1] == (
        f'Interrupted by {number.name}. Finished runs are kept; the same command goes on from '
        'here.')
    assert not [*tmp_path.rglob('failure.json')]


def study_and_run(pipe: tuple[int, int]) -> None:
    """A study that is a process with another one, which writes when it will end with it."""
    os.environ[module.STUDY] = str(os.getpid())
    if os.fork() == 0:
        os.close(pipe[0])
        module._end_with_study()
        os.write(pipe[1], b'.')
    time.sleep(600)


def test_a_run_ends_with_a_study_that_is_killed() -> None:
    pipe = os.pipe()
    process = multiprocessing.get_context('fork').Process(target=study_and_run, args=(pipe,))
    process.start()
    os.close(pipe[1])
    assert os.read(pipe[0], 1) == b'.'
    process.kill()
    process.join()
    assert select.select([pipe[0]], [], [], 60)[0]  # nobody is left who holds the other end
    assert os.read(pipe[0], 1) == b''
    os.close(pipe[0])


def test_a_run_whose_study_has_ended_does_not_begin(tmp_path: Path, monkeypatch) -> None:
    gone = subprocess.Popen(['true'])
    gone.wait()
    monkeypatch.setenv(module.STUDY, str(gone.pid))
    monkeypatch.setattr(module.ctypes, 'CDLL', lambda name: SimpleNamespace(prctl=print))
    run = load_study(write_study(tmp_path)).runs(tmp_path)[0]
    with pytest.raises(KeyboardInterrupt, match='the end of the study'):
        run_task(run)
    assert not run.folder.exists()


def test_an_interrupted_task_says_so_in_a_sentence(tmp_path: Path, monkeypatch) -> None:
    def interrupted(run: Run, progress: Progress) -> None:
        raise KeyboardInterrupt('SIGTERM')

    monkeypatch.setattr(module, 'train', interrupted)
    with pytest.raises(SystemExit, match=r'^Interrupted by SIGTERM\. Finished runs are kept'):
        run_in_process(monkeypatch, str(write_study(tmp_path)), '--work-dir', str(tmp_path),
                       '--task', '0')
    assert not [*tmp_path.rglob('failure.json')]


def test_a_process_that_cannot_be_started_ends_the_study(tmp_path: Path) -> None:
    runs = load_study(write_study(tmp_path)).runs(tmp_path)
    with pytest.raises(FileNotFoundError, match='no-such-command'):
        run_study(runs, ['no-such-command'])


def test_epochs_of_the_results_are_those_that_were_logged(tmp_path: Path) -> None:
    study = load_study(write_study(tmp_path, options={'train_cfg.max_epochs': 9}))
    run = study.runs(tmp_path)[0]
    load_result(run)
    (run.folder / 'result.json').write_text(json.dumps(dict(
        accuracy_epochs=[3, 5], accuracy_per_epoch=[50., 60.], loss_epochs=[1, 2],
        loss_per_epoch=[2., 1.], machine='this', seconds=1., seconds_per_epoch=1.,
        peak_memory_mib=1., **dict.fromkeys(MEASURES, [.5]))))
    rows = write_results(study, [run], tmp_path / 'results.csv')
    assert [(row['measure'], row['epoch'], row['value']) for row in rows[:4]] == [
        ('accuracy', 3, '50'), ('accuracy', 5, '60'),
        ('train_loss', 1, '2'), ('train_loss', 2, '1')]


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
    (dict(options={'train_cfg.val_begin': 99}), r'nano\.plain, .*`train_cfg\.val_begin` must'),
    (dict(options={'val_evaluator': None}), r'nano\.plain, .*`val_evaluator` must be given'),
    (dict(options={'custom_hooks.5.x': 1}), r'arms\.diverse, .*option custom_hooks\.5\.x=1 does'),
    (dict(options=[1]), r"`options` must be a mapping such as .* but got \['1'\]"),
    (dict(models=models(options='x')), r"models\.nano: `options` must be a mapping .* got 'x'"),
    (dict(options={'optim_wrapper.optimizer.betas': '(0.9'}),
     r"options\.optim_wrapper\.optimizer\.betas: the brackets of '\(0\.9' do not match"),
    (dict(seeds=3), '`seeds` must be different whole numbers .* got 3'),
    (dict(seeds=[True]), r'`seeds` must be .* got \[True\]'),
    (dict(seeds=[1.5]), r'`seeds` must be .* got \[1\.5\]'),
    (dict(seeds=[[0]]), r'`seeds` must be .* got \[\[0\]\]'),
    (dict(seeds=['a']), r"`seeds` must be .* got \['a'\]"),
    (dict(models=['nano']), r"models must be a mapping that names at least one.* \['nano'\]"),
    (dict(models={}), 'models must be a mapping that names at least one'),
    (dict(models=dict(nano='x.py')), "models.nano must be a mapping with the keys .* got 'x.py'"),
    (dict(models=models(arms={})), r'models\.nano\.arms must be a mapping that names at least one'),
    (dict(models=models(arms=['a.py'])), r'models\.nano\.arms must be a mapping that names'),
    (dict(models=models(arms=dict(x=None))), r'arms\.x must be a mapping .* got None'),
    (dict(models=models(arms=dict(x=dict(config=[])))), r'arms\.x: `config` must be a path'),
    (dict(models=models(plain=None)), r'models\.nano\.plain must be a mapping .* got None'),
    (dict(models={'../nano': models()['nano']}), r"names are those of folders, .* '\.\./nano'"),
    (dict(name='a/b'), "`name` must be that of a folder, but got 'a/b'"),
    (dict(name=None), '`name` must be that of a folder, but got None'),
])
def test_defects_of_a_study_file_are_named(tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_study(write_study(tmp_path, **changes))


def test_a_config_that_is_not_there_is_named_with_its_arm(tmp_path: Path) -> None:
    path = write_study(tmp_path, models=models(arms=dict(x='none.py')))
    with pytest.raises(FileNotFoundError, match=r'models\.nano\.arms\.x: .*none\.py'):
        load_study(path)


@pytest.mark.parametrize('old, new', [
    ('- 0\n', '- 0\nseeds: [1]\n'), ('      diverse:', '      diverse: x.py\n      diverse:')])
def test_keys_that_stand_twice_are_refused(tmp_path: Path, old: str, new: str) -> None:
    path = write_study(tmp_path)
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=r'the key .(seeds|diverse). stands there twice'):
        load_study(path)


#: What stands in a study file, and what ``--cfg-options`` would make of it.
VALUES = {
    '5e-4': 5e-4, '1E5': 1e5, '-1e-3': -1e-3, '.5': .5, '1.e-3': 1e-3, '3': 3, '+3': 3, '010': 10,
    '1_000': 1000, 'inf': math.inf, '.inf': math.inf, '-.Inf': -math.inf, 'True': True,
    'FALSE': False, 'None': None, 'null': None, '~': None, '': None, 'on': 'on', 'yes': 'yes',
    '1:30': '1:30', '2024-01-01': '2024-01-01', '5e-4x': '5e-4x', 'two words': 'two words',
    '"5e-4"': '5e-4', "'True'": 'True', '(0.9, 5e-1)': (.9, .5), '[.9, [1e2, a]]': [.9, [1e2, 'a']],
    '0.9,5e-1': [.9, .5], '[]': [], '{a: 5e-4, b: {c: [1e1]}}': dict(a=5e-4, b=dict(c=[10.])),
    '[{a: 5e-4}]': [dict(a=5e-4)],
}


def test_values_are_read_as_cfg_options_reads_them(tmp_path: Path) -> None:
    path = write_study(tmp_path)
    lines = [f'  v{number}: {text}\n' for number, text in enumerate(VALUES)]
    path.write_text(path.read_text().replace('options:\n', f'options:\n{"".join(lines)}'))
    for cfg in load_study(path).configs['nano'].values():
        for number, (text, value) in enumerate(VALUES.items()):
            found = cfg[f'v{number}']
            assert (found, type(found)) == (value, type(value) if not isinstance(value, dict)
                                            else ConfigDict), text
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=DictAction)
    for text in ('5e-4', '1E5', '.5', '010', '1_000', 'FALSE', 'None', 'on', '1:30', '(0.9, 5e-1)'):
        options = parser.parse_args(['--cfg-options', f'v={text}']).cfg_options
        assert options == dict(v=VALUES[text])


def test_names_are_text_whatever_they_look_like(tmp_path: Path) -> None:
    path = write_study(tmp_path, models=models())
    path.write_text(path.read_text().replace('name: small', 'name: 010')
                    .replace('nano:', '1e3:').replace('diverse:', 'on:'))
    study = load_study(path)
    assert study.name == '010' and {name: [*arms] for name, arms in study.configs.items()} == {
        '1e3': ['plain', 'on']}


def test_options_that_replace_a_part_do_so_in_every_arm(tmp_path: Path) -> None:
    new = dict(_delete_=True, type='SGD', lr=1.)
    path = write_study(tmp_path, options={**SPEC['options'], 'optim_wrapper.optimizer': new})
    for cfg in load_study(path).configs['nano'].values():
        assert cfg.optim_wrapper.optimizer == dict(type='SGD', lr=1.)


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
