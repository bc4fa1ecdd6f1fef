"""The documentation: its examples run, what it names exists, and it builds without a warning.

How an example is written: blocks marked ``python`` or ``py`` are executed, those of a page in
order, in one namespace and an empty folder. A block that opens with ``# name.py`` is written to a
file of that name instead, for later blocks to use; files named ``test_*.py`` are run by pytest. A
``text`` block right after an executed one is what that prints; ``...`` stands for anything.
"""
import ast
import doctest
import inspect
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from functools import cache
from importlib import import_module
from io import StringIO
from pathlib import Path
from pkgutil import resolve_name
from textwrap import dedent
from typing import Any, NamedTuple

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import Registry

from mmdiverse import compat, registry
from mmdiverse.config import list_fragments
from mmdiverse.evaluation.study import load_study
from mmdiverse.launch import config_path
from tests.runs import DIGITS
from tests.test_guard import MODULES, public_definitions

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / 'docs'
PAGES = {path.stem: path.read_text(encoding='utf-8') for path in sorted(DOCS.glob('*.md'))}
API = {path.stem: path.read_text(encoding='utf-8') for path in sorted((DOCS / 'api').glob('*.rst'))}
SOURCES = [path for path in MODULES if '.mim' not in path.parts]

each_page = pytest.mark.parametrize('name', PAGES)


class Block(NamedTuple):
    """A fenced block, and whether only white space stands between it and the one before."""

    language: str
    text: str
    follows: bool


def blocks(page: str) -> list[Block]:
    found, end = [], 0
    for match in re.finditer(r'^( *)```(\w+)\n(.*?)^\1```$', page, flags=re.M | re.S):
        _, language, text = match.groups()
        found.append(Block(language, dedent(text), not page[end:match.start()].strip()))
        end = match.end()
    return found


def is_executed(block: Block) -> bool:
    return block.language in ('python', 'py')


@cache
def registered() -> dict[str, type]:
    """Everything that mmdiverse registers, by name."""
    found = {}
    for root in vars(registry).values():
        if isinstance(root, Registry):
            root.import_from_location()
            found.update(root.module_dict)
    return {name: kind for name, kind in found.items() if kind.__module__.startswith('mmdiverse.')}


def code_spans(page: str) -> list[str]:
    """What stands in backticks in a line, and not in a block."""
    prose = re.sub(r'^( *)```.*?^\1```$', '', page, flags=re.M | re.S)
    return [span.strip() for _, span in re.findall(r'(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)', prose)]


# Examples

def prepare_audit() -> None:
    """The models that the page of the audit compares."""
    for name in ('plain', 'diverse'):
        cfg = Config.fromfile(DIGITS / 'deit-nano_digits.py')
        cfg.dump(f'{name}.py')
        torch.save(registry.MODELS.build(cfg.model).state_dict(), f'{name}.pth')


#: What a reader of a page has already.
PREPARE = {'audit': prepare_audit}


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder, out of which nothing that an example registers or imports gets."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for root in (registry.LOSSES, registry.TAPS):
        root.import_from_location()  # or it would be put back to empty for good
        monkeypatch.setattr(root, '_module_dict', dict(root.module_dict))
    yield tmp_path
    for path in tmp_path.glob('*.py'):
        sys.modules.pop(path.stem, None)


def build_sections(scope: dict[str, Any]) -> None:
    """Build the hooks and metrics among the names of a config."""
    for key, kind in (('custom_hooks', registry.HOOKS), ('default_hooks', registry.HOOKS),
                      ('val_evaluator', registry.METRICS), ('test_evaluator', registry.METRICS)):
        section = scope.get(key, [])
        for config in section.values() if isinstance(section, dict) else section:
            kind.build(config)


#: Of MMDetection and MMSegmentation: run by tests/downstream/test_docs.py.
OF_TOOLBOXES = 'downstream'


@pytest.mark.parametrize('name', [name for name, page in PAGES.items() if name != OF_TOOLBOXES
                                  and any(map(is_executed, blocks(page)))])
def test_examples_run(name: str, workplace: Path, capsys: pytest.CaptureFixture) -> None:
    run_examples(name, capsys)


def test_the_example_of_a_study_is_one(tmp_path: Path) -> None:
    source, = (block.text for block in blocks(PAGES['study']) if block.language == 'yaml')
    shutil.copytree(ROOT / 'configs', tmp_path / 'configs')
    path = tmp_path / 'configs' / 'cifar' / 'my_study.yaml'
    path.write_text(source, encoding='utf-8')
    assert len(load_study(path).runs(tmp_path)) == 3 * 3


def run_examples(name: str, capsys: pytest.CaptureFixture) -> None:
    """Run the examples of a page in the current folder."""
    if name in PREPARE:
        PREPARE[name]()
    page, scope, files, printed = blocks(PAGES[name]), {'__name__': name}, [], None
    for number, block in enumerate(page, start=1):
        file = re.match(r'# (\w+)\.py$', block.text, flags=re.M)
        if is_executed(block) and file:
            files.append(file[1])
            Path(f'{file[1]}.py').write_text(block.text, encoding='utf-8')
            later = [other.text for other in page[number:] if is_executed(other)]
            assert file[1].startswith('test_') or any(file[1] in text for text in later), \
                f'{file[1]}.py is not used'
        elif is_executed(block):
            exec(compile(block.text, f'{name}.md, block {number}', 'exec'), scope)
            printed = capsys.readouterr().out
            continue
        elif block.language == 'text' and block.follows and printed is not None:
            options = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
            assert doctest.OutputChecker().check_output(block.text, printed, options), \
                f'{name}.md, block {number}: expected\n{block.text}\nbut it prints\n{printed}'
        printed = None
    build_sections(scope)
    if tests := [f'{file}.py' for file in files if file.startswith('test_')]:
        ended = subprocess.run([sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider',
                                *tests], capture_output=True, text=True)
        assert ended.returncode == 0, ended.stdout + ended.stderr


# What is named

@cache
def options_of(tool: str, *command: str) -> set[str]:
    """What ``--help`` of a tool and its commands lists; of a script, of what it launches."""
    tool = re.sub(r'(dist|slurm)_(train|test)\.sh', r'\2.py', tool)
    before, sys.argv = sys.argv, [tool, *command, '--help']
    try:
        with redirect_stdout(StringIO()) as text, pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / tool), run_name='__main__')
    finally:
        sys.argv = before
    assert not ended.value.code
    below = not command and re.search(r'\{([\w,]+)\} \.\.\.', text.getvalue())
    return set(re.findall(r'--[a-z][a-z-]*', text.getvalue())).union(
        *(options_of(tool, name) for name in below[1].split(',')) if below else ())


TOOLS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / 'tools').rglob('*.py'))


def commands(page: str) -> list[str]:
    lines = [line for block in blocks(page) if block.language in ('bash', 'shell')
             for line in block.text.replace('\\\n', ' ').splitlines()]
    return [line for line in [*lines, *code_spans(page)] if re.search(r'\btools/[\w/]+\.\w+', line)]


@each_page
def test_commands_name_tools_options_and_configs_that_exist(name: str) -> None:
    wrong = []
    for command in commands(PAGES[name]):
        words = shlex.split(command, comments=True)
        tool = next(index for index, word in enumerate(words) if word.startswith('tools/'))
        if not (ROOT / words[tool]).is_file():
            wrong.append(words[tool])
            continue
        given = words[tool + 1:]
        options = {word for word in given if word.startswith('--')}
        wrong += sorted(options - options_of(words[tool])) if options else []
        wrong += [word for word in given if word.startswith('configs/') and
                  not (ROOT / word).is_file()]
        for word in given:
            if '::' in word:
                config_path(word)
        wrong += [fragment for option, fragment in zip(given, given[1:])
                  if option == '--diversity' and fragment not in (*list_fragments(), '<file>')]
    assert not wrong


@each_page
def test_what_is_named_in_backticks_exists(name: str) -> None:
    spans = code_spans(PAGES[name])
    scripts = ''.join(path.read_text(encoding='utf-8') for path in (ROOT / 'tools').glob('*.sh'))
    wrong = [span for span in spans if re.fullmatch(r'--[a-z][a-z-]*', span)
             and not any(span in options_of(tool) for tool in TOOLS) and span not in scripts]
    wrong += [span for span in spans if re.fullmatch(
        r'(configs|docs|mmdiverse|requirements|tests|tools)/[\w./-]*\w', span)
        and not span.startswith('docs/_build') and not (ROOT / span).exists()]
    for span in spans:
        if module := re.fullmatch(r'mmdiverse(\.[a-z_]\w*)+', span):
            resolve_name(module[0])
    kinds = re.findall(r'\bmmdiverse\.([A-Z]\w+)', PAGES[name])
    assert not wrong + [kind for kind in kinds if kind not in registered()]


@each_page
def test_links_lead_to_files(name: str) -> None:
    links = re.findall(r'\]\((?!https?:|#)([^)#]+)', PAGES[name])
    assert not [link for link in links if not (DOCS / link).exists()]


@cache
def messages() -> list[str]:
    """Every text in the sources, with an ellipsis where something is filled in."""
    nodes = [node for path in SOURCES
             for node in ast.walk(ast.parse(path.read_text(encoding='utf-8')))]
    texts = [''.join(part.value if isinstance(part, ast.Constant) else '…' for part in node.values)
             for node in nodes if isinstance(node, ast.JoinedStr)]
    texts += [node.value for node in nodes
              if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    return [' '.join(text.split()) for text in texts]


def test_troubleshooting_quotes_messages_that_there_are() -> None:
    quotes = [code_spans(row)[0] for row in PAGES['troubleshooting'].splitlines()
              if row.startswith('| `')]
    patterns = ['.*'.join(map(re.escape, quote.split('…'))) for quote in quotes]
    assert len(quotes) > 50
    assert not [quote for quote, pattern in zip(quotes, patterns)
                if not any(re.search(pattern, message) for message in messages())]


def test_versions_are_those_that_are_tested() -> None:
    pins = (ROOT / 'requirements' / 'constraints.txt').read_text(encoding='utf-8').splitlines()
    named = re.findall(r'\b([a-z][a-z-]+) (\d+(?:\.\d+)+)\b',
                       PAGES['compatibility'].partition('| timm')[0].partition('| --- |')[2])
    assert len(named) == 8
    assert not [f'{name}=={version}' for name, version in named
                if f'{name}=={version}' not in pins]


def test_every_mend_is_listed() -> None:
    listed = re.findall(r'^\| `(\w+)` \|', PAGES['compatibility'], flags=re.M)
    mends = re.search(r'mends = \((.*?)\)', inspect.getsource(compat.apply), flags=re.S)[1]
    assert listed == [name.strip() for name in mends.split(',')]


# The site

def toctree(page: str) -> list[str]:
    bodies = re.findall(r'```\{toctree\}\n(.*?)```', page, flags=re.S)
    return [line.split('<')[-1].rstrip('>') for body in bodies for line in body.splitlines()
            if line and not line.startswith(':')]


def test_every_page_is_in_the_toctree() -> None:
    entries = toctree(PAGES['index'])
    assert sorted(entries) == sorted([*(set(PAGES) - {'index'}), 'api/index'])
    assert sorted(toctree((DOCS / 'api' / 'index.md').read_text(encoding='utf-8'))) == sorted(API)


def documented() -> Iterator[Any]:
    """Everything that the pages of the API show, without building them."""
    for kind, name, body in re.findall(r'^\.\. auto(module|function):: (\S+)\n((?: +:.*\n)*)',
                                       '\n'.join(API.values()), flags=re.M):
        if kind == 'function':
            yield resolve_name(name)
            continue
        module = import_module(name)
        options = {key: value.replace(',', ' ').split()
                   for key, value in re.findall(r':([\w-]+):(.*)', body)}
        if 'members' in options:
            # As autodoc: those named, or else the public ones, or else those at home there.
            members = options['members'] or getattr(module, '__all__', None) or [
                member for member, value in vars(module).items()
                if getattr(value, '__module__', '') == name]
            yield from (getattr(module, member) for member in members
                        if member not in options.get('exclude-members', ()))


def test_every_public_class_and_function_is_in_the_api() -> None:
    shown = {id(value) for value in documented()}
    missing = []
    for path in filter(public_definitions, SOURCES):
        parts = path.relative_to(ROOT).with_suffix('').parts
        module = import_module('.'.join(parts).removesuffix('.__init__'))
        missing += [f'{module.__name__}.{node.name}' for node in public_definitions(path)
                    if id(getattr(module, node.name)) not in shown]
    assert not missing, f"add to a page of docs/api: {missing}"


def test_everything_registered_is_in_the_api() -> None:
    shown = {id(value) for value in documented()}
    assert registered().keys() >= {'CosineLoss', 'DiversityHook', 'RedundancyMetric', 'Digits',
                                   'VisionTransformerTap', 'PatchMixingClsHead'}
    assert not [name for name, kind in registered().items() if id(kind) not in shown]


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    for needed in ('sphinx', 'myst_parser', 'furo'):
        pytest.importorskip(needed, reason="needs the extra `docs`: pip install -e '.[docs]'")
    ended = subprocess.run(
        [sys.executable, '-m', 'sphinx', '-W', '--keep-going', '-q', '-b', 'html',
         '-d', str(tmp_path / 'doctrees'), str(DOCS), str(tmp_path / 'html')],
        capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    for page in PAGES:
        assert (tmp_path / 'html' / f'{page}.html').is_file()
