"""What people write in a step by mistake, and what to write instead: the sentences of the dry run and of graphs.

The dry run (`elman.cell`) runs a step on tensors, and finds what cannot work at all. Tracing (`elman.graph`) runs it on
symbols, and finds what runs in plain PyTorch only. Both take the remedy from here.
"""

from __future__ import annotations

import math
import re
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


class Mistake(Exception):
    """A step does something that no step can do. The message is a sentence without the cell's name.

    It is no TypeError, which torch's operators would take for a sign to try the other operand.
    """


class Undeclared(AttributeError):
    """A step asks for a name that its cell does not declare."""


DECIDES = "the step decides on a value (if, while, and, or); write torch.where(condition, v, w)"
_NUMBERS = "a step works on whole tensors: write torch's function of the value, such as torch.tanh(v)"
_PARTS = "gates are not cut out of larger values: declare a gate for each, and write x.f and x.n"
_JOINED = "values are not put side by side: give each its own gate, and add R.f @ v and R.n @ w"
_UNITS = "a step works unit by unit, and only products, means and sums read other units"
_OVER_UNITS = "write v.{0}(-1, {1}keepdim=True), over all units of a row"
_NORM = "write {0}(v, v.shape[-1:]{1}), over all units of a row, with weights for each unit, such as p.v"
_LENGTH = "torch.sqrt(v.square().sum(-1, keepdim=True) + 1e-12), over all units of a row"
_LEFT_OUT = "leave it out: what has one number for a row goes with values of every unit"
_SHAPE = "write v.mean(-1, keepdim=True), or layer_norm(v, v.shape[-1:])"
_CHANCE = "a step has no randomness, since backward runs it again: take dropout= or recurrent_dropout= of the layer, or give random values as a stream"
_PRODUCT = "a product is written R.n @ v, with a gate for its matrix"
_CUT = "a step is differentiated as it is written: cut gradients between calls, with elman.detach"
REPEATED = "a step depends on nothing but what it is given: keep a count as a state, or give random values as a stream"
OTHERWISE = "a step treats all that it is given alike, whatever its type"
NO_UNITS = "a mean or sum alone has no units"
WIDE = "a mean or sum goes with values of the width that it is of, hidden_size or proj_size"
_IN_PLACE = "a step changes no value in place: write v = v + w, or a new name"

LARGEST = torch.finfo(torch.float32).max

LEARNED = (
    "the step uses a learned tensor from outside; declare vectors=('v',) and read p.v, which has one weight for a unit"
)
OWN = "the step uses a {} from outside; write it as a plain number, or declare vectors=('v',) and read p.v"

# By the name of torch's function or method. These run in plain PyTorch, if they run at all.
_REMEDIES = (
    {"__bool__": DECIDES.partition("; ")[2]}
    | dict.fromkeys(("__getitem__", "chunk", "split", "narrow", "unbind", "select", "index_select", "gather"), _PARTS)
    | dict.fromkeys(("cat", "concat", "concatenate", "stack", "hstack", "vstack"), _JOINED)
    | {name: _OVER_UNITS.format(name, "") for name in ("sum", "mean")}
    | {name: _OVER_UNITS.format(name, "correction=0, ") for name in ("var", "std")}
    | {"layer_norm": _NORM.format("layer_norm", ""), "rms_norm": _NORM.format("rms_norm", ", eps=1e-5")}
    | {
        f"{name}_mean": f"write v.{name}(-1, correction=0, keepdim=True) and v.mean(-1, keepdim=True)"
        for name in ("var", "std")
    }
    | dict.fromkeys(("shape", "size", "numel", "ndim", "dim"), _SHAPE)
    | dict.fromkeys(("expand", "expand_as", "broadcast_to", "repeat"), _LEFT_OUT)
    | {"softmax": "write torch.exp(v) / torch.exp(v).sum(-1, keepdim=True), over all units of a row"}
    | {"logsumexp": "write torch.log(torch.exp(v).sum(-1, keepdim=True)), over all units of a row"}
    | dict.fromkeys(("norm", "linalg_norm", "linalg_vector_norm"), f"write {_LENGTH}")
    | {"normalize": f"write v / {_LENGTH}"}
    | dict.fromkeys(("log_softmax", "cumsum", "median", "nanmean", "nansum", "cosine_similarity"), _UNITS)
    | dict.fromkeys(("max", "min", "amax", "amin", "prod", "argmax", "sort", "topk", "any", "all"), _UNITS)
    | dict.fromkeys(("matmul", "mm", "bmm", "mv", "linear", "einsum", "dot", "__matmul__", "bilinear"), _PRODUCT)
    | dict.fromkeys(("detach", "data", "requires_grad_"), _CUT)
    | dict.fromkeys(("maximum", "minimum"), "to bound a value by a number, write torch.clamp(v, min=0.5)")
    | {
        "where": "write torch.where(v > 0, v, w), with a comparison first",
        "__format__": "elman.trace shows values by name",
    }
)
# These are refused, since their gradient is lost or another pass gives another result.
_REFUSED = dict.fromkeys(("item", "tolist", "numpy", "__array__", "__float__", "__int__", "__index__"), _NUMBERS)
_RANDOM = re.compile("^rand|dropout|bernoulli|multinomial|poisson|rrelu|gumbel|^normal$|uniform_|normal_|exponential_")


# What Python's versions say of State(v). The later ones make a dictionary of a value.
_UNNAMED = re.compile("no positional arguments expected|at most 1 positional argument|keywords must be strings")


def remedy(called: str) -> str:
    """What to write instead of torch's function or method of this name; empty where there is nothing to say."""
    if _RANDOM.search(called):
        return _CHANCE
    if called.endswith("_") and not called.startswith("_"):
        return _IN_PLACE
    return (_REMEDIES | _REFUSED).get(called, "")


class Watch(TorchFunctionMode):
    """Watches the functions of torch that a step calls on tensors, and turns what fails into a sentence.

    given: the tensors that the step is given, by what the step calls them.
    """

    def __init__(self, given: dict[str, Tensor]) -> None:
        super().__init__()
        self.given = {id(tensor): name for name, tensor in given.items()}
        self.last = ""  # the name of the function that was called last
        self.untyped = False  # whether a value was made of comparisons and plain numbers alone
        self.known: dict[int, tuple[Tensor, str]] = {id(tensor): (tensor, "") for tensor in given.values()}

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        called = getattr(function, "__name__", str(function))
        if _RANDOM.search(called) or (called in _REFUSED and id(args[0]) in self.known):
            raise Mistake(f"the step calls {_spoken(called)}; {remedy(called)}")
        in_place = (called.endswith("_") and not called.startswith("_")) or called.startswith(("__i", "__set"))
        if in_place and called != "__invert__" and id(args[0]) in self.given:
            raise Mistake(in_place_on(self.given[id(args[0])]))
        if (kwargs or {}).get("out") is not None:
            raise Mistake(f"the step calls {called} with out=; {_IN_PLACE}")
        self.last = called
        try:
            result = function(*args, **(kwargs or {}))
        except Mistake:
            raise
        except Exception as error:
            raise Mistake(self._why(called, args, kwargs or {}, error)) from error
        if isinstance(result, Tensor):
            read = [part for arg in args for part in (arg if isinstance(arg, (list, tuple)) else (arg,))]
            tensors = [part for part in read if isinstance(part, Tensor)]
            if tensors:  # else it is a tensor from outside
                self.know(result, called)
                self.untyped |= result.is_floating_point() and not any(t.is_floating_point() for t in tensors)
        return result

    def know(self, value: Tensor, made_by: str = "") -> Tensor:
        """Notes that a value is made of what the step is given, and returns it."""
        self.known.setdefault(id(value), (value, made_by))
        return value

    def _why(self, called: str, args: Any, kwargs: dict[str, Any], error: Exception) -> str:
        if called == "__bool__":
            return DECIDES
        numbers = [n for n in (*args, *kwargs.values()) if isinstance(n, float) and LARGEST < abs(n) < math.inf]
        if numbers and "overflow" in str(error):
            infinite = "math.inf" if numbers[0] > 0 else "-math.inf"
            return f"the step calls {called} with {numbers[0]}, but float32 ends at {LARGEST:.3g}; write {infinite}"
        if remedy(called):
            return f"the step calls {_spoken(called)}; {remedy(called)}"
        for tensor in args:
            if isinstance(tensor, Tensor) and id(tensor) not in self.known:
                return LEARNED if tensor.requires_grad else OWN.format(f"tensor of shape {tuple(tensor.shape)}")
        return f"the step calls {_spoken(called)}, which fails: {error}"

    def made_by(self, value: Tensor) -> str:
        """The name of the function that a value comes from, or an empty string if the step was given it."""
        return self.known.get(id(value), (value, ""))[1]


def in_place_on(name: str) -> str:
    return f"the step changes {name} in place; write v = {name} + w"


def _spoken(called: str) -> str:
    """The name of a method as people write it: `float()` for `__float__`."""
    names = {"__getitem__": "[]", "__array__": "a function of numpy", "__matmul__": "@"}
    return names.get(called, f"{called.strip('_')}()" if called.startswith("__") else called)


def failed(error: Exception, last: str) -> str:
    """The sentence for an error in a step outside torch's functions. last: the function that was called before it."""
    if _UNNAMED.search(str(error)):
        return "a State has names; write State(h=v), with the name of each state"
    called = re.match(r"(\w+)\(\)", str(error))
    hint = remedy(called[1] if called else last)
    return f"the step fails on one sequence of two units: {type(error).__name__}: {error}" + (
        f"; {hint}" if hint else ""
    )


def failed_at(state: Any, error: Exception) -> str:
    """The sentence for an error in a step that the dry run was spared, since other sizes or gradients brought it about."""
    sizes = ", ".join(f"{name} {tuple(value.shape)}" for name, value in vars(state).items())
    dtype = next(iter(state)).dtype
    if re.search("size|shape|dimension|broadcast", str(error)):
        remedy = "what it takes from outside must fit any number of sequences and units, as vectors and p do; "
        remedy += "means and sums over units keep their dimension (keepdim=True)"
    elif dtype != torch.float32:
        sizes, remedy = f"{sizes} of {dtype}", "make the layer of torch.float32, or write functions for this type"
    else:
        remedy = "write functions that return new values, and have gradients"
    return f"the step works on one sequence of two units, but fails on the state {sizes}: {error}; {remedy}"
