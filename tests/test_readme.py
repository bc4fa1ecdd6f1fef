"""What the README shows has to be what there is."""
import re
from pathlib import Path

from mmengine.config import Config

from mmdiverse.config import list_fragments
from mmdiverse.hooks import DiversityHook
from mmdiverse.registry import LOSSES

ROOT = Path(__file__).parents[1]
README = (ROOT / 'README.md').read_text(encoding='utf-8')


def blocks(language: str) -> list[str]:
    return re.findall(rf'^```{language}\n(.*?)^```$', README, flags=re.M | re.S)


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


def test_every_loss_is_listed() -> None:
    LOSSES.import_from_location()
    assert all(f'`{name}`' in README for name in LOSSES.module_dict)


def test_links_lead_somewhere() -> None:
    links = re.findall(r'\]\((?!https?:|#)([^)]+)\)', README)
    assert links and all((ROOT / link).exists() for link in links)
