"""Command ``bench clock``: area and clock of both modes, placed and routed, and what they buy."""

from statistics import geometric_mean

from zeroskip.sw.cli.backend import chosen
from zeroskip.sw.cli.screen import Screen
from zeroskip.sw.experiments import benchmarks
from zeroskip.sw.experiments.benchmarks import MODES, Job, array_config

PES = 4

LAYERS = ("VGG-7", "Alex-8", "NT-LSTM")
"""Layers whose utilisation counts: one of each network, small."""


def clock(backend: str | None, screen: Screen) -> None:
    """See ``zeroskip bench clock --help``."""
    from zeroskip.fpga.families.ecp5 import ECP5
    from zeroskip.fpga.place import place
    from zeroskip.hw.eie.array import EIE
    from zeroskip.hw.eie.config import paper, zeroskip

    configs = {"paper": paper(PES), "zeroskip": zeroskip(PES)}
    rows = []
    with screen.progress(f"{PES} PEs") as update:
        for done, mode in enumerate(MODES):
            update(done, len(MODES), f"{mode}: cycles in RTL, then place and route")
            used = [benchmarks.run_job(Job(layer, "random", mode, array_config(mode, PES),
                                           mode == "zeroskip"), chosen(backend, screen))
                    for layer in LAYERS]
            placed = place(EIE(configs[mode]), chip=ECP5("85k"))
            useful = geometric_mean(figures.utilisation for figures in used)
            rows.append({
                "mode": mode, "lut": placed.lut / PES, "ff": placed.ff / PES,
                "bram": placed.bram / PES, "dsp": placed.dsp / PES, "fmax_mhz": placed.median,
                "utilisation": useful,
                "per_kilolut": useful * placed.median * PES / placed.lut * 1000,
                "per_bram": useful * placed.median * PES / placed.bram,
                "path": str(placed.paths[min(placed.paths)])})
    screen.table(f"ECP5, speed grade 6, {PES} PEs: per PE, control included; utilisation of "
                 f"{', '.join(LAYERS)}, random masks; useful Mega-MACs a second",
                 ["mode", "LUT", "FF", "block RAM", "DSP", "MHz", "useful", "per 1000 LUTs",
                  "per block RAM"], [list(row.values())[:-1] for row in rows])
    for row in rows:
        screen.text(f"critical path, {row['mode']}: {row['path']}")
    screen.result({"rows": rows})
