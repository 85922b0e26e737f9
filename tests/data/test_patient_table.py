import pytest

from msl_jax.data.patient_table import read_table
from msl_jax.errors import InputError

PATIENTS = ("anna", "bert", "cäsar")


@pytest.fixture
def write(tmp_path):
    def write_table(text, encoding="utf-8"):
        (tmp_path / "roles.csv").write_bytes(text.encode(encoding))
        return str(tmp_path / "roles.csv")

    return write_table


def test_rows_become_settings_of_patients(write):
    path = write("patient,weak,role,group\nbert,point,weak,A\ncäsar,, test ,B\n", "utf-8-sig")
    assert read_table(path, PATIENTS) == {
        "bert": {"weak": "point", "role": "weak", "group": "A"},
        "cäsar": {"weak": "", "role": "test", "group": "B"},
    }
    assert read_table(write("patient\nanna\n"), PATIENTS) == {"anna": {}}


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "its columns are ; give patient"),
        ("role\nweak\n", "its columns are role; give patient"),
        ("patient,rolle\nanna,weak\n", "its columns are patient, rolle; give"),
        ("patient,role\ndora,weak\n", "line 2: the data set has no patient 'dora'"),
        ("patient,role\nanna,weak\nanna,strong\n", "line 3: patient 'anna' is listed twice"),
        (
            "patient,role\nanna,teacher\n",
            "line 2: role is 'teacher'; give one of train, strong, weak, validation, test",
        ),
        ("patient,weak\nanna,pencil\n", "line 2: weak is 'pencil'; give one of erosion, .*drawn"),
        ("patient,role\nanna,weak,3\n", "its columns are"),
    ],
)
def test_an_invalid_table_raises_input_error(write, text, message):
    with pytest.raises(InputError, match=f"roles.csv: {message}"):
        read_table(write(text), PATIENTS)


def test_an_unreadable_file_raises_input_error(write, tmp_path):
    with pytest.raises(InputError, match="cannot be read, No such file"):
        read_table(str(tmp_path / "none.csv"), PATIENTS)
    with pytest.raises(InputError, match="cannot be read, it is not UTF-8 text"):
        read_table(write("patient\ncäsar\n", "latin-1"), PATIENTS)
