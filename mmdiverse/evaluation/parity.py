"""Values and gradients beside those that the authors' own functions gave."""
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmpretrain.structures import DataSample
from torch import Tensor, nn

from ..config import load_fragment
from ..hooks import DiversityHook
from ..losses import ConditionalOrthogonalityLoss
from ..mixing import patch_shares
from ..records import AttentionRecord, Record, TokenRecord, WeightRecord
from ..registry import MODELS
from ..terms import build_loss

Arrays = dict[str, np.ndarray]

COSINE = dict(type='CosineLoss', diagonal=True)
POWER = dict(type='ConditionalOrthogonalityLoss', method='official')
FEATURE_POWER = dict(POWER, start='normal', eps=1e-6)
SOFT = dict(type='SoftOrthogonalityLoss', normalize=False)
SEPARATION = dict(type='HypersphericalSeparationLoss', official=True)
DETERMINANT = dict(type='GramDeterminantLoss', official=True)

#: Loss that reproduces each case of a single loss. The case's name begins with the level, but for
#: the gradients of patches.
LOSSES: dict[str, dict[str, Any]] = {
    'patch_cosine': dict(COSINE, form='signed'),
    'patch_cosine_abs': dict(COSINE, form='absolute'),
    'patch_cross_cosine': dict(type='CrossCosineLoss', form='signed'),
    'patch_cross_cosine_abs': dict(type='CrossCosineLoss', form='absolute'),
    'patch_contrastive': dict(type='ContrastiveLoss'),
    'patch_cond_orth': dict(FEATURE_POWER, normalize=True),
    'patch_soft_orth': dict(SOFT, normalize=True),
    'patch_mhs': SEPARATION,
    'patch_mgd': DETERMINANT,
    'gradient_diversity': dict(type='GradientDiversityLoss', form='diversity'),
    'attn_cosine': dict(COSINE, form='signed'),
    'attn_cross_cosine': dict(type='CrossCosineLoss', form='signed'),
    'attn_contrastive': dict(type='ContrastiveLoss'),
    'attn_cross_cosine_abs': dict(type='CrossCosineLoss', form='absolute'),
    'attn_cosine_abs': dict(COSINE, form='absolute'),
    'attn_cond_orth': FEATURE_POWER,
    'attn_soft_orth': SOFT,
    'attn_mhs': SEPARATION,
    'attn_mgd': DETERMINANT,
    'weight_cond_orth': POWER,
    'weight_cond_orth_columns': POWER,
    'weight_soft_orth': SOFT,
    'weight_mhs': SEPARATION,
    'weight_mgd': DETERMINANT,
}
#: Names of the inputs of a loss, in order.
INPUTS = ('first', 'last', 'tokens', 'vectors', 'grads', 'attn', 'weight')
#: Of these, the ones whose first token is no patch.
WITH_PREFIX = ('first', 'last', 'tokens')
#: Parts of the whole model, and the term that each is.
MODEL_PARTS = {
    'patch_cosine': 'patch_cosine',
    'patch_contrastive': 'patch_contrastive',
    'attn_cosine': 'attention_cosine',
    'weight_cond_orth': 'weight_conditional_orthogonality',
}


@dataclass
class CaseResult:
    """Agreement of one case.

    Attributes:
        case (str): Its name.
        tolerance (float): Largest relative error that passes.
        errors (dict[str, float]): Relative error of the value and of each gradient: the largest
            difference over the largest entry of the reference.
        unknown (bool): Whether the case is not known here, so that nothing was compared.
    """

    case: str
    tolerance: float = 0.
    errors: dict[str, float] = field(default_factory=dict)
    unknown: bool = False

    @property
    def passed(self) -> bool:
        """Whether every error is within the tolerance; a NaN is not."""
        return all(error <= self.tolerance for error in self.errors.values())

    def compare(self, name: str, actual: Tensor, expected: np.ndarray) -> None:
        """Record the relative error of ``actual``."""
        expected = torch.as_tensor(expected, dtype=torch.float64)
        actual = actual.detach().double()
        if actual.shape != expected.shape:
            self.errors[name] = float('nan')
            return
        scale = expected.abs().max().clamp_min(torch.finfo(torch.float64).tiny)
        self.errors[name] = float((actual - expected).abs().max() / scale)


def check_file(path: str | Path) -> Iterator[CaseResult]:
    """Compare every case of a file.

    Args:
        path (str | Path): An ``.npz`` file whose arrays are named ``<case>/value``,
            ``<case>/<input>`` and ``<case>/grad_<input>``.

    Yields:
        CaseResult: In the order of the file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no such file.
    """
    cases: dict[str, Arrays] = {}
    with np.load(path) as file:
        for key in file.files:
            case, _, name = key.partition('/')
            cases.setdefault(case, {})[name] = file[key]
    for case, arrays in cases.items():
        if 'value' not in arrays:
            raise ValueError(f'{path} holds no {case}/value')
        yield check_case(case, arrays)


def check_case(case: str, arrays: Arrays) -> CaseResult:
    """Compare one case, given its arrays by name."""
    if case == 'model':
        return _check_model(arrays)
    if case == 'patch_lam':
        return _check_shares(arrays)
    if case.startswith('mix_'):
        return _check_mixing(case, arrays)
    if case in LOSSES:
        return _check_loss(case, arrays)
    return CaseResult(case, unknown=True)


def _check_loss(case: str, arrays: Arrays) -> CaseResult:
    result = CaseResult(case, tolerance=1e-8 if case.endswith('mgd') else 1e-10)
    loss = build_loss(**LOSSES[case])
    inputs = {name: torch.tensor(arrays[name], dtype=torch.float64, requires_grad=True)
              for name in INPUTS if name in arrays}
    if isinstance(loss, ConditionalOrthogonalityLoss):
        starts = torch.tensor(arrays['starts'])
        loss.draw_starts = lambda record: starts.reshape(2, *record.shape[:2])
    value = loss(*(_record(case, name, tensor) for name, tensor in inputs.items())).mean()
    value.backward()
    result.compare('value', value, arrays['value'])
    for name, tensor in inputs.items():
        result.compare(f'grad_{name}', tensor.grad, arrays[f'grad_{name}'])
    return result


def _record(case: str, name: str, tensor: Tensor) -> Record:
    if case.startswith('attn'):
        return AttentionRecord(maps=tensor)
    if case.startswith('weight'):
        return WeightRecord((tensor.T if case.endswith('columns') else tensor).unsqueeze(0))
    return TokenRecord(tensor, num_prefix=int(name in WITH_PREFIX))


def _check_shares(arrays: Arrays) -> CaseResult:
    result = CaseResult('patch_lam', tolerance=1e-10)
    # The authors' function knows square images and patches of 16 pixels only.
    patch_size = tuple(np.broadcast_to(arrays.get('patch_size', 16), 2).tolist())
    side = round(arrays['value'].shape[1]**0.5)
    default = (side * patch_size[0], side * patch_size[1])
    image_size = tuple(np.broadcast_to(arrays.get('image_size', default), 2).tolist())
    shares = [patch_shares(tuple(box), image_size, patch_size, torch.float64)
              for box in arrays['boxes'].tolist()]
    result.compare('value', torch.stack(shares), arrays['value'])
    return result


def _partner_labels(arrays: Arrays) -> Tensor:
    labels = torch.as_tensor(arrays['labels'])
    return torch.as_tensor(arrays['labels_partner']) if 'labels_partner' in arrays else \
        labels.flip(0)


def _check_mixing(case: str, arrays: Arrays) -> CaseResult:
    result = CaseResult(case, tolerance=1e-10)
    loss = MODELS.build(dict(type='mmdiverse.PatchMixingLoss',
                             label_smooth_val=float(arrays['smoothing'])))
    logits = torch.tensor(arrays['logits'], dtype=torch.float64, requires_grad=True)
    batch = logits.size(0)
    value = loss(logits, torch.as_tensor(arrays['labels']), _partner_labels(arrays),
                 torch.full((batch, ), float(arrays['lam']), dtype=torch.float64),
                 torch.as_tensor(arrays['patch_lam']).expand(batch, -1))
    value.backward()
    result.compare('value', value, arrays['value'])
    result.compare('grad_logits', logits.grad, arrays['grad_logits'])
    return result


def convert_timm_key(key: str) -> str:
    """Name in MMPretrain of a parameter of timm's, and the authors', vision transformer."""
    if key.startswith('head.'):
        return f'head.layers.{key}'
    for timm, mmpretrain in (('patch_embed.proj', 'patch_embed.projection'), ('blocks.', 'layers.'),
                             ('norm1', 'ln1'), ('norm2', 'ln2'), ('mlp.fc1', 'ffn.layers.0.0'),
                             ('mlp.fc2', 'ffn.layers.1')):
        key = key.replace(timm, mmpretrain)
    return 'backbone.' + ('ln1' + key[4:] if key.startswith('norm.') else key)


def build_model(arrays: Arrays) -> nn.Module:
    """Build MMPretrain's classifier of the shape of a ``model`` case, with its weights."""
    state = {key[6:]: value for key, value in arrays.items() if key.startswith('state/')}
    embed_dims, _, *patch_size = state['patch_embed.proj.weight'].shape
    model = MODELS.build(Config(dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(
            type='mmpretrain.VisionTransformer',
            arch=dict(
                embed_dims=embed_dims,
                num_layers=1 + max(int(key.split('.')[1]) for key in state if 'blocks.' in key),
                num_heads=int(arrays['heads']),
                feedforward_channels=state['blocks.0.mlp.fc1.weight'].shape[0]),
            img_size=arrays['images'].shape[-2:],
            patch_size=tuple(patch_size),
            in_channels=arrays['images'].shape[1],
            qkv_bias='blocks.0.attn.qkv.bias' in state,
            out_type='raw'),
        head=dict(
            type='mmdiverse.PatchMixingClsHead',
            num_classes=state['head.weight'].shape[0],
            in_channels=embed_dims,
            loss=dict(type='mmdiverse.PatchMixingLoss',
                      label_smooth_val=float(arrays['smoothing']))))))
    model.load_state_dict({convert_timm_key(key): torch.as_tensor(value)
                           for key, value in state.items()})
    return model.train()


def _samples(arrays: Arrays) -> list[DataSample]:
    shares = torch.as_tensor(arrays['patch_lam'], dtype=torch.float32)
    samples = []
    for label, partner in zip(torch.as_tensor(arrays['labels']), _partner_labels(arrays)):
        sample = DataSample().set_gt_label(label.reshape(1))
        sample.set_field(partner.reshape(1), 'mix_label')
        sample.set_field(float(arrays['lam']), 'mix_lam', field_type='metainfo')
        sample.set_field(shares, 'patch_shares')
        samples.append(sample)
    return samples


def _check_model(arrays: Arrays) -> CaseResult:
    """Run the real classifier, with the official hook and mixing head, in float32."""
    result = CaseResult('model', tolerance=1e-4)
    model = build_model(arrays)
    hook = DiversityHook(terms=load_fragment('official').terms)
    hook.attach(model)
    for term in hook.terms:
        if isinstance(term.loss, ConditionalOrthogonalityLoss):
            # One row of the file per matrix, in the order of the layers.
            term.loss.draw_starts = lambda _: torch.as_tensor(arrays['starts']).transpose(0, 1)
    losses = model(torch.as_tensor(arrays['images']), _samples(arrays), mode='loss')
    total, _ = model.parse_losses(losses)
    total.backward()
    hook.detach()
    result.compare('value', total, arrays['value'])
    result.compare('part_mixing', losses['loss_cls'], arrays['part_mixing'])
    for part, term in MODEL_PARTS.items():
        result.compare(f'part_{part}', losses[term], arrays[f'part_{part}'])
    parameters = dict(model.named_parameters())
    for key, expected in arrays.items():
        if key.startswith('grad/'):
            result.compare(key, parameters[convert_timm_key(key[5:])].grad, expected)
    return result
