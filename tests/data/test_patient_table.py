import pytest

from msl_jax.data.patient_table import read_table
from msl_jax.errors import InputError

PATIENTS = ("anna", "bert", "cäsar")


@pytest.fixture
def write(tmp_path):
    def go(text, encoding="utf-8"):
        (tmp_path / "roles.csv").write_bytes(text.encode(encoding))
        return str(tmp_path / "roles.csv")

    return go


def test_a_row_says_what_its_columns_say(write):
    path = write("patient,weak,role,group\nbert,point,weak,A\ncäsar,, test ,B\n", "utf-8-sig")
    assert read_table(path, PATIENTS) == {
        "bert": {"weak": "point", "role": "weak", "group": "A"},
        "cäsar": {"weak": "", "role": "test", "group": "B"},
    }
    assert read_table(write("patient\nanna\n"), PATIENTS) == {"anna": {}}


@pytest.mark.parametrize(
    "text, says",
    [
        ("", "its columns are ; give patient"),
        ("role\nweak\n", "its columns are role; give patient"),
        ("patient,rolle\nanna,weak\n", "its columns are patient, rolle; give"),
        ("patient,role\ndora,weak\n", "line 2: the data set has no patient 'dora'"),
        ("patient,role\nanna,weak\nanna,strong\n", "line 3: patient 'anna' comes a second time"),
        (
            "patient,role\nanna,teacher\n",
            "line 2: role is 'teacher'; give one of train, strong, weak, validation, test",
        ),
        ("patient,weak\nanna,pencil\n", "line 2: weak is 'pencil'; give one of erosion, .*drawn"),
        ("patient,role\nanna,weak,3\n", "its columns are"),
    ],
)
def test_what_cannot_be_meant_is_refused(write, text, says):
    with pytest.raises(InputError, match=f"roles.csv: {says}"):
        read_table(write(text), PATIENTS)


def test_a_file_that_cannot_be_read_is_refused(write, tmp_path):
    with pytest.raises(InputError, match="cannot be read, No such file"):
        read_table(str(tmp_path / "none.csv"), PATIENTS)
    with pytest.raises(InputError, match="cannot be read, it is no text in UTF-8"):
        read_table(write("patient\ncäsar\n", "latin-1"), PATIENTS)
