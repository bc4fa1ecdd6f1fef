"""The models of this package by name, in MMPretrain's own list of models."""
from functools import cache
from os import PathLike
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.model import BaseModel
from mmpretrain.apis import model as host

from mmdiverse.config import CONFIGS


@cache
def register_models() -> None:
    """Enters the models of ``model-index.yml`` into MMPretrain's ``ModelHub``, once.

    From then on MMPretrain's own ``get_model``, ``list_models`` and ``ModelHub`` know them too.
    """
    # Without the prefix, MMPretrain looks for configs beside the metafile that names them.
    host.ModelHub.register_model_index(CONFIGS.parent / 'model-index.yml',
                                       config_prefix=CONFIGS.parent)


def list_models(pattern: str | None = None, exclude_patterns: list[str] | None = None,
                task: str | None = None) -> list[str]:
    """Names of the models of this package and of MMPretrain; ``mmpretrain.list_models``.

    Args:
        pattern (str, optional): Wildcard pattern of how names begin, such as ``'*diverse*'``.
        exclude_patterns (list[str], optional): Wildcard patterns of how names must not begin.
        task (str, optional): Only models with results in this task.
    """
    register_models()
    return host.list_models(pattern, exclude_patterns, task)


def get_model(model: str | PathLike | Config, pretrained: bool | str = False,
              **options: Any) -> BaseModel:
    """Build a model of this package or of MMPretrain; ``mmpretrain.get_model``.

    Args:
        model (str | PathLike | Config): A name of :func:`list_models`, a config or its path.
        pretrained (bool | str): Path or URL of weights to load, or True for the released ones.
            Defaults to False.
        **options: As for ``mmpretrain.get_model``: ``device``, and keys of the model's config.

    Returns:
        BaseModel: The model in evaluation mode.

    Raises:
        ValueError: If there is no such model, or ``pretrained=True`` and it has no weights.
    """
    register_models()
    if pretrained is True:  # MMPretrain would go on with random weights
        pretrained = _released_weights(model)
    return host.get_model(model, pretrained, **options)


def _released_weights(model: str | PathLike | Config) -> str:
    if isinstance(model, Config):
        name, weights = model.filename or 'this config', model.get('load_from')
    elif Path(model).suffix == '.py':
        name, weights = model, Config.fromfile(model).get('load_from')
    else:
        name, weights = model, host.ModelHub.get(model).weights
    if not weights:
        raise ValueError(f'pretrained=True, but there are no released weights of {name}: pass the '
                         'path or URL of a checkpoint as `pretrained`, or False for initial '
                         'weights')
    return weights
