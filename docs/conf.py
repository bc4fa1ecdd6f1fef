"""How Sphinx builds the documentation: ``sphinx-build -W --keep-going -b html docs docs/_build``"""
import re
from pathlib import Path

from sphinx.application import Sphinx

import mmdiverse

README = Path(__file__).parents[1] / 'README.md'

project = 'mmdiverse'
release = mmdiverse.__version__
html_title = f'{project} {release}'
html_theme = 'furo'
html_show_copyright = False
exclude_patterns = ['_build']

extensions = ['myst_parser', 'sphinx.ext.autodoc', 'sphinx.ext.mathjax', 'sphinx.ext.napoleon',
              'sphinx.ext.viewcode']
myst_heading_anchors = 3

autodoc_member_order = 'bysource'  # functions come before the class that uses them
autodoc_default_options = {'special-members': '__call__'}
# Docstrings that are inherited from the host packages are not ours to mend.
autodoc_inherit_docstrings = False
autodoc_typehints = 'none'  # docstrings say the same, with shapes
napoleon_numpy_docstring = False
napoleon_use_ivar = True

# A link in a docstring has to lead somewhere. Only the types of arguments need not: they are words
# like "Tensor, optional", and those of other packages have no page here.
nitpicky = True
nitpick_ignore_regex = [('py:(class|exc)', r'(?!mmdiverse\.).*')]


def link_readme(app: Sphinx, docname: str, source: list[str]) -> None:
    """Show the README as the page `readme`, and let the other pages link to it."""
    if docname == 'readme':
        text = re.sub(r'\]\((?!https?:|#)', '](../', README.read_text(encoding='utf-8'))
        source[0] = text.replace('](../docs/', '](')
    source[0] = source[0].replace('](../README.md', '](readme.md')


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect('source-read', link_readme)
