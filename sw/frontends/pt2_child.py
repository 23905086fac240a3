"""What reads a ``.pt2`` file with torch, in a process of its own with bounds on its memory:
``python -m zeroskip.sw.frontends.pt2_child FOLDER`` makes ``model.onnx`` of the ``model.pt2`` in a
folder.

It ends with 0; with 1 where the file cannot be read, of which it says why in a line.
"""

import resource
import sys
from pathlib import Path

import onnxscript  # noqa: F401  what torch imports later, so that it counts before the bound
import torch
import torch.onnx
from torch.export import ExportedProgram
from torch.export.pt2_archive._package import load_pt2

from zeroskip.sw.errors import BadInput
from zeroskip.sw.files import write
from zeroskip.sw.frontends.torch_frontend import reason, to_onnx

ROOM = 4 << 30
"""Bytes for reading and translating, in addition to :data:`TIMES` the file."""
TIMES = 8
SIZES = ("_operator", "builtins", "math", "torch")
"""Modules of the functions that work out sizes."""

MEMORY = "torch cannot read it (it takes too much memory); export the model to ONNX."


def main(folder: Path) -> int:
    """The exit code."""
    _bound(ROOM + TIMES * (folder / "model.pt2").stat().st_size)
    try:
        content = to_onnx(load(folder / "model.pt2"), ())
    except BadInput as error:
        print(error)
        return 1
    except MemoryError:
        print(MEMORY)
        return 1
    except Exception as error:
        if "can't allocate memory" in str(error):   # as torch says it
            print(MEMORY)
            return 1
        print(f"torch cannot read it ({reason(error)}); write it again with torch.export.save, or "
              "export to ONNX.")
        return 1
    write(folder / "model.onnx", content)
    return 0


def _bound(more: int) -> None:
    """No more memory than now and ``more`` bytes."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
    except OSError:     # where there is no Linux, all that is mapped is of the file
        pages = 0
    most = pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def load(path: Path) -> ExportedProgram:
    """The program in a file; ``ValueError`` where it calls anything but operators."""
    # torch.export.load tries older layouts where this fails, and forgets why
    program = load_pt2(str(path)).exported_programs["model"]
    for node in program.graph.nodes:
        if node.op == "call_function" and not isinstance(node.target, torch._ops.OpOverload) \
                and getattr(node.target, "__module__", None) not in SIZES:
            raise ValueError(f"{node.name} calls what is no operator")
    return program


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
