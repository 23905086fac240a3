"""Files of ``torch.export.save`` (``.pt2``), written anew from nothing but what is known to be
harmless in them.

``torch.export.load`` runs what a file says in many places: it unpickles weights, constants, objects
and sample inputs, gives sizes to ``sympy.sympify``, imports what tree specs name, puts names into
Python that it compiles, and loads libraries. So a file is parsed here by a grammar, without torch,
and what the grammar knows is all that torch gets to see. Layout and names of fields:
``torch/_export/serde/schema.py``, version 8, which torch 2.10 and later write.
"""

import ast
import io
import json
import re
import zipfile
import zlib
from collections.abc import Callable, Mapping
from math import prod
from typing import Any

from zeroskip.sw.errors import BadInput
from zeroskip.sw.formats import zipped
from zeroskip.sw.formats.tensorfile import parse_json

SCHEMA = 8
ITEM_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 2, 7: 4, 8: 8, 12: 1, 13: 2}
"""Bytes of the types that have an ONNX type, by ``ScalarType``."""

LARGEST = (1 << 63) - 1
MOST_VALUES = 1 << 40
"""Most values of a tensor."""

NAME = re.compile(r"(?!__)[A-Za-z_][A-Za-z0-9_]{0,999}")
"""A name in the graph. torch compiles Python with it."""
PATH = re.compile(r"(?!__)[\w/:-]+(\.(?!__)[\w/:-]+)*", re.ASCII)
"""A parameter or buffer of the module."""
OPERATOR = re.compile(r"torch\.ops\.aten\.(?!from_file\b)(_?[a-z]\w*|__[a-z]+__)\.[A-Za-z]\w*",
                      re.ASCII)
ON_SIZES = re.compile(r"_operator\.(add|sub|mul|floordiv|truediv|mod|neg)|"
                      r"math\.(ceil|floor|trunc)|torch\.sym_(float|int|max|min|sum)")
"""What torch.export writes of Python's arithmetic on sizes."""
SYMBOL = re.compile(r"[su]\d{1,4}")
FUNCTIONS = ("Add", "CeilDiv", "CeilToInt", "FloorDiv", "FloorToInt", "IntTrueDiv", "Max", "Min",
             "Mod", "Mul", "PythonMod", "ToFloat", "TruncToInt")
LONGEST = 10_000
"""Characters of an expression."""
TREES = {"builtins.tuple": None, "builtins.list": None, "builtins.dict": list}
"""Kinds of tree specs and what their context is."""


def rebuild(content: bytes, source: str) -> bytes:
    """The ``.pt2`` file ``content`` without what torch would run; ``source`` is its name in
    messages.

    Sample inputs, stack traces and guards on inputs are left out unread: nothing depends on them.
    Raises BadInput where the model needs what is not known here, or where this is no such file.
    """
    try:
        return _rebuild(content, source)
    except BadInput:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError) as error:
        raise BadInput(f"{source} is not a complete .pt2 file; write it again with "
                       "torch.export.save.") from error
    except (ArithmeticError, AttributeError, LookupError, RecursionError, RuntimeError, TypeError,
            ValueError) as error:
        raise BadInput(f"{source} is not laid out as torch.export.save of torch 2.10 or later "
                       "writes it; write it again, or export to ONNX.") from error


def _rebuild(content: bytes, source: str) -> bytes:
    archive = zipped.opened(io.BytesIO(content))
    names = archive.namelist()
    library = next((name for name in names if "/data/aotinductor/" in name), None)
    if library is not None:
        raise BadInput(f"{source} holds a compiled library ({library}), which could do anything; "
                       "write the program with torch.export.save.")
    path, = (name for name in names if re.fullmatch(r"[^/]+/models/[^/]+\.json", name))
    root, _, model = path.removesuffix(".json").split("/")
    program = parse_json(archive.read(path).decode())
    version = program["schema_version"]["major"]
    if version != SCHEMA:
        raise BadInput(f"{source} has version {version} of torch's schema, and only {SCHEMA} can "
                       "be read; export the model to ONNX.")
    if archive.read(f"{root}/byteorder") != b"little":
        raise BadInput(f"{source} holds big-endian weights; export the model to ONNX.")
    try:
        program = PROGRAM(program)
    except Refused as refused:
        raise BadInput(f"{source} {refused}.") from None
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as new:
        # torch takes the name of the first for that of the archive
        for member, text in (("archive_format", "pt2"), ("archive_version", "0"),
                             ("byteorder", "little"), (".data/version", "3\n"),
                             ("data/sample_inputs/model.pt", ""),
                             ("models/model.json", json.dumps(program))):
            new.writestr(f"model/{member}", text)
        for folder, member in (("weights", r"weight_\d+"), ("constants", r"tensor_\d+")):
            config = f"data/{folder}/{{}}_{folder}_config.json"
            entries = parse_json(archive.read(
                f"{root}/{config.format(model)}").decode())["config"]
            _refuse_objects(entries, source)
            entries = mapped(PATH, _payload(member))(entries)
            for own in sorted({entry["path_name"] for entry in entries.values()}):
                data = archive.read(f"{root}/data/{folder}/{own}")
                for entry in entries.values():
                    if entry["path_name"] == own:
                        _check_inside(entry["tensor_meta"], len(data))
                new.writestr(f"model/data/{folder}/{own}", data)
            new.writestr(f"model/{config.format('model')}", json.dumps({"config": entries}))
    return file.getvalue()


def _refuse_objects(entries: Mapping[str, Any], source: str) -> None:
    for name, entry in entries.items():
        if entry["use_pickle"] is not False or entry["tensor_meta"] is None:
            raise BadInput(f"{source} holds {name!r} as a pickle, which could run code; export "
                           "the model with plain tensors, or to ONNX.")


def _check_inside(meta: Mapping[str, Any], stored: int) -> None:
    """A tensor has no more values than are stored, and all of them there."""
    sizes, strides = ([each["as_int"] for each in meta[key]] for key in ("sizes", "strides"))
    item = ITEM_SIZES[meta["dtype"]]
    last = meta["storage_offset"]["as_int"] + sum(
        (size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    if stored % item or prod(sizes) * item > stored \
            or (prod(sizes) and (last + 1) * item > stored):
        raise ValueError("a tensor is outside what is stored")


class Refused(ValueError):
    """Something that torch writes, but that is not read here; the text says what and what to do."""


Rule = Callable[[Any], Any]
"""Gives what it knows of a JSON value; ``ValueError`` where it is another one."""


def text(pattern: re.Pattern[str]) -> Rule:
    """A string of this form."""
    def rule(value):
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise ValueError(f"{value!r:.99} is not of the form {pattern.pattern}")
        return value
    return rule


def one_of(*values) -> Rule:
    """One of some values."""
    def rule(value):
        return values[[(type(each), each) for each in values].index((type(value), value))]
    return rule


def integer(least: int = -LARGEST - 1, greatest: int = LARGEST) -> Rule:
    """An integer between bounds."""
    def rule(value):
        if type(value) is not int or not least <= value <= greatest:
            raise ValueError(f"{value!r:.99} is no integer from {least} to {greatest}")
        return value
    return rule


def number(value):
    """A float; torch writes those that are no number as strings."""
    if type(value) not in (int, float) and value not in ("Infinity", "-Infinity", "NaN"):
        raise ValueError(f"{value!r:.99} is no number")
    return value


def listed(item: Rule) -> Rule:
    """A list."""
    def rule(value):
        if not isinstance(value, list):
            raise ValueError("no list")
        return [item(each) for each in value]
    return rule


def mapped(key: re.Pattern[str], item: Rule) -> Rule:
    """An object whose keys are names."""
    return lambda value: {text(key)(name): item(each) for name, each in value.items()}


def optional(rule: Rule) -> Rule:
    """None or something else."""
    return lambda value: None if value is None else rule(value)


def record(newer: tuple[str, ...] = (), **fields: Rule) -> Rule:
    """An object of which only these fields stay; ``newer`` are those that older files lack."""
    return lambda value: {name: rule(value[name]) for name, rule in fields.items()
                          if name in value or name not in newer}


def union(**kinds: Rule) -> Rule:
    """An object of one field, its kind."""
    def rule(value):
        (kind, content), = value.items()
        return {kind: kinds[kind](content)}
    return rule


def empty(what: str) -> Rule:
    """What must not be there."""
    def rule(value):
        if value:
            raise Refused(f"holds {what}, which is not read; export the model without, or to ONNX")
        return type(value)()
    return rule


def refused(what: str) -> Rule:
    """A kind that torch writes."""
    def rule(_value):
        raise Refused(f"holds {what}, which is not read; export the model without, or to ONNX")
    return rule


def expression(value):
    """A size: integers, symbols, sums, products, quotients, the greatest and the least."""
    try:
        if len(value) > LONGEST:
            raise ValueError("it is too long")
        _check_expression(ast.parse(value, mode="eval").body)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise Refused(f"holds the size {value!r:.99}, which is more than arithmetic; export the "
                      "model with inputs of fixed sizes") from error
    return value


def _check_expression(node: ast.expr) -> None:
    operands: list[ast.expr] = []
    match node:
        case ast.Constant(value=int() as value) if type(value) is int and value <= LARGEST:
            pass
        case ast.Name(id=symbol) if SYMBOL.fullmatch(symbol):
            pass
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            operands = [inner]
        case ast.BinOp(op=ast.Add() | ast.Sub() | ast.Mult() | ast.FloorDiv(), left=a, right=b):
            operands = [a, b]
        case ast.Call(func=ast.Name(id="Symbol"), args=[ast.Constant(value=str() as symbol)],
                      keywords=flags) if SYMBOL.fullmatch(symbol) and all(map(_is_flag, flags)):
            pass
        case ast.Call(func=ast.Name(id="Integer"), args=[inner], keywords=[]) \
                if type(ast.literal_eval(inner)) is int:
            operands = [inner]
        case ast.Call(func=ast.Name(id="Pow"), keywords=[], args=[
                ast.Call(func=ast.Name(id="Symbol")) as base,
                ast.Call(func=ast.Name(id="Integer"), keywords=[],
                         args=[ast.Constant(value=int() as power)])]) if 0 <= power <= 8:
            operands = [base]
        case ast.Call(func=ast.Name(id=function), args=operands, keywords=[]) \
                if function in FUNCTIONS:
            pass
        case _:
            raise ValueError("no arithmetic")
    for each in operands:
        _check_expression(each)


def _is_flag(keyword: ast.keyword) -> bool:
    """Whether this is what torch assumes of a symbol."""
    return keyword.arg in ("integer", "positive", "nonnegative") \
        and isinstance(keyword.value, ast.Constant) and keyword.value.value is True


def operator(value):
    """The target of a node."""
    if not isinstance(value, str):
        raise ValueError("no name")
    if not OPERATOR.fullmatch(value) and not ON_SIZES.fullmatch(value):
        kind = "no operator of torch's own"
        if value.startswith("torch.ops.higher_order"):
            kind = "control flow or a change of mode, as by torch.no_grad"
        raise Refused(f"calls {value[:99]!r}, which is {kind}; export the model without it")
    return value


def tree(value):
    """A tree spec: the JSON of ``torch.utils._pytree.treespec_dumps``."""
    version, root = parse_json(value)
    return json.dumps([one_of(1)(version), _branch(root)])


def _branch(value):
    kind, children = value["type"], value["children_spec"]
    if kind is None:
        return {"type": None, "context": None, "children_spec": listed(_branch)(children)[:0]}
    if kind not in TREES:
        raise Refused(f"takes or returns a {kind!r:.99}; let the model take and return tensors, in "
                      "tuples, lists and dicts at most")
    context = parse_json(value["context"])
    keys = one_of(None)(context) if TREES[kind] is None else listed(text(NAME))(context)
    return {"type": kind, "context": json.dumps(keys), "children_spec": listed(_branch)(children)}


def _few(rule: Rule) -> Rule:
    """A tensor's metadata, where it does not have too many values."""
    def checked(value):
        found = rule(value)
        if prod(size.get("as_int", 1) for size in found["sizes"]) > MOST_VALUES \
                or len(found["sizes"]) != len(found["strides"]):
            raise ValueError("a tensor is too large")
        return found
    return checked


def cpu(_value):
    """Every device: that of the computer that reads the file."""
    return {"type": "cpu", "index": None}


boolean = one_of(False, True)
natural = integer(0)
name = text(NAME)
named = record(name=name)
string = text(re.compile(r"[\w .,:>/+-]{0,999}", re.ASCII))
dtype = one_of(*ITEM_SIZES)

HINT = optional(union(as_int=natural, as_float=number))
SIZE = union(as_int=natural, as_expr=record(("hint",), expr_str=expression, hint=HINT))
REAL = union(as_float=number, as_expr=record(("hint",), expr_str=expression, hint=HINT))


def _tensor(size: Rule) -> Rule:
    return _few(record(dtype=dtype, sizes=listed(size), requires_grad=boolean, device=cpu,
                       strides=listed(size), storage_offset=size, layout=one_of(7)))


def _payload(member: str) -> Rule:
    return record(path_name=text(re.compile(member)), is_param=boolean, use_pickle=one_of(False),
                  tensor_meta=_tensor(union(as_int=natural)))


SYM_INT = union(as_name=name, as_int=integer())
SYM_FLOAT = union(as_name=name, as_float=number)
MAYBE_TENSOR = union(as_tensor=named, as_none=boolean)
ARGUMENT = union(
    as_none=boolean, as_tensor=named, as_tensors=listed(named), as_int=integer(),
    as_ints=listed(integer()), as_float=number, as_floats=listed(number), as_string=string,
    as_strings=listed(string), as_sym_int=SYM_INT, as_sym_ints=listed(SYM_INT),
    as_sym_float=SYM_FLOAT, as_sym_floats=listed(SYM_FLOAT), as_scalar_type=dtype,
    as_memory_format=integer(1, 4), as_layout=one_of(7), as_device=cpu, as_bool=boolean,
    as_bools=listed(boolean), as_optional_tensor=MAYBE_TENSOR,
    as_optional_tensors=listed(MAYBE_TENSOR), as_graph=refused("control flow"),
    as_custom_obj=refused("an object of its own"), as_sym_bool=refused("a size that is compared"))

NODE = record(
    ("name", "is_hop_single_tensor_return"), target=operator,
    inputs=listed(record(("kind",), name=name, arg=ARGUMENT, kind=optional(integer(1, 2)))),
    outputs=listed(ARGUMENT), metadata=lambda _value: {}, name=optional(name),
    is_hop_single_tensor_return=one_of(None))
GRAPH = record(
    ("sym_float_values", "is_single_tensor_return", "custom_obj_values"),
    inputs=listed(ARGUMENT), outputs=listed(ARGUMENT), nodes=listed(NODE),
    tensor_values=mapped(NAME, _tensor(SIZE)), sym_int_values=mapped(NAME, SIZE),
    sym_bool_values=empty("sizes that are compared"), sym_float_values=mapped(NAME, REAL),
    is_single_tensor_return=one_of(False), custom_obj_values=empty("objects of its own"))
INPUT = union(
    user_input=record(arg=ARGUMENT),
    parameter=record(arg=named, parameter_name=text(PATH)),
    buffer=record(arg=named, buffer_name=text(PATH), persistent=boolean),
    tensor_constant=record(arg=named, tensor_constant_name=text(PATH)),
    constant_input=record(name=name, value=union(
        as_none=boolean, as_int=integer(), as_float=number, as_string=string, as_bool=boolean)),
    custom_obj=refused("an object of its own"), token=refused("side effects"))
OUTPUT = union(
    user_output=record(arg=ARGUMENT),
    buffer_mutation=record(arg=named, buffer_name=text(PATH)),
    **{kind: refused("training or side effects") for kind in (
        "loss_output", "gradient_to_parameter", "gradient_to_user_input", "user_input_mutation",
        "token", "parameter_mutation")})
CALL = record(
    ("forward_arg_names",),
    inputs=listed(ARGUMENT), outputs=listed(ARGUMENT), in_spec=tree, out_spec=tree,
    forward_arg_names=optional(listed(name)))


def _calls(value):
    """How the module itself is called; its parts are not."""
    return [{"fqn": "", "signature": CALL(entry["signature"])}
            for entry in value if entry["fqn"] == ""]


PROGRAM = record(
    ("verifiers", "torch_version", "guards_code"),
    graph_module=record(
        ("metadata", "treespec_namedtuple_fields"),
        graph=GRAPH, signature=record(input_specs=listed(INPUT), output_specs=listed(OUTPUT)),
        module_call_graph=_calls, metadata=lambda _value: {},
        treespec_namedtuple_fields=lambda _value: {}),
    opset_version=record(aten=integer(1, 1000)),
    range_constraints=mapped(SYMBOL, record(
        min_val=optional(integer()), max_val=optional(integer()))),
    schema_version=record(major=integer(), minor=integer()),
    verifiers=listed(one_of("ATEN", "TRAINING")),
    torch_version=text(re.compile(r"[\w.+<= -]{1,99}", re.ASCII)),
    guards_code=lambda _value: [])
