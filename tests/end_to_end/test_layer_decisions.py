"""What methods decide of each layer is told beside the artefact, and comes back with it."""

import json

import pytest

from cosim import artefact_folder as artefacts

FUZZY = {
    "methods": [
        {"method": "fuzzy", "classes": 3, "alpha": 0.5, "beta": 1.0, "layers": "encoder.layers.*"},
        {
            "method": "variable_scale",
            "u0": 0.3,
            "v0": 0.2,
            "attention_rate": 0.1,
            "layers": {"side": "decoder"},
        },
    ]
}
PLAIN = {"methods": [{"method": "quantize", "weight_bits": 8}]}


@pytest.mark.parametrize("document", [FUZZY, PLAIN], ids=["decided", "nothing decided"])
def test_decisions_lie_beside_the_artefact_and_are_read_again(shared_workspace, document):
    recipe = shared_workspace.write("decided.yaml", document)
    folder = shared_workspace.root / "decided"
    result = shared_workspace.invoke(
        "compress", shared_workspace.model, "--recipe", recipe, "--out", folder
    )
    assert result.exit_code == 0, result.output
    rows = [json.loads(line) for line in (folder / "decisions.jsonl").read_text().splitlines()]
    assert artefacts.load(folder).decisions == tuple(rows)
    if document is PLAIN:
        assert rows == []
        return
    fuzzy = [row for row in rows if row["method"] == "fuzzy"]
    # four projections and two feed-forward matrices in the one block of the encoder
    assert len(fuzzy) == 6
    assert all(row["layer"].startswith("encoder.layers.0.") for row in fuzzy)
    assert all(
        {"share_L", "membership_M", "decided", "bits", "pruned"} <= set(row) for row in fuzzy
    )
    pruned = {row["layer"]: row["rate"] for row in rows if row["method"] == "variable_scale"}
    assert len(pruned) == 10
    assert pruned["decoder.layers.0.fc1"] == 0.2
    assert pruned["decoder.layers.0.encoder_attn.q_proj"] == 0.1
