"""Command ``bench nodes``."""

from collections import Counter
from dataclasses import asdict

from zeroskip.hw import tools
from zeroskip.sw.cli.screen import Screen


def nodes(screen: Screen) -> None:
    """See ``zeroskip bench nodes --help``."""
    from zeroskip.sw.experiments import node_tests

    found = []
    with screen.progress("ONNX's node tests") as update, tools.scratch() as folder:
        cases = node_tests.cases()
        for case in cases:
            update(len(found), len(cases), case.name)
            found.append(node_tests.run(case, folder))
    rest = Counter(each.reason for each in found if not each.passed)
    screen.table(f"{sum(each.passed for each in found):,} of {len(found):,} of ONNX's node tests "
                 "give its values on the float graph; the rest", ["tests", "why"],
                 [[count, reason] for reason, count in rest.most_common()])
    screen.result({"passed": sum(each.passed for each in found), "of": len(found),
                   "rows": [asdict(each) for each in found if not each.passed]})
