"""Report of an audit: a page that needs nothing else, its figures, tables and configs."""
import base64
import csv
import io
import json
import math
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import jinja2
import numpy as np
from markupsafe import Markup, escape
from PIL import Image
from torch import Tensor

from ..evaluation.audit import UNTRAINED, Audit, ModelAudit
from ..evaluation.audit_comparison import DIGITS, NEITHER, STANDARD_ERRORS, compare_models
from ..evaluation.model_loading import AS_GIVEN, TIMM
from ..evaluation.redundancy import name_blocks
from ..evaluation.verdict import (
    Suggestion,
    format_fragment,
    judge,
    suggest,
    why_none,
)
from ..measures import MEASURES, Measure
from ..records import LEVELS
from ..spelling import counted
from .audit_figures import (
    Panel,
    Tile,
    draw_examples,
    draw_panels,
    inline_svg,
    measured,
    say_number,
)

TEMPLATE = Path(__file__).with_name('audit.html.j2')
#: Levels as a reader calls them.
SECTIONS = {'patch': 'Patches', 'attention': 'Attention', 'weight': 'Weights'}
DIRECTIONS = {'lower': '↓ Lower is more diverse.', 'higher': '↑ Higher is more diverse.',
              'neither': 'Neither direction is more diverse by itself.'}
#: Stands for a config that the audit knows no file of.
OWN_CONFIG = 'my_config.py'
COLUMNS = ('model', 'level', 'measure', 'layer', 'other_layer', 'matrix', 'head', 'other_head',
           'component', 'value')


def check_out_dir(out_dir: str | Path) -> None:
    """Make the folder of a report and write to it, so that nothing fails there after hours.

    Raises:
        OSError: If that is impossible.
    """
    try:
        Path(out_dir).mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=out_dir):
            pass
    except OSError as error:
        raise OSError(f'cannot write the report to the folder {str(out_dir)!r} '
                      f'({error.strerror}): give a writable one (--out)') from error


def write_report(audit: Audit, out_dir: str | Path) -> Path:
    """Write everything that is known of some models.

    Args:
        audit (Audit): From :func:`mmdiverse.audit`.
        out_dir (str | Path): Gets ``audit.html``, which needs no other file, ``audit.json``,
            ``audit.csv``, ``diversity_<model>.py`` for every model and ``figures/``.

    Returns:
        Path: That of the page.

    Raises:
        OSError: If the folder cannot be written.
    """
    check_out_dir(out_dir)
    out_dir = Path(out_dir)
    figures = out_dir / 'figures'
    figures.mkdir(exist_ok=True)
    keys = _file_names([model.name for model in audit.models])
    fragments = _fragment_paths(audit, out_dir)
    content = to_dict(audit)
    _write(out_dir / 'audit.json', json.dumps(content, allow_nan=False, indent=1) + '\n')
    _write(out_dir / 'audit.csv', _to_csv(content))

    recipes = []
    for model, path in zip(audit.models, fragments):
        suggestions = suggest(model)
        command = _command(model, path)
        fragment = format_fragment(suggestions, model.name, command, why_none(model))
        _write(path, fragment)
        recipes.append(dict(name=model.name, terms=[_term(item) for item in suggestions],
                            fragment=fragment, file=path.name, command=command,
                            config=_say_config(model), none=why_none(model)))

    sections: dict[str, list[list[tuple[Panel, Markup]]]] = {}
    first_panels: dict[str, str] = {}
    for level in LEVELS:
        groups = [group for group in draw_panels(audit.models, keys, level) if group]
        sections[level] = [[(panel, _save(panel, figures)) for panel in group] for group in groups]
        for panel in sum(groups, []):
            first_panels.setdefault(panel.measure.name, panel.key)
    pictures = []
    for model, key in zip(audit.models, keys):
        rows = draw_examples(model)
        for tile in (tile for _, tiles in rows for tile in tiles):
            _write(figures / f'attention_{key}_{tile.key}.png', _encode(tile.pixels, 'PNG'))
        pictures.append((model, rows))

    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True,
                                     undefined=jinja2.StrictUndefined)
    template = environment.from_string(TEMPLATE.read_text(encoding='utf-8'))
    page = template.render(
        audit=audit, names=[model.name for model in audit.models],
        leads=[_lead(model) for model in audit.models], facts=_facts_table(audit.models),
        verdicts=[_verdict(model) for model in audit.models], table=_summary_table(audit.models),
        recipes=recipes, sections=sections, titles=SECTIONS, pictures=pictures, picture=_picture,
        measures=measured(audit.models), gaps=_gaps(audit.models), first_panels=first_panels,
        directions=DIRECTIONS, untrained=UNTRAINED, count=counted, errors=STANDARD_ERRORS)
    path = out_dir / 'audit.html'
    _write(path, page)
    return path


def format_summary(audit: Audit, out_dir: str | Path) -> str:
    """What a terminal shows of a report: findings, how to train against them, and where it is.

    Args:
        audit (Audit): From :func:`mmdiverse.audit`.
        out_dir (str | Path): The folder of the report.
    """
    lines = []
    for model, path in zip(audit.models, _fragment_paths(audit, Path(out_dir))):
        lines += ['', model.name]
        if model.untrained:
            lines.append(f'  WARNING: {UNTRAINED}')
        lines += [f'  {"!" if finding.redundant else " "} {finding.text}'
                  for finding in judge(model)]
        if suggest(model):
            config = _say_config(model)
            lines.append(f'  To train against it{f", {config}" if config else ""}: '
                         f'{_command(model, path)}')
    images = audit.images
    interrupted = ', interrupted' if images['interrupted'] else ''
    lines += ['', f'{images["measured"]} of {counted(images["asked"], "image")}{interrupted}',
              str(Path(out_dir) / 'audit.html')]
    return '\n'.join(lines)


def to_dict(audit: Audit) -> dict[str, Any]:
    """Everything but pictures, as JSON can hold it: NaN is None.

    Args:
        audit (Audit): From :func:`mmdiverse.audit`.
    """
    models = []
    for model in audit.models:
        suggestions = suggest(model)
        models.append(dict(
            name=model.name, facts=model.facts, layers=model.layers, values=model.values,
            per_head=model.per_head, summary=model.summary, shapes=model.shapes,
            examples=[example.name for example in model.examples],
            gaps=[vars(gap) for gap in model.gaps],
            findings=[vars(finding) for finding in judge(model)],
            suggestions=[vars(suggestion) for suggestion in suggestions],
            fragment=format_fragment(suggestions, model.name, none=why_none(model))))
    definitions = {measure.name: {key: getattr(measure, key) for key in (
        'title', 'level', 'axis', 'meaning', 'formula', 'range', 'diverse', 'source', 'subsampled')}
        for measure in measured(audit.models)}
    comparisons = [dict(vars(comparison), measure=comparison.measure.name)
                   for comparison in compare_models(audit.models)]
    return _plain(dict(models=models, comparisons=comparisons, images=audit.images,
                       machine=audit.machine, definitions=definitions))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, Tensor):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (str, int)) else str(value)


def _to_csv(content: dict[str, Any]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, restval='', lineterminator='\n')
    writer.writeheader()
    for model in content['models']:
        for name in model['values']:
            measure = MEASURES[name]
            for row in _rows(measure, model):
                writer.writerow(dict(row, model=model['name'], level=measure.level, measure=name))
    return buffer.getvalue()


def _rows(measure: Measure, model: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The values of a measure, a line for each."""
    layers, values = model['layers'][measure.name], model['values'][measure.name]
    if measure.axis == 'layer pair':
        for layer, line in zip(layers, values):
            for other, value in zip(layers, line):
                yield dict(layer=layer, other_layer=other, value=value)
    elif measure.captured == 'weight':
        for matrix, blocks in values.items():
            for layer, value in zip(layers, blocks):
                if measure.axis == 'matrix':
                    yield dict(matrix=matrix, layer=layer, value=value)
                    continue
                for index, energy in enumerate(value, 1):
                    yield dict(matrix=matrix, layer=layer, component=index / len(value),
                               value=energy)
        for matrix, blocks in model['per_head'].get(measure.name, {}).items():
            # Of a curve, heads have the value at a quarter of their components.
            share = {'component': 0.25} if measure.axis == 'component' else {}
            for layer, heads in zip(layers, blocks):
                for head, value in enumerate(heads):
                    yield dict(matrix=matrix, layer=layer, head=head, value=value, **share)
    else:
        for layer, value in zip(layers, values):
            if measure.axis == 'layer':
                yield dict(layer=layer, value=value)
                continue
            for head, item in enumerate(value):
                if measure.axis == 'head':
                    yield dict(layer=layer, head=head, value=item)
                    continue
                for other, number in enumerate(item):
                    yield dict(layer=layer, head=head, other_head=other, value=number)


def _save(panel: Panel, figures: Path) -> Markup:
    """Write the files of a figure, and make it a part of the page."""
    svg = panel.svg()
    _write(figures / f'{panel.key}.svg', svg)
    _write(figures / f'{panel.key}.png', panel.png())
    title = f'{panel.title}: {panel.model}' if panel.model else panel.title
    return Markup(inline_svg(svg, panel.key, escape(f'{title}. {panel.note}')))


def _gaps(models: Sequence[ModelAudit]) -> list[tuple[str, list[dict[str, str]]]]:
    """What is not measured of models, in words."""
    return [(model.name, [dict(
        what=', '.join(MEASURES[name].title for name in gap.measures),
        where=f'{f"{gap.matrix} in " if gap.matrix else ""}{name_blocks(gap.layers)}',
        reason=gap.reason) for gap in model.gaps]) for model in models if model.gaps]


def _verdict(model: ModelAudit) -> dict[str, Any]:
    """Findings by level, and what they come to."""
    findings = judge(model)
    lacking = {MEASURES[name].level: gap.reason for gap in model.gaps for name in gap.measures
               if name not in model.values}
    levels = []
    for level, title in SECTIONS.items():
        found = [finding for finding in findings if finding.level == level]
        if found or level in lacking:
            levels.append(dict(level=level, title=title, findings=found,
                               redundant=any(finding.redundant for finding in found),
                               lacking=lacking.get(level)))
    return dict(name=model.name, levels=levels, count=len(findings), untrained=model.untrained,
                redundant=sum(finding.redundant for finding in findings))


def _summary_table(models: Sequence[ModelAudit]) -> dict[str, list[dict[str, Any]]]:
    """Every measure over the layers, by level; of several models beside the first."""
    rows: dict[str, list[dict[str, Any]]] = {level: [] for level in LEVELS}
    for comparison in compare_models(models):
        measure = comparison.measure
        known = [value for value in models[0].summary.get(measure.name, [])
                 if not math.isnan(value)]
        rows[measure.level].append(dict(
            measure=measure, unit=comparison.unit,
            texts=[say_number(value, DIGITS) for value in comparison.values],
            spreads=[_say_spread(error) for error in comparison.errors],
            differences=[f'{"+" * (value > 0)}{say_number(value)}'
                         for value in comparison.differences],
            difference_spreads=[
                '' if math.isnan(value) else _say_spread(error) for value, error in
                zip(comparison.differences, comparison.difference_errors)],
            ends=[say_number(known[index], DIGITS) if known else '–' for index in (0, -1)],
            winner=comparison.winner,
            reason='–' if comparison.reason == NEITHER else comparison.reason))
    return rows


def _say_spread(error: float) -> str:
    """A standard error beside its value, nothing where there is none."""
    return '' if math.isnan(error) else f'± {say_number(error, 2)}'


def _lead(model: ModelAudit) -> str:
    """What a model is, in a line."""
    facts = model.facts
    heads = facts['num_heads']
    if heads:
        text = ' to '.join(map(str, sorted({min(heads), max(heads)})))
        heads = f' with {text} head{"s" * (text != "1")}'
    size = _say_size(facts)
    weights = {None: 'random initial weights', AS_GIVEN: 'weights as given'}.get(
        facts['checkpoint'], 'weights of a checkpoint')
    return (f'{facts["backbone"]} of {counted(facts["num_blocks"], "block")}{heads or ""}, '
            f'{facts["num_parameters"] / 1e6:.3g} million parameters, '
            f'images of {size}, {weights}')


def _say_size(facts: dict[str, Any]) -> str:
    """The size of images, as their pipeline leaves them."""
    size = ' × '.join(map(str, facts['image_size'])) + ' pixels'
    others = facts.get('num_image_sizes', 1) - 1
    return f'{size} and {others} other size{"s" * (others > 1)}' if others else size


def _facts_table(models: Sequence[ModelAudit]) -> dict[str, list[str]]:
    """What is known of the models, a row for each fact."""
    rows: dict[str, list[str]] = {}
    for model in models:
        facts = model.facts
        for name, text in {
                'source': facts['source'],
                'config': facts.get('config') or '–',
                'checkpoint': facts['checkpoint'] or 'none: random initial weights',
                'backbone': facts['backbone'],
                'blocks': str(facts['num_blocks']),
                'heads': _say_heads(facts['num_heads']),
                'tokens before the patches': str(facts['num_prefix']),
                'parameters of the backbone': f'{facts["num_parameters"]:,}'.replace(',', ' '),
                'image size': _say_size(facts)}.items():
            rows.setdefault(name, []).append(text)
    return rows


def _say_heads(heads: Sequence[int]) -> str:
    """Heads of all blocks, those of equal neighbours together."""
    parts, start = [], 0
    for count, group in groupby(heads):
        end = start + len(list(group)) - 1
        parts.append(f'{count} in block {start}' if start == end else
                     f'{count} in blocks {start} to {end}')
        start = end + 1
    return str(heads[0]) if len(parts) == 1 else ', '.join(parts) or '–'


def _term(suggestion: Suggestion) -> dict[str, Any]:
    config = dict(suggestion.config)
    first = {key: config.pop(key, None) for key in ('type', 'on', 'layers', 'weight')}
    layers = first['layers']
    if isinstance(layers, (list, tuple)):
        first['layers'] = ', '.join(map(str, layers))
    return dict(first, others=', '.join(f'{key}={value!r}' for key, value in config.items()),
                reason=suggestion.reason)


def _command(model: ModelAudit, fragment: Path) -> str:
    """That trains the model with a fragment."""
    config = model.facts.get('config') or OWN_CONFIG
    return f'python tools/train.py {shlex.quote(config)} --diversity {shlex.quote(str(fragment))}'


def _say_config(model: ModelAudit) -> str:
    """What the config of :func:`_command` is where the audit knows of no file, else nothing."""
    source = model.facts['source']
    if model.facts.get('config'):
        return ''
    if source.startswith(TIMM):
        name = source.removeprefix(TIMM)
        return (f'with a config of your own in {OWN_CONFIG}, whose backbone is '
                f"dict(type='TIMMBackbone', model_name={name!r})")
    return f'with its config in {OWN_CONFIG}'


def _fragment_paths(audit: Audit, out_dir: Path) -> list[Path]:
    """Of the suggested terms of every model."""
    keys = _file_names([model.name for model in audit.models])
    return [out_dir / f'diversity_{key}.py' for key in keys]


def _file_names(names: Sequence[str]) -> list[str]:
    """Names of models made safe for files, no two alike."""
    safe: list[str] = []
    for name in names:
        stem = key = re.sub(r'[^\w.-]+', '-', name, flags=re.ASCII).strip('-.')[:80] or 'model'
        while key.lower() in (other.lower() for other in safe):
            key = f'{stem}-{len(safe) + 1}'
            stem += '-'
        safe.append(key)
    return safe


def _encode(pixels: np.ndarray, kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, quality=85)
    return buffer.getvalue()


def _picture(tile: Tile) -> str:
    return f'data:image/jpeg;base64,{base64.b64encode(_encode(tile.pixels, "JPEG")).decode()}'


def _write(path: Path, content: str | bytes) -> None:
    """Write a file whole: it is renamed from a draft."""
    draft = path.with_name(f'.{path.name}.{os.getpid()}')
    draft.write_bytes(content if isinstance(content, bytes) else content.encode())
    draft.replace(path)
