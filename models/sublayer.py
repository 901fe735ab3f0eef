"""SublayerId: identifies an attention or FFN of an encoder, and converts it to its key, module name and back."""

from typing import Literal, NamedTuple, Self

Part = Literal["attention", "ffn"]
PARTS: tuple[Part, ...] = ("attention", "ffn")  # in the order of computation


class SublayerId(NamedTuple):
    """One sublayer of an encoder."""

    layer: int  # from 0
    part: Part

    @classmethod
    def parse(cls, key: str) -> Self:
        """Return the sublayer of a key such as `5.ffn`.

        Raises:
            ValueError: the key has another form.
        """
        layer, _, part = key.partition(".")
        for known in PARTS:
            if part == known and layer.isdecimal():
                return cls(int(layer), known)
        raise ValueError(f"{key!r} names no sublayer: wanted LAYER.attention or LAYER.ffn, such as 5.ffn")

    @classmethod
    def all_of(cls, layers: int) -> list[Self]:
        """Return all sublayers of an encoder with `layers` layers, in the order of computation."""
        return [cls(layer, part) for layer in range(layers) for part in PARTS]

    @classmethod
    def keys(cls, layers: int) -> list[str]:
        """Return the keys of all sublayers, in the order of `all_of`."""
        return [sublayer.key for sublayer in cls.all_of(layers)]

    @property
    def key(self) -> str:
        """The key in dictionaries, JSON files and tensor files: `5.ffn`."""
        return f"{self.layer}.{self.part}"

    @property
    def module(self) -> str:
        """The name of the module in a classifier, which is also the prefix of its tensors: `encoder.layers.5.ffn`."""
        return f"encoder.layers.{self.key}"

    @classmethod
    def of_module(cls, name: str) -> Self:
        """Return the sublayer that a module or tensor belongs to, such as `encoder.layers.5.ffn.rise`.

        Raises:
            ValueError: it belongs to no sublayer.
        """
        prefix, _, rest = name.partition("encoder.layers.")
        if prefix or not rest:
            raise ValueError(f"{name!r} is in no sublayer: wanted a name such as encoder.layers.5.ffn.rise")
        return cls.parse(".".join(rest.split(".")[:2]))
