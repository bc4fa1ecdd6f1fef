"""From the checkpoint of a classifier to the backbone of a detector or segmentor."""
import math
import re
from collections.abc import Iterator
from copy import deepcopy
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import Tensor, nn

from .config import type_name
from .conversion import HEADS, convert
from .evaluation.model_loading import (
    choose_weights,
    read_checkpoint,
    split_scheme,
)

PREFIX, TIMM_PREFIX = 'backbone.', 'backbone.timm_model.'
#: What becomes of a weight. Those of the last three keep a checkpoint from being used.
STATUSES = ('loaded', 'resized', 'new', 'missing', 'mismatched', 'unexpected')
FAILURES = STATUSES[3:]


class WeightFit(NamedTuple):
    """What becomes of one weight when a backbone is loaded.

    Attributes:
        name (str): Key in the backbone.
        status (str): ``'loaded'``; ``'resized'`` (a table of positions); ``'new'``, of the
            feature-map output or made by the backbone itself, which no classifier has;
            ``'missing'`` from the checkpoint; ``'mismatched'`` in its shape; or ``'unexpected'``,
            for which the backbone has no place.
        shape (tuple[int, ...] | None): In the backbone.
        source_shape (tuple[int, ...] | None): In the checkpoint.
    """

    name: str
    status: str
    shape: tuple[int, ...] | None
    source_shape: tuple[int, ...] | None


def read_pretrained(checkpoint: str) -> dict[str, Tensor]:
    """The weights of a classifier that a checkpoint name says, with MMPretrain's keys.

    Those of timm's models inside MMPretrain (``backbone.timm_model.``) are given the keys of
    MMPretrain's own, which give feature maps.

    Args:
        checkpoint (str): Path or URL; with ``ema:`` before it, the averaged weights that EMAHook
            saved, with ``model:`` those that were trained. A checkpoint with both needs one.

    Raises:
        OSError: If the file cannot be read.
        ValueError: If it is no checkpoint of a classifier, or it is not said which weights of two.
    """
    which, path = split_scheme(checkpoint)
    content = read_checkpoint(path)
    if isinstance(content, dict) and 'ema_state_dict' in content and which is None:
        raise ValueError(f'{path} holds the averaged weights of EMAHook and those that were '
                         f'trained; say which: ema:{path} or model:{path}')
    # As MMEngine loads it: what a wrapper put in front of the names stays.
    state = choose_weights(content, which, path)
    state = state if isinstance(state, dict) else {}
    if not any(key.startswith(PREFIX) for key in state):
        raise ValueError(
            f'{path} holds no weight whose key starts with {PREFIX!r}, but {list(state)[:3]} and '
            'so on: is it a checkpoint of MMPretrain? Weights with the keys of timm or of the '
            'authors of DeiT and Swin are converted by tools/convert_checkpoint.py')
    timm = {key.removeprefix(TIMM_PREFIX): value for key, value in state.items()
            if key.startswith(TIMM_PREFIX)}
    return convert(timm).state if timm else state


def load_from_weights(filename: str, map_location: Any = None) -> dict[str, Any]:
    """MMEngine's loader of what starts with ``ema:`` or ``model:``; see :func:`read_pretrained`."""
    return dict(state_dict=read_pretrained(filename))


def check_transfer(cfg: Config, checkpoint: str | None = None) -> list[WeightFit]:
    """Say of every weight of a backbone whether a checkpoint fills it.

    Args:
        cfg (Config): Of a detector or segmentor.
        checkpoint (str, optional): As for :func:`read_pretrained`. Defaults to that of the
            backbone's ``init_cfg``.

    Returns:
        list[WeightFit]: First all weights of the backbone, then those that it has no place for.

    Raises:
        OSError: If the checkpoint cannot be read.
        ValueError: If there is none, it is not a classifier's, the backbone gives no feature maps,
            or MMPretrain cannot resize its tables of positions.
    """
    options = deepcopy(backbone_config(cfg))
    checkpoint = checkpoint or pretrained_of(cfg)
    if checkpoint is None:
        raise ValueError('the backbone starts from random weights: name a checkpoint, or set '
                         "`model.backbone.init_cfg=dict(type='Pretrained', checkpoint=..., "
                         f'prefix={PREFIX!r})`')
    options.pop('init_cfg', None)
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmpretrain')):
        backbone = MODELS.build(options)
        # What the backbone of a classifier has: further `out_indices` add norms to a Swin.
        options['out_indices'] = (backbone.num_layers - 1, )
        of_classifier = MODELS.build(options).state_dict().keys()
    check_feature_maps(backbone)
    state = {key.removeprefix(PREFIX): value for key, value in read_pretrained(checkpoint).items()
             if key.startswith(PREFIX)}
    return list(_fits(backbone, of_classifier, state))


def backbone_config(cfg: Config) -> dict:
    """The config of a detector's or segmentor's backbone.

    Raises:
        ValueError: If there is none.
    """
    backbone = (cfg.get('model') or {}).get('backbone')
    if not backbone:
        raise ValueError('expected the config of a detector or segmentor, with `model.backbone`')
    return backbone


def pretrained_of(cfg: Config) -> str | None:
    """The checkpoint that the backbone of a config starts from, if any."""
    init = backbone_config(cfg).get('init_cfg') or {}
    return init.get('checkpoint') if isinstance(init, dict) else None


def check_average_fits(cfg: Config) -> None:
    """Check that EMAHook can load the averaged weights that a run of a classifier starts from.

    MMPretrain's hook loads the average of a checkpoint as a whole, and stops with an error of torch
    where the head is for another number of classes. Under ``ema:`` the average comes as the weights
    of the model, whose head may differ. A download is left to the run.

    Args:
        cfg (Config): Of a training run.

    Raises:
        OSError: If the checkpoint cannot be read.
        ValueError: If it holds an average with another number of classes than the config.
    """
    path = cfg.get('load_from')
    averages = any(type_name(hook) == 'EMAHook' for hook in cfg.get('custom_hooks') or [])
    if not path or not averages or cfg.get('resume') or '://' in path or split_scheme(path)[0]:
        return
    content = read_checkpoint(path)
    if not isinstance(content, dict) or 'ema_state_dict' not in content:
        return
    wanted = (cfg.model.get('head') or {}).get('num_classes')
    for key in HEADS.values():
        found = content['state_dict'].get(f'{key}.weight')
        if found is not None and wanted is not None and len(found) != wanted:
            raise ValueError(
                f'{path} holds averaged weights of EMAHook for {len(found)} classes, but '
                f'`model.head.num_classes` is {wanted}, and EMAHook loads an average only as a '
                f"whole: set `load_from='ema:{path}'`, which starts from the average without its "
                'head')


def check_feature_maps(backbone: nn.Module) -> None:
    """Check that a backbone gives feature maps, as necks take them.

    Raises:
        ValueError: If a ViT gives its class token, or all tokens.
    """
    out_type = getattr(backbone, 'out_type', 'featmap')
    if out_type != 'featmap':
        raise ValueError(f"{type(backbone).__name__} gives `out_type='{out_type}'`, but a detector "
                         "or segmentor needs feature maps: set `model.backbone.out_type='featmap'`")


def _fits(backbone: nn.Module, of_classifier: set[str], state: dict[str, Tensor]
          ) -> Iterator[WeightFit]:
    shapes = {key: tuple(value.shape) for key, value in backbone.state_dict().items()}
    given = {key: tuple(value.shape) for key, value in state.items()}
    buffers = {name for name, _ in backbone.named_buffers()}
    mismatched, unexpected = _load(backbone, state)
    for key, shape in shapes.items():
        if key in mismatched:
            status = 'mismatched'
        elif key in given and (key not in buffers or given[key] == shape):
            status = 'loaded' if given[key] == shape else 'resized'
        else:
            status = 'missing' if key in of_classifier and key not in buffers else 'new'
        yield WeightFit(key, status, shape, given.get(key))
    for key in unexpected:
        yield WeightFit(key, 'unexpected', None, given.get(key))


def _load(backbone: nn.Module, state: dict[str, Tensor]) -> tuple[set[str], list[str]]:
    """Load what fits, and return the keys of another shape and those without a place."""
    try:
        return set(), backbone.load_state_dict(state, strict=False).unexpected_keys
    except (AttributeError, ImportError, NotImplementedError) as error:
        wanted, found = (_window_size(tables) for tables in (backbone.state_dict(), state))
        raise ValueError(
            f'the checkpoint has windows of {found}, but the backbone windows of {wanted}, and '
            f'MMPretrain cannot resize the tables of positions here ({type(error).__name__}: '
            f'{str(error).strip().splitlines()[0]}). Set `model.backbone.window_size={found}`, or '
            "install 'scipy<1.14'") from error
    except RuntimeError as error:
        mismatched = set(re.findall(r'size mismatch for (\S+):', str(error)))
        if not mismatched:
            raise
        rest = {key: value for key, value in state.items() if key not in mismatched}
        return mismatched, backbone.load_state_dict(rest, strict=False).unexpected_keys


def _window_size(state: dict[str, Tensor]) -> int | None:
    """The side of the windows, which have ``(2 w - 1) ** 2`` relative positions."""
    tables = [value for key, value in state.items() if 'relative_position_bias_table' in key]
    return (math.isqrt(len(tables[0])) + 1) // 2 if tables else None


def check_loaded(backbone: nn.Module, fits: list[WeightFit], checkpoint: str) -> None:
    """Check that a backbone has the weights of a checkpoint.

    Raises:
        RuntimeError: If one that fits is not what the checkpoint holds.
    """
    state, own = read_pretrained(checkpoint), backbone.state_dict()
    for fit in fits:
        if fit.status == 'loaded' and not torch.equal(own[fit.name].cpu(),
                                                      state[PREFIX + fit.name].cpu()):
            raise RuntimeError(
                f'`{fit.name}` of the backbone is not what {checkpoint} holds, though it fits: set '
                "`model.backbone.init_cfg=dict(type='Pretrained', checkpoint=..., "
                f'prefix={PREFIX!r})`, and nothing that initializes it afterwards')


def describe_failures(fits: list[WeightFit], checkpoint: str, shown: int = 4) -> str | None:
    """One line on the weights that keep a checkpoint from being used; None if there are none."""
    failures = [fit for fit in fits if fit.status in FAILURES]
    if not failures:
        return None
    named = ', '.join(f'{fit.name} ({fit.status})' for fit in failures[:shown])
    more = f' and {len(failures) - shown} more' * (len(failures) > shown)
    return (f'{checkpoint} does not fill the backbone as it is: {named}{more}. Change '
            '`model.backbone` to that of the classifier, or the checkpoint '
            '(tools/downstream/check_transfer.py lists all weights)')
