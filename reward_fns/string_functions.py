"""The 25 string functions that the programs of the composition task are made of.

Their source text, docstrings included, is what a model reads in the first stage, so each stands
alone: builtins only, no helper. Loops, recursion and search stay where the task has them, because
tracing those is the skill that is taught.

Source: Yuan et al., "From f(x) and g(x) to f(g(x))", 2025; PRIME-RL/RL-Compositionality.

Deviations: wording and code are ours; results equal the authors' on every vector in the tests.
"""

from collections.abc import Callable


def func_0(s: str) -> str:
    """Take every m-th character, cyclically; m is the first of 3, 5, ... coprime to len(s)."""
    a, b, m = 0, 0, 1
    while a != 1 and s:
        m += 2
        a, b = m, len(s)
        while b:
            a, b = b, a % b
    return "".join(s[i * m % len(s)] for i in range(len(s)))


def func_1(s: str, n: int) -> str:
    """Repeat the string n times."""
    return s * n


def func_2(s: str) -> str:
    """Remove all vowels."""
    return "".join(c for c in s if c not in "aeiouAEIOU")


def func_3(s: str) -> str:
    """Sort the characters."""
    return "".join(sorted(s))


def func_4(s: str) -> str:
    """Reverse the order of the words."""
    return " ".join(s.split()[::-1])


def func_5(s: str, prefix: str) -> str:
    """Put a fixed text in front."""
    return prefix + s


def func_6(s: str, suffix: str) -> str:
    """Put a fixed text behind."""
    return s + suffix


def func_7(s: str, other: str) -> str:
    """Alternate the characters of two strings; what is left of the longer one follows."""
    n = min(len(s), len(other))
    return "".join(s[i] + other[i] for i in range(n)) + s[n:] + other[n:]


def func_8(s: str, n: int) -> str:
    """Rotate the string n characters to the left."""
    k = n % len(s) if s else 0
    return s[k:] + s[:k]


def func_9(s: str) -> str:
    """Append the reversed string."""
    return s + s[::-1]


def func_10(s: str) -> str:
    """Lower the characters at even positions and raise those at odd ones."""
    return "".join(c.upper() if i % 2 else c.lower() for i, c in enumerate(s))


def func_11(s: str, shift: int) -> str:
    """Move each letter on in the alphabet, wrapping at z; keep its case and the rest."""
    out = ""
    for c in s:
        if "a" <= c <= "z":
            c = chr((ord(c) - ord("a") + shift) % 26 + ord("a"))
        elif "A" <= c <= "Z":
            c = chr((ord(c) - ord("A") + shift) % 26 + ord("A"))
        out += c
    return out


def func_12(s: str) -> str:
    """Replace the vowels a, e, i, o, u, of either case, with 1, 2, 3, 4, 5."""
    return "".join(str("aeiou".index(c.lower()) + 1) if c in "aeiouAEIOU" else c for c in s)


def func_13(s: str, separator: str) -> str:
    """Put a separator between neighbouring characters."""
    return separator.join(s)


def func_14(s: str) -> str:
    """Double every character."""
    return "".join(c + c for c in s)


def func_15(s: str) -> str:
    """Enclose every character in angle quotes."""
    return "".join("«" + c + "»" for c in s)


def func_16(s: str) -> str:
    """Keep one character of each run of equal neighbours."""
    return "".join(c for i, c in enumerate(s) if i == 0 or c != s[i - 1])


def func_17(s: str) -> str:
    """Reverse the string."""
    return s[::-1]


def func_18(s: str, n: int) -> str:
    """Join n copies of the string."""
    return "".join(s for _ in range(n))


def func_19(s: str, n: int) -> str:
    """Move the first character to the end, n times."""
    while n > 0:
        s = s[1:] + s[:1]
        n -= 1
    return s


def func_20(s: str, other: str) -> str:
    """Alternate the characters of two strings by recursion; the rest of the longer one follows."""
    if not s or not other:
        return s + other
    return s[0] + other[0] + func_20(s[1:], other[1:])


def func_21(s: str) -> str:
    """Keep the letters."""
    return "".join(c for c in s if c.isalpha())


def func_22(s: str) -> str:
    """Drop the last character if the length is odd."""
    return s[:-1] if len(s) % 2 else s


def func_23(s: str, depth: int) -> str:
    """Search, at most depth letters deep, for an extension of the string that contains a digit."""
    if depth < 1 or any(c.isdigit() for c in s):
        return s
    for c in "1x":
        found = func_23(s + c, depth - 1)
        if any(d.isdigit() for d in found):
            return found
    return s


def func_24(s: str, depth: int) -> str:
    """Append the reversed string until it reads the same both ways, at most depth times."""
    if depth < 1 or s == s[::-1]:
        return s
    return func_24(s + s[::-1], depth - 1)


FUNCTIONS: dict[int, Callable[..., str]] = {k: globals()[f"func_{k}"] for k in range(25)}

PARAMETERS: dict[int, tuple[type, ...]] = {
    **dict.fromkeys(FUNCTIONS, ()),
    **dict.fromkeys((1, 8, 11, 18, 19, 23, 24), (int,)),
    **dict.fromkeys((5, 6, 7, 13, 20), (str,)),
}
"""Types of each function's parameters after the text."""
