"""Which backbones can be diversified and measured: every one is built, and its tap tried."""
import hashlib
import inspect
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mmpretrain
import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from mmpretrain.registry import MODELS
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from ..report.markdown import markdown_table
from ..taps import Tap, build_tap
from ..taps.base import EMBED, HEADS, Weights, find_backbone
from ..taps.probe import AttentionProbe
from .measurement import Result
from .model_loading import TIMM

#: Models of timm that are tried, one or more of each family.
TIMM_MODELS = tuple('''
    vit_tiny_patch16_224 vit_small_patch32_224 vit_base_patch16_224 vit_base_patch16_clip_224
    vit_small_patch14_dinov2 vit_small_patch14_reg4_dinov2 vit_base_patch16_siglip_224
    vit_medium_patch16_gap_256 vit_wee_patch16_reg1_gap_256 vit_pwee_patch16_reg1_gap_256
    vit_dwee_patch16_reg1_gap_256 vit_base_patch16_rpn_224 vit_base_patch16_xp_224
    vit_tiny_r_s16_p8_224 aimv2_large_patch14_224 flexivit_small vit_relpos_small_patch16_224
    vit_srelpos_small_patch16_224 deit_small_patch16_224 deit_small_distilled_patch16_224
    deit3_small_patch16_224 beit_base_patch16_224 beitv2_base_patch16_224 beit3_base_patch16_224
    eva02_tiny_patch14_224 eva02_small_patch14_224 vit_small_patch16_dinov3
    vit_small_plus_patch16_dinov3 vit_pe_core_tiny_patch16_384 vit_small_patch16_rope_224
    vit_mediumd_patch16_rope_reg1_gap_256 naflexvit_base_patch16_gap samvit_base_patch16_224
    swin_tiny_patch4_window7_224 swin_s3_tiny_224 swinv2_tiny_window8_256 swinv2_cr_tiny_224
    twins_pcpvt_small twins_svt_small levit_128s levit_256 levit_conv_128s hiera_tiny_224
    hiera_small_abswin_256 pit_ti_224 pit_s_224 convit_tiny cait_xxs24_224 xcit_nano_12_p16_224
    xcit_tiny_12_p8_224 mvitv2_tiny coat_lite_tiny coat_tiny volo_d1_224 crossvit_tiny_240
    tnt_s_patch16_224 nest_tiny davit_tiny efficientvit_m0 edgenext_xx_small mobilevit_xxs
    mobilevitv2_050 tiny_vit_5m_224 maxvit_nano_rw_256 gcvit_xxtiny
    '''.split())
#: Of a backbone's config, what changes neither its modules nor what they compute in evaluation.
IMMATERIAL = ('init_cfg', 'frozen_stages', 'drop_rate', 'drop_path_rate', 'with_cp', 'norm_eval',
              'out_indices', 'final_norm', 'pretrained')
MATRICES = ('q', 'k', 'v', 'proj', 'fc1', 'fc2')
#: How far maps times values may be from what the module gave, beside its largest value.
TOLERANCE = 1e-5


#: Results by class, and by what is supported of attention and weights, each with the reason.
Rows = dict[tuple[str, tuple[str, str], tuple[str, str]], list[Result]]


@dataclass
class Candidate:
    """A backbone of one or more configs.

    Attributes:
        backbone (dict): Its config.
        configs (list[str]): Those that have it, by file, or names of timm's models.
        image_shape (tuple[int, int, int]): Of an image that they take: channels, height, width.
    """

    backbone: dict[str, Any]
    configs: list[str]
    image_shape: tuple[int, int, int]

    @property
    def name(self) -> str:
        """The first of the configs."""
        return self.configs[0]


def find_candidates(match: Sequence[str] = ('', )) -> list[Candidate]:
    """The backbones of configs that MMPretrain ships, each once, in the order of files.

    Args:
        match (Sequence[str]): Of every config whose name, such as
            ``deit/deit-small_4xb256_in1k.py``, holds one of these. Defaults to all.
    """
    root = Path(mmpretrain.__file__).parent / '.mim' / 'configs'
    found: dict[str, Candidate] = {}
    for path in sorted(root.glob('*/**/*.py')):
        name = path.relative_to(root).as_posix()
        if name.startswith('_base_/') or not any(text in name for text in match):
            continue
        try:
            cfg = Config.fromfile(path)
        except Exception as error:  # several of MMPretrain's own cannot be read
            print(f'{name}: {_one_line(error)}', file=sys.stderr)
            continue
        if 'backbone' not in cfg.get('model', {}):  # multi-modal models and the like
            continue
        backbone = cfg.model.backbone.to_dict()
        key = {k: v for k, v in backbone.items() if k not in IMMATERIAL}
        digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()
        if digest in found:
            found[digest].configs.append(name)
        else:
            found[digest] = Candidate(backbone, [name], _image_shape(cfg))
    return list(found.values())


def _image_shape(cfg: Config) -> tuple[int, int, int]:
    preprocessor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor', {})
    channels = len(preprocessor.get('mean', (0, 0, 0)))
    sizes = [cfg.model.backbone.get('img_size')]
    for loader in ('test_dataloader', 'train_dataloader'):
        pipeline = cfg.get(loader, {}).get('dataset', {}).get('pipeline', [])
        # A crop comes behind what resizes, and the `scale` of some transforms is a range of shares.
        sizes += [step.get(key) for step in reversed(pipeline)
                  for key in ('crop_size', 'size', 'scale')]
    size = next((size for size in sizes if size and isinstance(np.ravel(size)[0], np.integer)), 224)
    return (channels, size, size) if isinstance(size, int) else (channels, size[0], size[-1])


def timm_candidates(names: Sequence[str]) -> list[Candidate]:
    """Models of timm, by their names, within MMPretrain's ``TimmClassifier``, which takes all."""
    import timm

    return [Candidate(dict(type='TimmClassifier', model_name=name), [TIMM + name],
                      timm.get_pretrained_cfg(name).input_size) for name in names]


@torch.no_grad()
def try_candidate(candidate: Candidate, max_parameters: float = float('inf')) -> Result:
    """Build a backbone, and try all that its tap can read of one random image.

    Args:
        candidate (Candidate): The backbone.
        max_parameters (float): One with more is built, but not tried. Defaults to no limit.

    Returns:
        dict: ``class`` and ``parameters``; where a tap knows it, ``tap``, ``blocks``,
        ``attention`` (the blocks with maps), ``matrices`` and ``refused`` (reasons by level), or
        ``broken``, if the tap breaks its contract: outputs change, maps times values are not what
        the module gave, a hook is left, or a token that it leaves out depends on the image. Where
        none does, ``attentions``, how many it computes. ``failed``, if the host cannot build or run
        it. ``skipped``, if it is too large.
    """
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    result: Result = {'class': candidate.backbone['type']}
    try:
        model = MODELS.build(_without_weights(candidate.backbone))
        backbone = find_backbone(model) or model
        result['class'] = type(backbone).__name__
        backbone.eval()
        result['parameters'] = sum(parameter.numel() for parameter in backbone.parameters())
        if result['parameters'] > max_parameters:
            return dict(result, skipped=True)
        images = torch.randn(1, *candidate.image_shape)
        expected = _forward(backbone, images)
    except Exception as error:  # whatever it is, it is the host's, and the others go on
        return dict(result, failed=_one_line(error))
    try:
        tap = build_tap(backbone)
    except ValueError:
        return dict(result, attentions=_count_attentions(backbone, images))
    result.update(tap=type(tap).__name__, blocks=len(tap.blocks))
    try:
        return dict(result, **_try_tap(tap, images, expected))
    except Exception as error:  # whatever it is, it is the tap's, and the others go on
        return dict(result, broken=_one_line(error))


def _without_weights(backbone: dict[str, Any]) -> dict[str, Any]:
    return {key: _without_weights(value) if isinstance(value, dict) else value
            for key, value in backbone.items() if key != 'init_cfg'}


def _forward(backbone: nn.Module, images: Tensor) -> Any:
    """One pass; a backbone that hides patches hides the same ones in each, or, if told, none."""
    torch.manual_seed(1)
    _, *further = inspect.signature(backbone.forward).parameters.values()
    told = [each.name for each in further
            if each.default is each.empty and each.kind is each.POSITIONAL_OR_KEYWORD]
    if getattr(backbone, 'reconstruction_type', None) == 'clip':
        told.append('mask')  # iTPN shares its signature with the form that hides by itself
    return backbone(images, **dict.fromkeys(told))


def _one_line(error: Exception) -> str:
    return f'{type(error).__name__}: {" ".join(str(error).split())[:300]}'


def _count_attentions(backbone: nn.Module, images: Tensor) -> int:
    with AttentionProbe(type(backbone).__name__) as probe:
        try:
            _forward(backbone, images)
        except RuntimeError:  # as where a softmax is no attention's
            return 0
    return len(probe.found)


def _try_tap(tap: Tap, images: Tensor, expected: Any) -> Result:
    refused: dict[str, str] = {}
    attention = []
    for layer, block in enumerate(tap.blocks):
        try:
            tap.check_attention(block)
            attention.append(layer)
        except ValueError as error:
            refused['attention'] = str(error)
    requests = [('patch', EMBED), *(('patch', layer) for layer in range(len(tap.blocks))),
                *((source, layer) for source in HEADS for layer in attention)]
    hooks = _count_hooks(tap.backbone)
    tap.attach(requests)
    try:
        with tap.recording():
            outputs = _forward(tap.backbone, images)
            if not all(map(torch.equal, tree_leaves(outputs), tree_leaves(expected))):
                raise RuntimeError('outputs of the backbone change while its tap records')
            for layer in attention:
                _check_maps(tap, layer)
            for layer in (EMBED, *range(len(tap.blocks))):
                if tap.record('patch', layer).shape[1] < 2:
                    raise RuntimeError(f'layer {layer!r} has fewer than two patches')
    finally:
        tap.detach()
    if _count_hooks(tap.backbone) != hooks:
        raise RuntimeError('a hook is left after detaching')
    _check_prefix(tap, images)
    return dict(attention=attention, matrices=list(_matrices(tap, refused)), refused=refused)


def _check_maps(tap: Tap, layer: int) -> None:
    maps, values, outputs = (tap.whole_record(source, layer) for source in HEADS)
    error = (maps.maps @ values.heads - outputs.heads).abs().max() / outputs.heads.abs().max()
    if not error <= TOLERANCE:
        raise RuntimeError(f'in block {layer} maps times values differ by {error:.1e} from what '
                           'the attention gave')
    for source in HEADS:
        tap.records(source, layer)
        tap.forget(source, layer)


def _check_prefix(tap: Tap, images: Tensor) -> None:
    """Tokens before the patches are those that the first block has of every image alike."""
    tap.attach([('patch', EMBED)])
    try:
        with tap.recording():
            _forward(tap.backbone, torch.cat((images, torch.randn_like(images))))
            first, second = tap.tokens(EMBED)
    finally:
        tap.detach()
    alike = (first == second).all(1).tolist().index(False)
    if alike != tap.prefix_at(EMBED):
        raise RuntimeError(f'{alike} tokens before the patches are the same for every image, but '
                           f'the tap leaves out {tap.prefix_at(EMBED)}')


def _matrices(tap: Tap, refused: dict[str, str]) -> Iterator[str]:
    for name in MATRICES:
        try:
            tap.check_weights(Weights((name, )))
        except ValueError as error:
            refused.setdefault('weight', str(error))
        else:
            yield name


def _count_hooks(backbone: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks)
               for module in backbone.modules())


def coverage_tables(results: dict[str, Result]) -> dict[str, str]:
    """Markdown tables of what was found, each with the reasons of what is refused below it.

    Args:
        results (dict[str, dict]): Of :func:`try_candidate`, by name, each with its ``configs``.

    Returns:
        dict[str, str]: By name of the mark in a page. ``coverage-mmpretrain`` and
        ``coverage-timm``: a row for each class of backbones, or more, where not all support the
        same levels; ``coverage-others``: what has no tap, or could not be tried.
    """
    mmpretrain_rows: Rows = {}
    timm_rows: Rows = {}
    others = []
    for name, result in sorted(results.items()):
        is_timm = name.startswith(TIMM)
        if 'refused' in result:
            levels = tuple((_support(result, level), result['refused'].get(level, ''))
                           for level in ('attention', 'weight'))
            rows = timm_rows if is_timm else mmpretrain_rows
            rows.setdefault((result['class'], *levels), []).append(result)
        elif result.get('attentions') != 0 or is_timm:
            others.append((name, result['class'], _why_not(result)))
    return {
        'coverage-mmpretrain': _table(
            mmpretrain_rows, 'backbone', ['configs', 'distinct'],
            lambda found: (str(sum(len(each['configs']) for each in found)), str(len(found)))),
        'coverage-timm': _table(
            timm_rows, 'class', ['models'],
            lambda found: (', '.join(each['configs'][0].removeprefix(TIMM) for each in found), )),
        'coverage-others': markdown_table(['config', 'backbone', 'why'], others)}


def _table(rows: Rows, kind: str, header: list[str],
           describe: Callable[[list[Result]], tuple[str, ...]]) -> str:
    notes: dict[str, int] = {}

    def cell(support: str, reason: str) -> str:
        return f'{support} ({notes.setdefault(reason, len(notes) + 1)})' if reason else support

    table = markdown_table(
        [kind, 'patch', 'attention', 'weight', *header],
        [(name, 'yes', *(cell(*level) for level in levels), *describe(found))
         for (name, *levels), found in sorted(rows.items())])
    reasons = [f'{number}. {reason}' for reason, number in notes.items()]
    return '\n'.join([table, '', *reasons] if reasons else [table])


def _support(result: Result, level: str) -> str:
    if level == 'weight':
        matrices = result['matrices']
        return 'yes' if len(matrices) == len(MATRICES) else ', '.join(matrices) or 'no'
    count = len(result['attention'])
    return 'no' if not count else 'yes' if count == result['blocks'] else 'some blocks'


def _why_not(result: Result) -> str:
    if 'attentions' in result:
        return f'no tap; {result["attentions"] or "no"} attentions with maps'
    if 'skipped' in result:
        return f'{result["parameters"] / 1e9:.1f} billion parameters: not tried'
    return f'cannot be run alone: {result["failed"]}' if 'failed' in result else result['broken']
