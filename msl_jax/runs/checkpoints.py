"""A run's checkpoints with Orbax: the newest few, and the best by validation Dice.

A checkpoint has two items, so that prediction reads what it needs alone: "network" (parameters and batch statistics)
and "training" (step, optimizer state and the running sums of the report). With them goes a checksum of each item's
arrays, since Orbax gives back other numbers without a word where a bit of them was flipped on disk.
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
"""Folder of a run that takes the checkpoints which could not be read."""


class Damaged(Exception):
    """A checkpoint cannot be read back as it was saved."""


def open_manager(workdir: epath.Path, keep: int | None = None) -> ocp.CheckpointManager:
    """Opens `workdir`/checkpoints, read-only unless `keep` says how many of the newest to keep.

    Raises:
      InputError: the metrics of a checkpoint, by which the best is found, are damaged.
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
    """Begins to save the two items as `step`, in the background; `dice` where the step was validated.

    Raises:
      InputError: the checkpoint before could not be written.
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
    """Waits until all is written; raises InputError where it cannot be."""
    with _writing(manager):
        manager.wait_until_finished()


def restore(manager: ocp.CheckpointManager, step: int, **abstract: Any) -> dict[str, Any]:
    """Reads the items named, each in the shapes, dtypes and shardings of its abstract tree.

    Raises:
      Damaged: an item cannot be read, or is not what was saved.
    """
    items = {name: ocp.args.StandardRestore(tree) for name, tree in abstract.items()}
    try:
        restored = manager.restore(step, args=ocp.args.Composite(**items))
        saved = (manager.metadata(step).custom_metadata or {}).get(CHECKSUMS, {})
    except Exception as error:  # Orbax and TensorStore raise a dozen kinds
        raise Damaged(_short(error)) from error
    for name in abstract:
        if saved.get(name, _checksum(restored[name])) != _checksum(restored[name]):
            raise Damaged(f"its {name} is not what was saved")
    return {name: restored[name] for name in abstract}


def restore_newest(
    manager: ocp.CheckpointManager, abstract_of: Callable[[int], Mapping[str, Any]]
) -> tuple[int, dict[str, Any]]:
    """The newest checkpoint that can be read, of at least one.

    Warns of those that cannot, on standard error.

    Args:
      manager: of the run.
      abstract_of: step -> the items wanted, as for `restore`.

    Returns:
      The step and its items.

    Raises:
      InputError: none can be read.
    """
    damaged: dict[int, Damaged] = {}
    for step in sorted(manager.all_steps(), reverse=True):
        try:
            items = restore(manager, step, **abstract_of(step))
        except Damaged as error:
            damaged[step] = error
            continue
        for newer, fault in damaged.items():
            print(
                f"warning: {manager.directory / str(newer)}: is damaged ({fault}); "
                f"{manager.directory / str(step)} before it is taken.",
                file=sys.stderr,
            )
        return step, items
    (newest, fault), *_ = damaged.items()
    raise InputError(
        f"{manager.directory}: each of its {len(damaged)} checkpoints is damaged, {newest} because {fault}; "
        "put a copy in place, or train anew in another --workdir."
    )


def load(manager: ocp.CheckpointManager, which: str, **abstract: Any) -> tuple[int, dict[str, Any]]:
    """The step of the "last" or the "best" checkpoint and the items named; of a damaged last one, the one before it.

    Raises:
      InputError: there is none of that kind, or none that can be read.
    """
    step = choose(manager, which)
    if which == "last":
        return restore_newest(manager, lambda step: abstract)
    try:
        return step, restore(manager, step, **abstract)
    except Damaged as error:
        raise InputError(
            f"{manager.directory / str(step)}: the best checkpoint is damaged ({error}); take the last one by "
            "--config.eval.checkpoint=last."
        ) from error


def set_aside(manager: ocp.CheckpointManager, step: int) -> None:
    """Moves the checkpoints after `step` to a folder beside theirs, so that a run can go on from `step`."""
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
        raise InputError(f"{manager.directory}: holds no {which} checkpoint; train the run first, or longer.")
    return step


@contextlib.contextmanager
def _writing(manager: ocp.CheckpointManager) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of a full disk, Orbax raises what TensorStore said, as a ValueError
        raise InputError(
            f"{manager.directory}: a checkpoint cannot be written ({_short(error)}); make room, and the same command "
            "goes on from the one before."
        ) from error


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _checksum(tree: Any) -> int:
    """CRC-32 over the bytes of a tree's arrays, in JAX's order of its leaves."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        total = zlib.crc32(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data, total)
    return total


def _check_metrics(folder: epath.Path) -> None:
    """Orbax reads the metrics of every step as it opens a folder, and fails where one is no JSON."""
    for path in folder.glob(f"*/{METRICS}/{METRICS}"):
        try:
            json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(
                f"{path}: is damaged ({error}); take the folder {path.parent} away, and its step is no candidate for "
                "the best any more."
            ) from error
