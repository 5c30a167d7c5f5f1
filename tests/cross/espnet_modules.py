"""Compare our ESPnet families with the modules of espnet 202511 on the same random weights.

Run once after a change, in an environment that has cosim's dependencies, torch and espnet:

    pip install --no-deps espnet==202511
    pip install typeguard==2.13.3 humanfriendly configargparse packaging librosa einops \
        editdistance kaldiio h5py opt-einsum sentencepiece torch_complex "setuptools<74"
    PYTHONPATH=. python tests/cross/espnet_modules.py

Prints one line per comparison: the largest difference as a share of the largest value, in float32
and in float64, where what is left is ESPnet's tables of sinusoids: it makes them in float32, the
legacy ones from angles of thousands. Exits with 1 above `ALLOWED`.
"""

# ruff: noqa: E402, T201 (a module stands in for one before the imports; a script prints)

import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import torch

# ESPnet's front end imports it for beamformers, which are not used here.
sys.modules.setdefault("torchaudio", ModuleType("torchaudio"))
from espnet2.asr.ctc import CTC
from espnet2.asr.decoder.transformer_decoder import TransformerDecoder
from espnet2.asr.encoder.branchformer_encoder import BranchformerEncoder
from espnet2.asr.encoder.conformer_encoder import ConformerEncoder
from espnet2.asr.encoder.e_branchformer_encoder import EBranchformerEncoder
from espnet2.asr.encoder.transformer_encoder import TransformerEncoder
from espnet2.asr.espnet_model import ESPnetASRModel
from espnet2.asr.frontend.default import DefaultFrontend
from espnet2.layers.global_mvn import GlobalMVN
from torch import Tensor, nn

from cosim.models import LoadedModel, ModelConfig, RandomWeights, Weights, load
from cosim.models.espnet_family import FamilyNetwork
from cosim.models.espnet_folder import PREFERRED
from cosim.models.espnet_save import STATISTICS, save_espnet
from cosim.models.espnet_settings import DECODER
from cosim.models.own_folder import weights_hash
from cosim.speech.features import features

ALLOWED = 1e-4
ENCODERS = {
    "transformer": TransformerEncoder,
    "conformer": ConformerEncoder,
    "branchformer": BranchformerEncoder,
    "e_branchformer": EBranchformerEncoder,
}
WIDTHS = {"width": 128, "heads": 4, "layers": 3}
GATES = {"gate_hidden": 192, "taps": 31}
CASES: Mapping[str, tuple[str, Mapping[str, object]]] = {
    "transformer": ("transformer", {"hidden": 256}),
    "conformer": ("conformer", {"hidden": 256, "taps": 15}),
    "conformer, macaron": ("conformer", {"hidden": 256, "taps": 15, "is_macaron": True}),
    "conformer, legacy": ("conformer", {"hidden": 256, "taps": 15, "is_legacy": True}),
    "branchformer": ("branchformer", GATES),
    "branchformer, legacy": ("branchformer", {**GATES, "is_legacy": True}),
    "e_branchformer": ("e_branchformer", {**GATES, "hidden": 256, "merge_taps": 31}),
    "e_branchformer, one ff": (
        "e_branchformer",
        {**GATES, "hidden": 256, "merge_taps": 3, "is_macaron": False},
    ),
}
FRAMES = (41, 200, 1001)
SUBSAMPLINGS = ("conv2d", "conv2d1", "conv2d2", "conv2d6")


def drawn(family: str, encoder: Mapping[str, object], subsampling: str) -> LoadedModel:
    """Return a model of ours; norms and running statistics are drawn too, so that all count."""
    dimensions = {
        "vocabulary": 50,
        "encoder": {**WIDTHS, **encoder, "subsampling": subsampling},
        "decoder": {"layers": 2, "heads": 4, "hidden": 256},
        "features": {"mels": 80, "hop": 160},
    }
    weights = Weights(random=RandomWeights())
    loaded = load(ModelConfig("cross", family, weights, dimensions))
    rng = torch.Generator().manual_seed(7)
    for name, tensor in loaded.module.state_dict().items():
        if tensor.ndim == 1:
            noise = torch.rand(tensor.shape, generator=rng)
            tensor.copy_(noise + 0.5 if "norm" in name and "bias" not in name else noise - 0.5)
    mean = tuple(torch.linspace(-3, 3, 80).tolist())
    scale = tuple(torch.linspace(0.3, 0.6, 80).tolist())
    return replace(loaded, front=replace(loaded.front, mean=mean, scale=scale))


def peer(loaded: LoadedModel, folder: Path) -> ESPnetASRModel:
    """Return ESPnet's model from the folder that we wrote; every tensor must have its place."""
    network = loaded.module
    assert isinstance(network, FamilyNetwork)
    family, d = network.family, network.dimensions
    conf = family.settings.write(vars(d.encoder))
    encoder = ENCODERS[family.encoder](input_size=80, **conf)
    decoder = TransformerDecoder(
        vocab_size=d.vocabulary,
        encoder_output_size=d.encoder.width,
        **DECODER.write(vars(d.decoder)),
    )
    model = ESPnetASRModel(
        vocab_size=d.vocabulary,
        token_list=[str(index) for index in range(d.vocabulary)],
        frontend=DefaultFrontend(hop_length=d.features.hop, n_fft=d.features.fft),
        specaug=None,
        normalize=GlobalMVN(folder / STATISTICS),
        preencoder=None,
        encoder=encoder,
        postencoder=None,
        decoder=decoder,
        ctc=CTC(odim=d.vocabulary, encoder_output_size=d.encoder.width),
        joint_network=None,
    )
    state = torch.load(folder / PREFERRED, weights_only=True)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert missing == ["frontend.logmel.melmat"], missing
    assert not unexpected, unexpected
    return model.eval()


def share(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return float((ours - theirs).abs().max() / theirs.abs().max())


def teacher_forced(network: FamilyNetwork, memory: Tensor, tokens: list[int]) -> Tensor:
    """Return logits [1, tokens, vocabulary] of our decoder, stepped token by token."""
    decoder = network.decoder
    assert decoder is not None
    d = decoder.dimensions
    caches = [memory.new_zeros(1, d.heads, 0, decoder.width // d.heads)] * (2 * d.layers)
    cross = decoder.cross(memory)
    rows = []
    for token in tokens:
        logits, *caches = decoder(torch.tensor([[token]]), *caches, *cross)
        rows.append(logits)
    return torch.stack(rows, dim=1)


def compare(name: str, loaded: LoadedModel, model: ESPnetASRModel) -> Iterator[tuple[str, float]]:
    network = loaded.module
    assert isinstance(network, FamilyNetwork)
    rng = torch.Generator().manual_seed(3)
    for dtype in (torch.float32, torch.float64):
        ours, theirs = network.to(dtype), model.to(dtype)
        label = f"{name}, {str(dtype).removeprefix('torch.')}"
        for frames in FRAMES:
            x = torch.randn(1, frames, 80, generator=rng).to(dtype)
            memory = ours.encoder(x)
            wanted, lengths, _ = theirs.encoder(x, torch.tensor([frames]))
            assert int(lengths[0]) == memory.shape[1]
            yield f"{label}: encoder, {frames} frames", share(memory, wanted)
        yield (
            f"{label}: ctc",
            share(ours.ctc(wanted).log_softmax(-1), theirs.ctc.log_softmax(wanted)),
        )
        tokens = [49, 3, 17, 4, 4, 30, 8, 2, 41]
        logits, _ = theirs.decoder(
            wanted, lengths, torch.tensor([tokens]), torch.tensor([len(tokens)])
        )
        yield f"{label}: decoder", share(teacher_forced(ours, wanted, tokens), logits)
    nn.Module.to(network, torch.float32)
    model.to(torch.float32)


def from_audio(loaded: LoadedModel, model: ESPnetASRModel) -> float:
    """Return the difference from one second of sound to the encoder's output."""
    t = np.arange(16000) / 16000
    noise = np.random.default_rng(0).normal(0, 0.003, t.size)  # no band is silent
    samples = (0.3 * np.sin(2 * np.pi * (200 + 900 * t) * t) + noise).astype(np.float32)
    x = torch.from_numpy(features(samples, loaded.front))[None]
    wanted, _ = model.encode(torch.from_numpy(samples)[None], torch.tensor([samples.size]))
    network = loaded.module
    assert isinstance(network, FamilyNetwork)
    return share(network.encoder(x), wanted)


@torch.inference_mode()
def main() -> int:
    """Print all comparisons; return 1 when one is above what is allowed."""
    torch.set_num_threads(1)
    worst = 0.0
    for case, (family, encoder) in CASES.items():
        for subsampling in SUBSAMPLINGS if case == "transformer" else SUBSAMPLINGS[::3]:
            loaded = drawn(family, encoder, subsampling)
            with tempfile.TemporaryDirectory() as name:
                save_espnet(loaded, Path(name))
                model = peer(loaded, Path(name))
                # What ESPnet stores in its turn must load too, and be the same.
                torch.save(model.state_dict(), Path(name) / PREFERRED)
                again = load(ModelConfig("cross", family, Weights(folder=name)))
                assert weights_hash(again.module) == weights_hash(loaded.module)
                loaded = again
            rows = [("from audio", from_audio(loaded, model))]
            rows += list(compare(f"{case}, {subsampling}", loaded, model))
            for label, found in rows:
                print(f"{found:.1e}  {label}")
            worst = max(worst, *(found for _, found in rows))
    print(f"{worst:.1e}  largest")
    return int(worst > ALLOWED)


if __name__ == "__main__":
    sys.exit(main())
