"""Runs MMPretrain's own ``train.py`` and ``test.py``, after what they cannot do by themselves.

The scripts that MMPretrain installs are executed as they are, with the user's arguments. Before
that, a config named ``package::path`` is found, what would end the run later with an error hard to
read ends it at once, a config changed by ``--diversity`` or for TensorBoard is written into the
work dir, and a process group is started where the machine has no GPU.
"""
from __future__ import annotations

import os
import runpy
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from importlib.util import find_spec
from inspect import signature
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, NamedTuple

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import distributed, nn

from mmdiverse import compat
from mmdiverse.config import (
    CONFIGS,
    check_hooks,
    diversify,
    diversity_hooks,
    left_out_of_fragment,
    list_fragments,
    load_config,
    readable_text,
    type_name,
)
from mmdiverse.config_warnings import config_warnings
from mmdiverse.datasets.folders import check_folders
from mmdiverse.datasets.imagenet import check_imagenet
from mmdiverse.learning_rate import scaled_learning_rate
from mmdiverse.registry import HOOKS, SCOPE
from mmdiverse.spelling import counted, did_you_mean
from mmdiverse.toolboxes import check_toolboxes

RATE = 'optim_wrapper.optimizer.lr'
LOCAL = 'LocalVisBackend'
#: Seconds for which other processes wait for the first to fail.
GRACE = 30
#: What MMEngine takes out of the config of a hook before it builds it; the scope is its mark of a
#: base in a package.
TAKEN_OUT = ('type', 'priority', '_scope_')
#: How many keys a note names at most.
NAMED = 4


class Processes(NamedTuple):
    """The processes of a run.

    Attributes:
        total (int): On all machines.
        here (int): On this machine.
        rank (int): The place of this one among all.
        local_rank (int): Its place among those of this machine.
    """

    total: int = 1
    here: int = 1
    rank: int = 0
    local_rank: int = 0

    @classmethod
    def of(cls, launcher: str) -> Processes:
        """Those that a launcher started, as its environment says."""
        names = LAUNCHERS.get(launcher, {})
        return cls(**{field: int(os.environ[name]) for field, name in names.items()
                      if name in os.environ})


#: Where each launcher keeps what :class:`Processes` holds.
LAUNCHERS = {
    'pytorch': dict(total='WORLD_SIZE', here='LOCAL_WORLD_SIZE', rank='RANK',
                    local_rank='LOCAL_RANK'),
    'slurm': dict(total='SLURM_NTASKS', here='SLURM_NTASKS_PER_NODE', rank='SLURM_PROCID',
                  local_rank='SLURM_LOCALID'),
    'mpi': dict(total='OMPI_COMM_WORLD_SIZE', here='OMPI_COMM_WORLD_LOCAL_SIZE',
                rank='OMPI_COMM_WORLD_RANK', local_rank='OMPI_COMM_WORLD_LOCAL_RANK'),
}
#: How each starts one process on each GPU of a machine.
COMMANDS = {
    'pytorch': 'bash tools/dist_{task}.sh {files} {gpus}',
    'slurm': 'GPUS_PER_NODE={gpus} bash tools/slurm_{task}.sh PARTITION JOB_NAME {files}',
    'mpi': 'mpirun -npernode {gpus} python tools/{task}.py {files} --launcher mpi',
}
FILES = {'train': 'CONFIG', 'test': 'CONFIG CHECKPOINT'}


def run(script: str) -> None:
    """Runs ``script`` of MMPretrain with the arguments of this process.

    Args:
        script: ``'train.py'`` or ``'test.py'``.

    Raises:
        SystemExit: Config or fragment do not exist, the config is one of MMDetection or
            MMSegmentation and these cannot work, a hook of mmdiverse is misspelt, the work dir
            cannot be written, there are more processes than GPUs, or ImageNet is not where the
            config says. The message says what to change; of the processes of a machine, the first
            gives it.
    """
    own, host_argv = _own_parser(script).parse_known_args()
    path = host_script(script)
    args = _parse_as_host(path, host_argv)
    if args is None:
        print('\nadded by mmdiverse:\n' + _own_parser(script).format_help().partition('\n\n')[2])
        raise SystemExit(0)
    processes = Processes.of(args.launcher)
    with _one_message(processes):
        check_gpus(args.launcher, processes, Path(script).stem)
        cfg, config, notes = _prepare(own, path, args, processes)
    for note in notes if processes.rank == 0 else ():
        print(f'mmdiverse: {note}', flush=True)
    if str(config) != args.config:
        host_argv = _replace_config(path, host_argv, args.config, str(config))
    gloo = compat.init_process_group_without_gpu(args.launcher)
    if gloo:
        host_argv = _add_cfg_options(host_argv, compat.cpu_wrapper_options(cfg))
    sys.argv[1:] = host_argv
    runpy.run_path(str(path), run_name='__main__')
    if gloo:  # a rank that leaves while another still talks to it may abort either
        distributed.barrier()
        distributed.destroy_process_group()


def _prepare(own: Namespace, path: Path, args: Namespace, processes: Processes
             ) -> tuple[Config, Path, list[str]]:
    """The config to run, the file that holds it, and what the user should know."""
    fragment = _only_fragment(getattr(own, 'diversity', None) or [])
    mixing = getattr(own, 'mixing', False)
    if mixing and fragment is None:
        raise SystemExit('--mixing goes with --diversity: state a fragment, one of '
                         f'{", ".join(list_fragments())}')
    config = config_path(args.config)
    try:
        cfg, name = load_config(str(config)), config.stem
        check_toolboxes([cfg.get('default_scope')])
    except ImportError as error:
        raise SystemExit(str(error)) from None
    notes = []
    if fragment is not None:
        try:
            notes = replacement_notes(cfg, fragment)
            cfg = diversify(cfg, fragment, mixing=mixing)
        except (FileNotFoundError, ValueError) as error:
            raise SystemExit(f'--diversity {fragment}: {_one_line(error)}') from None
        name = '_'.join([name, Path(fragment).stem] + ['mixing'] * mixing)
    options = args.cfg_options or {}
    final = _load_host(path)['merge_args'](deepcopy(cfg), args)
    try:
        check_hooks(final)
        check_own_hooks(final)
    except (KeyError, TypeError, ValueError) as error:
        raise SystemExit(_one_line(error)) from None
    trains = path.name == 'train.py'
    if trains:
        check_terms(final, fragment)
    check_data(final, ('train_dataloader', 'val_dataloader') if trains else ('test_dataloader', ))
    if trains:
        check_start(final)
    work_dir = _work_dir(args, cfg, name)
    check_writable(work_dir)
    if trains:
        notes += [f'warning: {text}' for text in config_warnings(final, config)]
    added = add_tensorboard(cfg, options) if trains else []
    if fragment is not None or added:
        config = _write(cfg, work_dir, name)
    notes += added
    if trains and RATE not in options:
        notes += learning_rate_notes(final, processes.total)
    return cfg, config, notes


def _only_fragment(fragments: Sequence[str]) -> str | None:
    if len(fragments) > 1:
        raise SystemExit(f'--diversity is given {len(fragments)} times ({", ".join(fragments)}), '
                         'but takes one fragment: to have the terms of several, write a file that '
                         'defines `diversity` with all of them, and give its path')
    return fragments[0] if fragments else None


def replacement_notes(cfg: Config, fragment: str) -> list[str]:
    """Says what ``--diversity`` takes out of a config, and what it leaves out of a fragment.

    Args:
        cfg: The config as the user gave it.
        fragment: As for :func:`~mmdiverse.config.load_fragment`.

    Returns:
        list[str]: What the user should know; nothing where nothing is lost.

    Raises:
        FileNotFoundError: If there is no such fragment.
        ValueError: If the config's hooks are no list.
    """
    notes = []
    hooks = diversity_hooks(cfg)
    if hooks:
        count = sum(len(hook.get('terms') or []) for hook in hooks)
        owner = 'DiversityHook' if len(hooks) == 1 else f'{len(hooks)} DiversityHooks'
        notes.append(f'--diversity {fragment} replaces the {counted(count, "term")} of the '
                     f"config's {owner}; to keep them, leave the option out")
    left_out = left_out_of_fragment(fragment)
    if left_out:
        named = ', '.join(f'`{key}`' for key in left_out[:NAMED])
        more = f' and {len(left_out) - NAMED} more' * (len(left_out) > NAMED)
        notes.append(f'--diversity {fragment}: of this file `diversity` alone is taken, and not '
                     f'{named}{more}')
    return notes


def check_gpus(launcher: str, processes: Processes, task: str) -> None:
    """Checks that every process of this machine has a GPU of its own, if there are GPUs.

    MMEngine would stop in CUDA's ``invalid device ordinal``, or in NCCL's ``Duplicate GPU
    detected``.

    Args:
        launcher: Who started the processes.
        processes: Those of the run.
        task: ``'train'`` or ``'test'``.

    Raises:
        SystemExit: If there are more processes than GPUs.
    """
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    # Slurm may show each of its tasks one GPU of its own.
    if not gpus or processes.here <= gpus or (launcher == 'slurm' and gpus == 1):
        return
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    raise SystemExit(
        f'--launcher {launcher} started {processes.here} processes on this machine, which has '
        f'{counted(gpus, "GPU")}{f" (CUDA_VISIBLE_DEVICES={visible})" if visible else ""}; '
        f'start one for each: {COMMANDS[launcher].format(task=task, files=FILES[task], gpus=gpus)}')


def check_own_hooks(cfg: Config) -> None:
    """Checks that hooks of mmdiverse are spelt right, and so are their options.

    MMEngine would say so at the end of a traceback, once model and data are built.

    Args:
        cfg: The run's config.

    Raises:
        KeyError: If there is no such hook of mmdiverse, or it lacks the prefix.
        TypeError: If it has no such option.
    """
    for index, hook in enumerate(cfg.get('custom_hooks') or ()):
        name = hook.get('type') if isinstance(hook, Mapping) else None
        if not isinstance(name, str):
            continue
        place = f'`custom_hooks[{index}]`'
        scope, _, bare = name.rpartition('.')
        scope = scope or hook.get('_scope_', '')
        if scope == SCOPE:
            check_options(HOOKS.get(bare), hook, place)
        elif not scope and HOOKS.counterpart.get(bare) is None:
            meant = HOOKS.name_meant_by(bare)
            if meant is not None and meant.startswith(f'{SCOPE}.'):
                raise KeyError(f'{place}: there is no hook {bare!r}; write type={meant!r}')


def check_options(hook: type, config: Mapping[str, Any], place: str) -> None:
    """Checks that a hook has the options that a config gives it.

    Args:
        hook: The class; one of another package is not looked at.
        config: Its config.
        place: Where that stands, for the message.

    Raises:
        TypeError: If it has no such option.
    """
    if not hook.__module__.startswith(f'{SCOPE}.'):
        return
    known = list(signature(hook).parameters)
    for key in config:
        if key not in (*known, *TAKEN_OUT):
            raise TypeError(f'{place}: {hook.__name__} has no option `{key}`'
                            f'{did_you_mean(key, known) or f"; it has {known}"}')


def check_terms(cfg: Config, fragment: str | None = None) -> None:
    """Checks that diversity terms fit the backbone, which is built once more for it.

    Not where building would fetch weights, nor where it fails: then the run says it.

    Args:
        cfg: The run's config.
        fragment: That of ``--diversity``, for the message.

    Raises:
        SystemExit: If a term does not fit.
    """
    from mmdiverse.hooks import DiversityHook  # late: it imports all models, which takes seconds

    try:
        hooks = [DiversityHook(**{key: value for key, value in config.items()
                                  if key not in TAKEN_OUT})
                 for config in diversity_hooks(cfg)]
        model = _backbone_alone(cfg) if hooks else None
        for hook in hooks if model is not None else ():
            hook.attach(model)
            hook.check_layers()
            hook.detach()
    except (TypeError, ValueError) as error:
        option = '' if fragment is None else f'--diversity {fragment}: '
        raise SystemExit(f'{option}{_one_line(error)}') from None


def _backbone_alone(cfg: Config) -> nn.Module | None:
    """A model of the backbone and nothing else; None where that cannot be had."""
    config = (cfg.get('model') or {}).get('backbone')
    if not isinstance(config, dict) or config.get('pretrained') or \
            type_name(config) == 'LoRAModel':  # which loads weights as it is built
        return None
    try:
        with DefaultScope.overwrite_default_scope(cfg.get('default_scope', 'mmpretrain')):
            return nn.ModuleDict(dict(backbone=MODELS.build(deepcopy(config))))
    except Exception:  # of whatever kind: the run will say it
        return None


def check_data(cfg: Config, loaders: Sequence[str]) -> None:
    """Checks that the data of some loaders are where the config says, as far as that is known.

    Args:
        cfg: The run's config.
        loaders: Keys of data loaders.

    Raises:
        SystemExit: If a folder or a class of ImageNet is missing, or a folder holds no class.
    """
    for key in loaders:
        if isinstance(cfg.get(key), dict):
            try:
                check_folders(cfg[key], key)
                check_imagenet(cfg[key], key)
            except (FileNotFoundError, ValueError) as error:
                raise SystemExit(_one_line(error)) from None


def check_start(cfg: Config) -> None:
    """Checks that a run can start from the checkpoint that its config names.

    Args:
        cfg: The run's config.

    Raises:
        SystemExit: If EMAHook could not load it.
    """
    if not cfg.get('load_from'):
        return
    from mmdiverse.transfer import check_average_fits  # seconds, which other runs need not wait for

    try:
        check_average_fits(cfg)
    except (OSError, ValueError) as error:
        raise SystemExit(f'load_from: {_one_line(error)}') from None


def add_tensorboard(cfg: Config, options: Mapping[str, Any]) -> list[str]:
    """Adds TensorBoard to MMPretrain's default of logs, which are files of text and JSON alone.

    Not where it is not installed, nor where the user chose other logs.

    Args:
        cfg: The run's config, changed in place.
        options: Those of ``--cfg-options``.

    Returns:
        list[str]: What the user should know; nothing where nothing is done.
    """
    backends = (cfg.get('visualizer') or {}).get('vis_backends')
    if any(key.split('.')[0] == 'visualizer' for key in options) or \
            not isinstance(backends, list) or [type_name(b) for b in backends] != [LOCAL] or \
            backends[0].keys() - {'type', '_scope_'} or find_spec('tensorboard') is None:
        return []
    try:
        import torch.utils.tensorboard  # noqa: F401
    except Exception as error:  # it needs packages that break in ways of their own
        return [f'TensorBoard is installed, but cannot be imported ({_one_line(error)}); there '
                'will be no event files']
    backends.append(dict(type='TensorboardVisBackend'))
    return ['TensorBoard is installed, so its event files are written too; state '
            '`visualizer.vis_backends` to choose otherwise']


def learning_rate_notes(cfg: Config, processes: int) -> list[str]:
    """Says whether the images of a step differ from those for which the learning rate is meant.

    Args:
        cfg: The run's config.
        processes: Of the run.

    Returns:
        list[str]: What the user should know; nothing where the rate fits, or cannot be judged.

    Raises:
        SystemExit: If the rate, or what it is judged by, is no positive number.
    """
    try:
        rate = scaled_learning_rate(cfg, processes)
    except ValueError as error:
        raise SystemExit(_one_line(error)) from None
    if rate is None or rate.fits:
        return []
    # MMEngine leaves out accumulated batches.
    automatic = '--auto-scale-lr or ' if rate.accumulated == 1 else ''
    return [f'warning: a step takes {counted(rate.images, "image")}, but the '
            f'learning rate {rate.configured:g} is meant for {rate.base} '
            f'(`auto_scale_lr.base_batch_size`; set {rate.options_as_right} if that rate is right '
            f'for these steps), and this run trains with {rate.actual:g}; for '
            f'{rate.scaled:g} pass {automatic}'
            f'--cfg-options {RATE}={rate.configured * rate.scaled / rate.actual:g}']


def config_path(name: str) -> Path:
    """Path of a config file that is given by path or as ``package::path``.

    The file itself is used, not ``_base_ = 'package::path'``: MMEngine would mark every dict of
    such a base with the package's scope, and an MMPretrain type is not found under another's.

    Raises:
        SystemExit: If there is no such file or package.
    """
    package, separator, inside = name.rpartition('::')
    if not separator:
        path = Path(name)
    elif package == 'mmdiverse':
        path = CONFIGS / inside
    elif package.isidentifier() and find_spec(package) is not None:
        path = _shipped(package, 'configs', inside)
    else:
        raise SystemExit(f'config {name!r}: the package {package!r} is not installed')
    if not path.is_file():
        raise SystemExit(f'config {name!r} does not exist{f" (no file {path})" * bool(separator)}: '
                         'give the path of a file, or a config that a package ships, such as '
                         'mmpretrain::deit/deit-small_4xb256_in1k.py')
    return path


def host_script(name: str) -> Path:
    """Path of a script in MMPretrain's ``tools``.

    Raises:
        FileNotFoundError: If this MMPretrain came without its tools.
    """
    path = _shipped('mmpretrain', 'tools', name)
    if not path.is_file():
        raise FileNotFoundError(f'MMPretrain came without tools/{name}, expected at {path}; '
                                'reinstall mmpretrain')
    return path


def check_writable(work_dir: Path) -> None:
    """Creates the work dir and writes to it, so that a run cannot fail there after hours.

    Raises:
        SystemExit: If that is impossible.
    """
    try:
        work_dir.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=work_dir):
            pass
    except OSError as error:
        raise SystemExit(f'cannot write to the work dir {str(work_dir)!r} '
                         f'({error.strerror}): pass a writable one with --work-dir') from None


@contextmanager
def _one_message(processes: Processes) -> Iterator[None]:
    """Lets the first process of a machine say why the run ends, and the others only if it does not.

    A launcher ends all processes with the first that ends.
    """
    try:
        yield
    except SystemExit:
        if processes.local_rank:
            time.sleep(GRACE)
        raise


def _own_parser(script: str) -> ArgumentParser:
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    if script == 'train.py':
        parser.add_argument(
            '--diversity', metavar='FRAGMENT', action='append',
            help=f'diversify CONFIG: one of {", ".join(list_fragments())}, or the path of a file '
            'that defines `diversity`; the resulting config is kept in the work dir')
        parser.add_argument('--mixing', action='store_true',
                            help='with --diversity: classify every patch as well, as the authors '
                            'do; not recommended otherwise, see docs/study.md')
    parser.epilog = ('CONFIG may also be mmpretrain::dir/file.py or mmdiverse::dir/file.py, a '
                     'config that the package ships.')
    return parser


def _parse_as_host(path: Path, argv: list[str]) -> Namespace | None:
    """The host script's own reading of ``argv``; None after it printed its help."""
    before, sys.argv = sys.argv, [sys.argv[0], *argv]
    try:
        return _load_host(path)['parse_args']()
    except SystemExit as end:
        if end.code:
            raise
        return None
    finally:
        sys.argv = before


def _load_host(path: Path) -> dict[str, Any]:
    """What a host script defines, without running it."""
    return runpy.run_path(str(path), run_name='mmpretrain_tool')


def _shipped(package: str, *parts: str) -> Path:
    """A file that comes with a package: inside it in an installation, beside it in its sources."""
    folder = Path(find_spec(package).origin).parent
    mim = folder / '.mim'
    return (mim if mim.is_dir() else folder.parent).joinpath(*parts)


def _work_dir(args: Namespace, cfg: Config, name: str) -> Path:
    """Where the host script is going to put the run, by its own order of precedence."""
    options = args.cfg_options or {}
    return Path(options.get('work_dir') or args.work_dir or cfg.get('work_dir')
                or Path('work_dirs', name))


def _write(cfg: Config, work_dir: Path, name: str) -> Path:
    try:
        text = readable_text(cfg)
    except ValueError as error:
        raise SystemExit(_one_line(error)) from None
    # Every rank writes the file: renaming makes sure that none reads another's half.
    final, draft = work_dir / f'{name}.py', work_dir / f'.{name}.{os.getpid()}.py'
    draft.write_text(text, encoding='utf-8')
    draft.replace(final)
    return final


def _replace_config(path: Path, argv: list[str], old: str, new: str) -> list[str]:
    """Puts ``new`` where the host script finds its config, which an option's value may equal."""
    for index in (i for i, word in enumerate(argv) if word == old):
        changed = [*argv[:index], new, *argv[index + 1:]]
        if _parse_as_host(path, changed).config == new:
            return changed
    raise AssertionError(f'no position of {old} in {argv} is the config')


def _add_cfg_options(argv: list[str], options: list[str]) -> list[str]:
    """Adds to ``--cfg-options``, of which argparse honours only the last occurrence."""
    parser = ArgumentParser(add_help=False)
    parser.add_argument('--cfg-options', nargs='+', default=[])
    return [*argv, '--cfg-options', *parser.parse_known_args(argv)[0].cfg_options, *options]


def _one_line(error: BaseException) -> str:
    # That of a KeyError is put in quotes, as a key is.
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    return ' '.join(str(text).split())
