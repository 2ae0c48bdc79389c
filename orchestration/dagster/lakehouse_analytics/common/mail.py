"""Email addresses."""

from __future__ import annotations


def is_mail_address(text: str) -> bool:
    """Return whether a text is one address, with or without a display name (RFC 5322), that all mail servers accept.

    The address must be ASCII, because other addresses need a server with SMTPUTF8 (RFC 6531). The display name may have
    any characters.
    """
    from email.errors import HeaderParseError
    from email.headerregistry import AddressHeader
    from email.policy import default

    if not text.isprintable():
        return False
    try:
        header = default.header_factory("To", text)
    except (HeaderParseError, ValueError, IndexError):
        return False
    if not isinstance(header, AddressHeader) or getattr(header, "defects", None) or len(header.addresses) != 1:
        return False
    address = header.addresses[0]
    whole = bool(address.username and address.domain) and address.addr_spec.isascii()
    return whole and not header.groups[0].display_name
