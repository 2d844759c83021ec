"""What keeps old knowledge under contract, around cases that are under contract by themselves."""

from pretrainx.adapt.distill import DistillConfig
from pretrainx.adapt.ewc import EwcConfig
from pretrainx.adapt.l2_sp import L2SpConfig

EWC = EwcConfig(strength=0.5, ramp=4)
AROUND = {
    "ewc(clip)": (EWC, "toy clip"),
    "ewc(lora(autoregressive))": (EWC, "lora(autoregressive)"),
    "l2_sp(mixture_of_denoisers)": (L2SpConfig(0.5), "mixture_of_denoisers"),
    "distill(autoregressive)": (DistillConfig(0.5), "autoregressive"),
}


def around(bases):
    """{case: a call that makes the objective} of cases {name: such a call}."""
    wrapped = lambda config, base: lambda: config.wrap(bases[base]())
    return {name: wrapped(*pair) for name, pair in AROUND.items()}
