"""CoCa-like: CLIP's coupled term and a caption term per row, with different coefficients (Yu et al. 2022)."""

from dataclasses import dataclass

from pretrainx.core.records import Term
from pretrainx.core.schedule import Ramp
from pretrainx.objectives import cross_entropy
from pretrainx.objectives.autoregressive import Autoregressive
from toys.clip import Clip


@dataclass(frozen=True)
class Coca(Clip):
    terms = (Term("contrastive", 1.0), Term("caption", Ramp(2.0, 1.0, 4)))

    def observe(self, key, example, step):
        pair, caption = super().observe(key, example, step), Autoregressive.observe(self, key, example, step)
        return pair.replace(
            inputs=pair.inputs | caption.inputs,
            targets=caption.targets,
            weights=pair.weights | {"caption": caption.weights["nll"]},
        )

    def encode(self, params, extras, observation, keys, step, *, train):
        pair = super().encode(params, extras, observation, keys, step, train=train)
        logits = self.model.apply({"params": params}, observation.inputs["tokens"], keys if train else None)
        nll = cross_entropy.token_nll(logits, observation.targets)
        caption = cross_entropy.outcome("caption", nll, observation.weights["caption"])
        return pair.replace(totals=caption.totals, per_row=caption.per_row)
