"""The benchmarks, run as a user runs them but on tiny models, and what they measure with."""
import json
import platform
import runpy
import sys
from pathlib import Path
from typing import Any

import cv2
import pytest
import torch
from mmpretrain.models.utils.batch_augments import Mixup

from mmdiverse.config import load_config
from mmdiverse.evaluation import overhead
from mmdiverse.evaluation.measurement import (
    ResultsFile,
    machine_name,
    peak_memory,
    quartiles,
)
from mmdiverse.evaluation.overhead import TrainingSteps, measure, recipe_arm, term_arms
from mmdiverse.evaluation.scaling import (
    AXES,
    Size,
    SyntheticTap,
    compare_maps,
    count_operations,
    fit_exponent,
    scaling_terms,
    sizes_along,
)
from mmdiverse.registry import LOSSES

ROOT = Path(__file__).parents[2]
NANO = str(ROOT / 'configs' / 'digits' / 'deit-nano_digits.py')
SWIN = str(ROOT / 'configs' / 'digits' / 'swin-nano_digits.py')
CPU = torch.device('cpu')
MEBI = 2**20


@pytest.fixture
def tool(monkeypatch):
    """Runs a benchmark with arguments and gives its exit status."""

    def run(name: str, *args: object) -> int | str | None:
        monkeypatch.setattr(sys, 'argv', [name, *map(str, args)])
        with pytest.raises(SystemExit) as end:
            runpy.run_path(str(ROOT / 'tools' / 'benchmarks' / name), run_name='__main__')
        return end.value.code

    return run


def measure_nano(tool, out: Path, *args: object) -> dict:
    assert tool('overhead.py', NANO, '--pairs', 2, '--batch-size', 4, '--device', 'cpu',
                '--out', out, *args) == 0
    return json.loads(out.read_text())


@pytest.fixture(scope='module')
def steps() -> TrainingSteps:
    return TrainingSteps(load_config(NANO), batch_size=4, img_size=8)


# overhead.py

@pytest.mark.parametrize(('size', 'images', 'shown'), [
    ((16, 16), (16, 16), 16), ([16, 8], (16, 8), (16, 8))])
def test_images_have_the_size_of_the_backbone_however_it_is_given(
        size: Any, images: tuple[int, int], shown: Any) -> None:
    cfg = load_config(NANO)
    cfg.model.backbone.img_size = size
    steps = TrainingSteps(cfg, batch_size=2)
    assert (steps._images.shape[2:], steps.img_size) == (images, shown)


def test_overhead_measures_fragment_and_recipe(tool, tmp_path: Path, capsys) -> None:
    report = measure_nano(tool, tmp_path / 'out.json', '--fragments', 'official', '--recipe')
    assert report['versions']['torch'] == str(torch.__version__)
    assert (report['batch_size'], report['img_size'], report['precision']) == (4, 16, 'fp32')
    assert list(report['results']) == ['official', 'official with mixing']
    for result in report['results'].values():
        low, high = result['quartiles']
        assert 0 < low <= result['median_ratio'] <= high
        assert len(result['plain_seconds']) == len(result['diverse_seconds']) == 2
        assert result['diverse_peak_bytes'] > result['plain_peak_bytes'] > MEBI
        assert result['memory_ratio'] > 1
        assert result['baseline'] == 'plain'
    assert cv2.imread(str(tmp_path / 'out.png')).std() > 5
    output = capsys.readouterr()
    assert 'official with mixing' in output.out and 'left' in output.err


def test_overhead_goes_on_where_it_was_interrupted(tool, tmp_path: Path, monkeypatch,
                                                   capsys) -> None:
    out = tmp_path / 'out.json'
    args = ('--fragments', 'patch', 'weight', '--img-size', 8)

    def interrupted(steps, arm, pairs, on_pair):
        if arm.name == 'weight':
            raise KeyboardInterrupt
        return measure(steps, arm, pairs, on_pair)

    with monkeypatch.context() as patch:
        patch.setattr(overhead, 'measure', interrupted)
        assert tool('overhead.py', NANO, '--pairs', 2, '--batch-size', 4, '--device', 'cpu',
                    '--out', out, *args) == 1
    assert 'Interrupted' in capsys.readouterr().err
    first = json.loads(out.read_text())['results']
    assert list(first) == ['patch']
    results = measure_nano(tool, out, *args)['results']
    assert list(results) == ['patch', 'weight'] and results['patch'] == first['patch']
    again = measure_nano(tool, out, *args, '--restart')['results']
    assert again['patch'] != first['patch']


def test_overhead_reports_terms_that_do_not_fit(tool, capsys) -> None:
    # The stages of a Swin differ in width, and `patch` contrasts the first layer with the last.
    assert tool('overhead.py', SWIN, '--fragments', 'patch', 'weight', '--pairs', 2,
                '--batch-size', 2, '--device', 'cpu') == 1
    output = capsys.readouterr()
    assert 'patch: DiversityHook term' in output.err and 'equal shapes' in output.err
    assert '\nweight' in output.out


def test_overhead_refuses_what_it_cannot_do(tool, tmp_path: Path, capsys) -> None:
    assert tool('overhead.py', NANO, '--pairs', 1) == 2
    assert '--pairs must be at least 2' in capsys.readouterr().err
    assert "'bf16'" in tool('overhead.py', NANO, '--amp', 'fp16', '--device', 'cpu')
    out = tmp_path / 'out.json'
    ResultsFile(out, dict(pairs=3)).add('arm', {})
    assert 'another' in tool('overhead.py', NANO, '--device', 'cpu', '--out', out)


def test_arms_are_all_losses_at_all_levels() -> None:
    arms = {arm.name: arm for arm in term_arms()}
    expected = {f'{name} on {level}' for name, loss in LOSSES.module_dict.items()
                for level in loss.levels}
    methods = {'ConditionalOrthogonalityLoss on weight, power', 'SRIPLoss on weight, power',
               'ConditionalOrthogonalityLoss on weight, official'}
    assert set(arms) == expected | methods
    assert {arm.baseline for arm in arms.values()} == {'plain', 'mixing'}
    assert arms['CosineLoss on patch'].terms == [dict(type='CosineLoss', on='patch', weight=1)]


@pytest.mark.parametrize('name', [
    'ConditionalOrthogonalityLoss on weight, power', 'ContrastiveLoss on attention',
    'GradientDiversityLoss on patch'])
def test_terms_are_measured_alone(steps: TrainingSteps, name: str) -> None:
    arm = next(arm for arm in term_arms() if arm.name == name)
    pairs = []
    result = measure(steps, arm, 2, lambda: pairs.append(1))
    assert len(pairs) == 2 + overhead.WARM_UP
    assert result['baseline'] == ('mixing' if 'Gradient' in name else 'plain')
    # A power iteration keeps where it ended.
    assert (result['diverse_persistent_bytes'] > result['plain_persistent_bytes']) == (
        'power' in name)


def test_plain_step_is_mmpretrains(steps: TrainingSteps) -> None:
    plain = steps.model('plain')
    assert type(plain.data_preprocessor.batch_augments.augments[0]) is Mixup
    assert type(plain.head).__module__.startswith('mmpretrain')
    assert not plain._forward_hooks and not plain._forward_pre_hooks


def test_both_models_train_the_same_parameters(steps: TrainingSteps) -> None:
    plain, mixing = (steps.model(name).state_dict(keep_vars=True) for name in ('plain', 'mixing'))
    assert plain.keys() == mixing.keys()
    assert all(value is mixing[name] for name, value in plain.items())


def test_a_diversified_config_is_measured_beside_its_plain_twin() -> None:
    diverse = TrainingSteps(load_config(NANO.replace('nano', 'nano_diverse')), 2)
    assert type(diverse.model('plain').head).__module__.startswith('mmpretrain')


def test_bfloat16_on_a_cpu() -> None:
    steps = TrainingSteps(load_config(NANO), 2, img_size=8, amp='bf16')
    dtypes = []
    steps.model('plain').backbone.layers[0].attn.qkv.register_forward_hook(
        lambda module, args, output: dtypes.append(output.dtype))
    assert measure(steps, recipe_arm(), 2)['median_ratio'] > 0
    assert set(dtypes) == {torch.bfloat16}


# measurement

def test_peak_of_a_known_pattern() -> None:
    kept = []

    def allocate() -> None:
        first, second = torch.empty(4 * MEBI, dtype=torch.uint8), torch.empty(MEBI)  # 4, then 8
        del first
        kept.append(torch.empty(6 * MEBI, dtype=torch.uint8))  # 10
        del second

    before = torch.empty(20 * MEBI, dtype=torch.uint8)
    assert peak_memory(allocate, CPU) == 10 * MEBI and len(before)


def test_peak_sees_the_backward_pass() -> None:
    x = torch.ones(MEBI, requires_grad=True)
    # The exponential is kept until the gradient, as large, is there.
    assert 8 * MEBI <= peak_memory(lambda: x.exp().sum().backward(), CPU) < 8.1 * MEBI


def test_processor_has_a_name() -> None:
    cpuinfo = Path('/proc/cpuinfo')
    if not cpuinfo.exists() or 'model name' not in cpuinfo.read_text():
        pytest.skip('this system does not tell')
    assert machine_name(CPU) not in ('', platform.machine())


def test_quartiles() -> None:
    assert quartiles([1., 2., 3., 4., 5.]) == (1.5, 3., 4.5)


def test_results_file_says_what_is_in_its_way(tmp_path: Path) -> None:
    path = tmp_path / 'results.json'
    ResultsFile(path, dict(pairs=3)).add('arm', dict(ratio=1.))
    assert ResultsFile(path, dict(pairs=3)).results == {'arm': dict(ratio=1.)}
    with pytest.raises(ValueError, match='another pairs; .* --restart'):
        ResultsFile(path, dict(pairs=4))
    assert ResultsFile(path, dict(pairs=4), restart=True).results == {}
    path.write_text('[]')
    with pytest.raises(ValueError, match='--out .* should hold results'):
        ResultsFile(path, dict(pairs=3))


# scaling.py

def test_scaling_measures_every_axis(tool, tmp_path: Path, capsys) -> None:
    out = tmp_path / 'out.json'
    args = ('--quick', '--repeats', 2, '--device', 'cpu', '--out', out)
    assert tool('scaling.py', *args) == 0
    report = json.loads(out.read_text())
    assert len(report['results']) == sum(len(scaling_terms(axis)) for axis in AXES)
    result = report['results']['CosineLoss on attention: tokens']
    assert len(result['seconds']) == len(result['fused_bytes']) == len(result['values']) == 3
    assert max(result['gradient_difference']) < 1e-4
    assert 'fused_bytes' not in report['results']['CosineLoss on patch: tokens']
    assert cv2.imread(str(out.with_suffix('.png'))).std() > 5
    assert tool('scaling.py', *args) == 0
    assert json.loads(out.read_text()) == report
    assert 'SRIPLoss on weight, power: width' in capsys.readouterr().out


def test_scaling_compares_the_memory_of_attention(tool, tmp_path: Path, capsys) -> None:
    out = tmp_path / 'out.json'
    assert tool('scaling.py', '--attention-memory', '--quick', '--device', 'cpu',
                '--out', out) == 0
    assert json.loads(out.read_text())['results']['attention memory']['stored_bytes'] > MEBI
    assert 'ratio' in capsys.readouterr().out


def test_maps_that_are_never_stored_take_less_than_a_tenth_of_their_memory() -> None:
    term = dict(type='CosineLoss', on='attention', layers='all', weight=1)
    result = compare_maps(term, Size(tokens=1025), 1, CPU)
    maps = 12 * 6 * 1025**2 * 4  # of twelve layers with six heads
    assert result['stored_bytes'] > maps
    assert result['fused_bytes'] < 0.1 * maps
    assert result['fused_error'] < 1e-4


def test_records_are_those_of_the_taps() -> None:
    size = Size(tokens=17, heads=3, layers=2, width=48)
    tap = SyntheticTap(size, 2, CPU)
    assert tap.records('patch', 1)[0].shape == (2, 16, 48)  # without the class token
    assert tap.records('maps', 1)[0].shape == (2, 3, 17**2)
    assert tap.records('weight', 1)[0].shape == (3, 48, 48)


def test_exponent_of_a_power_law() -> None:
    assert fit_exponent([1, 2, 4], [3, 12, 48]) == pytest.approx(2)


@pytest.mark.parametrize('axis, least, most', [('layers', 1, 1), ('heads', 1, 1.3),
                                               ('tokens', 0.7, 3), ('width', 0.1, 3)])
def test_every_term_has_an_operation_count(axis: str, least: float, most: float) -> None:
    for name, term in scaling_terms(axis).items():
        counts = [count_operations(term, size, CPU) for size in sizes_along(axis, AXES[axis])]
        exponent = fit_exponent(AXES[axis], counts)
        assert least - 1e-9 <= exponent <= most + 1e-9, name


@pytest.mark.parametrize('name, exponent', [
    ('RankCollapseLoss on patch', 1), ('CosineLoss on patch', 1),
    ('HypersphericalEnergyLoss on patch', 2), ('GramDeterminantLoss on patch', 3),
    ('CosineLoss on attention', 2)])
def test_leading_operations_in_many_tokens(name: str, exponent: float) -> None:
    tokens = (10**5, 10**6)
    counts = [count_operations(scaling_terms('tokens')[name], Size(tokens=n), CPU) for n in tokens]
    assert fit_exponent(tokens, counts) == pytest.approx(exponent, abs=0.05)


def test_a_loss_without_operation_count_is_named() -> None:
    with pytest.raises(ValueError, match='no operation count .* GradientDiversityLoss'):
        count_operations(dict(type='GradientDiversityLoss', on='patch', weight=1), Size(), CPU)


def test_more_heads_keep_their_channels_and_more_width_its_heads() -> None:
    assert [size.width for size in sizes_along('heads', (3, 12))] == [192, 768]
    assert [size.heads for size in sizes_along('width', (192, 768))] == [6, 6]


def test_scaling_adds_an_axis_to_a_file(tool, tmp_path: Path) -> None:
    out = tmp_path / 'out.json'
    args = ('--quick', '--repeats', 2, '--device', 'cpu', '--out', out, '--axes')
    assert tool('scaling.py', *args, 'heads') == 0
    first = json.loads(out.read_text())['results']
    assert tool('scaling.py', *args, 'heads', 'layers') == 0
    results = json.loads(out.read_text())['results']
    assert len(results) > len(first) and {name: results[name] for name in first} == first


def test_scaling_refuses_what_it_cannot_do(tool, capsys) -> None:
    assert tool('scaling.py', '--repeats', 1) == 2
    assert '--repeats must be at least 2' in capsys.readouterr().err
