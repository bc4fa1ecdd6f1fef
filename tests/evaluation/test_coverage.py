"""Trying the taps of backbones."""
import runpy
import sys
from pathlib import Path

import pytest
import torch

from mmdiverse.evaluation import coverage
from mmdiverse.evaluation.coverage import (
    Candidate,
    coverage_tables,
    find_candidates,
    timm_candidates,
    try_candidate,
)
from mmdiverse.taps.vit import VisionTransformerTap

ARCH = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=24)
VIT = dict(type='VisionTransformer', arch=ARCH, img_size=12, patch_size=4)


def candidate(**backbone: object) -> Candidate:
    return Candidate(backbone, ['folder/file.py'], (3, 12, 12))


def test_every_level_of_a_backbone_is_tried() -> None:
    result = try_candidate(candidate(**VIT))
    assert (result['tap'], result['blocks']) == ('VisionTransformerTap', 2)
    assert result['attention'] == [0, 1] and result['refused'] == {}
    assert result['matrices'] == ['q', 'k', 'v', 'proj', 'fc1', 'fc2']


def test_what_a_tap_refuses_has_its_reason() -> None:
    result = try_candidate(Candidate(dict(type='EdgeNeXt', arch='xxsmall'), ['edge'], (3, 64, 64)))
    assert result['attention'] == [] and 'channel' in result['refused']['attention']


@pytest.mark.parametrize('method, wrong, message', [
    ('block_output', lambda tap, output: output.mul_(2), 'outputs of the backbone change'),
    ('_split_heads', lambda tap, tensor, layer: tensor * 2, 'maps times values differ by'),
    ('detach', lambda tap: None, 'a hook is left'),
    ('prefix_at', lambda tap, layer: 2, '1 tokens before the patches are the same for every image, '
     'but the tap leaves out 2'),
    ('prefix_at', lambda tap, layer: 0, 'the tap leaves out 0'),
])
def test_a_tap_that_breaks_the_contract_is_found(monkeypatch, method, wrong, message) -> None:
    kind = VisionTransformerTap if method != '_split_heads' else coverage.build_tap(
        coverage.MODELS.build(BEIT)).__class__
    monkeypatch.setattr(kind, method, wrong)
    backbone = BEIT if method == '_split_heads' else VIT
    assert message in try_candidate(candidate(**backbone))['broken']


BEIT = dict(type='mmpretrain.BEiTViT', arch=ARCH, img_size=12, patch_size=4)


def test_a_backbone_without_tap_is_told_by_whether_it_has_attention(monkeypatch) -> None:
    assert try_candidate(Candidate(dict(type='ResNet', depth=18), ['r'], (3, 32, 32)))[
        'attentions'] == 0
    monkeypatch.setattr(VisionTransformerTap, 'matches', lambda backbone: False)
    assert try_candidate(candidate(**VIT))['attentions'] == 2


def test_what_the_host_cannot_build_is_its_failure() -> None:
    assert 'num_stages' in try_candidate(candidate(**VIT, num_stages=1))['failed']


def test_a_large_backbone_is_not_tried() -> None:
    result = try_candidate(candidate(**VIT), max_parameters=100)
    assert result['skipped'] and 'tap' not in result


def test_configs_with_the_same_backbone_are_one_candidate() -> None:
    shapes = [each.image_shape for each in find_candidates(['deit/deit-base'])]
    assert shapes.count((3, 384, 384)) == 2
    found = find_candidates(['vision_transformer/vit-base-p16_'])
    assert sum(len(each.configs) for each in found) > len(found)


@pytest.mark.parametrize('name, channels, size', [
    ('resnet/resnet50_8xb32_in1k', 3, 224), ('beit/beit_beit-base', 3, 224),
    ('simmim/simmim_swin-base', 3, 192), ('beit/benchmarks/beit-base', 3, 224),
    ('lenet/', 1, 32)])
def test_images_are_those_that_the_pipeline_leaves(name: str, channels: int, size: int) -> None:
    assert {each.image_shape for each in find_candidates([name])} == {(channels, size, size)}


@pytest.mark.parametrize('backbone', [
    dict(type='MILANViT', arch=ARCH, img_size=12, patch_size=4),
    dict(type='iTPNHiViT', arch=dict(embed_dims=16, depths=[1, 4], num_heads=2), inner_patches=2,
         img_size=12, patch_size=4, out_indices=[3], reconstruction_type='clip'),
], ids=lambda backbone: backbone['type'])
def test_backbone_that_is_told_what_to_hide_sees_all(backbone: dict) -> None:
    result = try_candidate(candidate(**backbone))
    assert result['attention'] == list(range(result['blocks'])) and result['refused'] == {}


def test_tokens_in_two_streams_are_checked_too() -> None:
    result = try_candidate(candidate(type='RevVisionTransformer', arch=ARCH, img_size=12,
                                     patch_size=4))
    assert 'broken' not in result and result['blocks'] == 2


def test_models_of_timm_have_their_image_shape_and_class() -> None:
    found, = timm_candidates(['vit_base_patch16_384'])
    assert found.image_shape == (3, 384, 384)
    result = try_candidate(found, max_parameters=1)
    assert result['class'] == 'VisionTransformer'


@pytest.mark.parametrize('name', ['coat_tiny', 'crossvit_tiny_240'])
def test_models_that_pool_are_tried_too(name: str) -> None:
    assert 'failed' not in try_candidate(*timm_candidates([name]))


def test_no_weights_are_loaded() -> None:
    lora = dict(type='LoRAModel', module=dict(VIT, init_cfg=dict(
        type='Pretrained', checkpoint='')), alpha=1, rank=1, targets=[dict(type='qkv')])
    result = try_candidate(candidate(**lora))
    assert (result['tap'], result['attention']) == ('VisionTransformerTap', [0, 1])


def test_tables_have_a_row_for_each_class_and_what_it_supports() -> None:
    known = dict(tap='ATap', blocks=2, attention=[0, 1], matrices=coverage.MATRICES, refused={})
    some = dict(known, attention=[1], matrices=['q'], refused=dict(attention='for a reason'))
    tables = coverage_tables({
        'a': {'class': 'A', 'configs': ['a', 'b'], **known},
        'c': {'class': 'A', 'configs': ['c'], **some},
        'd': {'class': 'Net', 'configs': ['d'], 'attentions': 0},
        'e': {'class': 'Other', 'configs': ['e'], 'attentions': 3},
        'f': {'class': 'A', 'configs': ['f'], 'failed': 'KeyError: x'},
        'g': {'class': 'A', 'configs': ['g'], **known},
        'timm:b': {'class': 'B', 'configs': ['timm:b'], **known},
        'timm:c': {'class': 'C', 'configs': ['timm:c'], 'attentions': 0},
        'timm:a': {'class': 'B', 'configs': ['timm:a'], **known},
    })
    assert tables['coverage-mmpretrain'].splitlines()[2:] == [
        '| A | yes | some blocks (1) | q | 1 | 1 |',
        '| A | yes | yes | yes | 3 | 2 |',
        '', '1. for a reason']
    assert tables['coverage-timm'].splitlines()[2:] == ['| B | yes | yes | yes | a, b |']
    assert tables['coverage-others'].splitlines()[2:] == [
        '| e | Other | no tap; 3 attentions with maps |',
        '| f | A | cannot be run alone: KeyError: x |',
        '| timm:c | C | no tap; no attentions with maps |']


def test_the_tool_writes_tables_and_goes_on(tmp_path: Path, monkeypatch, capsys) -> None:
    page, out = tmp_path / 'page.md', tmp_path / 'found.json'
    page.write_text('\n'.join(f'<!-- coverage-{name}: {end} -->'
                              for name in ('mmpretrain', 'timm', 'others')
                              for end in ('begin', 'end')))
    tool = str(Path(__file__).parents[2] / 'tools' / 'analysis' / 'coverage.py')
    monkeypatch.setattr(sys, 'argv', [tool, '--match', 'deit/deit-tiny', '--out', str(out),
                                      '--insert', str(page)])
    runpy.run_path(tool, run_name='__main__')
    assert '| VisionTransformer | yes | yes | yes | 1 | 1 |' in page.read_text()
    assert 'DeiT' not in capsys.readouterr().err
    monkeypatch.setattr(coverage, 'try_candidate', lambda *args: torch.empty(-1))
    runpy.run_path(tool, run_name='__main__')
