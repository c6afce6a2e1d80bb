"""A deferred module gives its stand-ins without running, and runs whole when anything else of it is asked for."""

import subprocess
import sys

BEGIN = "import sys\nfrom anchorlab.deferred import defer\ndefer()\n"


def run(code: str) -> None:
    """In a process of its own, whose modules have not been imported yet."""
    done = subprocess.run([sys.executable, "-c", BEGIN + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_lightning_and_an_optimizer_work_without_what_is_deferred_and_with_it():
    run("""
import lightning.pytorch as pl
import torch
from lightning.pytorch.utilities.compile import OptimizedModule

layer = torch.nn.Linear(2, 1)
optimizer = torch.optim.AdamW(layer.parameters())
layer(torch.ones(1, 2)).sum().backward()
optimizer.step()
optimizer.zero_grad()
assert layer.weight.grad is None
assert not isinstance(layer, OptimizedModule)
assert not {"sympy", "scipy", "matplotlib"} & set(sys.modules)

compiled = torch.compile(layer, backend="eager")
assert compiled(torch.ones(1, 2)).shape == (1, 1)
assert isinstance(compiled, OptimizedModule) and not isinstance(layer, OptimizedModule)
optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]})
assert type(sys.modules["torch._dynamo"]) is type(sys)

import torchmetrics
from torchmetrics.functional.regression import mean_squared_error
from torchmetrics.utilities.plot import plot_single_or_multi_val

mean = torchmetrics.MeanMetric()
mean.update(3.0)
assert mean.compute() == 3
assert isinstance(mean, pl.core.module.Metric)
figure, _ = mean.plot()
assert type(figure).__module__ == "matplotlib.figure"
""")


def test_module_below_a_deferred_one_runs_that_one_first_and_is_there_once():
    run("""
import torch._dynamo.config as config
import torch._dynamo

assert torch._dynamo.config is config
assert sys.modules["torch._dynamo.config"] is config
assert config.__spec__.loader is not None and config.__spec__.name == "torch._dynamo.config"
assert torch._dynamo.OptimizedModule.__module__ == "torch._dynamo.eval_frame"
""")


def test_what_is_imported_already_is_left_as_it_is():
    run("""
import torchmetrics
assert torchmetrics.__version__
names = dir(torchmetrics.functional)
defer()
import torchmetrics
assert dir(torchmetrics.functional) == names
assert sum(type(finder).__name__ == "_Finder" for finder in sys.meta_path) == 1
""")
