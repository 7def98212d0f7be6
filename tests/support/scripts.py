"""Texts in many scripts: what a detokenizer can break."""

import random

PIECES = (
    "你好世界",
    "今天天气很好，我们去公园。",
    "🙂🚀🎉",
    "👩\u200d👩\u200d👧\u200d👦",
    "🇩🇪🇯🇵",
    "👍🏽",
    "nai\u0308ve cafe\u0301",
    "a\u0323\u0302 o\u031b\u0323 Z\u0351\u036b\u0343",
    "Привет, мир",
    "مرحبا بالعالم",
    "नमस्ते दुनिया",
    "สวัสดีชาวโลก",
    "안녕하세요",
    "plain words of English",
    "numbers 3.14 and 2,718",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𐍈",
)


def mixed_prompts(count: int, seed: int = 33303) -> list[str]:
    """Prompts of 1 to 8 pieces each, every one another."""
    draw = random.Random(seed)
    return [
        f"Say this again ({number}): " + " ".join(draw.choice(PIECES) for _ in range(draw.choice((1, 2, 4, 8))))
        for number in range(count)
    ]
