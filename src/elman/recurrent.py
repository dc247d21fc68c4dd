"""Any cell, stacked, in one or two directions. Constructor, shapes, names and errors are the same as in torch.nn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import dropout as drop
from torch.nn.utils.rnn import PackedSequence

from elman import native
from elman.cell import Cell
from elman.checks import (
    as_rows,
    check_arguments,
    check_input,
    check_rows,
    check_state,
    check_streams,
    check_width,
    no_tensor,
)
from elman.inner_dropout import recur_without_units, without_weights
from elman.layout import Call, Direction, Hidden, Weights, has_values, initial_name, parameter_name, parameter_shapes
from elman.names import register
from elman.recurrence import at_once, recur

MERGES = ("concat", "sum", "mean")


class Directions(NamedTuple):
    """One tensor for each direction; `reverse` is None if the layer has one direction only."""

    forward: Tensor
    reverse: Tensor | None


class Recurrent(nn.Module):
    """A recurrent network of any cell: L layers, D directions.

    cell: the equations of a step (`elman.cells`, or your own `elman.Cell`).
    input_size I, hidden_size H, num_layers L: whole numbers of at least 1.
    bias: whether the layer has the biases b_ih and b_hh.
    batch_first: input and output are (B, T, ...) instead of (T, B, ...); states are not affected.
    dropout: probability of zeroing an element of the output of every layer but the last, in training.
    bidirectional: whether D = 2; a second set of weights then reads the sequence from its end.
    proj_size: width of the projected states; 0 for a cell that projects none.
    merge: how every layer joins the outputs (T, B, Y) of its two directions: "concat" concatenates them,
        (T, B, 2*Y), as torch.nn does; "sum" and "mean" give (T, B, Y). The result is the input of the next layer.
    learn_initial_state: whether initial states are parameters: `h_0` and so on, one for each state, (L*D, width),
        initially zero. Sequences start from them if hx is left out, and continue from them after a reset.
    recurrent_dropout: probability of zeroing an element of what the recurrent products read, in training; one mask for
        all steps of a sequence (Gal & Ghahramani, 2016).
    weight_dropout: probability of zeroing an element of `weight_hh`, in training; one mask for a call (DropConnect).

    Layer l has the parameters `weight_ih_l{l}` (G*H, I or D*Y), `weight_hh_l{l}` (K*H, Y),
    `bias_ih_l{l}` (G*H,) and `bias_hh_l{l}` (K*H,). The names of the second direction end in `_reverse`, as in
    torch.nn. A cell with vectors also has `weight_ch_l{l}` (V, H); a cell that projects also has `weight_hr_l{l}`
    (proj_size, H). G gates read the input, K gates read the state, V is the number of vectors, and Y is the width of
    the output of one direction; with "sum" or "mean" Y replaces D*Y everywhere.
    """

    recurrent_dropout = weight_dropout = 0.0  # of frozen layers, and of those pickled before there were these options

    def __init__(
        self,
        cell: Cell,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        merge: str = "concat",
        learn_initial_state: bool = False,
        recurrent_dropout: float = 0.0,
        weight_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_arguments(
            cell,
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            proj_size,
            learn_initial_state,
            dtype,
            recurrent_dropout,
            weight_dropout,
        )
        if merge not in MERGES:
            raise ValueError(f"merge should be one of {', '.join(MERGES)}, got {merge!r}")
        if merge != "concat" and not bidirectional:
            raise ValueError(f"merge={merge!r} needs bidirectional=True: one direction has nothing to merge")
        self.cell = cell
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.recurrent_dropout = float(recurrent_dropout)
        self.weight_dropout = float(weight_dropout)
        self._register()
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        self.merge = merge

        self._widths = cell.widths(hidden_size, proj_size)  # of each state
        width = self._widths[0]
        # The parameters' names in the order of `Weights`, by layer and whether it is the reverse direction.
        self._names: dict[tuple[int, bool], list[str | None]] = {}
        for layer in range(num_layers):
            size = input_size if layer == 0 else width * (self.num_directions if merge == "concat" else 1)
            shapes = parameter_shapes(cell, size, hidden_size, proj_size, bias)
            for reverse in self._directions:
                names = {field: parameter_name(field, layer, reverse) for field in shapes}
                self._names[layer, reverse] = [names.get(field) for field in Weights._fields]
                for field, name in names.items():
                    weight = torch.empty(shapes[field], device=device, dtype=dtype)
                    self.register_parameter(name, nn.Parameter(weight))
        self.learn_initial_state = learn_initial_state
        for state, width in zip(cell.states, self._widths, strict=True) if learn_initial_state else ():
            value = torch.empty((num_layers * self.num_directions, width), device=device, dtype=dtype)
            self.register_parameter(initial_name(state), nn.Parameter(value))
        self.reset_parameters()
        self.flatten_parameters()

    def _register(self) -> None:
        """Lets exported programs find the cell, and the compiler what is known of it, which it cannot work out itself."""
        register(self.cell)
        if self.recurrent_dropout:
            register(self.cell.masked)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._register()

    @property
    def num_directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def _directions(self) -> tuple[bool, ...]:
        return (False, True) if self.bidirectional else (False,)

    @property
    def all_weights(self) -> list[list[nn.Parameter]]:
        """The parameters of every layer and direction, as torch.nn lists them."""
        return [[w for w in weights if isinstance(w, nn.Parameter)] for weights in self.each_weights()]

    def weights(self, layer: int, reverse: bool = False) -> Weights:
        """The parameters of one layer in one direction."""
        own = self._parameters  # lacks parameters that are replaced, for example by a parametrization
        names = self._names[layer, reverse]
        return Weights(*[None if n is None else own[n] if n in own else getattr(self, n) for n in names])

    def call(
        self,
        layer: int,
        x: Tensor,
        state: tuple[Tensor, ...],
        lengths: Tensor | None = None,
        reset: Tensor | None = None,
        afresh: tuple[Tensor, ...] = (),
        streams: tuple[Tensor, ...] = (),
    ) -> Call:
        """Returns the call that an engine receives for one layer.

        x: the input of this layer, (T, B, I) for the first. state: the initial states, each (D, B, width).
        lengths: (B,). reset: (T, B). afresh: the states after a reset, each (D, width); zero if left out.
        streams: in the order of the cell's, each (T, B, H).
        """
        directions = [Direction(self.weights(layer, False), False)]
        if self.bidirectional:
            directions.append(Direction(self.weights(layer, True), True))
        return Call(self.cell.kept, x, tuple(directions), state, streams, (), lengths, reset, afresh)

    def each_weights(self) -> list[Weights]:
        """The parameters of every layer and direction: those of layer l, direction d are at l * num_directions + d."""
        return [self.weights(layer, reverse) for layer in range(self.num_layers) for reverse in self._directions]

    def reset_parameters(self) -> None:
        """Initialises every parameter again, uniformly on (-1/sqrt(H), 1/sqrt(H)), as torch.nn does.

        Parameters are drawn in the order of registration. With the same seed, a layer starts with exactly the same
        numbers as its torch.nn counterpart. Learned initial states are set to zero.
        """
        bound = 1.0 / math.sqrt(self.hidden_size)
        initial = {initial_name(state) for state in self.cell.states}
        for name, parameter in self.named_parameters():
            if name.removeprefix("parametrizations.").partition(".")[0] in initial:
                nn.init.zeros_(parameter)
            else:
                nn.init.uniform_(parameter, -bound, bound)

    def initial_states(self) -> tuple[Tensor, ...]:
        """The learned initial states, each (L*D, width); an empty tuple if the layer learns none."""
        return tuple([getattr(self, initial_name(s)) for s in self.cell.states]) if self.learn_initial_state else ()

    def flatten_parameters(self) -> None:
        """Stores the weights contiguously if cuDNN reads them that way, as torch.nn does; otherwise does nothing.

        It is called when the layer is created and when it is moved. After `copy.deepcopy`, call it yourself.
        """
        for weights in self.each_weights():
            native.lay_out(self.cell, weights)

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Moves or converts the parameters, as `to`, `cuda` and `half` do."""
        super()._apply(fn, recurse)
        self.flatten_parameters()
        return self

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: Hidden | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | Sequence[Any] | None = None,
        streams: Mapping[str, Tensor] | None = None,
    ) -> tuple[Any, Any]:
        """Reads a sequence.

        input: (T, B, I), or (B, T, I) with batch_first, or (T, I) unbatched; or a `PackedSequence`.
        hx: the initial state: one tensor (L*D, B, width) for a cell with one state, otherwise a tuple of them in the
            order of `cell.states`; without B for unbatched input. The default is zero, or the learned initial state.
        lengths: the number of steps of each sequence, whole numbers (B,) from 0 to T in any order, or ()
            unbatched; the default is T. Input after a sequence's last step has no effect, and output there is
            zero. The forward direction ends at the last step, and the reverse direction begins there. The final
            state of a sequence without steps is hx.
        reset: where a new sequence begins, booleans in the layout of the input, (T, B), (B, T) or (T,).
            A true reset[t] cuts the sequence between t-1 and t: the forward direction starts step t, and the
            reverse direction step t-1, from a zero state or the learned initial state. A true reset[0] makes
            the forward direction ignore hx.
        streams: for a cell that has some, what its step reads as `u.name`, by name: (T, B, H) in the layout of the
            input, or (T, B, 1) for the same number in all units. Every layer and direction reads the same.

        Returns the output of the last layer, (T, B, D*Y) in the layout of the input, and the final state of
        every layer and direction in the form of hx. For a `PackedSequence`, the output is also a `PackedSequence`.

        Raises ValueError, TypeError or RuntimeError, as torch.nn does, if shapes, dtypes or lengths do not fit.
        The message names both sizes.
        """
        if isinstance(input, PackedSequence):
            return self._packed_forward(input, hx, lengths, reset, streams)
        x, batched = check_input(self, input)
        state = check_state(self, hx, x, batched)
        lengths, reset = check_rows(self, lengths, reset, x, batched)
        given = check_streams(self, streams, input).values()
        if given:
            time_first = not batched or not self.batch_first
            given = [u if time_first else u.transpose(0, 1) for u in given]
            given = [u if batched else u.unsqueeze(1) for u in given]

        learned = () if reset is None else self.initial_states()
        finals: list[tuple[Tensor, ...]] = []
        count = self.num_directions
        for layer in range(self.num_layers):
            rows = slice(layer * count, (layer + 1) * count)
            own = state if self.num_layers == 1 else tuple([s[rows] for s in state])  # each (D, B, width)
            afresh = tuple([s[rows] for s in learned])
            call = self.call(layer, x, own, lengths, reset, afresh, tuple(given))
            if self.training and self.weight_dropout:
                call = without_weights(call, self.weight_dropout)
            if self.training and self.recurrent_dropout:
                x, final = recur_without_units(call, self.cell.masked, self.recurrent_dropout)
            else:
                x, final = recur(call)  # (T, B, D*Y)
            finals.append(final)
            if self.merge != "concat":
                x = x.unflatten(-1, (2, -1)).sum(-2) if self.merge == "sum" else x.unflatten(-1, (2, -1)).mean(-2)
            if layer < self.num_layers - 1:
                x = drop(x, self.dropout, self.training)

        h_n = finals[0] if len(finals) == 1 else tuple([torch.cat(of) for of in zip(*finals, strict=True)])
        if not batched:
            x, h_n = x.squeeze(1), tuple(h.squeeze(1) for h in h_n)
        elif self.batch_first:
            x = x.transpose(0, 1)
        return x, h_n[0] if len(self.cell.states) == 1 else h_n

    def final_states(self, h_n: Hidden) -> dict[str, list[Directions]]:
        """Splits the h_n that `forward` returns by state, layer and direction: `final_states(h_n)["h"][-1].reverse`.

        Each tensor is (B, width), or (width,) unbatched. The reverse direction ends at the first step of the sequence,
        so its final state is the state after that step.
        """
        given, count = (h_n,) if isinstance(h_n, Tensor) else h_n, self.num_directions
        found: dict[str, list[Directions]] = {}
        for state, value in zip(self.cell.states, given, strict=True):
            rows = value.unflatten(0, (self.num_layers, count)).unbind()
            found[state] = [Directions(row[0], row[1] if count == 2 else None) for row in rows]
        return found

    def halves(self, output: Tensor) -> Directions:
        """Splits an output into the outputs of each direction, (T, B, Y) in the layout of the output.

        Raises RuntimeError if the layer merges its directions by sum or mean.
        """
        if self.merge != "concat":
            raise RuntimeError(
                f"{self._get_name()}: the directions were merged by {self.merge!r}, and cannot be told apart"
            )
        if not self.bidirectional:
            return Directions(output, None)
        return Directions(*output.chunk(2, dim=-1))

    def last_output(self, output: Tensor, lengths: Tensor | Sequence[int] | None = None) -> Tensor:
        """The output at the last step of every sequence, (B, D*Y), or (D*Y,) unbatched; zero for a sequence without steps.

        The reverse direction begins at the last step, so its output there has read only that step. Its state after the
        whole sequence is in `final_states`.
        """
        if output.dim() == 2:
            return output[-1 if lengths is None else max(int(torch.as_tensor(lengths)) - 1, 0)]
        time_first = output.transpose(0, 1) if self.batch_first else output
        if lengths is None:
            return time_first[-1]
        last = (torch.as_tensor(lengths).to(output.device) - 1).clamp(min=0)
        return time_first[last, torch.arange(time_first.size(1), device=output.device)]

    def _packed_forward(
        self, input: PackedSequence, hx: Hidden | None, lengths: Any, reset: Any, streams: Any
    ) -> tuple[PackedSequence, Any]:
        """`forward` for a PackedSequence, whose sequences are sorted by length.

        hx and h_n are in the order that the sequences had before sorting, as in torch.nn.
        """
        if lengths is not None or reset is not None:
            raise TypeError(
                f"{self._get_name()}: a PackedSequence brings its own lengths; leave lengths and reset out, "
                "or give the sequences padded"
            )
        if streams is not None or self.cell.streams:
            raise TypeError(
                f"{self._get_name()}: streams do not go with a PackedSequence; give the sequences padded, with lengths="
            )
        data, batch_sizes, order, back = input
        if back is not None:
            batch: int = back.size(0)
        elif hx is not None and not has_values(batch_sizes):
            batch = (hx if isinstance(hx, Tensor) else hx[0]).size(1)
        else:
            batch = int(batch_sizes[0])  # a value, which the compiler cannot read
        sources, places, lengths = _places(batch_sizes.to(data.device), batch, data.size(0))
        padded = data.index_select(0, sources.flatten()).unflatten(0, sources.shape)  # (T, B, I)
        if hx is not None and order is not None:
            check_state(self, hx, padded, batched=True)
            hx = _reordered(hx, order)
        output, h_n = self.forward(padded.transpose(0, 1) if self.batch_first else padded, hx, lengths=lengths)
        if self.batch_first:
            output = output.transpose(0, 1)
        data = output.flatten(0, 1).index_select(0, places)
        if back is not None:
            h_n = _reordered(h_n, back)
        return PackedSequence(data, batch_sizes, order, back), h_n

    def step(
        self,
        input: Tensor,
        state: Hidden | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | Sequence[bool] | bool | None = None,
        streams: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, Any]:
        """Reads one step of a sequence, x_t, and starts from the previous state.

        input: (B, I), or (I,) unbatched. state: like hx of `forward`.
        lengths: (B,) or (): 1 for a sequence that has this step, 0 for one that does not. For the latter, the output
            is zero and the state is returned unchanged.
        reset: (B,) or (), booleans: where true, the step starts from a zero state or the learned initial state.
        streams: by name, each (B, H) or (B, 1); without B for unbatched input.

        Returns the output of the last layer at this step, (B, Y) or (Y,), and the state to pass to the next
        step. Both equal the results of `forward` for a sequence of this one step. Hooks are not called. Raises
        RuntimeError for a layer with a reverse direction, which begins at the end of the sequence.
        """
        if not isinstance(input, Tensor):
            raise no_tensor(self, input)
        alone = len(self.cell.states) == 1
        plain = lengths is None and reset is None and streams is None and not self.cell.streams
        if self.training and (self.recurrent_dropout or self.weight_dropout):
            plain = False
        if plain and state is not None and input.dim() == 2 and self.num_layers == 1 and True not in self._directions:
            try:
                given = (state,) if isinstance(state, Tensor) else tuple(state)
                done = at_once(self.call(0, input, given))
            except (AttributeError, TypeError):
                check_state(self, state, input.unsqueeze(0), batched=True)  # says so if a state is no tensor
                raise
            if done is not None:
                return done[0], done[1][0] if alone else done[1]
        name = self._get_name()
        if True in self._directions:
            kind = "is bidirectional" if self.bidirectional else "reads from the end"
            raise RuntimeError(
                f"{name} {kind}: its reverse direction begins at the end of the sequence, so there are no steps; call it with the whole sequence"
            )
        if input.dim() not in (1, 2):
            raise ValueError(
                f"{name}: one step should be (B, {self.input_size}) or ({self.input_size},), got {tuple(input.shape)}"
            )
        check_width(self, input)
        time = 1 if self.batch_first and input.dim() == 2 else 0
        if reset is not None:
            reset, rows = as_rows(self, "reset", reset, torch.bool), tuple(input.shape[:-1])
            if reset.shape != rows:
                raise RuntimeError(
                    f"{name}: reset is {tuple(reset.shape)} but must be {rows}, a value for each sequence"
                )
            reset = reset.unsqueeze(time)
        if streams is not None or self.cell.streams:
            streams = {key: v.unsqueeze(time) for key, v in check_streams(self, streams, input).items()}
        output, state = self.forward(input.unsqueeze(time), state, lengths=lengths, reset=reset, streams=streams)
        return output.squeeze(time), state

    def extra_repr(self) -> str:
        parts = [f"{self.input_size}, {self.hidden_size}"]
        defaults = {
            "proj_size": 0,
            "num_layers": 1,
            "bias": True,
            "batch_first": False,
            "dropout": 0,
            "bidirectional": False,
            "merge": "concat",
            "learn_initial_state": False,
            "recurrent_dropout": 0,
            "weight_dropout": 0,
        }
        parts += [f"{name}={getattr(self, name)}" for name, value in defaults.items() if getattr(self, name) != value]
        if type(self) is Recurrent:
            parts.insert(0, self.cell.name)
        return ", ".join(parts)


def check_layer(asked: str, value: Any) -> None:
    """Raises TypeError, with the remedy, if the value is no layer of sequences; asked: the function that got it."""
    if isinstance(value, Recurrent):
        return
    got, remedy = f"a {type(value).__name__}", "make a layer such as elman.LSTM(input_size, hidden_size)"
    if isinstance(value, type):
        got, remedy = f"the class {value.__name__}", f"make a layer of it: {value.__name__}(input_size, hidden_size)"
    elif isinstance(value, nn.RNNBase):
        got = f"torch.nn.{type(value).__name__}"
        remedy = f"elman.{type(value).__name__} takes the same arguments and the same state_dict"
    elif isinstance(getattr(value, "cell", None), Cell):
        remedy = "it runs one step, and elman.Recurrent(cell, input_size, hidden_size) runs a sequence"
    elif isinstance(value, nn.Module):
        inside = next((name for name, module in value.named_modules() if isinstance(module, Recurrent)), None)
        remedy = f"give it a layer inside: model.get_submodule({inside!r})" if inside else remedy
    raise TypeError(f"elman.{asked} takes a layer of elman, and got {got}; {remedy}")


def _reordered(states: Hidden, order: Tensor) -> Hidden:
    """The states with their sequences in another order."""
    if isinstance(states, Tensor):
        return states.index_select(1, order)
    return tuple([state.index_select(1, order) for state in states])


def _places(batch_sizes: Tensor, batch: int, total: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns the indices from a padded batch into packed data and back, and the lengths of the sequences.

    batch_sizes: (T,), the number of sequences that have step t. batch: B. total: N, the rows of the packed data, one
    for each step of each sequence.

    The first result (T, B) gives the row of the packed data for every place of the padded batch, or row 0 for padding.
    The second (N,) gives the place t * B + b of the padded batch for every row. The third (B,) gives the lengths. The
    shapes of the results do not depend on values of tensors, so that a compiler knows them.
    """
    device = batch_sizes.device
    ends = batch_sizes.cumsum(0)
    starts = ends - batch_sizes
    column = torch.arange(batch, device=device)
    present = column < batch_sizes.unsqueeze(1)  # (T, B)
    sources = torch.where(present, starts.unsqueeze(1) + column, 0)
    row = torch.arange(total, device=device)
    step = torch.searchsorted(ends, row, right=True)
    return sources, step * batch + row - starts[step], present.sum(0)
