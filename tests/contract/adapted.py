"""The wrappers of `config.adapt` under contract, around cases that are under contract by themselves."""

from dataclasses import replace

from pretrainx.adapt.adapter import AdapterConfig
from pretrainx.adapt.ia3 import Ia3Config
from pretrainx.adapt.linear_probe import LinearProbeConfig
from pretrainx.adapt.lora import LoraConfig
from pretrainx.adapt.prefix import PrefixConfig
from pretrainx.adapt.prompt import Prompt, PromptConfig

LORA = LoraConfig(rank=4)
PROMPT = PromptConfig(length=3)
AROUND = {
    "lora(autoregressive)": (LORA, "autoregressive"),
    "lora(toy coca)": (LORA, "toy coca"),
    "lora(mixture(clip, codebook))": (LORA, "mixture(clip, codebook)"),
    "dora(clip)": (
        LoraConfig(rank=2, dropout=0.2, targets="text/.*/up|space/text|image/.*out", rslora=True, dora=True),
        "clip",
    ),
    "adapter(autoregressive)": (AdapterConfig("houlsby", 4), "autoregressive"),
    "adapter(span_corruption)": (AdapterConfig("pfeiffer", 4, "relu"), "span_corruption"),
    "prompt(autoregressive)": (PROMPT, "prompted decoder"),
    "prompt(prefix_lm)": (PROMPT, "prompted prefix"),
    "prompt(autoregressive, experts)": (PROMPT, "prompted experts"),
    "prompt(masked_lm)": (PROMPT, "prompted encoder"),
    "prompt(span_corruption)": (PROMPT, "span_corruption"),
    "prefix(masked_lm)": (PrefixConfig(3, 0.1), "masked_lm"),
    "ia3(span_corruption)": (Ia3Config(), "span_corruption"),
    "linear_probe(classification)": (LinearProbeConfig(), "classification of patches"),
}


def around(bases):
    """{case: a call that makes the objective} of cases {name: such a call}."""
    wrapped = lambda config, base: lambda: config.wrap(bases[base]())
    several = lambda: Prompt(bases["prompted decoder"](), replace(PROMPT, tasks=3))
    return {name: wrapped(*pair) for name, pair in AROUND.items()} | {"prompts(autoregressive)": several}
