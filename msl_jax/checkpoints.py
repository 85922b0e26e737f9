"""A run's checkpoints with Orbax: the newest few, and the best by validation Dice.

A checkpoint has two items, so that prediction reads what it needs alone: "network" (parameters and batch statistics)
and "training" (step, optimizer state and the running sums of the report).
"""

from typing import Any

from etils import epath
import orbax.checkpoint as ocp

from msl_jax.checks import Refused

METRIC = "validation_dice"
ITEMS = ("network", "training")


def open_manager(workdir: epath.Path, keep: int | None = None) -> ocp.CheckpointManager:
    """Opens `workdir`/checkpoints, read-only unless `keep` says how many of the newest to keep."""
    policies = ocp.checkpoint_managers
    options = ocp.CheckpointManagerOptions(
        best_fn=lambda metrics: metrics[METRIC],
        preservation_policy=policies.AnyPreservationPolicy(
            [
                policies.LatestN(n=keep),
                policies.BestN(
                    get_metric_fn=lambda metrics: metrics[METRIC], n=1, keep_checkpoints_without_metrics=False
                ),
            ]
        ),
        read_only=keep is None,
        create=keep is not None,
    )
    folder = epath.Path(workdir).resolve() / "checkpoints"  # Orbax wants absolute paths
    return ocp.CheckpointManager(folder, options=options, item_names=ITEMS)


def save(manager: ocp.CheckpointManager, step: int, network: Any, training: Any, dice: float | None) -> None:
    """Begins to save the two items as `step`, in the background; `dice` where the step was validated."""
    manager.save(
        step,
        args=ocp.args.Composite(network=ocp.args.StandardSave(network), training=ocp.args.StandardSave(training)),
        metrics=None if dice is None else {METRIC: dice},
    )


def restore(manager: ocp.CheckpointManager, step: int, **abstract: Any) -> dict[str, Any]:
    """Reads the items named, each in the shapes, dtypes and shardings of its abstract tree."""
    items = {name: ocp.args.StandardRestore(tree) for name, tree in abstract.items()}
    restored = manager.restore(step, args=ocp.args.Composite(**items))
    return {name: restored[name] for name in abstract}


def choose(manager: ocp.CheckpointManager, which: str) -> int:
    """The step of the "last" or the "best" checkpoint.

    Raises:
      Refused: there is no checkpoint of that kind.
    """
    step = manager.latest_step() if which == "last" else manager.best_step()
    if step is None:
        raise Refused(f"{manager.directory}: holds no {which} checkpoint; train the run first, or longer.")
    return step
