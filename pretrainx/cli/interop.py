"""The commands between libraries: import, export."""

from __future__ import annotations

from pretrainx.cli.arguments import Arguments, Command, Flag, whole_number


def _import(arguments: Arguments) -> int:
    from pretrainx.runs.interop import import_model

    import_model(arguments.flags["source"], arguments.flags["workdir"])
    return 0


def _export(arguments: Arguments) -> int:
    from pretrainx.runs.interop import export_model

    step = whole_number(arguments, "step") if "step" in arguments.flags else None
    export_model(arguments.flags["workdir"], arguments.flags["target"], step)
    return 0


COMMANDS = (
    Command(
        "import",
        "make a run of a Hugging Face model (GPT-2, LLaMA, BERT, RoBERTa, T5, BART; ViT, ViTMAE, BEiT; CLIP, SigLIP), of "
        "open_clip's CoCa, or of a GGUF file (LLaMA)",
        _import,
        (
            Flag(
                "source",
                "a directory with config.json (of open_clip open_clip_config.json), weights as safetensors and, of text, "
                "tokenizer.json; or FILE.gguf",
                "HF_DIR",
                True,
            ),
            Flag("workdir", "the new run", "DIR", True),
        ),
    ),
    Command(
        "export",
        "write a run's model as a directory that transformers, or of CoCa open_clip, loads",
        _export,
        (
            Flag("workdir", "the directory of the run", "DIR", True),
            Flag("target", "the directory to write, new or empty", "HF_DIR", True),
            Flag("step", "the checkpoint; the newest where it is left out", "N"),
        ),
    ),
)
