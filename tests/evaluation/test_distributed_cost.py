"""Costs on many GPUs: the model of them, and what of it real processes can confirm."""
import json
import os
import re
import runpy
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch import Tensor
from torch.distributed import GradBucket
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.futures import Future

from mmdiverse.evaluation.distributed_cost import (
    Cluster,
    MeasuredCosts,
    TermCosts,
    WeightBatch,
    build_on_meta,
    costs_text,
    distributed_costs,
    predict,
    size_of,
    weight_batches,
)
from mmdiverse.evaluation.scaling import Size
from mmdiverse.losses import ConditionalOrthogonalityLoss
from mmdiverse.records import WeightRecord
from mmdiverse.registry import LOSSES
from mmdiverse.report.markdown import insert_table
from mmdiverse.taps import build_tap
from tests.processes import run_processes
from tests.robustness.modes import ddp
from tests.runs import DIGITS, digits_config

ROOT = Path(__file__).parents[2]
PAGE = ROOT / 'docs' / 'distributed.md'
FIGURES = sorted((ROOT / 'docs' / 'benchmarks').glob('distributed_*.json'))
NANO = str(DIGITS / 'deit-nano_digits.py')
#: Two batches of matrices, one of which has iterations to go on from.
TERMS = [dict(type='ConditionalOrthogonalityLoss', on='weight', method='power', weight=0.1),
         dict(type='ConditionalOrthogonalityLoss', on='weight', matrices=['proj'], weight=0.1,
              name='proj')]
PATCH = dict(type='CosineLoss', on='patch', weight=0.1)
#: Round numbers: 1 GB/s everywhere, 1 s a message.
ROUND = Cluster(gpus_per_node=4, bandwidth_within=1., bandwidth_between=1., latency_within=1.,
                latency_between=1., overlap=0.)


def measured(**arms: list[dict]) -> dict:
    """What tools/benchmarks/overhead.py writes, with a ratio of 1.5 for every arm."""
    return dict(config=NANO, batch_size=8, img_size=16, precision='fp32', device='cpu',
                machine='this one', threads=2, results={
                    name: dict(terms=terms, baseline='plain', median_ratio=1.5,
                               plain_seconds=[3., 4., 5.]) for name, terms in arms.items()})


def nano_costs(**options: Any) -> dict:
    files = dict(file=measured(patch=[PATCH], weight=TERMS))
    result = distributed_costs(MeasuredCosts(files), ROUND, ['patch', 'weight', 'patch+weight'],
                               **options)
    return result['models'][NANO]


# Communication

def test_long_messages_take_the_time_of_a_ring():
    # Each byte is sent 2 (p - 1) / p times, and 2 (p - 1) latencies are short beside that.
    assert ROUND.all_reduce(1000, 4) == 2 * 3 / 4 * 1000 + 2 * 3


def test_short_messages_on_many_gpus_take_the_time_of_a_tree():
    assert ROUND.all_reduce(1, 4 * 1024) == 2 * 1 + 2 * (2 + 10)


def test_one_process_sends_nothing():
    assert ROUND.all_reduce(1000, 1) == 0


def test_the_slowest_link_has_its_say_once_there_are_two_nodes():
    cluster = Cluster(gpus_per_node=4, bandwidth_within=10., bandwidth_between=1.,
                      latency_within=1e-6, latency_between=1.)
    assert cluster.all_reduce(1000, 4) == pytest.approx(2 * 3 / 4 * 100, rel=1e-4)
    assert cluster.all_reduce(1000, 8) == pytest.approx(2 * 7 / 8 * 1000 + 2 * 1, rel=1e-4)


@pytest.mark.parametrize(('option', 'message'), [
    (dict(overlap=1.5), r'`overlap` must be in \[0, 1\], but got 1.5'),
    (dict(bandwidth_between=0), '`bandwidth_between` must be finite and above 0, but got 0'),
    (dict(gpus_per_node=-8), '`gpus_per_node` must be finite and above 0'),
])
def test_a_cluster_that_cannot_be_is_an_error(option: dict, message: str):
    with pytest.raises(ValueError, match=message):
        Cluster(**option)


# A step

def test_hidden_communication_costs_nothing():
    cluster = Cluster(overlap=1.)
    assert predict(1., 10**9, TermCosts(), cluster, 64)['communication_seconds'] == 0


@pytest.mark.parametrize('processes', [1, 2, 5, 8, 35, 36, 37, 64, 512])
def test_the_busiest_process_takes_as_many_matrices_as_the_hook_gives_it(processes: int):
    record = WeightRecord(torch.zeros(36, 2, 2))
    shares = [len(record.share(rank, processes).vectors()) for rank in range(processes)]
    assert sum(shares) == 36
    assert WeightBatch(36, 4, (1, )).most(processes) == max(shares)


def test_matrices_that_are_not_shared_out_cost_every_process_all_of_them():
    terms = TermCosts(weights=(WeightBatch(2, 4, (), seconds=1.), ))
    step = predict(10., 0, terms, ROUND, 64)
    assert (step['matrices'], step['weight_seconds'], step['exchange_seconds']) == (2, 1., 0.)


def test_with_as_many_images_each_the_part_of_image_terms_stays_and_that_of_weight_terms_falls():
    terms = TermCosts(1., (WeightBatch(16, 4, (1, ), seconds=1.), ))
    free = Cluster(latency_within=1e-30, latency_between=1e-30, bandwidth_within=1e30,
                   bandwidth_between=1e30)
    steps = [predict(10., 1, terms, free, processes) for processes in (1, 4, 16, 64)]
    assert [step['overhead'] for step in steps] == pytest.approx(
        [(1 + 1 / own) / 10 for own in (1, 4, 16, 16)])
    assert {step['unshared_overhead'] for step in steps} == {0.2}


def test_with_fewer_images_each_the_part_of_shared_weight_terms_stays_until_each_has_one():
    def overhead(processes: int, shared: bool = True) -> float:
        model = nano_costs(processes=[processes], batch_size=64 // processes)
        step, = model['arms']['weight']['steps']
        seconds = step['weight_seconds'] if shared else model['arms']['weight']['seconds']
        return seconds / model['plain_seconds']

    # Of 12 and 4 matrices.
    assert overhead(4) == pytest.approx(overhead(2)) == pytest.approx(overhead(1))
    assert overhead(64) > 3 * overhead(1)
    assert overhead(4, shared=False) == pytest.approx(4 * overhead(1))


# What the model says of terms, against real processes

@pytest.mark.parametrize('type_', sorted(
    name for name, loss in LOSSES.module_dict.items()
    if 'weight' in loss.levels and loss.__module__.startswith('mmdiverse.')))
def test_every_loss_of_weights_can_be_read_without_memory(type_: str):
    batch, = weight_batches([dict(type=type_, on='weight', weight=1)],
                            build_tap(build_on_meta(NANO).backbone))
    two = LOSSES.get(type_).num_records == 2
    # Of two layers the first three and the last three; of one, the values of all.
    assert (batch.matrices, batch.messages) == ((6, ()) if two else (12, (12 * 4, )))


def test_matrices_of_several_shapes_are_batches_of_their_own():
    term = dict(type='CosineLoss', on='weight', matrices=['q', 'fc1', 'fc2'], weight=1)
    batches = weight_batches([term], build_tap(build_on_meta(NANO).backbone))
    assert [(batch.matrices, batch.size) for batch in batches] == [
        (4, 48 * 48), (4, 192 * 48), (4, 48 * 192)]


class Counter(Hook):
    """Counts what one step evaluates and exchanges."""

    def __init__(self) -> None:
        self.matrices: list[int] = []
        self.messages: list[int] = []
        self.gradients = 0
        self.forward = ConditionalOrthogonalityLoss.forward

    def count_matrices(self, loss: ConditionalOrthogonalityLoss, record: WeightRecord) -> Tensor:
        self.matrices.append(record.shape[0])
        return self.forward(loss, record)

    def count_message(self, tensor: Tensor) -> None:
        self.messages.append(tensor.numel() * tensor.element_size())
        all_reduce(tensor)

    def count_gradients(self, group: None, bucket: GradBucket) -> Future[Tensor]:
        self.gradients += bucket.buffer().numel() * bucket.buffer().element_size()
        return allreduce_hook(group, bucket)

    def before_train(self, runner: Runner) -> None:
        runner.model.register_comm_hook(None, self.count_gradients)


def count_process(rank: int, processes: int, terms: list[dict], folder: Path) -> None:
    """One process of a run of one step; what it did is saved."""
    os.environ.update(LOCAL_RANK=str(rank))
    torch.distributed.init_process_group('gloo', rank=rank, world_size=processes,
                                         init_method=f'file://{folder}/store')
    cfg = digits_config('deit-nano_digits', folder / 'run', batches=1, **ddp())
    cfg.custom_hooks = [dict(type='mmdiverse.DiversityHook', terms=terms)]
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.log_level = 'ERROR'
    counter = Counter()
    runner = Runner.from_cfg(cfg)
    runner.register_hook(counter)
    with patch.object(ConditionalOrthogonalityLoss, 'forward', lambda loss, record:
                      counter.count_matrices(loss, record)), \
            patch('mmdiverse.terms.all_reduce', counter.count_message):
        runner.train()
    torch.save((counter.matrices, counter.messages, counter.gradients), folder / f'{rank}.pth')
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def count(processes: int, terms: list[dict], folder: Path) -> list[tuple[list, list, int]]:
    """What each process of a run of one step evaluated and sent."""
    folder.mkdir()
    run_processes(count_process, processes, terms, folder, count=processes)
    return [torch.load(folder / f'{rank}.pth') for rank in range(processes)]


@pytest.fixture(scope='module')
def two(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[list, list, int]]:
    """What two processes did in a diversified step."""
    return count(2, [*TERMS, PATCH], tmp_path_factory.mktemp('counts') / 'two')


def test_processes_evaluate_and_exchange_what_is_predicted(tmp_path: Path, two: list):
    batches = weight_batches(TERMS, build_tap(build_on_meta(NANO).backbone))
    one = count(1, [*TERMS, PATCH], tmp_path / 'one')
    for processes, counts in ((1, one), (2, two)):
        for matrices, messages, _ in counts:
            assert matrices == [batch.most(processes) for batch in batches]
            assert messages == [message for batch in batches for message in batch.messages]
    assert [(batch.most(1), batch.most(2)) for batch in batches] == [(12, 6), (4, 2)]


def test_terms_add_nothing_to_the_all_reduce_of_gradients(tmp_path: Path, two: list):
    plain = count(2, [], tmp_path / 'plain')
    expected = [nano_costs()['gradient_bytes']] * 2
    assert [gradients for *_, gradients in plain] == expected
    assert [gradients for *_, gradients in two] == expected


# From one device and one batch size to others

def test_image_terms_are_a_part_of_a_step_and_weight_terms_are_seconds():
    small, large = (nano_costs(processes=[1], batch_size=size) for size in (8, 80))
    assert (small['plain_seconds'], large['plain_seconds']) == (4., 40.)
    assert [model['arms']['patch']['seconds'] for model in (small, large)] == [2., 20.]
    assert [model['arms']['weight']['seconds'] for model in (small, large)] == [2., 2.]
    assert large['arms']['patch+weight']['seconds'] == 22.


def test_a_faster_device_has_the_same_ratios():
    model = nano_costs(processes=[1], batch_size=8, step_seconds=0.4)
    assert model['arms']['patch+weight']['steps'][0]['overhead'] == pytest.approx(1.)


def test_parameters_are_those_of_the_model():
    model = digits_model_parameters()
    assert nano_costs()['parameters'] == model


def digits_model_parameters() -> int:
    from mmengine.config import Config
    from mmpretrain.registry import MODELS
    return sum(p.numel() for p in MODELS.build(Config.fromfile(NANO).model).parameters())


def test_a_larger_model_costs_as_many_times_more_as_operations_are_counted(tmp_path: Path):
    wide = tmp_path / 'wide.py'
    wide.write_text(f'_base_ = [{NANO!r}]\n'
                    'model = dict(backbone=dict(arch=dict(embed_dims=96)),'
                    ' head=dict(in_channels=96))')
    costs = MeasuredCosts(dict(file=measured(weight=[TERMS[0]])))
    models = distributed_costs(costs, ROUND, ['weight'], [str(wide)])['models']
    first, second = models[NANO], models[str(wide)]
    assert (first['scaled'], second['scaled']) == (False, True)
    # Power iteration is linear in the entries; most of a step is, too.
    assert second['arms']['weight']['seconds'] == pytest.approx(
        4 * first['arms']['weight']['seconds'])
    assert 3 < second['plain_seconds'] / first['plain_seconds'] < 4


def test_the_size_of_a_model_is_read_from_it():
    assert size_of(build_tap(build_on_meta(NANO).backbone)) == Size(65, 3, 4, 48)


def test_costs_of_another_family_are_not_guessed():
    costs = MeasuredCosts(dict(file=measured(weight=TERMS)))
    with pytest.raises(ValueError, match='scaled.*VisionTransformer alone, but got SwinTransform'):
        distributed_costs(costs, ROUND, ['weight'], [str(DIGITS / 'swin-nano_digits.py')])


@pytest.mark.parametrize(('files', 'message'), [
    (dict(a={}), r"--overhead a should be a file of .*overhead.py.*KeyError\('config'\)"),
    (dict(a=measured()), '--overhead a holds no plain steps'),
    (dict(a=measured(x=[PATCH]), b={**measured(y=[PATCH]), 'machine': 'another'}),
     '--overhead b was measured with another machine than a'),
])
def test_files_that_do_not_fit_are_named(files: Mapping[str, dict], message: str):
    with pytest.raises(ValueError, match=message):
        MeasuredCosts(files)


@pytest.mark.parametrize(('arm', 'message'), [
    ('other', "--arms: 'other' was not measured beside a plain step, only 'patch', 'both'"),
    ('patch+both', "--arms: 'both' has terms at weight level and at others.*official_weight"),
])
def test_arms_that_cannot_be_used_are_named(arm: str, message: str):
    costs = MeasuredCosts(dict(file=measured(patch=[PATCH], both=[PATCH, *TERMS])))
    with pytest.raises(ValueError, match=message):
        distributed_costs(costs, ROUND, [arm])


@pytest.mark.parametrize(('option', 'message'), [
    (dict(batch_size=0), '`batch_size` must be finite and above 0'),
    (dict(step_seconds=0.), '`step_seconds` must be finite and above 0'),
    (dict(processes=[8, 0]), '`gpus` must be finite and above 0'),
])
def test_numbers_out_of_range_are_named(option: dict, message: str):
    with pytest.raises(ValueError, match=message):
        nano_costs(**option)


# The page

@pytest.mark.parametrize('path', FIGURES, ids=lambda path: path.stem)
def test_page_file_and_function_agree(path: Path):
    kept = json.loads(path.read_text(encoding='utf-8'))
    files = {name: json.loads((ROOT / name).read_text(encoding='utf-8'))
             for name in kept.pop('overhead')}
    assumptions, models = kept['assumptions'], list(kept['models'])
    arms = kept['models'][models[0]]['arms']
    names = [field.name for field in fields(Cluster)]
    result = distributed_costs(
        MeasuredCosts(files), Cluster(**{name: assumptions.pop(name) for name in names}),
        list(arms), models[1:], [step['processes'] for step in next(iter(arms.values()))['steps']],
        **assumptions)
    kept = json.loads(path.read_text(encoding='utf-8'))
    assert json.loads(json.dumps(result)) == {key: kept[key] for key in result}
    page = PAGE.read_text(encoding='utf-8')
    assert insert_table(page, path.stem, costs_text(result)) == page


def test_every_table_of_the_page_has_its_file_and_its_command():
    page = PAGE.read_text(encoding='utf-8')
    names = [path.stem for path in FIGURES]
    assert names == sorted(re.findall(r'<!-- (distributed_\w+): begin -->', page))
    assert len(names) == 2
    assert all(f'--out docs/benchmarks/{name}.json' in page for name in names)


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    def run(*words: object) -> None:
        path = ROOT / 'tools' / 'benchmarks' / 'distributed.py'
        monkeypatch.setattr(sys, 'argv', [str(path), *map(str, words)])
        runpy.run_path(str(path), run_name='__main__')
    return run


def test_command_line(tool: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture):
    overhead, out, page = (tmp_path / name for name in ('costs.json', 'out.json', 'page.md'))
    overhead.write_text(json.dumps(measured(patch=[PATCH], weight=TERMS)))
    page.write_text('<!-- out: begin -->\n<!-- out: end -->\n')
    tool('--overhead', overhead, '--arms', 'patch', 'weight', '--gpus', 1, 16, '--out', out,
         '--page', page, '--bandwidth-between', 1, '--latency-between', 2, '--overlap', 0.25)
    printed = capsys.readouterr().out
    assert 'Measured: this one (cpu, 2 threads), fp32, batch 8.' in printed
    assert '1 GB/s between nodes; latencies of 5 and 2 microseconds; 25 %' in printed
    assert '| deit-nano | `patch` | 32 s | 50.00 % | ' in printed
    assert printed.strip() in page.read_text(encoding='utf-8')
    kept = json.loads(out.read_text())
    assert kept['assumptions']['bandwidth_between'] == 1e9
    assert [step['processes'] for step in kept['models'][NANO]['arms']['patch']['steps']] == [1, 16]


def test_command_line_says_what_is_wrong(tool: Callable[..., None], tmp_path: Path):
    overhead = tmp_path / 'costs.json'
    overhead.write_text(json.dumps(measured(patch=[PATCH])))
    with pytest.raises(SystemExit, match="ValueError: --arms: 'attention' was not measured"):
        tool('--overhead', overhead)
    with pytest.raises(SystemExit, match='FileNotFoundError.*missing.json'):
        tool('--overhead', tmp_path / 'missing.json')


def test_a_page_without_a_file_is_refused(tool: Callable[..., None], tmp_path: Path,
                                         capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit):
        tool('--overhead', 'costs.json', '--page', tmp_path / 'page.md')
    assert '--page needs --out, whose name its marks have' in capsys.readouterr().err


def test_an_unmeasured_step_is_said_to_be_assumed():
    result = distributed_costs(MeasuredCosts(dict(file=measured(patch=[PATCH]))), ROUND, ['patch'],
                               step_seconds=0.1)
    assert 'Assumed: 128 images per GPU; a plain step of 100 ms; 4 GPUs' in costs_text(result)


