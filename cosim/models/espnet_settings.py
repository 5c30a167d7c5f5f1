"""How ESPnet's config.yaml states sizes, and what else it may say about a network.

A table per section names the keys that carry a size, the keys that have one value here, and the
keys that only matter in training. Any other key is an option this network has not.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from cosim.errors import suggestion

Section = Mapping[str, object]


@dataclass(frozen=True)
class Key:
    """A key that carries one of our fields; `default` is what ESPnet takes where it is left out.

    `meanings` gives our value for each of ESPnet's, where they differ.
    """

    name: str
    default: object
    meanings: Mapping[object, object] | None = None


@dataclass(frozen=True)
class Settings:
    """The keys of one section.

    `sizes` is by our field, `fixed` lists the accepted values of a key. `needed` are the fixed keys
    whose default in ESPnet is another value, so that they must be given.
    """

    sizes: Mapping[str, Key]
    fixed: Mapping[str, tuple[object, ...]] = field(default_factory=dict)
    training: frozenset[str] = frozenset()
    needed: frozenset[str] = frozenset()

    def read(self, section: Section, at: str) -> tuple[dict[str, object], list[str]]:
        """Return our fields by name, and one line for every key that does not fit.

        `at` is the file and section that the lines begin with.
        """
        problems: list[str] = []
        values: dict[str, object] = {}
        for name, key in self.sizes.items():
            found = section.get(key.name, key.default)
            if key.meanings is None:
                values[name] = found
            elif isinstance(found, str | bool) and found in key.meanings:
                values[name] = key.meanings[found]
            else:
                expected = " or ".join(map(repr, key.meanings))
                problems.append(f"{at}.{key.name}: found {found!r}, expected {expected}")
        for name, accepted in self.fixed.items():
            if name not in section and name not in self.needed:
                continue
            if name not in section or section[name] not in accepted:
                found_text = repr(section[name]) if name in section else "nothing"
                problems.append(
                    f"{at}.{name}: found {found_text}, expected {accepted[0]!r}: this network has "
                    "no other"
                )
        known = {key.name for key in self.sizes.values()} | {*self.fixed} | self.training
        problems += [
            f"{at}.{name}: not an option of this network{suggestion(str(name), sorted(known))}"
            for name in section
            if name not in known
        ]
        return values, problems

    def write(self, values: Mapping[str, object]) -> dict[str, object]:
        """Return the section that states our fields, and every fixed key."""
        section: dict[str, object] = {}
        for name, key in self.sizes.items():
            meanings = key.meanings or {}
            theirs = [value for value, ours in meanings.items() if ours == values[name]]
            section[key.name] = theirs[0] if key.meanings is not None else values[name]
        return {**section, **{name: accepted[0] for name, accepted in self.fixed.items()}}


_DROPOUTS = frozenset(
    {
        "dropout_rate",
        "positional_dropout_rate",
        "attention_dropout_rate",
        "self_attention_dropout_rate",
        "src_attention_dropout_rate",
        "layer_drop_rate",
        "stochastic_depth_rate",
        "attn_branch_drop_rate",
    }
)
# Besides training: choices of kernels, and parameters of layers that the fixed keys exclude.
WITHOUT_EFFECT = _DROPOUTS | {
    "use_flash_attn",
    "gradient_checkpoint_layers",
    "padding_idx",
    "positionwise_conv_kernel_size",
    "cgmlp_weight",
}
SHARED_SIZES: Mapping[str, Key] = {
    "width": Key("output_size", 256),
    "heads": Key("attention_heads", 4),
    "subsampling": Key("input_layer", "conv2d"),
}
LEGACY: Mapping[object, object] = {"latest": False, "legacy": True}
NO_INNER_CTC: Mapping[str, tuple[object, ...]] = {
    "interctc_layer_idx": ([], None),
    "interctc_use_conditioning": (False,),
    "qk_norm": (False,),
}
DECODER = Settings(
    sizes={
        "layers": Key("num_blocks", 6),
        "heads": Key("attention_heads", 4),
        "hidden": Key("linear_units", 2048),
    },
    fixed={
        "input_layer": ("embed",),
        "use_output_layer": (True,),
        "normalize_before": (True,),
        "concat_after": (False,),
        "qk_norm": (False,),
    },
    training=WITHOUT_EFFECT,
)
# espnet2/asr/frontend/default.py; its inner frontend_conf is for several microphones.
FRONT_END = Settings(
    sizes={
        "mels": Key("n_mels", 80),
        "hop": Key("hop_length", 128),
        "fft": Key("n_fft", 512),
        "window_samples": Key("win_length", None),
    },
    fixed={
        "fs": (16000, "16k", "16000"),
        "window": ("hann",),
        "center": (True,),
        "normalized": (False,),
        "onesided": (True,),
        "fmin": (None, 0),
        "fmax": (None, 8000),
        "htk": (False,),
        "apply_stft": (True,),
        "frontend_conf": (None,),
    },
)
GLOBAL_MVN = Settings(
    sizes={
        "stats_file": Key("stats_file", None),
        "norm_means": Key("norm_means", default=True),
        "norm_vars": Key("norm_vars", default=True),
    },
    fixed={"eps": (1.0e-20,)},
)
