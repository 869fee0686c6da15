"""Lists the methods of influence, with the kinds of features that each compares and how."""

from __future__ import annotations

from provenance.core.errors import ContractError, did_you_mean

FACTORED, WORDS = "factored", "words"

# For each method, the comparison of each kind of features: `curved` (corrected by curvature) or `tfidf`.
METHODS = {
    # The method of nights: gradients of all layers by factored projection, and words, which count only if they fit.
    "fitted": {FACTORED: "curved", WORDS: "tfidf"},
    "factored": {FACTORED: "curved"},
    "tfidf": {WORDS: "tfidf"},
}


def comparisons(method: str) -> dict[str, str]:
    """The comparison of each kind of features by a method.

    Raises:
        ContractError: there is no such method.
    """
    if method not in METHODS:
        raise ContractError(
            "method", expected=f"one of {', '.join(METHODS)}", found=repr(method), hint=did_you_mean(method, METHODS)
        )
    return METHODS[method]
