"""Personal data in texts: addresses, numbers of people or accounts."""

import ipaddress
import re
from collections.abc import Callable

# Domains that belong to nobody (RFC 2606) stand in examples.
_NOBODY = r"(?!(?:[\w-]+\.)*example\.(?:com|org|net|edu)\b|[\w.-]*\.(?:test|invalid|example)(?![.-]?\w))"
_EMAIL = re.compile(rf"(?<![\w.+-])[\w.+-]*\w@{_NOBODY}(?:[\w-]+\.)+[^\W\d_]{{2,}}\b")

# +49 30 1234567: no country's code begins with 0, +1 goes on with an area code.
_INTERNATIONAL = re.compile(r"(?<![\w)])\+(?=(?:[ ()./-]{0,2}\d){8,15}(?!\d))(?:1[ .-]?\(?[2-9]|[2-9]\d)")
_NORTH_AMERICAN = re.compile(r"(?<![\w.+-])(?:1[ .-])?(?:\([2-9]\d\d\) ?|[2-9]\d\d[.-])[2-9]\d\d[.-]\d{4}(?![\w-]|\.\d)")
_LABELLED = re.compile(
    r"(?:\b(?:tel|fax)\b\.?"
    r"|\b(?:telephone|telefon|téléphone|teléfono|phone|mobile|whatsapp)(?: (?:number|nr|no)\b\.?| is\b| ist\b|[:：]){1,3}) ?[:：]? ?"
    r"(?=\(?(?:[ ()./-]{0,2}\d){6,15}(?!\d))",
    re.IGNORECASE,
)
# 1-800, 0800 or +49 800: free to call, so of companies; in countries where no subscriber's number begins so.
_TOLL_FREE = re.compile(
    r"(?:\+?1[ .-]?)?\(?8(?:00|33|44|55|66|77|88)\)?[ .-]?\d{3}[ .-]?\d{4}(?!\d)"
    r"|\(?0 ?80[08]\b|\+(?:3[1-469]|4[1349])[ .-](?:\(0\) ?)?80[08]\b|\+800\b"
)
_OPERAND = re.compile(r"[\d)=]\s*$")  # "7 +4912345678" is a sum

_IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
_CARD = re.compile(
    r"(?<![\w.,+-])(?:(?:4\d|5[1-5]|2[2-7]|6[0245])\d\d([ -]?)\d{4}\1\d{4}\1\d{4}|3[47]\d\d([ -]?)\d{6}\2\d{5})(?![\w-]|[.,]\d)"
)
_IPV4 = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)", re.ASCII)
_RESOLVERS = frozenset(
    (
        *("208.67.222.222", "208.67.220.220"),  # OpenDNS
        *("149.112.112.112", "149.112.112.11"),  # Quad9
        *("94.140.14.14", "94.140.15.15"),  # AdGuard
        *("76.76.2.0", "76.76.10.0"),  # Control D
        *("64.6.64.6", "64.6.65.6"),  # Verisign
        *("185.228.168.9", "185.228.169.9"),  # CleanBrowsing
        *("77.88.8.8", "77.88.8.1"),  # Yandex
        *("223.5.5.5", "223.6.6.6", "119.29.29.29", "114.114.114.114", "114.114.115.115", "180.76.76.76"),  # of China
    )
)
"""Public name servers that guides tell to use; 8.8.8.8, 1.1.1.1, 9.9.9.9 and their like have four numbers below ten."""

_VERSION = re.compile(r"(?:version|release|build|section|chapter|v\.?)\s*$", re.IGNORECASE)


def holds_personal_data(text: str) -> bool:
    """Whether a text holds what may lead to a person.

    Found: e-mail addresses (not those of example.com and its like); telephone numbers in international form, in North American form, or
    any after a word such as "Tel." (none that is free to call); IBANs with a right checksum; card numbers of 15 or 16 digits with a right
    one (Luhn); public IPv4 addresses (not of well-known name servers, groups of receivers, documentation). Four numbers below ten
    (1.2.3.4), or four after "version", count as a version number. Not attempted: names, streets, numbers of identity papers, national
    telephone numbers that stand alone.
    """
    return any(is_one(match) for pattern, is_one in _KINDS for match in pattern.finditer(text))


def _before(match: re.Match[str]) -> str:
    """The few characters in front of what was found."""
    return match.string[max(match.start() - 12, 0) : match.start()]


def _is_iban(match: re.Match[str]) -> bool:
    """Checks remainder 1 modulo 97 (ISO 13616); capitals behind the number may have been matched with it."""
    groups = match[0].split(" ")
    return any(_remainder("".join(groups[:size])) == 1 for size in range(len(groups), 0, -1))


def _remainder(number: str) -> int:
    return int("".join(str(int(character, 36)) for character in number[4:] + number[:4])) % 97 if len(number) >= 15 else 0


def _passes_luhn(match: re.Match[str]) -> bool:
    digits = [int(character) for character in reversed(match[0]) if character.isdecimal()]
    return (sum(digits[::2]) + sum(sum(divmod(2 * digit, 10)) for digit in digits[1::2])) % 10 == 0


def _is_public_address(match: re.Match[str]) -> bool:
    parts = match[0].split(".")
    if all(len(part) == 1 for part in parts) or any(int(part) > 255 or (len(part) > 1 and part[0] == "0") for part in parts):
        return False
    if match[0] in _RESOLVERS or _VERSION.search(_before(match)):
        return False
    address = ipaddress.IPv4Address(match[0])
    return address.is_global and not address.is_multicast


_KINDS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str]], bool]], ...] = (
    (_EMAIL, lambda match: True),
    (_INTERNATIONAL, lambda match: not _OPERAND.search(_before(match)) and not _TOLL_FREE.match(match.string, match.start())),
    (_NORTH_AMERICAN, lambda match: not _TOLL_FREE.match(match[0])),
    (_LABELLED, lambda match: not _TOLL_FREE.match(match.string, match.end())),
    (_IBAN, _is_iban),
    (_CARD, _passes_luhn),
    (_IPV4, _is_public_address),
)
"""What is looked for, with the test that tells it from what only looks like it."""
