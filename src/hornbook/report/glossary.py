"""The words of the report, each explained in a sentence or two for someone who is new to them."""

GLOSSARY = (
    (
        "Token",
        "A piece of text that the model reads and writes at a time: a word, part of a word, or a"
        " single character. The tokenizer cuts text into tokens.",
    ),
    (
        "Loss",
        "How surprised the model is by the next token, on average, in nats: the negative natural"
        " logarithm of the probability that it gave to the token that really came. 0 would be"
        " perfect foresight; guessing evenly among 32,768 tokens costs ln 32,768 = 10.4.",
    ),
    (
        "Held-out (validation) text",
        "Text kept apart and never trained on. How well the model predicts it says what it learned"
        " about language, not what it learned by heart.",
    ),
    (
        "Bits per byte",
        "The loss, counted in bits for each byte of text instead of nats for each token, so that"
        " models with different tokenizers can be compared. Uncompressed text has 8 bits per byte;"
        " a general compressor such as gzip needs about 3 for English prose. Lower is better.",
    ),
    (
        "Perplexity",
        "e to the power of the loss: among how many equally likely tokens the model hesitates, as"
        " it were, each time.",
    ),
    (
        "Step",
        "One update of the weights, after one batch of training text.",
    ),
    (
        "Learning rate",
        "How far each step moves the weights. It usually rises at first (warm-up) and then falls.",
    ),
    (
        "Gradient norm",
        "How strongly the batch pulls at all weights together, before clipping. Calm is good; a"
        " spike often comes with a spike in the loss.",
    ),
    (
        "Tokens per second",
        "How fast the machine trains.",
    ),
    (
        "Waiting for data",
        "Time in which a step had to wait for its batch. It should be next to nothing.",
    ),
    (
        "Model FLOPs utilisation (MFU)",
        "The arithmetic that the model needs, as a share of the most that the hardware could do in"
        " the same time.",
    ),
    (
        "Micro-batch",
        "The rows that go through the model at once. A step adds up the gradients of as many"
        " micro-batches as its batch takes; the result does not depend on their size.",
    ),
    (
        "Epoch, times through the text",
        "How often the training saw as many tokens as the training text has.",
    ),
)
"""(word, meaning) in the order in which they are shown."""
