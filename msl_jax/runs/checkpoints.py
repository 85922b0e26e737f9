"""A run's checkpoints with Orbax: the newest few, and the best by validation Dice.

A checkpoint has two items, so that prediction reads only what it needs: "network" (parameters and batch statistics,
averaged if config.train.average is set) and "training" (step, optimizer state, the running sums of the report, and the
variables themselves if "network" is their average). A checksum of each item's arrays is saved as well, because Orbax
does not detect bits that were flipped on disk.
"""

from collections.abc import Callable, Iterator, Mapping
import contextlib
import json
import sys
from typing import Any
import zlib

from etils import epath
import jax
import numpy as np
import orbax.checkpoint as ocp

from msl_jax.errors import InputError

METRIC = "validation_dice"
METRICS = "metrics"
ITEMS = ("network", "training")
CHECKSUMS = "crc32"
SET_ASIDE = "damaged_checkpoints"
"""Folder of a run for checkpoints that could not be read."""


class Damaged(Exception):
    """A checkpoint cannot be read, or differs from what was saved."""


def open_manager(workdir: epath.Path, keep: int | None = None) -> ocp.CheckpointManager:
    """Opens `workdir`/checkpoints: read-only, or for saving, where the `keep` newest and the best are kept.

    Raises:
      InputError: the metrics of a checkpoint, which select the best one, are damaged.
    """
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
    _check_metrics(folder)
    return ocp.CheckpointManager(folder, options=options, item_names=ITEMS)


def save(manager: ocp.CheckpointManager, step: int, network: Any, training: Any, dice: float | None) -> None:
    """Starts to save the two items as `step`, in the background; `dice` is None without validation at this step.

    Raises:
      InputError: this checkpoint, or the one before, cannot be written.
    """
    items = dict(zip(ITEMS, (network, training), strict=True))
    with _writing(manager):
        manager.save(
            step,
            args=ocp.args.Composite(**{name: ocp.args.StandardSave(item) for name, item in items.items()}),
            metrics=None if dice is None else {METRIC: dice},
            custom_metadata={CHECKSUMS: {name: _checksum(item) for name, item in items.items()}},
        )


def finish(manager: ocp.CheckpointManager) -> None:
    """Waits until everything is written; raises InputError if that fails."""
    with _writing(manager):
        manager.wait_until_finished()


def restore(manager: ocp.CheckpointManager, step: int, **abstract: Any) -> dict[str, Any]:
    """Reads the named items, each with the shapes, dtypes and shardings of its abstract tree.

    Raises:
      Damaged: an item cannot be read, or differs from what was saved.
    """
    items = {name: ocp.args.StandardRestore(tree) for name, tree in abstract.items()}
    try:
        restored = manager.restore(step, args=ocp.args.Composite(**items))
        saved = (manager.metadata(step).custom_metadata or {}).get(CHECKSUMS, {})
    except Exception as error:  # Orbax and TensorStore raise many types
        raise Damaged(_short(error)) from error
    for name in abstract:
        if saved.get(name, _checksum(restored[name])) != _checksum(restored[name]):
            raise Damaged(f"its {name} differs from what was saved")
    return {name: restored[name] for name in abstract}


def restore_newest(
    manager: ocp.CheckpointManager, abstract_of: Callable[[int], Mapping[str, Any]]
) -> tuple[int, dict[str, Any]]:
    """Reads the newest readable checkpoint of a run that has at least one; damaged ones give a warning on stderr.

    Args:
      manager: the run's checkpoint manager.
      abstract_of: step -> abstract trees of the items, as for `restore`.

    Returns:
      The step and its items.

    Raises:
      InputError: no checkpoint can be read.
    """
    damaged: dict[int, Damaged] = {}
    for step in sorted(manager.all_steps(), reverse=True):
        try:
            items = restore(manager, step, **abstract_of(step))
        except Damaged as error:
            damaged[step] = error
            continue
        for newer, reason in damaged.items():
            print(
                f"warning: {manager.directory / str(newer)}: is damaged ({reason}); "
                f"using the earlier {manager.directory / str(step)}.",
                file=sys.stderr,
            )
        return step, items
    (newest, reason), *_ = damaged.items()
    raise InputError(
        f"{manager.directory}: all {len(damaged)} checkpoints are damaged, {newest} because {reason}; "
        "restore a copy, or train in another workdir."
    )


def load(manager: ocp.CheckpointManager, which: str, **abstract: Any) -> tuple[int, dict[str, Any]]:
    """Reads the named items of the "last" or "best" checkpoint and returns its step; skips damaged ones for "last".

    Raises:
      InputError: there is no such checkpoint, or none can be read.
    """
    step = choose(manager, which)
    if which == "last":
        return restore_newest(manager, lambda step: abstract)
    try:
        return step, restore(manager, step, **abstract)
    except Damaged as error:
        raise InputError(
            f"{manager.directory / str(step)}: the best checkpoint is damaged ({error}); use the last one, "
            "config.eval.checkpoint=last."
        ) from error


def set_aside(manager: ocp.CheckpointManager, step: int) -> None:
    """Moves the checkpoints after `step` to the run's folder SET_ASIDE, so that the run can resume from `step`."""
    aside = manager.directory.parent / SET_ASIDE
    for newer in [other for other in manager.all_steps() if other > step]:
        aside.mkdir(exist_ok=True)
        if (aside / str(newer)).exists():
            (aside / str(newer)).rmtree()
        (manager.directory / str(newer)).rename(aside / str(newer))
    manager.reload()


def choose(manager: ocp.CheckpointManager, which: str) -> int:
    """The step of the "last" or the "best" checkpoint.

    Raises:
      InputError: there is no checkpoint of that kind.
    """
    step = manager.latest_step() if which == "last" else manager.best_step()
    if step is None:
        raise InputError(f"{manager.directory}: contains no {which} checkpoint; train the run first, or longer.")
    return step


@contextlib.contextmanager
def _writing(manager: ocp.CheckpointManager) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # on a full disk, Orbax raises TensorStore's message as a ValueError
        raise InputError(
            f"{manager.directory}: a checkpoint cannot be written ({_short(error)}); free some space, then rerun to "
            "resume from the previous one."
        ) from error


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _checksum(tree: Any) -> int:
    """CRC-32 over the bytes of a tree's arrays, in JAX's order of leaves."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        total = zlib.crc32(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data, total)
    return total


def _check_metrics(folder: epath.Path) -> None:
    """Checks that all metrics are JSON: Orbax reads those of every step when it opens a folder."""
    for path in folder.glob(f"*/{METRICS}/{METRICS}"):
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(
                f"{path}: is damaged ({error}); remove the folder {path.parent}, which excludes this step from the "
                "best checkpoint."
            ) from error
