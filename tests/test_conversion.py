"""Converted weights: equal logits in timm and MMPretrain, both ways, and what is refused."""
import argparse
import re
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from mmengine.registry import DefaultScope
from mmpretrain.registry import MODELS
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmdiverse.conversion import convert, convert_file

CLASSES = 5


def build(backbone: dict, head: str, neck: dict | None = None) -> nn.Module:
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(dict(
            type='ImageClassifier', backbone=backbone, neck=neck,
            head=dict(type=head, in_channels=32, num_classes=CLASSES))).double().eval()


def vit(kind: str = 'VisionTransformer', head: str = 'VisionTransformerClsHead',
        **options) -> nn.Module:
    arch = dict(embed_dims=32, num_layers=3, num_heads=2, feedforward_channels=64)
    return build(dict(type=kind, arch=arch, img_size=32, patch_size=8, **options), head)


def swin() -> nn.Module:
    return build(dict(type='SwinTransformer', window_size=4, img_size=64, patch_size=2,
                      arch=dict(embed_dims=8, depths=[2, 2, 1], num_heads=[2, 2, 4]),
                      out_indices=(2, )),
                 'LinearClsHead', dict(type='GlobalAveragePooling'))


VIT_OPTIONS = dict(img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2, mlp_ratio=2,
                   num_classes=CLASSES)
PAIRS = {
    'vit': (vit, lambda: timm.create_model('vit_tiny_patch16_224', **VIT_OPTIONS)),
    'vit-layer-scale': (
        lambda: vit(layer_scale_init_value=0.1),
        lambda: timm.create_model('vit_tiny_patch16_224', init_values=0.1, **VIT_OPTIONS)),
    'vit-average-pooling': (
        lambda: vit(out_type='avg_featmap', final_norm=False),
        lambda: timm.create_model('vit_tiny_patch16_224', global_pool='avg', **VIT_OPTIONS)),
    'deit-distilled': (
        lambda: vit('DistilledVisionTransformer', 'DeiTClsHead'),
        lambda: timm.create_model('deit_tiny_distilled_patch16_224', **VIT_OPTIONS)),
    'mae': (
        lambda: vit(head='LinearClsHead', out_type='avg_featmap', final_norm=False),
        lambda: timm.create_model('vit_tiny_patch16_224', global_pool='avg', **VIT_OPTIONS)),
    'swin': (swin, lambda: timm.create_model(
        'swin_tiny_patch4_window7_224', img_size=64, window_size=4, patch_size=2, embed_dim=8,
        depths=(2, 2, 1), num_heads=(2, 2, 4), num_classes=CLASSES)),
}
pairs = pytest.mark.parametrize('name', PAIRS)
#: Heads that are not what the keys of timm are given by default.
HEAD = {'mae': 'LinearClsHead'}


def fill(model: nn.Module) -> nn.Module:
    """Weights that make a wrong key, or a wrong order, change the logits."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model.double().eval()


@torch.no_grad()
def logits(model: nn.Module, name: str) -> Tensor:
    side = 64 if name == 'swin' else 32
    images = torch.randn(2, 3, side, side, dtype=torch.float64,
                         generator=torch.Generator().manual_seed(1))
    output = model.head(model.extract_feat(images)) if hasattr(model, 'extract_feat') else \
        model(images)
    return sum(output) / 2 if isinstance(output, tuple) else output  # DeiT has two heads


@pairs
def test_timm_weights_give_equal_logits_in_mmpretrain(name: str) -> None:
    make, make_timm = PAIRS[name]
    theirs, ours = fill(make_timm()), make()
    ours.load_state_dict(convert(theirs.state_dict(), HEAD.get(name)).state)
    torch.testing.assert_close(logits(ours, name), logits(theirs, name), rtol=1e-9, atol=1e-9)


@pairs
def test_mmpretrain_weights_give_equal_logits_in_timm(name: str) -> None:
    make, make_timm = PAIRS[name]
    ours, theirs = fill(make()), make_timm().double().eval()
    theirs.load_state_dict(convert(ours.state_dict()).state)
    torch.testing.assert_close(logits(theirs, name), logits(ours, name), rtol=1e-9, atol=1e-9)


@pairs
def test_there_and_back_changes_nothing(name: str) -> None:
    state = fill(PAIRS[name][0]()).state_dict()
    there = convert(state)
    back = convert(there.state, HEAD.get(name))
    assert (there.layout, back.layout) == ('timm', 'mmpretrain')
    assert back.state.keys() == state.keys()
    for key, value in state.items():
        assert torch.equal(back.state[key], value), key


def test_the_authors_swin_counts_merging_to_the_stage_before() -> None:
    state = fill(PAIRS['swin'][1]()).state_dict()
    older = {re.sub(r'(\d)(?=\.downsample)', lambda found: str(int(found[0]) - 1), key)
             .replace('head.fc', 'head'): value for key, value in state.items()}
    older['layers.0.blocks.1.attn_mask'] = torch.zeros(1)  # a buffer that they store
    expected, actual = convert(state).state, convert(older).state
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[key], expected[key]) for key in expected)


def test_a_backbone_without_head_is_converted_too() -> None:
    state = {key: value for key, value in vit().state_dict().items()
             if key.startswith('backbone.')}
    assert convert(convert(state).state).state.keys() == state.keys()


@pytest.mark.parametrize('wrapper', ['module.', 'model.', '_orig_mod.module.', 'model._orig_mod.',
                                     'net.encoder.'])
@pytest.mark.parametrize('side', [0, 1])
def test_what_a_training_loop_puts_in_front_is_dropped(wrapper: str, side: int) -> None:
    state = fill(PAIRS['vit'][side]()).state_dict()
    wrapped = {wrapper + key: value for key, value in state.items()}
    expected, actual = convert(state), convert(wrapped | {'criterion.weight': torch.ones(CLASSES)})
    assert actual.left_out == ('criterion.weight', ) and not expected.left_out
    assert actual.state.keys() == expected.state.keys()
    assert all(torch.equal(actual.state[key], expected.state[key]) for key in expected.state)


def test_a_student_and_its_teacher_are_not_guessed_between() -> None:
    state = PAIRS['vit'][1]().state_dict()
    both = {f'{who}.{key}': value for key, value in state.items() for who in ('teacher', 'student')}
    with pytest.raises(ValueError, match=r"the model 2 times, below 'student\.', 'teacher\.'"):
        convert(both)


def test_a_training_checkpoint_of_timm_with_its_options(tmp_path: Path) -> None:
    state = fill(PAIRS['vit'][1]()).state_dict()
    averaged = {key: value + 1 for key, value in state.items()}
    options = argparse.Namespace(lr=1e-3, output=Path('output'), drop=None)
    torch.save(dict(epoch=1, arch='vit', state_dict=state, args=options,
                    optimizer=dict(state={}, param_groups=[])), tmp_path / 'plain.pth.tar')
    torch.save(dict(state_dict=state, state_dict_ema=averaged, args=options),
               tmp_path / 'both.pth.tar')
    torch.save(dict(model=state, model_ema=averaged, args=options), tmp_path / 'deit.pth')
    for source, expected in ((f'{tmp_path}/plain.pth.tar', state),
                             (f'model:{tmp_path}/both.pth.tar', state),
                             (f'ema:{tmp_path}/both.pth.tar', averaged),
                             (f'ema:{tmp_path}/deit.pth', averaged)):
        written = convert_file(source, tmp_path / 'ours.pth').state
        assert torch.equal(written['backbone.cls_token'], expected['cls_token'])
    with pytest.raises(ValueError, match=r'both\.pth\.tar holds averaged weights '
                       r'\(`state_dict_ema`\).*say which: ema:.* or model:'):
        convert_file(tmp_path / 'both.pth.tar', tmp_path / 'ours.pth')
    with pytest.raises(ValueError, match='holds no averaged weights'):
        convert_file(f'ema:{tmp_path}/plain.pth.tar', tmp_path / 'ours.pth')


@pytest.mark.parametrize(('key', 'reason'), [
    ('head.layers.pre_logits.weight', '`hidden_dim`'),
    ('neck.mask_token', 'the weights of its backbone alone'),
    ('head.layers.other.weight', 'this head is not convertible'),
])
def test_what_is_not_convertible_is_said(key: str, reason: str) -> None:
    with pytest.raises(ValueError, match=f'got {re.escape(key)}: .*{reason}'):
        convert({**vit().state_dict(), key: torch.zeros(1)})


def test_a_head_is_chosen_only_where_there_is_a_choice() -> None:
    with pytest.raises(ValueError, match="`head` must be one of .* but got 'fc'"):
        convert(PAIRS['vit'][1]().state_dict(), head='fc')
    for state in (vit().state_dict(), swin().state_dict(), PAIRS['swin'][1]().state_dict()):
        with pytest.raises(ValueError, match='leave it out'):
            convert(state, head='LinearClsHead')


def run(*args: object) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, 'tools/convert_checkpoint.py', *map(str, args)],
                          capture_output=True, text=True, timeout=300)


def test_files_of_every_kind(tmp_path: Path) -> None:
    state = fill(PAIRS['vit'][1]()).state_dict()
    torch.save(dict(model=state, epoch=3), tmp_path / 'deit.pth')
    done = run(tmp_path / 'deit.pth', tmp_path / 'new' / 'mmpretrain.pth')
    assert done.returncode == 0, done.stderr
    assert f'ViT or DeiT: {len(state)} tensors with the keys of mmpretrain are in' in done.stdout
    convert_file(tmp_path / 'new' / 'mmpretrain.pth', tmp_path / 'timm.safetensors')
    convert_file(tmp_path / 'timm.safetensors', tmp_path / 'again.pth')
    convert_file(tmp_path / 'again.pth', tmp_path / 'timm.pth')
    for back in (load_file(tmp_path / 'timm.safetensors'), torch.load(tmp_path / 'timm.pth')):
        assert back.keys() == state.keys()
        assert all(torch.equal(back[key], value) for key, value in state.items())


def test_bad_files_are_refused(tmp_path: Path) -> None:
    resnet = timm.create_model('resnet18').state_dict()
    save_file(resnet, tmp_path / 'resnet.safetensors')
    done = run(tmp_path / 'resnet.safetensors', tmp_path / 'out.pth')
    assert done.returncode == 1 and 'Traceback' not in done.stderr
    assert 'expected the weights of a ViT, DeiT or Swin classifier' in done.stderr
    assert 'checkpoint of another architecture?' in done.stderr
    with pytest.raises(ValueError, match='TARGET is SOURCE'):
        convert_file(tmp_path / 'resnet.safetensors', tmp_path / 'resnet.safetensors')
    with pytest.raises(FileNotFoundError, match='there is no checkpoint'):
        convert_file(tmp_path / 'none.pth', tmp_path / 'out.pth')
    (tmp_path / 'half.pth').write_bytes(b'PK\x03\x04half')
    with pytest.raises(ValueError, match='could not be loaded'):
        convert_file(tmp_path / 'half.pth', tmp_path / 'out.pth')
    assert not (tmp_path / 'out.pth').exists()
    assert load_file(tmp_path / 'resnet.safetensors').keys() == resnet.keys()


@pytest.mark.parametrize('name', ['vit', 'swin'])
def test_half_a_checkpoint_is_refused(name: str) -> None:
    for make in PAIRS[name]:
        state = make().state_dict()
        key = next(key for key in reversed(state) if key.endswith('attn.qkv.weight')
                   or key.endswith('w_msa.qkv.weight'))
        del state[key]
        with pytest.raises(ValueError, match=r'lacks attn\.(w_msa\.)?qkv\.weight.*is the '
                           'checkpoint whole'):
            convert(state)


def test_a_block_with_more_than_is_known_is_refused() -> None:
    model = timm.create_model('vit_tiny_patch16_224', qk_norm=True, **VIT_OPTIONS)
    with pytest.raises(ValueError, match=r'got blocks\.0\.attn\.q_norm\.weight.* and 8 more'):
        convert(model.state_dict())
