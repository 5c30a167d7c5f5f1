"""An artefact is as long as its ledger says, comes back bit for bit, and hides no damage."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from cosim import artefact_folder as artefacts
from cosim.errors import CosimError
from kernels.encodings import digest, tensors

FC1 = "encoder.layers.0.fc1.weight"
RECIPE = {
    "methods": [
        {"method": "prune_magnitude", "rate": 0.6, "layers": "decoder.*"},
        {"method": "quantize", "weight_bits": 4, "layers": "encoder.layers.*"},
    ]
}


@pytest.fixture(scope="module")
def made(shared_workspace):
    recipe = shared_workspace.write("recipe.yaml", RECIPE)
    folder = shared_workspace.root / "artefact"
    result = shared_workspace.invoke(
        "compress", shared_workspace.model, "--recipe", recipe, "--out", folder
    )
    assert result.exit_code == 0, result.output
    return folder, result.output


@pytest.fixture
def folder(made, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(made[0], tmp_path / "copy")


def refused(folder):
    with pytest.raises(CosimError) as raised:
        artefacts.load(folder)
    return str(raised.value)


def test_the_file_is_as_long_as_the_ledger_and_the_stated_header(made):
    folder, output = made
    rows = [json.loads(line) for line in (folder / "ledger.jsonl").read_text().splitlines()]
    facts = json.loads((folder / "artefact.json").read_text())
    stored = sum(row["size_bits"] for row in rows) // 8
    assert all(row["size_bits"] % 8 == 0 for row in rows)
    file = (folder / "weights.safetensors").stat().st_size
    assert file == stored + facts["header_bytes"]
    assert facts["compression"]["size_bytes"] == stored
    assert f"{file} bytes, {stored} of tensors and {facts['header_bytes']} of header" in output


def test_the_ledger_says_of_every_tensor_what_it_costs_and_why(made):
    rows = [json.loads(line) for line in (made[0] / "ledger.jsonl").read_text().splitlines()]
    stored = load_file(made[0] / "weights.safetensors")
    for row in rows:
        parts = ("payload", "scale", "zero_point", "index", "padding")
        assert row["size_bits"] == sum(row[f"{part}_bits"] for part in parts)
        arrays = [v for key, v in stored.items() if key.split("|")[0] == f"@{row['name']}"]
        assert row["size_bits"] == 8 * sum(array.nbytes for array in arrays)
        assert row["bits_per_weight"] == row["size_bits"] / row["elements"]
        assert row["zipped_bytes"] > 0
    why = {row["name"]: (row["encoding"], row["why"]) for row in rows}
    assert why[FC1] == ("bitpacked", "codes of 4 bits; smallest form")
    fc2 = "decoder.layers.0.fc2.weight"
    assert why[fc2][0] == "bitmap"
    assert why[fc2][1].startswith("fp32: changed, but no method decided another format")
    assert why["encoder.layers.0.fc1.bias"] == (
        "dense",
        "fp32: norm, bias or table, no layer's weight",
    )
    assert why["encoder.conv1.weight"] == ("dense", "fp32: no method changed it")


def test_what_is_loaded_is_what_was_saved_bit_for_bit(made, tmp_path):
    loaded = artefacts.load(made[0])
    artefacts.save(loaded, tmp_path / "again")
    for file in ("weights.safetensors", "program.txt", "ledger.jsonl"):
        assert (tmp_path / "again" / file).read_bytes() == (made[0] / file).read_bytes()
    again = artefacts.load(tmp_path / "again")
    for name, encoding in loaded.encodings.items():
        assert digest(again.encodings[name]) == digest(encoding)
        for part, array in tensors(encoding).items():
            assert tensors(again.encodings[name])[part].tobytes() == array.tobytes()


def test_a_flipped_bit_anywhere_in_the_data_is_told_with_its_tensor(folder):
    file = folder / "weights.safetensors"
    whole = file.read_bytes()
    begin = json.loads((folder / "artefact.json").read_text())["header_bytes"]
    table = json.loads(whole[8:begin])
    generator = np.random.default_rng(0)
    for key, entry in list(table.items())[:: max(1, len(table) // 12)]:
        first, last = entry["data_offsets"]
        if first == last:
            continue
        place = begin + int(generator.integers(first, last))
        damaged = bytearray(whole)
        damaged[place] ^= 1 << int(generator.integers(8))
        file.write_bytes(damaged)
        text = refused(folder)
        assert f"weights.safetensors: {key.split('|')[0]}: " in text


def test_a_flipped_bit_in_the_header_is_refused(folder):
    file = folder / "weights.safetensors"
    whole = file.read_bytes()
    begin = json.loads((folder / "artefact.json").read_text())["header_bytes"]
    spaces = len(whole[:begin]) - len(whole[:begin].rstrip(b" "))
    for place in np.random.default_rng(1).integers(0, begin - spaces, 25):
        damaged = bytearray(whole)
        damaged[place] ^= 4
        file.write_bytes(damaged)
        assert "weights.safetensors: " in refused(folder)


def test_a_file_cut_short_is_told_with_the_tensors_it_lacks(folder):
    file = folder / "weights.safetensors"
    whole = file.read_bytes()
    begin = json.loads((folder / "artefact.json").read_text())["header_bytes"]
    last = list(json.loads(whole[8:begin]))[-1]
    file.write_bytes(whole[:-1])
    assert f"weights.safetensors: {last}: data from byte" in refused(folder)


def changed_tensors(folder, change):
    file = folder / "weights.safetensors"
    stored = load_file(file)
    change(stored)
    save_file(stored, file)


def test_renamed_missing_and_unknown_tensors_are_named(folder):
    def rename(stored):
        stored[f"@{FC1}s|payload"] = stored.pop(f"@{FC1}|payload")
        stored[f"@{FC1}s|scale"] = stored.pop(f"@{FC1}|scale")

    changed_tensors(folder, rename)
    text = refused(folder)
    assert f'weights.safetensors: @{FC1}: no tensor of this name; did you mean "@{FC1}s"?' in text
    assert f"weights.safetensors: @{FC1}s: found, but not written by cosim" in text


def test_a_part_that_is_missing_or_left_over_is_named(folder):
    changed_tensors(folder, lambda stored: stored.pop(f"@{FC1}|scale"))
    text = refused(folder)
    assert f"weights.safetensors: @{FC1}: " in text
    assert "missing ['tensor scale']" in text


def test_tensors_of_another_shape_or_type_are_named(folder):
    def widen(stored):
        stored[f"@{FC1}|payload"] = stored[f"@{FC1}|payload"][:, :-1].copy()
        stored["@encoder.conv1.bias|values"] = stored["@encoder.conv1.bias|values"].astype("f2")

    changed_tensors(folder, widen)
    text = refused(folder)
    assert f"@{FC1}: bitpacked encoding: payload: found uint8" in text
    assert "@encoder.conv1.bias: dense encoding: values: found float16" in text


def test_swapped_tensors_of_equal_shape_are_both_named(folder):
    one, other = (f"@encoder.layers.0.self_attn.{part}_proj.weight" for part in "qk")

    def swap(stored):
        for part in ("payload", "scale"):
            a, b = f"{one}|{part}", f"{other}|{part}"
            stored[a], stored[b] = stored[b], stored[a]

    changed_tensors(folder, swap)
    text = refused(folder)
    assert f"{one}: found other values" in text
    assert f"{other}: found other values" in text


def test_a_program_of_other_constants_is_refused_with_the_tensor(folder):
    file = folder / "program.txt"
    text = file.read_text()
    lines = text.splitlines()
    index = next(i for i, line in enumerate(lines) if f"@{FC1} " in line)
    true = next(word for word in lines[index].split() if len(word.strip('",{}=')) >= 64)
    wrong = true.translate(str.maketrans("0123456789abcdef", "1032547698badcfe"))
    file.write_text(text.replace(true, wrong))
    assert f"program.txt: @{FC1}: the stored weights are not those of the program" in refused(
        folder
    )


def test_a_ledger_that_says_otherwise_is_refused_with_the_tensor(folder):
    file = folder / "ledger.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    row = next(row for row in rows if row["name"] == FC1)
    row["size_bits"] -= 8
    gone = rows.pop()
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = refused(folder)
    assert f"ledger.jsonl: @{FC1}: found bitpacked (32, 16) of" in text
    assert f"ledger.jsonl: @{gone['name']}: found no row" in text


def test_attributes_that_were_changed_are_refused_with_the_tensor(folder):
    file = folder / "artefact.json"
    facts = json.loads(file.read_text())
    facts["encodings"][f"@{FC1}"]["attributes"]["group"] = 8
    file.write_text(json.dumps(facts))
    assert f"@{FC1}: bitpacked encoding: scale" in refused(folder)


def test_files_that_are_no_json_or_no_program_are_refused_without_a_traceback(folder, made):
    for name in ("artefact.json", "ledger.jsonl", "program.txt", "weights.safetensors"):
        (folder / name).write_bytes(b"\x80\x04\x95 not this")
        assert name in refused(folder)
        shutil.copyfile(made[0] / name, folder / name)
    artefacts.load(folder)
