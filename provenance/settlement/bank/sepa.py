"""The geographical scope of the SEPA payment schemes, with the day from which each country's banks take part.

Source: the European Payments Council's list of countries and territories (EPC409-09, https://www.europeanpaymentscouncil.eu),
and its announcements of 6 March 2025 (Moldova, North Macedonia) and 21 November 2024 (Albania, Montenegro), whose banks were to
be ready on 5 October 2025, a Sunday; first payments went on the 6th and 7th. Of Serbia it said on 22 May 2025 "the earliest in
May 2026"; Serbian banks then announced 5 May 2026, for credit transfers (https://www.nbs.rs, questions on SEPA of 19 May 2026).
Add a country with the day of its banks' readiness, not of its accession.
"""

from __future__ import annotations

from datetime import date

# Countries of IBANs. Territories whose accounts have the IBAN of their country stand with it: the Aland Islands with FI; the
# Azores and Madeira with PT; the Canaries, Ceuta and Melilla with ES; Guadeloupe, French Guiana, Martinique, Mayotte, Reunion,
# Saint Barthelemy, Saint Martin, Saint Pierre and Miquelon with FR; Guernsey, Jersey and the Isle of Man with GB.
_SINCE = {
    date(
        2008, 1, 28
    ): "AT BE BG CH CY CZ DE DK EE ES FI FR GB GI GR HR HU IE IS IT LI LT LU LV MC MT NL NO PL PT RO SE SI SK SM",
    date(2019, 3, 1): "AD VA",
    date(2025, 10, 5): "AL MD ME MK",
    date(2026, 5, 5): "RS",
}
SCOPE = {country: since for since, countries in _SINCE.items() for country in countries.split()}
# Parts of France outside of the scope, though accounts there may have an IBAN of FR.
OUTSIDE = frozenset({"NC", "PF", "TF", "WF"})


def in_scope(country: str, on: date) -> bool:
    """Whether banks of a country, by the first two letters of an IBAN, take part on a day."""
    return country in SCOPE and SCOPE[country] <= on
