"""The equations of the built-in cells. No other file of elman states them.

Read `x.i` as the input's contribution to gate i, W_i x_t + b_ih,i, and `R.i @ v` as its recurrent contribution,
R_i v + b_hh,i; `s` is the state of the previous step and `p` holds one weight per unit. Gates are listed
in the order of their rows in the weight matrices, which is torch's order. `*` is elementwise.
"""

from __future__ import annotations

import difflib

from torch import exp, log, relu, sigmoid, tanh

from elman.cell import Cell, State, cell
from elman.errors import InputError

ELMAN = "J. L. Elman, Finding structure in time, Cognitive Science 14 (1990)"
LSTM = "S. Hochreiter & J. Schmidhuber, Long short-term memory, Neural Computation 9 (1997)"
FORGET = "F. A. Gers, J. Schmidhuber & F. Cummins, Learning to forget, Neural Computation 12 (2000)"
PEEPHOLES = "F. A. Gers, N. N. Schraudolph & J. Schmidhuber, Learning precise timing with LSTM recurrent networks, JMLR 3 (2002)"
ODYSSEY = "K. Greff et al., LSTM: a search space odyssey, IEEE TNNLS 28 (2017), variant CIFG"
PROJECTION = "H. Sak, A. Senior & F. Beaufays, Long short-term memory recurrent neural network architectures for large scale acoustic modeling, Interspeech (2014)"
GRU = "K. Cho et al., Learning phrase representations using RNN encoder-decoder for statistical machine translation, EMNLP (2014)"
GRU_AFTER = "J. Chung et al., Empirical evaluation of gated recurrent neural networks on sequence modeling (2014), in the form of cuDNN and torch.nn.GRU"
CRF = "J. Lafferty, A. McCallum & F. Pereira, Conditional random fields: probabilistic models for segmenting and labeling sequence data, ICML (2001)"


@cell(gates=("h",), reference=ELMAN)
def rnn(x, R, s):
    """The Elman network: a hidden layer that reads the input and its own previous value.

    Source: Elman (1990). Same as `torch.nn.RNN(nonlinearity="tanh")`.
    """
    return State(h=tanh(x.h + R.h @ s.h))


@cell(
    gates=("h",),
    reference="Q. V. Le, N. Jaitly & G. E. Hinton, A simple way to initialize recurrent networks of rectified linear units (2015)",
)
def rnn_relu(x, R, s):
    """The Elman network with rectified linear units.

    Source: Le, Jaitly & Hinton (2015). Same as `torch.nn.RNN(nonlinearity="relu")`.
    """
    return State(h=relu(x.h + R.h @ s.h))


@cell(gates=("i", "f", "g", "o"), states=("h", "c"), reference=f"{LSTM}; {FORGET}")
def lstm(x, R, s):
    """Long short-term memory: the cell state c is forgotten, written and read through three gates.

    Source: Hochreiter & Schmidhuber (1997), with the forget gate of Gers et al. (2000).
    Same as `torch.nn.LSTM`.
    """
    i = sigmoid(x.i + R.i @ s.h)
    f = sigmoid(x.f + R.f @ s.h)
    g = tanh(x.g + R.g @ s.h)
    o = sigmoid(x.o + R.o @ s.h)
    c = f * s.c + i * g
    return State(h=o * tanh(c), c=c)


@cell(gates=("i", "f", "g", "o"), states=("h", "c"), vectors=("i", "f", "o"), reference=PEEPHOLES)
def peephole_lstm(x, R, s, p):
    """LSTM whose gates see the cell state: the input and forget gates see the old one, the output gate the new one.

    Source: Gers, Schraudolph & Schmidhuber (2002).
    """
    i = sigmoid(x.i + R.i @ s.h + p.i * s.c)
    f = sigmoid(x.f + R.f @ s.h + p.f * s.c)
    g = tanh(x.g + R.g @ s.h)
    c = f * s.c + i * g
    o = sigmoid(x.o + R.o @ s.h + p.o * c)
    return State(h=o * tanh(c), c=c)


@cell(gates=("f", "g", "o"), states=("h", "c"), reference=ODYSSEY)
def coupled_lstm(x, R, s):
    """LSTM with coupled gates, i = 1 - f: it writes only where it forgets.

    Source: Greff et al. (2017), CIFG. The forget gate f has weights; the input gate is computed from it.
    """
    f = sigmoid(x.f + R.f @ s.h)
    g = tanh(x.g + R.g @ s.h)
    o = sigmoid(x.o + R.o @ s.h)
    c = f * s.c + (1 - f) * g
    return State(h=o * tanh(c), c=c)


@cell(gates=("f", "g", "o"), states=("h", "c"), vectors=("f", "o"), reference=f"{PEEPHOLES}; {ODYSSEY}")
def coupled_peephole_lstm(x, R, s, p):
    """LSTM with coupled gates and peepholes.

    Source: Gers, Schraudolph & Schmidhuber (2002) for the peepholes, Greff et al. (2017) for i = 1 - f.
    """
    f = sigmoid(x.f + R.f @ s.h + p.f * s.c)
    g = tanh(x.g + R.g @ s.h)
    c = f * s.c + (1 - f) * g
    o = sigmoid(x.o + R.o @ s.h + p.o * c)
    return State(h=o * tanh(c), c=c)


@cell(gates=("r", "z", "n"), reference=GRU_AFTER)
def gru(x, R, s):
    """Gated recurrent unit, reset applied after the recurrent product.

    Source: Chung et al. (2014), in the form of cuDNN. Same as `torch.nn.GRU`; z is the share of the
    previous state that is kept.
    """
    r = sigmoid(x.r + R.r @ s.h)
    z = sigmoid(x.z + R.z @ s.h)
    n = tanh(x.n + r * (R.n @ s.h))
    return State(h=(1 - z) * n + z * s.h)


@cell(gates=("r", "z", "n"), reference=GRU)
def gru_before(x, R, s):
    """Gated recurrent unit, reset applied before the recurrent product, as first published.

    Source: Cho et al. (2014), equations 5 to 8. Same as ONNX's GRU with linear_before_reset=0.
    """
    r = sigmoid(x.r + R.r @ s.h)
    z = sigmoid(x.z + R.z @ s.h)
    n = tanh(x.n + R.n @ (r * s.h))
    return State(h=(1 - z) * n + z * s.h)


@cell(gates=("i", "f", "g", "o"), states=("h", "c"), projected=("h",), reference=PROJECTION)
def projected_lstm(x, R, s, P):
    """LSTM whose output is projected to proj_size before it is fed back.

    Source: Sak, Senior & Beaufays (2014). Same as `torch.nn.LSTM(proj_size=...)`.
    """
    i = sigmoid(x.i + R.i @ s.h)
    f = sigmoid(x.f + R.f @ s.h)
    g = tanh(x.g + R.g @ s.h)
    o = sigmoid(x.o + R.o @ s.h)
    c = f * s.c + i * g
    return State(h=P.h @ (o * tanh(c)), c=c)


BUILT_IN: dict[str, Cell] = {value.name: value for value in list(globals().values()) if isinstance(value, Cell)}


@cell(gates=("t",), states=("h", "m"), vectors=("largest",), streams=("score",), reference=CRF)
def forward_backward(x, R, s, p, u):
    """The messages of `elman.CRF`: what the steps so far say of the next one's tag, m_k' = log sum_j exp(A_jk) p_j.

    p_j is the probability of tag j by all steps so far. The matrix of R.t holds exp(A_jk - largest_k). The output is the message
    that enters the step. Source: Lafferty, McCallum & Pereira (2001).
    """
    z = s.m + u.score
    z = z - 8 * log(exp(z / 8).sum(-1, keepdim=True))  # the largest is now between -8 log K and 0
    q = exp(z)
    return State(h=s.m, m=p.largest + log(R.t @ (q / q.sum(-1, keepdim=True))))


def by_name(name: str, projected: bool = True) -> Cell:
    """The built-in cell of that name. For an unknown name raises InputError, a ValueError that lists the known ones.

    projected: whether cells that project their output are listed, too.
    """
    known = BUILT_IN.get(name.lower().replace("-", "_"))
    if known is None:
        names = [each for each, cell in BUILT_IN.items() if projected or not cell.projected]
        close = difflib.get_close_matches(name.lower(), names, n=1)
        guess = f"; did you mean {close[0]!r}?" if close else ";"
        raise InputError(f"unknown cell {name!r}{guess} known cells: {', '.join(names)}")
    return known
