"""Build script of mmdiverse.

Besides the package it ships ``mmdiverse/.mim``: the configs, the tools and the model index, where
MMEngine looks for ``_base_ = 'mmdiverse::...'`` and MIM for ``mim train mmdiverse``.
"""
import os
import shutil
import sys
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
MIM_CONTENTS = ('configs', 'tools', 'model-index.yml')


def read_version() -> str:
    scope: dict[str, str] = {}
    exec((ROOT / 'mmdiverse' / 'version.py').read_text(encoding='utf-8'), scope)
    return scope['__version__']


def read_requirements(name: str) -> list[str]:
    lines = (ROOT / 'requirements' / f'{name}.txt').read_text(encoding='utf-8').splitlines()
    return [line.strip() for line in lines if line.strip() and not line.startswith('#')]


def extras() -> list[str]:
    files = (ROOT / 'requirements').glob('*.txt')
    return sorted({path.stem for path in files} - {'runtime', 'constraints'})


def copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns('__pycache__'))
    else:
        shutil.copy2(source, target)


def link(source: Path, target: Path) -> None:
    try:
        target.symlink_to(os.path.relpath(source, target.parent), source.is_dir())
    except OSError:  # Windows without the privilege to create links
        copy(source, target)


def fill_mim(package_dir: Path, place) -> None:
    """Puts the contents of ``.mim`` under ``package_dir`` afresh, with ``place`` (copy or link)."""
    mim = package_dir / '.mim'
    if mim.exists():
        shutil.rmtree(mim)  # removes links themselves, never what they point to
    mim.mkdir(parents=True)
    for name in MIM_CONTENTS:
        place(ROOT / name, mim / name)


class BuildPyWithMim(build_py):
    """Copies ``.mim`` into a wheel; links it in the source tree of an editable install."""

    def run(self) -> None:
        if getattr(self, 'editable_mode', False):  # since setuptools 64
            super().run()
            fill_mim(ROOT / 'mmdiverse', link)
        else:
            package = Path(self.build_lib, 'mmdiverse')
            if package.exists():  # of an earlier build, perhaps with modules that are gone since
                shutil.rmtree(package)
            super().run()
            fill_mim(package, copy)


if 'develop' in sys.argv:  # by which older pips install editably, and which runs no build_py
    fill_mim(ROOT / 'mmdiverse', link)

setup(
    name='mmdiverse',
    version=read_version(),
    description='Diversity regularizers for the vision transformers of MMPretrain',
    long_description=(ROOT / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    author='The mmdiverse authors',
    license_expression='Apache-2.0',
    keywords=['vision transformer', 'regularization', 'diversity', 'redundancy', 'MMPretrain'],
    packages=find_packages(include=['mmdiverse', 'mmdiverse.*']),
    include_package_data=True,
    python_requires='>=3.10',
    install_requires=read_requirements('runtime'),
    extras_require={name: read_requirements(name) for name in extras()},
    cmdclass={'build_py': BuildPyWithMim},
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Science/Research',
        'Operating System :: OS Independent',
        'Programming Language :: Python :: 3 :: Only',
        'Programming Language :: Python :: 3.11',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
    ],
    zip_safe=False,
)
