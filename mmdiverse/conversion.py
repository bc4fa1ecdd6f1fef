"""Weights of ViT, DeiT and Swin from timm's or the authors' keys to MMPretrain's, and back."""
import math
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import torch
from mmengine.runner import save_checkpoint
from safetensors.torch import save_file
from torch import Tensor

from .evaluation.model_loading import find_prefix, read_state

TIMM, MMPRETRAIN = 'timm', 'mmpretrain'

#: Names in timm and in MMPretrain, with or without ``.weight`` or ``.bias`` behind them; ``{}`` is
#: a number. Of two names for one, in timm or in MMPretrain, the first is written.
VIT = (
    ('cls_token', 'backbone.cls_token'),
    ('dist_token', 'backbone.dist_token'),
    ('pos_embed', 'backbone.pos_embed'),
    ('patch_embed.proj', 'backbone.patch_embed.projection'),
    ('norm_pre', 'backbone.pre_norm'),
    ('blocks.{}.norm1', 'backbone.layers.{}.ln1'),
    ('blocks.{}.attn.qkv', 'backbone.layers.{}.attn.qkv'),
    ('blocks.{}.attn.proj', 'backbone.layers.{}.attn.proj'),
    ('blocks.{}.ls1.gamma', 'backbone.layers.{}.attn.gamma1.weight'),
    ('blocks.{}.norm2', 'backbone.layers.{}.ln2'),
    ('blocks.{}.mlp.fc1', 'backbone.layers.{}.ffn.layers.0.0'),
    ('blocks.{}.mlp.fc2', 'backbone.layers.{}.ffn.layers.1'),
    ('blocks.{}.ls2.gamma', 'backbone.layers.{}.ffn.gamma2.weight'),
    ('norm', 'backbone.ln1'),
    ('fc_norm', 'backbone.ln2'),
    ('head', 'head.layers.head'),
    ('head_dist', 'head.layers.head_dist'),
    ('head', 'head.fc'),
)
SWIN = (
    ('absolute_pos_embed', 'backbone.absolute_pos_embed'),
    ('patch_embed.proj', 'backbone.patch_embed.projection'),
    ('patch_embed.norm', 'backbone.patch_embed.norm'),
    ('layers.{}.blocks.{}.norm1', 'backbone.stages.{}.blocks.{}.norm1'),
    ('layers.{}.blocks.{}.attn.relative_position_bias_table',
     'backbone.stages.{}.blocks.{}.attn.w_msa.relative_position_bias_table'),
    ('layers.{}.blocks.{}.attn.qkv', 'backbone.stages.{}.blocks.{}.attn.w_msa.qkv'),
    ('layers.{}.blocks.{}.attn.proj', 'backbone.stages.{}.blocks.{}.attn.w_msa.proj'),
    ('layers.{}.blocks.{}.norm2', 'backbone.stages.{}.blocks.{}.norm2'),
    ('layers.{}.blocks.{}.mlp.fc1', 'backbone.stages.{}.blocks.{}.ffn.layers.0.0'),
    ('layers.{}.blocks.{}.mlp.fc2', 'backbone.stages.{}.blocks.{}.ffn.layers.1'),
    ('layers.{}.downsample.norm', 'backbone.stages.{}.downsample.norm'),
    ('layers.{}.downsample.reduction', 'backbone.stages.{}.downsample.reduction'),
    ('norm', 'backbone.norm{}'),
    ('head.fc', 'head.fc'),
    ('head', 'head.fc'),
)
FAMILIES = {'ViT or DeiT': VIT, 'Swin': SWIN}
#: Where heads of MMPretrain keep the classifier of a ViT.
HEADS = {'VisionTransformerClsHead': 'head.layers.head', 'LinearClsHead': 'head.fc'}
#: Buffers that a model makes of its own.
MADE = ('relative_position_index', 'attn_mask')
#: What is not convertible, and why.
REASONS = {
    r'head\.layers\.pre_logits':
        'the hidden layer of a VisionTransformerClsHead (`hidden_dim`) is not convertible, since '
        'timm has none',
    r'mask_token|decoder|^neck\.':
        'a model of masked image modelling is not convertible as a whole; save the weights of its '
        'backbone alone',
    r'[qk]_norm':
        'norms of queries and keys are not convertible, since the ViT of MMPretrain has none',
    r'ffn\.w[123]\.|mlp\.(w12|w3|fc1_[gx])':
        'an MLP with gates (SwiGLU) is not convertible',
    r'^head\.':
        'this head is not convertible; leave its weights out',
}
#: At most so many keys are named of a checkpoint that is none of these.
NAMED = 4


class Converted(NamedTuple):
    """A state dict in other keys.

    Attributes:
        state (dict[str, Tensor]): By the keys of ``layout``.
        family (str): One of ``FAMILIES``.
        layout (str): ``'timm'`` or ``'mmpretrain'``.
        left_out (tuple[str, ...]): Keys beside the model, such as those of a loss that Lightning
            saves with it.
    """

    state: dict[str, Tensor]
    family: str
    layout: str
    left_out: tuple[str, ...] = ()


def convert(state: dict[str, Tensor], head: str | None = None) -> Converted:
    r"""Convert a state dict to the other layout: timm's to MMPretrain's, MMPretrain's to timm's.

    The values stay what they are but for Swin's merging of patches, whose input timm orders by
    place, then channel, places column by column, and MMPretrain by channel, then place, row by row:

    .. math:: w^{\text{MMPretrain}}_{4 c + 2 r + s} = w^{\text{timm}}_{(r + 2 s) C + c}

    The authors' DeiT and Swin have timm's keys, Swin those of an older timm, which are read too.
    What a training loop puts in front of all names (``module.``, ``model.``) is dropped.

    A ViT whose patches are averaged (timm's ``fc_norm``, MMPretrain's ``out_type='avg_featmap'``,
    as after MAE) has ``head.fc`` in MMPretrain under a ``LinearClsHead``. The keys of timm do not
    tell which head it is to be.

    Args:
        state (dict[str, Tensor]): Weights of a classifier, with a head or without.
        head (str, optional): To MMPretrain, the head of a ViT: one of :data:`HEADS`. Defaults to
            ``'VisionTransformerClsHead'``, which writes ``head.layers.head``.

    Raises:
        ValueError: If a key belongs to no ViT, DeiT or Swin, or a block lacks what others have, or
            there is no such head or it is asked for where it has no place.
    """
    if head is not None and head not in HEADS:
        raise ValueError(f'`head` must be one of {list(HEADS)}, but got {head!r}')
    state, left_out = _drop_wrapper(state)
    from_mmpretrain = any(key.startswith('backbone.') for key in state)
    state = {key: value for key, value in state.items() if key.rpartition('.')[2] not in MADE}
    swin = any(key.startswith(('backbone.stages.', 'layers.')) for key in state)
    family, rules = list(FAMILIES.items())[swin]
    if head is not None and (swin or from_mmpretrain):
        raise ValueError(f'`head` names the head of a ViT of MMPretrain to be written, but this is '
                         f'{"a Swin" if swin else "one of MMPretrain already"}: leave it out')
    _check_blocks(state)
    if swin:
        state = _shift_merging(state, from_mmpretrain)
        last = max((int(key.split('.')[1 + from_mmpretrain]) for key in state
                    if key.startswith(('backbone.stages.', 'layers.'))), default=0)
        rules = [(old, new.replace('norm{}', f'norm{last}')) for old, new in rules]
    elif head is not None:
        rules = [('head', HEADS[head]), *rules]
    if from_mmpretrain:
        rules = [(new, old) for old, new in rules]
    converted = {_rename(key, rules): value for key, value in state.items()}
    if None in converted:
        raise _not_convertible([key for key in state if _rename(key, rules) is None])
    if swin:
        permute = _order_by_place if from_mmpretrain else _order_by_channel
        converted = {key: permute(value) if re.search(r'downsample\.(norm|reduction)', key) else
                     value for key, value in converted.items()}
        if not from_mmpretrain:
            converted |= _position_indices(converted)
    return Converted(converted, family, TIMM if from_mmpretrain else MMPRETRAIN, left_out)


def convert_file(source: str | Path, target: str | Path, head: str | None = None) -> Converted:
    """Convert a checkpoint; see :func:`convert`.

    Args:
        source (str | Path): Path or URL: of timm, also ``.safetensors``, of the authors
            (``'model'``), or of MMEngine or Lightning (``'state_dict'``). Optimizers and the like
            are left out. With ``ema:`` before it, the averaged weights, with ``model:`` those that
            were trained.
        target (str | Path): Where to write: ``.safetensors``, else for MMPretrain a dict with
            ``'state_dict'`` and for timm the weights alone.
        head (str, optional): See :func:`convert`.

    Raises:
        OSError: If a file cannot be read or written.
        ValueError: If ``target`` is ``source``, or it is no such checkpoint.
    """
    target = Path(target)
    if target.exists() and Path(source).exists() and target.samefile(source):
        raise ValueError(f'TARGET is SOURCE, {source}, which would be lost; name another file')
    converted = convert(read_state(source), head)
    if target.suffix == '.safetensors':
        save_file({key: value.contiguous() for key, value in converted.state.items()}, target)
    else:
        whole = dict(state_dict=converted.state) if converted.layout == MMPRETRAIN else \
            converted.state
        save_checkpoint(whole, str(target))
    return converted


def _drop_wrapper(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """The weights of the model itself, and the keys beside it."""
    known = ('backbone.', 'blocks.', 'stages.', 'layers.', 'patch_embed.')
    prefix = find_prefix(state, lambda key: key.startswith(known))
    own = {key.removeprefix(prefix): value for key, value in state.items()
           if key.startswith(prefix)}
    return own, tuple(key for key in state if not key.startswith(prefix))


def _rename(key: str, rules: Iterable[tuple[str, str]]) -> str | None:
    """A key by the first rule that knows it."""
    for old, new in rules:
        pattern = re.escape(old).replace(r'\{\}', r'(\d+)') + r'(|\.weight|\.bias)'
        if found := re.fullmatch(pattern, key):
            *numbers, rest = found.groups()
            return new.format(*numbers) + rest
    return None


def _not_convertible(keys: Iterable[str]) -> ValueError:
    """Of some keys that the other layout has no place for."""
    keys = list(keys)
    more = f' and {len(keys) - NAMED} more' * (len(keys) > NAMED)
    reason = next((reason for pattern, reason in REASONS.items()
                   if any(re.search(pattern, key) for key in keys)),
                  'is it a checkpoint of another architecture?')
    return ValueError('expected the weights of a ViT, DeiT or Swin classifier with the keys of '
                      f'timm or MMPretrain, but got {", ".join(keys[:NAMED])}{more}: {reason}')


def _check_blocks(state: dict[str, Tensor]) -> None:
    """Refuse half a checkpoint."""
    blocks = defaultdict(set)
    for key in state:
        if found := re.match(r'((?:backbone\.)?(?:blocks|layers|stages)\.(?:\d+\.blocks\.)?\d+)'
                             r'\.(?!downsample|\d)(.+)', key):
            blocks[found[1]].add(found[2])
    if not blocks:
        raise _not_convertible(state)
    expected = set.union(*blocks.values())
    for block, names in blocks.items():
        if names != expected:
            raise ValueError(f'{block} lacks {", ".join(sorted(expected - names)[:NAMED])}, which '
                             'other blocks have: is the checkpoint whole?')


def _shift_merging(state: dict[str, Tensor], from_mmpretrain: bool) -> dict[str, Tensor]:
    """Count the merging of patches to the stage before or behind it, as the target does."""
    # timm counts it to the stage behind; MMPretrain, the authors and older timms to that before.
    if not from_mmpretrain and any(key.startswith('layers.0.downsample') for key in state):
        return state
    step = 1 if from_mmpretrain else -1
    return {re.sub(r'(\d+)(?=\.downsample)', lambda found: str(int(found[0]) + step), key): value
            for key, value in state.items()}


def _order_by_channel(value: Tensor) -> Tensor:
    return value.unflatten(-1, (4, -1))[..., [0, 2, 1, 3], :].transpose(-1, -2).flatten(-2)


def _order_by_place(value: Tensor) -> Tensor:
    return value.unflatten(-1, (-1, 4)).transpose(-1, -2)[..., [0, 2, 1, 3], :].flatten(-2)


def _position_indices(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The rows of the table of position biases for all pairs of places in a window."""
    indices = {}
    for key, table in state.items():
        if key.endswith('relative_position_bias_table'):
            width = math.isqrt(len(table))  # 2 w - 1
            side = torch.arange((width + 1) // 2)
            places = torch.cartesian_prod(side, side)
            offsets = places[:, None] - places[None] + len(side) - 1
            indices[key.replace('bias_table', 'index')] = offsets[..., 0] * width + offsets[..., 1]
    return indices
