"""Diversity while detectors and segmentors are fine-tuned: gradients against losses by hand."""
from pathlib import Path
from typing import Any

import pytest
import torch
from mmengine.runner import Runner
from torch import Tensor, nn

from mmdiverse.hooks import DiversityHook

from .. import reference
from ..runs import CONFIGS
from .test_configs import scenes, small  # noqa: F401  a fixture

MODELS = ['det/mask-rcnn_swin-tiny_fpn_1x_coco', 'det/retinanet_swin-tiny_fpn_1x_coco',
          'det/mask-rcnn_deit-small_fpn_1x_coco',
          'seg/swin-tiny_upernet_8xb2-160k_ade20k-512x512',
          'seg/segmenter_deit-small_mask_8xb1-160k_ade20k-512x512']
PATCH = dict(type='CosineLoss', on='patch', layers=-1, weight=3., form='absolute')
HEADS = dict(type='CosineLoss', on='attention', layers=0, weight=2., form='signed')
NEURONS = dict(type='CosineLoss', on='weight', layers=0, matrices=['fc1'], weight=1.,
               form='signed')
IGNORED = 255


def run(name: str, scenes: Path, work_dir: Path, **backbone: Any) -> tuple[nn.Module, dict]:  # noqa: F811
    """A model in training, and a batch of images of different sizes as the model gets it."""
    cfg = small(CONFIGS / 'downstream' / f'{name}.py', scenes, work_dir)
    cfg.model.backbone.update(backbone)
    runner = Runner.from_cfg(cfg)
    runner.model.init_weights()
    runner.model.train()
    for batch in runner.train_dataloader:
        batch = runner.model.data_preprocessor(batch, training=True)
        if len({sample.img_shape for sample in batch['data_samples']}) > 1 or name[:3] == 'seg':
            return runner.model, batch
    raise AssertionError('all images of all batches have one size')


def losses(model: nn.Module, batch: dict) -> dict[str, Tensor]:
    torch.manual_seed(0)  # of drop path, and of the samples that a detector draws
    return model(**batch, mode='loss')


def gradients(model: nn.Module, total: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    total.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()
            if parameter.grad is not None}


def real_tokens(batch: dict, index: int, step: int) -> list[int]:
    """Patch by patch, which tokens of an image are neither padding nor ignored."""
    sample = batch['data_samples'][index]
    height, width = batch['inputs'].shape[2:]
    kept, number = [], 0
    for top in range(0, height, step):
        for left in range(0, width, step):
            whole = top + step <= sample.img_shape[0] and left + step <= sample.img_shape[1]
            labels = sample.gt_sem_seg.data[0, top:top + step, left:left + step] \
                if 'gt_sem_seg' in sample else torch.zeros(1)
            kept += [number] if whole and (labels != IGNORED).any() else []
            number += 1
    return kept


def by_hand(model: nn.Module, batch: dict) -> Tensor:
    """The model's own losses, and the terms one image after the other."""
    backbone, seen = model.backbone, {}
    swin = hasattr(backbone, 'stages')
    blocks = [block for stage in backbone.stages for block in stage.blocks] if swin else \
        list(backbone.layers)
    handles = [blocks[-1].register_forward_hook(
        lambda module, args, output: seen.update(tokens=output))]
    if not swin:
        handles.append(blocks[0].attn.qkv.register_forward_hook(
            lambda module, args, output: seen.update(qkv=output)))
    total, _ = model.parse_losses(losses(model, batch))
    for handle in handles:
        handle.remove()

    prefix, patch = (0, 32) if swin else (1, 16)
    tokens, heads = [], []
    for index, image in enumerate(seen['tokens']):
        kept = real_tokens(batch, index, patch)
        if len(kept) < 2:
            continue
        tokens.append(reference.cosine(image[[prefix + each for each in kept]], 'absolute', False))
        if not swin:
            q, k, _ = seen['qkv'][index][[0, *(1 + each for each in kept)]].unflatten(
                -1, (3, blocks[0].attn.num_heads, -1)).permute(1, 2, 0, 3)
            maps = [(one @ other.T * q.size(-1)**-0.5).softmax(-1) for one, other in zip(q, k)]
            heads.append(reference.cosine(torch.stack(maps).flatten(1), 'signed', False))
    weight = blocks[0].ffn.layers[0][0].weight
    total = total + PATCH['weight'] * reference.mean(tokens) if tokens else total
    total = total + HEADS['weight'] * reference.mean(heads) if heads else total
    return total + NEURONS['weight'] * reference.cosine(weight, 'signed', False)


@pytest.mark.parametrize('name', MODELS)
def test_gradients_are_those_of_a_sum_of_losses_by_hand(name: str, scenes: Path, tmp_path: Path  # noqa: F811
                                                        ) -> None:
    model, batch = run(name, scenes, tmp_path)
    expected = gradients(model, by_hand(model, batch))
    terms = [PATCH, NEURONS] + [HEADS] * (not hasattr(model.backbone, 'stages'))
    DiversityHook(terms).attach(model)
    logged = losses(model, batch)
    assert all(logged[f'loss_{level}_cosine'] != 0
               for level in ('patch', 'weight', 'attention')[:len(terms)])
    found = gradients(model, model.parse_losses(logged)[0])
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-6, msg=key)


@pytest.mark.parametrize('name', MODELS)
def test_what_is_padded_does_not_change_a_term(name: str, scenes: Path, tmp_path: Path) -> None:  # noqa: F811
    model, batch = run(name, scenes, tmp_path)
    hook = DiversityHook([dict(PATCH, layers='embed')])
    hook.attach(model)
    before = losses(model, batch)['patch_cosine']
    for index, image in enumerate(batch['inputs']):
        height, width = batch['data_samples'][index].img_shape[:2]
        image[:, height:], image[:, :, width:] = 7., -7.
    assert torch.equal(before, losses(model, batch)['patch_cosine'])


@pytest.mark.parametrize('name', MODELS)
def test_frozen_stages_train_no_further(name: str, scenes: Path, tmp_path: Path) -> None:  # noqa: F811
    model, batch = run(name, scenes, tmp_path, frozen_stages=1)
    DiversityHook([PATCH]).attach(model)
    found = gradients(model, model.parse_losses(losses(model, batch))[0])
    first = 'stages.0.' if hasattr(model.backbone, 'stages') else 'layers.0.'
    assert not any(key.startswith(f'backbone.{first}') for key in found)
    assert any(key.startswith('backbone.') for key in found)


def test_a_term_of_frozen_stages_is_an_error(scenes: Path, tmp_path: Path) -> None:  # noqa: F811
    model, batch = run(MODELS[0], scenes, tmp_path, frozen_stages=1)
    DiversityHook([NEURONS]).attach(model)
    with pytest.raises(RuntimeError, match="term 'weight_cosine' has no gradient: .* are frozen"):
        losses(model, batch)
