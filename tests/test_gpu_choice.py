"""Which engine and which form runs a call on a GPU, with devices that are made up."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import threading
from collections import OrderedDict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import tanh
from torch._subclasses.fake_tensor import FakeTensorMode
from triton.runtime.errors import OutOfResources

import elman
from cases import inputs, layer
from elman import Cell, State, cells, gpu
from elman.cell import cell as define
from elman.engines import choose
from elman.gpu import choice, passes, resident
from elman.gpu.loop import Form
from elman.gpu.resident import Resident, Tile
from elman.gpu.source import module_from
from elman.gpu.steps import CHUNKS, _chunks
from elman.layout import Call
from forks import Child, Forks
from test_gpu import three_phases


def test_the_tile_for_made_up_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    device = torch.device("cuda:0")
    monkeypatch.setattr(choice, "processors", lambda device: 132)
    monkeypatch.setattr("elman.gpu.resident.processors", lambda device: 132)
    monkeypatch.setattr("elman.gpu.resident.shared_memory", lambda device: 227 << 10)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    tried = []
    monkeypatch.setattr(choice, "fits", lambda form, tile: tried.append(tile) or tile.warps == 8)
    choice.choose.cache_clear()
    plain = Form(cells.lstm, "infer", False, False, (False,), 16, 768, 0, torch.bfloat16, False, device, 0)
    assert choice.choose(plain).tile == Tile(8, 8, 16, registers=True)
    assert choice.choose(plain).why.endswith("for each direction, weights in registers")
    assert choice.choose(plain._replace(batch=64)).tile == Tile(16, 8, 32)  # with 16 rows it would be 48 x 4 programs
    assert choice.choose(plain._replace(units=65)).tile == Tile(8, 8, 16, registers=True)
    tried.clear()
    assert choice.choose(plain._replace(units=64)).tile is None  # four warps, which do not fit here
    assert tried[:3] == [Tile(8, 4, 16, registers=True), Tile(8, 4, 16), Tile(16, 4, 16, registers=True)]
    assert "does not fit 4096 units" in choice.choose(plain._replace(units=4096)).why
    exact, rounded = plain._replace(dtype=torch.float32), plain._replace(dtype=torch.float32, tf32=True)
    assert choice.choose(exact._replace(units=192)).tile == Tile(8, 8, 16, "tf32x3", registers=True)
    assert choice.choose(exact).tile == Tile(8, 8, 16, "tf32x3")  # its weights take 192 KiB
    assert "does not fit 1024 units" in choice.choose(exact._replace(units=1024)).why
    assert choice.choose(rounded._replace(units=256)).tile == Tile(8, 8, 16, "tf32x3", registers=True)
    assert choice.choose(rounded._replace(units=512)).tile == Tile(8, 8, 16, "tf32", registers=True)
    assert choice.choose(rounded).tile == Tile(8, 8, 16, "tf32", registers=True)
    assert choice.choose(rounded._replace(units=896)).tile == Tile(8, 8, 16, "tf32")  # 112 numbers for each thread
    assert choice.choose(rounded._replace(units=896)).why.endswith("products in TF32")
    assert "two widths" in choice.choose(plain._replace(cell=cells.projected_lstm)).why
    choice.choose.cache_clear()


def test_what_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    form = Form(cells.lstm, "infer", False, False, (False,), 2, 17, 0, torch.float32, False, torch.device("cpu"), 0)

    def fits(spilled: int, error: Exception | None = None) -> bool:
        def try_out(loop: Resident) -> None:
            if error is not None:
                raise error

        monkeypatch.setattr(Resident, "compiled", SimpleNamespace(n_spills=spilled))
        monkeypatch.setattr(Resident, "try_out", try_out)
        return resident.fits(form, Tile(16, 2, 2))

    assert fits(32)
    assert not fits(33)  # words of 4 bytes
    assert not fits(0, RuntimeError("too many blocks in cooperative launch"))
    assert not fits(0, OutOfResources(300, 227, "shared memory"))
    with pytest.raises(torch.OutOfMemoryError):
        fits(0, torch.OutOfMemoryError())


def test_describe_names_the_form() -> None:
    of = layer("lstm", 3, 5)
    with elman.use_engine("gpu"):
        (found,) = elman.describe(of, inputs(of, 4, 2)[0]).engines
    assert found.why.endswith("; a product and a kernel for each step, since Triton interprets kernels")


def on_a_gpu(cell: Cell, dtype: torch.dtype = torch.float32, rows: int = 1, units: int = 3) -> Call:
    of = elman.Recurrent(cell, 2, units, proj_size=1 if cell.projected else 0)
    with FakeTensorMode():
        x = torch.empty(1, rows, 2, device="cuda", dtype=dtype)
    return of.call(0, torch.empty(1, rows, 2), ())._replace(x=x)


def test_the_choice_for_made_up_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    gpu._of_device.cache_clear()
    assert choose(on_a_gpu(cells.peephole_lstm)).engine == "gpu"
    assert choose(on_a_gpu(cells.lstm)).engine == "gpu"
    assert choose(on_a_gpu(three_phases, torch.bfloat16)).engine == "gpu"
    assert choose(on_a_gpu(cells.peephole_lstm, torch.int32)).engine == "reference"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    gpu._of_device.cache_clear()
    choice = choose(on_a_gpu(cells.peephole_lstm))
    assert choice.engine == "reference"
    with pytest.raises(RuntimeError, match=r"compute capability 8\.0, and cuda:0 has 7\.5"):
        choose(on_a_gpu(cells.peephole_lstm), "gpu")
    gpu._of_device.cache_clear()


@pytest.mark.parametrize(
    ("cell", "inside", "outside"),
    [
        (cells.lstm, {"rows": (16, 32), "units": (768, 1024)}, {"rows": (15, 33), "units": (640, 832, 1152)}),
        (
            cells.rnn,
            {"rows": (64, 1000), "units": (128, 1024), "steps": (1, 128)},
            {"rows": (63,), "units": (192, 1152), "steps": (129,)},
        ),
    ],
    ids=["lstm", "rnn"],
)
def test_where_cudnn_is_faster(
    cell: Cell, inside: dict[str, Any], outside: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    gpu._of_device.cache_clear()

    def faster(dtype: torch.dtype = torch.float16, steps: int = 1, **sizes: int) -> bool:
        call = on_a_gpu(cell, dtype, **sizes)
        return gpu.cudnn_is_faster(call._replace(x=call.x.expand(steps, -1, -1)))

    usual = {"rows": inside["rows"][0], "units": inside["units"][-1]}
    for name, values in inside.items():
        assert all(faster(**{**usual, name: value}) for value in values), name
    for name, values in outside.items():
        assert not any(faster(**{**usual, name: value}) for value in values), name
    assert not faster(torch.bfloat16, **usual)
    call = on_a_gpu(cell, torch.float32, **usual)
    assert not gpu.cudnn_is_faster(call)
    assert gpu.cudnn_is_faster(call._replace(autocast=torch.float16))
    assert not gpu.cudnn_is_faster(call._replace(autocast=torch.float16, directions=call.directions * 2))
    for other in (cells.gru, cells.peephole_lstm):
        assert choose(on_a_gpu(other, torch.float16, **usual)).engine == "gpu"
    assert choose(on_a_gpu(cell, torch.float16, **usual)).engine == "native"
    gpu._of_device.cache_clear()


def test_what_it_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    of = layer("lstm", 3, 5)
    x, _states = inputs(of, 4, 2)
    with pytest.raises(RuntimeError, match="functorch's transforms"), elman.use_engine("gpu"):
        torch.func.vmap(lambda x: of(x)[0])(torch.stack([x, x]))
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(RuntimeError, match="it is for NVIDIA GPUs, and the input is on cpu"), elman.use_engine("gpu"):
        of(x)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setitem(sys.modules, "triton", None)
    gpu._problem.cache_clear()
    with pytest.raises(RuntimeError, match=r"Triton cannot be loaded .* pip install triton"), elman.use_engine("gpu"):
        of(x)
    gpu._problem.cache_clear()


def offline(*arguments: str, seed: str = "0") -> str:
    """Returns what offline.py prints, in a process in which Triton does not interpret."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, str(Path(__file__).parent / "offline.py"), *arguments]
    environment["PYTHONHASHSEED"] = seed
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_kernels_compile_for_gpus() -> None:
    """And their source is the same in every process: Triton's cache on disk depends on it."""
    printed = offline("gru_before", "projected_lstm", "normalised", seed="1")
    assert printed == offline("sources", "gru_before", "projected_lstm", "normalised", seed="2")
    assert printed.count("\n") == 13


def test_a_compiled_kernel_is_started_with_its_parameters() -> None:
    assert offline("start") == "started with 35\n"


def test_why_a_resident_kernel_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    @define(gates=("a",))
    def no_product(x: Any, R: Any, s: Any) -> State:
        return State(h=0.5 * s.h + tanh(x.a))

    monkeypatch.setattr("elman.gpu.resident.processors", lambda device: 132)
    monkeypatch.setattr("elman.gpu.resident.shared_memory", lambda device: 227 << 10)
    plain = Form(
        cells.lstm, "infer", False, False, (False,), 16, 64, 0, torch.bfloat16, False, torch.device("cuda:0"), 0
    )
    assert resident.refusal(plain) is None
    assert "float64" in str(resident.refusal(plain._replace(dtype=torch.float64)))
    assert "multiplies nothing" in str(resident.refusal(plain._replace(cell=no_product)))
    # As many programs as processors may run, one in each, and no more; both directions run at the same time.
    assert Tile(8, 8, 16) in resident.candidates(plain._replace(units=132 * 8))
    assert Tile(8, 8, 16) not in resident.candidates(plain._replace(units=132 * 8 + 1))
    assert Tile(8, 8, 16) not in resident.candidates(plain._replace(units=67 * 8, reverse=(False, True)))
    assert {tile.warps for tile in resident.candidates(plain._replace(units=32))} == {4}


def test_graphs_run_every_step() -> None:
    for steps in range(100):
        chunks = _chunks(steps)
        assert set(chunks) <= set(CHUNKS)
        assert steps <= sum(chunks) < steps + min(CHUNKS)


def test_counters_of_a_resident_kernel() -> None:
    """Each group of rows in each direction has one for meetings and one for leaving."""
    form = Form(
        cells.lstm, "infer", False, False, (False, True), 5, 17, 0, torch.float32, False, torch.device("cpu"), 0
    )
    loop = Resident(form, Tile(units=16, warps=2, rows=2))
    assert loop.counters.tolist() == [0] * (2 * 3 * 2)


def test_what_a_kernel_is_tried_out_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads weights from wherever its addresses lead."""
    form = Form(cells.lstm, "infer", False, False, (False,), 5, 17, 0, torch.float32, False, torch.device("cpu"), 0)
    loop, made, started = Resident(form, Tile(units=16, warps=2, rows=2)), [], []
    monkeypatch.setattr(
        torch, "zeros", lambda *size, zeros=torch.zeros, **kind: made.append(zeros(*size, **kind)) or made[-1]
    )
    monkeypatch.setattr(loop, "start", lambda *numbers: started.append(numbers))
    loop.try_out()
    ((rows, steps, *addresses),) = started
    assert (rows, steps, len(addresses)) == (0, 0, len(loop.arrays))
    assert {*addresses} == {made[0].data_ptr()}
    assert made[0].numel() >= 4 * 17 * 17
    assert made[0].dtype == torch.float32


def test_the_oldest_device_and_other_makers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    gpu._of_device.cache_clear()
    assert choose(on_a_gpu(cells.peephole_lstm)).engine == "gpu"
    monkeypatch.setattr(torch.version, "hip", "6.0")
    gpu._of_device.cache_clear()
    with pytest.raises(RuntimeError, match="made for AMD's"):
        choose(on_a_gpu(cells.peephole_lstm), "gpu")
    gpu._of_device.cache_clear()


def test_the_form_of_training_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a pass backward, too, which may have another one."""
    asked, plain = [], passes.choose
    monkeypatch.setattr(passes, "choose", lambda form: asked.append(form) or plain(form))
    of = layer("lstm", 3, 5)
    x, _ = inputs(of, 4, 2)
    with elman.use_engine("gpu"):
        elman.describe(of, x)
        with torch.no_grad():
            elman.describe(of, x)
            elman.describe(of, x, lengths=[4, 2])
            elman.describe(of, x, reset=torch.zeros(4, 2, dtype=torch.bool))
    assert [form.name for form in asked] == ["forward", "backward", "infer", "infer", "infer"]
    assert [form.coded for form in asked] == [False, False, False, True, True]


def test_switches_for_tf32_are_set_back(forks: Forks) -> None:
    """The older ones and the newer ones, in a process of its own; on the CPU and for half types they are left alone."""
    code = """
import torch
from types import SimpleNamespace
from elman.gpu import passes

matmul, rnn = torch.backends.cuda.matmul, torch.backends.cudnn.rnn

def within(dtype=torch.float32, is_cuda=True):
    before = matmul.fp32_precision
    x = SimpleNamespace(dtype=dtype, is_cuda=is_cuda)
    with passes._products_as_recurrent_layers(SimpleNamespace(x=x)) as tf32:
        found = tf32, matmul.fp32_precision
    assert matmul.fp32_precision == before
    return found

assert within() == (True, "tf32")  # torch's defaults differ: TF32 in recurrent layers, and not in other products
assert within(is_cuda=False) == within(torch.float16) == (False, "none")
torch.set_float32_matmul_precision("medium")
assert within() == (True, "tf32")
assert torch.get_float32_matmul_precision() == "medium"
torch.backends.cudnn.allow_tf32 = False
assert within() == (False, "ieee")
torch.backends.cudnn.allow_tf32 = True
rnn.fp32_precision = "ieee"
assert within() == (False, "ieee")
torch.backends.fp32_precision = rnn.fp32_precision = matmul.fp32_precision = "tf32"
assert within() == (True, "tf32")
"""
    (done,) = forks.run(Child(code))
    assert done.returncode == 0, done.stderr


def test_loops_that_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU: the loops that were used last. While a caller records a graph, none."""
    made: list[Any] = []
    recording, lock = False, threading.Lock()
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: recording)
    monkeypatch.setattr(choice, "_loops", OrderedDict())

    def make(form: Any, graphs: bool) -> Any:
        made.append((form.batch, graphs))
        return SimpleNamespace(form=form, lock=lock)

    monkeypatch.setattr(choice, "make", make)
    device = torch.device("cuda:0")
    plain = Form(cells.lstm, "infer", False, False, (False,), 16, 64, 0, torch.float32, False, device, 0)
    forms = [plain._replace(batch=k) for k in range(choice.KEPT + 1)]
    for form in forms[:-1] * 2:
        with choice.loop_for(form) as loop:
            assert loop.form == form
            assert lock.locked(), "two threads would share its buffers"
    assert made == [(k, True) for k in range(choice.KEPT)]
    for form in (forms[0], forms[-1], forms[0], forms[-1]):  # the last one takes the place of forms[1]
        with choice.loop_for(form):
            pass
    assert made[choice.KEPT :] == [(choice.KEPT, True)]
    with choice.loop_for(forms[1]):
        pass
    assert made[choice.KEPT + 1 :] == [(1, True)]
    recording = True
    with choice.loop_for(forms[0]):
        pass
    assert made[choice.KEPT + 2 :] == [(0, False)]


def test_nothing_is_tried_out_while_a_graph_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A launch would be recorded and not run. What was chosen before is there."""
    recording, device = True, torch.device("cuda:0")
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: recording)
    monkeypatch.setattr(choice, "candidates", lambda form: [Tile(8, 8, 16)])
    monkeypatch.setattr(choice, "fits", lambda form, tile: not recording)
    form = Form(cells.lstm, "forward", False, False, (False,), 16, 768, 0, torch.float16, False, device, 0)
    choice.choose.cache_clear()
    with pytest.raises(RuntimeError, match="`forward` of lstm with 16 rows and 768 units in float16 has to run once"):
        choice.choose(form)
    recording = False
    assert choice.choose(form).tile == Tile(8, 8, 16)
    recording = True
    assert choice.choose(form).tile == Tile(8, 8, 16)
    choice.choose.cache_clear()


def test_the_form_of_another_stream_is_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """But the choice is the same, since it takes long."""
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=7))
    call = on_a_gpu(cells.lstm)._replace(state=(torch.empty(1, 1, 3),) * 2)
    form = passes._form(call, "infer", False, True)
    assert (form.stream, form.tf32) == (7, True)
    asked: list[Form] = []
    monkeypatch.setattr(choice, "choose", lambda form: asked.append(form) or choice.Choice(None, ""))
    monkeypatch.setattr(choice, "Steps", lambda form, graphs: form)
    made: Any = choice.make(form, graphs=False)
    assert made.stream == 7
    assert asked == [form._replace(stream=0)]


def test_modules_of_the_same_name_have_their_own_text() -> None:
    """Triton reads the text of a kernel, and not its bytecode."""
    texts = [f"def f():\n    return {k}\n" for k in (1, 2)]
    modules = [module_from(text, "of the same name") for text in texts]
    assert [inspect.getsource(module.f) for module in modules] == texts
    assert [module.f() for module in modules] == [1, 2]
    assert module_from(texts[0], "of another name") is modules[0]
