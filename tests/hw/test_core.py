"""What every core is: checks of its configuration, the digest, and which ports are for what."""

import gc
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
from amaranth.hdl import *
from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from zeroskip.hw.core import CoreConfig, CoreSignature
from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.tensorcore.config import TensorCoreConfig

HW = Path(__file__).parents[2] / "hw"
STREAM = stream.Signature(8)


class Core(wiring.Component):
    """Without any hardware."""

    def __init__(self, config):
        self.config = config
        super().__init__(CoreSignature(control={"busy": Out(1)}, streams={}))

    def elaborate(self, platform):
        return Module()


@dataclass(frozen=True)
class Config(CoreConfig):
    """It has fields of every type."""

    kind: ClassVar[str] = "toy"
    least: ClassVar[dict[str, int]] = {"deep": 0}
    most: ClassVar[dict[str, int]] = {"wide": 9}

    wide: int = 1
    deep: int = 1
    fast: bool = True
    modes: tuple[str, ...] = ()

    def gateware(self):
        return Core


class Other(Config):
    """The same fields of another engine."""

    kind = "other"


def test_values_at_the_limits_are_taken():
    assert (Config(wide=9).wide, Config(deep=0).deep, Config(deep=1 << 40).deep) == (9, 0, 1 << 40)
    assert Config(modes=(1, None)).modes == (1, None), "others are the engine's to check"


@pytest.mark.parametrize(("field", "value", "error", "message"), [
    ("wide", 0, ValueError, "wide must be at least 1, not 0"),
    ("wide", 10, ValueError, "wide must be at most 9, not 10"),
    ("deep", -1, ValueError, "deep must be at least 0, not -1"),
    ("wide", 1.0, TypeError, "wide must be an integer, not 1.0"),
    ("wide", True, TypeError, "wide must be an integer, not True"),
    ("fast", 1, TypeError, "fast must be True or False, not 1"),
])
def test_other_values_are_refused(field, value, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        Config(**{field: value})


def test_digest_tells_fields_and_engines():
    assert Config().digest() == Config().digest()
    assert len({Config().digest(), Config(wide=2).digest(), Config(modes=("a",)).digest(),
                Other().digest()}) == 4


@pytest.mark.parametrize("config", [EIEConfig(), TensorCoreConfig()], ids=lambda each: each.kind)
def test_component_of_an_engine(config):
    made = config.component()
    assert made.config is config
    assert isinstance(made.signature, CoreSignature)
    assert made.signature.control == ("busy", "stats")
    assert made.signature.latency.keys() == {"stats"}
    assert {*made.signature.control, *made.signature.streams} == {*made.signature.members}


def test_a_component_made_for_its_ports_alone_is_no_warning():
    Fragment.get(Config().component(), None)    # Amaranth warns once there is any hardware
    with warnings.catch_warnings(record=True) as found:
        Config().component()
        gc.collect()
    assert found == []


def test_control_ports_and_streams_are_told_apart():
    signature = CoreSignature(control={"busy": Out(1), "mode": In(2)},
                              streams={"items": In(STREAM)})
    assert (signature.control, signature.streams) == (("busy", "mode"), ("items",))
    assert signature.latency == {}
    assert list(signature.members) == ["busy", "mode", "items"]


@pytest.mark.parametrize(("control", "streams", "message"), [
    ({}, {}, "must have 'busy', an output of one bit"),
    ({"busy": Out(2)}, {}, "must have 'busy', an output of one bit"),
    ({"busy": In(1)}, {}, "must have 'busy', an output of one bit"),
    ({"busy": Out(1)}, {"busy": In(STREAM)}, "'busy' must be a control port or a stream, not both"),
    ({"busy": Out(1), "items": In(STREAM)}, {}, "'items' must be a stream if and only if it is"),
    ({"busy": Out(1)}, {"mode": In(2)}, "'mode' must be a stream if and only if it is one"),
    ({"busy": Out(1)}, {"bus": In(wiring.Signature({"a": Out(1)}))}, "'bus' must be a stream if"),
])
def test_signatures_that_are_refused(control, streams, message):
    with pytest.raises(ValueError, match=message):
        CoreSignature(control=control, streams=streams)


@pytest.mark.parametrize("folder", ["system", "fronts", "netlist"])
def test_what_serves_every_engine_imports_none(folder):
    sources = [*HW.glob("*.py"), *HW.glob(f"{folder}/*.py")]
    assert len(sources) > 5
    assert [path.name for path in sources
            if re.search(r"zeroskip\.hw\.(eie|tensorcore)", path.read_text())] == []
