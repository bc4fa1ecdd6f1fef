"""Registries of mmdiverse, under the scope ``mmdiverse``.

MMEngine imports this module by itself the first time a config says ``type='mmdiverse.X'``, so a
config of MMPretrain, MMDetection or MMSegmentation needs no ``custom_imports``.

``LOSSES`` and ``TAPS`` are roots of their own: a diversity loss is a formula over records and a
tap reads a backbone, neither is a model that another library could build.
"""
import mmpretrain.registry as host
from mmengine.registry import Registry

from .spelling import find_closest

SCOPE = 'mmdiverse'


class ScopedRegistry(Registry):
    """A registry of this scope that also finds what MMPretrain registered.

    MMEngine builds everything in a config that is inherited by ``_base_ = 'mmdiverse::...'`` in
    this scope, though most of its types are MMPretrain's. The registries cannot simply be
    children of MMPretrain's: MMEngine looks for ``mmdiverse.X`` among the children of its roots.

    Args:
        counterpart (Registry): MMPretrain's registry of the same kind.
        locations (list[str]): Modules to import before the first look.
    """

    def __init__(self, counterpart: Registry, locations: list[str] | None = None) -> None:
        super().__init__(counterpart.name, parent=counterpart.root, scope=SCOPE,
                         # With none, MMEngine would look for mmdiverse.utils.
                         locations=locations or [__name__])
        self.counterpart = counterpart

    def __contains__(self, key: str) -> bool:
        try:
            return super().__contains__(key)
        except KeyError:
            return False

    def get(self, key: str) -> type | None:
        """The class of a name; one without scope may be MMPretrain's.

        Raises:
            KeyError: If there is none; it says which may be meant.
        """
        if '.' in key or key in self.module_dict:  # a path may be one of Python
            return super().get(key)
        self.import_from_location()
        found = super().get(key) if key in self.module_dict else self.counterpart.get(key)
        if found is None:
            meant = self.name_meant_by(key)
            question = f'; did you mean {meant!r}?' if meant else \
                f'; its own are {sorted(self.module_dict)}' if self.module_dict else ''
            raise KeyError(f'mmdiverse has no {self.name} {key!r}{question}')
        return found

    def name_meant_by(self, key: str) -> str | None:
        """The name that is spelt most like a wrong one, as a config should give it.

        Args:
            key (str): Without scope.

        Returns:
            str, optional: With scope if it is of mmdiverse; None where no name is close.
        """
        self.import_from_location()
        known = {name: name for registry in (self.counterpart, self.counterpart.root)
                 for name in registry.module_dict}
        known.update({name: f'{SCOPE}.{name}' for name in self.module_dict})
        closest = find_closest(key, known)
        return None if closest is None else known[closest]


HOOKS = ScopedRegistry(host.HOOKS, ['mmdiverse.hooks'])
MODELS = ScopedRegistry(host.MODELS, ['mmdiverse.mixing', 'mmdiverse.necks'])
METRICS = ScopedRegistry(host.METRICS, ['mmdiverse.evaluation'])
DATASETS = ScopedRegistry(host.DATASETS, ['mmdiverse.datasets'])
TRANSFORMS = ScopedRegistry(host.TRANSFORMS, ['mmdiverse.datasets'])
BATCH_AUGMENTS = ScopedRegistry(host.BATCH_AUGMENTS, ['mmdiverse.mixing'])
OPTIM_WRAPPERS = ScopedRegistry(host.OPTIM_WRAPPERS, ['mmdiverse.optim'])

#: The kinds of which mmdiverse registers something.
OWN = (HOOKS, MODELS, METRICS, DATASETS, TRANSFORMS, BATCH_AUGMENTS, OPTIM_WRAPPERS)

#: The kinds of which mmdiverse registers nothing; made so that its scope knows them.
INHERITED = [ScopedRegistry(registry) for name, registry in vars(host).items()
             if isinstance(registry, Registry) and registry.scope == 'mmpretrain'
             and name not in globals()]

LOSSES = Registry('diversity loss', scope=SCOPE, locations=['mmdiverse.losses'])
TAPS = Registry('tap', scope=SCOPE, locations=['mmdiverse.taps'])
