"""Registries of mmdiverse, under the scope ``mmdiverse``.

MMEngine imports this module by itself the first time a config says ``type='mmdiverse.X'``, so a
config of MMPretrain, MMDetection or MMSegmentation needs no ``custom_imports``.

``LOSSES`` and ``TAPS`` are roots of their own: a diversity loss is a formula over records and a
tap reads a backbone, neither is a model that another library could build.
"""
from mmengine.registry import DATASETS as MMENGINE_DATASETS
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.registry import Registry
from mmpretrain.registry import BATCH_AUGMENTS as MMPRETRAIN_BATCH_AUGMENTS

SCOPE = 'mmdiverse'

HOOKS = Registry('hook', parent=MMENGINE_HOOKS, scope=SCOPE, locations=['mmdiverse.hooks'])
MODELS = Registry('model', parent=MMENGINE_MODELS, scope=SCOPE, locations=['mmdiverse.mixing'])
DATASETS = Registry('dataset', parent=MMENGINE_DATASETS, scope=SCOPE,
                    locations=['mmdiverse.datasets'])
BATCH_AUGMENTS = Registry('batch augment', parent=MMPRETRAIN_BATCH_AUGMENTS, scope=SCOPE,
                          locations=['mmdiverse.mixing'])
LOSSES = Registry('diversity loss', scope=SCOPE, locations=['mmdiverse.losses'])
TAPS = Registry('tap', scope=SCOPE, locations=['mmdiverse.taps'])
