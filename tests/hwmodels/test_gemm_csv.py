"""hwmodels.gemm_list: a CSV or YAML list of GEMMs, and every mistake in it."""

import pytest

from hwmodels.gemm_list import read_gemms
from hwmodels.simulate import simulate

GOOD = "name,m,n,k,count,a_number,w_number,density\nqk,5,6,7,2,i8,i8,\nfc, 3,4,5,1,i8,i8,0.5\n"


def write(tmp_path, text):
    path = tmp_path / "list.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_rows_become_gemms_with_their_own_tensors(tmp_path):
    workload = read_gemms(write(tmp_path, GOOD))
    first, second = workload.items
    assert (first.m, first.n, first.k, first.count, first.macs) == (5, 6, 7, 2, 420)
    assert (first.w.kind, first.w.size_bytes, first.result.size_bytes) == ("constant", 84, 240)
    assert (first.nonzero, second.nonzero) == (None, 0.5)
    assert len(list(workload.tensors())) == 6


def test_a_hand_written_density_is_marked(tmp_path, make_chip, make_memory, table):
    workload = read_gemms(write(tmp_path, GOOD))
    stats = simulate(workload, make_chip(), technology=make_memory(), energy=table)
    assert stats.notes == ("fc: assumed uniform density 0.5, computed dense",)
    assert stats.macs == 480


def test_density_may_be_left_out(tmp_path):
    text = "name,m,n,k,count,a_number,w_number\nfc,3,4,5,1,f32,i8\n"
    (gemm,) = read_gemms(write(tmp_path, text)).items
    assert (gemm.nonzero, gemm.accumulator) == (None, "f32")


def test_every_mistake_is_told_with_file_line_and_column(tmp_path):
    text = GOOD + "qk,0,x,7,2,i9,i8,2\n,1,1,1,1,i8,i8,nan\nz,1,1,1,1,i8,i8,,extra\n"
    with pytest.raises(ValueError, match=r"list\.csv: line 4: m: found \"0\", expected") as error:
        read_gemms(write(tmp_path, text))
    assert [line.split("list.csv: ")[1] for line in str(error.value).splitlines()] == [
        'line 4: m: found "0", expected an integer >= 1',
        'line 4: n: found "x", expected an integer >= 1',
        'line 4: a_number: found "i9", expected one of f32, f16, bf16, i32, i8, u8, i4, i2, i1, u1',
        'line 4: density: found "2", expected a number in (0, 1] or nothing',
        'line 4: name: found "qk" again, first in line 2',
        'line 5: density: found "nan", expected a number in (0, 1] or nothing',
        "line 6: more values than the 8 columns of the header",
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name,m,n,k,cuont,a_number,w_number\n", 'unknown column "cuont"; did you mean "count"'),
        ("m,k,bits\n", "line 1: column n missing; expected m, n, k and bits"),
        ("m,n,k,a_number\n", "line 1: column w_number missing; expected m, n, k and bits"),
        ("name,m,m,n,k,count,a_number,w_number\n", "a column appears twice"),
        ("name,m,n,k,count,a_number,w_number\n", "no GEMM in it"),
        ("", "line 1: column m, n, k, a_number, w_number missing"),
    ],
)
def test_a_wrong_header_says_what_was_expected(tmp_path, text, said):
    with pytest.raises(ValueError, match=said):
        read_gemms(write(tmp_path, text))


def test_a_missing_or_binary_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.csv: no such file"):
        read_gemms(tmp_path / "none.csv")
    path = tmp_path / "x.csv"
    path.write_bytes(b"name,\xff")
    with pytest.raises(ValueError, match="not UTF-8 text, first at byte 5"):
        read_gemms(path)


def test_sizes_and_bits_alone_are_a_list(tmp_path):
    first, second = read_gemms(write(tmp_path, "M,N,K,bits,density\n3,4,5,8,\n6,7,8,4,0.5\n")).items
    assert (first.name, second.name) == ("gemm_1", "gemm_2")
    assert (first.m, first.n, first.k, first.count) == (3, 4, 5, 1)
    assert (first.a_number, first.w_number, second.w_number) == ("i8", "i8", "i4")
    assert (first.nonzero, second.nonzero) == (None, 0.5)


def test_a_yaml_list_is_the_same_work_as_its_table(tmp_path):
    table = "name,m,n,k,count,bits,w_number,a_density\nqk,5,6,7,2,8,,0.5\nfc,3,4,5,,8,i4,\n"
    path = tmp_path / "list.yaml"
    path.write_text(
        "gemms:\n"
        "  - {name: qk, m: 5, n: 6, k: 7, count: 2, bits: 8, a_density: 0.5}\n"
        "  - {name: fc, m: 3, N: 4, k: 5, bits: 8, w_number: i4}\n"
    )
    assert read_gemms(path) == read_gemms(write(tmp_path, table))


def test_every_mistake_of_a_yaml_list_is_told(tmp_path):
    path = tmp_path / "list.yaml"
    path.write_text(
        "gemms:\n  - {m: 0, n: 2, k: 3, bits: 3}\n  - 7\n  - {m: 1, n: 2, kk: 3, bits: 8}\n"
    )
    with pytest.raises(ValueError, match="gemms") as error:
        read_gemms(path)
    found = [
        line.split("list.yaml: ")[1].partition(";")[0] for line in str(error.value).splitlines()
    ]
    assert found == [
        'gemms.0: m: found "0", expected an integer >= 1',
        'gemms.0: bits: found "3", expected one of 1, 2, 4, 8, 16, 32',
        "gemms.1: found 7, expected a mapping",
        'gemms.2: unknown key "kk"',
        "gemms.2: key k missing",
    ]
    path.write_text("gemms: []\nmore: 1\n")
    with pytest.raises(ValueError, match="expected one key, gemms, with a list of mappings"):
        read_gemms(path)
    path.write_text("gemms: [")
    with pytest.raises(ValueError, match=r"list\.yaml: not YAML"):
        read_gemms(path)
