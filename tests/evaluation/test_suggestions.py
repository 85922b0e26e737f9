import numpy as np
import pytest

from files import SIZES, arrays, save
from msl_jax.errors import InputError
from msl_jax.evaluation.suggestions import SHOWN, suggest, unannotated, uncertainty
from msl_jax.inference.segmenter import load_network
from processes import table

SURE, TORN = (0.0, 1.0, 0.0, 0.0), (0.5, 0.5, 0.0, 0.0)
BACKGROUND, SPREAD = (1.0, 0.0, 0.0, 0.0), (0.25, 0.25, 0.25, 0.25)

SPACING = SIZES[::-1]
"""Of files that `save` writes."""


def volume(*slices):
    """Probabilities (slice, 1, x, 4)."""
    return np.array(slices, np.float32)[:, None]


def test_entropy_is_that_of_the_student_where_either_branch_finds_structure():
    """The student's entropies are 0, 1/2 and 1 times log(4); the last voxel is excluded, because both branches label it
    as background. Its slice is still the most uncertain."""
    student = volume([SURE, BACKGROUND], [TORN, SPREAD])
    teacher = volume([SURE, BACKGROUND], [SURE, BACKGROUND])
    found = uncertainty([{"teacher": teacher, "student": student}])
    assert found.entropy == pytest.approx(0.25)
    assert found.slice == 1
    np.testing.assert_allclose(found.slice_entropy, [[0.5, 1.0]])
    assert found.disagreement == pytest.approx(1 / 3)  # 1 and 2 voxels of class 1, one of them both's
    assert found.score == pytest.approx((0.25 + 1 / 3) / 2)


def test_of_one_branch_the_score_is_the_entropy():
    found = uncertainty([{"teacher": volume([SURE, SURE, SURE, SPREAD])}])
    assert found.disagreement is None and found.score == found.entropy == 0.0


def test_finding_nothing_is_uncertain():
    nothing = volume([BACKGROUND, BACKGROUND])
    found = uncertainty([{"teacher": nothing, "student": nothing}])
    assert (found.entropy, found.disagreement, found.score) == (1.0, 0.0, 0.5)
    structure = uncertainty([{"teacher": volume([SURE, SURE]), "student": nothing}])
    assert (structure.entropy, structure.disagreement) == (0.0, 1.0)


def test_a_structure_that_no_branch_finds_is_not_agreement():
    two = (0.0, 0.0, 1.0, 0.0)
    found = uncertainty([{"teacher": volume([SURE, two]), "student": volume([SURE, SURE])}])
    assert found.disagreement == pytest.approx((1 / 3 + 1) / 2)


def test_slabs_of_a_volume_give_the_uncertainty_of_the_volume():
    """The worst slice is in the second slab."""
    student = volume([SURE, BACKGROUND], [TORN, SURE], [TORN, SPREAD])
    teacher = volume([SURE, BACKGROUND], [SURE, BACKGROUND], [SURE, BACKGROUND])
    slabs = [{"teacher": teacher[part], "student": student[part]} for part in (slice(0, 1), slice(1, 3))]
    whole, parts = uncertainty([{"teacher": teacher, "student": student}]), uncertainty(slabs)
    assert parts.slice == whole.slice == 2 and parts.score == whole.score
    for branch, expected in (("teacher", [[1, 0]]), ("student", [[0, 0]])):
        np.testing.assert_array_equal(parts.slice_classes[branch], expected)


LAYOUTS = {
    "folder": (("images/a", "images/a_b", "images/c"), ("masks/a", "annotations/c"), {"images/a_b"}),
    "nnunet": (("imagesTr/a_0000", "imagesTr/a_0001", "imagesTr/b_0000"), ("labelsTr/a",), {"imagesTr/b"}),
    "msd": (("imagesTr/a", "imagesTr/b"), ("labelsTr/b",), {"imagesTr/a"}),
    "acdc": (
        ("patient001/patient001_frame01", "patient001/patient001_frame12", "patient002/patient002_frame01"),
        ("patient001/patient001_4d", "patient001/patient001_frame12_gt", "patient002/patient002_frame01_scribble"),
        {"patient001/patient001_frame01"},
    ),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_images_with_annotations_are_skipped(tmp_path, layout):
    images, others, bare = LAYOUTS[layout]
    for name in (*images, *others):
        save(tmp_path / f"{name}.nii.gz", arrays("a")[0])
    assert set(unannotated(tmp_path, layout)) == bare


def test_a_folder_without_unannotated_images_is_refused(tmp_path):
    for name in ("images/a", "masks/a"):
        save(tmp_path / f"{name}.nii.gz", arrays("a")[0])
    with pytest.raises(InputError, match="all of its 1 images are annotated"):
        unannotated(tmp_path, "folder")


@pytest.mark.parametrize("method", ["kl_ent", pytest.param("single", marks=pytest.mark.soak)])
def test_the_case_of_the_highest_score_comes_first(untrained, phantoms, tmp_path, method):
    folder = untrained(f"method={method}")
    names = [f"case{number}" for number in range(SHOWN + 2)]
    for name, entry in zip(names, phantoms.entries, strict=False):
        save(tmp_path / "images" / f"{name}.nii.gz", phantoms.case(entry).image)
    ranked = suggest(folder, tmp_path / "images", tmp_path / "out")
    segmenter, variables, _ = load_network(folder)
    scores = {}
    for name, entry in zip(names, phantoms.entries, strict=False):
        scores[name] = uncertainty([segmenter.probabilities(variables, phantoms.case(entry).image, SPACING)]).score
    assert [name for name, _ in ranked] == sorted(names, key=scores.get, reverse=True)
    rows = table(tmp_path / "out" / "suggest.csv")
    assert [(row["rank"], row["case"]) for row in rows] == [(str(i), name) for i, (name, _) in enumerate(ranked, 1)]
    assert [float(row["score"]) for row in rows] == pytest.approx([scores[name] for name, _ in ranked], abs=1e-4)
    assert all((row["disagreement"] == "") == (method == "single") for row in rows)
    assert (tmp_path / "out" / "suggest.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_one_damaged_file_does_not_stop_the_others(untrained, phantoms, tmp_path):
    save(tmp_path / "images" / "a.nii", phantoms.case(phantoms.entries[0]).image)
    (tmp_path / "images" / "b.nii").write_bytes((tmp_path / "images" / "a.nii").read_bytes()[:5000])
    with pytest.raises(InputError) as error:
        suggest(untrained("method=kl_ent"), tmp_path / "images", tmp_path / "out")
    first, last = str(error.value).splitlines()
    assert "b.nii: its header declares" in first
    assert last == f"{tmp_path / 'out'}: contains the ranking of the other 1 image of {tmp_path / 'images'}."
    assert [row["case"] for row in table(tmp_path / "out" / "suggest.csv")] == ["a"]
