"""Run by an engine's Python, which has transformers; Overspan's own has not. It imports nothing of `overspan`.

    python convert_gguf.py FOLDER_OF_GGUF FILE_NAME OUTPUT_FOLDER

Without dequantising, transformers cannot save what it read (see docs/log.md).
"""

import sys


def main(folder: str, file: str, output: str) -> None:
    """Write the model as bf16 safetensors, with its tokenizer and chat template."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    config = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(
        folder, gguf_file=file, quantization_config=config, dtype=torch.bfloat16
    )
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
