"""A vision transformer with its weights, from whatever names it, and what its images go through."""
import difflib
import inspect
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import timm
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import CheckpointLoader
from mmengine.utils import to_2tuple
from mmpretrain.apis.model import ModelHub
from mmpretrain.models.classifiers import BaseClassifier
from mmpretrain.registry import MODELS
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data import resolve_data_config
from timm.models import clean_state_dict
from torch import Tensor, nn

from ..config import load_config, type_name
from ..datasets.audit_images import LOAD, SUFFIXES, reads_files
from ..model_hub import list_models
from ..taps import build_tap
from ..taps.base import WHOLE_MODELS, find_backbone

TIMM = 'timm:'
#: What `checkpoint` says of a model that came with its weights.
AS_GIVEN = 'as given'

PACK = dict(type='PackInputs')
#: File backends of MMEngine that fetch from elsewhere, and cannot read a folder of this machine.
REMOTE = ('ceph', 'http', 'lmdb', 'memcached', 'petrel')
RESIZING = {'Resize', 'ResizeEdge', 'CenterCrop', 'EfficientNetCenterCrop'}

#: Before the path of a checkpoint: the averaged weights, or those that were trained.
WHICH = ('ema', 'model')
#: Where trainers keep the weights, and where timm's and the authors of DeiT their average.
AVERAGES = {'state_dict': 'state_dict_ema', 'model': 'model_ema'}

#: At most so many keys are named of a checkpoint that does not fit.
NAMED = 4


@dataclass(frozen=True)
class LoadedModel:
    """A classifier, where it came from, and what its images go through.

    Attributes:
        name (str): Short name for tables.
        source (str): What was asked for.
        checkpoint (str, optional): Where its weights are from; None for random initial weights.
        model (nn.Module): MMPretrain classifier in evaluation mode, on the device. Only weights of
            its backbone are loaded, which of a ``TimmClassifier`` or ``HuggingFaceClassifier`` is
            the whole model.
        pipeline (list[dict]): MMPretrain transforms from ``img_path`` to ``inputs``: the test
            pipeline of its config, with its loader. A loader is added where the images of the
            config are in memory, and where it has no pipeline, all of one.
        digits (bool): Whether its config is tested on :class:`mmdiverse.datasets.Digits`.
        image_size (tuple[int, int]): Height and width that the backbone is made for.
        fit (list[dict]): Transforms to that size, for images that are none of the config's own;
            none where the pipeline resizes.
        suffixes (tuple[str, ...]): How names of its images end.
        config (str, optional): Its config as ``tools/train.py`` takes it, a path or
            ``package::path``; None where it is in no file. Defaults to None.
    """

    name: str
    source: str
    checkpoint: str | None
    model: nn.Module
    pipeline: list[dict]
    digits: bool
    image_size: tuple[int, int]
    fit: list[dict]
    suffixes: tuple[str, ...]
    config: str | None = None

    @property
    def backbone(self) -> nn.Module:
        """What taps read of the model."""
        return find_backbone(self.model)


def load_model(model: str | Path | Config | nn.Module, checkpoint: str | Path | None = None,
               device: str | torch.device = 'cpu', name: str | None = None) -> LoadedModel:
    """Load a classifier whose backbone a tap knows.

    Args:
        model (str | Path | Config | nn.Module): A config, its path, or ``package::path``; the work
            dir of a run; a name of MMPretrain's model zoo; ``timm:NAME``; or a classifier.
        checkpoint (str | Path, optional): Path or URL of a checkpoint with MMPretrain's keys, for
            ``timm:NAME`` with timm's. Defaults to the last checkpoint of a work dir, the released
            weights of a zoo or timm name, the weights of a classifier as they are, and for a config
            to initial weights, the same at each call.
        device (str | torch.device): Where the model goes. Defaults to ``'cpu'``.
        name (str, optional): Instead of the name that ``model`` suggests.

    Raises:
        ValueError: If there is no such model, no tap knows its backbone or it masks patches, it has
            no weights, or those of the checkpoint do not fit every parameter of the backbone.
        OSError: If a file cannot be read, or weights cannot be downloaded.
    """
    # Of the CPU alone, where models are built; fork_rng would otherwise look after every GPU.
    with _quiet_hosts(), DefaultScope.overwrite_default_scope('mmpretrain'), \
            torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        if isinstance(model, nn.Module):
            classifier, cfg, suggested = model, {}, type(model).__name__
            source, named = suggested, None
        else:
            suggested, source, config, checkpoint = _find_config(model, checkpoint)
            cfg, named = config.to_dict(), _name_config(source, config)
            classifier = _build(cfg, source)
        backbone = find_backbone(classifier)
        if not isinstance(classifier, BaseClassifier) or backbone is None:
            raise _no_classifier(source, type(classifier).__name__)
        build_tap(backbone)  # before weights are read or even downloaded
        _check_unmasked(backbone, source)
        if source.startswith(TIMM):
            checkpoint = _load_timm_weights(backbone.timm_model, source, checkpoint)
        elif checkpoint is not None:
            prefix = '' if isinstance(classifier, WHOLE_MODELS) else 'backbone.'
            state = _below(prefix, read_state(checkpoint), backbone, checkpoint)
            _load_weights(backbone, state, source, checkpoint)
        elif isinstance(model, nn.Module):
            checkpoint = AS_GIVEN
        elif _starts_pretrained(cfg['model']):
            raise ValueError(f'{source} starts from pretrained weights (`init_cfg` or `pretrained` '
                             'in `model`), so it has no initial ones of its own; give a checkpoint')
        else:
            classifier.init_weights()
    classifier.to(device)
    classifier.eval()
    dataset, size = _test_dataset(cfg), _image_size(backbone)
    load = dict(LOAD, color_type='grayscale') if count_channels(backbone) == 1 else LOAD
    pipeline = _make_pipeline(dataset, _fit(size), load)
    return LoadedModel(
        name or suggested, source, None if checkpoint is None else str(checkpoint), classifier,
        pipeline, type_name(dataset) == 'mmdiverse.Digits', size,
        [] if _resizes(pipeline) else _fit(size),
        tuple(suffix.lower() for suffix in dataset.get('extensions') or SUFFIXES), named)


@contextmanager
def _quiet_hosts() -> Iterator[None]:
    """Keep the hosts from logging every parameter that they initialize."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _find_config(model: str | Path | Config, checkpoint: str | Path | None
                 ) -> tuple[str, str, Config, str | Path | None]:
    """The name, the source, the config and the checkpoint that a name stands for."""
    if isinstance(model, Config):
        source = model.filename or 'config'
        return Path(source).stem, source, model, checkpoint
    source = str(model)
    if source.startswith(TIMM):
        return source.removeprefix(TIMM), source, _timm_config(source, checkpoint), checkpoint
    if Path(source).is_dir():
        cfg, checkpoint = _read_work_dir(Path(source), checkpoint)
        return Path(source).resolve().name, source, cfg, checkpoint
    if '::' in source or Path(source).suffix in ('.py', '.json', '.yml', '.yaml'):
        return Path(source).stem, source, load_config(source), checkpoint
    zoo = list_models()
    if source.lower() not in zoo:
        raise ValueError(
            f'there is no model {source!r}{_similar(source.lower(), zoo)}: expected the path of a '
            "config (.py), 'package::path', the work dir of a run, a name of MMPretrain's model "
            f"zoo, or '{TIMM}NAME'")
    entry = ModelHub.get(source)
    if checkpoint is None and not entry.weights:
        raise ValueError(f'no weights of {source} have been released; give a checkpoint')
    return source, source, entry.config, checkpoint or entry.weights


def _name_config(source: str, config: Config) -> str | None:
    """How ``tools/train.py`` is told of a config, None where no file holds it."""
    if '::' in source:  # what MMEngine read is a temporary file
        return source
    if source.startswith(TIMM) or config.filename is None:
        return None
    parts = Path(config.filename).parts
    if Path(source).exists() or '.mim' not in parts:
        return config.filename
    place = parts.index('.mim')  # where an installed package has the configs of its zoo
    return f'{parts[place - 1]}::{"/".join(parts[place + 2:])}'


def _similar(name: str, names: list[str]) -> str:
    found = difflib.get_close_matches(name, names)
    return f' (similar: {", ".join(found)})' if found else ''


def _read_work_dir(folder: Path, checkpoint: str | Path | None) -> tuple[Config, str | Path]:
    configs = sorted(folder.glob('*.py'), key=lambda path: path.stat().st_mtime)
    if not configs:
        raise FileNotFoundError(f'{folder} is no work dir of a run: it holds no config (*.py)')
    if checkpoint is None:
        note = folder / 'last_checkpoint'
        checkpoint = note.read_text().strip() if note.is_file() else None
        if not checkpoint:
            raise FileNotFoundError(f'{note}, which names the last checkpoint of the run, is '
                                    'missing or empty; give a checkpoint')
        # The note may be relative to where the run was started, and the folder have been moved.
        here = folder / Path(checkpoint).name
        checkpoint = here if here.is_file() else checkpoint
    return load_config(configs[-1]), checkpoint


def _timm_config(source: str, checkpoint: str | Path | None) -> Config:
    """The config of a timm model that is not loaded yet, with its own preparation of images."""
    name = source.removeprefix(TIMM)
    if not timm.is_model(name):
        raise ValueError(f'timm has no model {name!r}{_similar(name, timm.list_models())}')
    if checkpoint is None and not timm.is_model_pretrained(name):
        raise ValueError(f'timm has no weights of {name!r}'
                         f'{_similar(name, timm.list_pretrained())}; give a checkpoint')
    try:
        data = resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    except RuntimeError as error:  # the part after the dot is unknown
        raise ValueError(f'timm has no model {name!r}: {error}') from error
    fit = _fit(data['input_size'][1:], data['crop_pct'], data['interpolation'],
               data['crop_mode'] == 'squash')
    return Config(dict(
        model=dict(type='ImageClassifier',
                   backbone=dict(type='TIMMBackbone', model_name=name),
                   data_preprocessor=dict(mean=[255 * value for value in data['mean']],
                                          std=[255 * value for value in data['std']],
                                          to_rgb=True)),
        test_dataloader=dict(dataset=dict(pipeline=[*fit, PACK]))))


def _build(cfg: dict, source: str) -> nn.Module:
    model = cfg.get('model') or {}
    # Said before a language model is built.
    if 'backbone' not in model and \
            type_name(model) not in [kind.__name__ for kind in WHOLE_MODELS]:
        raise _no_classifier(source, type_name(model) or 'config without `model`')
    return MODELS.build({'data_preprocessor': cfg.get('data_preprocessor'), **deepcopy(model)})


def _no_classifier(source: str, got: str) -> ValueError:
    return ValueError(f'the audit reads image classifiers of MMPretrain with a `backbone`, but '
                      f'{source} is a {got}')


def _check_unmasked(backbone: nn.Module, source: str) -> None:
    """Raise ValueError for a backbone that masks patches unless it is told not to."""
    _, *others = inspect.signature(backbone.forward).parameters.values()
    if any(other.name == 'mask' and other.default is not None or
           other.kind is other.POSITIONAL_OR_KEYWORD and other.default is other.empty
           for other in others):
        kind = type(backbone)
        plain = next(base.__name__ for base in kind.__mro__ if 'selfsup' not in base.__module__)
        raise ValueError(f'{source} has the backbone {kind.__name__}, which masks patches for '
                         f"pre-training; audit its weights in the backbone '{plain}'")


def _starts_pretrained(model: Any) -> bool:
    if isinstance(model, dict):
        return bool(model.get('pretrained')) or _starts_pretrained(list(model.values())) \
            or type_name(model) in ('Pretrained', 'PretrainedInit')
    return isinstance(model, (list, tuple)) and any(map(_starts_pretrained, model))


def _load_timm_weights(model: nn.Module, source: str, checkpoint: str | Path | None) -> str | Path:
    """Load weights with timm's keys into a timm model without its head."""
    name = source.removeprefix(TIMM)
    try:
        whole = timm.create_model(name, pretrained=checkpoint is None).state_dict()
    except OSError as error:
        raise OSError(f'the weights of {source} could not be downloaded: {error} Give a '
                      'checkpoint') from error
    state = whole if checkpoint is None else _below('', read_state(checkpoint), model, checkpoint)
    head = whole.keys() - model.state_dict().keys()
    released = model.pretrained_cfg
    checkpoint = checkpoint or f'timm/{released["architecture"]}.{released["tag"]}'
    _load_weights(model, {key: value for key, value in state.items() if key not in head}, source,
                  checkpoint)
    return checkpoint


def read_checkpoint(checkpoint: str | Path) -> Any:
    """What a checkpoint holds, in whatever form.

    Args:
        checkpoint (str | Path): Path, also ``.safetensors``, or URL.

    Raises:
        OSError: If it cannot be read or downloaded.
        ValueError: If it is no checkpoint, or not a whole one.
    """
    name, path = str(checkpoint), Path(checkpoint).expanduser()
    if '://' not in name and not path.is_file():
        raise FileNotFoundError(f'there is no checkpoint {name}')
    try:
        return load_file(path) if path.suffix == '.safetensors' else \
            CheckpointLoader.load_checkpoint(name, map_location='cpu')
    except OSError as error:
        raise OSError(f'the checkpoint {name} could not be loaded: {error}') from error
    except (RuntimeError, UnpicklingError, SafetensorError) as error:
        raise ValueError(f'the checkpoint {name} could not be loaded: {error}') from error


def split_scheme(checkpoint: str) -> tuple[str | None, str]:
    """Which weights (one of :data:`WHICH`, if it is said) and the path."""
    which, _, path = checkpoint.partition(':')
    return (which, path) if which in WHICH else (None, checkpoint)


def read_state(checkpoint: str | Path) -> dict[str, Tensor]:
    """The weights in a checkpoint, alone or below ``'state_dict'`` or ``'model'``.

    Args:
        checkpoint (str | Path): See :func:`read_checkpoint`; with ``ema:`` before it, the averaged
            weights, with ``model:`` those that were trained. Without, a checkpoint of MMEngine's
            ``EMAHook`` gives the average, which is what was evaluated.

    Raises:
        OSError: If it cannot be read or downloaded.
        ValueError: If it is no checkpoint, or not a whole one, or another trainer's with an
            average and it is not said which weights of two.
    """
    which, path = split_scheme(str(checkpoint))
    state = choose_weights(read_checkpoint(path), which, path)
    for key in AVERAGES:  # such as the state dict of a whole model below `model`
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict):
        raise ValueError(f'{path} is no checkpoint: expected a dict of tensors, but got a '
                         f'{type(state).__name__}')
    return clean_state_dict(state)


def choose_weights(content: Any, which: str | None, path: str) -> Any:
    """Of what a checkpoint holds, the averaged weights or those that were trained.

    Args:
        content (Any): As :func:`read_checkpoint` returns it.
        which (str, optional): One of :data:`WHICH`.
        path (str): What the checkpoint is called.

    Raises:
        ValueError: If there is no average, but it is asked for; or there are both, of another
            trainer than MMEngine, and neither is.
    """
    if not isinstance(content, dict):
        return content
    if 'ema_state_dict' in content:
        # EMAHook exchanges the two as it saves, so that what loads `state_dict` has the average.
        if which != 'model':
            return content.get('state_dict')
        return {key.removeprefix('module.'): value
                for key, value in content['ema_state_dict'].items() if key.startswith('module.')}
    for trained, average in AVERAGES.items():
        if isinstance(content.get(trained), dict) and content.get(average):
            if which is None:
                raise ValueError(f'{path} holds averaged weights (`{average}`) and those that were '
                                 f'trained (`{trained}`); say which: ema:{path} or model:{path}')
            return content[average if which == 'ema' else trained]
    if which == 'ema':
        raise ValueError(f'{path} holds no averaged weights, so it was trained without EMAHook; '
                         f'take model:{path}')
    return next((content[key] for key in AVERAGES if isinstance(content.get(key), dict)), content)


def find_prefix(keys: Iterable[str], is_known: Callable[[str], bool], path: str = 'the checkpoint'
                ) -> str:
    """What a training loop put in front of the names of a model, such as ``'model.'``.

    Args:
        keys (Iterable[str]): Of a state dict.
        is_known (Callable): Whether a key is one of the model itself.
        path (str): What the state dict is called.

    Returns:
        str: That below which most keys are known; empty where some are known as they are, or none.

    Raises:
        ValueError: If the model is there twice, as student and teacher are.
    """
    found: Counter[str] = Counter()
    for key in keys:
        parts = key.split('.')
        for start in range(len(parts)):
            if is_known('.'.join(parts[start:])):
                found[''.join(f'{part}.' for part in parts[:start])] += 1
                break
    if not found or '' in found:
        return ''
    (prefix, count), *others = found.most_common()
    twins = sorted([prefix, *(other for other, number in others if number == count)])
    if len(twins) > 1:
        raise ValueError(f'{path} holds the model {len(twins)} times, below '
                         f'{", ".join(map(repr, twins))}: save the one that is meant in a '
                         'checkpoint of its own, as dict(state_dict=...)')
    return prefix


def count_fitting_keys(module: nn.Module, state: dict[str, Tensor]) -> int:
    """How many weights of a checkpoint have the key and the shape of one in a module.

    Args:
        module (nn.Module): With state dict.
        state (dict[str, Tensor]): As :func:`read_state` returns it.
    """
    own = module.state_dict()
    return sum(key in own and getattr(value, 'shape', None) == own[key].shape
               for key, value in state.items())


def _below(prefix: str, state: dict[str, Tensor], module: nn.Module, checkpoint: str | Path
           ) -> dict[str, Tensor]:
    """The weights of a module, whatever a training loop put in front of their names."""
    own = {prefix + key for key in module.state_dict()}
    prefix = find_prefix(state, own.__contains__, str(checkpoint)) + prefix
    return {key.removeprefix(prefix): value for key, value in state.items()
            if key.startswith(prefix)}


def _load_weights(module: nn.Module, state: dict[str, Tensor], source: str,
                  checkpoint: str | Path) -> None:
    """Load a state dict that must hold every parameter of a module and nothing else."""
    try:
        keys = module.load_state_dict(state, strict=False)
        # A buffer can be missing: MMPretrain makes the index of a resized window anew.
        parameters = {name for name, _ in module.named_parameters()}
        misfits = [f'missing {key}' for key in keys.missing_keys if key in parameters]
        misfits += [f'unexpected {key}' for key in keys.unexpected_keys]
    except Exception as error:  # of torch, with a line per wrong shape, or of a host's hook
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or ['']
        misfits = lines[1:] if lines[0].startswith('Error(s) in loading') else \
            [f'{type(error).__name__}: {lines[0]}']
    if misfits:
        more = f' and {len(misfits) - NAMED} more' * (len(misfits) > NAMED)
        raise ValueError(
            f'{checkpoint} does not fit {source}, is it a checkpoint for another architecture? '
            f'{count_fitting_keys(module, state)} of the {len(module.state_dict())} keys of '
            f'{type(module).__name__} fit; '
            f'{"; ".join(misfits[:NAMED])}{more}')


def _test_dataset(cfg: dict) -> dict:
    """The config of the data set that a model is tested on, without its wrappers."""
    loader = cfg.get('test_dataloader') or cfg.get('val_dataloader') or {}
    dataset = loader.get('dataset') or {}
    while 'pipeline' not in dataset and (dataset.get('dataset') or dataset.get('datasets')):
        dataset = dataset.get('dataset') or dataset['datasets'][0]
    return dataset


def _image_size(backbone: nn.Module) -> tuple[int, int]:
    embedding = getattr(getattr(backbone, 'timm_model', backbone), 'patch_embed', None)
    size = (getattr(holder, name, None) for holder, name in (
        (embedding, 'init_input_size'), (embedding, 'img_size'), (backbone, 'img_size'),
        (getattr(backbone, 'config', None), 'image_size')))  # the last of Hugging Face
    return to_2tuple(next(filter(None, size), 224))


def _fit(size: tuple[int, int], crop: float = 1., interpolation: str = 'bicubic',
         squash: bool = False) -> list[dict]:
    """Transforms to the middle of an image, of which the share ``crop`` of each side is kept."""
    height, width = size
    scale = int(width / crop), int(height / crop)
    resize = dict(type='Resize', scale=scale) if squash or height != width else \
        dict(type='ResizeEdge', scale=scale[0], edge='short')
    return [dict(resize, backend='pillow', interpolation=interpolation),
            dict(type='CenterCrop', crop_size=(width, height))]


def count_channels(backbone: nn.Module) -> int | None:
    """The channels of the images that a backbone takes: those of its first convolution."""
    return next((module.in_channels for module in backbone.modules()
                 if isinstance(module, nn.Conv2d)), None)


def _make_pipeline(dataset: dict, fit: list[dict], load: dict) -> list[dict]:
    pipeline = [_read_here(transform) for transform in dataset.get('pipeline') or []]
    if not pipeline:
        return [load, *fit, PACK]
    *transforms, pack = pipeline
    kind = type_name(pack)
    if kind in ('PackInputs', 'PackMultiTaskInputs'):  # without labels and the like
        pack = {**PACK, **{key: value for key, value in pack.items() if key == 'input_key'}}
    if reads_files([*transforms, pack], load):
        return [*transforms, pack]
    if kind != 'PackInputs':  # the data set makes something else of images, for another task
        return [load, *fit, PACK]
    # Images of the config are in memory, and of their final size unless the pipeline says more.
    return [load, *transforms, *([] if _resizes(transforms) else fit), pack]


def _read_here(transform: dict) -> dict:
    """A loader that reads the disk of this machine, wherever the images of its config are."""
    return {key: value for key, value in transform.items()
            if key not in ('backend_args', 'file_client_args')
            or (value or {}).get('backend') not in REMOTE}


def _resizes(pipeline: list[dict]) -> bool:
    return any(type_name(transform) in RESIZING for transform in pipeline)
