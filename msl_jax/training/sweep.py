"""A sweep: trains its missing runs as processes of `msl_jax.main`, then compares all of them."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
from typing import Any, Literal

from etils import epath
import jax
from matplotlib.figure import Figure
from ml_collections import ConfigDict
import numpy as np

from msl_jax import plugins
from msl_jax.data.builder import Dataset
from msl_jax.errors import InputError, warn_all
from msl_jax.evaluation import comparison
from msl_jax.evaluation.comparison import Finished, Run
from msl_jax.experiments.cautions import outside_folds
from msl_jax.experiments.opening import open_experiment
from msl_jax.experiments.planning import lines
from msl_jax.inference.segmenter import load_network
from msl_jax.methods.table import METHODS
from msl_jax.pictures import charts, plots
from msl_jax.runs import lock
from msl_jax.runs.config import check_resumable, read
from msl_jax.settings.auto import OF_THE_MACHINE, numbers_for, unsettled, with_values
from msl_jax.system import signals
from msl_jax.system.machine import machine_of_a_child
from msl_jax.system.paths import check_name
from msl_jax.training import transfer

LOG = "train.log"
WAIT = 0.2  # seconds between two polls of the children


@dataclasses.dataclass(frozen=True)
class Share:
    """The cores and GPUs of one run at a time; empty for all that the parent has."""

    cores: tuple[int, ...] = ()
    gpus: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Child:
    """A run as a process of `main`; `name` stands for it in printed lines."""

    run: Run
    name: str
    share: Share
    log: pathlib.Path
    process: subprocess.Popen
    started: float


def train_and_compare(
    workdir: str | os.PathLike[str],
    runs: Sequence[Run],
    config: ConfigDict,
    flags_of: Callable[[Run], list[str]],
    *,
    parallel: int = 1,
    part: slice = slice(None),
) -> list[Run]:
    """Trains the missing runs, then writes the tables and figures of all finished runs.

    Args:
      workdir: the sweep's folder, with a folder for each run.
      runs: all runs of the sweep, as returned by `runs_of`.
      config: the experiment that they share.
      flags_of: run -> flags of `main`, without --workdir.
      parallel: how many runs are trained at once.
      part: which of `runs` are trained here.

    Returns:
      The runs that failed.

    Raises:
      InputError: a run's settings, a file or a folder is invalid, or another process is training a run.
      Interrupted: SIGINT or SIGTERM was received.
    """
    jax.config.update("jax_platforms", "cpu")  # leaves the accelerators to the runs
    if "://" in os.fspath(workdir):
        raise InputError(f"--workdir={workdir}: a sweep needs a local or mounted folder; give one.")
    folder = pathlib.Path(workdir)
    check_name(folder)
    if config.data.fold and runs[0].fold:
        raise InputError(
            f"config.data.fold: is {config.data.fold}, but --folds trains all folds; leave one of them out."
        )
    machine = shares(parallel)
    values = settled_values(config, folder, runs, machine[0])
    config = with_values(config, values)
    opened = {run: open_experiment(with_values(config, settings_of(run))) for run in runs}
    warn_all(outside_folds(opened[runs[0]]))

    def done() -> list[Run]:
        return [run for run in runs if is_done(folder / run.folder, opened[run].config)]

    def finished() -> list[Finished]:
        return [comparison.read(folder / run.folder, run) for run in done()]

    def write() -> str:
        results = finished()
        return comparison.write(folder, results, [run for run in runs if run not in [f.run for f in results]])

    before = done()
    missing = [run for run in runs[part] if run not in before]
    for run in missing:
        transfer.check(opened[run].config, folder / run.folder)
    print(f"{len(runs)} runs in {folder}, {len(before)} of them done; {len(missing)} to train here", flush=True)
    settled = [f"--config.{key}={value}" for key, value in values.items()]
    failed = train(folder, missing, lambda run: [*flags_of(run), *settled], machine, after_each=write)
    if done():
        print(f"\n{write()}", flush=True)
        draw(folder, finished(), opened[runs[0]].data)
        print(f"Written to {folder}")
    if failed:
        print(f"msl_jax: {len(failed)} of {len(missing)} runs failed; rerun the command to retry.", file=sys.stderr)
    return failed


def runs_of(
    names: Sequence[str], strong: Sequence[int | Literal["all"]], seeds: Sequence[int], folds: int | None = None
) -> list[Run]:
    """The runs in the order of training: all runs of the first seed come first, and each run once.

    Args:
      names: methods.
      strong: numbers of strong patients, or "all".
      seeds: seeds.
      folds: number of folds of a cross-validation; None for the config's own test split.

    Raises:
      InputError: methods would be compared that divide different patients into folds.
    """
    take_all = [name for name in names if name in METHODS and METHODS[name].all_strong]
    few = [n for n in strong if n != "all"]
    if folds and take_all and few:
        raise InputError(
            f"--folds={folds}: {take_all[0]} would divide all masks into folds, --strong={few[0]} only some of them; "
            f"leave {take_all[0]} out, or give --strong=all."
        )
    parts = [f"{index}/{folds}" for index in range(folds)] if folds else [None]
    runs = (
        Run(name, None if name in take_all else n, seed, part)
        for seed in seeds
        for n in strong
        for name in names
        for part in parts
    )
    return list(dict.fromkeys(runs))


def settings_of(run: Run) -> dict[str, Any]:
    """The settings that distinguish this run: key of the config -> value."""
    strong = {} if run.strong is None else {"data.strong": run.strong}
    fold = {"data.fold": run.fold} if run.fold else {}
    return {"method.name": run.method, "seed": run.seed, **strong, **fold}


def settled_values(config: ConfigDict, sweep: pathlib.Path, runs: Sequence[Run], share: Share) -> dict[str, Any]:
    """The values of all runs for "auto", if some of them follow from the machine: setting -> value.

    They are those of the first run that exists, or else follow from the share of the machine that a run gets.
    """
    if not set(OF_THE_MACHINE) & set(unsettled(config)):
        return {}
    for run in runs:
        if (sweep / run.folder / "config.json").exists():
            return numbers_for(config, read(sweep / run.folder))
    opened = open_experiment(with_values(config, settings_of(runs[0])), machine_of_a_child(_environment(share)))
    print("\n".join(lines(opened.settled)), flush=True)
    return numbers_for(config, opened.config)


def is_done(folder: pathlib.Path, wanted: ConfigDict) -> bool:
    """Whether a run has results with the evaluation settings of the filled-in config, except for its batch.

    Raises:
      InputError: the folder contains a run with other settings.
    """
    if (folder / "config.json").exists():
        check_resumable(read(folder), json.loads(wanted.to_json()), folder)
    results = folder / "results" / "test.json"
    if not results.exists():
        return False
    found = json.loads(results.read_text(encoding="utf-8"))
    by_older_versions = {"postprocess": {"setting": "none"}, "mirror": False, "protocol": "native"}
    found = by_older_versions | found
    found["postprocess"] = found["postprocess"]["setting"]
    return all(found[key] == wanted.eval[key] for key in ("checkpoint", *by_older_versions))


def shares(parallel: int) -> list[Share]:
    """Divides cores and GPUs evenly among parallel runs; a single run gets the whole machine.

    Raises:
      InputError: there are fewer cores or GPUs than runs.
    """
    if parallel == 1:
        return [Share()]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    gpus = _gpus()
    for kind, devices in (("CPU cores", cores), ("GPUs", gpus)):
        if devices and len(devices) < parallel:
            raise InputError(f"--parallel={parallel}: there are {len(devices)} {kind}; give at most as many.")
    return [Share(tuple(cores[i::parallel]), tuple(gpus[i::parallel])) for i in range(parallel)]


def draw(sweep: pathlib.Path, finished: Sequence[Finished], data: Dataset) -> None:
    """Writes dice.png and terms.png of finished runs, and methods.png of those with checkpoints; all folds or none."""
    finished = comparison.whole(finished)
    if not finished:
        return
    plots.save(charts.dice_by_strong(comparison.compare(comparison.pooled(finished))), sweep / "dice.png")
    selected = comparison.fewest_strong(finished)
    reports: dict[str, list[Any]] = {}
    for result in selected:
        reports.setdefault(result.run.method, []).append(result.reports)
    plots.save(charts.terms(reports), sweep / "terms.png")
    loadable = [result for result in selected if (sweep / result.run.folder / "checkpoints").exists()]
    first_seed = comparison.whole([result for result in loadable if result.run.seed == loadable[0].run.seed])
    if first_seed:
        plots.save(_methods_figure(sweep, first_seed, data), sweep / "methods.png")


def _methods_figure(sweep: pathlib.Path, finished: Sequence[Finished], data: Dataset) -> Figure:
    name = comparison.median_case(comparison.pooled(finished))
    case = data.case(next(entry for entry in data.entries if entry.name == name))
    predictions, foreground = {}, {}
    tested = [result for result in finished if name in {row["case"] for row in result.cases}]  # not in other folds
    for result in tested:
        segmenter, variables, _ = load_network(epath.Path(sweep / result.run.folder), result.results["checkpoint"])
        dice = [f"{branch} {100 * result.case_dice(branch)[name]:.1f}" for branch in segmenter.branches]
        row = "\n".join([result.run.method, *dice])
        predictions[row], foreground[row] = segmenter.classes_and_foreground(variables, case.image, case.spacing)
    reference = segmenter.preparation.reference(np.asarray(case.mask))
    strong = comparison.strong_text(comparison.fewest(finished))
    title = f"{name}, strong patients: {strong}, seed {finished[0].run.seed}, Dice % of the case"
    return plots.methods(case.image[..., 0], reference, predictions, foreground, title, case.spacing)


def train(
    sweep: pathlib.Path,
    runs: Sequence[Run],
    flags_of: Callable[[Run], list[str]],
    machine: Sequence[Share],
    after_each: Callable[[], object],
) -> list[Run]:
    """Trains runs as processes of `main`, as many at once as there are shares. They end when this process ends.

    Args:
      sweep: the sweep's folder.
      runs: the runs, in order.
      flags_of: run -> flags of `main`, without --workdir.
      machine: the shares, one for each run at a time.
      after_each: called after each run that succeeds.

    Returns:
      The runs that failed.

    Raises:
      InputError: another process is training one of them.
      Interrupted: SIGINT or SIGTERM was received.
    """
    waiting = deque(enumerate(runs, start=1))
    running: list[Child] = []
    free, failed = list(machine), []
    with signals.collected() as received:
        try:
            while waiting or running:
                if received:
                    raise signals.Interrupted(f"{sweep}: stopped; rerun the same command to resume.", received[0])
                while waiting and free:
                    index, run = waiting.popleft()
                    name = f"[{index}/{len(runs)}] {run.folder}"
                    running.append(_start(run, name, sweep / run.folder, flags_of(run), free.pop(0)))
                time.sleep(WAIT)
                for child in [child for child in running if child.process.poll() is not None]:
                    running.remove(child)
                    free.append(child.share)
                    _print_end(child)
                    if child.process.returncode:
                        failed.append(child.run)
                    else:
                        after_each()
        finally:
            for child in running:
                child.process.terminate()
            for child in running:
                child.process.wait()
    return failed


def _start(run: Run, name: str, folder: pathlib.Path, main_flags: Sequence[str], share: Share) -> Child:
    argv = [sys.executable, "-m", "msl_jax.main", *main_flags, f"--workdir={folder}"]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOG).open("ab") as log, _on_cores(share.cores):
        # The child inherits the lock and keeps it even if this process is killed.
        lock.take(
            log.fileno(),
            f"{folder}: another process is training this run; wait for it, or divide a sweep with --share.",
        )
        process = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, env=_environment(share)
        )
    print(f"{name}: started", flush=True)
    return Child(run, name, share, folder / LOG, process, time.monotonic())


def _environment(share: Share) -> dict[str, str]:
    """The environment variables of a run's process."""
    return os.environ | ({"CUDA_VISIBLE_DEVICES": ",".join(share.gpus)} if share.gpus else {})


def _print_end(child: Child) -> None:
    minutes = f"{(time.monotonic() - child.started) / 60:.1f} min"
    if child.process.returncode == 0:
        print(f"{child.name}: done in {minutes}", flush=True)
    else:
        lines = child.log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no output"]
        print(f"{child.name}: FAILED after {minutes}: {lines[-1].strip()} (see {child.log})", flush=True)


@contextlib.contextmanager
def _on_cores(cores: Sequence[int]) -> Iterator[None]:
    """Processes started within use only these cores; without `cores`, all of them."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _gpus() -> list[str]:
    """The NVIDIA GPUs, as CUDA_VISIBLE_DEVICES names them; listed by the driver, so that none is initialised."""
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        return [gpu for gpu in os.environ["CUDA_VISIBLE_DEVICES"].split(",") if gpu]
    if not shutil.which("nvidia-smi"):
        return []
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout
    return [str(index) for index in range(len(re.findall("^GPU ", listed, re.MULTILINE)))]


def numbers(flag: str, values: Sequence[str], or_word: str = "") -> list[Any]:
    """The values of a flag as integers, or as the one word that it also takes.

    Raises:
      InputError: there are no values, or other ones.
    """
    if not values or not all(value.isdecimal() or value == or_word for value in values):
        other = f" or {or_word}" if or_word else ""
        raise InputError(f"--{flag}={','.join(values)}: give whole numbers{other} separated by commas, like 0,1,2.")
    return [value if value == or_word else int(value) for value in values]


def part_of(text: str) -> slice:
    """The runs that --share=I/N selects from the list."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise InputError(f"--share={text}: give I/N, this host's number (1 to N) and the number of hosts, like 1/4.")
    return slice(int(match[1]) - 1, None, int(match[2]))


def flags_of(run: Run, config: str, settings: Mapping[str, Any]) -> list[str]:
    """The flags of `main` for a run, without --workdir.

    Args:
      run: the run.
      config: value of --config.
      settings: settings of all runs; `settings_of(run)` overrides them.
    """
    return [
        *([plugins.flag()] if plugins.LOADED else []),
        f"--config={config}",
        *(f"--config.{key}={value}" for key, value in {**settings, **settings_of(run)}.items()),
    ]
