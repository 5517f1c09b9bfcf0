"""The hidden quality of answers that carry it."""


def quality(question, answer):
    """The number behind the answer's last word."""
    return float(answer.rpartition(" ")[2])
