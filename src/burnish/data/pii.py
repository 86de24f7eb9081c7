"""Personal data in texts: its kinds, never the data itself.

Numbers count only if their check digits are valid (cards: Luhn; IBAN: ISO 7064 mod 97-10) or if
they are valid telephone numbers, so that an order number isn't mistaken for a person's.
"""

import re
from collections.abc import Callable

import phonenumbers
from stdnum import iban, luhn

#: One match start per run of characters, without backtracking: linear time for any text.
_MAIL = re.compile(r"(?<![\w.+-])[\w.+-]++@[\w-]++(?:\.[\w-]++)+")
#: Reserved domains (RFC 2606).
_EXAMPLE_DOMAIN = re.compile(r"(?:\.|@)(?:example(?:\.(?:com|net|org))?|invalid|test)$")
_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b")
_CARD = re.compile(r"(?<![\d-])(?:\d[ -]?){12,18}\d(?![\d-])")
_DIGITS = re.compile(r"\d(?:[ ()./-]?\d){6,}")


def _has_mail(text: str) -> bool:
    return "@" in text and any(not _EXAMPLE_DOMAIN.search(mail) for mail in _MAIL.findall(text))


def _has_iban(text: str) -> bool:
    return any(iban.is_valid(match) for match in _IBAN.findall(text))


def _has_card(text: str) -> bool:
    for match in _CARD.findall(text):
        digits = re.sub(r"\D", "", match)
        # Card numbers begin with 2 to 6; a row of zeros passes Luhn but isn't a card.
        if digits[0] in "23456" and len(set(digits)) > 1 and luhn.is_valid(digits):
            return True
    return False


def _has_phone(text: str) -> bool:
    if not _DIGITS.search(text):
        return False
    numbers = phonenumbers.PhoneNumberMatcher(
        text, "US", leniency=phonenumbers.Leniency.STRICT_GROUPING
    )
    return any(True for _ in numbers)


#: Kind → whether a text contains some.
PII_KINDS: dict[str, Callable[[str], bool]] = {
    "mail address": _has_mail,
    "card number": _has_card,
    "IBAN": _has_iban,
    "phone number": _has_phone,
}


def find_pii_kinds(text: str) -> list[str]:
    """Return the kinds of personal data in a text."""
    return [kind for kind, detect in PII_KINDS.items() if detect(text)]
