"""Configurations by name."""

from zeroskip.hw.core import CoreConfig
from zeroskip.sw.engines import registry
from zeroskip.sw.errors import BadInput


def configurations(engine: str | None) -> dict[str, dict[str, CoreConfig]]:
    """The named configurations of one engine, or of each."""
    return {each.name: each.configs
            for each in ([registry.engine(engine)] if engine else registry.engines())}


def configuration(name: str | None, engine: str) -> CoreConfig:
    """An engine's configuration by name, or its first."""
    return targets(engine, [name] if name else [])[0]


def targets(engine: str | None, names: list[str]) -> list[CoreConfig]:
    """The configurations that are named, one of an engine at most; without names the first of
    ``engine``, or of each."""
    kinds, found = configurations(engine), {}
    for name in names:
        kind = next((kind for kind, configs in kinds.items() if name in configs), None)
        if kind is None:
            known = ", ".join(name for configs in kinds.values() for name in configs)
            raise BadInput(f"there is no configuration '{name}'; choose one of {known}")
        if kind in found:
            raise BadInput(f"two configurations of {kind} are named; name one of each engine")
        found[kind] = kinds[kind][name]
    return list(found.values()) or [next(iter(configs.values())) for configs in kinds.values()]


def name_of(config: CoreConfig, otherwise: str | None = None) -> str:
    """The name of a named configuration; of another ``otherwise``, or its digest."""
    return next((name for name, named in registry.of(config).configs.items() if named == config),
                otherwise or config.digest())
