"""What a dry run found, as lines, a table and JSON."""
from dataclasses import asdict
from typing import Any

from ..evaluation.preflight import Check, Preflight


def check_line(check: Check) -> str:
    """One check in a line of text."""
    return f'{check.verdict:<6}  {check.name:<15}  {check.text}'


def terms_table(found: Preflight) -> str:
    """The diversity terms before the first step, a line each; empty without any."""
    if not found.terms:
        return ''
    width = max(len(term.name) for term in found.terms)
    lines = [f'{"term":<{width}}  {"value":>10}  {"weight":>8}  {"in the loss":>11}  '
             'share of gradient']
    lines += [f'{term.name:<{width}}  {term.value:>10.4g}  {term.weight:>8.4g}  '
              f'{term.weighted:>11.4g}  {term.gradient_share:>17.2%}' for term in found.terms]
    return '\n'.join(lines)


def to_json(found: Preflight) -> dict[str, Any]:
    """All of it, for a program."""
    return dict(ok=found.ok, **asdict(found))
