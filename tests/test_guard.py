"""Rules of the house that no single test of behaviour would notice."""
import ast
import re
from pathlib import Path

import pytest

from mmdiverse.registry import LOSSES, TAPS

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / 'tests'
MODULES = sorted((ROOT / 'mmdiverse').rglob('*.py'))
# What is written by hand; not what builds, runs and caches leave behind.
FILES = [*ROOT.glob('*.*'), *(path for folder in ('mmdiverse', 'configs', 'tools', 'tests', '.ci',
                                                  '.github', 'requirements', 'docs')
                              for path in (ROOT / folder).rglob('*'))]
TEXTS = sorted(path for path in FILES if path.is_file() and path.suffix in {
    '.py', '.sh', '.md', '.yml', '.yaml', '.toml', '.ini', '.txt', '.in', '.html', '.css', '.js',
    '.json', '.cfg'} and not {'.mim', '_build'} & {*path.parts})
CONFIGS = [path for path in TEXTS if path.suffix == '.py' and ROOT / 'configs' in path.parents]

each_module = pytest.mark.parametrize('path', MODULES, ids=lambda path: str(path.relative_to(ROOT)))


def public_definitions(path: Path) -> list[ast.FunctionDef | ast.ClassDef]:
    return [node for node in ast.parse(path.read_text(encoding='utf-8')).body
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith('_')]


def takes_tensors(function: ast.FunctionDef) -> bool:
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return any(argument.annotation is not None and 'Tensor' in ast.unparse(argument.annotation)
               for argument in arguments)


@pytest.mark.parametrize(('registry', 'file'), [
    (LOSSES, 'test_{}.py'),
    (TAPS, 'families/{}.py'),  # over which the contract runs
], ids=['losses', 'taps'])
def test_every_registered_loss_and_tap_has_a_test_file(registry, file: str) -> None:
    registry.import_from_location()
    modules = {kind.__module__ for kind in registry.module_dict.values()}
    missing = []
    for package, folder, name in (module.split('.') for module in sorted(modules)
                                  if module.startswith('mmdiverse.')):
        test = f'{folder}/{file.format(name)}'
        if not (TESTS / test).is_file():
            missing.append(f'{package}/{folder}/{name}.py has no tests/{test}')
    assert not missing and modules


@each_module
def test_no_module_is_a_drawer(path: Path) -> None:
    assert path.stem not in {'utils', 'util', 'helpers', 'helper', 'common', 'misc'}


@each_module
def test_modules_say_what_they_are(path: Path) -> None:
    source = path.read_text(encoding='utf-8')
    assert not source.strip() or ast.get_docstring(ast.parse(source))


@each_module
def test_public_classes_and_functions_say_what_they_are(path: Path) -> None:
    silent = [node.name for node in public_definitions(path) if not ast.get_docstring(node)]
    assert not silent


@each_module
def test_public_functions_of_tensors_describe_their_arguments(path: Path) -> None:
    vague = [node.name for node in public_definitions(path)
             if isinstance(node, ast.FunctionDef) and takes_tensors(node)
             and 'Args:' not in (ast.get_docstring(node) or '')]
    assert not vague


@pytest.mark.parametrize('path', CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_configs_open_with_what_they_are_for(path: Path) -> None:
    assert re.match(r'# \w', path.read_text(encoding='utf-8'))


def test_no_file_names_a_place_of_one_machine() -> None:
    # Spelled in parts, so that this file passes too.
    place = re.compile(rf'(?<![\w.$}}-])/(?:{"|".join(("work", "root", "home", "Users"))})/')
    found = [f'{path.relative_to(ROOT)}:{number}' for path in TEXTS
             for number, line in enumerate(path.read_text(encoding='utf-8').splitlines(), 1)
             if place.search(line)]
    assert not found


def test_there_is_something_to_guard() -> None:
    assert len(MODULES) > 20 and len(CONFIGS) > 5 and Path(__file__) in TEXTS
