"""Faults of muP and depth scaling, and of the checks of them."""

from mutants.record import Mutant

MUP, SCALED, DECODER = "pretrainx/optim/mup.py", "pretrainx/models/scaled.py", "pretrainx/models/decoder.py"
STACK, TRANSFER, COORDINATES = (
    "pretrainx/models/stack.py",
    "pretrainx/scaling/lr_transfer.py",
    "pretrainx/scaling/coordinates.py",
)

MUP_FAULTS = [
    Mutant(
        "muP heads",
        "heads get the rate of hidden matrices",
        MUP,
        'if axes.role(names) != "kernel":',
        'if axes.role(names) not in ("kernel", "head"):',
        "tests/optim/test_mup.py::test_rates_by_role",
    ),
    Mutant(
        "muP Muon",
        "Muon's update grows with the width",
        MUP,
        "self.width**-0.5 if isinstance(config, MuonConfig) and outputs else",
        "1.0 if isinstance(config, MuonConfig) and outputs else",
        "tests/optim/test_mup.py::test_rates_by_role",
    ),
    Mutant(
        "muP epsilon",
        "epsilon stays while gradients of deep stacks fall",
        MUP,
        'self.depth if "layers" in names else 1.0',
        "1.0",
        "tests/optim/test_mup.py::test_epsilon_falls_with_gradients",
    ),
    Mutant(
        "muP start",
        "hidden matrices start as wide as the base's",
        SCALED,
        "self.initial_std * self.wider**-0.5",
        "self.initial_std",
        "tests/models/test_scaled.py::test_spread",
    ),
    Mutant(
        "muP logits",
        "tied logits are not divided",
        DECODER,
        "self.token.attend(hidden, config.readout)",
        "self.token.attend(hidden)",
        "tests/models/test_scaled.py::test_logits_are_divided[tied]",
    ),
    Mutant(
        "branches",
        "blocks of a deep stack add as much as the base's",
        STACK,
        "y = y / config.deeper",
        "y = y / 1.0",
        "tests/models/test_scaled.py::test_branches_are_divided_by_depth",
    ),
    Mutant(
        "edge of rates",
        "the lowest of a list that ends there counts as an optimum",
        TRANSFER,
        "return self.drift <= ADJACENT and not self.edges",
        "return self.drift <= ADJACENT",
        "tests/scaling/test_lr_transfer.py::test_minima_at_an_edge_fail",
    ),
    Mutant(
        "slope sign",
        "only growth is a failure of the coordinate check",
        COORDINATES,
        "return float(np.abs(self.slopes[-1]).max())",
        "return float(self.slopes[-1].max())",
        "tests/scaling/test_coordinates.py::test_slopes",
    ),
]
