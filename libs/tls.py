"""Whom we talk to: servers prove it by a certificate, and what it means when one can't.

Names are checked as RFC 9525 says, against the certificate's alternative names alone.
"""

import ssl
from pathlib import Path

from libs.settings import SettingsError

EXPIRED = 10  # what OpenSSL calls X509_V_ERR_CERT_HAS_EXPIRED
OTHER_NAME = (62, 64)  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH


def trusting(ca: Path | None) -> ssl.SSLContext:
    """Servers are believed that have a certificate of one of the CAs in the file ``ca`` (PEM), or
    of the machine's own CAs without one. Raises SettingsError."""
    try:
        return ssl.create_default_context(cafile=ca)
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"{ca} can't be read as certificates of CAs ({error}): name the file that holds those"
            " of whoever signs the servers' certificates, in PEM."
        ) from error


def trust_anew(context: ssl.SSLContext, ca: Path) -> None:
    """Also believe what is in the file by now. A file that is being replaced is read next time."""
    try:
        context.load_verify_locations(ca)
    except (OSError, ValueError):
        return


def advice(error: BaseException) -> str | None:
    """What to do about a handshake that failed; None for anything else."""
    match error:
        case ssl.SSLCertVerificationError(verify_code=code):
            if code == EXPIRED:
                return (
                    "The server's certificate has expired: see whether a new one was made, and"
                    " whether the server has read it."
                )
            if code in OTHER_NAME:
                return (
                    "The server's certificate is for other names: say one of them in the address,"
                    " or have it made for this one."
                )
            return (
                "The server's certificate is of no CA that was named: give the file of the CA that"
                " signs it, and look who it is that answers at this address."
            )
        case ssl.SSLError():
            return (
                "The server did not answer in TLS: see whether it has a certificate, and (NATS)"
                " whether it begins with the handshake."
            )
    return None
