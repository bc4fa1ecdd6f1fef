import csv
import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import torch
from mmengine.config import Config
from PIL import Image
from playwright.sync_api import Browser, Page, sync_playwright

from mmdiverse.config import CONFIGS, diversify
from mmdiverse.evaluation.audit import UNTRAINED, Audit, audit
from mmdiverse.evaluation.model_loading import load_model
from mmdiverse.evaluation.verdict import judge, suggest
from mmdiverse.measures import MEASURES
from mmdiverse.registry import HOOKS
from mmdiverse.report.audit import check_out_dir, format_summary, to_dict, write_report
from mmdiverse.report.audit_figures import say_number
from tests.taps.families.xcit import xcit

DEIT = CONFIGS / 'digits' / 'deit-nano_digits.py'
SWIN = CONFIGS / 'digits' / 'swin-nano_digits.py'
#: Names that a page, a file system and matplotlib could misread.
NAMES = ['<b>&"\'', '../_$x$ swin']
FEW = dict(images='digits', num_images=8, num_subsampled=4, num_workers=0)
CHROMIUM = os.environ.get('CHROMIUM') or next(filter(None, map(shutil.which, (
    'chromium', 'chromium-browser', 'google-chrome'))), None)
WIDE, NARROW = dict(width=1440, height=900), dict(width=390, height=844)
needs_browser = pytest.mark.skipif(
    CHROMIUM is None and 'CI' not in os.environ,
    reason='no Chromium on PATH: install it, or name its executable in the variable CHROMIUM')


class Reader(HTMLParser):
    """Elements of a page, as pairs of tag and attributes."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict]] = []
        self.feed(page.read_text(encoding='utf-8'))

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.elements.append((tag, dict(attrs)))

    def all(self, key: str) -> list[str]:
        return [attributes[key] for _, attributes in self.elements if key in attributes]


@pytest.fixture(scope='module')
def untrained() -> Audit:
    return audit([DEIT, SWIN], names=NAMES, **FEW)


@pytest.fixture(scope='module')
def audited(untrained: Audit) -> Audit:
    """The same as if the weights were from checkpoints."""
    models = [replace(model, facts={**model.facts, 'checkpoint': 'last.pth'})
              for model in untrained.models]
    return replace(untrained, models=models)


@pytest.fixture(scope='module')
def page(audited: Audit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_report(audited, tmp_path_factory.mktemp('two') / 'new' / 'folder')


@pytest.fixture(scope='module')
def single(untrained: Audit, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = replace(untrained.models[0], name='plain')
    return write_report(replace(untrained, models=[model]), tmp_path_factory.mktemp('one'))


@pytest.fixture(scope='module')
def reader(page: Path) -> Reader:
    return Reader(page)


def text_of(page: Path) -> str:
    content = re.sub(r'<style.*?</style>|<svg.*?</svg>|<[^>]*>', ' ',
                     page.read_text(encoding='utf-8'), flags=re.S)
    return ' '.join(unescape(content).split())


def of(audited: Audit, facts: dict) -> Audit:
    """The audit of the first model alone, of which other facts are known, with heads alike."""
    model = audited.models[0]
    heads = [torch.ones_like(matrix) for matrix in model.values['head_cosine']]
    return replace(audited, models=[replace(model, facts={**model.facts, **facts},
                                            values={**model.values, 'head_cosine': heads})])


def write_other(audited: Audit, folder: Path, **images) -> Path:
    """The report of the first model alone, with other facts about the images, of one measure."""
    model = audited.models[0]
    model = replace(model, **{key: {'head_cosine': getattr(model, key)['head_cosine']}
                              for key in ('layers', 'values', 'summary')}, per_head={})
    return write_report(replace(audited, models=[model], images={**audited.images, **images}),
                        folder)


# Files ----------------------------------------------------------------------------------------


def test_report_is_complete(page: Path) -> None:
    names = {path.name for path in page.parent.iterdir()}
    assert {'audit.html', 'audit.json', 'audit.csv', 'figures'} < names
    assert len([name for name in names if re.fullmatch(r'diversity_[\w.-]+\.py', name)]) == 2
    figures = sorted((page.parent / 'figures').glob('*.svg'))
    assert len(figures) > 40
    assert all(path.with_suffix('.png').is_file() for path in figures)
    assert not [path for path in page.parent.rglob('.*')]


def test_figures_on_disk_are_dark_on_white(page: Path) -> None:
    pixels = np.asarray(Image.open(page.parent / 'figures' / 'head_cosine.png').convert('L'))
    assert pixels[0, 0] >= 254 and pixels.min() < 60


def test_page_is_small_enough(page: Path) -> None:
    assert page.stat().st_size < 2e6


def test_json_holds_everything(audited: Audit, page: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    content = json.loads((page.parent / 'audit.json').read_text(encoding='utf-8'),
                         parse_constant=refuse)
    assert content == to_dict(audited)
    assert list(content['definitions']) == list(MEASURES)
    assert content['images']['measured'] == 8 and content['machine']['versions']['torch']
    for saved, model in zip(content['models'], audited.models, strict=True):
        assert saved['name'] == model.name and saved['facts']['num_blocks'] in (4, 6)
        assert list(saved['values']) == list(saved['summary']) == list(MEASURES)
        assert [finding['text'] for finding in saved['findings']] == [
            finding.text for finding in judge(model)]
        assert [term['config'] for term in saved['suggestions']] == [
            suggestion.config for suggestion in suggest(model)]
        for ours, theirs in zip(saved['values']['head_cosine'], model.values['head_cosine']):
            assert torch.equal(torch.tensor(ours, dtype=torch.float64), theirs)
    # Layers of different stages of a Swin are not compared.
    assert content['models'][1]['values']['cross_layer_cosine'][0][-1] is None


def test_csv_holds_the_values_of_the_json(audited: Audit, page: Path) -> None:
    with open(page.parent / 'audit.csv', encoding='utf-8', newline='') as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ['model', 'level', 'measure', 'layer', 'other_layer', 'matrix', 'head',
                             'other_head', 'component', 'value']
    content = json.loads((page.parent / 'audit.json').read_text(encoding='utf-8'))

    def leaves(item: object) -> Iterator[float | None]:
        if isinstance(item, dict):
            item = list(item.values())
        if isinstance(item, list):
            for part in item:
                yield from leaves(part)
        else:
            yield item

    for model in content['models']:
        for name, values in model['values'].items():
            expected = [*leaves(values), *leaves(model['per_head'].get(name, []))]
            found = [row for row in rows
                     if row['model'] == model['name'] and row['measure'] == name]
            assert [None if row['value'] == '' else float(row['value'])
                    for row in found] == expected
            assert {row['level'] for row in found} == {MEASURES[name].level}
    row = next(row for row in rows if row['measure'] == 'head_cosine' and row['layer'] == '3'
               and (row['head'], row['other_head']) == ('0', '2'))
    assert float(row['value']) == audited.models[0].values['head_cosine'][3][0, 2].item()
    row = next(row for row in rows if row['measure'] == 'stable_rank' and row['layer'] == '2'
               and (row['head'], row['matrix']) == ('1', 'k'))
    assert float(row['value']) == audited.models[0].per_head['stable_rank']['k'][2][1].item()


def test_fragments_diversify_a_training(audited: Audit, page: Path) -> None:
    fragments = sorted(page.parent.glob('diversity_*.py'))
    assert 'diversity_b.py' in {path.name for path in fragments}
    terms = 0
    for path in fragments:
        hook = Config.fromfile(path).diversity
        terms += len(HOOKS.build(hook).terms)
        assert diversify(Config.fromfile(DEIT), str(path)).custom_hooks[-1] == hook
    assert terms == sum(len(suggest(model)) for model in audited.models) > 0


@pytest.mark.parametrize(('source', 'config', 'said'), [
    ('a/plain.py', 'a/plain.py', 'train.py a/plain.py --diversity'),
    ('my run', 'my run/plain config.py', "train.py 'my run/plain config.py' --diversity"),
    ('deit-tiny_4xb256_in1k', 'mmpretrain::deit/deit-tiny_4xb256_in1k.py',
     'train.py mmpretrain::deit/deit-tiny_4xb256_in1k.py --diversity')])
def test_the_command_names_the_config(audited: Audit, tmp_path: Path, source: str, config: str,
                                      said: str) -> None:
    result = of(audited, facts=dict(source=source, config=config))
    page = write_other(result, tmp_path / 'a folder')
    fragment = page.parent / 'diversity_b.py'
    command = f"{said} '{fragment}'"
    assert command in text_of(page) and f'# Train with them by: python tools/{command}' in \
        fragment.read_text()
    assert command in format_summary(result, page.parent)


@pytest.mark.parametrize(('source', 'said'), [
    ('timm:vit_tiny_patch16_224', "with a config of your own in my_config.py, whose backbone is "
     "dict(type='TIMMBackbone', model_name='vit_tiny_patch16_224')"),
    ('ImageClassifier', 'with its config in my_config.py')])
def test_where_no_file_holds_the_config_it_is_said(audited: Audit, tmp_path: Path, source: str,
                                                   said: str) -> None:
    result = of(audited, facts=dict(source=source, config=None))
    assert f'Train with it, {said}, by python tools/train.py my_config.py' in text_of(
        write_other(result, tmp_path))
    assert f'To train against it, {said}: ' in format_summary(result, tmp_path)


def test_random_weights_are_warned_of_and_get_no_recipe(untrained: Audit, tmp_path: Path) -> None:
    text = text_of(write_other(untrained, tmp_path))
    assert f'Warning: {UNTRAINED}.' in text and f'No term: {UNTRAINED}.' in text
    assert 'tools/train.py' not in text.replace('for tools/train.py --diversity', '')
    assert f'# None: {UNTRAINED}.' in (tmp_path / 'diversity_b.py').read_text()
    assert not Config.fromfile(tmp_path / 'diversity_b.py').diversity.terms
    assert all(not model['suggestions'] for model in to_dict(untrained)['models'])
    summary = format_summary(untrained, tmp_path)
    assert summary.count(f'WARNING: {UNTRAINED}') == 2 and 'train.py' not in summary


def test_weights_of_a_checkpoint_are_not_warned_of(audited: Audit, page: Path) -> None:
    assert UNTRAINED not in text_of(page) + format_summary(audited, page.parent)


def test_one_of_everything_is_said_in_the_singular(audited: Audit, tmp_path: Path) -> None:
    model = audited.models[0]
    alone = replace(model, facts={**model.facts, 'num_blocks': 1, 'num_heads': [1]})
    result = replace(audited, models=[alone], machine={**audited.machine, 'threads': 1})
    text = text_of(write_other(result, tmp_path, measured=1, asked=1, interrupted=True))
    summary = format_summary(replace(result, images={**audited.images, 'measured': 1, 'asked': 1}),
                             tmp_path)
    assert '1 thread)' in text
    prose = text.partition('Definitions head cosine')[0]  # what follows are tables
    assert not re.search(r'\b1 (images|findings|blocks|heads|matrices|measures)', prose)
    assert '1 of 1 finding point' in text or 'in 1 finding.' in text
    assert '1 of 1 image.' in text and '1 of 1 image\n' in summary


def test_unwritable_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / 'file').write_text('')
    with pytest.raises(OSError, match=r"file.*--out"):
        check_out_dir(tmp_path / 'file')
    check_out_dir(tmp_path / 'new' / 'folder')
    assert list((tmp_path / 'new').iterdir()) == [tmp_path / 'new' / 'folder']


# Page -----------------------------------------------------------------------------------------


def test_every_measure_has_a_definition(reader: Reader) -> None:
    ids = reader.all('id')
    assert len(ids) == len(set(ids))
    assert {f'definition-{name}' for name in MEASURES} == {
        name for name in ids if name.startswith('definition-')}


def test_every_panel_links_to_its_definition(page: Path) -> None:
    figures = re.findall(r'<figure id="panel-([^"]*)">(.*?)</figure>',
                         page.read_text(encoding='utf-8'), flags=re.S)
    assert len(figures) > 40
    for key, content in figures:
        measure, = re.findall(r'href="#definition-(\w+)"', content)
        assert key.startswith(measure)
        assert MEASURES[measure].meaning in unescape(content)
        assert 'diverse' in content and 'role="img"' in content


def test_links_lead_somewhere(reader: Reader, page: Path) -> None:
    ids = set(reader.all('id'))
    for tag, attributes in reader.elements:
        link = attributes.get('href', '')
        if link.startswith('#'):
            assert link[1:] in ids
        elif tag == 'a':
            assert (page.parent / link).is_file()


def test_nothing_comes_from_elsewhere(reader: Reader, page: Path) -> None:
    for source in reader.all('src') + reader.all('href'):
        assert re.match(r'data:image/|#|diversity_[\w.-]+\.py$|audit\.(json|csv)$', source)
    tags = {tag for tag, _ in reader.elements}
    assert not tags & {'script', 'link', 'iframe', 'b'}
    assert not re.search(r'@import|url\((?!#)', page.read_text(encoding='utf-8'))


def test_headings_are_in_order(reader: Reader) -> None:
    levels = [int(tag[1]) for tag, _ in reader.elements if re.fullmatch('h[1-6]', tag)]
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(after - before <= 1 for before, after in zip(levels, levels[1:]))


def test_names_are_escaped(page: Path) -> None:
    text = text_of(page)
    for name in NAMES:
        assert name in text


def test_names_of_fragments_are_safe_and_different(audited: Audit, tmp_path: Path) -> None:
    model = write_other(audited, tmp_path / 'one').parent
    assert (model / 'diversity_b.py').is_file()
    first = audited.models[0]
    few = dict(layers={}, values={}, summary={}, per_head={}, examples=[])
    models = [replace(first, name=name, **few) for name in ('a b', 'A/b', '..', '../..', 'ü')]
    folder = write_report(replace(audited, models=models), tmp_path / 'many').parent
    assert len(list(folder.glob('diversity_*.py'))) == 5
    assert len(list(tmp_path.iterdir())) == 2


def test_verdict_comes_first(audited: Audit, page: Path) -> None:
    text = text_of(page)
    for model in audited.models:
        for finding in judge(model):
            assert text.index(' '.join(finding.text.split())) < text.index('The comparison')
        for suggestion in suggest(model):
            assert ' '.join(suggestion.reason.split()) in text
    assert '--diversity' in text


def test_comparison_names_the_more_diverse(audited: Audit, page: Path) -> None:
    means = [fmean(model.summary['token_cosine_absolute']) for model in audited.models]
    row = re.search(r'token cosine, absolute (\S+) (\S+) (\S+) ↓ (.*?) token cosine, signed',
                    text_of(page)).groups()
    assert row[:3] == (*(say_number(mean, 4) for mean in means),
                       f'{"+" * (means[1] > means[0])}{say_number(means[1] - means[0])}')
    assert row[3] == NAMES[int(np.argmin(means))]


def test_no_winner_within_noise_or_of_another_width(page: Path) -> None:
    comparisons = json.loads((page.parent / 'audit.json').read_text())['comparisons']
    assert [comparison['measure'] for comparison in comparisons] == list(MEASURES)
    content = page.read_text(encoding='utf-8')
    for comparison in comparisons:
        row, = re.findall(rf'<tr><th scope="row"><a href="#definition-{comparison["measure"]}">'
                          '.*?</tr>', content, flags=re.S)
        *_, last = re.findall(r'<td class="(\w+)">([^<]*)</td>', row)
        said = {'neither direction is': '–'}.get(comparison['reason'], comparison['reason'])
        assert last[0] == ('winner' if comparison['winner'] else 'reason')
        assert unescape(last[1]).lstrip('↓↑ ') == (comparison['winner'] or said)
        assert comparison['unit'] in row
    found = {comparison['measure']: comparison for comparison in comparisons}
    assert found['eigenvalue_spread']['reason'] == 'widths differ'
    assert found['stable_rank']['unit'] and max(found['stable_rank']['values']) < 1
    assert found['token_cosine_absolute']['difference_errors'][0] > 0
    spreads = Reader(page).all('data-spread')
    assert sum(spread.startswith('± ') for spread in spreads) > 30
    assert '2 standard errors' in text_of(page)


def test_page_of_one_model_compares_nothing(single: Path) -> None:
    text = text_of(single)
    assert 'How redundant is plain?' in text and 'random initial weights' in text
    assert 'difference' not in text and 'first layer' in text


def test_page_of_three_models_has_them_all(audited: Audit, tmp_path: Path) -> None:
    three = [*audited.models, replace(audited.models[0], name='a third')]
    text = text_of(write_report(replace(audited, models=three), tmp_path))
    assert f'{NAMES[0]}, {NAMES[1]} and a third?' in text and 'alike' in text


def test_only_what_was_measured_is_shown(tmp_path: Path) -> None:
    audit(DEIT, out_dir=tmp_path, measures=['token_cosine_absolute'], **FEW)
    reader = Reader(tmp_path / 'audit.html')
    ids = set(reader.all('id'))
    assert {'patch', 'definition-token_cosine_absolute'} < ids
    assert not ids & {'attention', 'weight', 'definition-head_cosine'}
    assert all(link[1:] in ids for link in reader.all('href') if link.startswith('#'))


def test_interrupted_and_unreadable_are_said(audited: Audit, tmp_path: Path) -> None:
    page = write_other(audited, tmp_path, asked=500, interrupted=True,
                       unreadable=[dict(name='a<i>.png', reason='cannot & will not')])
    text = text_of(page)
    assert 'Interrupted after 9 of 500 images' in text
    assert '1 unreadable image' in text and 'a<i>.png : cannot & will not' in text


def test_what_is_not_defined_is_left_blank(audited: Audit, tmp_path: Path) -> None:
    model = audited.models[0]
    nan = torch.full((1, 1), math.nan, dtype=torch.float64)
    model = replace(
        model, layers={'head_cosine': [0, 1]}, values={'head_cosine': [nan, nan]},
        summary={'head_cosine': [math.nan, math.nan]}, per_head={}, examples=[])
    page = write_report(replace(audited, models=[model]), tmp_path)
    assert 'not defined' in page.read_text(encoding='utf-8')
    assert 'nan' not in text_of(page).split()


def test_numbers_for_people() -> None:
    assert [say_number(value) for value in (math.nan, 0.5, -1234., 121.96, 8.77e-5)] == [
        '–', '0.500', '−1.23 × 10³', '122', '8.77 × 10⁻⁵']


@pytest.fixture(scope='module')
def without_maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a model without attention maps beside one with them."""
    model = load_model(DEIT).model
    model.backbone = xcit(use_pos_embed=False)
    folder = tmp_path_factory.mktemp('xcit')
    audit([load_model(model, name='lacking'), DEIT], out_dir=folder,
          **FEW | dict(images='photos', num_images=2))
    return folder / 'audit.html'


def test_what_is_not_measured_is_said_with_the_reason(without_maps: Path) -> None:
    reason = 'XCiT attends from channels to channels, so its blocks have no attention maps'
    text = text_of(without_maps)
    assert text.count(reason) == 2  # in the verdict and below the table
    assert ('Not measured: lacking head cosine, Jensen-Shannon divergence of heads, linear CKA of '
            'head outputs, attention entropy, mean attention distance (blocks 0 to 2): '
            f'{reason}') in text
    content = json.loads((without_maps.parent / 'audit.json').read_text())
    gap, = content['models'][0]['gaps']
    assert gap['reason'].startswith(reason) and gap['layers'] == [0, 1, 2]
    assert content['models'][1]['gaps'] == []


def test_a_measure_of_one_model_is_shown_beside_one_that_lacks_it(without_maps: Path) -> None:
    text = text_of(without_maps)
    assert re.search(r'head cosine – 0\.\d+ – ↓', text)
    assert 'Not measured of lacking.' in text
    figures = {path.stem for path in (without_maps.parent / 'figures').glob('*.svg')}
    assert 'head_cosine_deit-nano_digits_pairs' in figures
    assert 'head_cosine_lacking_pairs' not in figures
    ids = set(Reader(without_maps).all('id'))
    assert 'definition-head_cosine' in ids and len(ids) > len(MEASURES)


# Browser --------------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        yield browser
        browser.close()


def open_page(browser: Browser, path: Path, size: dict, scheme: str = 'light') -> Page:
    tab = browser.new_page(viewport=size, color_scheme=scheme)
    tab.said, tab.requested = [], []
    tab.on('console', lambda message: tab.said.append(message.text))
    tab.on('pageerror', lambda error: tab.said.append(str(error)))
    tab.on('request', lambda request: tab.requested.append(request.url))
    tab.goto(path.as_uri())
    return tab


@needs_browser
@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('size', [WIDE, NARROW], ids=['wide', 'narrow'])
def test_page_fits_and_is_quiet(browser: Browser, page: Path, size: dict, scheme: str) -> None:
    tab = open_page(browser, page, size, scheme)
    across, visible = tab.evaluate('[document.documentElement.scrollWidth, '
                                   'document.documentElement.clientWidth]')
    assert across <= visible
    assert not tab.said
    assert [url for url in tab.requested if not url.startswith('data:')] == [page.as_uri()]
    tab.close()


@needs_browser
@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_text_stands_out(browser: Browser, page: Path, scheme: str) -> None:
    tab = open_page(browser, page, NARROW, scheme)
    colours = tab.evaluate('''() => ['p', 'h2', 'figcaption', 'a', 'dt', 'td', 'pre', 'footer p',
        '.good-word', '.bad-word', '.number', 'figure svg text'].map(selector => {
            const element = document.querySelector(selector);
            const style = getComputedStyle(element);
            return [selector, element instanceof SVGElement ? style.fill : style.color,
                    getComputedStyle(document.body).backgroundColor];
        })''')

    def luminance(colour: str) -> float:
        channels = [int(part) / 255 for part in re.findall(r'\d+', colour)[:3]]
        red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055)**2.4
                            for part in channels)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    dark = luminance(colours[0][2])
    assert (dark < 0.05) == (scheme == 'dark')
    for selector, *pair in colours:
        low, high = sorted(map(luminance, pair))
        assert (high + 0.05) / (low + 0.05) >= 4.5, selector
    tab.close()


@needs_browser
def test_text_of_figures_is_legible_and_apart(browser: Browser, page: Path, single: Path) -> None:
    for path in (page, single):
        tab = open_page(browser, path, NARROW)
        smallest, overlaps = tab.evaluate('''() => {
            let smallest = Infinity;
            const overlaps = [];
            for (const svg of document.querySelectorAll('figure svg')) {
                const texts = [...svg.querySelectorAll('text')].filter(
                    text => text.textContent.trim());
                const boxes = texts.map(text => text.getBoundingClientRect());
                for (const [i, text] of texts.entries()) {
                    const {a, b} = text.getScreenCTM();
                    smallest = Math.min(smallest, Math.hypot(a, b) *
                                        parseFloat(getComputedStyle(text).fontSize));
                    for (let j = 0; j < i; j++) {
                        const across = Math.min(boxes[i].right, boxes[j].right) -
                                       Math.max(boxes[i].left, boxes[j].left);
                        const up = Math.min(boxes[i].bottom, boxes[j].bottom) -
                                   Math.max(boxes[i].top, boxes[j].top);
                        // Boxes of lines are higher than their letters.
                        if (across > 1 && up > 4)
                            overlaps.push([svg.parentElement.id, texts[i].textContent,
                                           texts[j].textContent]);
                    }
                }
            }
            return [smallest, overlaps];
        }''')
        assert smallest >= 9 and not overlaps
        tab.close()


@needs_browser
def test_page_prints(browser: Browser, page: Path) -> None:
    tab = open_page(browser, page, WIDE, 'dark')
    assert tab.pdf(format='A4').startswith(b'%PDF')
    tab.emulate_media(media='print')
    assert tab.evaluate('getComputedStyle(document.body).backgroundColor') == 'rgb(253, 253, 251)'
    tab.close()
