"""Plants a bug in a copy of the package and runs the tests that should notice; fails if they pass.

Each mutant is one replacement in one file, behind an anchor that says which of several like lines is
meant. The tests run as they are, in a process of their own, against the copy.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parent.parent


class Mutant(NamedTuple):
    name: str
    file: str  # below src/elman
    after: str  # the replacement happens at the first place after this
    old: str
    new: str
    test: str  # what has to notice


MUTANTS = [
    Mutant("two gates swapped", "cells.py", "def lstm(", "f * s.c + i * g", "i * s.c + f * g", "test_cells.py"),
    Mutant(
        "the reset on the wrong side",
        "cells.py",
        "def gru(",
        "r * (R.n @ s.h)",
        "R.n @ (r * s.h)",
        "test_torch.py::test_same_results_and_gradients",
    ),
    Mutant(
        "the reset after the product, before it was asked for",
        "cells.py",
        "def gru_before(",
        "R.n @ (r * s.h)",
        "r * (R.n @ s.h)",
        "test_onnx.py",
    ),
    Mutant(
        "update gate turned round",
        "cells.py",
        "def gru(",
        "(1 - z) * n + z * s.h",
        "(1 - z) * s.h + z * n",
        "test_cells.py",
    ),
    Mutant(
        "output peephole reads the old cell state",
        "cells.py",
        "def peephole_lstm(",
        "p.o * c)",
        "p.o * s.c)",
        "test_onnx.py",
    ),
    Mutant(
        "packed rows put back elsewhere",
        "recurrent.py",
        "def _places",
        "- starts[step]",
        "",
        "test_rows.py::test_packed_sequences_are_torchs",
    ),
    Mutant(
        "packed states in the order of the rows",
        "recurrent.py",
        "def _packed_forward",
        "if back is not None:\n            h_n",
        "if False:\n            h_n",
        "test_torchs_own.py::test_a_batch_of_packed_sequences_in_any_order",
    ),
    Mutant("input peephole missing", "cells.py", "def peephole_lstm(", " + p.i * s.c", "", "test_cells.py"),
    Mutant(
        "coupling turned round",
        "cells.py",
        "def coupled_peephole_lstm(",
        "f * s.c + (1 - f) * g",
        "(1 - f) * s.c + f * g",
        "test_onnx.py",
    ),
    Mutant("a missing tanh", "cells.py", "def coupled_lstm(", "o * tanh(c)", "o * c", "test_cells.py"),
    Mutant(
        "a cell state of low precision",
        "cells.py",
        "def lstm(",
        "c = f * s.c + i * g",
        "c = (f * s.c + i * g).bfloat16().to(f.dtype)",
        "test_accuracy.py::test_cells",
    ),
    Mutant("input bias dropped", "reference.py", "def input_shares", "weights.b_ih)", "None)", "test_cells.py"),
    Mutant(
        "recurrent bias dropped",
        "reference.py",
        "class Products",
        "None if bias is None else",
        "None if True else",
        "test_cells.py",
    ),
    Mutant(
        "initial state ignored",
        "reference.py",
        "def run(",
        "name: state[d] for",
        "name: state[d] * 0 for",
        "test_cells.py",
    ),
    Mutant(
        "a detached state",
        "reference.py",
        "def run(",
        "s=before, p=p",
        "s=State(**{k: v.detach() for k, v in vars(before).items()}), p=p",
        "test_gradcheck.py",
    ),
    Mutant(
        "reverse direction reads forwards",
        "reference.py",
        "def run(",
        "reversed(range(len(shares))) if reverse else range(len(shares))",
        "range(len(shares))",
        "test_cells.py",
    ),
    Mutant(
        "reverse output not turned back",
        "reference.py",
        "def run(",
        "outputs.reverse()",
        "pass",
        "test_cells.py",
    ),
    Mutant(
        "a step too few",
        "reference.py",
        "def run(",
        "reversed(range(len(shares))) if reverse else range(len(shares))",
        "reversed(range(len(shares))) if reverse else [*range(len(shares) - 1), 0]",
        "test_cells.py",
    ),
    Mutant(
        "a group's rows in the wrong order",
        "reference.py",
        "def _rows",
        "for gate in group",
        "for gate in reversed(group)",
        "test_cells.py",
    ),
    Mutant(
        "states of the wrong layer", "recurrent.py", "def forward", "s[rows] for s", "s[:count] for s", "test_cells.py"
    ),
    Mutant(
        "dropout outside training",
        "recurrent.py",
        "def forward",
        "self.dropout, self.training",
        "self.dropout, True",
        "test_torch.py::test_dropout_between_layers",
    ),
    Mutant(
        "wider initialisation",
        "recurrent.py",
        "def reset_parameters",
        "1.0 / math.sqrt(self.hidden_size)",
        "1.0 / self.hidden_size",
        "test_torch.py::test_same_seed_gives_the_same_parameters",
    ),
    Mutant(
        "rows in torch's order for ONNX",
        "layout.py",
        "cells.gru_before",
        '("z", "r", "n")',
        '("r", "z", "n")',
        "test_onnx.py",
    ),
    Mutant(
        "coupled rows not negated for ONNX",
        "layout.py",
        "def _reorder",
        "-rows[name[1:]]",
        "rows[name[1:]]",
        "test_onnx.py",
    ),
    Mutant(
        "nodes shared that differ", "graph.py", "def add", ", name, repr(value))", ", repr(value))", "test_cells.py"
    ),
    Mutant(
        "a gradient that is not cut",
        "training/tbptt.py",
        "def detach",
        "return state.detach()",
        "return state",
        "test_tbptt.py",
    ),
    Mutant(
        "a window that reaches one step too far",
        "training/tbptt.py",
        "def _windows",
        "max(0, stop - k2)",
        "max(0, stop - k2 - 1)",
        "test_tbptt.py",
    ),
    Mutant(
        "a state that is not carried",
        "training/tbptt.py",
        "def _windows",
        "state = window.carried",
        "state = None",
        "test_tbptt.py",
    ),
    Mutant(
        "random state not restored",
        "training/loop.py",
        "def restore",
        'torch.set_rng_state(tensors["random.cpu"])',
        "pass",
        "test_training.py::test_resumed_again_and_again",
    ),
    Mutant(
        "state not carried by the loop",
        "tasks/language_model.py",
        "def batches",
        "self.state = window.carried",
        "self.state = None",
        "test_training.py::test_resumed_at_any_step_equals_never_interrupted",
    ),
    Mutant(
        "targets not shifted",
        "tasks/language_model.py",
        "def streams",
        "tokens[start + 1 : start + 1 +",
        "tokens[start : start +",
        "test_training.py::test_streams_are_the_text_and_the_same_one_token_later",
    ),
    Mutant(
        "tokens scored twice",
        "tasks/language_model.py",
        "def evaluate",
        "starts[r - 1] + length - starts[r]",
        "0",
        "test_language_model.py",
    ),
    Mutant(
        "one token too many in top_p",
        "tasks/language_model.py",
        "def choose",
        "probability.cumsum(0) - probability >= top_p",
        "probability.cumsum(0) - probability > top_p + probability",
        "test_language_model.py::test_top_p_keeps_the_smallest_set_that_reaches_it",
    ),
    Mutant(
        "counts where types belong",
        "tasks/ngram.py",
        "def witten_bell",
        "first[count_hw > 0]",
        "first[continued[counted]]",
        "test_ngram.py",
    ),
    Mutant(
        "a gate before its function",
        "graph.py",
        "def gate",
        '(users[0].op in ("add", "sub") or users[0].nonlinear)',
        'users[0].op in ("add", "sub")',
        "test_cells.py",
    ),
    Mutant(
        "a cut in the text one too early",
        "datasets/text.py",
        "def _split",
        "boundary - done, 0)",
        "boundary - done - 1, 0)",
        "test_text.py",
    ),
    # The kernels.
    Mutant(
        "first step reads no initial state",
        "cpu/kernels/recurrence.py",
        "class _Forward",
        "step.n.equals(0)",
        "step.n.equals(-1)",
        "test_literature.py",
    ),
    Mutant(
        "ragged lanes not masked",
        "cpu/kernels/recurrence.py",
        "class Elements",
        "self.p.first_lanes(emit.units(phase.width) - unit) if phase.width in emit.ragged else None",
        "None",
        "test_cpu_memory.py",
    ),
    Mutant(
        "backward: last step multiplies what is not there",
        "cpu/kernels/recurrence.py",
        "class _Backward",
        "length = p.select(fresh, 0, length)",
        "pass",
        "test_literature.py",
    ),
    Mutant(
        "backward: initial state not used at the first step",
        "cpu/kernels/recurrence.py",
        "class _Backward",
        "step.n.equals(self.steps - 1)",
        "step.n.equals(self.steps)",
        "test_literature.py",
    ),
    Mutant(
        "backward: cotangent of the output ignored",
        "cpu/kernels/recurrence.py",
        "class _Backward",
        'value + elements.load(Place("d_out")) if',
        "value if",
        "test_literature.py",
    ),
    Mutant(
        "vectors' gradients not summed over time",
        "cpu/kernels/recurrence.py",
        "class Elements",
        "value = value + self.load(place)",
        "pass",
        "test_literature.py::test_built_in_cells_too",
    ),
    Mutant(
        "cotangents of final states ignored",
        "cpu/layer/backward.py",
        "def _adjoints",
        "if d_final is None",
        "if True",
        "test_literature.py",
    ),
    Mutant(
        "final state from the wrong end",
        "cpu/layer/forward.py",
        "def forward_script",
        "last = 0 if given.reverse else steps - 1",
        "last = steps - 1 if given.reverse else 0",
        "test_literature.py",
    ),
    Mutant(
        "weight gradient lacks the initial state",
        "cpu/layer/backward.py",
        "def _operand",
        "(initial, (sequences[number], others))",
        "((sequences[number], sizes.batch), (sequences[number], others))",
        "test_literature.py",
    ),
    Mutant(
        "threads that share units do not wait for each other",
        "cpu/kernels/recurrence.py",
        "def wait",
        "p.wait_until(",
        'p.prefetch(p.given["table"]) or (',
        "test_cpu.py::test_few_rows_share_units",
    ),
    Mutant(
        "a thread stays kept from the processor it has left",
        "cpu/scripts/team.py",
        "def move_over",
        "p.store_word(allowed, mask, word)",
        "...",
        "test_cpu_team.py",
    ),
    Mutant(
        "tanh without its sign",
        "cpu/codegen/functions.py",
        "def tanh",
        'return p.elementwise("copysign", half.over(half + 1), x)',
        "return half.over(half + 1)",
        "test_literature.py",
    ),
    Mutant(
        "recurrent bias dropped in packing",
        "cpu/layer/kernel_tasks.py",
        "def pack",
        "if bias is not None:",
        "if False:",
        "test_literature.py",
    ),
    Mutant(
        "wrong rows of weight_hh in backward",
        "cpu/layer/kernel_tasks.py",
        "def _by_segments",
        "row=segment.block * rows",
        "row=0",
        "test_literature.py",
    ),
    Mutant(
        "product starts before its operand is complete",
        "phases.py",
        "def phases",
        "earliest[a.index] + 1 for a in read",
        "earliest[a.index] for a in read",
        "test_literature.py",
    ),
    Mutant(
        "what is kept overwrites what a later phase reads",
        "plan.py",
        "def overwritable",
        "last_read[gates.index(argument.name)] = number",
        "pass",
        "test_cpu_cells.py::test_values_that_are_several_things",
    ),
    Mutant(
        "an operand that is a state is looked for where it was",
        "plan.py",
        "def stored_in",
        "self.operands[node.index] = place",
        "self.operands |= {} if node.index in states else {node.index: place}",
        "test_cpu_cells.py::test_values_that_are_several_things",
    ),
    Mutant(
        "a zero that an infinite gradient undoes",
        "cpu/codegen/functions.py",
        "OPERATIONS",
        "p.select(y <= 0.0, 0.0, d)",
        "d * p.select(y <= 0.0, 0.0, p.splat(1.0))",
        "test_cpu.py::test_an_overflow_does_not_wake_a_dead_unit",
    ),
    Mutant(
        "an idle gate takes part in the weights' gradient",
        "plan.py",
        "def plan",
        "_runs(live)",
        "_runs(list(range(len(cell.anatomy.input_gates))))",
        "test_cpu_cells.py::test_a_gate_without_effect_has_the_gradient_zero",
    ),
    Mutant(
        "gradients of a gate's two products not added",
        "cpu/layer/large_products.py",
        "def gradients",
        "copy(room, out, height, width, add=add)",
        "copy(room, out, height, width)",
        "test_cpu_cells.py::test_values_that_are_several_things",
    ),
    Mutant(
        "one chain of sums over the whole depth",
        "cpu/kernels/product.py",
        "BLOCK = ",
        "128",
        "1 << 40",
        "test_accuracy.py::test_long_sums",
    ),
    Mutant(
        "the second tile a row too early",
        "cpu/layer/large_products.py",
        "def linear",
        'row = begin + word["first row"]',
        'row = begin + word["first row"] - p.select(begin > 0, 1, p.int(0))',
        "test_literature.py",
    ),
    Mutant(
        "a link replaced by a file",
        "files.py",
        "def write_atomically",
        "Path(os.path.realpath(path))",
        "path",
        "test_training.py::test_a_link_is_followed",
    ),
    # Scripts, workspace, quick calls, the code cache.
    Mutant(
        "an array of another format",
        "cpu/scripts/script.py",
        "def close",
        "offset * form.bytes",
        "offset * self._form.bytes",
        "test_cpu_scripts.py::test_an_array_has_a_format_of_its_own",
    ),
    Mutant(
        "an order of names that is not kept",
        "cpu/scripts/script.py",
        "def _run_in_order",
        "given[place] for place in order",
        "given[place] for place in sorted(order)",
        "test_cpu_scripts.py",
    ),
    Mutant(
        "an array that is not missed",
        "cpu/scripts/script.py",
        "def taking",
        "if missing or unknown or",
        "if unknown or",
        "test_cpu_scripts.py::test_a_wrong_array_is_named",
    ),
    Mutant(
        "a quick call that does not look at strides",
        "cpu/layer/short_calls.py",
        "def _look",
        "tensor.stride(), ",
        "",
        "test_step.py::test_layouts_and_marks",
    ),
    Mutant(
        "a quick call that does not count threads",
        "cpu/layer/short_calls.py",
        "class Calls",
        "[call.cell, threads.available()]",
        "[call.cell, 1]",
        "test_step.py::test_the_short_way_counts_threads",
    ),
    Mutant(
        "a quick call that forgets the direction",
        "cpu/layer/short_calls.py",
        "class Calls",
        "key.append(direction.reverse)",
        "pass",
        "test_step.py::test_the_short_way_knows_the_direction",
    ),
    Mutant(
        "a file of code that is not checked",
        "cpu/codegen/code_cache.py",
        "def _read",
        "if digest != hashlib.sha256(rest).hexdigest().encode():",
        "if False:",
        "test_cpu_compiled.py::test_what_cannot_be_trusted_is_written_anew",
    ),
    Mutant(
        "code that does not know its processor",
        "cpu/codegen/code_cache.py",
        "def _environment",
        ", *llvm.target()",
        "",
        "test_cpu_compiled.py::test_what_code_depends_on_is_in_its_name",
    ),
    Mutant(
        "gates that change places in a panel",
        "cpu/kernels/packing.py",
        "def transposed",
        'block * vectors + word["place"] + gate',
        'block * vectors + word["place"] + word["gates"] - 1 - gate',
        "test_literature.py",
    ),
    Mutant(
        "sums of the last chunk begin anew",
        "cpu/layer/large_products.py",
        "def gradients",
        "int(number == 0 and not adds)",
        "int(begin + chunk >= depth and not adds)",
        "test_cpu.py::test_long_gradients_in_chunks",
    ),
    Mutant(
        "a second thread that begins a row too early",
        "cpu/layer/kernel_tasks.py",
        "def run",
        '"first row": first, "rows": count',
        '"first row": max(0, first - 1), "rows": count',
        "test_cpu.py::test_threads_do_not_change_a_bit",
    ),
    # Between PyTorch and the kernels.
    Mutant(
        "gradients of the wrong direction",
        "operators.py",
        "def _grouped",
        "zip(values, weights, strict=True)",
        "zip(reversed(values), weights, strict=True)",
        "test_compile.py::test_one_graph_for_all_shapes[deep]",
    ),
    Mutant(
        "a batched or dual cotangent taken for a value",
        "operators.py",
        "def _by_reference",
        "again or transformed() or any(",
        "again or all(",
        "test_gradcheck.py::test_cotangents_that_are_batched_or_dual",
    ),
    Mutant(
        "a tangent that ends at an operator",
        "operators.py",
        "def _checked",
        "if duals:",
        "if False:",
        "test_compile.py::test_forward_mode_through_an_operator_raises",
    ),
    Mutant(
        "an exported program without gradients",
        "operators.py",
        "_differentiate, setup_context",
        'torch.library.register_autograd("elman::infer"',
        '(lambda *_, **__: None)("elman::infer"',
        "test_compile.py::test_an_exported_program",
    ),
    Mutant(
        "a call that nobody looks at",
        "operators.py",
        "def _checked",
        "misfit(call) or ",
        "",
        "test_cpu.py::test_operators_refuse_what_does_not_fit[a stream]",  # the others would harm memory
    ),
    Mutant(
        "a table of tiles that the cache may forget",
        "cpu/kernels/product.py",
        "def _tile_table",
        "_tables.append(table)",
        "pass",
        "test_cpu_scripts.py::test_a_table_of_tiles_outlives_the_cache",
    ),
    Mutant(
        "a decision that other sizes may take another way",
        "cpu/scripts/tape.py",
        "def play",
        "return None",
        "pass",
        "test_cpu_scripts.py::test_a_script_for_other_sizes_is_as_if_written_for_them",
    ),
    Mutant(
        "rooms of the sizes that a script was written for",
        "cpu/scripts/script.py",
        "def _settle",
        "[value(size) for size in rooms]",
        "[_value(size) for size in rooms]",
        "test_cpu_scripts.py::test_a_script_for_other_sizes_is_as_if_written_for_them",
    ),
    Mutant(
        "strides that do not belong to a form's sizes",
        "cpu/layer/form.py",
        "def opened",
        "len(stride) == 3",
        "len(stride) == 4",
        "test_cpu_scripts.py::test_a_script_for_other_sizes_is_as_if_written_for_them",
    ),
    # Lengths and resets.
    Mutant(
        "a length too long by one",
        "masks.py",
        "def masks",
        "numbers < call.lengths",
        "numbers <= call.lengths",
        "test_rows.py::test_every_cell",
    ),
    Mutant(
        "the reverse direction starts afresh a step too late",
        "masks.py",
        "def masks",
        "torch.cat([cuts[1:], torch.zeros_like(cuts[:1])])",
        "cuts",
        "test_rows.py::test_every_cell",
    ),
    Mutant(
        "a reset beyond the end discards the final state",
        "masks.py",
        "def masks",
        "call.reset.unsqueeze(-1) & present",
        "call.reset.unsqueeze(-1)",
        "test_rows.py::test_every_cell",
    ),
    Mutant(
        "a state masked by multiplying",
        "reference.py",
        "def _select",
        "torch.where(mask, value, other)",
        "mask * value + ~mask * other",
        "test_rows.py::test_what_is_not_finite_beyond_the_end",
    ),
    Mutant(
        "rows that join are taken for rows that go on",
        "cpu/kernels/recurrence.py",
        "class _Backward",
        "self.range(before, rows - before)",
        "self.range(rows, self.p.int(0))",
        "test_rows.py::test_every_cell",
    ),
    Mutant(
        "a run that ends where the next one does not begin",
        "cpu/layer/rows.py",
        "def _runs",
        "-np.append(back[1:], 0)",
        "-back",
        "test_rows.py::test_random_lengths_and_resets",
    ),
    Mutant(
        "the other of two places of a state",
        "cpu/layer/rows.py",
        "def _rows",
        "(size - 1) % 2 * rows",
        "size % 2 * rows",
        "test_rows.py::test_every_cell",
    ),
    Mutant(
        "a reset at the first step that discards nothing",
        "cpu/layer/rows.py",
        "def _rows",
        "is_first & ~discards[of]",
        "is_first",
        "test_rows.py::test_every_cell",
    ),
    Mutant(
        "a state that is not handed on",
        "cpu/kernels/packing.py",
        "def gather",
        'p.select(own, word["units"] * word["handed on"], 0)',
        "p.int(0)",
        "test_rows.py::test_every_cell",
    ),
    Mutant(
        "a cotangent read as if its steps lay one behind the other",
        "cpu/layer/passes.py",
        "def backward",
        "cotangents[0].contiguous()",
        "cotangents[0]",
        "test_rows.py::test_a_view_of_the_input_and_of_a_cotangent",
    ),
    Mutant(
        "a learned state forgotten at resets",
        "reference.py",
        "def _run",
        "afresh if call.afresh else None",
        "None",
        "test_rows.py::test_initial_states_that_are_learned",
    ),
    Mutant(
        "the gradient of a learned state in the wrong direction",
        "cpu/layer/backward.py",
        "def _gradients_of_afresh",
        "out.at(row=side.number)",
        "out.at(row=len(sides) - 1 - side.number)",
        "test_rows.py::test_initial_states_that_are_learned",
    ),
    Mutant(
        "directions merged in the last layer only",
        "recurrent.py",
        "def forward",
        'if self.merge != "concat":',
        'if self.merge != "concat" and layer:',
        "test_directions.py",
    ),
    Mutant(
        "a step without its vectors",
        "one_step.py",
        "def forward",
        "for field in self._fields]",
        "for field in self._fields[:-1]]",
        "test_one_step.py::test_steps_are_those_of_the_layer",
    ),
    Mutant(
        "states of a packed sequence in the wrong order",
        "recurrent.py",
        "def _packed_forward",
        "hx = _reordered(hx, order)",
        "pass",
        "test_rows.py::test_packed_sequences_are_torchs",
    ),
    Mutant(
        "an engine asked for that the compiler does not see",
        "recurrence.py",
        "def recur",
        "choose(call, _asked.engine)",
        "choose(call)",
        "test_compile.py::test_a_forced_engine_is_honoured_and_guarded",
    ),
    Mutant(
        "a transform that the kernels do not see",
        "own_kernels.py",
        "def refusal",
        "functorch_active() or ",
        "",
        "test_gradcheck.py::test_forward_mode",
    ),
    Mutant(
        "autocast forgotten",
        "recurrence.py",
        "def recur",
        "if any_autocast():",
        "if False:",
        "test_torch.py::test_types_under_autocast",
    ),
    Mutant(
        "a frozen layer that follows its original",
        "frozen.py",
        "def _as_it_is",
        "weight.detach().clone(memory_format=torch.contiguous_format)",
        "weight.detach()",
        "test_step.py::test_a_frozen_layer_is_a_copy",
    ),
    Mutant(
        "a state without effect and without a gradient",
        "schedule.py",
        "def _zero_where_missing",
        "if state not in operands",
        "if state in operands",
        "test_cpu_cells.py::test_values_that_are_several_things",
    ),
    Mutant(
        "an adjoint that two phases read, stored over between them",
        "schedule.py",
        "def _readable_later",
        "max(read) <= level_of[following.index]",
        "max(read) >= 0",
        "test_cpu_cells.py::test_values_that_are_several_things",
    ),
    Mutant(
        "a value's last reader alone",
        "derivative.py",
        "def add(",
        "adjoint if known is None else known + adjoint",
        "adjoint",
        "test_derivative.py::test_equals_autograd",
    ),
    Mutant(
        "nothing comes back through a product within the step",
        "derivative.py",
        "def derivative",
        'node.op != "s":',
        'node.op == "none":',
        "test_gradcheck.py::test_the_engines_own_backward_was_checked",
    ),
    Mutant(
        "a quotient's second derivative turned round",
        "operations.py",
        '"div"',
        "-(d * y() / b())",
        "d * y() / b()",
        "test_derivative.py::test_equals_autograd",
    ),
    Mutant(
        "a second derivative from kernels that have none",
        "operators.py",
        "def _by_reference",
        "again = torch.is_grad_enabled()",
        "again = False",
        "test_gradcheck.py::test_second_order",
    ),
    Mutant(
        "a compiled layer that forgets the types of autocast",
        "operators.py",
        "def _shapes",
        "directions * width), dtype=types[0])",
        "directions * width))",
        "test_compile.py::test_shapes_and_types_that_the_compiler_is_told",
    ),
    Mutant(
        "a weight of another shape that nobody looks at",
        "operators.py",
        "def run(",
        "    if problem:\n        raise RuntimeError(problem)\n    if isinstance",
        "    if isinstance",
        "test_step.py::test_a_weight_that_does_not_fit_is_named",
    ),
    Mutant(
        "pieces of a factor packed over each other",
        "cpu/kernels/packing.py",
        "def rows(",
        ' + word["from_k"] * width',
        "",
        "test_literature.py",
    ),
    Mutant(
        "sums of rows that leave out the last",
        "cpu/kernels/packing.py",
        "def total",
        'p.loop_carrying(0, word["rows"], 1',
        'p.loop_carrying(1, word["rows"], 1',
        "test_literature.py::test_built_in_cells_too",
    ),
    Mutant(
        "numbers of a tape that stay what they were",
        "cpu/scripts/script.py",
        "def again",
        "other._words[place] = values[number]",
        "pass",
        "test_cpu_scripts.py::test_a_script_for_other_sizes_is_as_if_written_for_them",
    ),
    Mutant(
        "a decision that nobody plays again",
        "cpu/scripts/tape.py",
        "def decided",
        "number.tape.decide(number.tape.apply(lambda value, _: function(value), number, 0))",
        "function(number.value)",
        "test_cpu_scripts.py::test_decisions_of_a_tape",
    ),
    Mutant(
        "a quick call that does not look at types",
        "cpu/layer/short_calls.py",
        "def _look",
        "tensor.stride(), tensor.dtype)",
        "tensor.stride())",
        "test_step.py::test_the_short_way_knows_types",
    ),
    Mutant(
        "a quick call that reads a tensor negative by a mark",
        "cpu/layer/short_calls.py",
        "def _look",
        "if tensor.is_neg() or is_zero_tensor(tensor):",
        "if False:",
        "test_step.py::test_layouts_and_marks",
    ),
    Mutant(
        "one workspace for a call and the call that interrupts it",
        "cpu/scripts/script.py",
        "def _run(",
        "if own.busy:",
        "if False:",
        "test_cpu_callers.py::test_a_signals_handler_that_calls_another_layer",
    ),
    Mutant(
        "addresses of buffers that were given back",
        "cpu/scripts/memory.py",
        "def clear",
        "self.buffers = object()",
        "self.buffers = getattr(self, 'buffers', None)",
        "test_cpu_memory.py",
    ),
    Mutant(
        "a large buffer that outlives its call",
        "cpu/scripts/script.py",
        "def _run(",
        "if own.large:",
        "if False:",
        "test_cpu_callers.py::test_a_large_buffer_does_not_outlive_its_call",
    ),
    Mutant(
        "code that others may have written",
        "cpu/codegen/code_cache.py",
        "def _read",
        " or system.not_private(status)",
        "",
        "test_cpu_compiled.py::test_what_cannot_be_trusted_is_written_anew",
    ),
    Mutant(
        "the newest files of code go",
        "cpu/codegen/code_cache.py",
        "def _trim",
        "entry.stat().st_mtime)",
        "-entry.stat().st_mtime)",
        "test_cpu_compiled.py::test_old_files_go",
    ),
    Mutant(
        "a frozen layer that lets gradients end in silence",
        "frozen.py",
        "def call",
        "if torch.is_grad_enabled() and any(",
        "if False and any(",
        "test_step.py::test_a_frozen_layer_gives_no_gradient",
    ),
    Mutant(
        "panels of another form of call",
        "cpu/layer/short_calls.py",
        "class Packed",
        "self._panels.get(first.contents)",
        "next(iter(self._panels.values()), None)",
        "test_step.py::test_frozen_layers",
    ),
    Mutant(
        "a row of metrics lost at every resume",
        "training/run.py",
        "def forget_metrics_after",
        'if int(row["step"]) <= step]',
        'if int(row["step"]) < step]',
        "test_training.py::test_killed_long_after_the_checkpoint",
    ),
    Mutant(
        "half a file left behind by a killed writer",
        "training/run.py",
        "def sweep",
        "leftover.unlink(missing_ok=True)",
        "pass",
        "test_training.py::test_what_a_killed_writer_left_is_swept",
    ),
    Mutant(
        "a file that is not on the disk when it is renamed",
        "files.py",
        "def write_atomically",
        "os.fsync(file.fileno())",
        "pass",
        "test_training.py::test_files_are_on_disk_before_they_are_renamed",
    ),
    Mutant(
        "a run of someone else's overwritten",
        "training/run.py",
        "def check_free",
        "if occupied and not self.exists:",
        "if False:",
        "test_training.py::test_a_directory_of_someone_elses_is_never_overwritten",
    ),
    Mutant(
        "a mistake that ends with status 0",
        "cli/__init__.py",
        "def _complain",
        "return 2",
        "return 0",
        "test_cli.py::test_a_mistake_ends_with_one_sentence",
    ),
    Mutant(
        "a meeting left out",
        "gpu/resident_kernel.py",
        "done = done + 1",
        "meet(counter, (done",
        "tl.maximum(counter.to(tl.int64), (done",
        "test_gpu.py::test_programs_that_meet",
    ),
    Mutant(
        "a half-precision cell state",
        "gpu/loop.py",
        "def wide",
        "else torch.float32",
        "else dtype",
        "test_gpu.py::test_the_second_state_of_half_types_is_not_rounded",
    ),
    Mutant(
        "codes of lengths and resets swapped",
        "gpu/passes.py",
        "def _codes",
        "squeeze(-1), AFRESH)",
        "squeeze(-1), ABSENT)",
        "test_gpu.py::test_lengths_and_resets_of_users_cells",
    ),
    Mutant(
        "an operand that is overwritten while others read it",
        "gpu/kernels.py",
        'if kind == "operand":',
        "buffers=2 if of_earlier_step else 1",
        "buffers=1",
        "test_gpu.py::test_programs_that_meet",
    ),
    Mutant(
        "steps beyond the end that are done",
        "gpu/kernels.py",
        "def times",
        "(n >= 0) & (n < steps)",
        "n >= 0",
        "test_gpu.py::test_chunks_of_steps",
    ),
    Mutant(
        "samples among the talk",
        "cli/sample.py",
        "def sample",
        'print(text, end="", flush=True)',
        'print(text, end="", flush=True, file=sys.stderr)',
        "test_cli.py::test_samples_go_to_standard_output_and_talk_does_not",
    ),
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "-"))
def test_the_suite_notices(mutant: Mutant, tmp_path: Path, processes: ForkServerContext) -> None:
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    path = tmp_path / "src" / "elman" / mutant.file
    before, anchor, rest = path.read_text(encoding="utf-8").partition(mutant.after)
    assert anchor, f"{mutant.file} no longer has {mutant.after!r}: bring this mutant up to date"
    assert mutant.old in rest, f"{mutant.file} no longer has {mutant.old!r}: bring this mutant up to date"
    path.write_text(before + anchor + rest.replace(mutant.old, mutant.new, 1), encoding="utf-8")

    tests = processes.Process(target=_run, args=(mutant.test, tmp_path, dict(os.environ)))
    tests.start()
    tests.join(timeout=120)
    tests.kill()
    printed = (tmp_path / "printed").read_text(encoding="utf-8")
    crashed = tests.exitcode in (-signal.SIGABRT, -signal.SIGSEGV)  # memory was harmed, and that was noticed
    assert tests.exitcode == 1 or crashed, (
        f"{mutant.test} did not notice: {mutant.name} ({tests.exitcode})\n{printed[-4000:]}"
    )
    assert crashed or "\nFAILED " in printed, printed[-4000:]


# Modules that tests import and that know nothing of elman.
PRELOADED = ["torch._dynamo.testing", "torch._subclasses.fake_tensor", "torch.distributed", "onnx", "pytest"]
PRELOADED += ["hypothesis.strategies", "llvmlite.binding", "typer", "rich.progress", "safetensors.torch", "tokenizers"]
PRELOADED += ["triton.runtime.interpreter"]


@pytest.fixture(scope="module")
def processes() -> ForkServerContext:
    """Processes that have imported already what takes long, but nothing of elman."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


def _run(test: str, folder: Path, environment: dict[str, str]) -> None:
    """Runs a test on the copy in `folder`, and ends this process with pytest's exit code."""
    with (folder / "printed").open("wb") as printed:
        os.dup2(printed.fileno(), 1)
        os.dup2(printed.fileno(), 2)
    source = str(folder / "src")
    os.environ.update(environment | {"PYTHONPATH": source, "OMP_NUM_THREADS": "1", "PYTEST_ADDOPTS": ""})
    os.chdir(ROOT)
    sys.path.insert(0, source)
    options = ["-x", "-q", "-p", "no:cacheprovider", "--basetemp", str(folder / "base")]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of what was imported before
    code = pytest.main([*options, f"tests/{test}"])
    import elman

    assert Path(elman.__file__).is_relative_to(folder), "the tests ran on another copy of elman"
    sys.exit(code)
