"""The examples of docs/downstream.md run."""
from pathlib import Path

import pytest

from ..test_docs import OF_TOOLBOXES, run_examples, workplace  # noqa: F401  a fixture


def test_examples_run(workplace: Path, capsys: pytest.CaptureFixture) -> None:  # noqa: F811
    run_examples(OF_TOOLBOXES, capsys)
