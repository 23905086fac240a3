"""The configuration of a system: names, digest, and every refusal."""

from dataclasses import dataclass

import pytest

from zeroskip.hw.core import CoreConfig
from zeroskip.hw.eie.config import EIEConfig
from zeroskip.hw.system.config import SystemConfig
from zeroskip.hw.tensorcore.config import TensorCoreConfig

EIE, OTHER, CORE = EIEConfig(), EIEConfig(pes=2), TensorCoreConfig()


def test_names_count_the_cores_of_a_kind():
    system = SystemConfig((EIE, CORE, OTHER, EIE))
    assert system.names == ("eie", "tensorcore", "eie_1", "eie_2")
    assert [system.name_of(core) for core in (EIE, CORE, OTHER)] == ["eie", "tensorcore", "eie_1"]
    with pytest.raises(ValueError, match="not in tuple"):
        SystemConfig((EIE,)).name_of(CORE)


def test_digest_tells_the_cores_their_number_and_their_order():
    systems = [(EIE,), (OTHER,), (CORE,), (EIE, EIE), (EIE, CORE), (CORE, EIE), (OTHER, CORE)]
    digests = {SystemConfig(cores).digest() for cores in systems}
    assert len(digests) == len(systems)
    assert all(0 <= digest < 1 << 64 for digest in digests)
    assert SystemConfig((EIEConfig(), CORE)).digest() == SystemConfig((EIE, CORE)).digest()


@pytest.mark.parametrize("count", [0, 16])
def test_number_of_cores(count):
    with pytest.raises(ValueError, match=f"^a system must have 1 to 15 cores, not {count}$"):
        SystemConfig((CORE,) * count)
    assert len(SystemConfig((CORE,) * 15).names) == 15


def test_kinds_that_are_called_like_a_further_core_or_the_system():
    @dataclass(frozen=True)
    class Config(CoreConfig):
        kind = "eie_1"

        def gateware(self):
            raise NotImplementedError

    with pytest.raises(ValueError, match="'system', must differ, and not be eie, eie_1, eie_1; "):
        SystemConfig((EIE, EIE, Config()))
    Config.kind = "system"
    with pytest.raises(ValueError, match="'system', must differ, and not be system; call the"):
        SystemConfig((Config(),))
