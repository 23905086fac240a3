"""``zeroskip``: commands, options, exit codes.

Exit codes: 0 done, 1 the check failed, 2 bad input (one sentence on stderr), 3 a tool is
missing (with how to get it), 128 and the number of the signal that ended it. With ``--json`` the
sentence is the ``error`` of a JSON object on stdout.
"""

import errno
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from zeroskip.hw.netlist.emit import YosysError
from zeroskip.sw.cli import complete
from zeroskip.sw.cli.screen import Screen
from zeroskip.sw.engines import registry
from zeroskip.sw.errors import BadInput, EngineError, ToolMissing

# In help texts a bracket is written \\[: rich takes what stands in brackets for its markup.
app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False,
                  help="Open sparse-inference hardware, and the toolchain that feeds it.")
bench = typer.Typer(no_args_is_help=True, help="Measure, with the anchor beside our figure.")
app.add_typer(bench, name="bench")

Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No table and no progress.")]
Model = Annotated[Path, typer.Argument(help="An ONNX or .pt2 file.")]
Shapes = Annotated[list[str] | None, typer.Option(
    "--input-shape", help="The shape of an input that the file leaves open, with its batch, such "
    "as image:1,3,64,64; repeat for several.")]
RecipeFile = Annotated[Path, typer.Option("--recipe", help="A recipe in TOML.")]
DataFile = Annotated[Path | None, typer.Option(
    "--data", help="Samples in place of the recipe's, .npz: inputs by their names in the model, or "
    "x; y, labels or targets.")]
LossName = Annotated[str | None, typer.Option(
    "--loss", help="cross_entropy, of classes; mse, of numbers, the inputs where there are no "
    "targets; or a Python function of outputs and targets, module:name.")]
Plot = Annotated[Path | None, typer.Option(help="A .svg or .html file.")]
ProgramFile = Annotated[Path, typer.Argument(help="A compiled program, model.zsk.")]
Input = Annotated[Path, typer.Option(
    "--input", help="A .npy array, batch first, flat or in the model's shape; or an .npz file with "
    "an array for each input.")]
Raw = Annotated[bool, typer.Option(
    "--raw", help="Integers in and out, of the types that the program has.")]
Backend = Annotated[str | None, typer.Option(
    autocompletion=complete.backends,
    help="golden, python, cxxrtl, verilator or virtual; by default cxxrtl where a C++ compiler is "
    "found.")]
Config = Annotated[str | None, typer.Option(
    autocompletion=complete.configurations, help="A named configuration.")]
Layers = Annotated[str | None, typer.Option(
    autocompletion=complete.layers,
    help="Some of the paper's nine layers, with commas: Alex-6,NT-We.")]


def _version(wanted: bool) -> None:
    if wanted:
        print(f"zeroskip {version('zeroskip')}")
        raise typer.Exit


@app.callback()
def _options(_wanted: Annotated[bool, typer.Option(
        "--version", callback=_version, is_eager=True, help="Show the version.")] = False) -> None:
    pass


def output(text: str):
    """The option that says where a command writes its result."""
    return typer.Option("--output", "-o", help=text)


@app.command()
def demo(out: Annotated[Path, output("Folder of the report.")] = Path("demo"),
         backend: Backend = None, json: Json = False, quiet: Quiet = False) -> None:
    """Train, prune, pack and run digits models through the RTL of both engines; write a report."""
    from zeroskip.sw.cli.demo import demo as run
    run(out, backend, Screen(json, quiet))


@app.command()
def inspect(model: Annotated[Path, typer.Argument(
                help="An ONNX or .pt2 file, or a program, .zsk.")],
            input_shape: Shapes = None, json: Json = False, quiet: Quiet = False) -> None:
    """Show a model's layers and operators, the sparsity found, and what computes each.

    Of a program: its ports, steps, layers and buffers.
    """
    from zeroskip.sw.cli.inspection import inspect as run
    run(model, input_shape or [], Screen(json, quiet))


@app.command()
def prune(model: Model, recipe: RecipeFile,
          out: Annotated[Path | None, output(
              "The pruned model, of the same kind; its weights lie beside it as .safetensors. "
              "Without it: a dry run.")] = None,
          data: DataFile = None, loss: LossName = None,
          json: Json = False, quiet: Quiet = False) -> None:
    """Prune a model by a recipe, or say what the recipe would do to each layer."""
    from zeroskip.sw.cli.models import prune as run
    run(model, recipe, data, loss, out, Screen(json, quiet))


@app.command()
def scan(model: Model, recipe: RecipeFile,
         data: DataFile = None, loss: LossName = None, plot: Plot = None,
         json: Json = False, quiet: Quiet = False) -> None:
    """Accuracy, or loss, with each layer alone cut to some densities, by a recipe with data."""
    from zeroskip.sw.cli.ratios import scan as run
    run(model, recipe, data, loss, plot, Screen(json, quiet))


@app.command()
def search(model: Model, recipe: RecipeFile,
           method: Annotated[str, typer.Option(
               help="uniform, sensitivity, netadapt, amc or random.")],
           budget: Annotated[float, typer.Option(help="Of the model's own cost, 0 to 1.")],
           out: Annotated[Path, output("The recipe with the densities found, .toml.")],
           cost: Annotated[str, typer.Option(help="cycles, bytes or macs.")] = "cycles",
           target: Annotated[str | None, typer.Option(
               autocompletion=complete.configurations,
               help="A named configuration, of an engine whose cost is known.")] = None,
           evaluations: Annotated[int | None, typer.Option(
               help="Networks that amc or random tries; 400.")] = None,
           data: DataFile = None, loss: LossName = None,
           json: Json = False, quiet: Quiet = False) -> None:
    """Find a density for each layer, so that the model costs no more than a budget."""
    from zeroskip.sw.cli.ratios import search as run
    run(model, recipe, data, loss, method, budget, cost, target, evaluations, out,
        Screen(json, quiet))


@app.command("compile")
def compile_(model: Model,
             out: Annotated[Path, output(
                 "The program, model.zsk; beside it lies model.reference.safetensors.")],
             calibration: Annotated[Path | None, typer.Option(
                 help="Inputs, .npy, batch first, flat or in the model's shape, or an .npz file "
                 "with an array for each input; not for a model that is quantised.")] = None,
             engine: Annotated[str | None, typer.Option(
                 autocompletion=complete.engines,
                 help=f"{' or '.join(registry.names())}; by default each layer on the one that "
                 "takes fewer cycles.")] = None,
             target: Annotated[list[str] | None, typer.Option(
                 autocompletion=complete.configurations,
                 help="A named configuration, of each engine one; by default the smallest that "
                 "hold the model.")] = None,
             batch: Annotated[int | None, typer.Option(
                 help="Samples that a core takes together, by default 8; 1 for the quickest "
                 "answer, more for fewer cycles a sample.")] = None,
             placement: Annotated[Path | None, typer.Option(
                 help="A .toml file that says which engine computes a layer: \\[layers] and lines "
                 "such as \"fc*\" = \"eie\".")] = None,
             calibration_method: Annotated[str, typer.Option(
                 help="How the samples set the range of each value: min-max, percentile (without "
                 "the 0.01 % of greatest magnitudes) or mse (least squared error).")] = "min-max",
             smooth: Annotated[bool, typer.Option(
                 "--smooth", help="Move outlier channels behind layer normalisation, and between "
                 "linear layers, into int8 weights, where the samples say that it helps.")] = False,
             input_shape: Shapes = None,
             json: Json = False, quiet: Quiet = False) -> None:
    """Quantise, pack and prove a model for the engines of some configurations."""
    from zeroskip.sw.cli.models import compile_model as run
    run(model, calibration, out, engine, target or [], batch, placement, calibration_method,
        smooth, input_shape or [], Screen(json, quiet))


@app.command("export-c")
def export_c(program: ProgramFile,
             out: Annotated[Path, output("The header, .h; its name is that of the image.")],
             json: Json = False, quiet: Quiet = False) -> None:
    """Write a program as constants for a C program on its host; see examples/c."""
    from zeroskip.sw.cli.programs import export_c as run
    run(program, out, Screen(json, quiet))


@app.command()
def run(program: ProgramFile, input: Input,  # noqa: A002 - the option is called --input
        out: Annotated[Path, output("The outputs, .npy, or .npz of each by its name.")],
        backend: Backend = None,
        device: Annotated[str | None, typer.Option(
            autocompletion=complete.devices,
            help="The serial port of a board, or virtual: a board that is simulated down to its "
            "serial pins.")] = None,
        report: Annotated[Path | None, typer.Option(
            help="A page about the run, .html: its layers, what the host did, the graph.")] = None,
        model: Annotated[Path | None, typer.Option(
            help="The ONNX model that the program was compiled from, for the report: how far each "
            "layer is from it.")] = None,
        input_shape: Shapes = None,
        raw: Raw = False, json: Json = False, quiet: Quiet = False) -> None:
    """Run inputs through a program.

    Outputs are real values, or the int32 sums of a model that gives them; with --raw they are
    integers, those of a uint8 model less 128.
    """
    from zeroskip.sw.cli.programs import run as run_program
    run_program(program, input, out, backend, device, report, model, input_shape or [], raw,
                Screen(json, quiet))


@app.command()
def verify(program: ProgramFile, input: Input,  # noqa: A002
           backends: Annotated[str | None, typer.Option(
               "--backend", autocompletion=complete.pairs,
               help="Two backends, with a comma; by default golden and the fastest RTL.")] = None,
           model: Annotated[Path | None, typer.Option(
               help="The ONNX model that the program was compiled from, as a third opinion.")]
           = None,
           input_shape: Shapes = None,
           raw: Raw = False, json: Json = False, quiet: Quiet = False) -> None:
    """Compare every output of every layer between two backends; exit 1 on a difference.

    With --model each layer of the float model also runs in onnxruntime, on what golden's inputs
    stand for, and golden's outputs must be as near to it as the integers allow.
    """
    from zeroskip.sw.cli.programs import verify as run
    run(program, input, backends, model, input_shape or [], raw, Screen(json, quiet))


@app.command("eval")
def eval_(program: ProgramFile,
          data: Annotated[Path, typer.Option(
              help="An .npz file with an array for each input, batch first, and labels (integers: "
              "classes, or each twice, for a question and its answer) or targets.")],
          task: Annotated[str, typer.Option(
              help="classification, regression or retrieval.")] = "classification",
          model: Annotated[Path | None, typer.Option(
              help="The float model that the program was compiled from, .onnx or .pt2, beside "
              "it.")] = None,
          samples: Annotated[int, typer.Option(
              help="Of the first samples, those that a simulator runs too; 0 for none.")] = 16,
          backend: Annotated[str | None, typer.Option(
              autocompletion=complete.backends,
              help="The simulator; by default the fastest that is found.")] = None,
          sensitivity: Annotated[bool, typer.Option(
              "--sensitivity", help="Also quantise one layer of the float model at a time, and "
              "list what each costs.")] = False,
          calibration: Annotated[Path | None, typer.Option(
              help="Samples that set the scales for --sensitivity, .npy or .npz.")] = None,
          input_shape: Shapes = None,
          json: Json = False, quiet: Quiet = False) -> None:
    """Show how good a program is at its task: accuracy, R2 and RMSE, or recall."""
    from zeroskip.sw.cli.evaluate import evaluate_program as run
    run(program, data, task, model, input_shape or [], samples, backend, calibration, sensitivity,
        Screen(json, quiet))


@app.command()
def convert(source: Annotated[Path, typer.Argument(metavar="IN", help="A safetensors file.")],
            out: Annotated[Path, output("The file to write, .safetensors.")],
            to: Annotated[str, typer.Option(help="torch, ptx, bitmask or dense.")],
            json: Json = False, quiet: Quiet = False) -> None:
    """Rewrite a file's 2:4 matrices (float32: 1:2 for torch and ptx) in another form."""
    from zeroskip.sw.cli.convert import convert as run
    run(source, out, to, Screen(json, quiet))


@bench.command("eie")
def bench_eie(pes: Annotated[int, typer.Option(help="Processing elements.")] = 64,
              layers: Layers = None,
              mode: Annotated[str | None, typer.Option(help="paper, zeroskip; both.")] = None,
              mask: Annotated[str | None, typer.Option(
                  help="random, skewed, balanced; the first two.")] = None,
              matrix: Annotated[Path | None, typer.Option(
                  help=".npz of a scipy sparse matrix, \\[out, in].")] = None,
              plot: Plot = None,
              backend: Backend = None, json: Json = False, quiet: Quiet = False) -> None:
    """Cycles of the paper's nine layers in RTL, where they went, and the paper's beside."""
    from zeroskip.sw.cli.bench_eie import eie as run
    run(pes, layers, mode, mask, matrix, plot, backend, Screen(json, quiet))


@bench.command("scaling")
def bench_scaling(layers: Layers = None, backend: Backend = None,
                  json: Json = False, quiet: Quiet = False) -> None:
    """Cycles on 1 to 256 PEs in RTL, with and without column groups; Alex-7 and NT-We."""
    from zeroskip.sw.cli.bench_eie import scaling as run
    run(layers, backend, Screen(json, quiet))


@bench.command("ablation")
def bench_ablation(layers: Layers = None, backend: Backend = None,
                   json: Json = False, quiet: Quiet = False) -> None:
    """From the paper's array to this one in RTL, one improvement after another."""
    from zeroskip.sw.cli.bench_eie import ablation as run
    run(layers, backend, Screen(json, quiet))


@bench.command("tensorcore")
def bench_tensorcore(config: Config = None, backend: Backend = None,
                     json: Json = False, quiet: Quiet = False) -> None:
    """Cycles of matrix products in RTL, with 2:4 weights and with dense ones."""
    from zeroskip.sw.cli.bench import tensorcore as run
    run(config, backend, Screen(json, quiet))


@bench.command("models")
def bench_models(net: Annotated[list[str] | None, typer.Option(
                     autocompletion=complete.nets,
                     help="One of the nets; repeat for several; all everyday ones. By name "
                     "alone: ds_cnn, mobilenet_v1, resnet_8, autoencoder (MLPerf Tiny), "
                     "resnet_18, mobilenet_v2.")] = None,
                 backend: Backend = None, json: Json = False, quiet: Quiet = False) -> None:
    """Everyday torch nets in three exports: read, compiled, run in RTL, compared."""
    from zeroskip.sw.cli.bench_models import models as run
    run(net, backend, Screen(json, quiet))


@bench.command("nodes")
def bench_nodes(json: Json = False, quiet: Quiet = False) -> None:
    """ONNX's own tests of single operators, read and evaluated."""
    from zeroskip.sw.cli.bench_nodes import nodes as run
    run(Screen(json, quiet))


@bench.command("sequences")
def bench_sequences(backend: Backend = None, json: Json = False, quiet: Quiet = False) -> None:
    """An LSTM and a convolution over time, trained on waves: accuracy as float, golden and RTL."""
    from zeroskip.sw.cli.bench_sequences import sequences as run
    run(backend, Screen(json, quiet))


@bench.command("passes")
def bench_passes(layer: Annotated[list[str] | None, typer.Option(
                     help="vgg-fc6, ddddocr or small; repeat for several; all.")] = None,
                 config: Config = None,
                 images: Annotated[int, typer.Option(help="Samples to run, 1 to 8.")] = 8,
                 backend: Backend = None, json: Json = False, quiet: Quiet = False) -> None:
    """Layers that an EIE array does not hold, in RTL: exact, what is loaded, what it takes."""
    from zeroskip.sw.cli.bench_passes import passes as run
    run(layer, config, images, backend, Screen(json, quiet))


@bench.command("area")
def bench_area(config: Config = None, json: Json = False, quiet: Quiet = False) -> None:
    """Logic cells of a tensor core, and of the same array without its operand select."""
    from zeroskip.sw.cli.bench import area as run
    run(config, Screen(json, quiet))


@bench.command("pack")
def bench_pack(json: Json = False, quiet: Quiet = False) -> None:
    """Pack 4096 x 9216 at 9 % into 64 PEs, beside scipy's csc_matrix."""
    from zeroskip.sw.cli.bench import pack as run
    run(Screen(json, quiet))


@bench.command("clock")
def bench_clock(backend: Backend = None, json: Json = False, quiet: Quiet = False) -> None:
    """Area and clock of 4 PEs on an ECP5 after place and route, in both modes."""
    from zeroskip.sw.cli.clock import clock as run
    run(backend, Screen(json, quiet))


@bench.command("formats")
def bench_formats(json: Json = False, quiet: Quiet = False) -> None:
    """Bits per weight of the nine layers in other formats, with counts and with pointers."""
    from zeroskip.sw.cli.formats import formats as run
    run(Screen(json, quiet))


@bench.command("accuracy")
def bench_accuracy(json: Json = False, quiet: Quiet = False) -> None:
    """Accuracy of the digits model pruned in banks, and without a pattern at the same density."""
    from zeroskip.sw.cli.accuracy import accuracy as run
    run(Screen(json, quiet))


@bench.command("pruning")
def bench_pruning(json: Json = False, quiet: Quiet = False) -> None:
    """Every pruning method where it is at its best, on digits: accuracy, weights, MACs."""
    from zeroskip.sw.cli.pruning import pruning as run
    run(Screen(json, quiet))


@bench.command("fashion")
def bench_fashion(backend: Backend = None, json: Json = False, quiet: Quiet = False) -> None:
    """LeNet-300-100 on Fashion-MNIST: how far it shrinks, and that the RTL computes it."""
    from zeroskip.sw.cli.fashion import bench as run
    run(backend, Screen(json, quiet))


@bench.command("sentences")
def bench_sentences(json: Json = False, quiet: Quiet = False) -> None:
    """A sentence encoder at 2:4, pruned by three methods without training: what it still finds."""
    from zeroskip.sw.cli.sentences import bench as run
    run(Screen(json, quiet))


@bench.command("encoder")
def bench_encoder(config: Config = "tc-64", count: Annotated[int, typer.Option(
                      "--sentences", min=1, help="Sentences to run in RTL.")] = 8,
                  backend: Backend = None, json: Json = False, quiet: Quiet = False) -> None:
    """MiniLM on a tensor core, dense and at 2:4: exact, cosine, recall, cycles."""
    from zeroskip.sw.cli.bench_encoder import bench as run
    run(config or "tc-64", count, backend, Screen(json, quiet))


@bench.command("search")
def bench_search(json: Json = False, quiet: Quiet = False) -> None:
    """Ways to choose densities for the digits model, at the same budget of cycles."""
    from zeroskip.sw.cli.search_bench import search as run
    run(Screen(json, quiet))


@bench.command("sim")
def bench_sim(json: Json = False, quiet: Quiet = False) -> None:
    """Cycles per second of each backend on arrays of 1, 4, 16 and 64 PEs."""
    from zeroskip.sw.cli.bench import sim as run
    run(Screen(json, quiet))


@app.command()
def verilog(core: Annotated[str, typer.Argument(
                autocompletion=complete.cores,
                help=f"{', '.join(registry.names())} or accelerator")],
            out: Annotated[Path, output("The Verilog file, .v or .sv.")],
            config: Annotated[str | None, typer.Option(
                autocompletion=complete.configurations,
                help="A named configuration; of an accelerator one or two, with a comma.")] = None,
            json: Json = False, quiet: Quiet = False) -> None:
    """Write a core as Verilog, with its ports (.json) and lint waivers (.vlt) beside it.

    An accelerator is one core or several behind the registers of the host link, which are written
    as SystemRDL (.rdl) too.
    """
    from zeroskip.sw.cli.gateware import verilog as run
    run(core, out, config, Screen(json, quiet))


@app.command()
def build(board: Annotated[str, typer.Option(
              autocompletion=complete.boards,
              help="Such as icebreaker or ulx3s-85f; an unknown name shows them all.")],
          out: Annotated[Path, output("Folder of the bitstream, report.json and report.html.")],
          config: Annotated[str | None, typer.Option(
              autocompletion=complete.designs,
              help="A configuration of this board; by default its first.")] = None,
          json: Json = False, quiet: Quiet = False) -> None:
    """Build a board's bitstream; a missed clock is an error."""
    from zeroskip.sw.cli.build import build as run
    run(board, config, out, Screen(json, quiet))


@app.command()
def doctor(warm: Annotated[bool, typer.Option(
               "--warm", help="Run each tool from PyPI once: the first time takes a minute.")
               ] = False,
           json: Json = False, quiet: Quiet = False) -> None:
    """Show which tools are there, and how to get the others."""
    from zeroskip.sw.cli.gateware import doctor as run
    run(warm, Screen(json, quiet))


def main() -> None:
    """Runs the command that the arguments name; see :mod:`zeroskip.sw.cli.entry`."""
    try:
        if "--json" in sys.argv:    # typer itself would say what is wrong with a command line
            sys.exit(app(standalone_mode=False) or 0)
        app()
    except USAGE as error:
        _stop(error.format_message(), error.exit_code)
    except BadInput as error:
        _stop(error, 2)
    except (ToolMissing, YosysError) as error:
        _stop(error, 3)
    except MemoryError:
        _stop("the model or its data need more memory than there is; give fewer inputs at a time, "
              "or a smaller model", 2)
    except ImportError as error:
        if _UNMAPPED not in str(error):
            raise
        _stop("there is too little memory to load the libraries of this command; raise the limit "
              "of memory, which 'ulimit -v' shows", 2)
    except TimeoutError as error:
        _stop(f"the core does not answer: {error}", 1)
    except EngineError as error:
        _stop(error, 1)
    except OSError as error:
        _stop(f"{error.filename or 'the output'}: {error.strerror or error}; {_remedy(error)}", 2)


USAGE = typer.BadParameter.__mro__[1]
"""What a command line that is none raises; typer has a name for this kind of it only."""

_UNMAPPED = "failed to map segment"
"""What the system says of a library for which there is no memory."""


def _remedy(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room there, or choose another path"
    if error.errno == errno.EFBIG:
        return "raise the limit of a file's size, which 'ulimit -f' shows"
    return "choose another path or change its permissions"


def _stop(message, code: int) -> None:
    """Ends with a sentence: on stderr, or with ``--json`` in an object on stdout."""
    if "--json" in sys.argv:
        print(json.dumps({"error": str(message)}))
    else:
        print(f"zeroskip: {message}", file=sys.stderr)
    sys.exit(code)
