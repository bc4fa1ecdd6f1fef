"""What a config says in vain: hooks of its bases that it drops, and terms that nothing uses."""
import ast
import os
import re
from collections.abc import Iterator, Mapping
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mmengine.config import Config

from .config import HOOK, type_name


def config_warnings(cfg: Config, name: str | Path | None = None) -> list[str]:
    """What the author of a config may have lost without a word.

    A list in a config replaces that of its base. So ``custom_hooks`` drops the hooks of the bases
    that it does not repeat, and a changed ``diversity`` is not that of the hook which a base made
    of it. ``custom_hooks = []`` is taken as meant.

    Args:
        cfg (Config): As it will be run.
        name (str | Path, optional): Its file, or ``package::path``, whose bases are read as well.
            Defaults to the file of ``cfg``.

    Returns:
        list[str]: A line for each; nothing where nothing is lost.
    """
    warnings, hooks = [], _hooks(cfg)
    kinds = {type_name(hook) for hook in hooks}
    path = _path_of(name or cfg.filename or '', '')
    try:
        file = _File(path) if os.path.isfile(path) else None
        expected = file.expected_hooks() if file is not None and hooks else {}
    except Exception as error:  # of whatever kind: MMEngine has read the config, and it may run
        file, expected = None, {}
        warnings.append(f'the bases of {path} cannot be read once more, so that hooks which it '
                        f'drops are not looked for ({type(error).__name__}: {error})')
    warnings += [f'`custom_hooks` replaces that of {origin}, and drops its {kind}; to keep it, '
                 'repeat it: `custom_hooks = [*_base_.custom_hooks, ...]`'
                 for kind, origin in expected.items() if kind not in kinds]
    terms = cfg.get('diversity')
    if isinstance(terms, Mapping) and type_name(terms) == HOOK:
        warnings += _warn_of_terms(terms, hooks, file)
    return warnings


class _File:
    """A config file.

    Args:
        path (str): Of the file.

    Attributes:
        bases (list[_File]): What it inherits.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.bases = [_File(base) for base in _bases(path)]

    @cached_property
    def cfg(self) -> Mapping[str, Any] | None:
        """With all that it inherits; None if it names neither hooks nor terms itself."""
        # Most of what is inherited, such as data and models, need not be read.
        text = Path(self.path).read_text(encoding='utf-8')
        names = 'custom_hooks' in text or 'diversity' in text
        return Config.fromfile(self.path, import_custom_modules=False) if names else None

    def walk(self) -> Iterator['_File']:
        """Itself and all that it inherits."""
        yield self
        for base in self.bases:
            yield from base.walk()

    def expected_hooks(self) -> dict[str, str]:
        """The types of hooks that it seems to have, and the file that each is from."""
        expected = {}
        if self.cfg is not None:
            if not _hooks(self.cfg):  # as is meant
                return {}
            expected = {type_name(hook): self.path for hook in _hooks(self.cfg)}
        for base in self.bases:
            expected.update(base.expected_hooks())
        return expected


def _warn_of_terms(terms: Mapping[str, Any], hooks: list[Any], file: _File | None
                   ) -> Iterator[str]:
    """Of terms that a config defines as ``diversity`` and no hook has."""
    ours = [_plain(hook) for hook in hooks if type_name(hook) == HOOK]
    if _plain(terms) in ours:
        return
    files = [] if file is None else [each.cfg for each in file.walk() if each.cfg is not None]
    if not ours:
        # A hook of a base that is dropped is told of as such, or is meant to be.
        if not any(type_name(hook) == HOOK for cfg in files for hook in _hooks(cfg)):
            yield ('`diversity` is defined, but used nowhere, so that no diversity is trained: '
                   'add it to `custom_hooks`, as in `custom_hooks = [_base_.diversity]`')
    # A hook of terms of its own is meant; one with those that `diversity` had before is not.
    elif any(hook == _plain(cfg.get('diversity')) for hook in ours for cfg in files):
        yield ('`diversity` is changed, but `custom_hooks` has it as it was before: state '
               '`custom_hooks` anew behind it, or change the terms there')


def _hooks(cfg: Mapping[str, Any]) -> list[Any]:
    hooks = cfg.get('custom_hooks') or []
    hooks = [hooks] if isinstance(hooks, Mapping) else hooks
    return [hook for hook in hooks if isinstance(hook, Mapping)]


def _plain(value: Any) -> Any:
    """A config without the marks of the package that it is from."""
    if isinstance(value, Mapping):
        return {key: type_name(value) if key == 'type' else _plain(part)
                for key, part in value.items() if key != '_scope_'}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return value


def _bases(path: str) -> list[str]:
    """The files that a config file inherits."""
    if not Config._is_lazy_import(path):
        with TemporaryDirectory() as folder:
            # As MMEngine does before it looks for them: `_base_` may hold variables.
            copy = os.path.join(folder, f'config{Path(path).suffix}')
            Config._substitute_predefined_vars(path, copy)
            Config._substitute_env_variables(copy, copy)
            return [_path_of(base, path) for base in Config._get_base_files(copy)]
    modules = Config._get_base_modules(ast.parse(Path(path).read_text(encoding='utf-8')).body)
    files = []
    for module in modules:
        dots = len(re.match(r'\.*', module).group())
        package, *parts = module[dots:].split('.')
        if dots:
            folder = Path(path).parent.joinpath(*['..'] * (dots - 1), package)
        else:
            folder = Path(find_spec(package).origin).parent
        files.append(f'{folder.joinpath(*parts)}.py')
    return files


def _path_of(name: str | Path, file: str) -> str:
    """The path of a config, as a file names it."""
    return _path_in_package(str(name)) if '::' in str(name) else \
        os.path.normpath(os.path.join(os.path.dirname(file), name))


@cache
def _path_in_package(name: str) -> str:
    # MMEngine reads all files that describe the package's models each time.
    return Config._get_cfg_path(name, '')[0]
