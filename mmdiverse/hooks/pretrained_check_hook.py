"""The hook that makes a half-loaded backbone an error."""
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ..registry import HOOKS
from ..transfer import (
    WeightFit,
    check_loaded,
    check_transfer,
    describe_failures,
    pretrained_of,
)


@HOOKS.register_module()
class PretrainedCheckHook(Hook):
    """Makes sure, before training, that a checkpoint fills the backbone of a detector or segmentor.

    MMEngine loads what has the same key and logs the rest: a wrong prefix, another architecture or
    a changed window trains from random weights. Here each is an error, as is a ViT that gives no
    feature maps. See :func:`mmdiverse.transfer.check_transfer`.

    Runs that start from a whole checkpoint (``load_from``, ``resume``) are not looked at, nor is a
    backbone without ``init_cfg``.

    Raises:
        ValueError: If a weight of the backbone is missing from the checkpoint of its ``init_cfg``,
            has another shape, or one of the checkpoint has no place.
        RuntimeError: If the backbone was loaded and changed afterwards.

    Example:
        >>> custom_hooks = [dict(type='mmdiverse.PretrainedCheckHook')]
    """

    def __init__(self) -> None:
        self._fits: list[WeightFit] = []

    def before_run(self, runner: Runner) -> None:
        """Compare the checkpoint with the config, before it is loaded."""
        self._fits = []
        self.checkpoint = pretrained_of(runner.cfg)
        if self.checkpoint is None or runner._resume or runner._load_from:
            return
        self._fits = check_transfer(runner.cfg)
        failures = describe_failures(self._fits, self.checkpoint)
        if failures:
            raise ValueError(failures)

    def before_train(self, runner: Runner) -> None:
        """Compare the model with the checkpoint, now that it is loaded."""
        if self._fits:
            model = getattr(runner.model, 'module', runner.model)
            check_loaded(model.backbone, self._fits, self.checkpoint)
            runner.logger.info(f'Backbone: {sum(fit.status == "loaded" for fit in self._fits)} '
                               f'weights of {self.checkpoint}')
