"""What current torch, setuptools and transformers broke in the host packages, and the mends.

Each mend uses a door that torch or the host itself leaves open. Two things have none and are
wrapped: the text of a config (:func:`write_readable_configs`), and the finding of a package's place
(:func:`find_editable_configs`). No other function of a host is touched.
:func:`apply` runs at ``import mmdiverse``, the process group is the launch tools' affair.
"""
from __future__ import annotations

import argparse
import ast
import math
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import wraps
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any


def apply() -> list[str]:
    """Applies every mend that this environment needs.

    Returns:
        list[str]: Names of the mends applied by this call; a second call finds nothing to do.
    """
    mends = (allow_checkpoint_globals, register_weights_schemes, guard_checkpoint_loaders,
             write_files_atomically, register_config_package, find_editable_configs,
             find_onedl_segmentation, write_readable_configs, let_sharded_runs_resume,
             explain_missing_prefix, disable_broken_multimodal)
    return [mend.__name__ for mend in mends if mend()]


def _history_statistic(owner: type, name: str) -> Callable:
    """Stands in for ``getattr`` in a checkpoint: hands out the statistics of HistoryBuffer only."""
    from mmengine.logging import HistoryBuffer

    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise UnpicklingError(f"the checkpoint asks for getattr({owner!r}, {name!r}); mmdiverse "
                              f'allows only the statistics of mmengine.logging.HistoryBuffer')
    return getattr(owner, name)


class _InPlaceOfGetattr(tuple):
    """The allow-list's entry of a stand-in for ``getattr``, which keeps out ``getattr`` itself.

    OneDL's MMEngine allows ``getattr`` while it loads a file. The list is a set in torch, and which
    of two entries of one name answers is chance. To that set, this one is ``getattr``.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return other is getattr or tuple.__eq__(self, other)

    def __hash__(self) -> int:
        return hash(getattr)


def allow_checkpoint_globals() -> bool:
    """Lets ``torch.load(weights_only=True)`` read MMEngine's own checkpoints.

    Breaks: torch >= 2.6, where ``weights_only=True`` became the default.
    Symptom: ``Runner.resume`` and ``load_checkpoint`` stop with ``Weights only load failed ...
    Unsupported global: GLOBAL mmengine.logging.history_buffer.HistoryBuffer``. OneDL's MMEngine
    loads such a file without the safeguard instead where its own list falls short (float32
    scalars, files written under numpy 1).

    Adds what the message hub, the hooks' scores and the schedulers put into a checkpoint:
    HistoryBuffer, numpy arrays and scalars, and the three dtypes seen there; and the options of a
    run that timm's training script and the authors of DeiT store, a Namespace with paths, which
    hold values and run nothing. The pickle also names
    ``getattr``, to point at HistoryBuffer's four statistics; a stand-in that resolves these and
    nothing else answers to that name. ``getattr`` itself is never allowed, also not by others: with
    it a file reaches ``builtins.exec``, and torch's own ``_rebuild_from_type_v2`` calls it.

    Not applied twice.

    Returns:
        bool: Whether anything was added.
    """
    import torch

    allowed = torch.serialization.get_safe_globals()
    wanted = [*_checkpoint_globals(), *_option_globals()]
    missing = [item for item in wanted if item not in allowed]
    torch.serialization.add_safe_globals(missing)
    return bool(missing)


def _checkpoint_globals() -> list[Any]:
    import numpy as np
    from mmengine.logging import HistoryBuffer

    multiarray = (np._core if hasattr(np, '_core') else np.core).multiarray
    wanted: list[Any] = [HistoryBuffer, np.ndarray, np.dtype]
    wanted += [type(np.dtype(name)) for name in ('int64', 'float32', 'float64')]
    # Both spellings, so that a file written under numpy 1 loads under numpy 2 and back.
    wanted += [(getattr(multiarray, name), f'numpy.{core}.multiarray.{name}')
               for name in ('_reconstruct', 'scalar') for core in ('core', '_core')]
    wanted.append(_InPlaceOfGetattr((_history_statistic, 'builtins.getattr')))
    return wanted


def _option_globals() -> list[Any]:
    """What holds the options of a run in checkpoints of timm's script and of the authors."""
    # The second is the spelling of Python 3.13.
    return [argparse.Namespace, (pathlib.PosixPath, 'pathlib.PosixPath'),
            (pathlib.PosixPath, 'pathlib._local.PosixPath')]


def guard_checkpoint_loaders() -> bool:
    """Keeps a checkpoint from running code, and says what to do where one cannot be loaded.

    Breaks: every MMEngine. A file from the web is loaded with ``weights_only=False``, a local one
    by OneDL's MMEngine after a first attempt failed; ``Runner.resume`` runs the text in
    ``meta['config']`` as Python. So whoever wrote a file can run any code.
    Symptom: none. And a truncated file gives ``PytorchStreamReader failed reading zip archive:
    failed finding central directory``, an empty ``last_checkpoint`` `` can not be found.``

    Registers every loader of ``CheckpointLoader`` anew, as :func:`mmdiverse.checkpoint.guarded`,
    and for local files one of ours. It overrides ``TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD``, see
    :func:`mmdiverse.checkpoint.weights_only`.

    Not applied to loaders that are guarded already, nor to any that are registered later.

    Returns:
        bool: Whether a loader was registered by this call.
    """
    from mmengine.runner import CheckpointLoader, checkpoint

    from mmdiverse.checkpoint import guarded, load_from_local

    # The host has no public list of its loaders; it is read only.
    bare = {prefix: loader for prefix, loader in CheckpointLoader._schemes.items()
            if not getattr(loader, 'is_guarded', False)}
    for prefix, loader in bare.items():
        ours = load_from_local if loader is checkpoint.load_from_local else guarded(loader)
        CheckpointLoader.register_scheme(prefix, ours, force=True)
    return bool(bare)


def write_files_atomically() -> bool:
    """Keeps a checkpoint whole when its process is killed or the disk is full.

    Breaks: every MMEngine; its local storage opens the final file and writes into it, and with
    ``save_best`` it writes the newest checkpoint a second time, over the first.
    Symptom: after ``kill -9``, a lost node or ``No space left on device``, resuming stops with
    ``PytorchStreamReader failed``.

    Registers :class:`mmdiverse.checkpoint.AtomicLocalBackend` for local paths, under the names
    ``local`` and, for the older ``FileClient``, ``disk``.

    Not applied to a name that was registered anew by someone else, nor to backends that MMEngine
    keeps from before.

    Returns:
        bool: Whether a backend was registered by this call.
    """
    from mmengine.fileio import FileClient, HardDiskBackend, LocalBackend, register_backend
    from mmengine.fileio.backends import backends

    from mmdiverse.checkpoint import AtomicHardDiskBackend, AtomicLocalBackend

    plain = backends.get('local') is LocalBackend
    if plain:
        register_backend('local', AtomicLocalBackend, force=True, prefixes='')
    if FileClient._backends.get('disk') is HardDiskBackend:
        FileClient.register_backend('disk', AtomicHardDiskBackend, force=True)
        plain = True
    return plain


def register_config_package() -> bool:
    """Makes ``_base_ = 'mmdiverse::...'`` and ``get_config('mmdiverse::...')`` work.

    Breaks: every MMEngine; it resolves only the packages in its ``MODULE2PACKAGE`` table.
    Symptom: ``AssertionError: mmengine does not support to load mmdiverse config.``

    Enters ``mmdiverse`` there. OpenMMLab's MMEngine joins the distribution's location and the
    package's name, which misses the sources of a modern editable install (only a pointer to them
    lies at that location: ``FileNotFoundError ... site-packages/mmdiverse/.mim/...``). In that case
    the entry names a module, ``mmdiverse.version``: MMEngine then asks the import system, and takes
    the folder of the file found, in every kind of install.

    Not applied where the table already has an entry.

    Returns:
        bool: Whether the entry was made.
    """
    from mmengine.config.utils import MODULE2PACKAGE

    if 'mmdiverse' in MODULE2PACKAGE:
        return False
    try:
        place = distribution('mmdiverse').locate_file('mmdiverse')
        at_location = Path(place, '__init__.py').exists()
    except PackageNotFoundError:  # run from a source tree: MMEngine asks the import system anyway
        at_location = True
    MODULE2PACKAGE['mmdiverse'] = 'mmdiverse' if at_location else 'mmdiverse.version'
    return True


def find_editable_configs() -> bool:
    """Makes ``with read_base(): from mmdiverse.configs... import *`` work in an editable install.

    Breaks: OpenMMLab's MMEngine; for a config in new style it joins the distribution's location and
    the package's name, and of a modern editable install only a pointer lies there. So it is for any
    package, not ours alone.
    Symptom: ``ConfigParsingError: .../site-packages/mmdiverse/configs/... not found! It means that
    incorrect module is defined``, but in a process that stands in the clone, where MMEngine finds
    the metadata of the build.

    No table or registry leads there, so ``get_installed_path`` is wrapped where configs are parsed:
    the import system is asked first, as for every other import of such a config, and MMEngine where
    that knows no module of the name.

    Not applied twice.

    Returns:
        bool: Whether the function was wrapped by this call.
    """
    from mmengine.config import config

    ask_host = config.get_installed_path
    if ask_host.__module__ == __name__:
        return False

    @wraps(ask_host, assigned=('__doc__', '__name__'))
    def get_installed_path(package: str) -> str:
        spec = find_spec(package)
        if spec is None or spec.origin is None:  # not a module, or one without a file
            return ask_host(package)
        return str(Path(spec.origin).parent)

    config.get_installed_path = get_installed_path
    return True


def find_onedl_segmentation() -> bool:
    """Makes ``_base_ = 'mmseg::...'`` work with OneDL's MMSegmentation.

    Breaks: OneDL's MMEngine; its table says that ``mmseg`` comes with a distribution
    ``mmsegmentation``, but OneDL's is called ``onedl-mmsegmentation``.
    Symptom: ``ModuleNotFoundError: mmsegmentation is not installed, please install mmsegmentation
    manually``.

    Enters the module's own name, by which that MMEngine finds the other toolboxes.

    Not applied where ``mmsegmentation`` is installed, or ``onedl-mmsegmentation`` is not.

    Returns:
        bool: Whether the entry was changed.
    """
    from mmengine.config.utils import MODULE2PACKAGE

    if (MODULE2PACKAGE['mmseg'] == 'mmseg' or _is_installed('mmsegmentation')
            or not _is_installed('onedl-mmsegmentation')):
        return False
    MODULE2PACKAGE['mmseg'] = 'mmseg'
    return True


def _is_installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def write_readable_configs() -> bool:
    """Lets a config that holds an infinite number be read again after it was written.

    Breaks: every MMEngine; ``Config.pretty_text``, which a run writes into its work dir and its
    checkpoints, has ``inf`` and ``nan`` as bare names, and between quotes keys as they are.
    Symptom: ``NameError: name 'inf' is not defined`` in the audit, in ``test.py`` and with
    ``--resume``; of a key with a backslash, such as a pattern in ``custom_keys``, another key.

    Wraps the property. The host's own makes the text, of a copy in which such numbers and keys are
    spelled as in Python.

    Not applied where the property was replaced by someone else.

    Returns:
        bool: Whether the property was wrapped by this call.
    """
    from mmengine.config import Config, ConfigDict

    host = Config.pretty_text
    if host.fget.__module__ != Config.__module__:
        return False

    def pretty_text(config: Config) -> str:
        spelled = config.copy()
        object.__setattr__(spelled, '_cfg_dict', ConfigDict(_spell(config.to_dict())))
        return host.fget(spelled)

    Config.pretty_text = property(pretty_text, doc=host.__doc__)
    return True


class _SpelledFloat(float):
    """A number whose text is Python for it."""

    def __str__(self) -> str:
        return f"float('{float.__repr__(self)}')"

    __repr__ = __str__


def _spell(value: Any) -> Any:
    """A config with what MMEngine would write in a way that cannot be read."""
    if isinstance(value, dict):
        return {_spell_key(key): _spell(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_spell(part) for part in value)
    return _SpelledFloat(value) if isinstance(value, float) and not math.isfinite(value) else value


def _spell_key(key: Any) -> Any:
    """A key as Python writes it between single quotes, which the double one enforces."""
    return repr(f'{key}"')[1:-2] if isinstance(key, str) else key


def register_weights_schemes() -> bool:
    """Makes ``init_cfg=dict(type='Pretrained', checkpoint='ema:...')`` work.

    Breaks: every MMEngine; a checkpoint of ``EMAHook`` holds two models, and nothing says which of
    them ``Pretrained`` loads.
    Symptom: ``FileNotFoundError: ema:... can not be found.``

    Registers :func:`mmdiverse.transfer.load_from_weights` for ``ema:`` and ``model:``.

    Not applied where the table of loaders already has them.

    Returns:
        bool: Whether they were registered by this call.
    """
    from mmengine.runner import CheckpointLoader

    if 'ema:' in CheckpointLoader._schemes:
        return False

    def load_from_weights(filename: str, map_location: Any = None) -> dict[str, Any]:
        from .transfer import load_from_weights  # late: it imports models

        return load_from_weights(filename, map_location)

    CheckpointLoader.register_scheme(('ema:', 'model:'), load_from_weights)
    return True


def let_sharded_runs_resume() -> bool:
    """Lets a run under FSDP resume.

    Breaks: torch >= 2.1, whose ``optim_state_dict_to_load`` takes its arguments in another order
    than MMEngine's ``FSDPStrategy`` hands them over.
    Symptom: ``--resume`` stops with ``TypeError: unhashable type: 'dict'``.

    Registers, under the name ``FSDPStrategy``, a subclass that names these arguments.

    Not applied where the name was registered anew by someone else.

    Returns:
        bool: Whether the strategy was registered by this call.
    """
    from mmengine._strategy.fsdp import FSDPStrategy
    from mmengine.registry import STRATEGIES
    from torch.distributed.fsdp import FullyShardedDataParallel

    if STRATEGIES.get('FSDPStrategy') is not FSDPStrategy:
        return False

    class ResumableFSDPStrategy(FSDPStrategy):

        def load_optim_state_dict(self, state_dict: dict) -> None:
            self.optim_wrapper.load_state_dict(FullyShardedDataParallel.optim_state_dict_to_load(
                model=self.model, optim=self.optim_wrapper.optimizer, optim_state_dict=state_dict))

    STRATEGIES.register_module(name='FSDPStrategy', module=ResumableFSDPStrategy, force=True)
    return True


def explain_missing_prefix() -> bool:
    """Says so where a type of mmdiverse lacks its prefix.

    Breaks: every MMEngine; it finds what mmdiverse registers as ``mmdiverse.DiversityHook`` alone.
    Symptom: ``KeyError: 'DiversityHook is not in the mmengine::hook registry. Please check whether
    the value of `DiversityHook` is correct or it was registered as expected.``

    Puts a function around ``build_func`` of the registries of MMEngine and MMPretrain, which each
    registry has as its own. It hands everything through but this error.

    Not applied to registries that have it already, nor to those that another toolbox makes before.

    Returns:
        bool: Whether it was put around one by this call.
    """
    import mmengine.registry
    import mmpretrain.registry
    from mmengine.registry import Registry

    plain = [registry for package in (mmengine.registry, mmpretrain.registry)
             for registry in vars(package).values() if isinstance(registry, Registry)
             and not hasattr(registry.build_func, 'explains_missing_prefix')]
    for registry in plain:
        registry.build_func = _explaining(registry.build_func)
    return bool(plain)


def _explaining(build: Callable) -> Callable:
    @wraps(build)
    def build_or_explain(cfg: Any, *args: Any, **options: Any) -> Any:
        try:
            return build(cfg, *args, **options)
        except KeyError as error:
            name = cfg.get('type') if isinstance(cfg, dict) else None
            if not isinstance(name, str) or f'{name} is not in the ' not in str(error):
                raise
            from .registry import OWN  # late: few runs need it

            asked = options['registry']
            meant = next((ours.name_meant_by(name) for ours in OWN
                          if ours.counterpart.root is asked.root), None)
            if meant is None or not meant.startswith('mmdiverse.'):
                raise
            raise KeyError(f'there is no {asked.name} {name!r}; what mmdiverse registers needs its '
                           f'prefix: write type={meant!r}') from error

    build_or_explain.explains_missing_prefix = True
    return build_or_explain


def disable_broken_multimodal() -> bool:
    """Keeps MMPretrain's vision models importable beside a transformers too new for the others.

    Breaks: MMPretrain 1.2.0, and OneDL's up to 1.3.6, when both pycocotools and a transformers
    that moved the names they import (5.x, some 4.x) are installed.
    Symptom: ``import mmpretrain.models`` stops with ``TypeError: NoneType takes no arguments``
    (a base class was set to None after a failed import) or ``ImportError: cannot import name``.

    Clears ``mmpretrain.utils.dependency.WITH_MULTIMODAL``, MMPretrain's own switch, so that its
    multi-modal models become the placeholders it registers when transformers is absent.

    Not applied when either package is missing, when transformers still has every name that
    MMPretrain's sources import from its modules, or when ``mmpretrain.models`` is imported already.

    Returns:
        bool: Whether the switch was cleared by this call.
    """
    if find_spec('pycocotools') is None or find_spec('transformers') is None:
        return False
    if 'mmpretrain.models' in sys.modules or next(_lost_transformers_names(), None) is None:
        return False
    from mmpretrain.utils import dependency

    switched_on, dependency.WITH_MULTIMODAL = dependency.WITH_MULTIMODAL, False
    return switched_on


def _lost_transformers_names() -> Iterator[str]:
    """Names that MMPretrain imports from modules of transformers and these no longer bind.

    Read from the sources: importing transformers to find out would take seconds at every start.
    """
    transformers = Path(find_spec('transformers').origin).parent
    models = Path(find_spec('mmpretrain').origin).parent / 'models'
    bound: dict[str, set[str]] = {}
    for source in sorted(models.glob('multimodal/**/*.py')):
        for node in ast.walk(_parse(source)):
            if not (isinstance(node, ast.ImportFrom) and node.level == 0
                    and (node.module or '').startswith('transformers.')):
                continue
            module = transformers.joinpath(*node.module.split('.')[1:])
            if module.is_dir():  # a package may make its names at import; only files can be read
                continue
            if node.module not in bound:
                file = module.with_suffix('.py')
                bound[node.module] = set(_bound(_parse(file).body)) if file.exists() else set()
            names = {alias.name for alias in node.names}
            yield from (f'{node.module}.{name}' for name in sorted(names - bound[node.module]))


def _parse(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding='utf-8'))


def _bound(statements: list[ast.stmt]) -> Iterator[str]:
    """Names that the statements of a module bind when it is imported."""
    for node in statements:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))
        elif isinstance(node, (ast.If, ast.Try)):
            if getattr(getattr(node, 'test', None), 'id', '') == 'TYPE_CHECKING':
                continue
            handlers = [line for handler in getattr(node, 'handlers', []) for line in handler.body]
            yield from _bound([*node.body, *handlers, *node.orelse])


def init_process_group_without_gpu(launcher: str) -> bool:
    """Starts a gloo process group, so that MMEngine's launchers work on machines without a GPU.

    Breaks: every MMEngine; its launchers select a CUDA device before anything else.
    Symptom: ``--launcher pytorch`` stops in ``torch.cuda.set_device`` with ``Found no NVIDIA
    driver`` or ``Torch not compiled with CUDA enabled``.

    The Runner leaves a process group alone that it finds initialized. The model's wrapper must then
    be told too, see :func:`cpu_wrapper_options`.

    Not applied with launcher ``'none'``, with an accelerator, or after an earlier initialization.

    Args:
        launcher: ``'none'``, ``'pytorch'``, ``'slurm'`` or ``'mpi'``, as in MMPretrain's tools.

    Returns:
        bool: Whether a process group was started by this call.

    Raises:
        RuntimeError: A variable that the launcher sets is missing from the environment.
    """
    from mmengine.device import get_device
    from torch import distributed

    if launcher == 'none' or get_device() != 'cpu' or distributed.is_initialized():
        return False
    try:
        if launcher == 'slurm':
            _adopt(RANK='SLURM_PROCID', WORLD_SIZE='SLURM_NTASKS', LOCAL_RANK='SLURM_LOCALID')
            if 'MASTER_ADDR' not in os.environ:
                hosts = subprocess.run(
                    ['scontrol', 'show', 'hostname', os.environ['SLURM_NODELIST']],
                    check=True, capture_output=True, text=True)
                os.environ['MASTER_ADDR'] = hosts.stdout.split()[0]
            os.environ.setdefault('MASTER_PORT', '29500')
        elif launcher == 'mpi':
            _adopt(RANK='OMPI_COMM_WORLD_RANK', WORLD_SIZE='OMPI_COMM_WORLD_SIZE',
                   LOCAL_RANK='OMPI_COMM_WORLD_LOCAL_RANK')
            os.environ.setdefault('MASTER_PORT', '29500')
        for name in ('RANK', 'WORLD_SIZE', 'MASTER_ADDR', 'MASTER_PORT'):
            os.environ[name]
    except KeyError as error:
        raise RuntimeError(f'--launcher {launcher} needs {error.args[0]} in the environment; start '
                           f'through tools/dist_train.sh, tools/slurm_train.sh or mpirun') from None
    distributed.init_process_group('gloo')
    return True


def _adopt(**sources: str) -> None:
    """Copies a launcher's variables to the names that torch reads."""
    for name, source in sources.items():
        os.environ[name] = os.environ[source]


def cpu_wrapper_options(cfg: Any) -> list[str]:
    """Config options with which the Runner wraps a model that stays on the CPU.

    Breaks: every MMEngine; ``Runner.wrap_model`` passes ``device_ids=[LOCAL_RANK]``.
    Symptom: ``ValueError: DistributedDataParallel device_ids and output_device arguments only work
    with single-device/multiple-device GPU modules or CPU modules``.

    The wrapper's own config may state ``device_ids``, and MMEngine then keeps it. Where a config
    has no ``model_wrapper_cfg``, the other options repeat what the Runner would have chosen.

    Args:
        cfg: The run's config.

    Returns:
        list[str]: ``key=value`` items for ``--cfg-options``.
    """
    prefix = 'model_wrapper_cfg'
    wrapper = cfg.get(prefix)
    if not wrapper:
        return [f'{prefix}.type=MMDistributedDataParallel', f'{prefix}.device_ids=None',
                f'{prefix}.broadcast_buffers=False',
                f'{prefix}.find_unused_parameters={bool(cfg.get("find_unused_parameters"))}']
    if wrapper.get('type', 'MMDistributedDataParallel') == 'MMDistributedDataParallel':
        return [f'{prefix}.device_ids=None']
    return []  # other wrappers place their parts themselves
