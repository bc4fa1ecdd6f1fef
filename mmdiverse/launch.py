"""Runs MMPretrain's own ``train.py`` and ``test.py``, after what they cannot do by themselves.

The scripts that MMPretrain installs are executed as they are, with the user's arguments. Before
that, a config named ``package::path`` is found, one diversified by ``--diversity`` is written into
the work dir, and a process group is started where the machine has no GPU.
"""
from __future__ import annotations

import os
import runpy
import sys
from argparse import ArgumentParser, Namespace
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile

from mmengine.config import Config
from torch import distributed

from mmdiverse import compat
from mmdiverse.config import CONFIGS, diversify, list_fragments, load_config


def run(script: str) -> None:
    """Runs ``script`` of MMPretrain with the arguments of this process.

    Args:
        script: ``'train.py'`` or ``'test.py'``.

    Raises:
        SystemExit: Config or fragment do not exist, or the work dir cannot be written. The message
            is one line and says what to change.
    """
    own, host_argv = _own_parser(script).parse_known_args()
    path = host_script(script)
    args = _parse_as_host(path, host_argv)
    if args is None:
        print('\nadded by mmdiverse:\n' + _own_parser(script).format_help().partition('\n\n')[2])
        raise SystemExit(0)
    fragment = getattr(own, 'diversity', None)
    mixing = getattr(own, 'mixing', False)
    if mixing and fragment is None:
        raise SystemExit('--mixing goes with --diversity: state a fragment, one of '
                         f'{", ".join(list_fragments())}')

    config = config_path(args.config)
    cfg, name = load_config(str(config)), config.stem
    if fragment is not None:
        try:
            cfg = diversify(cfg, fragment, mixing=mixing)
        except (FileNotFoundError, ValueError) as error:
            raise SystemExit(f'--diversity {fragment}: {_one_line(error)}') from None
        name = '_'.join([name, Path(fragment).stem] + ['mixing'] * mixing)
    work_dir = _work_dir(args, cfg, name)
    check_writable(work_dir)
    if fragment is not None:
        config = _write(cfg, work_dir, name)
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


def _own_parser(script: str) -> ArgumentParser:
    parser = ArgumentParser(add_help=False, allow_abbrev=False)
    if script == 'train.py':
        parser.add_argument(
            '--diversity', metavar='FRAGMENT',
            help=f'diversify CONFIG: one of {", ".join(list_fragments())}, or the path of a file '
            'that defines `diversity`; the resulting config is kept in the work dir')
        parser.add_argument('--mixing', action='store_true',
                            help='with --diversity: classify every patch as well')
    parser.epilog = ('CONFIG may also be mmpretrain::dir/file.py or mmdiverse::dir/file.py, a '
                     'config that the package ships.')
    return parser


def _parse_as_host(path: Path, argv: list[str]) -> Namespace | None:
    """The host script's own reading of ``argv``; None after it printed its help."""
    before, sys.argv = sys.argv, [sys.argv[0], *argv]
    try:
        return runpy.run_path(str(path), run_name='mmpretrain_tool')['parse_args']()
    except SystemExit as end:
        if end.code:
            raise
        return None
    finally:
        sys.argv = before


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
    # Every rank writes the file: renaming makes sure that none reads another's half.
    final, draft = work_dir / f'{name}.py', work_dir / f'.{name}.{os.getpid()}.py'
    draft.write_text(cfg.pretty_text, encoding='utf-8')
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
    return ' '.join(str(error).split())
