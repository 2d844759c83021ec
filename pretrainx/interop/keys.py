"""Strict reading of another library's config.json: a key that is not understood may change the mathematics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pretrainx.core.errors import ConfigError, DataError, nearest

# These do not enter the forward pass: names, special ids, initialisation, dropout, generation, what else heads do.
IDLE = frozenset(
    """_name_or_path _num_labels architectures attention_dropout attn_pdrop bos_token_id chunk_size_feed_forward
    classifier_dropout dtype embd_pdrop eos_token_id gradient_checkpointing id2label initializer_range is_llama_config label2id
    model_type n_ctx output_attentions output_hidden_states output_past pad_token_id resid_pdrop return_dict
    summary_activation summary_first_dropout summary_proj_to_labels summary_type summary_use_proj task_specific_params
    torch_dtype transformers_version transformers.js_config use_cache""".split()
)
# Their names of our activations, the one that is written first.
ACTIVATIONS = {
    "gelu_tanh": ("gelu_new", "gelu_pytorch_tanh"),
    "gelu": ("gelu",),
    "silu": ("silu", "swish"),
    "relu": ("relu",),
    "quick_gelu": ("quick_gelu",),
}
# What encoder-decoders are generated from with; all of it idle too.
GENERATION = """early_stopping force_bos_token_to_be_generated forced_bos_token_id forced_eos_token_id length_penalty
    max_length min_length no_repeat_ngram_size num_beams prefix""".split()
_MISSING = object()


class Keys:
    """The keys of a config.json. Every one is taken, or idle; `finish` refuses the rest, all at once."""

    def __init__(self, values: Mapping[str, Any], where: str):
        self.where, self._values, self._problems = where, dict(values), []
        self._left = set(values) - IDLE

    def size(self, name: str, default: int | None = None) -> int:
        """A whole number above 0; `default` where the key is left out or null, without one it must be there."""
        found = self._take(name)
        if found in (_MISSING, None) and default is not None:
            return default
        if isinstance(found, bool) or not isinstance(found, int) or found < 1:
            self._problems.append(f"{name}: {_shown(found)}, expected a whole number above 0")
            return default or 1
        return found

    def index(self, name: str, default: int) -> int:
        """A whole number from 0 on; `default` where the key is left out or null."""
        found = self._take(name)
        if found in (_MISSING, None):
            return default
        if isinstance(found, bool) or not isinstance(found, int) or found < 0:
            self._problems.append(f"{name}: {_shown(found)}, expected a whole number, 0 or more")
            return default
        return found

    def has(self, name: str) -> bool:
        return name in self._values

    def positive(self, name: str, default: float) -> float:
        """A number above 0; `default` where the key is left out or null."""
        found = self._take(name)
        if found in (_MISSING, None):
            return default
        if isinstance(found, bool) or not isinstance(found, (int, float)) or not found > 0:
            self._problems.append(f"{name}: {_shown(found)}, expected a number above 0")
            return default
        return float(found)

    def not_negative(self, name: str, default: float) -> float:
        """A number, 0 or more; `default` where the key is left out or null."""
        found = self._take(name)
        return 0.0 if type(found) in (int, float) and found == 0 else self.positive(name, default)

    def flag(self, name: str, default: bool) -> bool:
        found = self._take(name)
        if found in (_MISSING, None):
            return default
        if not isinstance(found, bool):
            self._problems.append(f"{name}: {_shown(found)}, expected true or false")
            return default
        return found

    def only(self, name: str, *known: Any) -> None:
        """Refuses every value but the known ones; a key that is left out has the first."""
        found = self._take(name)
        if found is not _MISSING and not any(found == value and type(found) is type(value) for value in known):
            values = " or ".join(map(_shown, known))
            self._problems.append(f"{name}: {_shown(found)} is another model; supported: {values}")

    def idle(self, *names: str) -> None:
        """These do not enter the forward pass of this family, whatever their values."""
        self._left -= set(names)

    def repeats(self, name: str, other: str, default: Any = None) -> None:
        """Refuses a value that is not that of the key `other`; null, or left out, it is."""
        found, wanted = self._take(name), self._values.get(other, default)
        if found not in (_MISSING, None, wanted):
            self._problems.append(f"{name}: {_shown(found)} is another model; supported: {other}, {_shown(wanted)}")

    def text(self, name: str, default: str) -> str:
        """A word; `default` where the key is left out."""
        found = self._take(name)
        if found is _MISSING:
            return default
        if not isinstance(found, str):
            self._problems.append(f"{name}: {_shown(found)}, expected a word")
            return default
        return found

    def activation(self, name: str, default: str) -> str:
        """Our name of the activation."""
        found = self._take(name)
        return self.activation_of(name, default if found is _MISSING else found)

    def activation_of(self, name: str, found: Any) -> str:
        """Our name of an activation of theirs, which the key `name` holds."""
        for ours, theirs in ACTIVATIONS.items():
            if found in theirs:
                return ours
        known = ", ".join(name for theirs in ACTIVATIONS.values() for name in theirs)
        self._problems.append(f"{name}: {_shown(found)} is not supported; known: {known}")
        return "silu"

    def section(self, name: str) -> dict[str, Any]:
        """A nested section, {} where it is left out or null."""
        found = self._take(name)
        if found in (_MISSING, None):
            return {}
        if not isinstance(found, dict):
            self._problems.append(f"{name}: {_shown(found)}, expected a section")
            return {}
        return found

    def numbers(self, name: str, default: Iterable[float]) -> tuple[float, ...]:
        """A list of numbers; `default` where the key is left out or null."""
        found = self._take(name)
        if found in (_MISSING, None):
            return tuple(default)
        if not isinstance(found, (list, tuple)) or not all(type(number) in (int, float) for number in found):
            self._problems.append(f"{name}: {_shown(found)}, expected numbers")
            return tuple(default)
        return tuple(map(float, found))

    def refuse(self, problem: str) -> None:
        self._problems.append(problem)

    def initial_std(self, name: str = "initializer_range") -> float:
        """Idle for a trained model, the start of leaves that a wrapper adds."""
        found = self._values.get(name)
        return float(found) if isinstance(found, (int, float)) and not isinstance(found, bool) and found > 0 else 0.02

    def finish(self) -> None:
        """Raises DataError listing keys that are unknown and values that have no form here."""
        known = [name for name in self._values if name not in self._left]
        unknown = [
            f"{name}: unknown, {_shown(self._values[name])}; {nearest(name, known)}" for name in sorted(self._left)
        ]
        if problems := self._problems + unknown:
            raise DataError(
                "the model's configuration cannot be followed",
                where=self.where,
                why="\n".join(problems),
                do="nothing is guessed: a key that is not understood may change the model's output",
            )

    def _take(self, name: str) -> Any:
        self._left.discard(name)
        return self._values.get(name, _MISSING)


def refuse_habits(found: Mapping[str, tuple[Any, Any]], family: str) -> None:
    """ConfigError naming every key of config.model whose value the family has no form for: {key: (value, supported)}."""
    if found:
        raise ConfigError(
            f"the model has no form as {family}",
            where=", ".join(f"config.model.{name}" for name in found),
            why="\n".join(f"{name} is {value!r}, {family} has {wanted}" for name, (value, wanted) in found.items()),
            do="export a model of that family's habits; this one stays in its workdir",
        )


def _shown(value: Any) -> str:
    return (
        "missing"
        if value is _MISSING
        else "null"
        if value is None
        else str(value).lower()
        if isinstance(value, bool)
        else repr(value)
    )
