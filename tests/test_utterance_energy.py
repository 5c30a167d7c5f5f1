"""energy_per_utterance: what a user asks in Python, with its example and its mistakes."""

import doctest
from dataclasses import replace
from math import isclose

import pytest
import yaml

import cosim.utterance_energy
from cosim.chip import load_chip
from cosim.config import configs_root
from cosim.energy_tables import load_table
from cosim.errors import CosimError
from cosim.ir import from_text
from cosim.utterance_energy import energy_per_utterance

PROGRAM = """\
program "p"
constant @w : f32<64, 96> bitpacked {"bits": 8, "group": 96} bits 51200 index 0 sha256 0a
graph g(t) {
  input %x : f32<t, 96>
  %q, %s = dynamic_quantize(%x) {per="row"} : i8<t, 96>, f32<t>
  %y = quantized_linear(%q, %s, @w) : f32<t, 64>
  return y = %y
}
"""

LONG = (
    PROGRAM.replace("<64, 96>", "<2048, 2048>")
    .replace("<t, 96>", "<t, 2048>")
    .replace("<t, 64>", "<t, 2048>")
    .replace('"group": 96} bits 51200', '"group": 2048} bits 33619968')
)


@pytest.fixture
def chip():
    return load_chip(configs_root() / "hardware" / "stacked_edge_32.yaml")


def test_its_example_runs(monkeypatch):
    monkeypatch.chdir(configs_root().parent)
    failed, tried = doctest.testmod(cosim.utterance_energy)
    assert tried
    assert failed == 0


def test_every_joule_has_a_row_a_cause_and_an_area(chip):
    program = from_text(PROGRAM)
    found = energy_per_utterance(
        program, chip.architecture, chip.energy, calls=[("g", {"t": 70}), ("g", {"t": 1})]
    )
    assert isclose(sum(found.causes_j.values()), found.energy_j)
    assert isclose(sum(row.area_m2 for row in found.area), found.area_m2)
    assert found.stats.macs == 71 * 64 * 96
    assert found.seconds > 0
    fine = load_table(configs_root() / "energy" / "aladdin_cacti_7nm.yaml")
    less = energy_per_utterance(program, chip.architecture, fine, calls=[("g", {"t": 70})])
    assert less.energy_j < found.energy_j
    assert less.area_m2 < found.area_m2


def test_an_exact_memory_takes_what_its_files_say(chip):
    memory = replace(
        chip.architecture.memory, fidelity="exact", timing="configs/memory/timing/hbm2_2000.yaml"
    )
    architecture = replace(chip.architecture, memory=memory)
    found = energy_per_utterance(
        from_text(PROGRAM), architecture, chip.energy, calls=[("g", {"t": 7})]
    )
    assert ("memory", "activate") in {(row.component, row.action) for row in found.rows}


def test_heat_decides_how_often_memory_is_refreshed(chip, tmp_path):
    stack = yaml.safe_load((configs_root() / "memory/thermal/stack_8high.yaml").read_text())

    def found(ambient_c):
        place = tmp_path / f"{ambient_c}.yaml"
        ambient = {"value": ambient_c, "source": "assumed for a test"}
        place.write_text(yaml.safe_dump(stack | {"ambient_c": ambient}))
        memory = replace(
            chip.architecture.memory,
            channels=1,
            fidelity="exact",
            timing="configs/memory/timing/hbm2_2000.yaml",
            thermal=str(place),
        )
        return energy_per_utterance(
            from_text(LONG),
            replace(chip.architecture, memory=memory),
            chip.energy,
            calls=[("g", {"t": 8})],
        )

    cool, hot = found(20), found(82)
    assert (cool.thermal.refresh_multiplier, hot.thermal.refresh_multiplier) == (1, 2)
    rates = [
        sum(row.count for row in one.rows if row.action.startswith("refresh")) / one.seconds
        for one in (cool, hot)
    ]
    assert rates[1] / rates[0] == pytest.approx(2, rel=0.05)
    assert hot.energy_j > cool.energy_j


def test_a_memory_whose_files_are_wrong_is_refused_with_all_of_them(chip):
    memory = replace(
        chip.architecture.memory, technology="no.yaml", thermal="none.yaml", timing="never.yaml"
    )
    architecture = replace(chip.architecture, memory=memory)
    with pytest.raises(CosimError) as error:
        energy_per_utterance(from_text(PROGRAM), architecture, chip.energy, calls=[("g", {"t": 7})])
    assert len(error.value.problems) == 3


def test_a_table_that_lacks_actions_fails_before_the_run(chip):
    bare = replace(chip.energy, actions={})
    with pytest.raises(CosimError, match='no action "host_op"'):
        energy_per_utterance(from_text(PROGRAM), chip.architecture, bare, calls=[("g", {"t": 7})])
