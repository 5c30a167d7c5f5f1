"""hwmodels.gemm_list: a CSV of GEMMs, and every mistake in it."""

import pytest

from hwmodels.gemm_list import gemms_from_csv
from hwmodels.simulate import simulate

GOOD = "name,m,n,k,count,a_number,w_number,density\nqk,5,6,7,2,i8,i8,\nfc, 3,4,5,1,i8,i8,0.5\n"


def write(tmp_path, text):
    path = tmp_path / "list.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_rows_become_gemms_with_their_own_tensors(tmp_path):
    workload = gemms_from_csv(write(tmp_path, GOOD))
    first, second = workload.items
    assert (first.m, first.n, first.k, first.count, first.macs) == (5, 6, 7, 2, 420)
    assert (first.w.kind, first.w.size_bytes, first.result.size_bytes) == ("constant", 84, 240)
    assert (first.nonzero, second.nonzero) == (None, 0.5)
    assert len(list(workload.tensors())) == 6


def test_a_hand_written_density_is_marked(tmp_path, make_chip, make_memory, table):
    workload = gemms_from_csv(write(tmp_path, GOOD))
    stats = simulate(workload, make_chip(), technology=make_memory(), energy=table)
    assert stats.notes == ("fc: assumed uniform density 0.5, computed dense",)
    assert stats.macs == 480


def test_density_may_be_left_out(tmp_path):
    text = "name,m,n,k,count,a_number,w_number\nfc,3,4,5,1,f32,i8\n"
    (gemm,) = gemms_from_csv(write(tmp_path, text)).items
    assert (gemm.nonzero, gemm.accumulator) == (None, "f32")


def test_every_mistake_is_told_with_file_line_and_column(tmp_path):
    text = GOOD + "qk,0,x,7,2,i9,i8,2\n,1,1,1,1,i8,i8,nan\nz,1,1,1,1,i8,i8,,extra\n"
    with pytest.raises(ValueError, match=r"list\.csv: line 4: m: found \"0\", expected") as error:
        gemms_from_csv(write(tmp_path, text))
    assert [line.split("list.csv: ")[1] for line in str(error.value).splitlines()] == [
        'line 4: m: found "0", expected an integer >= 1',
        'line 4: n: found "x", expected an integer >= 1',
        'line 4: a_number: found "i9", expected one of f32, f16, bf16, i32, i8, u8, i4, i2, i1, u1',
        'line 4: density: found "2", expected a number in (0, 1] or nothing',
        'line 4: name: found "qk" again, first in line 2',
        "line 5: name: found nothing, expected a name",
        'line 5: density: found "nan", expected a number in (0, 1] or nothing',
        "line 6: more values than the 8 columns of the header",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name,m,n,k,cuont,a_number,w_number\n", 'unknown column "cuont"; did you mean "count"'),
        ("name,m,n,k,a_number,w_number\n", "line 1: column count missing; expected name,m,n,k"),
        ("name,m,m,n,k,count,a_number,w_number\n", "a column appears twice"),
        ("name,m,n,k,count,a_number,w_number\n", "no GEMM below the header"),
        ("", "line 1: column name, m, n"),
    ],
)
def test_a_wrong_header_says_what_was_expected(tmp_path, text, said):
    with pytest.raises(ValueError, match=said):
        gemms_from_csv(write(tmp_path, text))


def test_a_missing_or_binary_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.csv: no such file"):
        gemms_from_csv(tmp_path / "none.csv")
    path = tmp_path / "x.csv"
    path.write_bytes(b"name,\xff")
    with pytest.raises(ValueError, match="not UTF-8 text, first at byte 5"):
        gemms_from_csv(path)
