import json
import shutil

from etils import epath
import numpy as np
import pytest

from msl_jax.data.case import Case
from msl_jax.data.formats.orientation import UNTURNED
from msl_jax.data.protocols import papers
from msl_jax.errors import InputError, OddInput
from msl_jax.evaluation.results import score
from msl_jax.evaluation.test_split import case_to_score, load_for, score_test
from msl_jax.experiments.opening import open_experiment
from msl_jax.labels import UNLABELED

ARG = "method=kl_ent,strong=2,seed=1"


def test_the_papers_protocol_scores_every_slice_at_the_networks_size():
    """4 x 4 -> 8 x 8: labels are repeated; a linear ramp stays linear between the outermost pixel centres."""
    mask = np.random.default_rng(0).choice([0, 3, UNLABELED], (5, 4, 4)).astype(np.uint8)
    ramp = np.broadcast_to(np.arange(4, dtype=np.float32)[None, None, :, None], (5, 4, 4, 1))
    case = papers(Case("a", "a", ramp, mask, None, (5.0, 1.4, 1.4), "mm"), (8, 8))
    assert case.spacing == (1.0, 1.0, 1.0) and case.units == "voxel"
    np.testing.assert_array_equal(case.mask, mask.repeat(2, 1).repeat(2, 2))
    expected = np.clip((np.arange(8) + 0.5) / 2 - 0.5, 0, 3)
    np.testing.assert_allclose(case.image[..., 0], np.broadcast_to(expected, (5, 8, 8)), atol=1e-6)


@pytest.fixture(scope="module")
def run(untrained):
    return untrained(ARG)


@pytest.fixture
def stretched(run, tmp_path):
    """The run as one that stretches slices to the network's size."""
    folder = epath.Path(tmp_path / "run")
    shutil.copytree(run, folder)
    config = json.loads((folder / "config.json").read_text())
    config["data"]["spacing"] = "stretch"
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_a_run_is_scored_by_the_protocol_of_the_config(tiny_config, run, stretched):
    config = tiny_config(ARG)
    config.eval.protocol = "papers"
    experiment = open_experiment(config)
    with pytest.raises(InputError, match=r"eval.protocol: is papers, which stretches slices, but the run resamples"):
        load_for(experiment, run)
    segmenter, variables, turn = load_for(experiment, stretched)
    summary, rows = score_test(experiment, segmenter, variables, turn)
    assert (summary["protocol"], summary["units"], summary["cases"]) == ("papers", "voxel", len(rows) / 2)
    case = case_to_score(experiment, experiment.entries(experiment.split["test"])[0], (32, 32))
    prediction = segmenter.label_map(segmenter.probabilities(variables, case.image, case.spacing)["student"])
    scores = score(prediction, np.where(case.mask == 3, 3, 0), {"LV": 3}, (1.0, 1.0, 1.0))
    assert prediction.shape[1:] == (32, 32)
    assert scores == next(r["scores"] for r in rows if (r["case"], r["branch"]) == (case.name, "student"))


def test_a_run_with_other_label_values_predicts_those_of_the_experiment(tiny_config, run, tmp_path):
    other = epath.Path(tmp_path / "run")
    shutil.copytree(run, other)
    config = json.loads((other / "config.json").read_text())
    config["data"]["classes"] = {"LV": 7}
    (other / "config.json").write_text(json.dumps(config))
    segmenter, *_ = load_for(open_experiment(tiny_config(ARG)), other)
    assert segmenter.preparation.values == (0, 3)
    with pytest.raises(InputError, match=r"has classes \['LV'\], the experiment \['RV', 'MYO', 'LV'\]"):
        load_for(open_experiment(tiny_config(f"{ARG},classes=all")), other)


def test_a_run_is_scored_with_the_experiments_mirroring(tiny_config, run):
    config = tiny_config(ARG)
    assert not load_for(open_experiment(config), run)[0].mirror
    config.eval.mirror = True
    assert load_for(open_experiment(config), run)[0].mirror


def test_a_run_without_directions_warns_if_the_experiment_has_them(tiny_config, run, recwarn):
    """There is no warning if neither has directions, as with phantoms."""
    experiment = open_experiment(tiny_config(ARG))
    load_for(experiment, run)
    assert not [warning for warning in recwarn if issubclass(warning.category, OddInput)]
    with experiment.config.unlocked():
        experiment.config.data.directions = np.eye(3).tolist()
    *_, turn = load_for(experiment, run)
    (message,) = (str(warning.message) for warning in recwarn if issubclass(warning.category, OddInput))
    assert turn == UNTURNED and message.startswith(f"{run}: the orientation of the run's images is unknown")
