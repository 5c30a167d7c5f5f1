"""Claims about calibration by speech: no transcript is needed, every family's own way is driven."""

import json
import wave

import numpy as np
import pytest
from small_networks import FAMILIES

from cosim.calibration import calibration_batches
from cosim.compress.calibrate import calibrate
from cosim.compress.network import scan
from cosim.errors import CosimError
from cosim.models import ModelConfig, RandomWeights, Weights, load
from cosim.speech.manifest import SpeechConfig, read_manifest

RATE = 16000


@pytest.fixture
def manifest(tmp_path):
    rng = np.random.default_rng(0)
    rows = []
    for i in range(3):
        samples = (rng.standard_normal(RATE // 2) * 3000).astype(np.int16)
        with wave.open(str(tmp_path / f"{i}.wav"), "wb") as file:
            file.setnchannels(1)
            file.setsampwidth(2)
            file.setframerate(RATE)
            file.writeframes(samples.tobytes())
        rows.append(json.dumps({"audio": f"{i}.wav", "duration": 0.5}))
    path = tmp_path / "voices.jsonl"
    path.write_text("\n".join(rows) + "\n")
    return path


def loaded(name):
    family, dimensions = FAMILIES[name]
    source = Weights(random=RandomWeights(seed=3))
    return load(ModelConfig(name, family, source, dimensions))


def test_rows_without_text_are_read_where_none_is_needed_and_refused_elsewhere(manifest):
    assert [row.text for row in read_manifest(manifest, is_transcribed=False).utterances] == [
        ""
    ] * 3
    with pytest.raises(CosimError, match="text: found null"):
        read_manifest(manifest)


@pytest.mark.parametrize("name", ["wav2vec2", "conformer"])
def test_utterances_reach_every_product_that_codes_can_be_made_for(name, manifest):
    model = loaded(name)
    told = []
    speech = SpeechConfig(manifest=str(manifest))
    batches = calibration_batches(model, speech, limit=2, progress=told.append)
    assert len(batches) == 2
    layers = [layer for layer in scan(model.module).layers if layer.takes_codes]
    found = calibrate(model.module, batches, layers)
    reached = {target for target, _ in found}
    assert reached == {layer.name for layer in layers if layer.kind != "embedding"}
    assert sum("calibrating with" in text for text in told) == 2


def test_more_utterances_never_narrow_a_range(manifest):
    model = loaded("wav2vec2")
    layers = scan(model.module).layers
    speech = SpeechConfig(manifest=str(manifest))
    one, three = (
        calibrate(model.module, calibration_batches(model, speech, limit=limit), layers)
        for limit in (1, 3)
    )
    assert all(three[key] >= largest for key, largest in one.items())
    assert any(three[key] > largest for key, largest in one.items())
