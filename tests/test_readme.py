"""What the README shows has to be what there is."""
import inspect
import json
import re
from pathlib import Path

import pytest
from mmengine.config import Config

import mmdiverse
from mmdiverse.config import list_fragments
from mmdiverse.evaluation import RedundancyMetric
from mmdiverse.hooks import DiversityHook, RedundancyHook
from mmdiverse.measures import MEASURES
from mmdiverse.registry import HOOKS, METRICS
from mmdiverse.report.catalogue import catalogue_table
from mmdiverse.report.markdown import insert_table
from mmdiverse.terms import DiversityTerm

ROOT = Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text(encoding='utf-8')


AUDIT = (ROOT / 'docs' / 'audit.md').read_text(encoding='utf-8')


def blocks(language: str, page: str = README) -> list[str]:
    return re.findall(rf'^```{language}\n(.*?)^```$', page, flags=re.M | re.S)


def table(heading: str) -> list[str]:
    """The first cells of the rows of a table, by the first cell of its heading."""
    rows = README.partition(f'| {heading} |')[2].partition('\n\n')[0].splitlines()[2:]
    return [row.split('|')[1].strip(' `') for row in rows]


def test_the_config_of_ten_lines_builds(tmp_path: Path) -> None:
    source, = blocks('python')
    assert len([line for line in source.splitlines() if line.strip()]) <= 10
    path = tmp_path / 'config.py'
    path.write_text(source)
    cfg = Config.fromfile(path)
    hook, = cfg.custom_hooks
    assert hook.type == 'mmdiverse.DiversityHook'
    assert len(DiversityHook(terms=hook.terms).terms) == 4


def test_the_first_two_bash_blocks_are_one_command_each() -> None:
    commands = [block.strip() for block in blocks('bash')[:2]]
    assert all(len(command.splitlines()) == 1 for command in commands)
    assert 'tools/compare.py configs/' in commands[0] and 'pytest' in commands[1]


def test_every_fragment_is_listed() -> None:
    assert sorted(name for name in table('fragment') if name in list_fragments()) == \
        list_fragments()


def test_the_catalogue_is_what_the_registry_holds() -> None:
    path, = re.findall(r'tools/catalogue.py README.md (\S+)', README)
    results = json.loads((ROOT / path).read_text(encoding='utf-8'))['results']
    assert insert_table(README, 'catalogue', catalogue_table(results)) == README


def test_every_loss_was_measured_at_every_level() -> None:
    assert 'not measured' not in README


def test_every_key_of_a_term_is_listed() -> None:
    assert {*table('key')} == {*inspect.signature(DiversityTerm).parameters} - {'loss'}


def test_the_example_of_a_schedule_builds() -> None:
    source, _ = blocks('py')
    assert DiversityTerm(**eval(source)).schedule is not None


def test_the_example_of_hooks_builds() -> None:
    _, source = blocks('py')
    scope: dict = {}
    exec(source, scope)
    for config in (scope['default_hooks']['checkpoint'], *scope['custom_hooks']):
        assert HOOKS.build(config).__module__.startswith('mmdiverse.')


def test_the_example_of_the_metric_and_its_hook_builds() -> None:
    _, source = blocks('py', AUDIT)
    scope: dict = {}
    exec(source, scope)
    metric = METRICS.build(scope['val_evaluator'][1])
    hook = HOOKS.build(scope['custom_hooks'][0])
    assert isinstance(metric, RedundancyMetric) and isinstance(hook, RedundancyHook)


def test_the_page_of_the_audit_names_an_option_that_there_is() -> None:
    parameters = inspect.signature(mmdiverse.audit).parameters
    assert parameters['num_subsampled'].default == 32 and 'look at 32 of the images' in AUDIT
    assert len(MEASURES) == 18 and 'definitions of 18 measures' in README


@pytest.mark.parametrize('folder, page', [(ROOT, README), (ROOT / 'docs', AUDIT)])
def test_links_lead_somewhere(folder: Path, page: str) -> None:
    links = re.findall(r'\]\((?!https?:|#)([^)#]+)[^)]*\)', page)
    assert links and all((folder / link).exists() for link in links)
