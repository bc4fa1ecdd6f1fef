"""The assessment of one or several models, head to toe: every measure over a set of images."""
import logging
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..datasets.audit_images import build_loader, evenly_spaced, open_images
from ..image_mask import Size, group_shapes
from ..records import AttentionRecord
from ..spelling import counted
from ..taps import Tap, build_tap
from .measurement import ProgressLine, describe_machine
from .model_loading import LoadedModel, count_channels, load_model
from .redundancy import (
    Gap,
    RedundancyMeter,
    Values,
    find_key_grid,
    name_blocks,
    quarter_energy,
    summarize,
)

#: What names a model, see :func:`~mmdiverse.evaluation.model_loading.load_model`; with a
#: checkpoint, a pair of both.
ModelLike = str | Path | Config | nn.Module | LoadedModel
#: Matrices whose shares belong to heads.
HEAD_MATRICES = ('q', 'k', 'v', 'proj')
#: Points of a curve of energies, at equal shares of the components.
CURVE = 64
#: Said of a model without checkpoint.
UNTRAINED = 'random initial weights: this says nothing about a trained model'
#: Rows and columns of a matrix whose shape is not known.
SQUARE = (384, 384)
#: Images whose attention is kept to be looked at.
NUM_EXAMPLES = 3


@dataclass(repr=False)
class Example:
    """Attention of a model to one image.

    Attributes:
        name (str): Of the image.
        pixels (Tensor): ``(H, W, 3)``, RGB in uint8, as the model sees it.
        maps (dict[int, Tensor]): By block, ``(heads, h, w)`` over the grid of patches: how the
            class token attends or, where there is none, the mean over all patches. Rows sum to
            at most 1. Blocks without maps, with several windows, or whose patches have no known
            place are left out.
    """

    name: str
    pixels: Tensor
    maps: dict[int, Tensor] = field(default_factory=dict)

    def __repr__(self) -> str:
        size = ' x '.join(map(str, self.pixels.shape[:2]))
        maps = f'maps of {name_blocks(sorted(self.maps))}' if self.maps else 'no maps'
        return f'Example({self.name!r}, {size} pixels, {maps})'


@dataclass(repr=False)
class ModelAudit:
    """What was measured of one model.

    Attributes:
        name (str): Short name.
        facts (dict): Source, config, checkpoint, backbone, sizes. ``checkpoint`` is None for random
            initial weights, and ``config`` where no file with the config is known.
        layers (dict[str, list]): Of each measure, the layers that its values belong to.
        values (dict): Of each measure, what ``RedundancyMeter.compute`` gives; curves of
            energies at :data:`CURVE` shares of the components. Measures of a level that the model
            lacks are left out.
        per_head (dict[str, dict[str, list[Tensor]]]): Of each measure at weight level and each
            matrix that heads share, ``(H,)`` for every block.
        summary (dict[str, list[float]]): One number for each layer.
        examples (list[Example]): Attention to a few images.
        gaps (list[Gap]): What is not measured, and why.
        shapes (dict[str, list]): Of ``'tokens'`` and of every matrix, see
            :meth:`~mmdiverse.evaluation.redundancy.RedundancyMeter.shapes`.
        per_image (dict[str, Tensor]): Of every measure that takes images ``(images, layers)``,
            whose spread tells how sure ``summary`` is, see
            :meth:`~mmdiverse.evaluation.redundancy.RedundancyMeter.per_image`.
    """

    name: str
    facts: dict[str, Any]
    layers: dict[str, list[int | str]]
    values: dict[str, Values]
    per_head: dict[str, dict[str, list[Tensor]]]
    summary: dict[str, list[float]]
    examples: list[Example]
    gaps: list[Gap] = field(default_factory=list)
    shapes: dict[str, list[list[int | None] | None]] = field(default_factory=dict)
    per_image: dict[str, Tensor] = field(default_factory=dict)

    def __repr__(self) -> str:
        blocks = counted(self.facts.get('num_blocks', 0), 'block')
        return f'ModelAudit({self.name!r}, {blocks}, {counted(len(self.values), "measure")})'

    @property
    def untrained(self) -> bool:
        """Whether its weights are random initial ones."""
        return 'checkpoint' in self.facts and self.facts['checkpoint'] is None

    def matrix_shape(self, matrix: str, layer: int) -> tuple[int, int]:
        """Rows and columns of a matrix in a block; a square where ``shapes`` does not say.

        Args:
            matrix (str): Its name.
            layer (int): The block.
        """
        shapes = self.shapes.get(matrix, [])
        shape = shapes[layer] if layer < len(shapes) else None
        return tuple(shape or SQUARE)


@dataclass(repr=False)
class Audit:
    """What was measured of all models.

    Attributes:
        models (list[ModelAudit]): In the order given.
        images (dict): ``source``; how many were ``asked`` for, ``measured`` and ``subsampled``
            for the dear measures; ``unreadable`` and ``skipped``, lists of names with reasons, of
            images that cannot be read and of files that are none; and whether it was
            ``interrupted``.
        machine (dict): Machine and versions.
    """

    models: list[ModelAudit]
    images: dict[str, Any]
    machine: dict[str, Any]

    def __repr__(self) -> str:
        names = ', '.join(repr(model.name) for model in self.models)
        images = counted(self.images['measured'], 'image')
        return f'Audit([{names}], {images} of {self.images["source"]})'


def audit(models: ModelLike | Sequence[ModelLike | tuple[ModelLike, str | Path | None]],
          images: str | Path | None = None, out_dir: str | Path | None = None, *,
          num_images: int = 1000, num_subsampled: int = 32, batch_size: int = 32,
          num_workers: int = 2, device: str | torch.device | None = None,
          names: Sequence[str] | None = None, measures: Sequence[str] | str = 'all') -> Audit:
    """Measure how redundant vision transformers are, at all levels.

    All models see the same images, batch by batch, each as the test pipeline of its config reads
    and prepares them: as ``tools/test.py`` does. Images of different shapes are not padded to each
    other's. Ctrl-C ends it after the batch at hand, and
    what was seen until then is what comes back. Nothing depends on the batch size or the number
    of workers, but for the rounding of the model. A warning says which models have random initial
    weights.

    Args:
        models: One model or several, each a config, its path, a work dir, a name of MMPretrain's
            zoo, ``timm:NAME`` or a classifier, see
            :func:`~mmdiverse.evaluation.model_loading.load_model`; or a pair of that and a
            checkpoint.
        images (str | Path, optional): A folder, ``'photos'`` or ``'digits'``. Defaults to
            ``'digits'`` for models whose config is tested on them and to ``'photos'`` for others.
        out_dir (str | Path, optional): Folder for the report: ``audit.html``, ``audit.json``,
            ``audit.csv``, ``figures/`` and ``diversity_<model>.py``. Defaults to none.
        num_images (int): Take at most so many, evenly spaced over a folder. Defaults to 1000.
        num_subsampled (int): Of these, evenly spaced, for measures too dear for all: those with an
            eigen-decomposition, and the CKA of head outputs. Defaults to 32.
        batch_size (int): Images at a time. Defaults to 32.
        num_workers (int): Processes that load images. Defaults to 2.
        device (str | torch.device, optional): Defaults to a GPU where there is one.
        names (Sequence[str], optional): Of the models, instead of those that they suggest.
        measures (Sequence[str] | str): Names in :data:`mmdiverse.measures.MEASURES`. Defaults to
            ``'all'``, but for those of attention maps of a model that has none: a warning and the
            report say so.

    Returns:
        Audit: Everything that was measured.

    Raises:
        TypeError: If ``measures`` is no list of names.
        ValueError: If a model cannot be found, is no vision transformer that a tap knows, or its
            checkpoint does not fit; if there are no images, none can be read, a model does not take
            what its test pipeline makes of them, or a number is below 1; or a name is unknown, or
            of something that a model lacks.
        OSError: If a file cannot be read, or the folder not be written.
        KeyboardInterrupt: If it was interrupted before the first image.
    """
    from ..report.audit import check_out_dir, write_report

    for key, number in (('num_images', num_images), ('num_subsampled', num_subsampled),
                        ('batch_size', batch_size), ('num_workers', num_workers + 1)):
        if number < 1:
            raise ValueError(f'`{key}` is too small: {number - (key == "num_workers")}')
    if out_dir is not None:
        check_out_dir(out_dir)  # before hours of work
    device = torch.device(device or ('cuda' if torch.cuda.is_available() else 'cpu'))
    loaded = _load_models(models, names, device)
    for model in loaded:
        if model.checkpoint is None:
            print_log(f'{model.name}: {UNTRAINED}', 'current', logging.WARNING)
    if images is None:
        images = 'digits' if all(model.digits for model in loaded) else 'photos'
    with ExitStack() as stack:
        meters = []
        for model in loaded:
            meter = RedundancyMeter(model.backbone, measures, 'all', embed=True)
            stack.callback(meter.detach)
            meters.append(meter)
        # One model may read suffixes that another does not; all see the same images.
        suffixes = sorted({suffix for model in loaded for suffix in model.suffixes})
        loaders = []
        for model in loaded:
            opened = open_images(images, model.pipeline, num_images, model.fit, suffixes)
            loaders.append(build_loader(opened, batch_size, num_workers))
        seen, sizes, examples = _measure(loaded, meters, loaders, num_subsampled)
        count = len(loaders[0].dataset)
        result = Audit([_collect(*parts, count) for parts in zip(loaded, meters, sizes, examples)],
                       dict(source=str(images), **seen), describe_machine(device))
    if out_dir is not None:
        write_report(result, out_dir)
    return result


def _load_models(models: Any, names: Sequence[str] | None, device: torch.device
                 ) -> list[LoadedModel]:
    if isinstance(models, (str, Path, Config, nn.Module, LoadedModel)) or (
            isinstance(models, tuple) and len(models) == 2):
        models = [models]
    models = list(models)
    if not models or names is not None and len(names) != len(models):
        raise ValueError('expected at least one model and as many `names`, but got '
                         f'{counted(len(models), "model")} and names {names}')
    loaded = []
    for index, model in enumerate(models):
        name = names[index] if names else None
        source, checkpoint = model if isinstance(model, tuple) else (model, None)
        loaded.append(source if isinstance(source, LoadedModel) else
                      load_model(source, checkpoint, device, name))
    if len({model.name for model in loaded}) < len(loaded):
        raise ValueError(f'models share a name: {[model.name for model in loaded]}; give them '
                         '`names` (--names)')
    return loaded


@torch.no_grad()
def _measure(models: Sequence[LoadedModel], meters: Sequence[RedundancyMeter],
             loaders: Sequence[DataLoader], num_subsampled: int
             ) -> tuple[dict[str, Any], list[set[Size]], list[list[Example]]]:
    """Run all models over their images, batch by batch.

    Returns:
        tuple: What was seen; and of each model the sizes of its images and the examples.
    """
    count = len(loaders[0].dataset)
    chosen = set(evenly_spaced(count, num_subsampled))
    skipped = [dict(name=name, reason='not named as an image')
               for name in loaders[0].dataset.skipped]
    seen = dict(asked=count, measured=0, subsampled=0, unreadable=[], skipped=skipped,
                interrupted=False)
    measured: list[int] = []
    sizes: list[set[Size]] = [set() for _ in models]
    progress = ProgressLine(count * len(models))
    progress.start('loading images')
    with _ctrl_c_noted() as interrupted:
        for batches in zip(*loaders):
            for batch, model, meter, found in zip(batches, models, meters, sizes):
                inputs, indices = batch['inputs'], batch['indices']
                progress.start(f'{model.name}: {meter.images}/{counted(count, "image")}')
                for places in group_shapes(inputs):
                    found.add(tuple(inputs[places[0]].shape[1:]))
                    own = [indices[place] for place in places]
                    with meter.measuring([index in chosen for index in own], own):
                        _run(model, torch.stack([inputs[place] for place in places]))
                progress.advance(len(indices) + len(batch['unreadable']))
            measured += indices
            seen['measured'] += len(indices)
            seen['subsampled'] += sum(index in chosen for index in indices)
            seen['unreadable'] += [dict(name=image.name, reason=image.reason)
                                   for image in batch['unreadable']]
            if interrupted:
                seen['interrupted'] = seen['measured'] + len(seen['unreadable']) < count
                break
    progress.end()
    if not seen['measured']:
        if interrupted:
            raise KeyboardInterrupt
        raise ValueError('--images: none of the images can be read, for example '
                         '{name}: {reason}'.format(**seen['unreadable'][0]))
    names = loaders[0].dataset.names
    shown = [measured[place] for place in choose_examples([names[index] for index in measured])]
    examples = [[_look(model, meter.blocks_with_maps, loader.dataset[index]['inputs'], names[index])
                 for index in shown] for model, meter, loader in zip(models, meters, loaders)]
    return seen, sizes, examples


def _run(model: LoadedModel, images: Tensor) -> Tensor:
    """Give images ``(B, C, H, W)`` to the backbone of a model, and return them as it got them.

    Raises:
        ValueError: If it does not take them, and they are not as it is made for.
    """
    try:
        data = dict(inputs=images, data_samples=None)  # for which some preprocessors ask
        inputs = model.model.data_preprocessor(data, False)['inputs']
        model.backbone(inputs)
    except Exception as error:
        shape = tuple(images.shape[1:])
        wanted = count_channels(model.backbone) or shape[0]
        if shape[1:] == model.image_size and shape[0] == wanted:
            raise
        height, width = model.image_size
        raise ValueError(
            f'{model.name} does not take images of {shape[0]} channels and {shape[1]} x {shape[2]} '
            'pixels, which its test pipeline (`test_dataloader.dataset.pipeline`) gives; its '
            f'backbone is made for {wanted} channels and {height} x {width} pixels. Resize or crop '
            'images to that (`Resize`, `CenterCrop`) and load their channels (`color_type` of '
            f'`LoadImageFromFile`), or change `model.backbone`. {type(error).__name__}: {error}'
        ) from error
    return inputs


def choose_examples(names: Sequence[str]) -> list[int]:
    """Images to look at: of different folders where there are several, evenly spaced.

    Args:
        names (Sequence[str]): Paths of the images in their folder.

    Returns:
        list[int]: The places of :data:`NUM_EXAMPLES`, or of all where there are fewer.
    """
    folders = [PurePath(name).parts[:-1] for name in names]
    depth = 0
    while all(len(folder) > depth for folder in folders) and \
            len({folder[depth] for folder in folders}) == 1:
        depth += 1
    classes: dict[tuple[str, ...], list[int]] = {}
    for place, folder in enumerate(folders):
        classes.setdefault(folder[depth:depth + 1], []).append(place)
    groups = [list(classes.values())[index] for index in evenly_spaced(len(classes), NUM_EXAMPLES)]
    counts = [0] * len(groups)
    for _ in range(min(NUM_EXAMPLES, sum(map(len, groups)))):
        # One more of the group of which the fewest are taken.
        open_groups = [index for index, group in enumerate(groups) if counts[index] < len(group)]
        counts[min(open_groups, key=counts.__getitem__)] += 1
    return sorted(group[index] for group, count in zip(groups, counts)
                  for index in evenly_spaced(len(group), count))


@contextmanager
def _ctrl_c_noted() -> Iterator[list[bool]]:
    """Note the first Ctrl-C, so that work may end where its results are whole; let a second end it.

    Yields:
        list[bool]: Empty until then.
    """
    noted: list[bool] = []
    if threading.current_thread() is not threading.main_thread():  # which alone gets signals
        yield noted
        return

    def note(number: int, frame: Any) -> None:
        noted.append(True)
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


@torch.no_grad()
def _look(model: LoadedModel, blocks: Sequence[int], image: Tensor, name: str) -> Example:
    """How blocks with maps attend to an image ``(C, H, W)``."""
    tap = build_tap(model.backbone)
    tap.attach(('maps', layer) for layer in blocks)
    maps = {}
    try:
        with tap.recording():
            inputs = _run(model, image[None])
            for layer in blocks:
                for record in tap.records('maps', layer):
                    with suppress(ValueError):  # such as windows, which lie anywhere
                        maps[layer] = _attention_to_patches(tap, record, inputs)[0]
    finally:
        tap.detach()
    return Example(name, _show(image), maps)


def _show(image: Tensor) -> Tensor:
    """An image ``(C, H, W)``, as pipelines leave it, as RGB in uint8, ``(H, W, 3)``."""
    pixels = image.float()
    if image.dtype != torch.uint8 and (pixels.min() < 0 or not 1 < pixels.max() <= 255):
        low, high = pixels.min(), pixels.max()
        pixels = 255 * (pixels - low) / (high - low).clamp(min=1e-12)
    # Of other numbers of channels the first is shown, in grey.
    pixels = pixels[:3].flip(0) if len(pixels) in (3, 4) else pixels[:1].expand(3, -1, -1)
    return pixels.permute(1, 2, 0).to('cpu', torch.uint8)


def _attention_to_patches(tap: Tap, record: AttentionRecord, inputs: Tensor) -> Tensor:
    """``(B, H, h, w)``: by the class token, or on average by the patches where there is none.

    Raises:
        ValueError: If these have no known place in the image.
    """
    if record.shape[0] != len(inputs):
        raise ValueError('a window is no whole image')
    prefix = record.num_prefix
    attention = record.maps[:, :, 0] if prefix else record.maps.mean(2)
    return attention[..., prefix:].unflatten(
        -1, find_key_grid(tap, record, len(inputs), inputs.shape[-2:])).cpu().clone()


def _collect(model: LoadedModel, meter: RedundancyMeter, sizes: set[Size],
             examples: list[Example], count: int) -> ModelAudit:
    """The result for a model, of so many images, seen or not."""
    values = meter.compute()
    tap = meter.tap
    blocks = range(len(tap.blocks))
    shared = [name for name in HEAD_MATRICES
              if name in meter.matrices and meter.blocks_with(name, per_head=True)]
    per_head = meter.measure_weights(shared, per_head=True) if shared else {}
    summary, layers = {}, {}
    for measure in meter.measures:
        name = measure.name
        summary[name] = summarize(measure, values[name])
        layers[name] = meter.layers(measure)
        if measure.axis == 'component':
            values[name] = {matrix: [_curve(energy) for energy in curves]
                            for matrix, curves in values[name].items()}
            per_head[name] = {matrix: [torch.tensor([quarter_energy(head) for head in heads])
                                       for heads in curves]
                              for matrix, curves in per_head.get(name, {}).items()}
    facts = dict(source=model.source, config=model.config, checkpoint=model.checkpoint,
                 backbone=type(getattr(tap.backbone, 'timm_model', tap.backbone)).__name__,
                 num_blocks=len(blocks), num_heads=_count_heads(tap),
                 num_prefix=tap.num_prefix, matrices=list(meter.matrices),
                 num_parameters=sum(p.numel() for p in tap.backbone.parameters()),
                 image_size=list(examples[0].pixels.shape[:2]), num_image_sizes=len(sizes))
    return ModelAudit(model.name, facts, layers, values, per_head, summary, examples,
                      meter.gaps(HEAD_MATRICES), meter.shapes(), meter.per_image(count))


def _count_heads(tap: Tap) -> list[int]:
    """Of every block; none where blocks have several attentions."""
    try:
        return [tap.count_heads(layer) for layer in range(len(tap.blocks))]
    except ValueError:
        return []


def _curve(energy: Tensor) -> Tensor:
    """The energies at :data:`CURVE` equal shares of the components."""
    places = (torch.arange(1, CURVE + 1) * len(energy) / CURVE).ceil().long() - 1
    return energy[places]
