"""Protocols: which convention each metric follows, as data.

A protocol holds, for each metric whose definition it changes, the options of the metric's pure
function. `strict` changes none: the functions' defaults are the published definitions, computed in
float64 on 8-bit luma in 0..255, their known flaws repaired. README.md of this folder lists the
conventions of the toolkits and where they were found.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import e
from pkgutil import resolve_name
from typing import Any

from clipfuse.errors import did_you_mean
from clipfuse.metrics.definition import DEFINITIONS, Definition
from clipfuse.metrics.learned import NO_WEIGHTS
from clipfuse.ops.lpips import Lpips, load_lpips

UNCHECKED = "from the description, not checked against the published code"
OF_THE_USER = "own, unchecked"
BALANCED = ("kept-information", "kept-structure", "clean-detail", "kept-targets")
# For every validation: none adds more than SSIM costs; all that the verdict set `balanced` ranks by is in it.
FAST = ("EN", "SD", "SF", "AG", "MI", "CC", "SCD", "SSIM", "local-detail", "noise", *BALANCED)
GOLDEN = ("EN", "SD", "SF", "AG", "MI", "MSE", "CC", "PSNR", "SCD", "VIF", "Qabf", "SSIM")


@dataclass(frozen=True)
class Protocol:
    """A named and versioned convention.

    Attributes:
        name: short name.
        version: raised whenever a number it gives may change.
        summary: what it is, in one line.
        metrics: the metrics it has, in the order of its tables.
        options: metric -> keyword options of its function, where they are not the defaults.
        evidence: what the values of its checked metrics were compared with, and how far they agree.
        checked: metrics whose values are tested against those of the published code, or that are
            our own and have none.
        channels: each colour channel is scored, and the mean over them taken; otherwise the luma is.
        own: metrics that a user has added; ClipFuse does not check them.
        since: metric -> version of this protocol that last changed its numbers; 1 for metrics not listed,
            whose numbers are comparable over all versions.
    """

    name: str
    version: int
    summary: str
    metrics: tuple[str, ...]
    evidence: str
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    channels: bool = False
    checked: frozenset[str] = frozenset()
    own: tuple[str, ...] = ()
    since: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        """Return name and version as every number carries them, such as "strict-2"."""
        return f"{self.name}-{self.version}"

    def definition(self, name: str) -> Definition:
        """Return a metric.

        Raises:
            ValueError: the protocol does not have it; names what it has.
        """
        if name not in self.metrics and name == "LPIPS":
            raise ValueError(f"metric 'LPIPS' {NO_WEIGHTS}")
        if name not in self.metrics:
            known = "is not in" if name in DEFINITIONS else "is unknown to"
            near = did_you_mean(name, (*self.metrics, "fast", "full"))
            raise ValueError(
                f"metric '{name}' {known} protocol {self}.{near} It has {', '.join(self.metrics)}"
            )
        return DEFINITIONS[name]

    def with_own(self, paths: Iterable[str]) -> "Protocol":
        """Return the protocol with a user's metrics after its own.

        Args:
            paths: of functions that `metric` has made, such as "my_metric.sharpness".

        Raises:
            ValueError: there is no such function, or it is not a metric, or not a new one.
        """
        own: list[str] = []
        for path in paths:
            try:
                found = resolve_name(path)
            except Exception as error:  # a module of the user's can raise anything while it is imported
                raise ValueError(f"own metric '{path}' cannot be imported ({error})") from error
            name = next((each.name for each in DEFINITIONS.values() if each.score is found), None)
            if name is None:
                raise ValueError(
                    f"own metric '{path}' is no metric; put @metric(\"name\", higher_is_better=True, "
                    "bounds=(0, math.inf)) of clipfuse.metrics above it"
                )
            if name in (*self.metrics, *own):
                raise ValueError(f"own metric '{path}': protocol {self} has '{name}' already")
            own.append(name)
        return replace(self, metrics=(*self.metrics, *own), own=(*self.own, *own))

    def with_lpips(self, weights: str | None) -> "Protocol":
        """Return the protocol with LPIPS after its own metrics.

        Args:
            weights: file of VGG16's or AlexNet's weights, as the metric takes it; None where no image will be
                scored, and LPIPS is only to be known, as for scores that are read.

        Raises:
            ValueError: the file cannot be used; or the protocol scores the channels of colour images.
        """
        if self.channels:
            raise ValueError(f"LPIPS looks at whole images, and protocol {self} scores each colour channel")
        options = dict(self.options)
        if weights is not None:
            load_lpips(weights)
            options["LPIPS"] = {"weights": weights}
        return replace(
            self,
            metrics=(*self.metrics, "LPIPS"),
            options=options,
            checked=self.checked | {"LPIPS"},
        )

    @property
    def lpips(self) -> Lpips | None:
        """LPIPS by the network that `with_lpips` was given, None without it."""
        return load_lpips(self.options["LPIPS"]["weights"]) if "LPIPS" in self.options else None

    def choose(self, names: Iterable[str]) -> list[str]:
        """Resolve metrics and the sets "fast" and "full" to metrics, each once, in the order of the tables.

        Raises:
            ValueError: a name is neither, or no name is given.
        """
        sets = {"full": self.metrics, "fast": [name for name in self.metrics if name in FAST]}
        chosen: set[str] = set()
        for name in names:
            chosen.update(sets.get(name) or (self.definition(name).name,))
        if not chosen:
            raise ValueError(
                f"no metrics are chosen; expected 'fast', 'full' or some of {', '.join(self.metrics)}"
            )
        return [name for name in self.metrics if name in chosen]


OWN = ("target-contrast", "local-detail", "noise")
STRICT = Protocol(
    name="strict",
    version=2,
    summary="published definitions in float64, flaws repaired",
    evidence="values of the published code, to 1e-9 (VIF 1e-6); repaired ones and our own by formula",
    metrics=(
        *("EN", "SD", "SF", "AG", "MI", "NMI", "FMI-pixel", "FMI-gradient", "CC", "SCD", "PSNR", "MSE"),
        *("SSIM", "MS-SSIM", "VIF", "VIFF", "Qabf", "Nabf", "Qcv", "Qcb", *OWN, *BALANCED),
    ),
    checked=frozenset((*GOLDEN, *OWN, *BALANCED)),
    since=dict.fromkeys(("local-detail", *BALANCED), 2),
)
CDDFUSE = Protocol(
    name="cddfuse",
    version=1,
    summary="table of CDDFuse (CVPR 2023): MI in nats, PSNR's peak is the fused maximum, SSIM's range 2",
    evidence="values of the published code, to 1e-9 (VIF 1e-6), and every digit of the paper's TNO table",
    metrics=GOLDEN,
    options={
        "MI": {"base": e},
        "PSNR": {"peak": "fused"},
        "Qabf": {"equal_gradient": "gradient", "wrap_angle": False},
        "SSIM": {"dynamic_range": 2.0},
    },
    checked=frozenset(GOLDEN),
)

# Of the toolkits below, only what agrees with numbers that they published or that their code gives.
_TANG = ("EN", "AG", "MI", "CC", "SCD", "PSNR", "MSE")
TANG = Protocol(
    name="tang",
    version=2,
    summary="kit of Tang et al.: PSNR 48.13 dB too high, MI with levels 254 and 255 in one bin",
    evidence="its published TNO sheet, all digits of 21 cells; MI five digits of 9 cells",
    metrics=_TANG,
    options={
        "AG": {"divisor": "cells"},
        "MI": {"merge_brightest": True},
        "PSNR": {"scale": 1 / 255},
        "MSE": {"scale": 1 / 255},
    },
    checked=frozenset(_TANG),
    since={"MI": 2},
)
_UINT8 = ("SD", "SF", "VIF")
TANG_UINT8 = Protocol(
    name="tang_uint8",
    version=1,
    summary="older sheet of that kit, copied by many papers: 8-bit arithmetic; SD 8 to 10, SF about 0.04",
    evidence="its published TNO sheet, all digits of 6 cells",
    metrics=_UINT8,
    options={
        "SD": {"arithmetic": "uint8"},
        "SF": {"scale": 1 / 255},
        "VIF": {"arithmetic": "uint8"},
    },
    checked=frozenset(_UINT8),
)
_IVIF_ZOO = (
    *("EN", "SD", "SF", "AG", "MI", "NMI", "CC", "SCD", "PSNR", "MSE"),
    *("SSIM", "MS-SSIM", "VIF", "Qabf", "Nabf", "Qcb"),
)
IVIF_ZOO = Protocol(
    name="ivif_zoo",
    version=1,
    summary="kit of the IVIF_ZOO survey: PSNR 48.13 dB too high, SSIM of range 1, off-centre VIF",
    evidence="values of its code, to 2.8e-4",
    metrics=_IVIF_ZOO,
    options={
        "EN": {"log_offset": 1e-7},
        "NMI": {"denominator": "of_sources"},
        "PSNR": {"scale": 1 / 255},
        "MSE": {"scale": 1 / 255},
        "SSIM": {"window": "gaussian", "dynamic_range": 1.0},
        "MS-SSIM": {"dynamic_range": 1.0, "odd_sides": "zero"},
        "VIF": {"border": "zero", "centred": False},
        "Qabf": {"equal_gradient": "gradient", "wrap_angle": False},
        "Nabf": {"least_weight": 0.0},
        "Qcb": {"stretch": "exact", "frequency": "fftfreq", "normalise": False},
    },
    checked=frozenset(_IVIF_ZOO),
)
_VIFB = ("EN", "SF", "AG", "MI", "PSNR", "SSIM", "Qabf", "Qcv", "Qcb")
VIFB = Protocol(
    name="vifb",
    version=2,
    summary="the VIFB benchmark: mean over colour channels, MI in nats, PSNR of a root (some 40 dB too high)",
    evidence="its published scores of 13 images, about five digits per channel",
    metrics=_VIFB,
    options={
        "AG": {"divisor": "cells"},
        "MI": {"base": e},
        "PSNR": {"error": "norm"},
        "SSIM": {"window": "gaussian"},
        "Qabf": {"equal_gradient": "gradient", "wrap_angle": False},
        "Qcv": {"blocks": "padded", "stretch": "rounded", "border": "zero", "csf_slope": 0.144},
        "Qcb": {"stretch": "rounded", "normalise": False},
    },
    channels=True,
    checked=frozenset(_VIFB),
    since=dict.fromkeys(_VIFB, 2),
)
PROTOCOLS = {protocol.name: protocol for protocol in (STRICT, CDDFUSE, TANG, TANG_UINT8, IVIF_ZOO, VIFB)}


def protocol_listing() -> str:
    """Return which protocol has which metric, checked or unchecked, as a table of text with notes."""
    names = dict.fromkeys(name for protocol in PROTOCOLS.values() for name in protocol.metrics)
    rows = [["metric", *map(str, PROTOCOLS.values())]]
    for name in names:
        marks = [
            "-" if name not in protocol.metrics else "checked" if name in protocol.checked else "unchecked"
            for protocol in PROTOCOLS.values()
        ]
        rows.append([name, *marks])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    lines += ["", f"unchecked: {UNCHECKED}", "checked against:"]
    lines += [f"  {protocol}: {protocol.evidence}" for protocol in PROTOCOLS.values()]
    lines += ["", *(f"{protocol}: {protocol.summary}" for protocol in PROTOCOLS.values())]
    return "\n".join(lines)


def protocol_named(protocol: str | Protocol) -> Protocol:
    """Return a protocol by its name, or as it is.

    Raises:
        ValueError: no protocol has this name; lists the names.
    """
    if isinstance(protocol, Protocol):
        return protocol
    if protocol not in PROTOCOLS:
        near = did_you_mean(protocol, PROTOCOLS)
        raise ValueError(f"unknown protocol '{protocol}'.{near} There are {', '.join(PROTOCOLS)}")
    return PROTOCOLS[protocol]
